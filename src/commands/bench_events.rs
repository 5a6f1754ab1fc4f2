//! `lab bench events`: from producer to consumer at two rates, our producer beside Kafka's own, what the console takes, and how fast
//! it searches. It asks the lab `events` where it is up, and leaves what it wrote there.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context as _, Result, bail};
use rdkafka::consumer::{BaseConsumer, Consumer as _};
use rdkafka::{ClientConfig, Message as _, Offset, TopicPartitionList};
use tokio::sync::watch;

use super::context::Context;
use super::status::megabytes;
use crate::clients::producer::{Order, Progress, produce};
use crate::clients::{http, kafka};
use crate::engine::Session;
use crate::scenarios::events::UserEvents;
use crate::topology::KAFKA;

/// Records a second, and how many.
const RATES: [(f64, u64); 2] = [(2.6, 52), (5000.0, 100_000)];
/// Records that are searched.
const SEARCHED: u64 = 200_000;
/// How often each page is asked for.
const TIMES: usize = 20;
/// How long it is measured what everything takes.
const OBSERVED: Duration = Duration::from_secs(30);
const CONSOLE: &str = "console";
/// What is written while clients still connect is not of the rate that is measured.
const CONNECTING: Duration = Duration::from_secs(2);
/// Records that each producer writes in each round.
const RACED: u64 = 200_000;
const ROUNDS: usize = 3;
/// Records of the lab's own that Kafka's own producer repeats.
const REPEATED: u64 = 2000;

pub(super) async fn run(context: &Context) -> Result<()> {
    let session = context.running().await?;
    if !session.plan.topics.iter().any(|topic| topic.name == UserEvents::TOPIC) {
        bail!("the lab {} has no topic {}.\n  ./lab up --lab events", session.plan.lab, UserEvents::TOPIC);
    }
    let url = session.endpoints().url(CONSOLE, "web")?;
    at_rest(&session, &url).await?;
    for (rate, count) in RATES {
        latency(&session, rate, count).await?;
    }
    searched(&session, &url).await?;
    race(&session).await
}

/// What all containers use, and the console with one page open.
async fn at_rest(session: &Session, url: &str) -> Result<()> {
    // A page that is open has a stream, as long as this answer is held.
    let page = http().get(format!("{url}/api/stream")).timeout(OBSERVED * 2).send().await?;
    let before = used(session).await?;
    let begun = Instant::now();
    let mut ticks = tokio::time::interval(OBSERVED);
    ticks.tick().await;
    ticks.tick().await;
    let after = used(session).await?;
    let seconds = begun.elapsed().as_secs_f64();
    drop(page);
    let cores = |name: &str| {
        let cpu = |used: &BTreeMap<String, (f64, u64)>| used.get(name).map_or(0.0, |(cpu, _)| *cpu);
        (cpu(&after) - cpu(&before)) / seconds
    };
    let all: f64 = after.keys().map(|name| cores(name)).sum();
    let memory: u64 = after.values().map(|(_, memory)| memory).sum();
    let of_console = after.get(CONSOLE).map_or(0, |(_, memory)| *memory);
    say!("all services: {} and {all:.2} cores with one page open", megabytes(memory));
    say!("{CONSOLE}: {} and {:.3} cores of it", megabytes(of_console), cores(CONSOLE));
    Ok(())
}

/// CPU-seconds and bytes of each service.
async fn used(session: &Session) -> Result<BTreeMap<String, (f64, u64)>> {
    let mut all = BTreeMap::new();
    for service in &session.plan.services {
        // One that has done its work has no figures.
        if let Ok(usage) = session.engine.usage(&service.container).await {
            all.insert(service.name.clone(), (usage.cpu_seconds, usage.memory));
        }
    }
    Ok(all)
}

