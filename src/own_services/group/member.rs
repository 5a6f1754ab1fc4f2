//! One member of a consumer group: it adds up the records of the partitions that it has, and keeps the results before it commits.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use anyhow::{Context as _, Result};
use rdkafka::consumer::{BaseConsumer, CommitMode, Consumer, ConsumerContext};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::{BorrowedMessage, Message};
use rdkafka::types::RDKafkaRespErr;
use rdkafka::{ClientConfig, ClientContext, Offset, TopicPartitionList};
use streamlab_records::results::Results;
use tokio::runtime::Handle;
use tokio::sync::watch;

use super::kept::{self, Kept};
use super::{Shared, say};
use crate::own_services::metrics::age_seconds;
use crate::probes::{Answer, eventually};

/// How often results are kept; the client commits what is kept as often.
const EVERY: Duration = Duration::from_secs(5);
/// How long Kafka may not give kept results before the member gives up.
const PATIENCE: Duration = Duration::from_secs(60);

/// One member, from joining to leaving.
pub(super) struct Member<R: Results> {
    shared: Arc<Shared<R>>,
    number: usize,
    stop: watch::Receiver<bool>,
}

impl<R: Results> Member<R> {
    pub(super) fn new(shared: Arc<Shared<R>>, number: usize, stop: watch::Receiver<bool>) -> Self {
        Self { shared, number, stop }
    }

    /// Reads until `stop` turns true; then keeps its results, commits and leaves. It must run on a thread that may wait.
    ///
    /// # Errors
    /// Bad settings, or no results can be read for a minute.
    pub(super) fn run(&self) -> Result<()> {
        while !*self.stop.borrow() {
            self.life()?;
        }
        Ok(())
    }

    /// One client's life: until `stop` turns true, or Kafka's client library says that this client is over.
    fn life(&self) -> Result<()> {
        let shared = &self.shared;
        let context = Assigned { member: self.number, shared: Arc::clone(shared), stop: self.stop.clone() };
        let consumer: BaseConsumer<Assigned<R>> = ClientConfig::new()
            .set("bootstrap.servers", &shared.bootstrap)
            .set("client.id", format!("{}-{}", shared.group, self.number + 1))
            .set("group.id", &shared.group)
            .set("auto.offset.reset", "earliest")
            // The client commits what was stored, and stored is what was kept.
            .set("enable.auto.offset.store", "false")
            .set("enable.auto.commit", "true")
            .set("auto.commit.interval.ms", "5000")
            .set("partition.assignment.strategy", "cooperative-sticky")
            // The partitions of a member that was killed are another's after this time.
            .set("session.timeout.ms", "6000")
            .set("heartbeat.interval.ms", "2000")
            .set("allow.auto.create.topics", "false")
            .set("topic.metadata.refresh.interval.ms", "10000")
            .set("socket.connection.setup.timeout.ms", "3000")
            .set("reconnect.backoff.max.ms", "1000")
            .set("fetch.queue.backoff.ms", "10")
            .set("queued.max.messages.kbytes", "4096")
            .set("log_level", "0")
            .create_with_context(context)?;
        consumer.subscribe(&[R::TOPIC])?;
        let mut kept_at = Instant::now();
        while !*self.stop.borrow() {
            shared.polled(self.number);
            let (batch, over) = self.batch(&consumer);
            self.take(&batch);
            shared.failed()?;
            if kept_at.elapsed() >= EVERY {
                kept_at = Instant::now();
                if let Err(error) = shared.keep_and_store(self.number, &consumer) {
                    // They are kept with the next: until then nothing of them is committed.
                    shared.client_error(format!("{error:#}"));
                }
            }
            if over {
                return Ok(());
            }
        }
        // Dropped here: the partitions are taken from it, and with that their results are kept and committed.
        Ok(())
    }

    /// Records that are there, at most as many as the group takes at once; and whether this client is over.
    fn batch<'a>(&self, consumer: &'a BaseConsumer<Assigned<R>>) -> (Vec<BorrowedMessage<'a>>, bool) {
        let mut batch = Vec::new();
        let mut patience = Duration::from_millis(200);
        while batch.len() < R::BATCH {
            match consumer.poll(std::mem::take(&mut patience)) {
                None => break,
                Some(Ok(message)) => batch.push(message),
                Some(Err(error)) => {
                    self.shared.client_error(error.to_string());
                    return (batch, matches!(error, KafkaError::MessageConsumptionFatal(_)));
                }
            }
        }
        (batch, false)
    }

    fn take(&self, batch: &[BorrowedMessage<'_>]) {
        if batch.is_empty() {
            return;
        }
        let shared = &self.shared;
        shared.batches.inc();
        let mut owned = shared.owned();
        for message in batch {
            // Taken away while the batch was read, or read before: then it is in what is kept.
            let Some(own) = owned.get_mut(&message.partition()).filter(|own| own.member == self.number)
            else {
                continue;
            };
            if message.offset() < own.kept.next {
                continue;
            }
            own.kept.next = message.offset() + 1;
            let written = message.timestamp().to_millis().unwrap_or_default();
            let record = message.payload().unwrap_or_default();
            match own.kept.results.add(&shared.settings, record, written) {
                Ok(None) => {}
                Ok(Some(notice)) => say(format_args!("{notice}")),
                Err(why) => {
                    shared.malformed.inc();
                    say(format_args!("{}-{}@{}: {why}", R::TOPIC, message.partition(), message.offset()));
                }
            }
            shared.records.inc();
            shared.age.observe(age_seconds(written, SystemTime::now()));
        }
    }
}

