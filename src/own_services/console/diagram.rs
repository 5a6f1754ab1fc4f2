//! The picture of a lab: groups of services and the ways of data between them, from the left to the right, as SVG. Pure.

use std::collections::{BTreeMap, BTreeSet};

use maud::{Markup, html};

use crate::topology::{LabView, WayView};

const WIDTH: f64 = 160.0;
const HEIGHT: f64 = 46.0;
/// Between two columns, and between two rows.
const GAP: (f64, f64) = (76.0, 20.0);
/// How often the rows are put nearer to what they talk to.
const SWEEPS: usize = 6;

/// A group as it is now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Node {
    pub(super) name: String,
    /// Services, those that answer, and those of which it is not known.
    pub(super) services: usize,
    pub(super) up: usize,
    pub(super) unknown: usize,
}

impl Node {
    /// How it is, as a word and as a class of the style sheet.
    fn state(&self) -> (&'static str, String) {
        match (self.up, self.unknown) {
            (_, unknown) if unknown == self.services => ("unknown", "not probed".to_owned()),
            (up, unknown) if up + unknown == self.services => ("up", format!("{up} of {} up", self.services)),
            (up, _) => ("down", format!("{up} of {} up", self.services)),
        }
    }
}

/// The groups that data go to or come from. `up`: service → whether it answers.
pub(super) fn nodes(lab: &LabView, up: &BTreeMap<String, bool>) -> Vec<Node> {
    let on_a_way: BTreeSet<&str> =
        lab.ways.iter().flat_map(|way| [way.from.as_str(), way.to.as_str()]).collect();
    let mut nodes: Vec<Node> = Vec::new();
    for service in lab.services.iter().filter(|service| on_a_way.contains(service.group.as_str())) {
        let place = nodes.iter().position(|node| node.name == service.group).unwrap_or_else(|| {
            nodes.push(Node { name: service.group.clone(), services: 0, up: 0, unknown: 0 });
            nodes.len() - 1
        });
        nodes[place].services += 1;
        match up.get(&service.name) {
            Some(true) => nodes[place].up += 1,
            Some(false) => {}
            None => nodes[place].unknown += 1,
        }
    }
    nodes
}

/// Column of each node: to the right of whatever it hears of, but for ways that lead back.
fn columns(nodes: &[Node], ways: &[(usize, usize)]) -> Vec<usize> {
    let mut forward = Vec::new();
    let mut state = vec![0; nodes.len()];
    // From those that nobody talks to: so a circle is cut where it comes back to its begin.
    let heard: BTreeSet<usize> = ways.iter().map(|(_, to)| *to).collect();
    let mut begins: Vec<usize> = (0..nodes.len()).collect();
    begins.sort_by_key(|node| heard.contains(node));
    for begin in begins {
        visit(begin, ways, &mut state, &mut forward);
    }
    let mut columns = vec![0; nodes.len()];
    for _ in 0..nodes.len() {
        for (from, to) in &forward {
            columns[*to] = columns[*to].max(columns[*from] + 1);
        }
    }
    columns
}

/// Keeps each way that does not lead back to where the walk comes from. `state`: 0 not seen, 1 on the walk, 2 done.
fn visit(node: usize, ways: &[(usize, usize)], state: &mut [u8], forward: &mut Vec<(usize, usize)>) {
    if state[node] != 0 {
        return;
    }
    state[node] = 1;
    for (from, to) in ways.iter().filter(|(from, _)| *from == node) {
        if state[*to] != 1 {
            forward.push((*from, *to));
            visit(*to, ways, state, forward);
        }
    }
    state[node] = 2;
}

/// Where each node's left upper corner is, and the size of the whole.
#[allow(clippy::cast_precision_loss, reason = "few nodes")]
fn places(nodes: &[Node], ways: &[(usize, usize)]) -> (Vec<(f64, f64)>, (f64, f64)) {
    let columns = columns(nodes, ways);
    let count = columns.iter().max().map_or(0, |last| last + 1);
    let mut rows: Vec<Vec<usize>> = vec![Vec::new(); count];
    for (node, column) in columns.iter().enumerate() {
        rows[*column].push(node);
    }
    let tallest = rows.iter().map(Vec::len).max().unwrap_or_default();
    let mut y = vec![0.0; nodes.len()];
    let spread = |rows: &[Vec<usize>], y: &mut [f64]| {
        for column in rows {
            let above = (tallest - column.len()) as f64 / 2.0;
            for (row, node) in column.iter().enumerate() {
                y[*node] = above + row as f64;
            }
        }
    };
    spread(&rows, &mut y);
    for _ in 0..SWEEPS {
        for column in &mut rows {
            let near = |node: usize| {
                let others = ways.iter().filter_map(|(a, b)| match node {
                    _ if *a == node => Some(y[*b]),
                    _ if *b == node => Some(y[*a]),
                    _ => None,
                });
                let others: Vec<f64> = others.collect();
                others.iter().sum::<f64>() / others.len().max(1) as f64
            };
            column.sort_by(|a, b| near(*a).total_cmp(&near(*b)));
        }
        spread(&rows, &mut y);
    }
    let at = |node: usize| (columns[node] as f64 * (WIDTH + GAP.0), y[node] * (HEIGHT + GAP.1));
    let size = (count as f64 * (WIDTH + GAP.0) - GAP.0, tallest as f64 * (HEIGHT + GAP.1) - GAP.1);
    ((0..nodes.len()).map(at).collect(), size)
}

