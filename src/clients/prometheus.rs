//! Questions to Prometheus: an expression's value, the state of its targets and alerts.

use std::collections::BTreeMap;

use anyhow::{Context, Result, bail};
use serde::Deserialize;
use serde_json::Value;

/// Prometheus at a base URL.
#[derive(Debug, Clone)]
pub struct Prometheus {
    url: String,
}

/// One series of an instant vector.
#[derive(Debug, Clone, PartialEq)]
pub struct Sample {
    /// Its labels, the name among them where the expression keeps it.
    pub labels: BTreeMap<String, String>,
    /// Its value now.
    pub value: f64,
}

/// One series over time.
#[derive(Debug, Clone, PartialEq)]
pub struct Series {
    /// As of [`Sample`].
    pub labels: BTreeMap<String, String>,
    /// Seconds since 1970, and the value then.
    pub points: Vec<(i64, f64)>,
}

/// A target as Prometheus sees it.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct TargetState {
    /// Labels after relabelling.
    pub labels: BTreeMap<String, String>,
    /// `up`, `down` or `unknown`.
    pub health: String,
    /// Why the last scrape failed; empty where it did not.
    pub last_error: String,
    /// Seconds that the last scrape took.
    pub last_scrape_duration: f64,
    /// The address that is read.
    pub scrape_url: String,
}

/// An alert as Prometheus evaluates it.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PendingAlert {
    /// Labels.
    pub labels: BTreeMap<String, String>,
    /// Annotations.
    pub annotations: BTreeMap<String, String>,
    /// `pending` or `firing`.
    pub state: String,
    /// Since when its expression holds, RFC 3339.
    pub active_at: String,
}

impl Prometheus {
    /// The server at a base URL such as `http://localhost:9090`.
    pub fn new(url: impl Into<String>) -> Self {
        Self { url: url.into() }
    }

    async fn ask(&self, path: &str, query: &[(&str, &str)]) -> Result<Value> {
        let url = format!("{}{path}", self.url);
        let answer = super::http().get(&url).query(query).send().await?;
        let status = answer.status();
        let body: Value =
            answer.json().await.with_context(|| format!("{url} answers {status}, and not as Prometheus"))?;
        if body["status"] != "success" {
            bail!("Prometheus refuses {path}: {}", body["error"].as_str().unwrap_or("it does not say why"));
        }
        Ok(body["data"].clone())
    }

    /// The value of an expression now, as an instant vector; a scalar is a sample without labels.
    ///
    /// # Errors
    /// The server does not answer, or the expression is none.
    pub async fn query(&self, expression: &str) -> Result<Vec<Sample>> {
        samples(&self.ask("/api/v1/query", &[("query", expression)]).await?)
    }

    /// The same at a moment in seconds since 1970.
    ///
    /// # Errors
    /// As [`Self::query`].
    pub async fn query_at(&self, expression: &str, at: i64) -> Result<Vec<Sample>> {
        let at = at.to_string();
        samples(&self.ask("/api/v1/query", &[("query", expression), ("time", &at)]).await?)
    }

    /// The values of an expression from `start` to `end`, in seconds since 1970, every `step` seconds.
    ///
    /// # Errors
    /// As [`Self::query`]; Prometheus gives no more than 11,000 moments.
    pub async fn over(&self, expression: &str, start: i64, end: i64, step: i64) -> Result<Vec<Series>> {
        let (start, end, step) = (start.to_string(), end.to_string(), step.to_string());
        let asked = [("query", expression), ("start", &start), ("end", &end), ("step", &step)];
        series(&self.ask("/api/v1/query_range", &asked).await?)
    }

    /// The sum of an expression's samples; none where it has no series.
    ///
    /// # Errors
    /// As [`Self::query`].
    pub async fn sum(&self, expression: &str) -> Result<Option<f64>> {
        let samples = self.query(expression).await?;
        Ok((!samples.is_empty()).then(|| samples.iter().map(|s| s.value).sum()))
    }

