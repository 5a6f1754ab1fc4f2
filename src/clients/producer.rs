//! Producers of the transactions scenario: the seed's two profiles, JSON or Avro, with a ledger of every
//! acknowledged record.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, anyhow};
use apache_avro::Decimal;
use apache_avro::types::Value as Avro;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::histogram::Histogram;
use rdkafka::ClientConfig;
use rdkafka::producer::{FutureProducer, FutureRecord, Producer};
use schema_registry_converter::async_impl::avro::AvroEncoder;
use schema_registry_converter::schema_registry_common::SubjectNameStrategy;
use serde::Serialize;
use tokio::sync::watch;

use crate::probes::{Answer, eventually};
use crate::scenarios::transactions::{AVRO_TOPIC, TOPIC, Totals, Transaction, Transactions};

/// The seed's producers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Profile {
    /// gzip, acks 1, linger 10 ms, batches of 1000 records.
    Python,
    /// snappy, acks 1, linger 3 ms, batches of 64 KB, partitioned as Kafka's own client does.
    Java,
}

/// How records are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Format {
    /// JSON, to `financial_transactions`.
    Json,
    /// Avro in Confluent's wire format, to `financial_transactions_avro`.
    Avro,
}

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
    /// Suffix of this run's own merchants.
    pub run: Option<String>,
}

/// What was acknowledged, and where it is.
#[derive(Debug, Clone, Serialize)]
pub struct Ledger {
    /// Topic written to.
    pub topic: String,
    /// Profile used.
    pub profile: Profile,
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
    /// Transaction id → (key, partition, offset) of each acknowledged record.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub records: BTreeMap<String, (String, i32, i64)>,
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

impl Format {
    /// The topic that records of this format go to.
    pub fn topic(self) -> &'static str {
        match self {
            Self::Json => TOPIC,
            Self::Avro => AVRO_TOPIC,
        }
    }
}

/// librdkafka settings of a profile.
pub fn settings(profile: Profile, acks: Acks) -> Vec<(&'static str, &'static str)> {
    let mut settings = match profile {
        Profile::Python => {
            vec![("compression.type", "gzip"), ("linger.ms", "10"), ("batch.num.messages", "1000")]
        }
        Profile::Java => vec![
            ("compression.type", "snappy"),
            ("linger.ms", "3"),
            ("batch.size", "65536"),
            ("partitioner", "murmur2_random"),
        ],
    };
    match acks {
        Acks::Leader => settings.push(("acks", "1")),
        Acks::All => settings.extend([("acks", "all"), ("enable.idempotence", "true")]),
    }
    settings
}

