//! Which record is a transaction: the same notion as the Spark job's (`jobs/financial_transaction_processor.py`), for every other
//! reader of its topics.

use std::collections::BTreeMap;

use serde::de::DeserializeOwned;
use serde_json::value::RawValue;

use super::{Cents, Transaction};

/// Characters of a text field.
pub const LONGEST_TEXT: usize = 1000;
/// The job's `decimal(15,2)`.
const LARGEST_AMOUNT: Cents = Cents(999_999_999_999_999);

const TEXTS: [&str; 6] = ["transactionId", "userId", "merchantId", "location", "paymentMethod", "currency"];
const OTHERS: [&str; 3] = ["amount", "transactionTime", "isInternational"];

type Fields = BTreeMap<String, Box<RawValue>>;

/// The fields of a JSON object, with every number as it is written. Through a map: a type of named fields would take a list too.
fn fields(record: &[u8]) -> Result<Fields, String> {
    serde_json::from_slice(record).map_err(|e| e.to_string())
}

fn typed<T: DeserializeOwned>(fields: &Fields) -> Result<T, String> {
    let text = serde_json::to_string(fields).map_err(|e| e.to_string())?;
    serde_json::from_str(&text).map_err(|e| e.to_string())
}

/// A JSON object of a type that passes over fields it does not know.
///
/// # Errors
/// What is wrong with it.
pub fn object<T: DeserializeOwned>(record: &[u8]) -> Result<T, String> {
    typed(&fields(record)?)
}

/// A transaction: fields that the schema does not know are passed over.
///
/// # Errors
/// What is wrong with it.
pub fn transaction(record: &[u8]) -> Result<Transaction, String> {
    let mut fields = fields(record)?;
    fields.retain(|name, _| TEXTS.contains(&name.as_str()) || OTHERS.contains(&name.as_str()));
    for name in TEXTS {
        // Spark takes what is no text as the text that it is written in.
        if let Some(value) = fields.get_mut(name)
            && !value.get().starts_with('"')
            && value.get() != "null"
        {
            *value = serde_json::value::to_raw_value(value.get()).map_err(|e| e.to_string())?;
        }
    }
    let transaction: Transaction = typed(&fields)?;
    for (name, text, may_be_empty) in [
        ("transactionId", &transaction.transaction_id, false),
        ("userId", &transaction.user_id, false),
        ("merchantId", &transaction.merchant_id, false),
        ("location", &transaction.location, true),
        ("paymentMethod", &transaction.payment_method, true),
        ("currency", &transaction.currency, true),
    ] {
        if !may_be_empty && text.trim_matches(' ').is_empty() {
            return Err(format!("empty: {name}"));
        }
        if text.chars().count() > LONGEST_TEXT {
            return Err(format!("longer than {LONGEST_TEXT} characters: {name}"));
        }
    }
    match transaction.amount {
        Cents(0) => Err("amount is not positive".to_owned()),
        amount if amount > LARGEST_AMOUNT => {
            Err("amount has more than 13 digits before the point".to_owned())
        }
        _ => Ok(transaction),
    }
}
