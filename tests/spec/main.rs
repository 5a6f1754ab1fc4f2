//! The executable spec: every flow, port, topic and command line of `lab.toml` is one trial against a real lab.
//!
//! Chapters, each gives its own trials:
//! - [`kafka`]: the cluster itself; [`topics`]: the documented topics
//! - [`transactions`]: producers → Kafka, JSON and Avro, counted exactly; [`events`]: the same of the events lab
//! - [`event_groups`]: producers → Kafka → consumer groups, whose sums are the producers' totals
//! - [`console`]: Kafka → the console's API; [`console_pages`], [`console_logs`], [`console_faults`], [`console_alerts`]: its pages in a real browser ([`browser`])
//! - [`spark`]: Kafka → Spark → Kafka; [`spark_search`]: Kafka → Spark → Elasticsearch
//! - [`faults`]: killed brokers, controllers, driver, registry; the lab stopped and started again
//! - [`plans`]: each container is what the plan says; [`ports`], [`command_rows`]: the documented tables
//! - [`metrics`]: exporters and agents → Prometheus; [`dashboards`]: Prometheus → every panel; [`drawn`]: these in a real browser
//! - [`log_lines`]: log files → Elasticsearch; [`log_records`], [`log_producers`]: records and lines of applications → Elasticsearch
//! - [`views`]: what Kibana shows of Elasticsearch
//! - [`alerts`], [`followed`]: fault → Prometheus → Alertmanager → receiver → resolved
//! - [`health`]: readiness as compose and the virtual machine ask for it
//! - [`logs`]: nothing unexpected was said while all this ran
//!
//! Around them: [`trial`] (what a trial is), [`schedule`] (who runs when), [`locks`] and [`episode`] (faults side by side),
//! [`lab`] (the lab under test), [`harness`] (from arguments to exit code), [`report`].
//!
//! `cargo test --test spec avro` starts only what those flows need; `--list` starts nothing; `LAB=events` picks one lab.
//! `LAB_ATTACH=<instance or endpoints file>` asks a lab that runs already; it suffers no fault without `--faults`.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test that cannot go on has failed")]

mod alerts;
mod avro_topic;
mod browser;
mod command_rows;
mod console;
mod console_alerts;
mod console_faults;
mod console_logs;
mod console_pages;
mod dashboards;
mod drawn;
mod episode;
mod event_groups;
mod events;
mod exact;
mod faults;
mod followed;
mod harness;
mod health;
mod kafka;
mod lab;
mod locks;
mod log_lines;
mod log_producers;
mod log_records;
mod logs;
mod metrics;
mod plans;
mod ports;
mod receivers;
mod report;
mod schedule;
mod spark;
mod spark_search;
mod topics;
mod transactions;
mod trial;
mod views;
#[path = "../support/written.rs"]
mod written;

use std::process::ExitCode;

use libtest_mimic::Arguments;

const CHAPTERS: [fn(&trial::Chapter<'_>) -> Vec<trial::Trial>; 25] = [
    kafka::trials,
    topics::trials,
    transactions::trials,
    events::trials,
    event_groups::trials,
    console::trials,
    console_pages::trials,
    console_faults::trials,
    console_logs::trials,
    spark::trials,
    spark_search::trials,
    metrics::trials,
    log_lines::trials,
    log_records::trials,
    log_producers::trials,
    dashboards::trials,
    drawn::trials,
    views::trials,
    plans::trials,
    ports::trials,
    health::trials,
    command_rows::trials,
    logs::trials,
    alerts::trials,
    faults::trials,
];

fn main() -> ExitCode {
    // `--faults` is ours; libtest-mimic would refuse it.
    let faults = std::env::args().any(|a| a == "--faults");
    let args = Arguments::from_iter(std::env::args().filter(|a| a != "--faults"));
    harness::run(args, &CHAPTERS, faults)
}
