//! One event on its way: its fields, its time, and the id that comes from its place in the source.

use std::borrow::Cow;

use serde_json::{Map, Value};
use time::OffsetDateTime;
use time::format_description::BorrowedFormatItem;
use time::macros::format_description;

use crate::field::Field;
use crate::joda::iso8601;

const TAGS: &str = "tags";
/// As Logstash writes a time.
const TIME: &[BorrowedFormatItem<'_>] =
    format_description!("[year]-[month]-[day]T[hour]:[minute]:[second].[subsecond digits:3]Z");

/// An event.
#[derive(Debug, Clone)]
pub struct Event {
    /// What is written, without time and version.
    pub fields: Map<String, Value>,
    /// What only the pipeline sees.
    pub metadata: Map<String, Value>,
    /// When it happened, in UTC.
    pub timestamp: OffsetDateTime,
    /// The same for the same place of the same source.
    pub id: String,
    /// A filter wants it gone.
    pub dropped: bool,
}

impl Event {
    /// An event with a message.
    pub fn new(message: String, timestamp: OffsetDateTime, id: String) -> Self {
        let fields = Map::from_iter([("message".to_owned(), Value::String(message))]);
        Self { fields, metadata: Map::new(), timestamp, id, dropped: false }
    }

    /// The document that is written.
    pub fn document(&self) -> Value {
        let mut document = self.fields.clone();
        document.insert("@timestamp".to_owned(), Value::String(self.time()));
        document.entry("@version").or_insert_with(|| Value::String("1".to_owned()));
        Value::Object(document)
    }

    fn time(&self) -> String {
        self.timestamp.format(TIME).unwrap_or_default()
    }

    pub(crate) fn get(&self, field: &Field) -> Option<Cow<'_, Value>> {
        match field {
            Field::Timestamp => Some(Cow::Owned(Value::String(self.time()))),
            Field::Metadata(names) => within(&self.metadata, names).map(Cow::Borrowed),
            Field::Document(names) => within(&self.fields, names).map(Cow::Borrowed),
        }
    }

    /// The text of a field; none where it is not there.
    pub(crate) fn text(&self, field: &Field) -> Option<Cow<'_, str>> {
        match self.get(field)? {
            Cow::Borrowed(Value::String(text)) => Some(Cow::Borrowed(text)),
            value => Some(Cow::Owned(text_of(&value))),
        }
    }

    /// Sets a field, and makes the objects that it is in. One that is no object, and would have to be, stays.
    pub(crate) fn set(&mut self, field: &Field, value: Value) -> bool {
        match field {
            Field::Timestamp => match value.as_str().and_then(parse_time) {
                Some(time) => {
                    self.timestamp = time;
                    true
                }
                None => false,
            },
            Field::Metadata(names) => set_within(&mut self.metadata, names, value),
            Field::Document(names) => set_within(&mut self.fields, names, value),
        }
    }

    /// Adds to a field: where something is there already, both are in a list.
    pub(crate) fn add(&mut self, field: &Field, value: Value) -> bool {
        let both = match self.get(field).filter(|_| *field != Field::Timestamp) {
            None => value,
            Some(there) => match there.into_owned() {
                Value::Array(mut items) => {
                    items.push(value);
                    Value::Array(items)
                }
                one => Value::Array(vec![one, value]),
            },
        };
        self.set(field, both)
    }

    pub(crate) fn remove(&mut self, field: &Field) -> Option<Value> {
        match field {
            Field::Timestamp => None,
            Field::Metadata(names) => remove_within(&mut self.metadata, names),
            Field::Document(names) => remove_within(&mut self.fields, names),
        }
    }

    /// Adds a tag, if it is not there yet.
    pub fn tag(&mut self, tag: &str) {
        let tags = self.fields.entry(TAGS).or_insert_with(|| Value::Array(Vec::new()));
        if let Value::String(one) = tags {
            *tags = Value::Array(vec![Value::String(std::mem::take(one))]);
        }
        if let Value::Array(tags) = tags
            && !tags.iter().any(|there| there == tag)
        {
            tags.push(Value::String(tag.to_owned()));
        }
    }

    pub(crate) fn untag(&mut self, tag: &str) {
        if let Some(Value::Array(tags)) = self.fields.get_mut(TAGS) {
            tags.retain(|there| there != tag);
        }
    }

    /// Puts an object's members among the fields: those of the same names are replaced. A time that cannot be read is tagged.
    pub(crate) fn merge(&mut self, object: Map<String, Value>) {
        for (name, value) in object {
            match name.as_str() {
                "@timestamp" => {
                    if !self.set(&Field::Timestamp, value.clone()) {
                        self.fields.insert("_@timestamp".to_owned(), value);
                        self.tag("_timestampparsefailure");
                    }
                }
                // Tags are texts; what else is called so has another name.
                TAGS if !is_tags(&value) => {
                    self.fields.insert("_tags".to_owned(), value);
                    self.tag("_tagsparsefailure");
                }
                "@metadata" => {
                    if let Value::Object(members) = value {
                        self.metadata.extend(members);
                    }
                }
                _ => {
                    self.fields.insert(name, value);
                }
            }
        }
    }
}

