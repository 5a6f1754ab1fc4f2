//! Circles in what stands on what.

use std::collections::BTreeSet;

/// The first circle in a graph, as `a → b → a`.
pub(super) fn find_cycle<'a>(
    keys: impl Iterator<Item = &'a str>,
    next: impl Fn(&str) -> Vec<String>,
) -> Option<String> {
    let mut done = BTreeSet::new();
    for key in keys {
        let mut path = Vec::new();
        if let Some(cycle) = walk(key, &next, &mut path, &mut done) {
            return Some(cycle);
        }
    }
    None
}

fn walk(
    key: &str,
    next: &impl Fn(&str) -> Vec<String>,
    path: &mut Vec<String>,
    done: &mut BTreeSet<String>,
) -> Option<String> {
    if let Some(start) = path.iter().position(|p| p == key) {
        let mut circle: Vec<_> = path[start..].to_vec();
        circle.push(key.to_owned());
        return Some(circle.join(" → "));
    }
    if done.contains(key) {
        return None;
    }
    path.push(key.to_owned());
    for other in next(key) {
        if let Some(cycle) = walk(&other, next, path, done) {
            return Some(cycle);
        }
    }
    path.pop();
    done.insert(key.to_owned());
    None
}
