//! The writer of every scenario: it writes a sequence's records as JSON or Avro, with a ledger of every acknowledged one. It
//! knows no scenario.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::Result;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::histogram::Histogram;
use rdkafka::producer::{BaseRecord, DeliveryResult, Producer as _, ProducerContext, ThreadedProducer};
use rdkafka::{ClientConfig, ClientContext, Message};
use schema_registry_converter::async_impl::avro::AvroEncoder;
use schema_registry_converter::schema_registry_common::SubjectNameStrategy;
use serde::Serialize;
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinHandle;

use crate::scenarios::{Format, Profile, Sequence};

/// Records that may be on the way at once: less than what librdkafka keeps, so that it never refuses one.
const ROOM: u32 = 20_000;
const ON_THE_WAY: usize = ROOM as usize;

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
    /// Records that Kafka acknowledged, counted also where no single record is kept.
    pub acknowledged: u64,
    /// Reasons of those it did not, with how often.
    pub failed: BTreeMap<String, u64>,
    /// Seconds from the first record to the last acknowledgement.
    pub seconds: f64,
    /// Totals of the acknowledged records; nothing where the order had no count.
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

/// A client that is connected and may write.
pub struct Writer {
    producer: Arc<ThreadedProducer<Deliveries>>,
}

impl Writer {
    /// A client with an order's settings. It connects by itself, and again whenever it has to.
    ///
    /// # Errors
    /// librdkafka refuses a setting.
    pub fn new(order: &Order, progress: Arc<Progress>) -> Result<Self> {
        let mut config = ClientConfig::new();
        config
            .set("bootstrap.servers", &order.bootstrap)
            .set("client.id", "streamlab-producer")
            .set("log_level", "0");
        for (key, value) in order.profile.settings.iter().chain(order.acks.settings()) {
            config.set(*key, *value);
        }
        let deliveries = Deliveries {
            progress,
            room: Semaphore::new(ON_THE_WAY),
            // An endless producer keeps no ledger: it would grow without bound.
            kept: order.count.map(|_| Mutex::default()),
            failed: Mutex::default(),
        };
        Ok(Self { producer: Arc::new(config.create_with_context(deliveries)?) })
    }

    /// Whether the topic is there, asked of a broker that must answer within `patience`. It blocks.
    ///
    /// # Errors
    /// No broker answers.
    pub fn knows(&self, topic: &str, patience: Duration) -> Result<bool> {
        let metadata = self.producer.client().fetch_metadata(Some(topic), patience)?;
        let found = metadata.topics().iter().find(|t| t.name() == topic);
        Ok(found.is_some_and(|t| t.error().is_none() && !t.partitions().is_empty()))
    }

    /// Carries out the order that the client was made for until its count is reached or `stop` turns true; then waits for what is on
    /// the way. Records are Avro where there is an encoder.
    ///
    /// Only a scenario's own [`Sequence::write`] calls it: so its loops are compiled here, where they are optimised.
    pub(crate) fn carry_out<S: Sequence>(
        self,
        order: Order,
        sequence: S,
        encoder: Option<AvroEncoder>,
        stop: watch::Receiver<bool>,
    ) -> JoinHandle<Result<Ledger<S::Totals>>> {
        let topic = sequence.topic(order.format);
        let shared = Arc::new(Shared { producer: self.producer, encoder, topic, sequence, stop });
        tokio::spawn(async move {
            let start = Instant::now();
            let threads = u64::from(order.threads);
            let tasks: Vec<_> = (0..threads)
                .map(|thread| {
                    let (shared, rate, count) = (Arc::clone(&shared), order.rate, order.count);
                    tokio::spawn(async move { shared.run(thread, threads, rate, count).await })
                })
                .collect();
            let mut produced = 0;
            for task in tasks {
                produced += task.await?;
            }
            let deliveries = shared.deliveries();
            // Whatever is on the way has come back when all the room is there again.
            let _all = deliveries.room.acquire_many(ROOM).await?;
            Ok(shared.ledger(&order, produced, start.elapsed().as_secs_f64()))
        })
    }
}

/// A record that is on the way.
struct Handed {
    index: u64,
    at: Instant,
}

/// Where an acknowledged record is. Its id, key and part of the totals follow from its index.
struct Place {
    index: u64,
    partition: i32,
    offset: i64,
}

/// What becomes of records, noted by the client's own thread.
struct Deliveries {
    progress: Arc<Progress>,
    /// A place for each record that may be on the way at once.
    room: Semaphore,
    kept: Option<Mutex<Vec<Place>>>,
    failed: Mutex<BTreeMap<String, u64>>,
}