impl<R: Results> Shared<R> {
    /// Keeps what has changed of a member's partitions, then lets the client commit it.
    fn keep_and_store<C: ConsumerContext>(&self, member: usize, consumer: &BaseConsumer<C>) -> Result<()> {
        let changed: BTreeMap<i32, Kept<R>> = {
            let owned = self.owned();
            let changed = owned.iter().filter(|(_, own)| own.member == member && own.kept.next != own.stored);
            changed.map(|(partition, own)| (*partition, own.kept.clone())).collect()
        };
        if changed.is_empty() {
            return Ok(());
        }
        Handle::current().block_on(self.keeper.keep(&changed))?;
        let mut offsets = TopicPartitionList::new();
        let mut owned = self.owned();
        for (partition, kept) in &changed {
            if let Some(own) = owned.get_mut(partition) {
                own.stored = kept.next;
                offsets.add_partition_offset(R::TOPIC, *partition, Offset::Offset(kept.next))?;
            }
        }
        drop(owned);
        // Refused where a rebalance has just taken the partition: its next owner commits.
        let _ = consumer.store_offsets(&offsets);
        Ok(())
    }
}

/// What happens when partitions come and go. Kafka's client calls it on the member's own thread, from within `poll`.
struct Assigned<R: Results> {
    member: usize,
    shared: Arc<Shared<R>>,
    stop: watch::Receiver<bool>,
}

impl<R: Results> ClientContext for Assigned<R> {}

impl<R: Results> ConsumerContext for Assigned<R> {
    fn rebalance(
        &self,
        consumer: &BaseConsumer<Self>,
        code: RDKafkaRespErr,
        partitions: &mut TopicPartitionList,
    ) {
        let done = match code {
            RDKafkaRespErr::RD_KAFKA_RESP_ERR__ASSIGN_PARTITIONS => self.assign(consumer, partitions),
            _ => self.revoke(consumer, partitions),
        };
        if let Err(error) = done {
            self.shared.client_error(format!("{error:#}"));
        }
    }
}

impl<R: Results> Assigned<R> {
    /// Reads on from where the kept results end. Without them nothing is read: the results would be wrong.
    fn assign(&self, consumer: &BaseConsumer<Self>, partitions: &mut TopicPartitionList) -> Result<()> {
        let wanted: Vec<i32> = partitions.elements().iter().map(|p| p.partition()).collect();
        let mut found = match wanted.is_empty() {
            true => BTreeMap::new(),
            false => match self.kept() {
                Ok(Some(found)) => found,
                // Told to end: nothing is read any more.
                Ok(None) => return Ok(()),
                Err(error) => {
                    self.shared.fail(format!("{error:#}"));
                    return Err(error);
                }
            },
        };
        let mut from = TopicPartitionList::new();
        for partition in wanted {
            let kept = found.remove(&partition);
            let offset = kept.as_ref().map_or(Offset::Beginning, |kept| Offset::Offset(kept.next));
            from.add_partition_offset(R::TOPIC, partition, offset)?;
            self.shared.own(self.member, partition, kept.unwrap_or_default());
        }
        consumer.incremental_assign(&from)?;
        self.shared.has(self.member);
        Ok(())
    }

    fn revoke(&self, consumer: &BaseConsumer<Self>, partitions: &mut TopicPartitionList) -> Result<()> {
        let kept = self.shared.keep_and_store(self.member, consumer);
        let committed = kept.and_then(|()| match consumer.commit_consumer_state(CommitMode::Sync) {
            // There was nothing new to commit.
            Err(KafkaError::ConsumerCommit(RDKafkaErrorCode::NoOffset)) => Ok(()),
            other => other.context("the offsets cannot be committed"),
        });
        for partition in partitions.elements() {
            self.shared.disown(self.member, partition.partition());
        }
        consumer.incremental_unassign(partitions)?;
        self.shared.has(self.member);
        committed
    }

    /// What the group has added up; nothing where the member is told to end meanwhile.
    fn kept(&self) -> Result<Option<BTreeMap<i32, Kept<R>>>> {
        let mut stop = self.stop.clone();
        let question = format!("what {} has added up, in {}", self.shared.group, kept::TOPIC);
        let ask = || async { kept::read(&self.shared.bootstrap, &self.shared.group).await.map(Answer::Is) };
        Handle::current().block_on(async {
            tokio::select! {
                found = eventually(&question, PATIENCE, Duration::from_secs(1), ask) => Ok(Some(found?)),
                _ = stop.wait_for(|s| *s) => Ok(None),
            }
        })
    }
}
