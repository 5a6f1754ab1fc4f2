//! What app-service keeps of the records it has read: bounded, whatever comes.

use std::collections::{BTreeMap, VecDeque};

use serde::{Deserialize, Serialize};

use crate::scenarios::transactions::{Cents, Transaction, valid};

/// Merchants that are kept; the one heard of longest ago goes first. Every run of tests brings merchants of its own.
pub(super) const MERCHANTS: usize = 2_000;
/// Transactions that are kept.
pub(super) const LATEST: usize = 20;
/// Currencies that are counted apart for one merchant; the others share one count.
const CURRENCIES: usize = 16;
/// Bytes of a currency that is counted apart.
const CURRENCY: usize = 64;
/// Spark's total of one merchant.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Aggregate {
    #[serde(skip_serializing)]
    merchant_id: String,
    total_amount: Cents,
    transaction_count: u64,
}

/// What is known of one merchant.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Merchant {
    merchant_id: String,
    /// Spark's newest total; none before the first was read.
    aggregate: Option<Aggregate>,
    /// Transactions that this process has read, by currency.
    transactions_seen: BTreeMap<String, u64>,
    #[serde(skip)]
    heard: u64,
}

/// Everything that is kept.
#[derive(Debug, Default)]
pub(super) struct Seen {
    merchants: BTreeMap<String, Merchant>,
    /// Number of the last record → merchant.
    order: BTreeMap<u64, String>,
    latest: VecDeque<Transaction>,
    heard: u64,
}

impl Seen {
    /// Takes a record of `financial_transactions`, or says what is wrong with it.
    pub(super) fn transaction(&mut self, record: &[u8]) -> Result<(), String> {
        let transaction = valid::transaction(record)?;
        let counts = &mut self.merchant(&transaction.merchant_id).transactions_seen;
        let full = counts.len() >= CURRENCIES && !counts.contains_key(&transaction.currency);
        let currency = if full || transaction.currency.len() > CURRENCY {
            "other".to_owned()
        } else {
            transaction.currency.clone()
        };
        *counts.entry(currency).or_default() += 1;
        self.latest.push_front(transaction);
        self.latest.truncate(LATEST);
        Ok(())
    }

    /// Takes a record of `transaction_aggregates`, or says what is wrong with it.
    pub(super) fn aggregate(&mut self, record: &[u8]) -> Result<(), String> {
        let aggregate: Aggregate = valid::object(record)?;
        if aggregate.merchant_id.chars().count() > valid::LONGEST_TEXT {
            return Err(format!("longer than {} characters: merchantId", valid::LONGEST_TEXT));
        }
        let merchant = self.merchant(&aggregate.merchant_id.clone());
        merchant.aggregate = Some(aggregate);
        Ok(())
    }

    fn merchant(&mut self, id: &str) -> &mut Merchant {
        self.heard += 1;
        let heard = self.heard;
        if !self.merchants.contains_key(id)
            && self.merchants.len() >= MERCHANTS
            && let Some((_, oldest)) = self.order.pop_first()
        {
            self.merchants.remove(&oldest);
        }
        let merchant = self.merchants.entry(id.to_owned()).or_default();
        let name = self.order.remove(&merchant.heard).unwrap_or_else(|| id.to_owned());
        self.order.insert(heard, name);
        merchant.heard = heard;
        if merchant.merchant_id.is_empty() {
            id.clone_into(&mut merchant.merchant_id);
        }
        merchant
    }

    /// Every merchant, by id.
    pub(super) fn merchants(&self) -> Vec<&Merchant> {
        self.merchants.values().collect()
    }

    /// One merchant.
    pub(super) fn one(&self, id: &str) -> Option<&Merchant> {
        self.merchants.get(id)
    }

