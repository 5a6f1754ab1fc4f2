//! What a page draws of a panel's answers: lines, tiles, stretches, tables, documents, with every number as people read it. The
//! page only places it.

mod table;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use serde::Serialize;
use serde_json::Value;

use self::table::table;
use crate::clients::prometheus::{Sample, Series};
use crate::dashboards::{Field, Found, Lines, Look, Panel, Query, Scale, Unit, named};
use crate::own_services::console::window::Window;

/// Rows of a table, and series of a chart, that are drawn.
const MOST: usize = 200;

/// What a question was answered.
#[derive(Debug)]
pub(super) enum Answer {
    Samples(Vec<Sample>),
    Series(Vec<Series>),
    Search(Value),
}

/// What a page draws.
#[derive(Debug, Serialize)]
#[serde(tag = "kind", rename_all = "camelCase", rename_all_fields = "camelCase")]
pub(in crate::own_services::console) enum Drawn {
    Lines {
        times: Vec<i64>,
        series: Vec<Line>,
        scale: Scale,
        min: Option<f64>,
        max: Option<f64>,
        fill: u32,
        steps: bool,
        bars: bool,
        stacked: bool,
        /// What the first number of the legend is.
        last: &'static str,
        /// Numbers that are marked, and their colours.
        limits: Vec<(f64, String)>,
    },
    Stat {
        tiles: Vec<Tile>,
    },
    States {
        rows: Vec<StateRow>,
        named: bool,
    },
    Table {
        columns: Vec<Column>,
        rows: Vec<Vec<String>>,
    },
    Documents {
        lines: Vec<Document>,
        /// How many there are, where these are not all.
        found: Option<String>,
    },
    /// The values of fields, and how many documents have them.
    Values {
        fields: Vec<Values>,
    },
    /// Why there is nothing to draw.
    Problem {
        why: String,
    },
    /// Nobody has said anything.
    Nothing,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(in crate::own_services::console) struct Line {
    name: String,
    values: Vec<Option<f64>>,
    /// The last and the largest as people read them, and the last as it is, to sort by.
    last: String,
    max: String,
    sorts: f64,
    dashed: bool,
    /// Its name in the style sheet.
    colour: String,
}

/// Colours of series, which have numbers in the style sheet.
const COLOURS: usize = 10;

impl Line {
    /// Documents by time.
    pub(in crate::own_services::console) fn counted(
        name: String,
        points: &[(i64, f64)],
        window: Window,
        colour: &str,
    ) -> Self {
        let all: f64 = points.iter().map(|(_, count)| count).sum();
        let values = placed(points, window);
        let max = values.iter().flatten().copied().reduce(f64::max).unwrap_or_default();
        let colour = colour.to_owned();
        Self {
            name,
            values,
            last: format!("{all:.0}"),
            max: format!("{max:.0}"),
            sorts: all,
            dashed: false,
            colour,
        }
    }
}

/// Documents by time as bars, one upon the other.
pub(in crate::own_services::console) fn bars(series: Vec<Line>, window: Window) -> Drawn {
    Drawn::Lines {
        times: window.times().collect(),
        series,
        scale: Unit::None.scale(0.0),
        min: Some(0.0),
        max: None,
        fill: 100,
        steps: false,
        bars: true,
        stacked: true,
        last: "In all",
        limits: Vec::new(),
    }
}

#[derive(Debug, Serialize)]
pub(in crate::own_services::console) struct Tile {
    /// Where it is shown.
    name: Option<String>,
    text: String,
    /// The number as Prometheus gives it.
    exact: String,
    colour: String,
    /// The number over time, where that is drawn too.
    spark: Vec<Option<f64>>,
}

#[derive(Debug, Serialize)]
pub(in crate::own_services::console) struct StateRow {
    name: String,
    stretches: Vec<Stretch>,
}

/// A number for a time, of which the end is not part.
#[derive(Debug, PartialEq, Serialize)]
pub(in crate::own_services::console) struct Stretch {
    start: i64,
    end: i64,
    text: String,
    colour: String,
}

#[derive(Debug, PartialEq, Serialize)]
pub(in crate::own_services::console) struct Column {
    name: String,
    number: bool,
}

/// A log record.
#[derive(Debug, Default, Serialize)]
pub(in crate::own_services::console) struct Document {
    pub(in crate::own_services::console) at: String,
    pub(in crate::own_services::console) level: String,
    /// Who has said it.
    pub(in crate::own_services::console) from: String,
    pub(in crate::own_services::console) message: String,
    /// Its page; empty where it has none.
    pub(in crate::own_services::console) address: String,
}

/// The values of a field, the most frequent first, each with the number of documents that have it.
#[derive(Debug, Serialize)]
pub(in crate::own_services::console) struct Values {
    pub(in crate::own_services::console) field: String,
    pub(in crate::own_services::console) counted: Vec<(String, String)>,
}

/// One series, whatever it was asked of.
struct Named {
    name: String,
    points: Vec<(i64, f64)>,
}

/// A panel's answers as what its page draws, and how many of its series or rows are left out. `answers`: of its queries and then of its
/// searches.
pub(super) fn drawn(panel: &Panel, answers: &[Arc<Answer>], window: Window) -> (Drawn, usize) {
    let (drawn, all) = match &panel.look {
        Look::Lines(look) => {
            let (series, all) = series(panel, answers, window);
            (lines(&panel.field, look, series, window), all)
        }
        Look::Stat { named, spark } => {
            let (series, all) = series(panel, answers, window);
            (stat(&panel.field, *named, *spark, series, window), all)
        }
        Look::States { named } => {
            let (series, all) = series(panel, answers, window);
            let rows = series.into_iter().map(|of| states(&panel.field, of, window)).collect();
            (Drawn::States { rows, named: *named }, all)
        }
        Look::Table(look) => {
            let (columns, rows, all) = table(panel, look, answers);
            (Drawn::Table { columns, rows }, all)
        }
        Look::Documents => {
            let lines = documents(panel, answers);
            let all = lines.len();
            return (if all == 0 { Drawn::Nothing } else { Drawn::Documents { lines, found: None } }, 0);
        }
    };
    (if all == 0 { Drawn::Nothing } else { drawn }, all.saturating_sub(MOST))
}

/// The series that are drawn, and how many there are.
fn series(panel: &Panel, answers: &[Arc<Answer>], window: Window) -> (Vec<Named>, usize) {
    let mut all = Vec::new();
    for (place, answer) in answers.iter().enumerate() {
        let query = panel.queries.get(place);
        match &**answer {
            Answer::Samples(samples) => {
                let names = names(query, samples.iter().map(|sample| &sample.labels));
                let points = samples.iter().map(|sample| vec![(window.end, sample.value)]);
                all.extend(names.into_iter().zip(points).map(|(name, points)| Named { name, points }));
            }
            Answer::Series(series) => {
                let names = names(query, series.iter().map(|one| &one.labels));
                let points = series.iter().map(|one| one.points.clone());
                all.extend(names.into_iter().zip(points).map(|(name, points)| Named { name, points }));
            }
            Answer::Search(answer) => {
                let search =
                    place.checked_sub(panel.queries.len()).and_then(|place| panel.searches.get(place));
                if let Some(Found::Series(series)) = search.map(|search| search.found(answer)) {
                    all.extend(series.into_iter().map(|(name, points)| {
                        let points = points.into_iter().map(|(ms, number)| (ms / 1000, number)).collect();
                        Named { name, points }
                    }));
                }
            }
        }
    }
    let count = all.len();
    all.truncate(MOST);
    (all, count)
}

/// What series are called: by the query's legend or, without one, by the label in which they differ.
fn names<'a>(
    query: Option<&Query>,
    labels: impl Iterator<Item = &'a BTreeMap<String, String>> + Clone,
) -> Vec<String> {
    if let Some(legend) = query.and_then(|query| query.legend.as_ref()) {
        return labels.map(|labels| named(legend, labels)).collect();
    }
    let keys: BTreeSet<&String> = labels.clone().flat_map(BTreeMap::keys).collect();
    let differ = |key: &&String| labels.clone().map(|l| l.get(*key)).collect::<BTreeSet<_>>().len() > 1;
    let differing: Vec<&String> = keys.into_iter().filter(differ).collect();
    let name = |of: &BTreeMap<String, String>| match differing.as_slice() {
        [one] => of.get(*one).cloned().unwrap_or_default(),
        _ => {
            let shown = of.iter().filter(|(key, _)| *key != "__name__");
            shown.map(|(key, value)| format!("{key}={value}")).collect::<Vec<_>>().join(" ")
        }
    };
    labels.map(name).collect()
}

