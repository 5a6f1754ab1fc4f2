//! What a consumer group has added up, kept in a compacted topic: for each partition its results and the offset that they reach to.
//! Whoever gets the partition next reads on from there.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context as _, Result};
use rdkafka::ClientConfig;
use rdkafka::producer::{FutureProducer, FutureRecord};
use serde::{Deserialize, Serialize};
use streamlab_records::results::Results;

use crate::clients::kafka;

/// The topic: one partition, so that the newest of a key is the last.
pub(super) const TOPIC: &str = "consumer-results";
/// Bytes of one partition's results, at most; the topic's own limit is the same.
const LARGEST: &str = "16777216";
/// How long a broker may take to acknowledge results.
const PATIENCE: Duration = Duration::from_secs(10);

/// Results of one partition, and where to read on.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Kept<R> {
    /// The first offset that is not in them.
    pub(super) next: i64,
    /// What was added up of the records before it.
    pub(super) results: R,
}

fn key<R: Results>(group: &str, partition: i32) -> String {
    format!("{group}/{}/{partition}", R::TOPIC)
}

/// The newest results of a group, by partition.
///
/// # Errors
/// The cluster does not answer, has no such topic, or something else has written there.
pub(super) async fn read<R: Results>(bootstrap: &str, group: &str) -> Result<BTreeMap<i32, Kept<R>>> {
    let begin = key::<R>(group, 0);
    let begin = begin.trim_end_matches('0').to_owned();
    let of_group = move |record: kafka::Record| {
        let partition: i32 = record.key_text().strip_prefix(&begin)?.parse().ok()?;
        Some((partition, record.value?))
    };
    let (records, _) = kafka::read_topic(bootstrap, TOPIC, BTreeMap::new(), of_group).await?;
    // Only the newest are of interest: those before them are not even looked at.
    let newest: BTreeMap<i32, Vec<u8>> = records.into_iter().collect();
    let parsed = newest.into_iter().map(|(partition, value)| {
        let kept = serde_json::from_slice(&value);
        Ok((partition, kept.with_context(|| format!("{} in {TOPIC}", key::<R>(group, partition)))?))
    });
    parsed.collect()
}

/// Writes results.
#[derive(Clone)]
pub(super) struct Keeper {
    producer: FutureProducer,
    group: String,
}

impl Keeper {
    pub(super) fn new(bootstrap: &str, group: &str) -> Result<Self> {
        let producer = ClientConfig::new()
            .set("bootstrap.servers", bootstrap)
            .set("client.id", format!("{group}-results"))
            .set("acks", "all")
            .set("enable.idempotence", "true")
            .set("compression.type", "zstd")
            .set("message.max.bytes", LARGEST)
            .set("message.timeout.ms", "10000")
            .set("log_level", "0")
            .create()?;
        Ok(Self { producer, group: group.to_owned() })
    }

    /// Writes the results of partitions, and waits until every in-sync replica has them.
    ///
    /// # Errors
    /// They were not acknowledged.
    pub(super) async fn keep<R: Results>(&self, of: &BTreeMap<i32, Kept<R>>) -> Result<()> {
        let written = of.iter().map(|(partition, kept)| async move {
            let (key, value) = (key::<R>(&self.group, *partition), serde_json::to_vec(kept)?);
            let record = FutureRecord::to(TOPIC).key(&key).payload(&value);
            let sent = self.producer.send(record, PATIENCE).await;
            sent.map_err(|(error, _)| error).with_context(|| format!("{key} cannot be written to {TOPIC}"))
        });
        futures::future::try_join_all(written).await.map(drop)
    }
}
