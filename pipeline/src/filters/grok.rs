//! grok: a text → fields, by patterns that have names.

use std::collections::BTreeMap;

use fancy_regex::Regex;
use serde_json::Value;

use super::build;
use crate::event::Event;
use crate::field::Field;
use crate::grammar;
use crate::options::{Options, field, texts};
use crate::{Checked, Mistake, mistake};

/// Patterns that are written otherwise here than in the library. They match the same: an atomic group within a repetition of two
/// digits changes nothing, and without it a pattern needs no going back.
const EASIER: [(&str, &str); 1] = [("YEAR", r"(?:\d\d){1,2}")];
/// How deep patterns may stand in patterns.
const DEEPEST: usize = 50;

#[derive(Debug)]
pub(crate) struct Grok {
    matches: Vec<(Field, Vec<Pattern>)>,
    overwrite: Vec<Field>,
    tags: Vec<String>,
}

/// A pattern, and where its groups go.
#[derive(Debug)]
struct Pattern {
    regex: Regex,
    captures: Vec<Capture>,
}

#[derive(Debug)]
struct Capture {
    group: usize,
    field: Field,
    kind: Conversion,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Conversion {
    Text,
    Whole,
    Float,
}

impl Grok {
    pub(super) fn of(options: &mut Options) -> Checked<Self> {
        let mut library: BTreeMap<String, String> =
            grok::patterns().iter().map(|(name, text)| ((*name).to_owned(), (*text).to_owned())).collect();
        library.extend(EASIER.map(|(name, text)| (name.to_owned(), text.to_owned())));
        for (name, value, line) in options.hash("pattern_definitions")? {
            library.insert(name, crate::options::text("pattern_definitions", value, line)?);
        }
        let entries = match options.take("match") {
            None => return options.missing("match"),
            Some((grammar::Value::Hash(entries), line)) => {
                entries.into_iter().map(|(name, value)| (name, value, line)).collect::<Vec<_>>()
            }
            Some((_, line)) => return mistake(line, "match must be a hash: { \"message\" => \"%{…}\" }"),
        };
        let mut matches = Vec::new();
        for (name, value, line) in entries {
            let patterns = texts("match", value, line)?;
            let patterns = patterns
                .iter()
                .map(|(pattern, _)| compiled(pattern, &library).map_err(|message| Mistake { line, message }));
            matches.push((field(&name, line)?, patterns.collect::<Checked<_>>()?));
        }
        let overwrite = options.fields("overwrite")?;
        options.only("break_on_match", "true")?;
        options.only("named_captures_only", "true")?;
        options.only("keep_empty_captures", "false")?;
        let tags: Vec<String> = options.texts("tag_on_failure")?.into_iter().map(|(tag, _)| tag).collect();
        let tags = if tags.is_empty() { vec!["_grokparsefailure".to_owned()] } else { tags };
        Ok(Self { matches, overwrite, tags })
    }

    pub(super) fn apply(&self, event: &mut Event) -> bool {
        let mut gave_up = false;
        for (field, patterns) in &self.matches {
            // A field that is not there is matched as an empty text.
            let text = event.text(field).unwrap_or_default().into_owned();
            for pattern in patterns {
                match pattern.regex.captures(text.as_str()) {
                    Ok(Some(found)) => {
                        self.keep(&pattern.captures, &found, event);
                        return true;
                    }
                    Ok(None) => {}
                    Err(_) => gave_up = true,
                }
            }
        }
        if gave_up {
            event.tag("_groktimeout");
        } else {
            self.tags.iter().for_each(|tag| event.tag(tag));
        }
        false
    }

