//! mutate: fields are renamed, replaced and converted. In Logstash's order, whatever the order in the file.

use fancy_regex::Regex;
use serde_json::Value;

use super::regex;
use crate::event::{Event, text_of};
use crate::field::Field;
use crate::grammar;
use crate::options::{Options, field, template, text};
use crate::template::Template;
use crate::{Checked, mistake};

#[derive(Debug)]
pub(crate) struct Mutate {
    rename: Vec<(Field, Field)>,
    update: Vec<(Field, Template)>,
    replace: Vec<(Field, Template)>,
    convert: Vec<(Field, Convert)>,
    gsub: Vec<(Field, Regex, String)>,
    uppercase: Vec<Field>,
    lowercase: Vec<Field>,
    strip: Vec<Field>,
    split: Vec<(Field, String)>,
    join: Vec<(Field, String)>,
    merge: Vec<(Field, Field)>,
    copy: Vec<(Field, Field)>,
    failure: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Convert {
    Integer,
    Float,
    Text,
    Boolean,
}

impl Mutate {
    pub(super) fn of(options: &mut Options) -> Checked<Self> {
        let two_fields = |options: &mut Options, name: &str| -> Checked<Vec<(Field, Field)>> {
            let entries = options.hash(name)?.into_iter();
            entries
                .map(|(from, to, line)| Ok((field(&from, line)?, field(&text(name, to, line)?, line)?)))
                .collect()
        };
        let templates = |options: &mut Options, name: &str| -> Checked<Vec<(Field, Template)>> {
            let entries = options.hash(name)?.into_iter();
            entries
                .map(|(of, value, line)| Ok((field(&of, line)?, template(&text(name, value, line)?, line)?)))
                .collect()
        };
        let texts = |options: &mut Options, name: &str| -> Checked<Vec<(Field, String)>> {
            let entries = options.hash(name)?.into_iter();
            entries.map(|(of, value, line)| Ok((field(&of, line)?, text(name, value, line)?))).collect()
        };
        let mut convert = Vec::new();
        for (of, value, line) in options.hash("convert")? {
            let kind = match text("convert", value, line)?.as_str() {
                "integer" => Convert::Integer,
                "float" => Convert::Float,
                "string" => Convert::Text,
                "boolean" => Convert::Boolean,
                other => {
                    let known = "integer, float, string or boolean";
                    return mistake(line, format!("convert: {other:?} is no kind; write {known}"));
                }
            };
            convert.push((field(&of, line)?, kind));
        }
        Ok(Self {
            rename: two_fields(options, "rename")?,
            update: templates(options, "update")?,
            replace: templates(options, "replace")?,
            convert,
            gsub: gsub(options)?,
            uppercase: options.fields("uppercase")?,
            lowercase: options.fields("lowercase")?,
            strip: options.fields("strip")?,
            split: texts(options, "split")?,
            join: texts(options, "join")?,
            merge: two_fields(options, "merge")?,
            copy: two_fields(options, "copy")?,
            failure: options.text("tag_on_failure")?.map_or("_mutate_error".to_owned(), |(tag, _)| tag),
        })
    }

    pub(super) fn apply(&self, event: &mut Event) -> bool {
        let done = self.carry_out(event);
        if done.is_none() {
            event.tag(&self.failure);
        }
        done.is_some()
    }

