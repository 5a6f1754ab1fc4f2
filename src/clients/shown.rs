//! Keys and values of records decoded through the registry, where they carry a schema's id. How a record looks as a line is
//! `streamlab_records::text`.

use std::collections::HashMap;
use std::sync::Arc;

use anyhow::Result;
use schema_registry_converter::async_impl::avro::AvroDecoder;
use schema_registry_converter::async_impl::schema_registry::{SrSettings, get_schema_by_id};
use schema_registry_converter::schema_registry_common::SchemaType;
use serde::Serialize;
use streamlab_records::text::{binary, hexadecimal, plain, push_line, visible};
use tokio::sync::Mutex;

use super::kafka::Record;
use super::protobuf::Protobuf;
use super::{avro_text, schema_registry};

/// Shows records; with a registry, what it has the schemas of.
pub struct Shown {
    registry: Option<Schemas>,
}

/// What a key or value is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// There is none: a record without a key, a tombstone.
    Null,
    /// No bytes.
    Empty,
    /// UTF-8.
    Text,
    /// Anything else, as hexadecimal digits.
    Binary,
    /// Decoded with its schema.
    Decoded,
}

/// A key or value as a page shows it: nothing in it that a reader cannot see.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Part {
    /// What it is.
    pub kind: Kind,
    /// Its text, or the beginning of it.
    pub text: String,
    /// Whether the text is all of it.
    pub whole: bool,
    /// Its size in Kafka.
    pub bytes: usize,
    /// Why it was not decoded, where it looks as if it could be.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub note: Option<String>,
}

/// Schemas that are kept.
const KNOWN: usize = 200;

struct Schemas {
    settings: SrSettings,
    avro: AvroDecoder,
    /// Each schema that was asked for, by id; none where the registry has no such id.
    known: Mutex<HashMap<u32, Option<Known>>>,
}

/// What a schema says, as far as it is needed.
#[derive(Clone)]
enum Known {
    Avro,
    Json,
    /// Or why it cannot be used.
    Protobuf(Result<Arc<Protobuf>, String>),
    Other(String),
}

impl Shown {
    /// With the registry at a URL, where there is one.
    ///
    /// # Errors
    /// The client refuses its settings, which these never cause.
    pub fn new(registry: Option<String>) -> Result<Self> {
        let registry = registry.map(|url| {
            let settings = schema_registry::settings(url)?;
            let (avro, known) = (AvroDecoder::new(settings.clone()), Mutex::default());
            anyhow::Ok(Schemas { settings, avro, known })
        });
        Ok(Self { registry: registry.transpose()? })
    }

    /// Adds a record's line: `partition@offset key value`, and headers where there are any.
    pub async fn push_line(&self, out: &mut String, record: &Record) {
        let line = |found: Decoded| match found {
            Decoded::Text(text) => text,
            Decoded::Not { why, shown } => format!("({why}) {shown}"),
        };
        let key = self.decoded(record.key.as_deref()).await.map(line);
        let value = self.decoded(record.value.as_deref()).await.map(line);
        push_line(out, record, key.as_deref(), value.as_deref());
    }

    /// A key or value for a page, at most so many letters of it.
    pub async fn part(&self, bytes: Option<&[u8]>, letters: usize) -> Part {
        let all = bytes.unwrap_or_default();
        let decoded = self.decoded(bytes).await;
        let (kind, text) = match (bytes, &decoded) {
            (None, _) => (Kind::Null, String::new()),
            (Some([]), _) => (Kind::Empty, String::new()),
            (_, Some(Decoded::Text(text))) => (Kind::Decoded, visible(cut(text, letters))),
            _ => match std::str::from_utf8(all) {
                Ok(text) if !text.contains('\0') => (Kind::Text, visible(cut(text, letters))),
                _ => (Kind::Binary, hexadecimal(&all[..all.len().min(letters / 2)])),
            },
        };
        let whole = match (&decoded, kind) {
            (_, Kind::Binary) => all.len() <= letters / 2,
            (Some(Decoded::Text(text)), _) => cut(text, letters).len() == text.len(),
            _ => std::str::from_utf8(all).is_ok_and(|text| cut(text, letters).len() == text.len()),
        };
        let note = match decoded {
            Some(Decoded::Not { why, .. }) => Some(why),
            _ => None,
        };
        Part { kind, text, whole, bytes: all.len(), note }
    }