/// A time in ISO 8601; one without a zone is in UTC.
fn parse_time(text: &str) -> Option<OffsetDateTime> {
    iso8601(text, time::UtcOffset::UTC)
}

fn is_tags(value: &Value) -> bool {
    value.is_string() || value.as_array().is_some_and(|tags| tags.iter().all(Value::is_string))
}

/// As Logstash puts a value into a text: lists with commas, objects as JSON.
pub(crate) fn text_of(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Array(items) => items.iter().map(text_of).collect::<Vec<_>>().join(","),
        Value::Null => String::new(),
        other => other.to_string(),
    }
}

fn within<'a>(fields: &'a Map<String, Value>, names: &[String]) -> Option<&'a Value> {
    let (first, rest) = names.split_first()?;
    rest.iter().try_fold(fields.get(first)?, |value, name| match value {
        Value::Object(members) => members.get(name),
        Value::Array(items) => items.get(name.parse::<usize>().ok()?),
        _ => None,
    })
}

fn set_within(fields: &mut Map<String, Value>, names: &[String], value: Value) -> bool {
    match names {
        [] => false,
        [last] => {
            fields.insert(last.clone(), value);
            true
        }
        [first, rest @ ..] => {
            let inner = fields.entry(first.clone()).or_insert_with(|| Value::Object(Map::new()));
            match inner {
                Value::Object(members) => set_within(members, rest, value),
                _ => false,
            }
        }
    }
}

fn remove_within(fields: &mut Map<String, Value>, names: &[String]) -> Option<Value> {
    match names {
        [] => None,
        [last] => fields.remove(last),
        [first, rest @ ..] => remove_within(fields.get_mut(first)?.as_object_mut()?, rest),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event() -> Event {
        Event::new("a message".to_owned(), OffsetDateTime::UNIX_EPOCH, "1".to_owned())
    }

    fn field(text: &str) -> Field {
        Field::parse(text).unwrap_or(Field::Timestamp)
    }

    #[test]
    fn fields_are_set_added_to_and_removed() {
        let mut event = event();
        assert!(event.set(&field("[log][file][path]"), "/a".into()));
        assert_eq!(event.text(&field("[log][file][path]")).as_deref(), Some("/a"));
        assert!(!event.set(&field("[message][inner]"), 1.into()), "a text has no members");
        event.add(&field("count"), 1.into());
        event.add(&field("count"), 2.into());
        assert_eq!(event.text(&field("count")).as_deref(), Some("1,2"));
        assert_eq!(event.remove(&field("[log][file]")), Some(serde_json::json!({ "path": "/a" })));
        assert_eq!(event.get(&field("[log][file][path]")), None);
    }

    #[test]
    fn metadata_is_not_written() {
        let mut event = event();
        event.set(&field("[@metadata][topic]"), "a".into());
        assert_eq!(event.text(&field("[@metadata][topic]")).as_deref(), Some("a"));
        let document = event.document();
        assert_eq!(document["@timestamp"], "1970-01-01T00:00:00.000Z");
        assert_eq!(document["@version"], "1");
        assert!(!document.to_string().contains("topic"));
    }

    #[test]
    fn a_failure_is_tagged_once() {
        let mut event = event();
        event.fields.insert("tags".to_owned(), "mine".into());
        event.tag("_grokparsefailure");
        event.tag("_grokparsefailure");
        assert_eq!(event.document()["tags"], serde_json::json!(["mine", "_grokparsefailure"]));
    }

    #[test]
    fn tags_that_are_none_have_another_name() {
        let mut event = event();
        event.merge(Map::from_iter([("tags".to_owned(), serde_json::json!({ "a": 1 }))]));
        event.tag("mine");
        assert_eq!(event.document()["_tags"], serde_json::json!({ "a": 1 }));
        assert_eq!(event.document()["tags"], serde_json::json!(["_tagsparsefailure", "mine"]));
    }

    #[test]
    fn a_time_that_cannot_be_read_is_tagged_and_the_time_of_arrival_stays() {
        let mut event = event();
        event.merge(Map::from_iter([
            ("@timestamp".to_owned(), "yesterday".into()),
            ("a".to_owned(), 1.into()),
        ]));
        assert_eq!(event.document()["@timestamp"], "1970-01-01T00:00:00.000Z");
        assert_eq!(event.document()["tags"], serde_json::json!(["_timestampparsefailure"]));
        assert_eq!(event.document()["_@timestamp"], "yesterday");
        event.merge(Map::from_iter([("@timestamp".to_owned(), "2026-11-30T12:00:00+02:00".into())]));
        assert_eq!(event.document()["@timestamp"], "2026-11-30T10:00:00.000Z");
    }
}
