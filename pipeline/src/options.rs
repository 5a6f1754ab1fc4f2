//! The options of a plugin, read by name and kind. What nobody has asked for at the end is refused with its line.

use std::collections::BTreeMap;
use std::ops::RangeInclusive;

use crate::field::Field;
use crate::grammar::{Attribute, Plugin, Value};
use crate::template::Template;
use crate::{Checked, Mistake, mistake};

/// The options of one plugin that are not read yet.
pub(crate) struct Options {
    pub(crate) plugin: String,
    pub(crate) line: usize,
    left: BTreeMap<String, Attribute>,
}

impl Options {
    /// Takes a plugin's options. The same option twice is merged where it is a list or a hash, as Logstash does.
    pub(crate) fn of(plugin: &Plugin) -> Checked<Self> {
        let mut left: BTreeMap<String, Attribute> = BTreeMap::new();
        for option in &plugin.options {
            let Some(first) = left.get_mut(&option.name) else {
                left.insert(option.name.clone(), option.clone());
                continue;
            };
            match (&mut first.value, &option.value) {
                (Value::List(items), Value::List(more)) => items.extend(more.iter().cloned()),
                (Value::Hash(entries), Value::Hash(more)) => entries.extend(more.iter().cloned()),
                _ => return mistake(option.line, format!("{} is there twice", option.name)),
            }
        }
        Ok(Self { plugin: plugin.name.clone(), line: plugin.line, left })
    }

    /// Every option must have been read.
    pub(crate) fn none_left(self) -> Checked<()> {
        match self.left.into_values().min_by_key(|option| option.line) {
            None => Ok(()),
            Some(option) => {
                mistake(option.line, format!("{} has no option {} here", self.plugin, option.name))
            }
        }
    }

    /// The option's value and line.
    pub(crate) fn take(&mut self, name: &str) -> Option<(Value, usize)> {
        self.left.remove(name).map(|option| (option.value, option.line))
    }

    pub(crate) fn missing<T>(&self, name: &str) -> Checked<T> {
        mistake(self.line, format!("{} needs the option {name}", self.plugin))
    }

    pub(crate) fn text(&mut self, name: &str) -> Checked<Option<(String, usize)>> {
        self.take(name).map(|(value, line)| Ok((text(name, value, line)?, line))).transpose()
    }

    /// A list of texts; one text is a list of one.
    pub(crate) fn texts(&mut self, name: &str) -> Checked<Vec<(String, usize)>> {
        let Some((value, line)) = self.take(name) else { return Ok(Vec::new()) };
        texts(name, value, line)
    }

    pub(crate) fn number(&mut self, name: &str, range: RangeInclusive<f64>) -> Checked<Option<f64>> {
        let Some((given, line)) = self.text(name)? else { return Ok(None) };
        match given.parse::<f64>() {
            Ok(number) if range.contains(&number) => Ok(Some(number)),
            _ => {
                let (least, most) = (range.start(), range.end());
                mistake(line, format!("{name} must be a number from {least} to {most}, not {given}"))
            }
        }
    }

    pub(crate) fn boolean(&mut self, name: &str) -> Checked<Option<bool>> {
        let Some((word, line)) = self.text(name)? else { return Ok(None) };
        match word.as_str() {
            "true" => Ok(Some(true)),
            "false" => Ok(Some(false)),
            _ => mistake(line, format!("{name} must be true or false, not {word:?}")),
        }
    }

    /// A hash of texts, in its order. A key twice is refused, since Logstash would keep one of both.
    pub(crate) fn hash(&mut self, name: &str) -> Checked<Vec<(String, Value, usize)>> {
        let Some((value, line)) = self.take(name) else { return Ok(Vec::new()) };
        let Value::Hash(entries) = value else {
            return mistake(line, format!("{name} must be a hash: {{ \"key\" => \"value\" }}"));
        };
        let mut found: Vec<(String, Value, usize)> = Vec::new();
        for (key, value) in entries {
            if found.iter().any(|(there, ..)| *there == key) {
                return mistake(line, format!("{name} has the key {key:?} twice"));
            }
            found.push((key, value, line));
        }
        Ok(found)
    }

    pub(crate) fn fields(&mut self, name: &str) -> Checked<Vec<Field>> {
        self.texts(name)?.into_iter().map(|(text, line)| field(&text, line)).collect()
    }

    /// An option that may only have the one value that is the behaviour here.
    pub(crate) fn only(&mut self, name: &str, value: &str) -> Checked<()> {
        match self.take(name) {
            None => Ok(()),
            Some((given, line)) => {
                let given = match given {
                    Value::Number(number) => number.to_string(),
                    other => text(name, other, line)?,
                };
                if given == value {
                    Ok(())
                } else {
                    mistake(line, format!("{} has {name} only as {value}, not {given}", self.plugin))
                }
            }
        }
    }
}

pub(crate) fn text(name: &str, value: Value, line: usize) -> Checked<String> {
    match value {
        Value::Text(text) => Ok(text),
        Value::Number(number) => Ok(number.to_string()),
        _ => mistake(line, format!("{name} must be a text")),
    }
}

pub(crate) fn texts(name: &str, value: Value, line: usize) -> Checked<Vec<(String, usize)>> {
    match value {
        Value::List(items) => items.into_iter().map(|item| Ok((text(name, item, line)?, line))).collect(),
        one => Ok(vec![(text(name, one, line)?, line)]),
    }
}

pub(crate) fn field(text: &str, line: usize) -> Checked<Field> {
    Field::parse(text).map_err(|message| Mistake { line, message })
}

pub(crate) fn template(text: &str, line: usize) -> Checked<Template> {
    Template::parse(text).map_err(|message| Mistake { line, message })
}
