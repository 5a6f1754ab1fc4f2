//! What hosts measure: nine hosts, four metrics each, in rounds. Values follow slow waves, with noise and now and then a peak.

use std::collections::BTreeMap;

use anyhow::Result;
use rand::{Rng, RngExt};
use schema_registry_converter::async_impl::avro::AvroEncoder;
use serde::{Deserialize, Serialize};
use tokio::sync::watch;
use tokio::task::JoinHandle;

use super::Defaults;
use crate::scenarios::draw::{self, Run};
use crate::scenarios::{Format, Profile, Sequence};
use crate::writer::{Acks, Ledger, Order, Writer};

const HOSTS: [&str; 9] = [
    "web-server-01",
    "web-server-02",
    "web-server-03",
    "app-server-01",
    "app-server-02",
    "db-server-01",
    "db-server-02",
    "cache-server-01",
    "queue-server-01",
];

/// Of a hundred samples so many are a peak.
const PEAKS: u32 = 3;

/// What is measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Metric {
    /// Cores in use, in percent of all.
    Cpu,
    /// Memory in use, in percent.
    Memory,
    /// Disk in use, in percent.
    Disk,
    /// What goes over the network, in Mbit/s.
    Network,
}

/// How a metric runs, in tenths of its unit and rounds of all hosts.
struct Course {
    metric: Metric,
    unit: &'static str,
    lowest: i64,
    highest: i64,
    /// Rounds of one wave.
    period: u64,
    /// Noise to either side.
    noise: i64,
    /// Where a peak is.
    peak: (i64, i64),
}

const COURSES: [Course; 4] = [
    Course {
        metric: Metric::Cpu,
        unit: "percent",
        lowest: 150,
        highest: 750,
        period: 180,
        noise: 60,
        peak: (910, 1000),
    },
    Course {
        metric: Metric::Memory,
        unit: "percent",
        lowest: 450,
        highest: 820,
        period: 720,
        noise: 20,
        peak: (905, 990),
    },
    Course {
        metric: Metric::Disk,
        unit: "percent",
        lowest: 500,
        highest: 800,
        period: 4320,
        noise: 2,
        peak: (860, 900),
    },
    Course {
        metric: Metric::Network,
        unit: "Mbit/s",
        lowest: 500,
        highest: 6000,
        period: 90,
        noise: 400,
        peak: (8100, 10_000),
    },
];

/// One sample.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct HostMetric {
    /// UUID.
    pub metric_id: String,
    /// ISO 8601 in UTC, with milliseconds.
    pub timestamp: String,
    /// Who measures, with the run's suffix where there is one; the record's key.
    pub host: String,
    /// What.
    pub metric: Metric,
    /// How much, with one decimal.
    pub value: f64,
    /// `percent` or `Mbit/s`.
    pub unit: String,
    /// Cores of the host: with `cpu`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cores: Option<u32>,
    /// Swap in use, in percent: with `memory`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub swap: Option<f64>,
    /// Reads and writes a second: with `disk`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub io_per_second: Option<u32>,
    /// What goes out of it, in Mbit/s: with `network`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub out: Option<f64>,
}

/// Above which value a sample is an anomaly: for all hosts, and for single ones.
#[derive(Debug, Clone, PartialEq)]
pub struct Thresholds(Vec<(Option<String>, Metric, f64)>);

impl Default for Thresholds {
    /// cpu and memory 90, disk 85, network 800; a cache fills its memory: 95.
    fn default() -> Self {
        Self(vec![
            (None, Metric::Cpu, 90.0),
            (None, Metric::Memory, 90.0),
            (None, Metric::Disk, 85.0),
            (None, Metric::Network, 800.0),
            (Some("cache-server-01".to_owned()), Metric::Memory, 95.0),
        ])
    }
}

impl Thresholds {
    /// Sets one from `[HOST:]METRIC=VALUE`.
    ///
    /// # Errors
    /// It is not of this form.
    pub fn set(&mut self, text: &str) -> Result<(), String> {
        let wanted =
            "a threshold is METRIC=VALUE or HOST:METRIC=VALUE, METRIC one of cpu, memory, disk, network";
        let (of, value) = text.split_once('=').ok_or(wanted)?;
        let (host, metric) = of.split_once(':').map_or((None, of), |(host, metric)| (Some(host), metric));
        if host.is_some_and(str::is_empty) {
            return Err(wanted.to_owned());
        }
        let metric = serde_json::from_value(metric.into()).map_err(|_| wanted)?;
        let value: f64 = value.parse().ok().filter(|v: &f64| v.is_finite()).ok_or(wanted)?;
        self.0.push((host.map(str::to_owned), metric, value));
        Ok(())
    }