    /// The newest transactions, newest first.
    pub(super) fn latest(&self) -> &VecDeque<Transaction> {
        &self.latest
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use rstest::rstest;
    use serde_json::{Value, json};

    use super::*;
    use crate::scenarios::Sequence as _;
    use crate::scenarios::transactions::Transactions;

    fn record(index: u64) -> Value {
        serde_json::to_value(Transactions::new(1, None).record(index, 5)).unwrap()
    }

    fn take(seen: &mut Seen, value: &Value) -> Result<(), String> {
        seen.transaction(value.to_string().as_bytes())
    }

    #[test]
    fn the_generator_makes_what_is_taken() {
        let mut seen = Seen::default();
        for index in 0..100 {
            take(&mut seen, &record(index)).unwrap();
        }
        let counted: u64 = seen.merchants().iter().flat_map(|m| m.transactions_seen.values()).sum();
        assert_eq!((counted, seen.merchants().len(), seen.latest().len()), (100, 3, LATEST));
        let newest = serde_json::to_value(&seen.latest()[0]).unwrap();
        assert_eq!(newest, record(99));
    }

    #[test]
    fn a_field_more_is_no_mistake() {
        let mut more = record(1);
        more["added"] = json!({"later": 1});
        take(&mut Seen::default(), &more).unwrap();
    }

    #[rstest]
    #[case::a_field_is_missing("currency", Value::Null)]
    #[case::a_number_in_quotes("amount", json!("12.50"))]
    #[case::three_places("amount", json!(1.005))]
    #[case::nothing("amount", json!(0))]
    #[case::less_than_nothing("amount", json!(-1))]
    #[case::no_time("transactionTime", json!(1.5))]
    #[case::more_than_the_jobs_decimal("amount", json!(10_000_000_000_000_u64))]
    #[case::an_empty_text("merchantId", json!("  "))]
    #[case::a_long_text("merchantId", json!("x".repeat(1001)))]
    #[case::no_truth("isInternational", json!("yes"))]
    fn what_the_schema_does_not_say_is_refused(#[case] field: &str, #[case] value: Value) {
        let mut wrong = record(1);
        wrong[field] = value;
        let mut seen = Seen::default();
        take(&mut seen, &wrong).unwrap_err();
        assert!(seen.merchants().is_empty() && seen.latest().is_empty());
    }

    #[rstest]
    #[case::empty(b"")]
    #[case::no_json(b"{")]
    #[case::no_object(b"[\"m\",1.0,1]")]
    #[case::no_utf8(b"{\"merchantId\":\"\xff\"}")]
    fn what_is_no_record_is_refused(#[case] bytes: &[u8]) {
        Seen::default().transaction(bytes).unwrap_err();
        Seen::default().aggregate(bytes).unwrap_err();
    }

    #[rstest]
    #[case::as_long_as_the_job_takes("location", json!("ü".repeat(1000)))]
    #[case::an_empty_place("location", json!(""))]
    #[case::a_number_for_a_text("location", json!(7))]
    fn what_the_job_takes_is_taken(#[case] field: &str, #[case] value: Value) {
        let mut odd = record(1);
        odd[field] = value;
        take(&mut Seen::default(), &odd).unwrap();
    }

    #[rstest]
    #[case("142432530104.36", 1)]
    #[case("99999999999999.90", 10)]
    #[case("99999999999999999999999999.99", 7)]
    fn a_large_total_is_exact(#[case] total: &str, #[case] count: u64) {
        let mut seen = Seen::default();
        let record = format!(r#"{{"merchantId":"m","totalAmount":{total},"transactionCount":{count}}}"#);
        seen.aggregate(record.as_bytes()).unwrap();
        let answer = serde_json::to_string(seen.one("m").unwrap()).unwrap();
        assert!(answer.contains(&format!("\"totalAmount\":{}", total.trim_end_matches('0'))), "{answer}");
    }

    #[test]
    fn the_largest_amount_of_the_job_is_exact() {
        let mut seen = Seen::default();
        let text = record(1).to_string();
        let amount = record(1)["amount"].to_string();
        seen.transaction(text.replace(&amount, "9999999999999.99").as_bytes()).unwrap();
        assert!(serde_json::to_string(seen.latest()).unwrap().contains("\"amount\":9999999999999.99"));
    }

    #[test]
    fn the_newest_total_holds() {
        let mut seen = Seen::default();
        for count in [1, 2] {
            let total = json!({"merchantId": "m", "totalAmount": 10.5, "transactionCount": count});
            seen.aggregate(total.to_string().as_bytes()).unwrap();
        }
        assert_eq!(
            serde_json::to_value(seen.one("m").unwrap()).unwrap(),
            json!({"merchantId": "m", "aggregate": {"totalAmount": 10.5, "transactionCount": 2}, "transactionsSeen": {}})
        );
    }

    #[test]
    fn the_merchant_heard_of_longest_ago_makes_room() {
        let mut seen = Seen::default();
        let mut say = |id: usize| {
            let total = json!({"merchantId": format!("m{id}"), "totalAmount": 1, "transactionCount": 1});
            seen.aggregate(total.to_string().as_bytes()).unwrap();
        };
        (0..MERCHANTS).for_each(&mut say);
        say(0);
        say(MERCHANTS);
        assert_eq!((seen.merchants.len(), seen.order.len()), (MERCHANTS, MERCHANTS));
        assert!(seen.one("m0").is_some() && seen.one("m1").is_none());
    }

    proptest! {
        #[test]
        fn currencies_are_counted_whatever_their_number(currencies in prop::collection::vec("[A-Z]{1,2}", 1..200)) {
            let mut seen = Seen::default();
            for currency in &currencies {
                let mut one = record(1);
                one["currency"] = json!(currency);
                take(&mut seen, &one).unwrap();
            }
            let counts = &seen.merchants()[0].transactions_seen;
            prop_assert_eq!(counts.values().sum::<u64>(), currencies.len() as u64);
            prop_assert!(counts.len() <= CURRENCIES + 1);
        }

        #[test]
        fn no_bytes_break_it(bytes: Vec<u8>) {
            let mut seen = Seen::default();
            let _ = seen.transaction(&bytes);
            let _ = seen.aggregate(&bytes);
        }
    }
}
