//! What is asked of a running lab about a scenario: to write its records by the scenario's name, and what came out at the other
//! end.

use std::collections::BTreeMap;

use anyhow::Result;
use tokio::sync::watch;

use super::kafka;
use super::producer::{Order, produce};
use crate::scenarios::transactions::{self, AGGREGATES_TOPIC, MerchantTotal, Transactions};

/// A scenario that has a producer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scenario {
    /// Financial transactions.
    Transactions,
}

/// How many records were written.
#[derive(Debug, Clone)]
pub struct Written {
    /// Records that Kafka acknowledged.
    pub acknowledged: u64,
    /// Reasons of those it did not, with how often.
    pub failed: BTreeMap<String, u64>,
}

impl Scenario {
    /// By its name in the definition.
    pub fn named(name: &str) -> Option<Self> {
        (name == "transactions").then_some(Self::Transactions)
    }

    /// Writes an order's records to its end.
    ///
    /// # Errors
    /// As [`produce`].
    pub async fn write(self, order: &Order) -> Result<Written> {
        let (_stop, never) = watch::channel(false);
        match self {
            Self::Transactions => {
                let ledger = produce(order, Transactions::of(order), Default::default(), never).await?;
                Ok(Written { acknowledged: ledger.acknowledged, failed: ledger.failed })
            }
        }
    }
}

/// What was read of `transaction_aggregates`.
#[derive(Debug, Clone, Default)]
pub struct Aggregates {
    /// The newest total of each merchant.
    pub merchants: BTreeMap<String, MerchantTotal>,
    /// Why records are no totals.
    pub malformed: Vec<String>,
    /// Where to read on.
    pub ends: BTreeMap<i32, i64>,
}

/// Spark's totals of the merchants that `keep` takes, from `from` (the beginning where a partition is not named) to the end.
///
/// # Errors
/// The cluster does not answer, or has no such topic.
pub async fn aggregates(
    bootstrap: &str,
    from: BTreeMap<i32, i64>,
    keep: impl Fn(&str) -> bool + Send + 'static,
) -> Result<Aggregates> {
    let wanted = move |record: kafka::Record| {
        record.key.as_ref().is_some_and(|_| keep(&record.key_text())).then_some(record)
    };
    let (records, ends) = kafka::read_topic(bootstrap, AGGREGATES_TOPIC, from, wanted).await?;
    let mut found = Aggregates { ends, ..Aggregates::default() };
    for record in records {
        match transactions::aggregate(&record.key_text(), record.bytes()) {
            Ok((merchant, total)) => drop(found.merchants.insert(merchant, total)),
            Err(why) => found.malformed.push(format!("{}@{}: {why}", record.partition, record.offset)),
        }
    }
    Ok(found)
}
