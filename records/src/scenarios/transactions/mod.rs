//! The financial transactions of the Kafka–Spark platform: records, the two producers of the documents that describe it, and
//! what Spark must make of them.

mod money;
pub mod valid;

use std::collections::{BTreeMap, BTreeSet};

use anyhow::Result;
use apache_avro::types::Value as Avro;
use rand::RngExt;
use schema_registry_converter::async_impl::avro::AvroEncoder;
use serde::{Deserialize, Serialize};
use tokio::sync::watch;
use tokio::task::JoinHandle;

pub use self::money::Cents;
use super::draw::{self, Run};
use super::{Format, Profile, Sequence};
use crate::writer::{Ledger, Order, Writer};

/// The Python producer: gzip, acks 1, linger 10 ms, batches of 1000 records.
pub const PYTHON: Profile = Profile {
    name: "python",
    settings: &[("compression.type", "gzip"), ("linger.ms", "10"), ("batch.num.messages", "1000")],
};
/// The Java producer: snappy, acks 1, linger 3 ms, batches of 64 KB; partitioned, and requests held back, as Kafka's own client does.
pub const JAVA: Profile = Profile {
    name: "java",
    settings: &[
        ("compression.type", "snappy"),
        ("linger.ms", "3"),
        ("batch.size", "65536"),
        ("partitioner", "murmur2_random"),
        ("max.in.flight.requests.per.connection", "5"),
    ],
};

/// From this amount on (in cents) a transaction is of high value.
pub const HIGH_VALUE_CENTS: u128 = 12_000_000;
/// Topic of the JSON records.
pub const TOPIC: &str = "financial_transactions";
/// Topic of the Avro records.
pub const AVRO_TOPIC: &str = "financial_transactions_avro";
/// Topic of Spark's totals by merchant.
pub const AGGREGATES_TOPIC: &str = "transaction_aggregates";
/// Topic of Spark's high-value transactions.
pub const HIGH_VALUE_TOPIC: &str = "high_value_transactions";
/// Topic of the records that Spark could not read.
pub const DEAD_LETTER_TOPIC: &str = "financial_transactions_dead_letter";

const PAYMENT_METHODS: [&str; 3] = ["credit-card", "paypal", "bank_transfer"];
const CURRENCIES: [&str; 3] = ["USD", "EUR", "GBP"];

/// One financial transaction.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Transaction {
    /// UUID.
    pub transaction_id: String,
    /// `user_1` to `user_100`; the record's key.
    pub user_id: String,
    /// 50,000.00 to 150,000.00.
    pub amount: Cents,
    /// Milliseconds since the epoch.
    pub transaction_time: i64,
    /// `merchant_1` to `merchant_3`, with the run's suffix where there is one.
    pub merchant_id: String,
    /// `location_1` to `location_50`.
    pub location: String,
    /// `credit-card`, `paypal` or `bank_transfer`.
    pub payment_method: String,
    /// Crosses a border.
    pub is_international: bool,
    /// `USD`, `EUR` or `GBP`.
    pub currency: String,
}

/// A seeded, endless sequence of transactions.
#[derive(Debug, Clone)]
pub struct Transactions {
    run: Run,
}

/// What must come out for the first records of a sequence.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Totals {
    /// Count and sum by merchant.
    pub merchants: BTreeMap<String, MerchantTotal>,
    /// Ids of the transactions of high value.
    pub high_value: BTreeSet<String>,
}

/// Totals without the single ids.
#[derive(Debug, Clone, Serialize)]
pub struct InShort {
    high_value_count: usize,
    merchants: BTreeMap<String, MerchantTotal>,
}

/// Count and sum of one merchant.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct MerchantTotal {
    /// Number of transactions.
    pub transaction_count: u64,
    /// Sum of their amounts.
    pub total_amount: Cents,
}

impl Transactions {
    /// The sequence of a seed; with `run`, its ids and merchants are its own.
    pub fn new(seed: u64, run: Option<&str>) -> Self {
        Self { run: Run::new(seed, run) }
    }

    /// The sequence that an order means.
    pub fn of(order: &Order) -> Self {
        Self::new(order.seed, order.run.as_deref())
    }

    /// What must come out for the first `count` records.
    pub fn totals(&self, count: u64) -> Totals {
        let mut totals = Totals::default();
        for index in 0..count {
            totals.add(&self.record(index, 0));
        }
        totals
    }
}

impl Sequence for Transactions {
    type Record = Transaction;
    type Totals = Totals;
    type InShort = InShort;

    fn record(&self, index: u64, time_ms: i64) -> Transaction {
        let mut random = self.run.at(index);
        let id = draw::uuid(&mut random);
        let merchant = format!("merchant_{}", random.random_range(1..=3));
        let merchant = self.run.own(&merchant);
        Transaction {
            transaction_id: id.to_string(),
            user_id: format!("user_{}", random.random_range(1..=100)),
            amount: Cents(random.random_range(5_000_000_u64..=15_000_000).into()),
            transaction_time: time_ms,
            merchant_id: merchant,
            location: format!("location_{}", random.random_range(1..=50)),
            payment_method: PAYMENT_METHODS[random.random_range(0..3)].to_owned(),
            is_international: random.random(),
            currency: CURRENCIES[random.random_range(0..3)].to_owned(),
        }
    }

