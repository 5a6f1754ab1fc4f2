//! The events platform: what users do, what services log, what hosts measure; a file each. JSON alone. With a run, the users,
//! services and hosts are the run's own: their names end in it.

mod app_logs;
mod host_metrics;
mod user_events;

pub use self::app_logs::{AppLog, AppLogs, Severity};
pub use self::host_metrics::{HostMetric, HostMetrics, HostTotals, Metric, Thresholds};
pub use self::user_events::{EventKind, UserEvent, UserEvents, UserTotals};

use super::Profile;
use crate::writer::Acks;

/// What the seed says of a producer.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Defaults {
    /// librdkafka's settings.
    pub profile: Profile,
    /// Acknowledgement.
    pub acks: Acks,
    /// Records a second.
    pub rate: f64,
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};

    use proptest::prelude::*;
    use rstest::rstest;

    use super::*;
    use crate::scenarios::Sequence;
    use crate::writer::Order;

    fn order(seed: u64, run: Option<&str>) -> Order {
        Order { seed, run: run.map(str::to_owned), ..Order::default() }
    }

    proptest! {
        #[test]
        fn a_record_follows_from_seed_run_and_index(seed: u64, index: u64) {
            fn same<S: Sequence>(of: impl Fn(&Order) -> S, seed: u64, index: u64) {
                let text = |run| serde_json::to_string(&of(&order(seed, run)).record(index, 5)).unwrap();
                assert_eq!(text(Some("a")), text(Some("a")));
                assert_ne!(text(Some("a")), text(Some("b")));
                assert_ne!(text(None), text(Some("b")));
            }
            same(UserEvents::of, seed, index);
            same(AppLogs::of, seed, index);
            same(HostMetrics::of, seed, index);
        }
    }

    #[test]
    fn ids_are_unique_over_many_records() {
        fn unique<S: Sequence>(sequence: &S) {
            let ids: BTreeSet<String> =
                (0..20_000).map(|i| S::id(&sequence.record(i, 0)).to_owned()).collect();
            assert_eq!(ids.len(), 20_000);
        }
        unique(&UserEvents::of(&order(1, None)));
        unique(&AppLogs::of(&order(1, None)));
        unique(&HostMetrics::of(&order(1, None)));
    }

    #[test]
    fn levels_services_and_trace_ids_are_the_seeds() {
        let logs = AppLogs::of(&order(3, None));
        let (mut levels, mut services) = (BTreeMap::<_, u32>::new(), BTreeSet::new());
        for record in (0..20_000).map(|i| logs.record(i, 0)) {
            *levels.entry(record.level).or_default() += 1;
            services.insert(record.service);
            assert_eq!(record.trace_id.is_some(), record.level >= Severity::Error);
        }
        let shares: Vec<f64> = levels.values().map(|count| f64::from(*count) / 200.0).collect();
        for (share, documented) in shares.iter().zip([20.0, 50.0, 20.0, 8.0, 2.0]) {
            assert!((share - documented).abs() < 1.0, "{shares:?}");
        }
        assert_eq!((levels.len(), services.len()), (5, 7));
    }

    #[test]
    fn all_hosts_measure_all_metrics_once_in_a_round_of_twenty_seconds() {
        let metrics = HostMetrics::of(&order(3, None));
        let round: BTreeSet<_> = (36..72).map(|i| metrics.record(i, 0)).map(|r| (r.host, r.metric)).collect();
        assert_eq!(round.len(), 36);
        assert!((36.0 / HostMetrics::DEFAULTS.rate - 20.0).abs() < 1e-9);
    }

    #[test]
    fn rates_together_are_the_seeds() {
        let rates = [UserEvents::DEFAULTS.rate, AppLogs::DEFAULTS.rate, HostMetrics::DEFAULTS.rate];
        assert!((rates.iter().sum::<f64>() - 2.6).abs() < 1e-9);
    }

    #[test]
    fn a_value_goes_up_and_down_slowly_and_peaks_are_anomalies() {
        let metrics = HostMetrics::of(&order(3, None));
        let cpu: Vec<f64> = (0..720).map(|round| metrics.record(round * 36, 0).value).collect();
        let peaks = cpu.iter().filter(|v| Thresholds::default().exceeded("web-server-01", Metric::Cpu, **v));
        let peaks = peaks.count();
        assert!((8..=40).contains(&peaks), "{peaks} of 720");
        let mean = |values: &[f64]| {
            let calm: Vec<f64> = values.iter().copied().filter(|v| *v < 90.0).collect();
            calm.iter().sum::<f64>() / calm.len() as f64
        };
        // Down at the ends of a wave of 180 rounds, up in the middle.
        let (low, high) = (mean(&cpu[..20]), mean(&cpu[80..100]));
        assert!(low < 30.0 && high > 60.0, "{low} {high}");
    }

    #[rstest]
    #[case("web-server-01", 91.0, true)]
    #[case("web-server-01", 90.0, false)]
    #[case("cache-server-01", 91.0, false)]
    #[case("cache-server-01-run7", 91.0, false)]
    #[case("cache-server-01", 95.1, true)]
    #[case("cache-server-012", 91.0, true)]
    fn a_host_has_its_own_threshold(#[case] host: &str, #[case] value: f64, #[case] anomaly: bool) {
        assert_eq!(Thresholds::default().exceeded(host, Metric::Memory, value), anomaly);
    }

    #[test]
    fn a_threshold_is_set_for_all_hosts_or_one() {
        let mut thresholds = Thresholds::default();
        thresholds.set("cpu=10").unwrap();
        thresholds.set("db-server-01:cpu=20.5").unwrap();
        assert!(thresholds.exceeded("web-server-01", Metric::Cpu, 11.0));
        assert!(!thresholds.exceeded("db-server-01", Metric::Cpu, 20.0));
        for wrong in ["", "cpu", "cpu=", "cpu=much", "cpu=inf", "heat=3", "a:b:cpu=3", ":cpu=3", "=3"] {
            assert!(thresholds.set(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn records_read_as_documented() {
        let of = order(42, Some("example"));
        let at = 1_700_000_000_000;
        let events = UserEvents::of(&of);
        let one_of = |kind| (0..).map(|i| events.record(i, at)).find(|event| event.event_type == kind);
        let events = [EventKind::PageView, EventKind::Search, EventKind::Purchase].map(one_of);
        let logs = [0, 9].map(|i| AppLogs::of(&of).record(i, at));
        let metrics = [0, 9, 18, 27].map(|i| HostMetrics::of(&of).record(i, at));
        insta::assert_snapshot!(serde_json::to_string_pretty(&(events, logs, metrics)).unwrap());
    }
}