impl ClientContext for Deliveries {}

impl ProducerContext for Deliveries {
    type DeliveryOpaque = Box<Handed>;

    fn delivery(&self, result: &DeliveryResult<'_>, handed: Box<Handed>) {
        match result {
            Ok(message) => {
                if let Some(seconds) = &self.progress.delivery {
                    seconds.observe(handed.at.elapsed().as_secs_f64());
                }
                if let Some(kept) = &self.kept {
                    let (partition, offset) = (message.partition(), message.offset());
                    held(kept).push(Place { index: handed.index, partition, offset });
                }
                self.progress.acknowledged.inc();
            }
            Err((error, _)) => self.fail(error.to_string()),
        }
        self.room.add_permits(1);
    }
}

impl Deliveries {
    fn fail(&self, why: String) {
        *held(&self.failed).entry(why).or_default() += 1;
        self.progress.failed.inc();
    }
}

/// What a thread that panicked has left behind is still what was counted.
fn held<T>(kept: &Mutex<T>) -> MutexGuard<'_, T> {
    kept.lock().unwrap_or_else(PoisonError::into_inner)
}

struct Shared<S> {
    producer: Arc<ThreadedProducer<Deliveries>>,
    encoder: Option<AvroEncoder>,
    topic: &'static str,
    sequence: S,
    stop: watch::Receiver<bool>,
}

impl<S: Sequence> Shared<S> {
    fn deliveries(&self) -> &Deliveries {
        self.producer.context()
    }

    /// What was acknowledged so far.
    fn ledger(&self, order: &Order, produced: u64, seconds: f64) -> Ledger<S::Totals> {
        let deliveries = self.deliveries();
        let kept = deliveries.kept.as_ref().map(|kept| std::mem::take(&mut *held(kept))).unwrap_or_default();
        let mut totals = S::Totals::default();
        let records = kept.iter().map(|place| {
            let record = self.sequence.record(place.index, 0);
            S::add(&mut totals, &record);
            (S::id(&record).to_owned(), (S::key(&record).to_owned(), place.partition, place.offset))
        });
        let records = records.collect();
        Ledger {
            topic: self.topic.to_owned(),
            profile: order.profile.name,
            format: order.format,
            seed: order.seed,
            produced,
            acknowledged: deliveries.progress.acknowledged.get(),
            failed: std::mem::take(&mut *held(&deliveries.failed)),
            seconds,
            totals,
            records,
        }
    }

    /// One thread's loop: records `thread`, `thread + threads`, … of the sequence. Gives how many.
    async fn run(&self, thread: u64, threads: u64, rate: Option<f64>, count: Option<u64>) -> u64 {
        let mut ticks = rate.map(|rate| {
            let mut ticks = tokio::time::interval(Duration::from_secs_f64(1.0 / rate));
            ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Burst);
            ticks
        });
        let mut stop = self.stop.clone();
        let mut produced = 0;
        let mut index = thread;
        let mut json = Vec::new();
        while count.is_none_or(|count| index < count) && !*stop.borrow() {
            if let Some(ticks) = &mut ticks {
                tokio::select! {
                    _ = ticks.tick() => {}
                    _ = stop.wait_for(|s| *s) => break,
                }
            }
            // Never closed: the order is over before the semaphore is.
            let Ok(place) = self.deliveries().room.acquire().await else { break };
            place.forget();
            if let Err(why) = self.send(index, &mut json).await {
                self.deliveries().fail(why);
                self.deliveries().room.add_permits(1);
            }
            produced += 1;
            index += threads;
        }
        produced
    }

    /// Hands a record to the client, which copies it and says later what became of it. `json` is room for its text.
    async fn send(&self, index: u64, json: &mut Vec<u8>) -> Result<(), String> {
        let record = self.sequence.record(index, now_ms());
        self.sequence.made(&record);
        let avro;
        let value = match &self.encoder {
            None => {
                json.clear();
                serde_json::to_writer(&mut *json, &record).map_err(|e| e.to_string())?;
                &*json
            }
            Some(encoder) => {
                let strategy = SubjectNameStrategy::TopicNameStrategy(self.topic.to_owned(), false);
                avro = encoder.encode(S::avro(&record), strategy).await.map_err(|e| e.to_string())?;
                &avro
            }
        };
        let handed = Box::new(Handed { index, at: Instant::now() });
        let sent = BaseRecord::with_opaque_to(self.topic, handed).key(S::key(&record)).payload(value);
        self.producer.send(sent).map_err(|(error, _)| error.to_string())
    }
}

fn now_ms() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
}