    fn keep(&self, captures: &[Capture], found: &fancy_regex::Captures<'_, str>, event: &mut Event) {
        for capture in captures {
            let Some(text) = found.get(capture.group).map(|m| m.as_str()).filter(|text| !text.is_empty())
            else {
                continue;
            };
            let value = capture.kind.of(text);
            if self.overwrite.contains(&capture.field) {
                event.set(&capture.field, value);
            } else {
                event.add(&capture.field, value);
            }
        }
    }
}

impl Conversion {
    /// As Ruby reads numbers: as far as they go.
    fn of(self, text: &str) -> Value {
        let head = |also: &str| -> String {
            let sign = text.chars().take_while(|c| "+-".contains(*c)).take(1);
            let digits = text.trim_start_matches(['+', '-']).chars();
            sign.chain(digits.take_while(|c| c.is_ascii_digit() || also.contains(*c))).collect()
        };
        match self {
            Self::Text => text.into(),
            Self::Whole => head("").parse::<i64>().unwrap_or_default().into(),
            Self::Float => head(".eE").parse::<f64>().unwrap_or_default().into(),
        }
    }
}

/// A pattern with those that it names in their places.
fn compiled(pattern: &str, library: &BTreeMap<String, String>) -> Result<Pattern, String> {
    let mut text = String::new();
    let mut fields = Vec::new();
    expand(pattern, library, 0, &mut text, &mut fields)?;
    let regex = build(&text, true).map_err(|_| {
        // The whole is long; what was written says more.
        match build(&text, true) {
            Err(why) => format!("{pattern:?} is no pattern: {}", why.rsplit(": ").next().unwrap_or_default()),
            Ok(_) => String::new(),
        }
    })?;
    let mut captures = Vec::new();
    for (group, name) in regex.capture_names().enumerate() {
        let number = name.and_then(|name| name.strip_prefix("f_")?.parse::<usize>().ok());
        let Some((field, kind)) = number.and_then(|number| fields.get(number)) else { continue };
        captures.push(Capture { group, field: Field::parse(field)?, kind: *kind });
    }
    Ok(Pattern { regex, captures })
}

/// Writes a pattern into `text`; each group that goes into a field gets a name of its own.
fn expand(
    pattern: &str,
    library: &BTreeMap<String, String>,
    depth: usize,
    text: &mut String,
    fields: &mut Vec<(String, Conversion)>,
) -> Result<(), String> {
    if depth > DEEPEST {
        return Err(format!("{pattern:?}: the patterns stand in each other without an end"));
    }
    let mut rest = pattern;
    loop {
        let named = rest.find("%{");
        let group = ["(?<", "(?P<"].iter().filter_map(|open| Some((rest.find(open)?, open.len()))).min();
        match (named, group) {
            (Some(at), group) if group.is_none_or(|(other, _)| at < other) => {
                text.push_str(&rest[..at]);
                let end = rest[at..].find('}').ok_or_else(|| format!("{pattern:?}: %{{ without its }}"))?;
                let inside = &rest[at + 2..at + end];
                reference(inside, library, depth, text, fields)?;
                rest = &rest[at + end + 1..];
            }
            (_, Some((at, open))) => {
                text.push_str(&rest[..at]);
                let inside = &rest[at + open..];
                // (?<= and (?<! look back; others are groups with a name.
                if inside.starts_with(['=', '!']) {
                    text.push_str(&rest[at..at + open]);
                    rest = inside;
                    continue;
                }
                let end = inside.find('>').ok_or_else(|| format!("{pattern:?}: (?< without its >"))?;
                open_group(&inside[..end], Conversion::Text, text, fields);
                rest = &inside[end + 1..];
            }
            _ => {
                text.push_str(rest);
                return Ok(());
            }
        }
    }
}

fn open_group(field: &str, kind: Conversion, text: &mut String, fields: &mut Vec<(String, Conversion)>) {
    text.push_str(&format!("(?<f_{}>", fields.len()));
    fields.push((field.to_owned(), kind));
}

/// `NAME`, `NAME:field` or `NAME:field:kind`.
fn reference(
    inside: &str,
    library: &BTreeMap<String, String>,
    depth: usize,
    text: &mut String,
    fields: &mut Vec<(String, Conversion)>,
) -> Result<(), String> {
    let mut parts = inside.splitn(3, ':');
    let (name, field, kind) = (parts.next().unwrap_or_default(), parts.next(), parts.next());
    let known = library.get(name).ok_or_else(|| format!("no pattern is called {name}"))?;
    let kind = match kind {
        None => Conversion::Text,
        Some("int") => Conversion::Whole,
        Some("float") => Conversion::Float,
        Some(other) => return Err(format!("%{{{inside}}}: {other} is no kind; there are int and float")),
    };
    match field {
        Some(field) => open_group(field, kind, text, fields),
        None => text.push_str("(?:"),
    }
    expand(known, library, depth + 1, text, fields)?;
    text.push(')');
    Ok(())
}