    fn topic(&self, format: Format) -> &'static str {
        topic(format)
    }

    fn id(record: &Transaction) -> &str {
        &record.transaction_id
    }

    fn key(record: &Transaction) -> &str {
        &record.user_id
    }

    fn avro(record: &Transaction) -> Vec<(&'static str, Avro)> {
        let text = |value: &str| Avro::String(value.to_owned());
        vec![
            ("transactionId", text(&record.transaction_id)),
            ("userId", text(&record.user_id)),
            ("amount", Avro::Decimal(record.amount.into())),
            ("transactionTime", Avro::TimestampMillis(record.transaction_time)),
            ("merchantId", text(&record.merchant_id)),
            ("location", text(&record.location)),
            ("paymentMethod", text(&record.payment_method)),
            ("isInternational", Avro::Boolean(record.is_international)),
            ("currency", text(&record.currency)),
        ]
    }

    fn add(totals: &mut Totals, record: &Transaction) {
        totals.add(record);
    }

    fn write(
        self,
        writer: Writer,
        order: Order,
        encoder: Option<AvroEncoder>,
        stop: watch::Receiver<bool>,
    ) -> JoinHandle<Result<Ledger<Totals>>> {
        writer.carry_out(order, self, encoder, stop)
    }

    fn in_short(totals: &Totals) -> InShort {
        InShort { high_value_count: totals.high_value.len(), merchants: totals.merchants.clone() }
    }
}

/// Where transactions of a format go.
pub fn topic(format: Format) -> &'static str {
    match format {
        Format::Json => TOPIC,
        Format::Avro => AVRO_TOPIC,
    }
}

/// What Spark writes into `transaction_aggregates`: the merchant, and its newest total.
///
/// # Errors
/// The value is no total, or of another merchant than the key says.
pub fn aggregate(key: &str, value: &[u8]) -> Result<(String, MerchantTotal), String> {
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase", deny_unknown_fields)]
    struct Aggregate {
        merchant_id: String,
        transaction_count: u64,
        total_amount: Cents,
    }
    let read: Aggregate = serde_json::from_slice(value).map_err(|e| e.to_string())?;
    if key != read.merchant_id {
        return Err(format!("key {key:?}, value of {}", read.merchant_id));
    }
    let total = MerchantTotal { transaction_count: read.transaction_count, total_amount: read.total_amount };
    Ok((read.merchant_id, total))
}

impl Totals {
    /// Counts one more transaction.
    pub fn add(&mut self, transaction: &Transaction) {
        let merchant = self
            .merchants
            .entry(transaction.merchant_id.clone())
            .or_insert(MerchantTotal { transaction_count: 0, total_amount: Cents(0) });
        merchant.transaction_count += 1;
        merchant.total_amount.0 += transaction.amount.0;
        if transaction.amount.0 >= HIGH_VALUE_CENTS {
            self.high_value.insert(transaction.transaction_id.clone());
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn a_record_follows_from_seed_and_index(seed: u64, index in 0..1_000_000_u64) {
            let sequence = Transactions::new(seed, None);
            prop_assert_eq!(sequence.record(index, 5), Transactions::new(seed, None).record(index, 5));
        }

        #[test]
        fn two_runs_share_no_id(seed: u64, index in 0..1_000_u64) {
            let id = |run| Transactions::new(seed, Some(run)).record(index, 0).transaction_id;
            prop_assert_ne!(id("one"), id("two"));
        }

        #[test]
        fn every_record_is_within_the_documented_ranges(seed: u64, index: u64) {
            let record = Transactions::new(seed, Some("ab12")).record(index, 0);
            let number = |text: &str, prefix: &str| text.strip_prefix(prefix).unwrap().parse::<u32>().unwrap();
            prop_assert!((5_000_000..=15_000_000).contains(&record.amount.0));
            prop_assert!((1..=100).contains(&number(&record.user_id, "user_")));
            prop_assert!((1..=50).contains(&number(&record.location, "location_")));
            let merchant = record.merchant_id.strip_suffix("-ab12").unwrap();
            prop_assert!((1..=3).contains(&number(merchant, "merchant_")));
        }

        #[test]
        fn totals_add_up_whatever_the_split(seed: u64, count in 1..300_u64, threads in 1..8_u64) {
            let sequence = Transactions::new(seed, None);
            let mut split = Totals::default();
            for thread in 0..threads {
                for index in (thread..count).step_by(usize::try_from(threads).unwrap()) {
                    split.add(&sequence.record(index, 77));
                }
            }
            prop_assert_eq!(sequence.totals(count), split);
        }
    }

    #[test]
    fn ids_are_unique_over_many_records() {
        let sequence = Transactions::new(7, None);
        let ids: BTreeSet<_> = (0..20_000).map(|i| sequence.record(i, 0).transaction_id).collect();
        assert_eq!(ids.len(), 20_000);
    }

    #[test]
    fn a_transaction_reads_as_the_seed_documents_it() {
        let record = Transactions::new(42, None).record(0, 1_700_000_000_000);
        insta::assert_snapshot!(serde_json::to_string_pretty(&record).unwrap());
    }
}
