//! Which records a page shows: a closed grammar, without scripts and without patterns that could run on.

use serde_json::Value;
use tokio::runtime::Handle;

use crate::clients::kafka::Record;
use crate::clients::shown::Shown;

/// Which records are shown: those for which all that is said here holds.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Filter {
    /// The key has this in it.
    pub key: Option<String>,
    /// The value has this in it: its bytes, or what they decode to.
    pub text: Option<String>,
    /// The value is JSON, or decodes to it, and has this field (`user.id`), and, where it says so, with this value.
    pub field: Option<(String, Option<String>)>,
    /// A header has this name, and, where it says so, this value: `trace`, `trace=7`.
    pub header: Option<String>,
}

impl Filter {
    pub(super) fn takes(&self, record: &Record, shown: &Shown, runtime: &Handle) -> bool {
        let has = |bytes: &[u8], part: &str| memchr::memmem::find(bytes, part.as_bytes()).is_some();
        let key = record.key.as_deref().unwrap_or_default();
        if self.key.as_ref().is_some_and(|part| !has(key, part)) {
            return false;
        }
        if self.header.as_ref().is_some_and(|wanted| !header(record, wanted)) {
            return false;
        }
        if self.text.is_none() && self.field.is_none() {
            return true;
        }
        // Only what begins with a zero byte can have a schema; all other values are looked at as they are.
        let decoded = match record.bytes() {
            [0, ..] => runtime.block_on(shown.decoded_value(record)),
            _ => None,
        };
        let value = decoded.as_ref().map_or(record.bytes(), |text| text.as_bytes());
        let in_either = |part: &String| has(value, part) || decoded.is_some() && has(record.bytes(), part);
        if self.text.as_ref().is_some_and(|part| !in_either(part)) {
            return false;
        }
        self.field.as_ref().is_none_or(|(path, wanted)| field(value, path, wanted.as_deref()))
    }
}

fn header(record: &Record, wanted: &str) -> bool {
    record.headers.iter().any(|(name, value)| match wanted.split_once('=') {
        None => name == wanted,
        Some((wanted, expected)) => name == wanted && value.as_deref() == Some(expected.as_bytes()),
    })
}

/// Whether JSON has a value at a path, and that one, where one is wanted. A path: names and numbers of places, with dots between them.
fn field(json: &[u8], path: &str, wanted: Option<&str>) -> bool {
    // Most records are told apart without being parsed; only an escape can hide what is looked for.
    let hidden = |wanted: &str| memchr::memmem::find(json, wanted.as_bytes()).is_none();
    if wanted.is_some_and(hidden) && !json.contains(&b'\\') {
        return false;
    }
    let Ok(value) = serde_json::from_slice::<Value>(json) else { return false };
    let step = |value: &Value, name: &str| match value {
        Value::Object(fields) => fields.get(name).cloned(),
        Value::Array(items) => items.get(name.parse::<usize>().ok()?).cloned(),
        _ => None,
    };
    let found = path.split('.').try_fold(value, |value, name| step(&value, name));
    match (found, wanted) {
        (None, _) => false,
        (Some(_), None) => true,
        (Some(Value::String(text)), Some(wanted)) => text == wanted,
        (Some(other), Some(wanted)) => *other.to_string() == *wanted,
    }
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    #[rstest]
    #[case(r#"{"a":{"b":[1,"x"]}}"#, "a.b.1", "x", true)]
    #[case(r#"{"a":{"b":[1,"x"]}}"#, "a.b.0", "1", true)]
    #[case(r#"{"a":9223372036854775807}"#, "a", "9223372036854775807", true)]
    #[case(r#"{"a":9223372036854775807}"#, "a", "9223372036854775806", false)]
    #[case(r#"{"a":"\u0078"}"#, "a", "x", true)]
    #[case(r#"{"a":null}"#, "a", "null", true)]
    #[case(r#"{"a":1}"#, "b", "1", false)]
    #[case(r#"{"a":1}"#, "a.b", "1", false)]
    #[case("no JSON 1", "a", "1", false)]
    #[case("[[1]]", "0.0", "1", true)]
    fn a_field_is_compared_exactly(
        #[case] json: &str,
        #[case] path: &str,
        #[case] wanted: &str,
        #[case] takes: bool,
    ) {
        assert_eq!(field(json.as_bytes(), path, Some(wanted)), takes);
    }

    #[test]
    fn a_field_without_a_value_has_to_be_there() {
        assert!(field(br#"{"a":{"b":null}}"#, "a.b", None) && !field(br#"{"a":1}"#, "b", None));
    }

    #[test]
    fn a_header_is_found_by_name_or_by_name_and_value() {
        let headers = vec![("trace".to_owned(), None), ("trace".to_owned(), Some(b"7=7".to_vec()))];
        let record = Record { partition: 0, offset: 0, timestamp: None, key: None, value: None, headers };
        assert!(header(&record, "trace") && header(&record, "trace=7=7"));
        assert!(!header(&record, "trace=7") && !header(&record, "rac") && !header(&record, "trace="));
    }
}
