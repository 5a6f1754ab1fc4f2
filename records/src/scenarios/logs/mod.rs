//! Log records of applications: each is one request that a service has answered, or a line that only developers read.

use std::collections::BTreeMap;

use anyhow::Result;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use rand::RngExt;
use rand_chacha::ChaCha8Rng;
use schema_registry_converter::async_impl::avro::AvroEncoder;
use serde::{Deserialize, Serialize};
use tokio::sync::watch;
use tokio::task::JoinHandle;

use super::{Format, Profile, Sequence, draw};
use crate::writer::{Ledger, Order, Writer};

/// A service's log shipper: it waits 50 ms for more, and presses batches.
pub const SHIPPER: Profile =
    Profile { name: "shipper", settings: &[("compression.type", "lz4"), ("linger.ms", "50")] };

/// Who is asked for what, and what goes wrong there.
struct Service {
    name: &'static str,
    /// Method and path.
    request: (&'static str, &'static str),
    /// What a request that went well says.
    done: &'static str,
    /// Status and message of a request that the client got wrong.
    refused: (u16, &'static str),
    /// Status, message, and the exception behind it.
    failed: (u16, &'static str, &'static str),
    /// What only developers read.
    detail: &'static str,
}

const SERVICES: [Service; 5] = [
    Service {
        name: "checkout",
        request: ("POST", "/orders"),
        done: "order placed",
        refused: (422, "the basket is empty"),
        failed: (
            502,
            "card refused: the bank does not answer",
            "java.net.SocketTimeoutException: Read timed out",
        ),
        detail: "basket read from the session",
    },
    Service {
        name: "catalogue",
        request: ("GET", "/products"),
        done: "products listed",
        refused: (404, "no such product"),
        failed: (503, "search is not available", "java.net.ConnectException: Connection refused"),
        detail: "page served from the cache",
    },
    Service {
        name: "accounts",
        request: ("POST", "/login"),
        done: "user logged in",
        refused: (401, "wrong password"),
        failed: (500, "session cannot be stored", "java.io.IOException: No space left on device"),
        detail: "session renewed",
    },
    Service {
        name: "payments",
        request: ("POST", "/payments"),
        done: "payment taken",
        refused: (409, "paid already"),
        failed: (500, "payment cannot be booked", "java.lang.IllegalStateException: transaction is closed"),
        detail: "limits of the card looked up",
    },
    Service {
        name: "shipping",
        request: ("PUT", "/parcels"),
        done: "parcel handed over",
        refused: (400, "an address without a street"),
        failed: (504, "the carrier does not answer", "java.util.concurrent.TimeoutException: 30 s are over"),
        detail: "route computed",
    },
];

/// Levels, and how many records of a hundred have them.
const LEVELS: [(Level, u32); 4] =
    [(Level::Debug, 20), (Level::Info, 62), (Level::Warn, 10), (Level::Error, 8)];

/// Which applications: it decides topic and index.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Environment {
    /// Under development: logs-topic, dev-logs-index.
    Dev,
    /// In production: prod-logs-topic, prod-logs-index without DEBUG.
    Prod,
}

/// How bad a record is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum Level {
    /// What only developers read.
    Debug,
    /// It went well.
    Info,
    /// The client got it wrong.
    Warn,
    /// The service got it wrong.
    Error,
}

/// One record.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct LogRecord {
    /// ISO 8601 in UTC, with milliseconds.
    pub timestamp: String,
    /// How bad.
    pub level: Level,
    /// Who says it; the record's key.
    pub service: String,
    /// What is said.
    pub message: String,
    /// On which machine: `web-1` to `web-9`.
    pub host: String,
    /// 32 hex digits; no other record has them.
    pub trace_id: String,
    /// The request's HTTP status; none at DEBUG.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub status: Option<u16>,
    /// How long the request took, in milliseconds; none at DEBUG.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub duration_ms: Option<u32>,
    /// The stack trace of an ERROR.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub trace: Option<String>,
    /// Which run of the generator.
    pub run: String,
    /// The record's index in its run.
    pub number: u64,
}

/// What a request is counted by.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct Request {
    /// Who answered it.
    pub service: String,
    /// HTTP status.
    pub status: u16,
}

/// Counters of requests.
pub type Requests = Family<Request, Counter>;

/// A seeded, endless sequence of log records.
#[derive(Debug, Clone)]
pub struct Logs {
    environment: Environment,
    random: ChaCha8Rng,
    run: String,
    requests: Requests,
}

/// What must come out for some records: how many, by level and service.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Totals(pub BTreeMap<Level, BTreeMap<String, u64>>);

impl Environment {
    /// Where its records go.
    pub fn topic(self) -> &'static str {
        match self {
            Self::Dev => "logs-topic",
            Self::Prod => "prod-logs-topic",
        }
    }
}

impl Logs {
    /// The sequence of a seed. `run` tells its records from those of every other run. Each request that it makes is counted in
    /// `requests`.
    pub fn new(environment: Environment, seed: u64, run: &str, requests: Requests) -> Self {
        Self { environment, random: draw::generator(seed, run), run: run.to_owned(), requests }
    }

    /// What must come out for the first `count` records.
    pub fn totals(&self, count: u64) -> Totals {
        let mut totals = Totals::default();
        (0..count).for_each(|index| Self::add(&mut totals, &self.record(index, 0)));
        totals
    }
}

impl Sequence for Logs {
    type Record = LogRecord;
    type Totals = Totals;
    type InShort = Totals;