    /// None where a value cannot be what is asked for: what comes after is left.
    fn carry_out(&self, event: &mut Event) -> Option<()> {
        for (from, to) in &self.rename {
            if let Some(value) = event.remove(from) {
                event.set(to, value).then_some(())?;
            }
        }
        for (of, value) in &self.update {
            if event.get(of).is_some() {
                let value = value.fill(event);
                event.set(of, value.into()).then_some(())?;
            }
        }
        for (of, value) in &self.replace {
            let value = value.fill(event);
            event.set(of, value.into()).then_some(())?;
        }
        for (of, kind) in &self.convert {
            if let Some(value) = event.get(of).map(|v| v.into_owned()) {
                let converted = match value {
                    Value::Array(items) => {
                        Value::Array(items.iter().map(|item| kind.of(item)).collect::<Option<_>>()?)
                    }
                    one => kind.of(&one)?,
                };
                event.set(of, converted).then_some(())?;
            }
        }
        for (of, pattern, with) in &self.gsub {
            on_text(event, of, |text| {
                Some(pattern.try_replacen(text, 0, with.as_str()).ok()?.into_owned().into())
            })?;
        }
        for of in &self.uppercase {
            on_text(event, of, |text| Some(text.to_uppercase().into()))?;
        }
        for of in &self.lowercase {
            on_text(event, of, |text| Some(text.to_lowercase().into()))?;
        }
        for of in &self.strip {
            on_text(event, of, |text| Some(text.trim().into()))?;
        }
        for (of, by) in &self.split {
            on_text(event, of, |text| Some(text.split(by.as_str()).collect::<Vec<_>>().into()))?;
        }
        for (of, by) in &self.join {
            if let Some(Value::Array(items)) = event.get(of).map(|v| v.into_owned()) {
                let joined = items.iter().map(text_of).collect::<Vec<_>>().join(by);
                event.set(of, joined.into()).then_some(())?;
            }
        }
        for (into, from) in &self.merge {
            if let Some(value) = event.get(from).map(|v| v.into_owned()) {
                let more = if let Value::Array(items) = value { items } else { vec![value] };
                for item in more {
                    event.add(into, item).then_some(())?;
                }
            }
        }
        for (from, to) in &self.copy {
            if let Some(value) = event.get(from).map(|v| v.into_owned()) {
                event.set(to, value).then_some(())?;
            }
        }
        Some(())
    }
}

/// Changes the text of a field; each of a list of texts. What is no text stays.
fn on_text(event: &mut Event, of: &Field, change: impl Fn(&str) -> Option<Value>) -> Option<()> {
    let changed = match event.get(of).map(|v| v.into_owned()) {
        Some(Value::String(text)) => change(&text)?,
        Some(Value::Array(items)) => {
            let each = |item: Value| if let Some(text) = item.as_str() { change(text) } else { Some(item) };
            Value::Array(items.into_iter().map(each).collect::<Option<_>>()?)
        }
        _ => return Some(()),
    };
    event.set(of, changed).then_some(())
}

/// Three after three: field, pattern, what it is replaced by (`\1` is the first group).
fn gsub(options: &mut Options) -> Checked<Vec<(Field, Regex, String)>> {
    let Some((value, line)) = options.take("gsub") else { return Ok(Vec::new()) };
    let grammar::Value::List(items) = value else {
        return mistake(line, "gsub must be a list: field, pattern, replacement");
    };
    let items: Vec<String> =
        items.into_iter().map(|item| text("gsub", item, line)).collect::<Checked<_>>()?;
    if !items.len().is_multiple_of(3) {
        return mistake(line, "gsub must be a list: field, pattern, replacement, for each field");
    }
    let three = |three: &[String]| match three {
        [of, pattern, with] => {
            // A dollar is none of Ruby's signs, but the library's.
            let with = with.replace('$', "$$");
            let with = (1..=9)
                .fold(with, |with, group| with.replace(&format!("\\{group}"), &format!("${{{group}}}")));
            Ok((field(of, line)?, regex(pattern, line)?, with))
        }
        _ => mistake(line, "gsub must be a list: field, pattern, replacement"),
    };
    items.chunks(3).map(three).collect()
}

impl Convert {
    fn of(self, value: &Value) -> Option<Value> {
        let text = text_of(value);
        let trimmed = text.trim();
        Some(match self {
            Self::Text => Value::String(text),
            Self::Integer => match value {
                Value::Bool(on) => i64::from(*on).into(),
                _ => trimmed.parse::<f64>().map(|number| number as i64).unwrap_or_default().into(),
            },
            Self::Float => match value {
                Value::Bool(on) => f64::from(u8::from(*on)).into(),
                _ => trimmed.parse::<f64>().unwrap_or_default().into(),
            },
            Self::Boolean => match trimmed.to_ascii_lowercase().as_str() {
                "true" | "t" | "yes" | "y" | "1" | "1.0" => true.into(),
                "false" | "f" | "no" | "n" | "0" | "0.0" | "" => false.into(),
                _ => return None,
            },
        })
    }
}
