//! Exact comparison by key: what is missing, unknown or there twice is named, and an empty expectation is an error.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Display;

use anyhow::{Result, bail};

/// Every expected key exactly once, and nothing else.
pub(crate) fn exactly_once<K: Ord + Display>(
    what: &str,
    expected: impl IntoIterator<Item = K>,
    found: impl IntoIterator<Item = K>,
) -> Result<()> {
    let duplicates = at_least_once(what, expected, found)?;
    if duplicates.is_empty() {
        return Ok(());
    }
    bail!(
        "{what}: {} there more than once: {}",
        duplicates.len(),
        some(duplicates.iter().map(|(k, n)| format!("{k} ×{n}")))
    )
}

/// Every expected key, nothing unknown; gives the keys that are there more than once, with how often.
pub(crate) fn at_least_once<K: Ord + Display>(
    what: &str,
    expected: impl IntoIterator<Item = K>,
    found: impl IntoIterator<Item = K>,
) -> Result<BTreeMap<K, usize>> {
    let expected: BTreeSet<K> = expected.into_iter().collect();
    if expected.is_empty() {
        bail!("{what}: nothing is expected, so nothing would be proven");
    }
    let mut counts: BTreeMap<K, usize> = BTreeMap::new();
    for key in found {
        *counts.entry(key).or_default() += 1;
    }
    let missing: Vec<&K> = expected.iter().filter(|k| !counts.contains_key(k)).collect();
    let unknown: Vec<&K> = counts.keys().filter(|k| !expected.contains(k)).collect();
    if !missing.is_empty() || !unknown.is_empty() {
        bail!(
            "{what}: of {} expected, {} missing ({}), {} unknown ({})",
            expected.len(),
            missing.len(),
            some(missing.iter()),
            unknown.len(),
            some(unknown.iter())
        );
    }
    counts.retain(|_, n| *n > 1);
    Ok(counts)
}

fn some(keys: impl Iterator<Item = impl Display>) -> String {
    let mut keys: Vec<String> = keys.map(|k| k.to_string()).collect();
    let all = keys.len();
    keys.truncate(5);
    if all > 5 {
        keys.push("…".to_owned());
    }
    keys.join(", ")
}
