//! Log records in Elasticsearch: what a query finds in a time, how many of each level came when, and which values they have.

use std::time::Duration;

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};
use tokio::sync::Semaphore;
use tokio::time::timeout;

use super::dashboards::LARGEST;
use super::dashboards::drawn::{Document, Drawn, Line, Values, bars};
use super::window::Window;
use crate::clients::elasticsearch::{self, Elasticsearch};
use crate::clients::schema_registry::percent;
use crate::topology::{LabView, SEARCH};

/// Where can be looked: patterns of indices, and what is in them. The first is taken where nothing is chosen.
pub(super) const PLACES: [(&str, &str); 4] = [
    ("kafka-logs-logstash-*,dev-logs-*,prod-logs-*", "Kafka and applications"),
    ("kafka-logs-logstash-*", "Kafka"),
    ("dev-logs-*,prod-logs-*", "applications"),
    ("kafka-logs-filebeat-*", "Kafka, as Filebeat sends it"),
];
const TIME: &str = "@timestamp";
/// Searches that run at once, and how long one waits for its turn.
const SEARCHES: usize = 4;
const PATIENCE: Duration = Duration::from_secs(5);
/// How long Elasticsearch looks.
const LOOKS: &str = "4s";
/// Letters of a query, and brackets in it: one that is deep ends Elasticsearch itself.
const LONGEST: usize = 2000;
const BRACKETS: usize = 100;
/// Letters of a message that a line shows; a record's own page has all.
const MESSAGE: usize = 2000;
/// Records on a page; fewer where they are so large that an answer would have more than [`LARGEST`] bytes.
const RECORDS: usize = 100;
/// Fields whose values are counted, where records have them.
const FIELDS: [&str; 7] = ["level", "service", "node", "class", "exception", "status", "tags"];
/// Values of each.
const MOST: usize = 6;
/// Levels with a colour of their own.
const COLOURS: [(&str, &str); 4] = [("ERROR", "red"), ("FATAL", "s3"), ("WARN", "orange"), ("INFO", "blue")];

/// The log records of a lab.
pub(super) struct Logs {
    elasticsearch: Elasticsearch,
    searching: Semaphore,
}

/// Others search, and have not ended in time.
#[derive(Debug, thiserror::Error)]
#[error("{SEARCHES} searches run already: try again in a moment")]
pub(super) struct Busy;

/// What somebody wants to see.
#[derive(Debug, Clone)]
pub(super) struct Wanted {
    /// One of [`PLACES`].
    pub(super) indices: &'static str,
    /// In Lucene's query language; all where empty.
    pub(super) query: String,
    pub(super) window: Window,
}

impl Logs {
    /// None in a lab without Elasticsearch.
    pub(super) fn of(lab: &LabView) -> Option<Self> {
        let address = lab.roles.get(SEARCH)?;
        let elasticsearch = Elasticsearch::new(format!("http://{address}"));
        Some(Self { elasticsearch, searching: Semaphore::new(SEARCHES) })
    }

    /// What is found: bars over time, the newest records, the values of fields.
    ///
    /// # Errors
    /// Elasticsearch does not answer, or refuses the query.
    pub(super) async fn find(&self, wanted: &Wanted) -> Result<[Drawn; 3]> {
        let _place = timeout(PATIENCE, self.searching.acquire()).await.context(Busy)??;
        let answer = self.elasticsearch.search_within(wanted.indices, &question(wanted), LARGEST).await?;
        Ok([over_time(&answer, wanted.window), records(&answer), values(&answer)])
    }

    /// One record, whole; none where it is not there.
    ///
    /// # Errors
    /// Elasticsearch does not answer.
    pub(super) async fn one(&self, index: &str, id: &str) -> Result<Option<elasticsearch::Document>> {
        self.elasticsearch.one(index, id).await
    }
}

fn question(wanted: &Wanted) -> Value {
    let Window { start, until, step, .. } = wanted.window;
    let range = json!({ "range": { TIME: { "gte": start * 1000, "lt": (until + 1) * 1000, "format": "epoch_millis" } } });
    let mut filter = vec![range];
    if !wanted.query.trim().is_empty() {
        filter.push(json!({ "query_string": { "query": wanted.query, "analyze_wildcard": true } }));
    }
    let times = json!({ "date_histogram": { "field": TIME, "fixed_interval": format!("{step}s"), "min_doc_count": 1 } });
    let mut aggregations = json!({
        "over_time": { "terms": { "field": "level", "size": 8, "missing": "none" }, "aggs": { "times": times } },
    });
    for field in FIELDS {
        aggregations[field] = json!({ "terms": { "field": field, "size": MOST } });
    }
    json!({
        "size": RECORDS, "query": { "bool": { "filter": filter } }, "aggs": aggregations, "track_total_hits": true,
        "timeout": LOOKS, "_source": [TIME, "level", "service", "node", "message"],
        // Equal times keep their order from one look to the next.
        "sort": [{ TIME: "desc" }, { "_doc": "desc" }],
    })
}

