//! The producer of every scenario: writes a sequence's records as JSON or Avro, with a ledger of every acknowledged one. It
//! knows no scenario.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, anyhow};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::histogram::Histogram;
use rdkafka::ClientConfig;
use rdkafka::producer::{FutureProducer, FutureRecord, Producer};
use schema_registry_converter::async_impl::avro::AvroEncoder;
use schema_registry_converter::schema_registry_common::SubjectNameStrategy;
use serde::Serialize;
use tokio::sync::watch;

use crate::probes::{Answer, eventually};
use crate::scenarios::{Format, Profile, Sequence};

/// How long a broker or the registry may be away before a record, or the whole order, is given up.
const DELIVERY: Duration = Duration::from_secs(60);

/// What must have happened before a record counts as acknowledged.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Acks {
    /// The leader has it: the seed's setting.
    #[value(name = "1")]
    Leader,
    /// Every in-sync replica has it, and retries write it once (idempotence).
    All,
}

/// What to produce.
#[derive(Debug, Clone)]
pub struct Order {
    /// Kafka's bootstrap servers.
    pub bootstrap: String,
    /// Registry for Avro.
    pub registry_url: String,
    /// Producer settings.
    pub profile: Profile,
    /// Record format.
    pub format: Format,
    /// Acknowledgement.
    pub acks: Acks,
    /// Parallel producers' loops.
    pub threads: u32,
    /// Records a second of each thread; none for as fast as it goes.
    pub rate: Option<f64>,
    /// Records in all; none for until stopped.
    pub count: Option<u64>,
    /// Seed of the generator.
    pub seed: u64,
    /// Suffix of this run's own keys.
    pub run: Option<String>,
}

/// What was acknowledged, and where it is.
#[derive(Debug, Clone, Serialize)]
pub struct Ledger<Totals> {
    /// Topic written to.
    pub topic: String,
    /// Name of the profile used.
    pub profile: &'static str,
    /// Format used.
    pub format: Format,
    /// Seed of the generator.
    pub seed: u64,
    /// Records handed to the client.
    pub produced: u64,
    /// Records that Kafka acknowledged.
    pub acknowledged: u64,
    /// Reasons of those it did not, with how often.
    pub failed: BTreeMap<String, u64>,
    /// Seconds from the first record to the last acknowledgement.
    pub seconds: f64,
    /// Totals of the acknowledged records.
    pub totals: Totals,
    /// Id → (key, partition, offset) of each acknowledged record.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub records: BTreeMap<String, (String, i32, i64)>,
}

impl<Totals> Ledger<Totals> {
    /// The same without single records, and with totals in another form.
    pub fn without_records<Other>(&self, totals: Other) -> Ledger<Other> {
        Ledger {
            topic: self.topic.clone(),
            profile: self.profile,
            format: self.format,
            seed: self.seed,
            produced: self.produced,
            acknowledged: self.acknowledged,
            failed: self.failed.clone(),
            seconds: self.seconds,
            totals,
            records: BTreeMap::new(),
        }
    }
}

/// How far a running order is: metrics, whether somebody serves them or not.
#[derive(Debug, Default)]
pub struct Progress {
    /// Acknowledged so far.
    pub acknowledged: Counter,
    /// Failed so far.
    pub failed: Counter,
    /// Seconds from handing a record to the client until it was acknowledged, where somebody wants to know.
    pub delivery: Option<Histogram>,
}

impl Acks {
    fn settings(self) -> &'static [(&'static str, &'static str)] {
        match self {
            Self::Leader => &[("acks", "1")],
            Self::All => &[("acks", "all"), ("enable.idempotence", "true")],
        }
    }
}

impl Default for Order {
    /// JSON as fast as it goes, in three threads without settings of their own, acknowledged by the leader; without an end.
    fn default() -> Self {
        Self {
            bootstrap: String::new(),
            registry_url: String::new(),
            profile: Profile { name: "plain", settings: &[] },
            format: Format::Json,
            acks: Acks::Leader,
            threads: 3,
            rate: None,
            count: None,
            seed: 0,
            run: None,
        }
    }
}

/// Carries out an order until its count is reached or `stop` turns true; then waits for what is on the way.
///
/// # Errors
/// Kafka or (for Avro) the registry does not answer within a minute at the start. Records that fail later are
/// counted in the ledger.
pub async fn produce<S: Sequence>(
    order: &Order,
    progress: Arc<Progress>,
    stop: watch::Receiver<bool>,
) -> Result<Ledger<S::Totals>> {
    let mut config = ClientConfig::new();
    config
        .set("bootstrap.servers", &order.bootstrap)
        .set("client.id", "streamlab-producer")
        .set("log_level", "0");
    for (key, value) in order.profile.settings.iter().chain(order.acks.settings()) {
        config.set(*key, *value);
    }
    let producer: FutureProducer = config.create()?;
    let topic = S::topic(order.format);
    wait_for_topic(&producer, topic, &order.bootstrap).await?;
    let encoder = match order.format {
        Format::Json => None,
        Format::Avro => Some(avro_encoder(&order.registry_url, topic).await?),
    };
    let shared = Arc::new(Shared {
        producer,
        encoder,
        topic,
        sequence: S::new(order.seed, order.run.as_deref()),
        progress,
        stop,
    });
    let start = Instant::now();
    let threads = u64::from(order.threads);
    let tasks: Vec<_> = (0..threads)
        .map(|thread| {
            let (shared, rate, count) = (Arc::clone(&shared), order.rate, order.count);
            tokio::spawn(async move { shared.run(thread, threads, rate, count).await })
        })
        .collect();
    let mut ledger = Ledger {
        topic: topic.to_owned(),
        profile: order.profile.name,
        format: order.format,
        seed: order.seed,
        produced: 0,
        acknowledged: 0,
        failed: BTreeMap::new(),
        seconds: 0.0,
        totals: S::Totals::default(),
        records: BTreeMap::new(),
    };
    for task in tasks {
        for outcome in task.await? {
            ledger.produced += 1;
            match outcome {
                Ok((record, partition, offset)) => {
                    ledger.acknowledged += 1;
                    S::add(&mut ledger.totals, &record);
                    let place = (S::key(&record).to_owned(), partition, offset);
                    ledger.records.insert(S::id(&record).to_owned(), place);
                }
                Err(why) => *ledger.failed.entry(why).or_default() += 1,
            }
        }
    }
    ledger.seconds = start.elapsed().as_secs_f64();
    Ok(ledger)
}

