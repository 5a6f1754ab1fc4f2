//! `lab bench events`: from producer to consumer at two rates, what the console takes, and how fast it searches. It asks the lab
//! `events` where it is up, and leaves what it wrote there.

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

/// Records a second, and how many.
const RATES: [(f64, u64); 2] = [(2.6, 52), (5000.0, 100_000)];
/// Records that are searched.
const SEARCHED: u64 = 200_000;
/// How often each page is asked for.
const TIMES: usize = 20;
/// How long it is measured what everything takes.
const OBSERVED: Duration = Duration::from_secs(30);
const CONSOLE: &str = "console";

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
    searched(&session, &url).await
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
    let mut took = reading.await??;
    took.sort_unstable();
    let at = |share: f64| took[((took.len() - 1) as f64 * share).round() as usize];
    say!(
        "{:.1} records a second for {:.0} s: producer to consumer {} ms at the median, {} ms at p99, {} ms at most",
        ledger.acknowledged as f64 / ledger.seconds,
        ledger.seconds,
        at(0.5),
        at(0.99),
        at(1.0)
    );
    Ok(())
}

/// Milliseconds that each record of a run took.
fn read(bootstrap: &str, ends: &BTreeMap<i32, (i64, i64)>, suffix: &str, count: u64) -> Result<Vec<u64>> {
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
            let written = message.timestamp().to_millis().context("no timestamp")?;
            took.push(u64::try_from(now)?.saturating_sub(u64::try_from(written)?));
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
