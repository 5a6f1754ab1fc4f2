//! The live line of a running lab, from Kafka itself: records of the transactions scenario produced, aggregated and lagging; in
//! a lab without that scenario, records in each topic.

use std::collections::BTreeMap;
use std::io::Write as _;
use std::time::Duration;

use anyhow::Result;
use tokio::sync::watch;

use crate::clients::prometheus::Prometheus;
use crate::clients::{kafka, scenarios};
use crate::scenarios::transactions::TOPIC;
use crate::topology::{Endpoints, Plan};

/// What is known so far: the newest count of each merchant, and how far the topic was read.
#[derive(Default)]
struct Counts {
    by_merchant: BTreeMap<String, u64>,
    read_to: BTreeMap<i32, i64>,
}

fn has_transactions(plan: &Plan) -> bool {
    plan.topics.iter().any(|t| t.name == TOPIC)
}

/// What the line's words mean, in a lab that has one.
pub(super) fn explained(plan: &Plan) -> Option<&'static str> {
    if has_transactions(plan) {
        Some(
            "produced counts what is in the topic, aggregated what Spark has counted; lagging: what the slower of its queries has not read yet, as Prometheus saw it last.",
        )
    } else if plan.topics.is_empty() {
        None
    } else {
        Some("The line counts the records in each topic.")
    }
}

/// Rewrites one line every second until `cancel` turns true.
pub(super) async fn follow(plan: &Plan, endpoints: &Endpoints, mut cancel: watch::Receiver<bool>) {
    let bootstrap = endpoints.bootstrap();
    if bootstrap.is_empty() {
        return;
    }
    let prometheus = endpoints.url("prometheus", "web").ok().map(Prometheus::new);
    let mut counts = Counts::default();
    let mut ticks = tokio::time::interval(Duration::from_secs(1));
    loop {
        tokio::select! {
            _ = ticks.tick() => {}
            _ = cancel.wait_for(|c| *c) => break,
        }
        let line = async {
            if has_transactions(plan) {
                transactions(&bootstrap, prometheus.as_ref(), &mut counts).await
            } else {
                topics(&bootstrap, plan).await
            }
        };
        let line = tokio::select! {
            line = line => line,
            _ = cancel.wait_for(|c| *c) => break,
        };
        let text = line.unwrap_or_else(|e| format!("Kafka does not answer: {e:#}"));
        let mut out = std::io::stdout();
        if write!(out, "\r\x1b[2K{text}").and_then(|()| out.flush()).is_err() {
            return;
        }
    }
    say!("");
}

async fn records(bootstrap: &str, topic: &str) -> Result<i64> {
    Ok(kafka::offsets(bootstrap, topic).await?.values().map(|(begin, end)| end - begin).sum())
}

/// What was written less what was counted would grow for ever: malformed records and the markers of transactions are never counted.
const BEHIND: &str = "max(sum by (query) (spark_query_records_behind))";

async fn transactions(
    bootstrap: &str,
    prometheus: Option<&Prometheus>,
    counts: &mut Counts,
) -> Result<String> {
    let produced = records(bootstrap, TOPIC).await?;
    let new = scenarios::aggregates(bootstrap, counts.read_to.clone(), |_| true).await?;
    counts.by_merchant.extend(new.merchants.into_iter().map(|(m, total)| (m, total.transaction_count)));
    counts.read_to = new.ends;
    let aggregated: u64 = counts.by_merchant.values().sum();
    let behind = match prometheus {
        Some(prometheus) => prometheus.sum(BEHIND).await.ok().flatten(),
        None => None,
    };
    let lagging = behind.map_or("not known yet".to_owned(), |records| records.to_string());
    Ok(format!("produced {produced} · aggregated {aggregated} · lagging {lagging}"))
}

async fn topics(bootstrap: &str, plan: &Plan) -> Result<String> {
    let mut parts = Vec::new();
    for topic in &plan.topics {
        parts.push(format!("{} {}", topic.name, records(bootstrap, &topic.name).await?));
    }
    Ok(parts.join(" · "))
}