    /// Whether a sample is an anomaly. A host's own threshold goes before that for all; the one that was set last counts. It holds for
    /// the host of every run.
    pub fn exceeded(&self, host: &str, metric: Metric, value: f64) -> bool {
        let of_host =
            |name: &str| host.strip_prefix(name).is_some_and(|run| run.is_empty() || run.starts_with('-'));
        let mut of_metric = self.0.iter().rev().filter(|(_, m, _)| *m == metric);
        let own = of_metric.clone().find(|(name, ..)| name.as_deref().is_some_and(of_host));
        let threshold = own.or_else(|| of_metric.find(|(name, ..)| name.is_none()));
        threshold.is_some_and(|(.., threshold)| value > *threshold)
    }
}

/// What must come out for one metric of one host.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct HostTotals {
    /// Samples.
    pub count: u64,
    /// Samples above the threshold that holds if nobody sets another.
    pub anomalies: u64,
}

/// A seeded, endless sequence of samples.
#[derive(Debug, Clone)]
pub struct HostMetrics {
    run: Run,
}

impl HostMetrics {
    /// Topic of the records.
    pub const TOPIC: &'static str = "system-metrics";
    /// The seed's metrics producer: every host and metric once in 20 seconds.
    pub const DEFAULTS: Defaults = Defaults {
        profile: Profile { name: "metrics", settings: &[("compression.type", "snappy")] },
        acks: Acks::Leader,
        rate: 1.8,
    };

    /// The sequence that an order means.
    pub fn of(order: &Order) -> Self {
        Self { run: Run::new(order.seed, order.run.as_deref()) }
    }
}

impl Course {
    /// Tenths of the unit at a round; each host is at another place of the wave.
    fn value(&self, round: u64, host: usize, random: &mut impl Rng) -> i64 {
        if random.random_range(0..100) < PEAKS {
            return random.random_range(self.peak.0..=self.peak.1);
        }
        let offset = host as u64 * self.period / HOSTS.len() as u64;
        let at = round.wrapping_add(offset) % self.period;
        // Up in the first half of the period, down in the second.
        let up = at.min(self.period - at) * 2;
        let height = i128::from(self.highest - self.lowest) * i128::from(up) / i128::from(self.period);
        let wave = self.lowest + i64::try_from(height).unwrap_or(0);
        wave + random.random_range(-self.noise..=self.noise)
    }
}

#[allow(clippy::cast_precision_loss, reason = "a few thousand tenths")]
fn tenths(value: i64) -> f64 {
    value as f64 / 10.0
}

impl Sequence for HostMetrics {
    type Record = HostMetric;
    /// By host and metric.
    type Totals = BTreeMap<String, BTreeMap<Metric, HostTotals>>;
    type InShort = BTreeMap<String, BTreeMap<Metric, HostTotals>>;

    fn record(&self, index: u64, time_ms: i64) -> HostMetric {
        let mut random = self.run.at(index);
        let metric_id = draw::uuid(&mut random).to_string();
        let (hosts, metrics) = (HOSTS.len() as u64, COURSES.len() as u64);
        let host = (index % hosts) as usize;
        let course = &COURSES[(index / hosts % metrics) as usize];
        let value = course.value(index / hosts / metrics, host, &mut random);
        let swap = random.random_range(0..=200);
        let io = random.random_range(10..=2_000);
        let of = |metric| course.metric == metric;
        HostMetric {
            metric_id,
            timestamp: draw::timestamp(time_ms),
            host: self.run.own(HOSTS[host]),
            metric: course.metric,
            value: tenths(value),
            unit: course.unit.to_owned(),
            cores: of(Metric::Cpu).then_some(4 << (host % 3)),
            swap: of(Metric::Memory).then(|| tenths(swap)),
            io_per_second: of(Metric::Disk).then_some(io),
            out: of(Metric::Network).then(|| tenths(value / 3)),
        }
    }

    fn topic(&self, _: Format) -> &'static str {
        Self::TOPIC
    }

    fn id(record: &HostMetric) -> &str {
        &record.metric_id
    }

    fn key(record: &HostMetric) -> &str {
        &record.host
    }

    fn add(totals: &mut Self::Totals, record: &HostMetric) {
        let of_host = totals.entry(record.host.clone()).or_default();
        let total = of_host.entry(record.metric).or_default();
        total.count += 1;
        let exceeded = Thresholds::default().exceeded(&record.host, record.metric, record.value);
        total.anomalies += u64::from(exceeded);
    }

    fn write(
        self,
        writer: Writer,
        order: Order,
        encoder: Option<AvroEncoder>,
        stop: watch::Receiver<bool>,
    ) -> JoinHandle<Result<Ledger<Self::Totals>>> {
        writer.carry_out(order, self, encoder, stop)
    }

    fn in_short(totals: &Self::Totals) -> Self::InShort {
        totals.clone()
    }
}
