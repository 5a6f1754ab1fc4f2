//! The executable spec: every flow, port and command line of `lab.toml` is one trial against one real lab.
//!
//! - [`kafka`]: the cluster itself
//! - [`transactions`]: producers → Kafka, JSON and Avro, counted exactly
//! - [`spark`]: Kafka → Spark → Kafka
//! - [`faults`]: killed brokers, controllers, driver, registry; the lab stopped and started again
//! - [`ports`], [`command_rows`]: the documented tables
//! - [`metrics`]: exporters and agents → Prometheus; [`dashboards`]: Prometheus → every panel
//! - [`alerts`]: fault → Prometheus → Alertmanager → receiver → resolved
//! - [`health`]: readiness as compose and the virtual machine ask for it
//! - [`logs`]: nothing unexpected was said while all this ran
//!
//! `cargo test --test spec avro` starts only what those flows need; `--list` starts nothing. `LAB_ATTACH=<instance or
//! endpoints file>` asks a lab that runs already; it suffers no fault without `--faults`.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test that cannot go on has failed")]

mod alerts;
mod command_rows;
mod dashboards;
mod exact;
mod faults;
mod harness;
mod health;
mod kafka;
mod lab;
mod logs;
mod metrics;
mod ports;
mod receivers;
mod report;
mod spark;
mod transactions;

use std::process::ExitCode;

use libtest_mimic::Arguments;

/// The flows of `lab.toml` and the functions that prove them: a flow without a function, or a function without a
/// flow, is an error before anything starts.
fn flows() -> Vec<harness::FlowTest> {
    use harness::{flow, flow_with_engine};
    vec![
        flow_with_engine("kraft-quorum", |lab| Box::pin(kafka::kraft_quorum(lab))),
        flow("transactions-python", |lab| Box::pin(transactions::python(lab))),
        flow_with_engine("transactions-java", |lab| Box::pin(transactions::java(lab))),
        flow("transactions-avro", |lab| Box::pin(transactions::avro(lab))),
        flow("schema-rejected", |lab| Box::pin(transactions::schema_rejected(lab))),
        flow("spark-aggregates", |lab| Box::pin(spark::aggregates(lab))),
        flow("high-value-orders", |lab| Box::pin(spark::high_value_orders(lab))),
        flow("load-test", |lab| Box::pin(spark::load_test(lab))),
        flow("exact-beside-live-producer", |lab| Box::pin(spark::exact_beside_live_producer(lab))),
        flow_with_engine("jmx-metrics", |lab| Box::pin(metrics::jmx_metrics(lab))),
        flow("jvm-memory", |lab| Box::pin(metrics::jvm_memory(lab))),
        flow_with_engine("consumer-lag", |lab| Box::pin(metrics::consumer_lag(lab))),
        flow("app-metrics", |lab| Box::pin(metrics::app_metrics(lab))),
        flow("dashboards", |lab| Box::pin(dashboards::every_panel(lab))),
        flow("grafana", |lab| Box::pin(dashboards::by_grafana(lab))),
        flow_with_engine("alert-broker-down", |lab| Box::pin(alerts::broker_down(lab))),
        flow_with_engine("alert-lag", |lab| Box::pin(alerts::lag(lab))),
        flow_with_engine("alert-silenced", |lab| Box::pin(alerts::silenced(lab))),
        flow_with_engine("alert-receiver-lost", |lab| Box::pin(alerts::receiver_lost(lab))),
        flow_with_engine("prometheus-restarted", |lab| Box::pin(alerts::prometheus_restarted(lab))),
        flow_with_engine("spark-recovery", |lab| Box::pin(faults::spark_recovery(lab))),
        flow_with_engine("broker-killed", |lab| Box::pin(faults::broker_killed(lab))),
        flow_with_engine("broker-addresses-swapped", |lab| Box::pin(faults::broker_addresses_swapped(lab))),
        flow_with_engine("controller-lost", |lab| Box::pin(faults::controller_lost(lab))),
        flow_with_engine("quorum-lost", |lab| Box::pin(faults::quorum_lost(lab))),
        flow_with_engine("registry-lost", |lab| Box::pin(faults::registry_lost(lab))),
        flow_with_engine("records-survive-down", |lab| Box::pin(faults::records_survive_down(lab))),
    ]
}

fn main() -> ExitCode {
    // `--faults` is ours; libtest-mimic would refuse it.
    let faults = std::env::args().any(|a| a == "--faults");
    let mut args = Arguments::from_iter(std::env::args().filter(|a| a != "--faults"));
    // Flows wait, they do not compute.
    args.test_threads = Some(args.test_threads.unwrap_or(16).max(16));
    harness::run(&args, flows(), faults)
}
