//! What breaks and comes back: each fault is undone before its trial ends.

use std::collections::BTreeMap;
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use streamlab::clients::kafka;
use streamlab::clients::producer::{Acks, Order, Progress, produce};
use streamlab::probes::{Answer, eventually};
use streamlab::scenarios::Format;
use streamlab::scenarios::transactions::{AVRO_TOPIC, Cents, MerchantTotal, TOPIC, Totals, Transactions};
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::sync::watch;

use crate::episode::Participant;
use crate::kafka::{quorum, voters_follow};
use crate::lab::Lab;
use crate::spark::{high_value_comes_out, totals_come_out, totals_of};
use crate::transactions::{decoded_run, matches_ledger, new_run, order, produced, read_run};
use crate::trial::{Chapter, Check, PATIENCE, Trial};

const EVERY: Duration = Duration::from_millis(500);

pub(crate) fn trials(chapter: &Chapter<'_>) -> Vec<Trial> {
    [
        chapter.flow("broker-killed", Check::in_episode(|lab, e| Box::pin(broker_killed(lab, e)))),
        chapter.flow("quorum-lost", Check::in_episode(|lab, e| Box::pin(quorum_lost(lab, e)))),
        chapter.flow("spark-recovery", Check::in_episode(|lab, e| Box::pin(spark_recovery(lab, e)))),
        chapter.flow("registry-lost", Check::plain(|lab| Box::pin(registry_lost(lab)))),
        chapter.flow("controller-lost", Check::plain(|lab| Box::pin(controller_lost(lab)))),
        chapter.flow("broker-addresses-swapped", Check::plain(|lab| Box::pin(broker_addresses_swapped(lab)))),
        chapter.flow("records-survive-down", Check::plain(|lab| Box::pin(records_survive_down(lab)))),
    ]
    .into_iter()
    .flatten()
    .collect()
}

