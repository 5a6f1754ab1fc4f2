//! What a panel asks of Elasticsearch, as Grafana asks it: Lucene's query language, buckets in each other, and a figure in the
//! innermost.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};

/// A query of Grafana's Elasticsearch data source.
#[derive(Debug, Clone)]
pub struct Search {
    /// The indices of its data source.
    pub indices: String,
    /// In Lucene's query language.
    pub query: String,
    /// As it stands in the file, and as Grafana's own API takes it.
    pub target: Value,
    buckets: Vec<Bucket>,
    metric: Metric,
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
    Percentiles {
        field: String,
        percents: Vec<f64>,
    },
    /// The documents themselves.
    Logs {
        limit: u64,
    },
}

impl Search {
    /// Of a panel's target.
    ///
    /// # Errors
    /// A part that would not be checked, by its name.
    pub(super) fn parse(target: &Value, sources: &BTreeMap<String, String>) -> Result<Self> {
        let source = text(&target["datasource"], "uid")?;
        let indices = sources.get(&source).with_context(|| format!("no data source {source}"))?.clone();
        let query = text(target, "query")?;
        let [metric] = target["metrics"].as_array().map(Vec::as_slice).unwrap_or_default() else {
            bail!("one metric is expected: {}", target["metrics"]);
        };
        let buckets = target["bucketAggs"].as_array().context("no bucketAggs")?;
        let buckets = buckets.iter().map(bucket).collect::<Result<_>>()?;
        let metric = self::metric(metric)?;
        Ok(Self { indices, query, target: target.clone(), buckets, metric })
    }

    /// Every field that its buckets and its metric need, and those that the query names.
    pub fn fields(&self) -> BTreeSet<String> {
        let of_buckets = self.buckets.iter().map(|bucket| match bucket {
            Bucket::Terms { field, .. } | Bucket::Time { field } => field.clone(),
        });
        let of_metric = match &self.metric {
            Metric::Max(field) | Metric::Percentiles { field, .. } => Some(field.clone()),
            Metric::Count | Metric::Logs { .. } => None,
        };
        of_buckets.chain(of_metric).chain(fields_of(&self.query)).collect()
    }

    /// The question to `_search`, of the last `minutes`.
    pub fn question(&self, minutes: u32) -> Value {
        let range = json!({ "range": { "@timestamp": { "gte": format!("now-{minutes}m"), "lte": "now" } } });
        let asked = json!({ "query_string": { "query": self.query, "analyze_wildcard": true } });
        let size = if let Metric::Logs { limit } = self.metric { limit } else { 0 };
        let mut question = json!({ "size": size, "query": { "bool": { "filter": [range, asked] } }, "track_total_hits": true });
        let mut inner = match &self.metric {
            Metric::Max(field) => json!({ "1": { "max": { "field": field } } }),
            Metric::Percentiles { field, percents } => {
                json!({ "1": { "percentiles": { "field": field, "percents": percents } } })
            }
            Metric::Count | Metric::Logs { .. } => json!({}),
        };
        for (number, bucket) in self.buckets.iter().enumerate().rev() {
            let mut of_bucket = match bucket {
                Bucket::Terms { field, size } => json!({ "terms": { "field": field, "size": size } }),
                Bucket::Time { field } => {
                    json!({ "date_histogram": { "field": field, "fixed_interval": "15s", "min_doc_count": 1 } })
                }
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
        if self.buckets.is_empty() {
            return answer["hits"]["total"]["value"].as_u64().is_some_and(|total| total > 0);
        }
        self.shows_in(&answer["aggregations"], 0)
    }

    fn shows_in(&self, aggregations: &Value, depth: usize) -> bool {
        let buckets = aggregations[format!("b{depth}")]["buckets"].as_array();
        let innermost = depth + 1 == self.buckets.len();
        buckets.into_iter().flatten().any(|bucket| match &self.metric {
            _ if !innermost => self.shows_in(bucket, depth + 1),
            Metric::Max(_) => bucket["1"]["value"].is_number(),
            Metric::Percentiles { .. } => {
                bucket["1"]["values"].as_object().is_some_and(|values| values.values().any(Value::is_number))
            }
            Metric::Count | Metric::Logs { .. } => {
                bucket["doc_count"].as_u64().is_some_and(|count| count > 0)
            }
        })
    }
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

fn text(value: &Value, key: &str) -> Result<String> {
    Ok(value[key].as_str().with_context(|| format!("no {key} in {value}"))?.to_owned())
}

/// Grafana writes numbers as texts.
fn number(value: &Value) -> Option<u64> {
    value.as_u64().or_else(|| value.as_str()?.parse().ok())
}

fn bucket(value: &Value) -> Result<Bucket> {
    let field = text(value, "field")?;
    match value["type"].as_str() {
        Some("terms") => Ok(Bucket::Terms { field, size: number(&value["settings"]["size"]).unwrap_or(10) }),
        Some("date_histogram") => Ok(Bucket::Time { field }),
        _ => bail!("only terms and date_histogram are checked, this is {}", value["type"]),
    }
}

fn metric(value: &Value) -> Result<Metric> {
    match value["type"].as_str() {
        Some("count") => Ok(Metric::Count),
        Some("max") => Ok(Metric::Max(text(value, "field")?)),
        Some("percentiles") => {
            let percents = value["settings"]["percents"].as_array().into_iter().flatten();
            let percents = percents.filter_map(|p| p.as_f64().or_else(|| p.as_str()?.parse().ok()));
            Ok(Metric::Percentiles { field: text(value, "field")?, percents: percents.collect() })
        }
        Some("logs") => Ok(Metric::Logs { limit: number(&value["settings"]["limit"]).unwrap_or(500) }),
        _ => bail!("only count, max, percentiles and logs are checked, this is {}", value["type"]),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn search() -> Search {
        let target = json!({
            "datasource": { "type": "elasticsearch", "uid": "a" }, "query": "level:(WARN OR ERROR) AND _exists_:trace",
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
        let question = search().question(30);
        let terms = &question["aggs"]["b0"];
        assert_eq!(terms["terms"], json!({ "field": "service", "size": 5 }));
        let time = &terms["aggs"]["b1"];
        assert_eq!(time["date_histogram"]["field"], "@timestamp");
        assert_eq!(time["aggs"]["1"]["percentiles"], json!({ "field": "ms", "percents": [95.0] }));
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
