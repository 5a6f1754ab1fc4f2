//! What hosts measure, and which samples are anomalies: `logger-group` over system-metrics.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::{Figure, Results, entry, name_of, number, short};
use crate::scenarios::events::{HostMetrics, Metric, Thresholds};

/// Results of one partition.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Logger {
    /// By host and metric.
    pub hosts: BTreeMap<String, BTreeMap<Metric, Samples>>,
    /// Records that are no samples.
    pub malformed: u64,
}

/// What was measured of one metric of one host.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Samples {
    /// How many.
    pub count: u64,
    /// How many above their threshold.
    pub anomalies: u64,
    /// The newest.
    pub last: f64,
    /// The lowest.
    pub min: f64,
    /// The highest.
    pub max: f64,
    /// Mean of all.
    pub mean: f64,
}

/// What counts of a record; other fields may be there.
#[derive(Deserialize)]
struct Sample {
    host: String,
    metric: Metric,
    value: f64,
}

/// A larger value is no measurement, and its sums would be no numbers.
const HIGHEST: f64 = 1e15;

fn sample(record: &[u8]) -> Result<Sample, String> {
    let sample: Sample = serde_json::from_slice(record).map_err(|error| error.to_string())?;
    if sample.value.abs() > HIGHEST {
        return Err(format!("a value of {}, the highest is {HIGHEST}", sample.value));
    }
    Ok(sample)
}

impl Samples {
    fn add(&mut self, value: f64, anomaly: bool) {
        self.count += 1;
        self.anomalies += u64::from(anomaly);
        let first = self.count == 1;
        self.min = if first { value } else { self.min.min(value) };
        self.max = if first { value } else { self.max.max(value) };
        self.mean += (value - self.mean) / number(self.count);
        self.last = value;
    }

    fn join(&mut self, other: &Self) {
        if self.count == 0 {
            self.clone_from(other);
        } else if other.count > 0 {
            let (own, others) = (number(self.count), number(other.count));
            self.mean = (self.mean * own + other.mean * others) / (own + others);
            self.min = self.min.min(other.min);
            self.max = self.max.max(other.max);
            self.count += other.count;
            self.anomalies += other.anomalies;
        }
    }
}

impl Results for Logger {
    type Settings = Thresholds;

    const GROUP: &'static str = "logger-group";
    const TOPIC: &'static str = HostMetrics::TOPIC;
    const BATCH: usize = 500;
    const METRICS: &'static [(&'static str, &'static str)] = &[
        ("logger_samples", "Samples by host and metric"),
        ("logger_anomalies", "Samples above their threshold"),
        ("logger_value", "The newest value, in the metric's own unit"),
        ("logger_malformed", "Records that are no samples"),
    ];

    fn add(&mut self, thresholds: &Thresholds, record: &[u8], _: i64) -> Result<Option<String>, String> {
        match sample(record) {
            Ok(Sample { host, metric, value }) => {
                let anomaly = thresholds.exceeded(&host, metric, value);
                entry(&mut self.hosts, &host).entry(metric).or_default().add(value, anomaly);
                Ok(anomaly.then(|| format!("ANOMALY {}: {} is {value}", short(&host), name_of(metric))))
            }
            Err(error) => {
                self.malformed += 1;
                Err(error)
            }
        }
    }

    fn join(&mut self, other: Self) {
        self.malformed += other.malformed;
        for (name, metrics) in other.hosts {
            let known = self.hosts.entry(name).or_default();
            metrics.iter().for_each(|(metric, samples)| known.entry(*metric).or_default().join(samples));
        }
    }

    fn figures(&self) -> Vec<Figure> {
        let mut figures = Vec::new();
        for (host, metrics) in &self.hosts {
            for (metric, samples) in metrics {
                let mut push = |name, value| {
                    let labels = vec![("host", host.clone()), ("metric", name_of(metric))];
                    figures.push(Figure { metric: name, labels, value });
                };
                push("logger_samples", number(samples.count));
                push("logger_anomalies", number(samples.anomalies));
                push("logger_value", samples.last);
            }
        }
        figures.push(Figure {
            metric: "logger_malformed",
            labels: Vec::new(),
            value: number(self.malformed),
        });
        figures
    }
}