/// From the moment that a producer made a record until a consumer on this machine has it.
async fn latency(session: &Session, rate: f64, count: u64) -> Result<()> {
    let bootstrap = session.endpoints().bootstrap();
    let ends = kafka::offsets(&bootstrap, UserEvents::TOPIC).await?;
    let run = format!("{:08x}", rand::random::<u32>());
    let suffix = format!("-{run}");
    let reading = {
        let bootstrap = bootstrap.clone();
        tokio::task::spawn_blocking(move || read(&bootstrap, &ends, &suffix, count))
    };
    let defaults = UserEvents::DEFAULTS;
    let order = Order {
        bootstrap,
        profile: defaults.profile,
        acks: defaults.acks,
        threads: 1,
        rate: Some(rate),
        count: Some(count),
        run: Some(run),
        ..Order::default()
    };
    let (_stop, never) = watch::channel(false);
    let ledger = produce(&order, UserEvents::of(&order), Arc::new(Progress::default()), never).await?;
    let seen = reading.await??;
    let first = seen.iter().map(|(written, _)| *written).min().unwrap_or_default();
    let connected = first + u64::try_from(CONNECTING.as_millis())?;
    let in_order = |from: u64| {
        let mut took: Vec<u64> =
            seen.iter().filter(|(written, _)| *written >= from).map(|(_, took)| *took).collect();
        took.sort_unstable();
        took
    };
    let say = |what: &str, took: &[u64]| {
        let at = |share: f64| {
            took.get(((took.len().max(1) - 1) as f64 * share).round() as usize).copied().unwrap_or_default()
        };
        say!("  {what}: {} ms at the median, {} ms at p99, {} ms at most", at(0.5), at(0.99), at(1.0));
    };
    say!(
        "{:.1} records a second for {:.0} s, producer to consumer:",
        ledger.acknowledged as f64 / ledger.seconds,
        ledger.seconds
    );
    say("all of them", &in_order(0));
    say("without the first two seconds", &in_order(connected));
    Ok(())
}

/// Our producer and Kafka's own in turns, with the same settings and records alike, from the host and from within the node.
async fn race(session: &Session) -> Result<()> {
    let node = session.plan.meant(KAFKA).first().copied().context("the lab has no Kafka")?;
    let player =
        session.plan.roles.get(KAFKA).and_then(|players| players.first()).context("no address of Kafka")?;
    let port = node.ports.iter().find(|port| port.name == player.inside).context("no port of Kafka")?;
    let inside = format!("{}:{}", node.container, port.container);
    let (topic, defaults) = (UserEvents::TOPIC, UserEvents::DEFAULTS);
    let exec = async |script: String| {
        let output = session.engine.exec(&node.container, &["sh", "-c", &script]).await?;
        if output.code != 0 {
            bail!("{script}\n{}", output.text);
        }
        Ok(output.text)
    };
    let bin = "/opt/kafka/bin";
    let repeated = format!(
        "{bin}/kafka-console-consumer.sh --bootstrap-server {inside} --topic {topic} --from-beginning --max-messages {REPEATED} >/tmp/records 2>/dev/null"
    );
    exec(repeated).await?;
    let settings: Vec<String> =
        defaults.profile.settings.iter().map(|(name, value)| format!("{name}={value}")).collect();
    let theirs = format!(
        "{bin}/kafka-producer-perf-test.sh --topic {topic} --num-records {RACED} --payload-file /tmp/records --throughput -1 \
         --producer-props bootstrap.servers={inside} acks=all enable.idempotence=true {}",
        settings.join(" ")
    );
    for _ in 0..ROUNDS {
        let order = Order {
            bootstrap: session.endpoints().bootstrap(),
            profile: defaults.profile,
            acks: defaults.acks,
            count: Some(RACED),
            run: Some(format!("{:08x}", rand::random::<u32>())),
            ..Order::default()
        };
        let (_stop, never) = watch::channel(false);
        let ledger = produce(&order, UserEvents::of(&order), Arc::new(Progress::default()), never).await?;
        let ours = ledger.acknowledged as f64 / ledger.seconds;
        let said = exec(theirs.clone()).await?;
        let mut rates = said
            .lines()
            .filter_map(|line| line.split_once(" records sent, ")?.1.split(' ').next()?.parse::<f64>().ok());
        // The last line is of the whole run.
        let own = rates.next_back().with_context(|| format!("no rate in:\n{said}"))?;
        say!(
            "produce events: {ours:.0} records a second; kafka-producer-perf-test: {own:.0}; {:.2} of it",
            ours / own
        );
    }
    exec("rm /tmp/records".to_owned()).await?;
    Ok(())
}