/// Carries out an order until its count is reached or `stop` turns true; then waits for what is on the way.
///
/// # Errors
/// Kafka or (for Avro) the registry does not answer within a minute at the start. Records that fail later are
/// counted in the ledger.
pub async fn produce(order: &Order, progress: Arc<Progress>, stop: watch::Receiver<bool>) -> Result<Ledger> {
    let mut config = ClientConfig::new();
    config
        .set("bootstrap.servers", &order.bootstrap)
        .set("client.id", "streamlab-producer")
        .set("log_level", "0");
    for (key, value) in settings(order.profile, order.acks) {
        config.set(key, value);
    }
    let producer: FutureProducer = config.create()?;
    let topic = order.format.topic();
    wait_for_topic(&producer, topic, &order.bootstrap).await?;
    let encoder = match order.format {
        Format::Json => None,
        Format::Avro => Some(avro_encoder(&order.registry_url, topic).await?),
    };
    let shared = Arc::new(Shared {
        producer,
        encoder,
        topic,
        sequence: Transactions::new(order.seed, order.run.as_deref()),
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
        profile: order.profile,
        format: order.format,
        seed: order.seed,
        produced: 0,
        acknowledged: 0,
        failed: BTreeMap::new(),
        seconds: 0.0,
        totals: Totals::default(),
        records: BTreeMap::new(),
    };
    for task in tasks {
        for outcome in task.await? {
            ledger.produced += 1;
            match outcome {
                Ok((transaction, partition, offset)) => {
                    ledger.acknowledged += 1;
                    ledger.totals.add(&transaction);
                    ledger
                        .records
                        .insert(transaction.transaction_id, (transaction.user_id, partition, offset));
                }
                Err(why) => *ledger.failed.entry(why).or_default() += 1,
            }
        }
    }
    ledger.seconds = start.elapsed().as_secs_f64();
    Ok(ledger)
}

type Outcome = Result<(Transaction, i32, i64), String>;

struct Shared {
    producer: FutureProducer,
    encoder: Option<AvroEncoder>,
    topic: &'static str,
    sequence: Transactions,
    progress: Arc<Progress>,
    stop: watch::Receiver<bool>,
}

impl Shared {
    /// One thread's loop: records `thread`, `thread + threads`, … of the sequence.
    async fn run(
        self: &Arc<Self>,
        thread: u64,
        threads: u64,
        rate: Option<f64>,
        count: Option<u64>,
    ) -> Vec<Outcome> {
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
            let transaction = self.sequence.record(index, now_ms());
            let this = Arc::clone(self);
            on_the_way.spawn(async move { this.send(transaction).await });
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

    async fn send(&self, transaction: Transaction) -> Outcome {
        let outcome = self.try_send(transaction).await;
        let counter = if outcome.is_ok() { &self.progress.acknowledged } else { &self.progress.failed };
        counter.inc();
        outcome
    }

    async fn try_send(&self, transaction: Transaction) -> Outcome {
        let value = match &self.encoder {
            None => serde_json::to_vec(&transaction).map_err(|e| e.to_string())?,
            Some(encoder) => {
                let strategy = SubjectNameStrategy::TopicNameStrategy(self.topic.to_owned(), false);
                encoder.encode(avro_fields(&transaction), strategy).await.map_err(|e| e.to_string())?
            }
        };
        let record = FutureRecord::to(self.topic).key(&transaction.user_id).payload(&value);
        let handed = Instant::now();
        match self.producer.send(record, Duration::from_secs(60)).await {
            Ok(delivery) => {
                if let Some(seconds) = &self.progress.delivery {
                    seconds.observe(handed.elapsed().as_secs_f64());
                }
                Ok((transaction, delivery.partition, delivery.offset))
            }
            Err((error, _)) => Err(error.to_string()),
        }
    }
}

fn now_ms() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
}

/// The fields of schema `financial_transactions_avro-value`.
pub fn avro_fields(transaction: &Transaction) -> Vec<(&'static str, Avro)> {
    let text = |value: &str| Avro::String(value.to_owned());
    vec![
        ("transactionId", text(&transaction.transaction_id)),
        ("userId", text(&transaction.user_id)),
        ("amount", Avro::Decimal(Decimal::from(transaction.amount.0.to_be_bytes()))),
        ("transactionTime", Avro::TimestampMillis(transaction.transaction_time)),
        ("merchantId", text(&transaction.merchant_id)),
        ("location", text(&transaction.location)),
        ("paymentMethod", text(&transaction.payment_method)),
        ("isInternational", Avro::Boolean(transaction.is_international)),
        ("currency", text(&transaction.currency)),
    ]
}

/// An encoder that has fetched its schema. While the registry does not answer it says so, and waits a minute.
async fn avro_encoder(url: &str, topic: &str) -> Result<AvroEncoder> {
    let registry = super::schema_registry::SchemaRegistry::new(url);
    let subject = format!("{topic}-value");
    let mut said = false;
    eventually(
        &format!("schema {subject} at {url}"),
        Duration::from_secs(60),
        Duration::from_millis(500),
        || {
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
        },
    )
    .await?;
    Ok(AvroEncoder::new(super::schema_registry::settings(url)?))
}

async fn wait_for_topic(producer: &FutureProducer, topic: &str, bootstrap: &str) -> Result<()> {
    let question = format!("topic {topic} at {bootstrap}");
    eventually(&question, Duration::from_secs(60), Duration::from_millis(500), || {
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
