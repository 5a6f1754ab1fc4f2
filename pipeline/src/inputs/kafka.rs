//! kafka: records of topics. Offsets are committed when their records are done; until then the consumer's partitions rest.

use std::time::Duration;

use anyhow::{Context as _, Result};
use rdkafka::consumer::{CommitMode, Consumer as _, StreamConsumer};
use rdkafka::message::BorrowedMessage;
use rdkafka::{ClientConfig, Message as _, Offset, TopicPartitionList};
use serde_json::Value;
use time::OffsetDateTime;

use super::codec::Codec;
use super::{Common, Exit, id_of, text};
use crate::event::Event;
use crate::options::Options;
use crate::{Checked, mistake};

/// Records of one portion.
const MOST: usize = 2000;
/// Bytes of text after which a portion is closed.
const MOST_TEXT: usize = 8 << 20;
/// How long a portion may grow.
const GROWS: Duration = Duration::from_millis(50);

#[derive(Debug)]
pub(crate) struct Kafka {
    servers: String,
    topics: Vec<String>,
    group: String,
    client: String,
    reset: String,
    codec: Codec,
    decorate: bool,
}

/// A portion as it grows, and how far its partitions are read with it.
#[derive(Default)]
struct Taken {
    events: Vec<Event>,
    text: usize,
    read: TopicPartitionList,
}

impl Kafka {
    pub(super) fn of(options: &mut Options) -> Checked<Self> {
        let Some((servers, _)) = options.text("bootstrap_servers")? else {
            return options.missing("bootstrap_servers");
        };
        let topics: Vec<String> = options.texts("topics")?.into_iter().map(|(topic, _)| topic).collect();
        if topics.is_empty() {
            return options.missing("topics");
        }
        let reset = match options.text("auto_offset_reset")? {
            None => "latest".to_owned(),
            Some((reset, _)) if ["earliest", "latest"].contains(&reset.as_str()) => reset,
            Some((other, line)) => {
                return mistake(line, format!("auto_offset_reset: {other:?}; write earliest or latest"));
            }
        };
        let decorate = match options.text("decorate_events")? {
            None => false,
            Some((word, _)) if word == "none" || word == "false" => false,
            Some((word, _)) if word == "basic" || word == "true" => true,
            Some((other, line)) => {
                return mistake(line, format!("decorate_events: {other:?}; write none or basic"));
            }
        };
        options.number("consumer_threads", 1.0..=1000.0)?;
        Ok(Self {
            servers,
            topics,
            group: options.text("group_id")?.map_or("logstash".to_owned(), |(group, _)| group),
            client: options.text("client_id")?.map_or("logstash".to_owned(), |(client, _)| client),
            reset,
            codec: Codec::of(options, &["plain", "json"])?,
            decorate,
        })
    }

    pub(super) async fn run(self, common: Common, exit: Exit) -> Result<()> {
        let consumer: StreamConsumer = ClientConfig::new()
            .set("bootstrap.servers", &self.servers)
            .set("group.id", &self.group)
            .set("client.id", &self.client)
            .set("auto.offset.reset", &self.reset)
            .set("enable.auto.commit", "false")
            // What a transaction that was given up has written is nobody's.
            .set("isolation.level", "read_committed")
            .set("session.timeout.ms", "10000")
            .set("reconnect.backoff.max.ms", "2000")
            .create()
            .context("kafka: the consumer's settings")?;
        let topics: Vec<&str> = self.topics.iter().map(String::as_str).collect();
        consumer.subscribe(&topics)?;
        loop {
            let first = match consumer.recv().await {
                Ok(record) => record,
                Err(error) => {
                    eprintln!("[WARN] kafka: {}: {error}", self.servers);
                    continue;
                }
            };
            let mut portion = Taken::default();
            self.take(&first, &common, &mut portion);
            let until = tokio::time::Instant::now() + GROWS;
            while portion.events.len() < MOST && portion.text < MOST_TEXT {
                match tokio::time::timeout_at(until, consumer.recv()).await {
                    Ok(Ok(record)) => self.take(&record, &common, &mut portion),
                    Ok(Err(_)) | Err(_) => break,
                }
            }
            self.done(&consumer, exit.hand_over(portion.events), &portion.read).await?;
        }
    }

    /// Adds a record's events, and its place.
    fn take(&self, record: &BorrowedMessage<'_>, common: &Common, portion: &mut Taken) {
        let (topic, partition, offset) = (record.topic(), record.partition(), record.offset());
        let millis = record.timestamp().to_millis().unwrap_or_default();
        // A record's own time: read again tomorrow, it is in the same index.
        let time = OffsetDateTime::from_unix_timestamp_nanos(i128::from(millis) * 1_000_000)
            .unwrap_or(OffsetDateTime::UNIX_EPOCH);
        // With the time: a topic that was removed and made again begins at 0 once more.
        let place = format!("{topic} {partition} {offset} {millis}");
        let payload = text(record.payload().unwrap_or_default());
        portion.text += payload.len();
        for mut event in self.codec.events(payload, time, id_of([place.as_bytes()])) {
            if self.decorate {
                let of = |name: &str, value: Value| (name.to_owned(), value);
                let mut about = serde_json::Map::from_iter([
                    of("topic", topic.into()),
                    of("partition", partition.into()),
                    of("offset", offset.into()),
                    of("timestamp", millis.into()),
                    of("consumer_group", self.group.clone().into()),
                ]);
                if let Some(key) = record.key() {
                    about.insert("key".to_owned(), text(key).into());
                }
                event.metadata.insert("kafka".to_owned(), Value::Object(about));
            }
            common.mark(&mut event);
            portion.events.push(event);
        }
        // Refused only for a partition that is not there, and this one is.
        if portion.read.set_partition_offset(topic, partition, Offset::Offset(offset + 1)).is_err() {
            let _ = portion.read.add_partition_offset(topic, partition, Offset::Offset(offset + 1));
        }
    }

    /// Waits until a portion is done, then commits. Meanwhile the consumer is asked for records and gets none, so that its group keeps it.
    async fn done(
        &self,
        consumer: &StreamConsumer,
        done: impl Future<Output = Result<()>>,
        read: &TopicPartitionList,
    ) -> Result<()> {
        tokio::pin!(done);
        // Mostly it is done at once.
        if let Ok(ended) = tokio::time::timeout(Duration::from_secs(1), &mut done).await {
            ended?;
        } else {
            let resting = consumer.assignment()?;
            consumer.pause(&resting)?;
            loop {
                tokio::select! {
                    ended = &mut done => { ended?; break }
                    // Partitions that came meanwhile are not paused: what they give is read again.
                    record = consumer.recv() => if let Ok(record) = record {
                        let again = Offset::Offset(record.offset());
                        let wait = Duration::from_secs(5);
                        let _ = consumer.seek(record.topic(), record.partition(), again, wait);
                        let mut new = TopicPartitionList::new();
                        new.add_partition(record.topic(), record.partition());
                        let _ = consumer.pause(&new);
                    }
                }
            }
            consumer.resume(&consumer.assignment()?)?;
        }
        // A partition that another has now: it reads these again, and they are the same documents.
        if let Err(error) = consumer.commit(read, CommitMode::Async) {
            eprintln!("[WARN] kafka: {}: not committed: {error}", self.group);
        }
        Ok(())
    }
}