async fn spark_recovery(lab: Arc<Lab>, mut episode: Participant) -> Result<String> {
    let run = new_run();
    let mut expected = Totals::default();
    // Before the kill: known to be counted. Around it: in the middle of a batch. While it is dead: waiting in Kafka.
    let parts =
        [(1, 200), (2, 400), (3, 200)].map(|(seed, count)| Order { seed, ..order(&lab, &run, count) });
    for (part, order) in parts.iter().enumerate() {
        if part == 2 {
            episode.broken().await?;
        }
        let ledger = produced(order).await?;
        for (merchant, total) in ledger.totals.merchants {
            let none = MerchantTotal { transaction_count: 0, total_amount: Cents(0) };
            let sum = expected.merchants.entry(merchant).or_insert(none);
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
    episode.mended().await?;
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

async fn broker_killed(lab: Arc<Lab>, mut episode: Participant) -> Result<String> {
    let run = new_run();
    let order = Order { acks: Acks::All, rate: Some(150.0), ..order(&lab, &run, 4_500) };
    let (_stop, never) = watch::channel(false);
    let progress = Arc::new(Progress::default());
    let producing = {
        let (order, progress) = (order.clone(), Arc::clone(&progress));
        tokio::spawn(async move { produce(&order, Transactions::of(&order), progress, never).await })
    };
    let acknowledged = || progress.acknowledged.get();
    let reaches = |n: u64| {
        let acknowledged = &acknowledged;
        eventually("producers write", PATIENCE, Duration::from_millis(100), move || async move {
            let now = acknowledged();
            Ok(if now >= n { Answer::Is(now) } else { Answer::NotYet(format!("{now} acknowledged")) })
        })
    };
    reaches(500).await?;
    episode.broken().await?;
    let at_kill = acknowledged();
    let ledger = producing.await??;
    if ledger.acknowledged != 4_500 || ledger.acknowledged <= at_kill {
        bail!(
            "killed at {at_kill}; in the end {} acknowledged, failed: {:?}",
            ledger.acknowledged,
            ledger.failed
        );
    }
    episode.mended().await?;
    every_isr_is_whole(&lab, TOPIC).await?;
    matches_ledger(&ledger, &order, &read_run(&lab, &ledger, &run).await?)?;
    Ok(format!("killed after {at_kill} of {} records", ledger.acknowledged))
}

/// The engine gives a container that starts again the lowest address that is free, so the order decides who gets whose. A
/// client that remembers names for long then writes to one broker what another leads, for as long as the connection lasts.
async fn broker_addresses_swapped(lab: Arc<Lab>) -> Result<String> {
    let brokers = lab.names_of("kafka");
    let [one, two, three] = brokers.iter().map(String::as_str).collect::<Vec<_>>()[..] else {
        bail!("this wants three brokers, there are {brokers:?}")
    };
    let mut addresses = Vec::new();
    // The first time clients look the names up, the second time they remember them.
    for order_of_start in [[one, two, three], [one, three, two]] {
        lab.while_killed(&order_of_start, async { Ok(()) }).await?;
        let run = new_run();
        let ledger = produced(&order(&lab, &run, 150)).await?;
        totals_come_out(&lab, &run, &ledger.totals).await?;
        let mut seen = Vec::new();
        for broker in [one, two, three] {
            seen.push(lab.address(broker).await?);
        }
        addresses.push(seen.join(", "));
    }
    every_isr_is_whole(&lab, TOPIC).await?;
    Ok(format!("brokers 1, 2, 3 at {}; then at {}", addresses[0], addresses[1]))
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

async fn controller_lost(lab: Arc<Lab>) -> Result<String> {
    // The one that leads: the harder loss.
    let leader = quorum(&lab).await?.leader;
    let service = format!("kafka-controller-{leader}");
    let killed = [service.as_str()];
    let new_leader = lab.while_killed(&killed, async {
        let new_leader = eventually("another controller leads", PATIENCE, EVERY, || async {
            let now = quorum(&lab).await?.leader;
            Ok(if now == leader { Answer::NotYet(format!("still node {now}")) } else { Answer::Is(now) })
        })
        .await?;
        metadata_changes(&lab).await?;
        Ok(new_leader)
    });
    let new_leader = new_leader.await?;
    voters_follow(&lab).await?;
    metadata_changes(&lab).await?;
    Ok(format!("node {leader} killed, node {new_leader} led on"))
}

async fn quorum_lost(lab: Arc<Lab>, mut episode: Participant) -> Result<String> {
    episode.broken().await?;
    let refused = kafka::create_topic(&lab.bootstrap(), &format!("change-{}", new_run()), 3).await;
    let Err(refusal) = refused else { bail!("a topic was created without a quorum of controllers") };
    // Data goes on: leaders need no controller to take records. (A new idempotent producer may have to wait: its id
    // comes from the controllers.)
    let run = new_run();
    let order = order(&lab, &run, 600);
    let ledger = produced(&order).await?;
    matches_ledger(&ledger, &order, &read_run(&lab, &ledger, &run).await?)?;
    episode.mended().await?;
    voters_follow(&lab).await?;
    metadata_changes(&lab).await?;
    Ok(format!("without a quorum: {refusal:#}; {} records written meanwhile", ledger.acknowledged))
}

async fn registry_lost(lab: Arc<Lab>) -> Result<String> {
    let before_run = new_run();
    let before_order = Order { format: Format::Avro, ..order(&lab, &before_run, 60) };
    let before = produced(&before_order).await?;
    let ids = decoded_run(&lab, &before, &before_order).await?;
    let run = new_run();
    let waiting = lab.while_killed(&["schema-registry"], async {
        // The command itself: what a person at the keyboard sees.
        let mut child = tokio::process::Command::new(&lab.project.program)
            .args([
                "produce",
                "transactions",
                "--format",
                "avro",
                "--count",
                "60",
                "--seed",
                "42",
                "--run",
                &run,
                "--bootstrap-servers",
                &lab.bootstrap(),
                "--schema-registry-url",
                &lab.endpoints.registry_url()?,
            ])
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()?;
        let mut lines = BufReader::new(child.stderr.take().context("piped")?).lines();
        let mut said = tokio::time::timeout(PATIENCE, lines.next_line()).await??.unwrap_or_default();
        if said.starts_with("writing to ") {
            said = tokio::time::timeout(PATIENCE, lines.next_line()).await??.unwrap_or_default();
        }
        if !said.contains("schema registry") || !said.contains("waiting") {
            bail!("a producer without its registry should say so; it said {said:?}");
        }
        Ok((child, said))
    });
    let (child, said) = waiting.await?;
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

async fn records_survive_down(lab: Arc<Lab>) -> Result<String> {
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
