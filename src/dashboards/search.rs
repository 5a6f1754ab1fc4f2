//! What a panel asks of Elasticsearch, as Grafana asks it: Lucene's query language, buckets in each other, and a figure in the
//! innermost.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context, Result, bail};
use serde::Deserialize;
use serde_json::{Value, json};

use super::form::Source;

const TIME: &str = "@timestamp";

/// A query of Grafana's Elasticsearch data source.
#[derive(Debug, Clone)]
pub struct Search {
    /// The indices of its data source.
    pub indices: String,
    /// In Lucene's query language.
    pub query: String,
    /// As it stands in the file, and as Grafana's own API takes it.
    pub target: Value,
    /// What a series is called, with fields in `{{…}}`.
    alias: String,
    buckets: Vec<Bucket>,
    metric: Metric,
}

/// A time to look at.
#[derive(Debug, Clone, Copy)]
pub enum Within {
    /// The minutes before now.
    Last(u32),
    /// From and to, in seconds since 1970, with one bucket for so many seconds.
    Between(i64, i64, i64),
}

/// What an answer shows.
#[derive(Debug, Clone, PartialEq)]
pub enum Found {
    /// Over time: a name, and milliseconds since 1970 with a number.
    Series(Vec<(String, Vec<(i64, f64)>)>),
    /// The names of the columns, and rows: texts, and the number in the last.
    Table(Vec<String>, Vec<(Vec<String>, f64)>),
    /// Documents, newest first.
    Documents(Vec<Value>),
}

#[derive(Debug, Clone)]
enum Bucket {
    Terms { field: String, size: u64 },
    Time { field: String },
}

#[derive(Debug, Clone)]
enum Metric {
    Count,
    Max(String),
    /// One of a hundred.
    Percentile(String, f64),
    /// The documents themselves.
    Documents(u64),
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct Form {
    datasource: Source,
    query: String,
    #[serde(default)]
    alias: String,
    metrics: Vec<Part>,
    bucket_aggs: Vec<Part>,
    #[serde(default)]
    time_field: String,
    #[serde(rename = "refId")]
    _ref_id: Option<String>,
}

/// A metric or a bucket.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Part {
    #[serde(rename = "id")]
    _id: Option<String>,
    r#type: String,
    #[serde(default)]
    field: String,
    #[serde(default)]
    settings: Settings,
}

/// Grafana writes numbers as texts.
#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct Settings {
    interval: Option<String>,
    min_doc_count: Option<String>,
    order: Option<String>,
    #[serde(rename = "orderBy")]
    order_by: Option<String>,
    size: Option<String>,
    limit: Option<String>,
    #[serde(default)]
    percents: Vec<String>,
}

