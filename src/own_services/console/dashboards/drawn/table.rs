//! A panel's answers as a table: which columns, in which order, sorted by what.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::{Answer, Column, MOST};
use crate::dashboards::{Columns, Field, Found, Panel, Unit};

/// Columns, the rows that are drawn, sorted, and how many there are. A label that a series has not is empty.
pub(super) fn table(
    panel: &Panel,
    look: &Columns,
    answers: &[Arc<Answer>],
) -> (Vec<Column>, Vec<Vec<String>>, usize) {
    let mut rows: Vec<(BTreeMap<String, String>, f64)> = Vec::new();
    let mut number = "Value";
    for (place, answer) in answers.iter().enumerate() {
        match &**answer {
            Answer::Samples(samples) => rows.extend(samples.iter().map(|s| (s.labels.clone(), s.value))),
            Answer::Series(_) => {}
            Answer::Search(answer) => {
                let search =
                    place.checked_sub(panel.queries.len()).and_then(|place| panel.searches.get(place));
                if let Some(Found::Table(fields, found)) = search.map(|search| search.found(answer)) {
                    number = "Count";
                    let of = |(texts, number)| {
                        (fields.iter().cloned().zip::<Vec<String>>(texts).collect(), number)
                    };
                    rows.extend(found.into_iter().map(of));
                }
            }
        }
    }
    let known: BTreeSet<String> = rows.iter().flat_map(|(labels, _)| labels.keys().cloned()).collect();
    let is_shown = |label: &&str| *label != "__name__" && !look.excluded.iter().any(|out| out == label);
    let mut labels: Vec<&str> = known.iter().map(String::as_str).chain([number]).filter(is_shown).collect();
    let place = |label: &str| look.order.iter().position(|placed| placed == label).unwrap_or(usize::MAX);
    // A stable sort: what has no place stays as it is, the number last.
    labels.sort_by_key(|label| place(label));
    let called = |label: &str| look.names.get(label).cloned().unwrap_or_else(|| label.to_owned());
    let columns: Vec<Column> =
        labels.iter().map(|label| Column { name: called(label), number: *label == number }).collect();
    let sorted = look.sorted.as_ref().and_then(|(name, most_first)| {
        Some((*labels.get(columns.iter().position(|column| column.name == *name)?)?, *most_first))
    });
    let (by, most_first) = sorted.unwrap_or((number, true));
    let key = |labels: &BTreeMap<String, String>| labels.get(by).cloned().unwrap_or_default();
    rows.sort_by(|(a, x), (b, y)| {
        let order = if by == number { x.total_cmp(y) } else { key(a).cmp(&key(b)) };
        if most_first { order.reverse() } else { order }
    });
    let cell = |row: &(BTreeMap<String, String>, f64), label: &str| {
        if label == number {
            exact(&panel.field, row.1)
        } else {
            row.0.get(label).cloned().unwrap_or_default()
        }
    };
    let drawn = rows.iter().take(MOST).map(|row| labels.iter().map(|label| cell(row, label)).collect());
    (columns, drawn.collect(), rows.len())
}

/// A whole number in a table is written out: there is room for it.
fn exact(field: &Field, number: f64) -> String {
    let plain =
        matches!(field.unit, Unit::None | Unit::Short) && number.fract() == 0.0 && number.abs() < 1e15;
    if plain { format!("{number:.0}") } else { field.shown(number).0 }
}