    /// The text of a value that a registry's schema describes; none where the bytes speak for themselves.
    pub(super) async fn decoded_value(&self, record: &Record) -> Option<String> {
        match self.decoded(record.value.as_deref()).await {
            Some(Decoded::Text(text)) => Some(text),
            _ => None,
        }
    }

    /// What Confluent's wire format says: a zero byte, the schema's id in four more, and what is written with it.
    async fn decoded(&self, bytes: Option<&[u8]>) -> Option<Decoded> {
        let (Some(all @ &[0, a, b, c, d, ref rest @ ..]), Some(schemas)) = (bytes, &self.registry) else {
            return None;
        };
        Some(schemas.decoded(u32::from_be_bytes([a, b, c, d]), all, rest).await)
    }
}

/// What begins as a registry's records do.
enum Decoded {
    Text(String),
    /// Why it was not decoded, and its bytes for a terminal.
    Not {
        why: String,
        shown: String,
    },
}

/// At most so many letters of a text.
fn cut(text: &str, letters: usize) -> &str {
    text.char_indices().nth(letters).map_or(text, |(end, _)| &text[..end])
}

impl Schemas {
    async fn decoded(&self, id: u32, all: &[u8], rest: &[u8]) -> Decoded {
        let not = |why: String, shown: String| Decoded::Not { why, shown };
        match self.schema(id).await {
            Ok(Some(Known::Avro)) => match self.avro.decode_with_schema(Some(all)).await {
                Ok(Some(found)) => Decoded::Text(avro_text::text(&found.value, &found.schema.parsed)),
                Ok(None) => Decoded::Text(plain(all)),
                Err(error) => not(format!("it is no Avro of schema {id}: {error}"), plain(all)),
            },
            Ok(Some(Known::Json)) => Decoded::Text(plain(rest)),
            Ok(Some(Known::Protobuf(schema))) => {
                let found = schema.and_then(|schema| schema.text(rest).map_err(|why| format!("{why:#}")));
                found.map_or_else(
                    |why| not(format!("Protobuf, schema {id}: {why}"), binary(rest)),
                    Decoded::Text,
                )
            }
            Ok(Some(Known::Other(kind))) => not(format!("{kind}, schema {id}"), plain(rest)),
            Ok(None) => not(format!("the registry has no schema {id}"), plain(all)),
            Err(error) => not(format!("schema {id}: the registry does not answer: {error}"), plain(all)),
        }
    }

    async fn schema(&self, id: u32) -> Result<Option<Known>, String> {
        let mut all = self.known.lock().await;
        if let Some(known) = all.get(&id) {
            return Ok(known.clone());
        }
        let found = match get_schema_by_id(id, &self.settings).await {
            Ok(schema) => Some(match schema.schema_type {
                SchemaType::Avro => Known::Avro,
                SchemaType::Json => Known::Json,
                SchemaType::Protobuf if !schema.references.is_empty() => {
                    Known::Protobuf(Err("it imports other schemas".to_owned()))
                }
                SchemaType::Protobuf => {
                    let read = Protobuf::read(&schema.schema).map_err(|why| format!("{why:#}"));
                    Known::Protobuf(read.map(Arc::new))
                }
                other => Known::Other(format!("{other:?}")),
            }),
            Err(error) if error.retriable => return Err(error.to_string()),
            Err(_) => None,
        };
        // Anybody may name ids: what is known of them is not kept without end.
        if all.len() >= KNOWN {
            all.clear();
        }
        all.insert(id, found.clone());
        Ok(found)
    }
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    fn record(key: Option<&[u8]>, value: Option<&[u8]>) -> Record {
        let owned = |bytes: &[u8]| bytes.to_vec();
        Record {
            partition: 0,
            offset: 0,
            timestamp: None,
            key: key.map(owned),
            value: value.map(owned),
            headers: Vec::new(),
        }
    }

