//! What breaks and comes back: each fault is undone before its trial ends.

use std::collections::BTreeMap;
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use streamlab::clients::kafka;
use streamlab::clients::producer::{Acks, Format, Order, Progress, produce};
use streamlab::probes::{Answer, eventually};
use streamlab::scenarios::transactions::{AVRO_TOPIC, TOPIC, Totals};
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::sync::watch;

use crate::harness::PATIENCE;
use crate::kafka::{quorum, voters_follow};
use crate::lab::Lab;
use crate::spark::{high_value_comes_out, totals_come_out, totals_of};
use crate::transactions::{decoded_run, matches_ledger, new_run, order, produced, read_run};

const EVERY: Duration = Duration::from_millis(500);

pub(crate) async fn spark_recovery(lab: Arc<Lab>) -> Result<String> {
    let run = new_run();
    let mut expected = Totals::default();
    // Before the kill: known to be counted. Around it: in the middle of a batch. While it is dead: waiting in Kafka.
    let parts =
        [(1, 200), (2, 400), (3, 200)].map(|(seed, count)| Order { seed, ..order(&lab, &run, count) });
    for (part, order) in parts.iter().enumerate() {
        if part == 2 {
            lab.kill("transaction-processor").await?;
        }
        let ledger = produced(order).await?;
        for (merchant, total) in ledger.totals.merchants {
            let sum = expected.merchants.entry(merchant).or_insert_with(|| {
                streamlab::scenarios::transactions::MerchantTotal {
                    transaction_count: 0,
                    total_amount: streamlab::scenarios::transactions::Cents(0),
                }
            });
            sum.transaction_count += total.transaction_count;
            sum.total_amount.0 += total.total_amount.0;
        }
        expected.high_value.extend(ledger.totals.high_value);
        if part == 0 {
            eventually("Spark has begun to count this run", PATIENCE, EVERY, || async {
                let found = totals_of(&lab, &run).await?;
                Ok(if found.is_empty() { Answer::NotYet("no totals".to_owned()) } else { Answer::Is(()) })
            })
            .await?;
        }
    }
    lab.start_again("transaction-processor").await?;
    totals_come_out(&lab, &run, &expected).await?;
    let duplicates = high_value_comes_out(&lab, &run, &expected).await?;
    // A replayed batch writes its high-value records again: at least once, and no record more than twice.
    if let Some((id, n)) = duplicates.iter().find(|(_, n)| **n > 2) {
        bail!("one replay cannot write {id} {n} times");
    }
    Ok(format!(
        "{} high-value records, {} of them twice (the replayed batch)",
        expected.high_value.len(),
        duplicates.len()
    ))
}

pub(crate) async fn broker_killed(lab: Arc<Lab>) -> Result<String> {
    let run = new_run();
    let order = Order { acks: Acks::All, rate: Some(150.0), ..order(&lab, &run, 4_500) };
    let (_stop, never) = watch::channel(false);
    let progress = Arc::new(Progress::default());
    let producing = {
        let (order, progress) = (order.clone(), Arc::clone(&progress));
        tokio::spawn(async move { produce(&order, progress, never).await })
    };
    let acknowledged = || progress.acknowledged.get();
    let reaches = |n: u64| {
        let acknowledged = &acknowledged;
        eventually("producers write", PATIENCE, Duration::from_millis(100), move || async move {
            let now = acknowledged();
            Ok(if now >= n { Answer::Is(now) } else { Answer::NotYet(format!("{now} acknowledged")) })
        })
    };
    let at_kill = reaches(500).await?;
    lab.kill("kafka-broker-1").await?;
    let ledger = producing.await??;
    if ledger.acknowledged != 4_500 || ledger.acknowledged <= at_kill {
        bail!(
            "killed at {at_kill}; in the end {} acknowledged, failed: {:?}",
            ledger.acknowledged,
            ledger.failed
        );
    }
    lab.start_again("kafka-broker-1").await?;
    every_isr_is_whole(&lab, TOPIC).await?;
    matches_ledger(&ledger, &order, &read_run(&lab, &ledger, &run).await?)?;
    Ok(format!("killed after {at_kill} of {} records", ledger.acknowledged))
}

/// The engine gives a container that starts again the lowest address that is free, so the order decides who gets whose. A
/// client that remembers names for long then writes to one broker what another leads, for as long as the connection lasts.
pub(crate) async fn broker_addresses_swapped(lab: Arc<Lab>) -> Result<String> {
    const BROKERS: [&str; 3] = ["kafka-broker-1", "kafka-broker-2", "kafka-broker-3"];
    let mut addresses = Vec::new();
    // The first time clients look the names up, the second time they remember them.
    for order_of_start in [[1, 2, 3], [1, 3, 2]] {
        for broker in BROKERS {
            lab.kill(broker).await?;
        }
        let started = order_of_start.map(|n| BROKERS[n - 1]);
        lab.start_all_again(&started).await?;
        let run = new_run();
        let ledger = produced(&order(&lab, &run, 150)).await?;
        totals_come_out(&lab, &run, &ledger.totals).await?;
        addresses.push(lab.addresses(&BROKERS).await?);
    }
    every_isr_is_whole(&lab, TOPIC).await?;
    let [first, second] = [&addresses[0], &addresses[1]].map(|a| a.join(", "));
    Ok(format!("brokers 1, 2, 3 at {first}; then at {second}"))
}

async fn every_isr_is_whole(lab: &Lab, topic: &str) -> Result<()> {
    eventually(&format!("every replica of {topic} is in sync"), PATIENCE, EVERY, || async {
        let shape = kafka::topic_shape(&lab.bootstrap(), topic).await?;
        let behind: Vec<_> = shape.partitions.iter().filter(|(_, (_, _, isr))| isr.len() != 3).collect();
        Ok(if behind.is_empty() { Answer::Is(()) } else { Answer::NotYet(format!("{behind:?}")) })
    })
    .await?;
    Ok(())
}

