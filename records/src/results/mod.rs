//! What consumers add up of records, a file each: the results of one partition's records up to an offset. They follow from these
//! records alone, so reading on from any kept result gives the same as reading once.

mod alerts;
mod analytics;
mod logger;

use std::collections::BTreeMap;

use serde::Serialize;
use serde::de::DeserializeOwned;

pub use self::alerts::{Alerts, Limits, ServiceResults};
pub use self::analytics::{Analytics, UserResults};
pub use self::logger::{Logger, Samples};

/// Names that are told apart in one partition, and the bytes of one; what is beyond shares one entry. Nobody must be able to fill a
/// consumer's memory by new names.
const NAMES: usize = 10_000;
const NAME: usize = 128;
/// The entry of all other names.
pub const OTHERS: &str = "(others)";

/// One number for Prometheus.
#[derive(Debug, Clone, PartialEq)]
pub struct Figure {
    /// The metric.
    pub metric: &'static str,
    /// Label and value.
    pub labels: Vec<(&'static str, String)>,
    /// The number.
    pub value: f64,
}

/// What a consumer group is, and what it adds up.
pub trait Results: Default + Clone + Serialize + DeserializeOwned + Send + Sync + 'static {
    /// What it is told besides the records.
    type Settings: Clone + Default + std::fmt::Debug + Send + Sync + 'static;

    /// The consumer group.
    const GROUP: &'static str;
    /// The topic that it reads.
    const TOPIC: &'static str;
    /// Records that are taken at once, at most.
    const BATCH: usize;
    /// Metric and what it means, of each that [`Results::figures`] gives.
    const METRICS: &'static [(&'static str, &'static str)];

    /// Adds a record that Kafka dates `at_ms` (since the epoch). What somebody should hear of it, if anything.
    ///
    /// # Errors
    /// Why it is none of the records that the topic is for; it is counted as malformed.
    fn add(&mut self, settings: &Self::Settings, record: &[u8], at_ms: i64)
    -> Result<Option<String>, String>;
    /// Adds what was added up of another partition.
    fn join(&mut self, other: Self);
    /// The same as numbers.
    fn figures(&self) -> Vec<Figure>;
}

/// The entry of a name, a new one where there is room.
fn entry<'a, T: Default>(map: &'a mut BTreeMap<String, T>, name: &str) -> &'a mut T {
    let fits = name.len() <= NAME && (map.len() < NAMES || map.contains_key(name));
    map.entry(if fits { name } else { OTHERS }.to_owned()).or_default()
}

/// A name for a line of a log.
fn short(name: &str) -> String {
    format!("{:?}", name.chars().take(NAME).collect::<String>())
}

fn joined<K: Ord>(counts: &mut BTreeMap<K, u64>, others: BTreeMap<K, u64>) {
    for (key, count) in others {
        *counts.entry(key).or_default() += count;
    }
}

#[allow(clippy::cast_precision_loss, reason = "a count for a chart")]
fn number(count: u64) -> f64 {
    count as f64
}

