//! The live line of a running lab: records produced, aggregated and lagging, from Kafka itself.

use std::collections::BTreeMap;
use std::io::Write as _;
use std::time::Duration;

use anyhow::Result;
use serde_json::Value;
use tokio::sync::watch;

use crate::clients::kafka;
use crate::scenarios::transactions::{AGGREGATES_TOPIC, TOPIC};
use crate::topology::Endpoints;

/// What is known so far: the newest count of each merchant, and how far the topic was read.
#[derive(Default)]
struct Counts {
    by_merchant: BTreeMap<String, u64>,
    read_to: BTreeMap<i32, i64>,
}

/// Rewrites one line every second until `cancel` turns true.
pub(super) async fn follow(endpoints: &Endpoints, mut cancel: watch::Receiver<bool>) {
    if endpoints.bootstrap().is_empty() {
        return;
    }
    let mut counts = Counts::default();
    let mut ticks = tokio::time::interval(Duration::from_secs(1));
    loop {
        tokio::select! {
            _ = ticks.tick() => {}
            _ = cancel.wait_for(|c| *c) => break,
        }
        let line = tokio::select! {
            line = line(endpoints, &mut counts) => line,
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

async fn line(endpoints: &Endpoints, counts: &mut Counts) -> Result<String> {
    let bootstrap = endpoints.bootstrap();
    let produced: i64 =
        kafka::offsets(&bootstrap, TOPIC).await?.values().map(|(begin, end)| end - begin).sum();
    let from = counts.read_to.clone();
    let (new, ends) = kafka::read_topic(&bootstrap, AGGREGATES_TOPIC, from, |record| {
        let value: Value = serde_json::from_slice(&record.value).ok()?;
        Some((record.key?, value["transactionCount"].as_u64()?))
    })
    .await?;
    counts.by_merchant.extend(new);
    counts.read_to = ends;
    let aggregated: u64 = counts.by_merchant.values().sum();
    let lag = produced.saturating_sub_unsigned(aggregated).max(0);
    Ok(format!("produced {produced} · aggregated {aggregated} · lagging {lag}"))
}