/// The values at a window's moments.
fn placed(points: &[(i64, f64)], window: Window) -> Vec<Option<f64>> {
    let mut values: Vec<Option<f64>> = window.times().map(|_| None).collect();
    for (at, value) in points {
        if let Some(place) = window.place(*at) {
            values[place] = value.is_finite().then_some(*value);
        }
    }
    values
}

fn lines(field: &Field, look: &Lines, series: Vec<Named>, window: Window) -> Drawn {
    let text = |number: Option<f64>| number.map_or("–".to_owned(), |number| field.shown(number).0);
    let mut largest: f64 = 0.0;
    let series: Vec<Line> = series
        .into_iter()
        .enumerate()
        .map(|(number, Named { name, points })| {
            let values = placed(&points, window);
            let max = values.iter().flatten().copied().reduce(f64::max);
            let last = values.iter().rev().flatten().next().copied();
            largest = largest.max(max.unwrap_or_default().abs());
            let dashed = look.dashed.iter().any(|end| name.ends_with(end));
            let sorts = last.unwrap_or(f64::MIN);
            Line {
                name,
                values,
                last: text(last),
                max: text(max),
                sorts,
                dashed,
                colour: format!("s{}", number % COLOURS),
            }
        })
        .collect();
    if look.stacked {
        let at = |place: usize| series.iter().filter_map(|line| line.values[place]).sum();
        largest = (0..window.times().count()).map(at).fold(largest, f64::max);
    }
    let limits = field.thresholds.iter().filter(|(from, _)| look.limits && from.is_finite());
    Drawn::Lines {
        times: window.times().collect(),
        series,
        scale: field.unit.scale(largest.max(field.max.unwrap_or_default())),
        min: field.min,
        max: field.max,
        fill: look.fill,
        steps: look.steps,
        bars: look.bars,
        stacked: look.stacked,
        last: "Last",
        limits: limits.cloned().collect(),
    }
}

