//! What makes events of the bytes of an input: lines, JSON, several lines that belong together.

use fancy_regex::Regex;
use serde_json::Value as Json;
use time::OffsetDateTime;

use crate::event::Event;
use crate::filters::regex;
use crate::grammar::Value;
use crate::options::Options;
use crate::{Checked, mistake};

/// Longest event, in bytes, and most lines of one; then it is cut, as in Logstash.
pub(crate) const MOST_BYTES: usize = 10 << 20;
pub(crate) const MOST_LINES: usize = 500;

/// How bytes become events.
#[derive(Debug)]
pub(crate) enum Codec {
    /// As they are.
    Plain,
    /// An object is the event's fields; a list is an event each.
    Json,
    /// Lines that belong together (inputs that read lines).
    Multiline(Multiline),
}

/// Which lines belong together.
#[derive(Debug)]
pub(crate) struct Multiline {
    pattern: Regex,
    /// The lines that belong to another are those that do not match.
    negate: bool,
    /// Seconds after which the last event of a file no longer waits for a line.
    pub(crate) flush: Option<f64>,
}

impl Multiline {
    /// Whether a line belongs to the event before it.
    pub(crate) fn belongs(&self, line: &str) -> bool {
        self.pattern.is_match(line).unwrap_or(false) != self.negate
    }
}

impl Codec {
    /// The option `codec` of an input, of these kinds.
    pub(crate) fn of(options: &mut Options, allowed: &[&str]) -> Checked<Self> {
        let Some((value, line)) = options.take("codec") else { return Ok(Self::Plain) };
        let (name, mut inner) = match value {
            Value::Text(name) => (name, None),
            Value::Plugin(plugin) => (plugin.name.clone(), Some(Options::of(&plugin)?)),
            _ => return mistake(line, "codec must be the name of one"),
        };
        if !allowed.contains(&name.as_str()) {
            let plugin = &options.plugin;
            return mistake(
                line,
                format!("{plugin} has no codec {name} here; known are {}", allowed.join(", ")),
            );
        }
        let codec = match (name.as_str(), &mut inner) {
            ("json" | "json_lines", _) => Self::Json,
            ("multiline", Some(options)) => {
                let Some((pattern, at)) = options.text("pattern")? else { return options.missing("pattern") };
                options.only("what", "previous")?;
                Self::Multiline(Multiline {
                    pattern: regex(&pattern, at)?,
                    negate: options.boolean("negate")?.unwrap_or(false),
                    flush: options.number("auto_flush_interval", 0.1..=3600.0)?,
                })
            }
            ("multiline", None) => return mistake(line, "codec multiline needs its options in braces"),
            _ => Self::Plain,
        };
        if let Some(options) = &mut inner {
            options.only("charset", "UTF-8")?;
        }
        inner.map_or(Ok(()), Options::none_left)?;
        Ok(codec)
    }

    /// The events of one record or line. Blank JSON is none.
    pub(crate) fn events(&self, text: String, time: OffsetDateTime, id: String) -> Vec<Event> {
        if !matches!(self, Self::Json) {
            return vec![Event::new(text, time, id)];
        }
        let of_object = |members, id| {
            let mut event = Event::new(String::new(), time, id);
            event.fields.clear();
            event.merge(members);
            event
        };
        match serde_json::from_str::<Json>(&text) {
            Err(_) if text.trim().is_empty() => Vec::new(),
            Ok(Json::Object(members)) => vec![of_object(members, id)],
            Ok(Json::Array(items)) if items.iter().all(Json::is_object) => items
                .into_iter()
                .enumerate()
                .filter_map(|(number, item)| match item {
                    Json::Object(members) => Some(of_object(members, format!("{id}-{number}"))),
                    _ => None,
                })
                .collect(),
            _ => {
                let mut event = Event::new(text, time, id);
                event.tag("_jsonparsefailure");
                vec![event]
            }
        }
    }
}