fn buckets(of: &Value) -> impl Iterator<Item = (String, &Value)> {
    of["buckets"].as_array().into_iter().flatten().map(|bucket| {
        let key = bucket["key"].as_str().map_or_else(|| bucket["key"].to_string(), str::to_owned);
        (key, bucket)
    })
}

fn over_time(answer: &Value, window: Window) -> Drawn {
    let levels = buckets(&answer["aggregations"]["over_time"]).map(|(level, bucket)| {
        let times = bucket["times"]["buckets"].as_array().into_iter().flatten();
        let points =
            times.filter_map(|time| Some((time["key"].as_i64()? / 1000, time["doc_count"].as_f64()?)));
        let colour = COLOURS.iter().find(|(known, _)| *known == level).map_or("s7", |(_, colour)| colour);
        Line::counted(level, &points.collect::<Vec<_>>(), window, colour)
    });
    bars(levels.collect(), window)
}

fn records(answer: &Value) -> Drawn {
    let text = |of: &Value, field: &str| of[field].as_str().unwrap_or_default().to_owned();
    let hits = answer["hits"]["hits"].as_array().into_iter().flatten();
    let lines = hits.map(|hit| {
        let source = &hit["_source"];
        let from = ["service", "node"].iter().find_map(|field| source[field].as_str());
        Document {
            at: text(source, TIME),
            level: text(source, "level"),
            from: from.unwrap_or_default().to_owned(),
            message: cut(&text(source, "message")),
            address: format!("/logs/{}/{}", percent(&text(hit, "_index")), percent(&text(hit, "_id"))),
        }
    });
    let lines: Vec<_> = lines.collect();
    let found = answer["hits"]["total"]["value"].as_u64().unwrap_or_default();
    if lines.is_empty() { Drawn::Nothing } else { Drawn::Documents { lines, found: Some(found.to_string()) } }
}

fn cut(message: &str) -> String {
    match message.char_indices().nth(MESSAGE) {
        Some((end, _)) => format!("{}…", &message[..end]),
        None => message.to_owned(),
    }
}

fn values(answer: &Value) -> Drawn {
    let fields = FIELDS.iter().map(|field| {
        let counted = buckets(&answer["aggregations"][field]);
        let counted =
            counted.filter_map(|(value, bucket)| Some((value, bucket["doc_count"].as_u64()?.to_string())));
        Values { field: (*field).to_owned(), counted: counted.collect() }
    });
    Drawn::Values { fields: fields.filter(|field| !field.counted.is_empty()).collect() }
}

/// A query that Elasticsearch can be asked.
///
/// # Errors
/// It is too long or too deep.
pub(super) fn query(text: &str) -> Result<String> {
    let brackets = text.matches(['(', '[', '{']).count();
    if text.chars().count() > LONGEST || brackets > BRACKETS {
        bail!("the query is too long: {LONGEST} letters and {BRACKETS} brackets are possible");
    }
    Ok(text.to_owned())
}

/// A place by its pattern.
///
/// # Errors
/// It is none of those that can be looked at.
pub(super) fn place(pattern: &str) -> Result<&'static str> {
    if pattern.is_empty() {
        return Ok(PLACES[0].0);
    }
    let known = PLACES.iter().find(|(known, _)| *known == pattern).map(|(known, _)| *known);
    known.with_context(|| format!("{pattern:?} is no place to look at"))
}

#[cfg(test)]
mod tests {
    use super::*;

    const WINDOW: Window = Window { start: 100, end: 110, step: 5, until: 112 };

    #[test]
    fn an_answer_is_bars_by_level_records_and_values() {
        let time = |seconds: i64, count: u64| json!({ "key": seconds * 1000, "doc_count": count });
        let answer = json!({
            "hits": { "total": { "value": 70_000 }, "hits": [{ "_index": "a-1", "_id": "x/y", "_source": {
                "@timestamp": "t", "level": "ERROR", "node": "kafka", "message": "<b>" } }] },
            "aggregations": {
                "over_time": { "buckets": [{ "key": "ERROR", "times": { "buckets": [time(100, 2), time(110, 1)] } }] },
                "status": { "buckets": [{ "key": 404, "doc_count": 3 }] },
            },
        });
        let bars = serde_json::to_value(over_time(&answer, WINDOW)).unwrap();
        assert_eq!(bars["series"][0]["values"], json!([2.0, null, 1.0]));
        assert_eq!((&bars["series"][0]["colour"], &bars["stacked"]), (&json!("red"), &json!(true)));
        let records = serde_json::to_value(records(&answer)).unwrap();
        assert_eq!(records["found"], "70000");
        assert_eq!(records["lines"][0]["address"], "/logs/a-1/x%2Fy");
        let values = serde_json::to_value(values(&answer)).unwrap();
        assert_eq!(values["fields"], json!([{ "field": "status", "counted": [["404", "3"]] }]));
    }

    #[test]
    fn only_log_records_can_be_looked_at() {
        assert_eq!(place("").unwrap(), PLACES[0].0);
        assert!(place(".security").is_err());
        assert!(place("*").is_err());
    }
}