fn stat(field: &Field, with_names: bool, spark: bool, series: Vec<Named>, window: Window) -> Drawn {
    let with_names = with_names || series.len() > 1;
    let tile = |Named { name, points }: Named| {
        let last = points.iter().rev().map(|(_, value)| *value).find(|value| !value.is_nan());
        let (text, colour) = last.map_or(("no number".to_owned(), None), |number| field.shown(number));
        Tile {
            name: with_names.then_some(name),
            text,
            exact: last.map_or_else(String::new, |number| number.to_string()),
            colour: colour.unwrap_or("blue").to_owned(),
            spark: if spark { placed(&points, window) } else { Vec::new() },
        }
    };
    Drawn::Stat { tiles: series.into_iter().map(tile).collect() }
}

fn states(field: &Field, of: Named, window: Window) -> StateRow {
    let mut stretches: Vec<Stretch> = Vec::new();
    for (at, number) in of.points {
        let (text, colour) = field.shown(number);
        let end = at + window.step;
        match stretches.last_mut() {
            Some(last) if last.end == at && last.text == text => last.end = end,
            _ => {
                stretches.push(Stretch { start: at, end, text, colour: colour.unwrap_or("blue").to_owned() })
            }
        }
    }
    StateRow { name: of.name, stretches }
}

