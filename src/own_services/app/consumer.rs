//! The consumer of app-service: a member of its group that hands every record on before it counts as read.

use std::io::Write as _;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use anyhow::Result;
use rdkafka::consumer::{BaseConsumer, Consumer, ConsumerContext, Rebalance};
use rdkafka::error::KafkaError;
use rdkafka::message::{BorrowedMessage, Message};
use rdkafka::{ClientConfig, ClientContext};
use tokio::sync::watch;

use super::seen::Seen;
use crate::own_services::metrics::{Buckets, Counters, Histograms, Registry, Topic, age_seconds};
use crate::scenarios::transactions::{AGGREGATES_TOPIC, TOPIC};

/// The consumer group.
pub(super) const GROUP: &str = "app-service";
/// `topic` of the errors that are the client's own.
const CLIENT: &str = "client";
/// Longest pause between two polls with which it counts as alive.
const ALIVE: Duration = Duration::from_secs(10);

/// Errors that are told apart.
const KINDS: usize = 16;

/// What consumer and answers share.
#[derive(Debug)]
pub(super) struct Shared {
    pub(super) seen: Mutex<Seen>,
    state: Mutex<State>,
    records: Counters<Topic>,
    errors: Counters<Topic>,
    age: Histograms<Topic>,
}

#[derive(Debug)]
struct State {
    partitions: usize,
    polled: Option<Instant>,
    /// Errors since it last had partitions, the newest last.
    errors: Vec<String>,
}

impl Shared {
    pub(super) fn new(registry: &mut Registry) -> Self {
        const SECONDS: Buckets =
            Buckets(&[0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0, 3600.0]);
        let shared = Self {
            seen: Mutex::default(),
            state: Mutex::new(State { partitions: 0, polled: None, errors: Vec::new() }),
            records: registry.counters("consumer_records", "Records read, malformed ones too"),
            errors: registry
                .counters("consumer_errors", "Malformed records by topic, and errors of the client"),
            age: registry.histograms(
                "consumer_record_age_seconds",
                "From the record's timestamp until it was handled",
                SECONDS,
            ),
        };
        // The series exist from the start: Prometheus sees no increase at a series' first sample.
        for topic in [TOPIC, AGGREGATES_TOPIC] {
            drop(shared.records.get_or_create(&Topic::of(topic)));
            drop(shared.errors.get_or_create(&Topic::of(topic)));
        }
        drop(shared.errors.get_or_create(&Topic::of(CLIENT)));
        shared
    }

    /// Whether it reads: it has partitions, and has asked for records lately.
    pub(super) fn health(&self) -> Result<(), String> {
        let state = self.state();
        let why = match (state.polled.map(|p| p.elapsed()), state.partitions) {
            (None, _) => "the consumer has not begun".to_owned(),
            (Some(since), _) if since > ALIVE => {
                format!("the consumer asked for records {} s ago", since.as_secs())
            }
            (_, 0) => format!("group {GROUP} has given this consumer no partition"),
            _ => return Ok(()),
        };
        Err(match state.errors.last() {
            Some(error) => format!("{why}; last error: {error}"),
            None => why,
        })
    }