    async fn line(record: &Record) -> String {
        let mut line = String::new();
        Shown::new(None).unwrap().push_line(&mut line, record).await;
        line.strip_prefix("0@0 ").and_then(|line| line.strip_suffix('\n')).unwrap().to_owned()
    }

    async fn shown(key: Option<&[u8]>, value: Option<&[u8]>) -> String {
        line(&record(key, value)).await
    }

    #[rstest]
    #[case::plain(Some(&b"k"[..]), Some(&b"v"[..]), "k v")]
    #[case::a_tombstone(Some(&b"k"[..]), None, "k (tombstone)")]
    #[case::nothing_in_it(Some(&b"k"[..]), Some(&b""[..]), "k (empty value)")]
    #[case::no_key(None, Some(&b"v"[..]), "(no key) v")]
    #[case::nothing_in_the_key(Some(&b""[..]), Some(&b"v"[..]), "(empty key) v")]
    #[case::escapes(
        Some(&b"\x1b[31mred\x1b]0;t\x07"[..]),
        Some(&b"a\x1b[2J\r\n b\t"[..]),
        "\\u001b[31mred\\u001b]0;t\\u0007 a\\u001b[2J\\r\\n b\\t"
    )]
    #[case::eight_bit_escapes(Some("k\u{9b}31m".as_bytes()), Some(&b"v"[..]), "k\\u009b31m v")]
    #[case::turned_round(Some(&b"k"[..]), Some("a\u{202e}b".as_bytes()), "k a\\u202eb")]
    #[case::binary(Some(&b"k"[..]), Some(&b"\xff\x00"[..]), "k 0xff00")]
    #[case::a_zero_in_a_text(Some(&b"k"[..]), Some(&b"a\0b"[..]), "k 0x610062")]
    #[tokio::test]
    async fn a_record_is_one_line(
        #[case] key: Option<&'static [u8]>,
        #[case] value: Option<&[u8]>,
        #[case] line: &str,
    ) {
        assert_eq!(shown(key, value).await, line);
    }

    #[rstest]
    #[case(None, Kind::Null, "", true)]
    #[case(Some(&b""[..]), Kind::Empty, "", true)]
    #[case(Some(&b"null"[..]), Kind::Text, "null", true)]
    #[case(Some("é€\u{202e}".as_bytes()), Kind::Text, "é€\\u202e", true)]
    #[case(Some(&b"123456789"[..]), Kind::Text, "12345678", false)]
    #[case(Some(&b"12345678"[..]), Kind::Text, "12345678", true)]
    #[case(Some(&b"\xff\x00"[..]), Kind::Binary, "0xff00", true)]
    #[case(Some(&b"\xff\x00\x01\x02\x03"[..]), Kind::Binary, "0xff000102", false)]
    #[tokio::test]
    async fn a_part_says_what_it_is_and_whether_it_is_whole(
        #[case] bytes: Option<&[u8]>,
        #[case] kind: Kind,
        #[case] text: &str,
        #[case] whole: bool,
    ) {
        let part = Shown::new(None).unwrap().part(bytes, 8).await;
        assert_eq!((part.kind, part.text.as_str(), part.whole), (kind, text, whole));
        assert_eq!(part.bytes, bytes.map_or(0, <[u8]>::len));
    }

    #[tokio::test]
    async fn a_long_binary_value_is_cut() {
        let line = shown(None, Some(&[255; 300])).await;
        assert!(line.ends_with("ff… (300 bytes)") && line.len() < 600, "{line}");
    }

    #[tokio::test]
    async fn headers_are_shown() {
        let mut with = record(Some(b"k"), Some(b"v"));
        with.headers = vec![("trace".to_owned(), Some(b"1\x1b".to_vec())), ("none".to_owned(), None)];
        assert_eq!(line(&with).await, "k v [trace=1\\u001b] [none=(null)]");
    }
}
