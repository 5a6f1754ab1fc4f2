//! Reading a topic from given offsets to given ends. Where a topic begins and ends is the caller's question.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::message::{BorrowedMessage, Headers, Message};
use rdkafka::{Offset, TopicPartitionList};

/// How long a topic may give nothing before its end.
const SILENCE: Duration = Duration::from_secs(20);

/// Records that are handed over at once, at most; and bytes, but for the last record's.
pub const BATCH: usize = 500;
const BATCH_BYTES: usize = 1 << 20;

/// A record as it was read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    /// Partition.
    pub partition: i32,
    /// Offset in the partition.
    pub offset: i64,
    /// When it was written, or is said to have happened: milliseconds since the epoch; none where it does not say.
    pub timestamp: Option<i64>,
    /// Key, where it has one.
    pub key: Option<Vec<u8>>,
    /// Value; none for a tombstone.
    pub value: Option<Vec<u8>>,
    /// Name and value of each header.
    pub headers: Vec<(String, Option<Vec<u8>>)>,
}

impl Record {
    fn of(message: &BorrowedMessage<'_>) -> Self {
        let headers = message.headers().into_iter().flat_map(|headers| headers.iter());
        Self {
            partition: message.partition(),
            offset: message.offset(),
            timestamp: message.timestamp().to_millis(),
            key: message.key().map(<[u8]>::to_vec),
            value: message.payload().map(<[u8]>::to_vec),
            headers: headers.map(|h| (h.key.to_owned(), h.value.map(<[u8]>::to_vec))).collect(),
        }
    }

    /// The key as text; empty where there is none.
    pub fn key_text(&self) -> Cow<'_, str> {
        String::from_utf8_lossy(self.key.as_deref().unwrap_or_default())
    }

    /// The value's bytes; none for a tombstone.
    pub fn bytes(&self) -> &[u8] {
        self.value.as_deref().unwrap_or_default()
    }
}

/// Gives `each` the records of a topic between begin and end of its partitions, in each partition's order and at most [`BATCH`] or a
/// mebibyte at once, until it breaks off. It blocks.
///
/// # Errors
/// The cluster stops answering before the ends are reached.
pub fn read(
    consumer: &BaseConsumer,
    topic: &str,
    bounds: &BTreeMap<i32, (i64, i64)>,
    each: &mut dyn FnMut(Vec<Record>) -> ControlFlow<()>,
) -> Result<()> {
    let mut assignment = TopicPartitionList::new();
    let mut left = BTreeMap::new();
    for (&partition, &(begin, end)) in bounds.iter().filter(|(_, (begin, end))| begin < end) {
        assignment.add_partition_offset(topic, partition, Offset::Offset(begin))?;
        left.insert(partition, end);
    }
    if left.is_empty() {
        return Ok(());
    }
    consumer.assign(&assignment)?;
    let mut batch = Vec::with_capacity(BATCH);
    let mut bytes = 0;
    let mut heard = Instant::now();
    while !left.is_empty() {
        let Some(message) = consumer.poll(Duration::from_millis(200)) else {
            // Control records at the end of a partition are never delivered: ask where the consumer stands.
            for p in consumer.position()?.elements() {
                if let (Offset::Offset(at), Some(&end)) = (p.offset(), left.get(&p.partition()))
                    && at >= end
                {
                    left.remove(&p.partition());
                }
            }
            if !left.is_empty() && heard.elapsed() > SILENCE {
                bail!("{topic}: partitions {:?} gave nothing for {} s", left.keys(), SILENCE.as_secs());
            }
            if !batch.is_empty() && each(std::mem::take(&mut batch)).is_break() {
                return Ok(());
            }
            continue;
        };
        let message = match message {
            Ok(message) => message,
            Err(error) => {
                // What was read before is there all the same.
                let _ = each(batch);
                return Err(error.into());
            }
        };
        if left.get(&message.partition()).is_some_and(|end| message.offset() + 1 >= *end) {
            left.remove(&message.partition());
        }
        if bounds.get(&message.partition()).is_some_and(|(_, end)| message.offset() < *end) {
            bytes += message.key_len() + message.payload_len();
            batch.push(Record::of(&message));
        }
        if batch.len() >= BATCH || bytes >= BATCH_BYTES {
            bytes = 0;
            if each(std::mem::replace(&mut batch, Vec::with_capacity(BATCH))).is_break() {
                return Ok(());
            }
        }
        // `each` may take its time: that is no silence of the topic.
        heard = Instant::now();
    }
    if !batch.is_empty() {
        // It was the last: whether more are wanted is no question any more.
        let _ = each(batch);
    }
    Ok(())
}