/// When each record of a run was written, and the milliseconds that it took.
fn read(
    bootstrap: &str,
    ends: &BTreeMap<i32, (i64, i64)>,
    suffix: &str,
    count: u64,
) -> Result<Vec<(u64, u64)>> {
    let consumer: BaseConsumer = ClientConfig::new()
        .set("bootstrap.servers", bootstrap)
        .set("group.id", "streamlab-bench")
        .set("enable.auto.commit", "false")
        .create()?;
    let mut from = TopicPartitionList::new();
    for (partition, (_, end)) in ends {
        from.add_partition_offset(UserEvents::TOPIC, *partition, Offset::Offset(*end))?;
    }
    consumer.assign(&from)?;
    let mut took = Vec::new();
    let mut heard = Instant::now();
    while (took.len() as u64) < count {
        let Some(message) = consumer.poll(Duration::from_millis(200)).transpose()? else {
            if heard.elapsed() > Duration::from_secs(30) {
                bail!("{} of {count} records came", took.len());
            }
            continue;
        };
        if message.key().is_some_and(|key| key.ends_with(suffix.as_bytes())) {
            heard = Instant::now();
            let now = SystemTime::now().duration_since(UNIX_EPOCH)?.as_millis();
            let written = u64::try_from(message.timestamp().to_millis().context("no timestamp")?)?;
            took.push((written, u64::try_from(now)?.saturating_sub(written)));
        }
    }
    Ok(took)
}

/// Pages, and a search that looks at every record of a topic.
async fn searched(session: &Session, url: &str) -> Result<()> {
    let bootstrap = session.endpoints().bootstrap();
    let offsets = kafka::offsets(&bootstrap, UserEvents::TOPIC).await?;
    let there: i64 = offsets.values().map(|(begin, end)| end - begin).sum();
    let missing = SEARCHED.saturating_sub(u64::try_from(there)?);
    if missing > 0 {
        let run = Some(format!("{:08x}", rand::random::<u32>()));
        let order = Order {
            bootstrap,
            profile: UserEvents::DEFAULTS.profile,
            count: Some(missing),
            run,
            ..Order::default()
        };
        let (_stop, never) = watch::channel(false);
        produce(&order, UserEvents::of(&order), Arc::new(Progress::default()), never).await?;
    }
    for path in ["/", "/topics", "/topics/user-events", "/groups", "/alerts"] {
        let mut took = Vec::new();
        for _ in 0..TIMES {
            took.push(asked(&format!("{url}{path}")).await?.0);
        }
        took.sort_unstable();
        say!("{path}: {:.0} ms at the median of {TIMES}", took[TIMES / 2].as_secs_f64() * 1000.0);
    }
    for query in ["text=nothing+has+this", "field=userId&is=nobody"] {
        let (took, text) = asked(&format!("{url}/api/messages/{}?{query}", UserEvents::TOPIC)).await?;
        let found: serde_json::Value = serde_json::from_str(&text)?;
        say!("{query}: {} records looked at in {:.2} s", found["scanned"], took.as_secs_f64());
    }
    Ok(())
}

async fn asked(url: &str) -> Result<(Duration, String)> {
    let begun = Instant::now();
    let answer = http().get(url).timeout(Duration::from_secs(30)).send().await?.error_for_status()?;
    let text = answer.text().await?;
    Ok((begun.elapsed(), text))
}