fn documents(panel: &Panel, answers: &[Arc<Answer>]) -> Vec<Document> {
    let text = |document: &Value, field: &str| document[field].as_str().unwrap_or_default().to_owned();
    let mut lines = Vec::new();
    for (search, answer) in panel.searches.iter().zip(answers.iter().skip(panel.queries.len())) {
        let Answer::Search(answer) = &**answer else { continue };
        if let Found::Documents(documents) = search.found(answer) {
            lines.extend(documents.iter().map(|document| Document {
                at: text(document, "@timestamp"),
                level: text(document, "level"),
                message: text(document, "message"),
                ..Document::default()
            }));
        }
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dashboards::parse;

    const WINDOW: Window = Window { start: 100, end: 115, step: 5, until: 117 };

    fn panel(parts: &str) -> Panel {
        let place = r#""id":1,"gridPos":{"h":4,"w":4,"x":0,"y":0}"#;
        let text = format!(r#"{{"uid":"a","title":"A","panels":[{{{place},"title":"P",{parts}}}]}}"#);
        parse(&text, &BTreeMap::new()).unwrap().rows.remove(0).panels.remove(0)
    }

    fn labels(of: &[(&str, &str)]) -> BTreeMap<String, String> {
        of.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect()
    }

    fn over(of: &[(&str, &str)], points: &[(i64, f64)]) -> Series {
        Series { labels: labels(of), points: points.to_vec() }
    }

    fn json(drawn: &Drawn) -> Value {
        serde_json::to_value(drawn).unwrap()
    }

    #[test]
    fn lines_have_a_value_or_a_gap_at_every_moment() {
        let panel = panel(
            r#""type":"timeseries","targets":[{"expr":"a","range":true,"legendFormat":"{{topic}} produced"}],
            "fieldConfig":{"defaults":{"unit":"bytes","thresholds":{"steps":[{"color":"green","value":null},{"color":"red","value":500}]},
            "custom":{"thresholdsStyle":{"mode":"dashed"}}},"overrides":[{"matcher":{"id":"byRegexp","options":"/ produced$/"},
            "properties":[{"id":"custom.lineStyle","value":{"dash":[10,10],"fill":"dash"}}]}]}"#,
        );
        let series = over(&[("topic", "t")], &[(100, 1.0), (105, f64::NAN), (115, 2048.0), (117, 9.0)]);
        let drawn = json(&drawn(&panel, &[Arc::new(Answer::Series(vec![series]))], WINDOW).0);
        assert_eq!(drawn["times"], serde_json::json!([100, 105, 110, 115]));
        let line = &drawn["series"][0];
        assert_eq!(line["values"], serde_json::json!([1.0, null, null, 2048.0]));
        assert_eq!(
            (&line["name"], &line["last"], &line["dashed"]),
            (&"t produced".into(), &"2 KiB".into(), &true.into())
        );
        assert_eq!(drawn["scale"], serde_json::json!({ "divisor": 1024.0, "behind": " KiB" }));
        assert_eq!(drawn["limits"], serde_json::json!([[500.0, "red"]]));
    }

    #[test]
    fn a_tile_has_the_exact_number_and_the_word_and_colour_for_it() {
        let panel = panel(
            r#""type":"stat","targets":[{"expr":"a","instant":true}],"fieldConfig":{"defaults":{"color":{"mode":"thresholds"},
            "thresholds":{"steps":[{"color":"green","value":null},{"color":"red","value":100}]},
            "mappings":[{"type":"value","options":{"0":{"text":"DOWN","color":"red","index":0}}}]}}"#,
        );
        let of = |value: f64| {
            let sample = Sample { labels: BTreeMap::new(), value };
            json(&drawn(&panel, &[Arc::new(Answer::Samples(vec![sample]))], WINDOW).0)["tiles"][0].clone()
        };
        assert_eq!((&of(0.0)["text"], &of(0.0)["colour"]), (&"DOWN".into(), &"red".into()));
        assert_eq!(
            (&of(99.5)["text"], &of(99.5)["colour"], &of(99.5)["name"]),
            (&"99.5".into(), &"green".into(), &Value::Null)
        );
        assert_eq!((&of(1234.25)["text"], &of(1234.25)["exact"]), (&"1234".into(), &"1234.25".into()));
        assert_eq!(of(1234.25)["colour"], "red");
        assert_eq!(
            json(&drawn(&panel, &[Arc::new(Answer::Samples(Vec::new()))], WINDOW).0)["kind"],
            "nothing"
        );
    }

    #[test]
    fn a_state_lasts_until_it_changes_or_is_not_known() {
        let panel = panel(r#""type":"state-timeline","targets":[{"expr":"a","range":true}]"#);
        let series = over(&[], &[(100, 1.0), (105, 1.0), (110, 2.0), (120, 2.0)]);
        let drawn = json(&drawn(&panel, &[Arc::new(Answer::Series(vec![series]))], WINDOW).0);
        let stretches = drawn["rows"][0]["stretches"].as_array().unwrap();
        let times: Vec<_> = stretches.iter().map(|s| (s["start"].as_i64(), s["end"].as_i64())).collect();
        assert_eq!(times, [(Some(100), Some(110)), (Some(110), Some(115)), (Some(120), Some(125))]);
    }

    #[test]
    fn a_table_has_the_columns_and_the_order_that_its_file_says() {
        let panel = panel(
            r#""type":"table","targets":[{"expr":"a","instant":true,"format":"table"}],"options":{"sortBy":[{"desc":true,"displayName":"Lag"}]},
            "transformations":[{"id":"organize","options":{"excludeByName":{"Time":true,"job":true},"indexByName":{"topic":0,"Value":1},
            "renameByName":{"Value":"Lag"}}}]"#,
        );
        let sample = |topic: &str, value: f64| Sample {
            labels: labels(&[("job", "j"), ("topic", topic), ("zone", "z")]),
            value,
        };
        let answer = Answer::Samples(vec![sample("a", 3.0), sample("b", 1_234_567.0)]);
        let drawn = json(&drawn(&panel, &[Arc::new(answer)], WINDOW).0);
        let names: Vec<_> =
            drawn["columns"].as_array().unwrap().iter().map(|c| c["name"].as_str().unwrap()).collect();
        assert_eq!(names, ["topic", "Lag", "zone"]);
        assert_eq!(drawn["rows"], serde_json::json!([["b", "1234567", "z"], ["a", "3", "z"]]));
    }

    #[test]
    fn what_there_is_no_room_for_is_counted() {
        let series = |n: usize| over(&[("n", &n.to_string())], &[(0, 1.0)]);
        let graph = panel(r#""type":"timeseries","targets":[{"expr":"a","range":true}]"#);
        for (there, room, left) in [(200, 200, 0), (203, 200, 3), (0, 0, 0)] {
            let answer = Arc::new(Answer::Series((0..there).map(series).collect()));
            let (drawn, left_out) = drawn(&graph, &[answer], WINDOW);
            let shown = json(&drawn)["series"].as_array().map_or(0, Vec::len);
            assert_eq!((shown, left_out), (room, left));
        }
    }

    #[test]
    fn series_without_a_legend_are_called_by_what_differs() {
        let all = [labels(&[("a", "1"), ("b", "x")]), labels(&[("a", "2"), ("b", "x")])];
        assert_eq!(names(None, all.iter()), ["1", "2"]);
        assert_eq!(names(None, all[..1].iter()), ["a=1 b=x"]);
    }
}