    fn state(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn handle(&self, message: &BorrowedMessage<'_>) {
        let topic = Topic::of(message.topic());
        let record = message.payload().unwrap_or_default();
        let taken = {
            let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
            if topic.topic == AGGREGATES_TOPIC { seen.aggregate(record) } else { seen.transaction(record) }
        };
        self.records.get_or_create(&topic).inc();
        if let Some(written) = message.timestamp().to_millis() {
            self.age.get_or_create(&topic).observe(age_seconds(written, SystemTime::now()));
        }
        if let Err(why) = taken {
            self.errors.get_or_create(&topic).inc();
            say(format_args!("{}-{}@{}: {why}", topic.topic, message.partition(), message.offset()));
        }
    }

    /// Counts an error of the client. The same again is not said again: a broker that is away repeats itself.
    fn client_error(&self, error: String) {
        self.errors.get_or_create(&Topic::of(CLIENT)).inc();
        let mut state = self.state();
        match state.errors.iter().position(|e| *e == error) {
            Some(at) => drop(state.errors.remove(at)),
            None => say(format_args!("client: {error}")),
        }
        state.errors.push(error);
        if state.errors.len() > KINDS {
            state.errors.remove(0);
        }
    }
}

/// A line of the log; a log that nobody takes must not end the service.
fn say(line: std::fmt::Arguments<'_>) {
    let _ = writeln!(std::io::stdout(), "{line}");
}

struct Member(Arc<Shared>);

impl ClientContext for Member {}

impl ConsumerContext for Member {
    fn post_rebalance(&self, consumer: &BaseConsumer<Self>, _: &Rebalance<'_>) {
        let partitions = consumer.assignment().map_or(0, |a| a.count());
        let mut state = self.0.state();
        if state.partitions != partitions {
            say(format_args!("{partitions} partitions"));
            state.partitions = partitions;
        }
        if partitions > 0 {
            state.errors.clear();
        }
    }
}

/// Joins the group and reads until `stop` turns true; then commits and leaves. It ends for nothing else: a client that may not go on
/// (its name was taken for another's while brokers came and went) makes room for a new one.
///
/// # Errors
/// Bad settings only: a cluster that is not there is waited for.
pub(super) fn read(bootstrap: &str, shared: &Arc<Shared>, stop: &watch::Receiver<bool>) -> Result<()> {
    while !*stop.borrow() {
        read_as_member(bootstrap, shared, stop)?;
    }
    Ok(())
}

/// One client's life: until `stop` turns true, or Kafka's client library says that this client is over.
fn read_as_member(bootstrap: &str, shared: &Arc<Shared>, stop: &watch::Receiver<bool>) -> Result<()> {
    let consumer: BaseConsumer<Member> = ClientConfig::new()
        .set("bootstrap.servers", bootstrap)
        .set("client.id", GROUP)
        .set("group.id", GROUP)
        // A member that was killed, or could not say goodbye to brokers that went with it, is this one again: without a
        // fixed name Kafka would wait 45 s for the old one first.
        .set("group.instance.id", GROUP)
        .set("auto.offset.reset", "earliest")
        // At least once: the client commits what was stored, and stored is what was handled.
        .set("enable.auto.offset.store", "false")
        .set("enable.auto.commit", "true")
        .set("auto.commit.interval.ms", "1000")
        .set("partition.assignment.strategy", "cooperative-sticky")
        .set("allow.auto.create.topics", "false")
        // A topic that was made anew is found again, and a broker that came back is tried, within seconds.
        .set("topic.metadata.refresh.interval.ms", "10000")
        .set("socket.connection.setup.timeout.ms", "3000")
        .set("reconnect.backoff.max.ms", "1000")
        // An answer at most twice a second: one for each record would be ten a second from each broker.
        .set("fetch.wait.max.ms", "500")
        .set("fetch.min.bytes", "65536")
        // With many records to come, the client would rest for a second each time it has read ahead far enough.
        .set("fetch.queue.backoff.ms", "10")
        // What goes wrong comes back from poll; the client's own log would only repeat it.
        .set("log_level", "0")
        // The memory of a catch-up.
        .set("queued.max.messages.kbytes", "8192")
        .create_with_context(Member(Arc::clone(shared)))?;
    consumer.subscribe(&[TOPIC, AGGREGATES_TOPIC])?;
    while !*stop.borrow() {
        shared.state().polled = Some(Instant::now());
        match consumer.poll(Duration::from_millis(100)) {
            None => {}
            Some(Err(error)) => {
                shared.client_error(error.to_string());
                if matches!(error, KafkaError::MessageConsumptionFatal(_)) {
                    return Ok(());
                }
            }
            Some(Ok(message)) => {
                shared.handle(&message);
                // Refused where a rebalance has just taken the partition: its next owner reads the record again.
                let _ = consumer.store_offset_from_message(&message);
            }
        }
    }
    // Dropped here: the consumer commits what is stored and leaves the group.
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_consumer_that_does_not_read_is_not_healthy() {
        let shared = Shared::new(&mut Registry::new());
        assert!(shared.health().unwrap_err().contains("not begun"));
        shared.state().polled = Some(Instant::now());
        shared.client_error("all brokers are down".to_owned());
        let why = shared.health().unwrap_err();
        assert!(why.contains("no partition") && why.contains("all brokers are down"), "{why}");
        shared.state().partitions = 1;
        shared.health().unwrap();
        shared.state().polled = Instant::now().checked_sub(ALIVE * 2);
        assert!(shared.health().unwrap_err().contains("20 s ago"));
    }
}
