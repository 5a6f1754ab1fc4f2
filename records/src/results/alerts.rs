//! How many errors services log, and when too many: `alert-group` over application-logs.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::{Figure, Results, entry, joined, name_of, number, short};
use crate::scenarios::events::{AppLogs, Severity};

/// When a service logs too many errors.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Length of a window in milliseconds; windows begin at whole multiples of it.
    pub window_ms: i64,
    /// So many ERROR and FATAL records in one window are an alert.
    pub errors: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self { window_ms: 60_000, errors: 5 }
    }
}

/// A window may lie so far back that it is the newest one all the same: what made the other the newest had a wrong clock.
const WRONG_CLOCK_MS: i64 = 3_600_000;

/// Results of one partition.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Alerts {
    /// By service.
    pub services: BTreeMap<String, ServiceResults>,
    /// Records that are no log records.
    pub malformed: u64,
}

/// What one service logged.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ServiceResults {
    /// Records by level.
    pub levels: BTreeMap<Severity, u64>,
    /// Where the newest window begins, in milliseconds since the epoch.
    pub window: i64,
    /// ERROR and FATAL in it.
    pub errors_in_window: u64,
    /// Windows with too many.
    pub alerts: u64,
    /// Whether the newest window has too many.
    pub alerting: bool,
}

/// What counts of a record; other fields may be there.
#[derive(Deserialize)]
struct Log {
    service: String,
    level: Severity,
}

impl ServiceResults {
    /// Whether this record makes it an alert. A record of a window that is over counts by its level alone.
    fn add(&mut self, limits: &Limits, level: Severity, at_ms: i64) -> bool {
        *self.levels.entry(level).or_default() += 1;
        let length = limits.window_ms.max(1);
        let window = at_ms.saturating_sub(at_ms.rem_euclid(length));
        if window > self.window || window < self.window.saturating_sub(WRONG_CLOCK_MS) {
            (self.window, self.errors_in_window, self.alerting) = (window, 0, false);
        }
        if window < self.window || !level.is_error() {
            return false;
        }
        self.errors_in_window += 1;
        if self.alerting || self.errors_in_window < limits.errors {
            return false;
        }
        self.alerting = true;
        self.alerts += 1;
        true
    }
}

impl Results for Alerts {
    type Settings = Limits;

    const GROUP: &'static str = "alert-group";
    const TOPIC: &'static str = AppLogs::TOPIC;
    const BATCH: usize = 100;
    const METRICS: &'static [(&'static str, &'static str)] = &[
        ("alert_log_records", "Log records by service and level"),
        ("alert_errors_in_window", "ERROR and FATAL in the newest window of a service"),
        ("alert_alerting", "1 where the newest window of a service has too many errors"),
        ("alert_alerts", "Windows of a service that had too many errors"),
        ("alert_malformed", "Records that are no log records"),
    ];

    fn add(&mut self, limits: &Limits, record: &[u8], at_ms: i64) -> Result<Option<String>, String> {
        match serde_json::from_slice::<Log>(record) {
            Ok(log) => {
                let service = entry(&mut self.services, &log.service);
                let alert = service.add(limits, log.level, at_ms);
                Ok(alert.then(|| {
                    let seconds = limits.window_ms / 1000;
                    format!(
                        "ALERT {}: {} errors within {seconds} s",
                        short(&log.service),
                        service.errors_in_window
                    )
                }))
            }
            Err(error) => {
                self.malformed += 1;
                Err(error.to_string())
            }
        }
    }

    fn join(&mut self, other: Self) {
        self.malformed += other.malformed;
        for (name, service) in other.services {
            let known = self.services.entry(name).or_default();
            joined(&mut known.levels, service.levels);
            known.alerts += service.alerts;
            if service.window > known.window {
                (known.window, known.alerting) = (service.window, service.alerting);
                known.errors_in_window = service.errors_in_window;
            }
        }
    }

    fn figures(&self) -> Vec<Figure> {
        let mut figures = Vec::new();
        for (name, service) in &self.services {
            let mut push = |metric, level: Option<Severity>, value| {
                let mut labels = vec![("service", name.clone())];
                labels.extend(level.map(|level| ("level", name_of(level))));
                figures.push(Figure { metric, labels, value });
            };
            for (level, count) in &service.levels {
                push("alert_log_records", Some(*level), number(*count));
            }
            push("alert_errors_in_window", None, number(service.errors_in_window));
            push("alert_alerting", None, f64::from(u8::from(service.alerting)));
            push("alert_alerts", None, number(service.alerts));
        }
        figures.push(Figure { metric: "alert_malformed", labels: Vec::new(), value: number(self.malformed) });
        figures
    }
}