    fn record(&self, index: u64, time_ms: i64) -> LogRecord {
        let mut random = self.random.clone();
        random.set_stream(index);
        let trace_id = draw::uuid(&mut random).simple().to_string();
        let service = &SERVICES[random.random_range(0..SERVICES.len())];
        let level = draw::weighted(&mut random, &LEVELS);
        let host = format!("web-{}", random.random_range(1..=9));
        let duration_ms = match level {
            Level::Error => random.random_range(1_000..30_000),
            _ => random.random_range(2..400),
        };
        let (method, path) = service.request;
        let said = |status: u16, text: &str| (format!("{method} {path} {status}: {text}"), Some(status));
        let (message, status) = match level {
            Level::Debug => (service.detail.to_owned(), None),
            Level::Info => said(200, service.done),
            Level::Warn => said(service.refused.0, service.refused.1),
            Level::Error => said(service.failed.0, service.failed.1),
        };
        let at = format!("\n\tat shop.{0}.Handler.answer(Handler.java:{1})", service.name, 40 + index % 60);
        LogRecord {
            timestamp: draw::timestamp(time_ms),
            level,
            service: service.name.to_owned(),
            message,
            host,
            trace_id,
            status,
            duration_ms: status.map(|_| duration_ms),
            trace: (level == Level::Error).then(|| format!("{}{at}", service.failed.2)),
            run: self.run.clone(),
            number: index,
        }
    }

    fn topic(&self, _: Format) -> &'static str {
        self.environment.topic()
    }

    fn id(record: &LogRecord) -> &str {
        &record.trace_id
    }

    fn key(record: &LogRecord) -> &str {
        &record.service
    }

    fn made(&self, record: &LogRecord) {
        if let Some(status) = record.status {
            self.requests.get_or_create(&Request { service: record.service.clone(), status }).inc();
        }
    }

    fn add(totals: &mut Totals, record: &LogRecord) {
        let of_level = totals.0.entry(record.level).or_default();
        *of_level.entry(record.service.clone()).or_default() += 1;
    }

    fn write(
        self,
        writer: Writer,
        order: Order,
        encoder: Option<AvroEncoder>,
        stop: watch::Receiver<bool>,
    ) -> JoinHandle<Result<Ledger<Totals>>> {
        writer.carry_out(order, self, encoder, stop)
    }

    fn in_short(totals: &Totals) -> Totals {
        totals.clone()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    fn logs(seed: u64, run: &str) -> Logs {
        Logs::new(Environment::Dev, seed, run, Requests::default())
    }

    proptest! {
        #[test]
        fn a_record_follows_from_seed_run_and_index(seed: u64, index in 0..1_000_000_u64) {
            prop_assert_eq!(logs(seed, "a").record(index, 5), logs(seed, "a").record(index, 5));
            prop_assert_ne!(logs(seed, "a").record(index, 5).trace_id, logs(seed, "b").record(index, 5).trace_id);
        }

        #[test]
        fn the_time_changes_only_the_timestamp(seed: u64, index: u64, time in 0..4_000_000_000_000_i64) {
            let (mut one, two) = (logs(seed, "a").record(index, 0), logs(seed, "a").record(index, time));
            one.timestamp.clone_from(&two.timestamp);
            prop_assert_eq!(one, two);
        }

        #[test]
        fn every_record_says_what_its_level_means(seed: u64, index: u64) {
            let record = logs(seed, "a").record(index, 0);
            let family = record.status.map(|status| status / 100);
            let expected = match record.level {
                Level::Debug => None,
                Level::Info => Some(2),
                Level::Warn => Some(4),
                Level::Error => Some(5),
            };
            prop_assert_eq!(family, expected);
            prop_assert_eq!(record.trace.is_some(), record.level == Level::Error);
            prop_assert_eq!(record.duration_ms.is_some(), record.status.is_some());
        }
    }

    #[test]
    fn levels_and_services_come_as_often_as_documented() {
        let count = 20_000;
        let totals = logs(7, "a").totals(count);
        for (level, weight) in LEVELS {
            let found: u64 = totals.0[&level].values().sum();
            let share = found as f64 / count as f64 * 100.0;
            assert!((share - f64::from(weight)).abs() < 1.5, "{level:?}: {share} %, documented are {weight}");
            assert_eq!(totals.0[&level].len(), SERVICES.len());
        }
    }

    #[test]
    fn ids_are_unique_over_many_records() {
        let sequence = logs(7, "a");
        let ids: BTreeSet<_> = (0..20_000).map(|i| sequence.record(i, 0).trace_id).collect();
        assert_eq!(ids.len(), 20_000);
    }

    #[test]
    fn requests_are_counted_as_they_are_made() {
        let requests = Requests::default();
        let sequence = Logs::new(Environment::Prod, 1, "a", requests.clone());
        let mut expected = BTreeMap::new();
        for index in 0..500 {
            let record = sequence.record(index, 0);
            sequence.made(&record);
            if let Some(status) = record.status {
                *expected.entry((record.service, status)).or_insert(0) += 1;
            }
        }
        assert_eq!(expected.len(), 15);
        for ((service, status), count) in expected {
            assert_eq!(requests.get_or_create(&Request { service, status }).get(), count);
        }
    }

    #[test]
    fn records_read_as_documented() {
        let sequence = logs(42, "example");
        let one_of = |level| (0..).map(|i| sequence.record(i, 1_700_000_000_000)).find(|r| r.level == level);
        let records: Vec<_> = LEVELS.iter().map(|(level, _)| one_of(*level)).collect();
        insta::assert_snapshot!(serde_json::to_string_pretty(&records).unwrap());
    }
}