/// A metadata change: a topic is created, seen by every broker, and deleted.
async fn metadata_changes(lab: &Lab) -> Result<()> {
    let topic = format!("change-{}", new_run());
    kafka::create_topic(&lab.bootstrap(), &topic, 3).await?;
    every_isr_is_whole(lab, &topic).await?;
    kafka::delete_topic(&lab.bootstrap(), &topic).await
}

pub(crate) async fn controller_lost(lab: Arc<Lab>) -> Result<String> {
    // The one that leads: the harder loss.
    let leader = quorum(&lab).await?.leader;
    let service = format!("kafka-controller-{leader}");
    lab.kill(&service).await?;
    let new_leader = eventually("another controller leads", PATIENCE, EVERY, || async {
        let now = quorum(&lab).await?.leader;
        Ok(if now == leader { Answer::NotYet(format!("still node {now}")) } else { Answer::Is(now) })
    })
    .await?;
    metadata_changes(&lab).await?;
    lab.start_again(&service).await?;
    voters_follow(&lab).await?;
    metadata_changes(&lab).await?;
    Ok(format!("node {leader} killed, node {new_leader} led on"))
}

pub(crate) async fn quorum_lost(lab: Arc<Lab>) -> Result<String> {
    let leader = quorum(&lab).await?.leader;
    let lost: Vec<String> =
        (1..=3).filter(|id| *id != leader).map(|id| format!("kafka-controller-{id}")).collect();
    for service in &lost {
        lab.kill(service).await?;
    }
    let refused = kafka::create_topic(&lab.bootstrap(), &format!("change-{}", new_run()), 3).await;
    let Err(refusal) = refused else { bail!("a topic was created without a quorum of controllers") };
    // Data goes on: leaders need no controller to take records. (A new idempotent producer may have to wait: its id
    // comes from the controllers.)
    let run = new_run();
    let order = order(&lab, &run, 600);
    let ledger = produced(&order).await?;
    matches_ledger(&ledger, &order, &read_run(&lab, &ledger, &run).await?)?;
    for service in &lost {
        lab.start_again(service).await?;
    }
    voters_follow(&lab).await?;
    metadata_changes(&lab).await?;
    Ok(format!("without a quorum: {refusal:#}; {} records written meanwhile", ledger.acknowledged))
}

pub(crate) async fn registry_lost(lab: Arc<Lab>) -> Result<String> {
    let before_run = new_run();
    let before_order = Order { format: Format::Avro, ..order(&lab, &before_run, 60) };
    let before = produced(&before_order).await?;
    let ids = decoded_run(&lab, &before, &before_order).await?;
    lab.kill("schema-registry").await?;
    // The command itself: what a person at the keyboard sees.
    let run = new_run();
    let mut child = tokio::process::Command::new(&lab.project.program)
        .args(["produce", "transactions", "--format", "avro", "--count", "60", "--seed", "42", "--run", &run])
        .env("BOOTSTRAP_SERVERS", lab.bootstrap())
        .env("SCHEMA_REGISTRY_URL", lab.endpoints.registry_url()?)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()?;
    let mut lines = BufReader::new(child.stderr.take().context("piped")?).lines();
    let said = tokio::time::timeout(PATIENCE, lines.next_line()).await??.unwrap_or_default();
    if !said.contains("schema registry") || !said.contains("waiting") {
        bail!("a producer without its registry should say so; it said {said:?}");
    }
    lab.start_again("schema-registry").await?;
    let output = tokio::time::timeout(PATIENCE, child.wait_with_output()).await??;
    let printed = String::from_utf8_lossy(&output.stdout);
    if !output.status.success() || !printed.contains("\"acknowledged\": 60") {
        bail!("the producer did not recover: {}\n{printed}", output.status);
    }
    let again = decoded_run(&lab, &before, &before_order).await?;
    if again != ids {
        bail!("ids before {ids:?}, after {again:?}");
    }
    Ok(format!("it said: {said}"))
}

pub(crate) async fn records_survive_down(lab: Arc<Lab>) -> Result<String> {
    let (json_run, avro_run) = (new_run(), new_run());
    let json_order = Order { acks: Acks::All, ..order(&lab, &json_run, 300) };
    let avro_order = Order { acks: Acks::All, format: Format::Avro, ..order(&lab, &avro_run, 300) };
    let json = produced(&json_order).await?;
    let avro = produced(&avro_order).await?;
    totals_come_out(&lab, &json_run, &json.totals).await?;
    let ids = decoded_run(&lab, &avro, &avro_order).await?;
    lab.down_and_up().await?;
    matches_ledger(&json, &json_order, &read_run(&lab, &json, &json_run).await?)?;
    let again = decoded_run(&lab, &avro, &avro_order).await?;
    if again != ids {
        bail!("schema ids before {ids:?}, after {again:?}");
    }
    let ends = kafka::offsets(&lab.bootstrap(), AVRO_TOPIC).await?;
    if ends.values().all(|(_, end)| *end == 0) {
        bail!("{AVRO_TOPIC} is empty after the start");
    }
    // Spark goes on from its checkpoint: the old run's totals stand, and a new run is counted.
    let more_run = new_run();
    let more = produced(&order(&lab, &more_run, 150)).await?;
    totals_come_out(&lab, &more_run, &more.totals).await?;
    let kept: BTreeMap<_, _> = totals_of(&lab, &json_run).await?;
    if kept != json.totals.merchants {
        bail!("the old run's totals changed: {kept:?}");
    }
    Ok(format!("{} JSON and {} Avro records, schema ids {ids:?}", json.acknowledged, avro.acknowledged))
}