impl Search {
    /// Of a panel's target.
    ///
    /// # Errors
    /// A part that would not be drawn or checked, by its name.
    pub(super) fn parse(target: &Value, sources: &BTreeMap<String, String>) -> Result<Self> {
        let source = target["datasource"]["uid"].as_str().context("no data source")?;
        let indices = sources.get(source).with_context(|| format!("no data source {source}"))?.clone();
        let form: Form = serde_json::from_value(target.clone())?;
        if form.datasource.r#type != "elasticsearch" || form.datasource.uid != source {
            bail!("the data source {source} is not Elasticsearch");
        }
        if !["", TIME].contains(&form.time_field.as_str()) {
            bail!("timeField {}: only {TIME} is drawn", form.time_field);
        }
        let [metric] = form.metrics.as_slice() else {
            bail!("one metric is expected, these are {}", form.metrics.len());
        };
        let metric = self::metric(metric)?;
        let buckets = form.bucket_aggs.into_iter().map(bucket).collect::<Result<_>>()?;
        Ok(Self { indices, query: form.query, target: target.clone(), alias: form.alias, buckets, metric })
    }

    /// Every field that its buckets and its metric need, and those that the query names.
    pub fn fields(&self) -> BTreeSet<String> {
        let of_buckets = self.buckets.iter().map(|bucket| match bucket {
            Bucket::Terms { field, .. } | Bucket::Time { field } => field.clone(),
        });
        let of_metric = match &self.metric {
            Metric::Max(field) | Metric::Percentile(field, _) => Some(field.clone()),
            Metric::Count | Metric::Documents(_) => None,
        };
        of_buckets.chain(of_metric).chain(fields_of(&self.query)).collect()
    }

    /// The question to `_search`.
    pub fn question(&self, within: Within) -> Value {
        let (range, interval) = match within {
            Within::Last(minutes) => (json!({ "gte": format!("now-{minutes}m"), "lte": "now" }), 15),
            Within::Between(from, to, step) => {
                let range = json!({ "gte": from * 1000, "lte": to * 1000, "format": "epoch_millis" });
                (range, step)
            }
        };
        let asked = json!({ "query_string": { "query": self.query, "analyze_wildcard": true } });
        let filter = json!([{ "range": { TIME: range } }, asked]);
        let mut question =
            json!({ "size": 0, "query": { "bool": { "filter": filter } }, "track_total_hits": true });
        if let Metric::Documents(limit) = self.metric {
            question["size"] = json!(limit);
            question["sort"] = json!([{ TIME: "desc" }]);
            question["_source"] = json!([TIME, "level", "message"]);
        }
        let mut inner = match &self.metric {
            Metric::Max(field) => json!({ "1": { "max": { "field": field } } }),
            Metric::Percentile(field, percent) => {
                json!({ "1": { "percentiles": { "field": field, "percents": [percent] } } })
            }
            Metric::Count | Metric::Documents(_) => json!({}),
        };
        for (number, bucket) in self.buckets.iter().enumerate().rev() {
            let mut of_bucket = match bucket {
                Bucket::Terms { field, size } => json!({ "terms": { "field": field, "size": size } }),
                Bucket::Time { field } => json!({
                    "date_histogram": { "field": field, "fixed_interval": format!("{interval}s"), "min_doc_count": 1 }
                }),
            };
            if inner.as_object().is_some_and(|inner| !inner.is_empty()) {
                of_bucket["aggs"] = inner;
            }
            inner = json!({ format!("b{number}"): of_bucket });
        }
        if !self.buckets.is_empty() {
            question["aggs"] = inner;
        }
        question
    }

    /// Whether an answer to the question has something to show: a document, or a number in an innermost bucket.
    pub fn shows(&self, answer: &Value) -> bool {
        match self.found(answer) {
            Found::Series(series) => series.iter().any(|(_, points)| !points.is_empty()),
            Found::Table(_, rows) => !rows.is_empty(),
            Found::Documents(documents) => !documents.is_empty(),
        }
    }

    /// What an answer to the question shows.
    pub fn found(&self, answer: &Value) -> Found {
        if let Metric::Documents(_) = self.metric {
            let hits = answer["hits"]["hits"].as_array().into_iter().flatten();
            return Found::Documents(hits.map(|hit| hit["_source"].clone()).collect());
        }
        let mut leaves = Vec::new();
        self.leaves(&answer["aggregations"], 0, &mut Vec::new(), &mut leaves);
        let terms = self.buckets.iter().filter_map(|bucket| match bucket {
            Bucket::Terms { field, .. } => Some(field.clone()),
            Bucket::Time { .. } => None,
        });
        let terms: Vec<String> = terms.collect();
        if terms.len() == self.buckets.len() {
            let rows = leaves.into_iter().map(|leaf| (leaf.terms, leaf.number)).collect();
            return Found::Table(terms, rows);
        }
        let mut series: Vec<(String, Vec<(i64, f64)>)> = Vec::new();
        for leaf in leaves {
            let labels = terms.iter().cloned().zip(leaf.terms).collect();
            let name = super::named(&self.alias, &labels);
            match series.iter_mut().find(|(known, _)| *known == name) {
                Some((_, points)) => points.push((leaf.at, leaf.number)),
                None => series.push((name, vec![(leaf.at, leaf.number)])),
            }
        }
        Found::Series(series)
    }

    fn leaves(&self, aggregations: &Value, depth: usize, terms: &mut Vec<String>, leaves: &mut Vec<Leaf>) {
        let buckets = aggregations[format!("b{depth}")]["buckets"].as_array();
        for bucket in buckets.into_iter().flatten() {
            let of_terms = matches!(self.buckets[depth], Bucket::Terms { .. });
            if of_terms {
                let key = &bucket["key"];
                terms.push(key.as_str().map_or_else(|| key.to_string(), str::to_owned));
            }
            if depth + 1 < self.buckets.len() {
                self.leaves(bucket, depth + 1, terms, leaves);
            } else if let Some(number) = self.number(bucket) {
                let at = if of_terms { 0 } else { bucket["key"].as_i64().unwrap_or_default() };
                leaves.push(Leaf { terms: terms.clone(), at, number });
            }
            if of_terms {
                terms.pop();
            }
        }
    }

    fn number(&self, bucket: &Value) -> Option<f64> {
        match &self.metric {
            Metric::Max(_) => bucket["1"]["value"].as_f64(),
            Metric::Percentile(..) => bucket["1"]["values"].as_object()?.values().find_map(Value::as_f64),
            Metric::Count | Metric::Documents(_) => bucket["doc_count"].as_f64().filter(|count| *count > 0.0),
        }
    }
}

