//! What services log.

use std::collections::BTreeMap;

use anyhow::Result;
use rand::RngExt;
use schema_registry_converter::async_impl::avro::AvroEncoder;
use serde::{Deserialize, Serialize};
use tokio::sync::watch;
use tokio::task::JoinHandle;

use super::Defaults;
use crate::scenarios::draw::{self, Run};
use crate::scenarios::{Format, Profile, Sequence};
use crate::writer::{Acks, Ledger, Order, Writer};

/// Levels, and how many records of a hundred have them.
const LEVELS: [(Severity, u32); 5] = [
    (Severity::Debug, 20),
    (Severity::Info, 50),
    (Severity::Warn, 20),
    (Severity::Error, 8),
    (Severity::Fatal, 2),
];

const SERVICES: [&str; 7] = [
    "api-gateway",
    "user-service",
    "order-service",
    "payment-service",
    "inventory-service",
    "notification-service",
    "auth-service",
];

/// How bad a record is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum Severity {
    /// What only developers read.
    Debug,
    /// It went well.
    Info,
    /// Somebody should look at it.
    Warn,
    /// A request failed.
    Error,
    /// The service cannot go on.
    Fatal,
}

impl Severity {
    /// Whether it counts as an error.
    pub fn is_error(self) -> bool {
        matches!(self, Self::Error | Self::Fatal)
    }

    fn message(self, service: &str, number: u32) -> String {
        match self {
            Self::Debug => format!("cache entry {number} of {service} read"),
            Self::Info => format!("request {number} answered"),
            Self::Warn => format!("request {number} took longer than a second"),
            Self::Error => format!("request {number} failed: connection refused"),
            Self::Fatal => format!("{service} ends: no memory left for request {number}"),
        }
    }
}

/// One record.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct AppLog {
    /// UUID.
    pub log_id: String,
    /// ISO 8601 in UTC, with milliseconds.
    pub timestamp: String,
    /// How bad.
    pub level: Severity,
    /// Who says it, with the run's suffix where there is one; the record's key.
    pub service: String,
    /// What is said.
    pub message: String,
    /// 32 hex digits; only with ERROR and FATAL.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub trace_id: Option<String>,
}

/// A seeded, endless sequence of log records.
#[derive(Debug, Clone)]
pub struct AppLogs {
    run: Run,
}

impl AppLogs {
    /// Topic of the records.
    pub const TOPIC: &'static str = "application-logs";
    /// The seed's log producer.
    pub const DEFAULTS: Defaults = Defaults {
        profile: Profile { name: "app-logs", settings: &[("compression.type", "gzip")] },
        acks: Acks::Leader,
        rate: 0.3,
    };

    /// The sequence that an order means.
    pub fn of(order: &Order) -> Self {
        Self { run: Run::new(order.seed, order.run.as_deref()) }
    }
}

impl Sequence for AppLogs {
    type Record = AppLog;
    /// How many, by service and level.
    type Totals = BTreeMap<String, BTreeMap<Severity, u64>>;
    type InShort = BTreeMap<String, BTreeMap<Severity, u64>>;

    fn record(&self, index: u64, time_ms: i64) -> AppLog {
        let mut random = self.run.at(index);
        let log_id = draw::uuid(&mut random).to_string();
        let level = draw::weighted(&mut random, &LEVELS);
        let service = SERVICES[random.random_range(0..SERVICES.len())];
        let message = level.message(service, random.random_range(1..=99_999));
        let trace = draw::uuid(&mut random).simple().to_string();
        AppLog {
            log_id,
            timestamp: draw::timestamp(time_ms),
            level,
            service: self.run.own(service),
            message,
            trace_id: level.is_error().then_some(trace),
        }
    }

    fn topic(&self, _: Format) -> &'static str {
        Self::TOPIC
    }

    fn id(record: &AppLog) -> &str {
        &record.log_id
    }

    fn key(record: &AppLog) -> &str {
        &record.service
    }

    fn add(totals: &mut Self::Totals, record: &AppLog) {
        let of_service = totals.entry(record.service.clone()).or_default();
        *of_service.entry(record.level).or_default() += 1;
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