/// The picture. `rate`: records a second in some topics, as text; none where it is not known.
pub(super) fn picture(
    lab: &LabView,
    nodes: &[Node],
    rate: impl Fn(&BTreeSet<String>) -> Option<String>,
) -> Markup {
    let place = |name: &str| nodes.iter().position(|node| node.name == name);
    let known = lab.ways.iter().filter_map(|way| Some((way, (place(&way.from)?, place(&way.to)?))));
    let known: Vec<(&WayView, (usize, usize))> = known.collect();
    let ways: Vec<(usize, usize)> = known.iter().map(|(_, ends)| *ends).collect();
    let (places, (width, height)) = places(nodes, &ways);
    html! {
        div.scroll.diagram tabindex="0" role="region" aria-label="Where data go" {
            svg viewBox=(format!("-4 -4 {} {}", width + 8.0, height + 8.0)) width=(width + 8.0) height=(height + 8.0)
                role="group" aria-label="Services and the ways of data between them" {
                defs {
                    marker id="tip" viewBox="0 0 8 8" refX="8" refY="4" markerWidth="7" markerHeight="7" orient="auto" {
                        path d="M0,0 L8,4 L0,8 z" {}
                    }
                }
                @for (way, (from, to)) in &known {
                    path.way.quiet[way.metrics] d=(curve(places[*from], places[*to])) marker-end="url(#tip)" {
                        title { (way.from) " to " (way.to) ": " (way.flows.iter().cloned().collect::<Vec<_>>().join(", ")) }
                    }
                    @if let Some(rate) = rate(&way.topics).filter(|_| !way.metrics) {
                        @let (x, y) = middle(places[*from], places[*to]);
                        text.rate x=(x) y=(y) data-live="rates" data-of=(way.topics.iter().cloned().collect::<Vec<_>>().join(",")) { (rate) }
                    }
                }
                @for (node, (x, y)) in nodes.iter().zip(&places) {
                    @let (class, state) = node.state();
                    a href={ "/services/" (node.name) } {
                        rect class={ "node " (class) } x=(x) y=(y) width=(WIDTH) height=(HEIGHT) rx="4" {}
                        text x=(x + 10.0) y=(y + 19.0) { (node.name) @if node.services > 1 { " ×" (node.services) } }
                        text.state x=(x + 10.0) y=(y + 36.0) { (state) }
                    }
                }
            }
        }
    }
}

fn curve((x, y): (f64, f64), (to_x, to_y): (f64, f64)) -> String {
    let half = HEIGHT / 2.0;
    if to_x > x {
        let (x, y, to_y) = (x + WIDTH, y + half, to_y + half);
        let bend = (to_x - x) / 2.0;
        return format!("M{x},{y} C{},{y} {},{to_y} {to_x},{to_y}", x + bend, to_x - bend);
    }
    // Back, or within a column: out at the bottom, in at the bottom.
    let (x, y, to_x, to_y) = (x + WIDTH / 2.0, y + HEIGHT, to_x + WIDTH / 2.0, to_y + HEIGHT);
    let low = y.max(to_y) + GAP.1;
    format!("M{x},{y} C{x},{low} {to_x},{low} {to_x},{to_y}")
}

fn middle((x, y): (f64, f64), (to_x, to_y): (f64, f64)) -> (f64, f64) {
    if to_x > x {
        return ((x + WIDTH + to_x) / 2.0, f64::midpoint(y, to_y) + HEIGHT / 2.0 - 4.0);
    }
    (f64::midpoint(x, to_x) + WIDTH / 2.0, y.max(to_y) + HEIGHT + GAP.1 - 4.0)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn of(count: usize) -> Vec<Node> {
        (0..count).map(|n| Node { name: format!("n{n}"), services: 1, up: 1, unknown: 0 }).collect()
    }

    #[test]
    fn data_go_from_the_left_to_the_right_and_a_circle_is_cut_once() {
        // 0 writes to 1, 2 reads of 1 and writes to it, 3 hears of 2.
        let ways = [(1, 2), (2, 1), (0, 1), (2, 3)];
        assert_eq!(columns(&of(4), &ways), [0, 1, 2, 3]);
    }

    #[test]
    fn a_group_is_down_where_one_of_it_is() {
        let state = |up, unknown| Node { name: String::new(), services: 3, up, unknown }.state();
        assert_eq!(state(3, 0), ("up", "3 of 3 up".to_owned()));
        assert_eq!(state(2, 0), ("down", "2 of 3 up".to_owned()));
        assert_eq!(state(2, 1).0, "up");
        assert_eq!(state(0, 3), ("unknown", "not probed".to_owned()));
    }

    proptest! {
        #[test]
        fn no_two_nodes_are_at_one_place(count in 1_usize..12, ways in prop::collection::vec((0_usize..12, 0_usize..12), 0..40)) {
            let ways: Vec<_> = ways.into_iter().filter(|(a, b)| a != b && *a < count && *b < count).collect();
            let (places, (width, height)) = places(&of(count), &ways);
            for (number, (x, y)) in places.iter().enumerate() {
                prop_assert!(*x >= 0.0 && *y >= 0.0 && x + WIDTH <= width + 0.1 && y + HEIGHT <= height + 0.1);
                for (other_x, other_y) in &places[..number] {
                    prop_assert!((x - other_x).abs() >= WIDTH || (y - other_y).abs() >= HEIGHT);
                }
            }
        }
    }
}