/// What stands in an innermost bucket.
struct Leaf {
    terms: Vec<String>,
    at: i64,
    number: f64,
}

/// The fields that a query in Lucene's language names.
pub fn fields_of(query: &str) -> BTreeSet<String> {
    let words = query.split(|c: char| c.is_whitespace() || "()".contains(c));
    let fields = words.filter_map(|word| match word.split_once(':') {
        Some(("_exists_", field)) => Some(field),
        Some((field, _)) => Some(field.trim_start_matches(['+', '-', '!'])),
        None => None,
    });
    fields.filter(|field| !field.is_empty()).map(str::to_owned).collect()
}

fn bucket(part: Part) -> Result<Bucket> {
    let Settings { interval, min_doc_count, order, order_by, size, limit: None, percents } = part.settings
    else {
        bail!("a limit is for documents");
    };
    let is = |value: &Option<String>, wanted: &str| value.as_deref().is_none_or(|value| value == wanted);
    let sorted = is(&order, "desc") && is(&order_by, "_count") && percents.is_empty();
    match part.r#type.as_str() {
        // A term that no document has, or a time without documents, is not drawn either way.
        "terms" if sorted && interval.is_none() && is(&min_doc_count, "1") => {
            Ok(Bucket::Terms { field: part.field, size: number(size.as_deref(), 10)? })
        }
        "date_histogram" if sorted && is(&interval, "auto") && is(&min_doc_count, "0") && size.is_none() => {
            Ok(Bucket::Time { field: part.field })
        }
        other => bail!("a bucket of type {other} with these settings is not drawn"),
    }
}

fn number(text: Option<&str>, otherwise: u64) -> Result<u64> {
    text.map_or(Ok(otherwise), |text| text.parse().with_context(|| format!("{text:?} is no number")))
}