    /// The values of a label, sorted.
    ///
    /// # Errors
    /// As [`Self::query`].
    pub async fn label_values(&self, label: &str, selector: Option<&str>) -> Result<Vec<String>> {
        let query: Vec<_> = selector.map(|s| ("match[]", s)).into_iter().collect();
        let data = self.ask(&format!("/api/v1/label/{label}/values"), &query).await?;
        Ok(serde_json::from_value(data)?)
    }

    /// Every target that it reads.
    ///
    /// # Errors
    /// The server does not answer.
    pub async fn targets(&self) -> Result<Vec<TargetState>> {
        let data = self.ask("/api/v1/targets", &[("state", "active")]).await?;
        Ok(serde_json::from_value(data["activeTargets"].clone())?)
    }

    /// When the server was started, RFC 3339.
    ///
    /// # Errors
    /// The server does not answer.
    pub async fn started_at(&self) -> Result<String> {
        let data = self.ask("/api/v1/status/runtimeinfo", &[]).await?;
        Ok(data["startTime"].as_str().context("Prometheus does not say when it was started")?.to_owned())
    }

    /// Every alert that is pending or firing.
    ///
    /// # Errors
    /// The server does not answer.
    pub async fn alerts(&self) -> Result<Vec<PendingAlert>> {
        let data = self.ask("/api/v1/alerts", &[]).await?;
        Ok(serde_json::from_value(data["alerts"].clone())?)
    }
}

/// Prometheus writes numbers as texts, so that NaN and infinities have one.
fn samples(data: &Value) -> Result<Vec<Sample>> {
    let value = |at: &Value| -> Result<f64> { Ok(at[1].as_str().context("no value")?.parse()?) };
    match data["resultType"].as_str() {
        Some("scalar") => Ok(vec![Sample { labels: BTreeMap::new(), value: value(&data["result"])? }]),
        Some("vector") => {
            let series = data["result"].as_array().context("no result")?;
            let sample = |s: &Value| {
                Ok(Sample {
                    labels: serde_json::from_value(s["metric"].clone())?,
                    value: value(&s["value"])?,
                })
            };
            series.iter().map(sample).collect()
        }
        other => bail!("an expression of type {other:?} has no value at one moment"),
    }
}

fn series(data: &Value) -> Result<Vec<Series>> {
    #[derive(Deserialize)]
    struct Form {
        metric: BTreeMap<String, String>,
        values: Vec<(f64, String)>,
    }
    let forms: Vec<Form> = serde_json::from_value(data["result"].clone()).context("no series")?;
    #[allow(clippy::cast_possible_truncation, reason = "seconds since 1970")]
    let point = |(at, value): (f64, String)| Ok((at.round() as i64, value.parse()?));
    let one = |form: Form| {
        Ok(Series { labels: form.metric, points: form.values.into_iter().map(point).collect::<Result<_>>()? })
    };
    forms.into_iter().map(one).collect()
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn vectors_and_scalars_are_samples() {
        let vector =
            json!({"resultType": "vector", "result": [{"metric": {"job": "a"}, "value": [1.5, "NaN"]}]});
        let found = samples(&vector).unwrap();
        assert_eq!(found[0].labels["job"], "a");
        assert!(found[0].value.is_nan());
        let scalar = json!({"resultType": "scalar", "result": [1.5, "7"]});
        assert_eq!(samples(&scalar).unwrap(), [Sample { labels: BTreeMap::new(), value: 7.0 }]);
        assert!(samples(&json!({"resultType": "matrix", "result": []})).is_err());
    }

    #[test]
    fn a_matrix_is_series_over_time() {
        let matrix = json!({"result": [{"metric": {"job": "a"}, "values": [[10, "1"], [15.0, "+Inf"]]}]});
        let found = series(&matrix).unwrap();
        assert_eq!(found[0].labels["job"], "a");
        assert_eq!(found[0].points, [(10, 1.0), (15, f64::INFINITY)]);
        assert!(series(&json!({"result": [{"metric": {}, "values": [[10, "x"]]}]})).is_err());
    }
}