type Outcome<S> = Result<(<S as Sequence>::Record, i32, i64), String>;

struct Shared<S> {
    producer: FutureProducer,
    encoder: Option<AvroEncoder>,
    topic: &'static str,
    sequence: S,
    progress: Arc<Progress>,
    stop: watch::Receiver<bool>,
}

impl<S: Sequence> Shared<S> {
    /// One thread's loop: records `thread`, `thread + threads`, … of the sequence.
    async fn run(
        self: &Arc<Self>,
        thread: u64,
        threads: u64,
        rate: Option<f64>,
        count: Option<u64>,
    ) -> Vec<Outcome<S>> {
        let mut ticks = rate.map(|rate| {
            let mut ticks = tokio::time::interval(Duration::from_secs_f64(1.0 / rate));
            ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Burst);
            ticks
        });
        let endless = count.is_none();
        let mut on_the_way = tokio::task::JoinSet::new();
        let mut outcomes = Vec::new();
        let mut stop = self.stop.clone();
        let mut index = thread;
        while count.is_none_or(|count| index < count) && !*stop.borrow() {
            if let Some(ticks) = &mut ticks {
                tokio::select! {
                    _ = ticks.tick() => {}
                    _ = stop.wait_for(|s| *s) => break,
                }
            }
            let record = self.sequence.record(index, now_ms());
            let this = Arc::clone(self);
            on_the_way.spawn(async move { this.send(record).await });
            // An endless producer keeps no ledger: it would grow without bound.
            while on_the_way.len() > 5_000 || (endless && on_the_way.len() > 100) {
                let Some(done) = on_the_way.join_next().await else { break };
                if !endless {
                    outcomes.extend(done);
                }
            }
            index += threads;
        }
        while let Some(done) = on_the_way.join_next().await {
            outcomes.extend(done);
        }
        outcomes
    }

    async fn send(&self, record: S::Record) -> Outcome<S> {
        let outcome = self.try_send(record).await;
        let counter = if outcome.is_ok() { &self.progress.acknowledged } else { &self.progress.failed };
        counter.inc();
        outcome
    }

    async fn try_send(&self, record: S::Record) -> Outcome<S> {
        let value = match &self.encoder {
            None => serde_json::to_vec(&record).map_err(|e| e.to_string())?,
            Some(encoder) => {
                let strategy = SubjectNameStrategy::TopicNameStrategy(self.topic.to_owned(), false);
                encoder.encode(S::avro(&record), strategy).await.map_err(|e| e.to_string())?
            }
        };
        let sent = FutureRecord::to(self.topic).key(S::key(&record)).payload(&value);
        let handed = Instant::now();
        match self.producer.send(sent, DELIVERY).await {
            Ok(delivery) => {
                if let Some(seconds) = &self.progress.delivery {
                    seconds.observe(handed.elapsed().as_secs_f64());
                }
                Ok((record, delivery.partition, delivery.offset))
            }
            Err((error, _)) => Err(error.to_string()),
        }
    }
}

fn now_ms() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
}

/// An encoder that has fetched its schema. While the registry does not answer it says so, and waits a minute.
async fn avro_encoder(url: &str, topic: &str) -> Result<AvroEncoder> {
    let registry = super::schema_registry::SchemaRegistry::new(url);
    let subject = format!("{topic}-value");
    let mut said = false;
    eventually(&format!("schema {subject} at {url}"), DELIVERY, Duration::from_millis(500), || {
        let (registry, subject) = (registry.clone(), subject.clone());
        let first = !std::mem::replace(&mut said, true);
        async move {
            match registry.versions(&subject).await {
                Ok(_) => Ok(Answer::Is(())),
                Err(error) => {
                    if first {
                        eprintln!(
                            "schema registry: {subject} cannot be had from {} ({error:#}); waiting",
                            registry.url()
                        );
                    }
                    Err(error)
                }
            }
        }
    })
    .await?;
    Ok(AvroEncoder::new(super::schema_registry::settings(url)?))
}

async fn wait_for_topic(producer: &FutureProducer, topic: &str, bootstrap: &str) -> Result<()> {
    let question = format!("topic {topic} at {bootstrap}");
    eventually(&question, DELIVERY, Duration::from_millis(500), || {
        let (producer, topic) = (producer.clone(), topic.to_owned());
        async move {
            tokio::task::spawn_blocking(move || {
                let metadata = producer
                    .client()
                    .fetch_metadata(Some(&topic), Duration::from_secs(3))
                    .context("no broker answers")?;
                let found = metadata.topics().iter().find(|t| t.name() == topic);
                Ok(match found {
                    Some(t) if t.error().is_none() && !t.partitions().is_empty() => Answer::Is(()),
                    _ => Answer::NotYet("the topic is not there".to_owned()),
                })
            })
            .await
            .map_err(|e| anyhow!(e))?
        }
    })
    .await?;
    Ok(())
}