fn metric(part: &Part) -> Result<Metric> {
    let percents = part.settings.percents.as_slice();
    match (part.r#type.as_str(), percents) {
        ("count", []) => Ok(Metric::Count),
        ("max", []) => Ok(Metric::Max(part.field.clone())),
        ("percentiles", [percent]) => Ok(Metric::Percentile(part.field.clone(), percent.parse()?)),
        ("logs", []) => Ok(Metric::Documents(number(part.settings.limit.as_deref(), 500)?)),
        (other, _) => bail!("only count, max, one percentile and logs are drawn, this is {other}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn search() -> Search {
        let target = json!({
            "datasource": { "type": "elasticsearch", "uid": "a" }, "alias": "{{service}} in ms", "query": "level:(WARN OR ERROR) AND _exists_:trace",
            "metrics": [{ "type": "percentiles", "field": "ms", "settings": { "percents": ["95"] } }],
            "bucketAggs": [
                { "type": "terms", "field": "service", "settings": { "size": "5" } },
                { "type": "date_histogram", "field": "@timestamp" },
            ],
        });
        Search::parse(&target, &BTreeMap::from([("a".to_owned(), "x-*".to_owned())])).unwrap()
    }

    #[test]
    fn it_names_the_fields_that_must_be_there() {
        assert_eq!(
            search().fields().into_iter().collect::<Vec<_>>(),
            ["@timestamp", "level", "ms", "service", "trace"]
        );
        assert!(fields_of("*").is_empty());
        assert_eq!(fields_of("tags:gc AND -node:x*").into_iter().collect::<Vec<_>>(), ["node", "tags"]);
    }

    #[test]
    fn buckets_stand_in_each_other_and_the_figure_in_the_innermost() {
        let question = search().question(Within::Last(30));
        let terms = &question["aggs"]["b0"];
        assert_eq!(terms["terms"], json!({ "field": "service", "size": 5 }));
        let time = &terms["aggs"]["b1"];
        assert_eq!(time["date_histogram"]["field"], "@timestamp");
        assert_eq!(time["aggs"]["1"]["percentiles"], json!({ "field": "ms", "percents": [95.0] }));
    }

    #[test]
    fn an_answer_is_series_by_their_terms() {
        let at =
            |ms: i64, value: f64| json!({ "key": ms, "doc_count": 1, "1": { "values": { "95.0": value } } });
        let of = |key: &str, times: Value| json!({ "key": key, "doc_count": 2, "b1": { "buckets": times } });
        let answer = json!({ "aggregations": { "b0": { "buckets": [
            of("shop", json!([at(1000, 3.5), at(2000, 4.0)])), of("bank", json!([at(2000, 1.0)])),
        ] } } });
        let shop = ("shop in ms".to_owned(), vec![(1000, 3.5), (2000, 4.0)]);
        let bank = ("bank in ms".to_owned(), vec![(2000, 1.0)]);
        assert_eq!(search().found(&answer), Found::Series(vec![shop, bank]));
    }

    #[rstest::rstest]
    #[case("alias", json!(7))]
    #[case("hide", json!(true))]
    #[case("timeField", json!("at"))]
    #[case("metrics", json!([{ "type": "avg", "field": "ms" }]))]
    #[case("metrics", json!([{ "type": "percentiles", "field": "ms", "settings": { "percents": ["50", "95"] } }]))]
    #[case("bucketAggs", json!([{ "type": "histogram", "field": "ms" }]))]
    #[case("bucketAggs", json!([{ "type": "terms", "field": "ms", "settings": { "order": "asc" } }]))]
    #[case("bucketAggs", json!([{ "type": "date_histogram", "field": "ms", "settings": { "interval": "1h" } }]))]
    fn a_part_that_is_not_drawn_is_refused(#[case] part: &str, #[case] value: Value) {
        let mut target = search().target;
        target[part] = value;
        assert!(Search::parse(&target, &BTreeMap::from([("a".to_owned(), "x-*".to_owned())])).is_err());
    }

    #[test]
    fn an_answer_shows_something_only_with_a_number_in_an_innermost_bucket() {
        let answer = |value: Value| {
            let time = json!({ "buckets": [{ "doc_count": 1, "1": { "values": { "95.0": value } } }] });
            json!({ "aggregations": { "b0": { "buckets": [{ "doc_count": 1, "b1": time }] } } })
        };
        assert!(search().shows(&answer(json!(3.5))));
        assert!(!search().shows(&answer(Value::Null)));
        assert!(!search().shows(&json!({ "aggregations": { "b0": { "buckets": [] } } })));
        assert!(!search().shows(&json!({})));
    }
}