/// The name that a value has in JSON.
fn name_of(value: impl Serialize) -> String {
    serde_json::to_value(value).ok().and_then(|name| name.as_str().map(str::to_owned)).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::scenarios::Sequence;
    use crate::scenarios::events::{AppLogs, HostMetrics, UserEvents};
    use crate::writer::Order;

    const BASE: i64 = 1_700_000_000_000;

    fn order(run: &str) -> Order {
        Order { seed: 7, run: Some(run.to_owned()), ..Order::default() }
    }

    /// The results of records, kept and read again after each `kept` of them.
    fn added<R: Results>(records: &[(Vec<u8>, i64)], kept: usize) -> R {
        let mut results = R::default();
        for (number, (record, at)) in records.iter().enumerate() {
            if number % kept == 0 {
                results = serde_json::from_slice(&serde_json::to_vec(&results).unwrap()).unwrap();
            }
            let _ = results.add(&R::Settings::default(), record, *at);
        }
        results
    }

    fn records<S: Sequence>(sequence: &S, count: u64) -> Vec<(Vec<u8>, i64)> {
        let at = |index: u64| BASE + i64::try_from(index).unwrap() * 100;
        (0..count).map(|i| (serde_json::to_vec(&sequence.record(i, at(i))).unwrap(), at(i))).collect()
    }

    /// What three partitions add up, joined.
    fn of_three<R: Results>(records: Vec<(Vec<u8>, i64)>, key: impl Fn(&[u8]) -> usize) -> R {
        let mut partitions = [Vec::new(), Vec::new(), Vec::new()];
        records.into_iter().for_each(|record| partitions[key(&record.0) % 3].push(record));
        let mut all = R::default();
        partitions.iter().for_each(|partition| all.join(added(partition, 50)));
        all
    }

    #[test]
    fn users_of_all_partitions_are_the_generators_totals() {
        let sequence = UserEvents::of(&order("a"));
        let mut totals = Default::default();
        (0..3000).for_each(|i| UserEvents::add(&mut totals, &sequence.record(i, 0)));
        let by_user = |record: &[u8]| {
            let event: serde_json::Value = serde_json::from_slice(record).unwrap();
            event["userId"].as_str().unwrap().len()
        };
        let found: Analytics = of_three(records(&sequence, 3000), by_user);
        assert_eq!(found.users.len(), totals.len());
        for (user, total) in totals {
            assert!(user.ends_with("-a"), "{user}");
            assert_eq!(
                (&found.users[&user].events, found.users[&user].amount),
                (&total.events, total.amount)
            );
        }
        assert!(found.users.values().any(|user| user.from_cart > 0));
        let whole: Analytics = added(&records(&sequence, 3000), usize::MAX);
        assert_eq!(whole.users, found.users);
    }

    #[test]
    fn services_and_hosts_are_the_generators_totals() {
        let logs = AppLogs::of(&order("a"));
        let mut totals = Default::default();
        (0..3000).for_each(|i| AppLogs::add(&mut totals, &logs.record(i, 0)));
        let found: Alerts = added(&records(&logs, 3000), 77);
        let levels = found.services.iter().map(|(name, s)| (name.clone(), s.levels.clone()));
        assert_eq!(levels.collect::<BTreeMap<_, _>>(), totals);

        let metrics = HostMetrics::of(&order("a"));
        let mut totals = Default::default();
        (0..3600).for_each(|i| HostMetrics::add(&mut totals, &metrics.record(i, 0)));
        let found: Logger = added(&records(&metrics, 3600), 77);
        assert_eq!(found.hosts.len(), 9);
        for (host, metrics) in totals {
            for (metric, total) in metrics {
                let samples = &found.hosts[&host][&metric];
                assert_eq!(
                    (samples.count, samples.anomalies),
                    (total.count, total.anomalies),
                    "{host} {metric:?}"
                );
                assert!(samples.min <= samples.mean && samples.mean <= samples.max);
            }
        }
    }

    proptest! {
        #[test]
        fn whatever_comes_is_counted_and_can_be_kept(
            record in prop_oneof![
                any::<Vec<u8>>(),
                "\\PC{0,20}".prop_map(String::into_bytes),
                any::<f64>().prop_map(|v| format!(r#"{{"host":"h","metric":"cpu","value":{v:e}}}"#).into_bytes()),
                any::<u64>().prop_map(|v| format!(r#"{{"userId":"u","eventType":"purchase","amount":{v}}}"#).into_bytes()),
                "[a-z]{0,200}".prop_map(|s| format!(r#"{{"service":"{s}","level":"FATAL"}}"#).into_bytes()),
            ],
            at: i64,
        ) {
            let both = [(record.clone(), at), (record, at.wrapping_add(1))];
            prop_assert_eq!(added::<Analytics>(&both, 1), added(&both, 2));
            prop_assert_eq!(added::<Alerts>(&both, 1), added(&both, 2));
            prop_assert_eq!(added::<Logger>(&both, 1), added(&both, 2));
        }
    }

    #[test]
    fn new_names_do_not_fill_the_memory() {
        let mut results = Analytics::default();
        let event = |user: &str| format!(r#"{{"userId":"{user}","eventType":"login"}}"#);
        for number in 0..NAMES + 50 {
            results.add(&(), event(&format!("user {number}")).as_bytes(), 0).unwrap();
        }
        results.add(&(), event(&"x".repeat(NAME + 1)).as_bytes(), 0).unwrap();
        results.add(&(), event("user 3").as_bytes(), 0).unwrap();
        assert_eq!(results.users.len(), NAMES + 1);
        let logins = |user: &str| results.users[user].events.values().sum::<u64>();
        assert_eq!((logins(OTHERS), logins("user 3")), (51, 2));
    }

    #[test]
    fn an_amount_that_nobody_pays_is_malformed() {
        let mut results = Analytics::default();
        let mut add = |amount: &str| {
            let event = format!(r#"{{"userId":"u","eventType":"purchase","amount":{amount}}}"#);
            results.add(&(), event.as_bytes(), 0).is_ok()
        };
        assert!(add("10000000000000.00") && !add("10000000000000.01") && !add("1e26"));
        assert_eq!((results.malformed, results.users["u"].amount.0), (2, 1_000_000_000_000_000));
    }

    #[test]
    fn a_long_name_is_no_long_line() {
        let mut results = Logger::default();
        let sample = format!(r#"{{"host":"{}","metric":"cpu","value":99}}"#, "h".repeat(100_000));
        let said = results.add(&Default::default(), sample.as_bytes(), 0).unwrap().unwrap();
        assert!(said.len() < 200, "{} letters", said.len());
    }

    fn log(service: &str, level: &str) -> Vec<u8> {
        format!(r#"{{"service":"{service}","level":"{level}"}}"#).into_bytes()
    }

    #[test]
    fn five_errors_in_one_window_are_one_alert() {
        let mut results = Alerts::default();
        let mut add = |level: &str, second: i64| {
            results.add(&Limits::default(), &log("api", level), second * 1000).unwrap().is_some()
        };
        for second in 60..64 {
            assert!(!add("ERROR", second));
        }
        assert!(!add("WARN", 64));
        assert!(add("FATAL", 119), "the fifth");
        assert!(!add("ERROR", 119), "said once");
        // Late: it belongs to the window before.
        assert!(!add("ERROR", 59));
        for second in 120..124 {
            assert!(!add("ERROR", second), "a new window begins at none");
        }
        assert!(add("ERROR", 179));
        // A record from the far future does not end all windows that come.
        assert!(!add("ERROR", 9_000_000_000));
        for second in 180..184 {
            assert!(!add("ERROR", second));
        }
        assert!(add("ERROR", 185));
        let api = &results.services["api"];
        assert_eq!((api.alerts, api.alerting, api.errors_in_window), (3, true, 5));
    }

    #[test]
    fn figures_have_only_documented_names() {
        fn of<R: Results>(results: &R) {
            let figures = results.figures();
            assert!(!figures.is_empty());
            for figure in figures {
                assert!(R::METRICS.iter().any(|(name, _)| *name == figure.metric), "{figure:?}");
            }
        }
        of::<Analytics>(&added(&records(&UserEvents::of(&order("a")), 300), 1000));
        of::<Alerts>(&added(&records(&AppLogs::of(&order("a")), 300), 1000));
        of::<Logger>(&added(&records(&HostMetrics::of(&order("a")), 300), 1000));
    }
}
