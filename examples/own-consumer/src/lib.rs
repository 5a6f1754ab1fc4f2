//! Somebody's own consumer, as it could stand in any project: it sums up the transactions of each merchant. It knows nothing of
//! Streamlab; its test does.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use rdkafka::config::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer as _};
use rdkafka::error::KafkaError;
use rdkafka::message::Message as _;
use serde::Deserialize;

/// How long a broker may say nothing.
const SILENCE: Duration = Duration::from_secs(30);

/// What one merchant has sold.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Sales {
    /// Number of transactions.
    pub count: u64,
    /// Sum of their amounts, in cents: sums of floating-point numbers would not be exact.
    pub cents: u64,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Transaction {
    merchant_id: String,
    amount: f64,
}

/// Reads a topic of JSON transactions from its beginning to its present end; merchant → sales. It waits for the brokers, so call
/// it where waiting is allowed.
///
/// # Errors
/// The brokers do not answer, the topic is not there, or a record is no transaction.
pub fn sales_by_merchant(bootstrap: &str, topic: &str) -> Result<BTreeMap<String, Sales>> {
    let consumer: BaseConsumer = ClientConfig::new()
        .set("bootstrap.servers", bootstrap)
        .set("group.id", "own-consumer")
        .set("auto.offset.reset", "earliest")
        .set("enable.auto.commit", "false")
        .set("enable.partition.eof", "true")
        .create()?;
    let metadata = consumer.fetch_metadata(Some(topic), SILENCE)?;
    let partitions = metadata.topics().first().map_or(0, |t| t.partitions().len());
    if partitions == 0 {
        bail!("there is no topic {topic} on {bootstrap}");
    }
    consumer.subscribe(&[topic])?;
    let mut sales: BTreeMap<String, Sales> = BTreeMap::new();
    let mut read_to_the_end = BTreeSet::new();
    let mut heard = Instant::now();
    while read_to_the_end.len() < partitions {
        // None is not always silence: the client comes back from a rebalance too.
        let Some(polled) = consumer.poll(Duration::from_secs(1)) else {
            if heard.elapsed() > SILENCE {
                bail!("{bootstrap} says nothing");
            }
            continue;
        };
        heard = Instant::now();
        let message = match polled {
            Err(KafkaError::PartitionEOF(partition)) => {
                read_to_the_end.insert(partition);
                continue;
            }
            message => message?,
        };
        let at = || format!("{topic} {}@{}", message.partition(), message.offset());
        let value = message.payload().with_context(at)?;
        let transaction: Transaction = serde_json::from_slice(value).with_context(at)?;
        let of_merchant = sales.entry(transaction.merchant_id).or_default();
        of_merchant.count += 1;
        of_merchant.cents += (transaction.amount * 100.0).round() as u64;
    }
    Ok(sales)
}
