//! Conditions: checked once, then asked of every event.

use std::borrow::Cow;

use fancy_regex::Regex;
use serde_json::Value;

use crate::event::Event;
use crate::field::Field;
use crate::filters::regex;
use crate::grammar::{self, Comparison, Operand, Test};
use crate::{Checked, Mistake, mistake};

/// A condition that can be asked.
#[derive(Debug)]
pub(crate) enum Condition {
    All(Vec<Condition>),
    Any(Vec<Condition>),
    Not(Box<Condition>),
    Truthy(Side),
    Compare(Side, Comparison, Side),
    InList(Side, Vec<Side>),
    InField(Side, Side),
    Matches(Side, Box<Regex>),
}

/// One side of a comparison.
#[derive(Debug)]
pub(crate) enum Side {
    Field(Field),
    Value(Value),
}

impl Side {
    fn of(operand: &Operand, line: usize) -> Checked<Self> {
        match operand {
            Operand::Field(text) => {
                Ok(Self::Field(Field::parse(text).map_err(|message| Mistake { line, message })?))
            }
            Operand::Text(text) => Ok(Self::Value(Value::String(text.clone()))),
            Operand::Number(number) => Ok(Self::Value(whole_or_float(*number))),
            Operand::List(_) => mistake(line, "a list stands only after `in`"),
        }
    }

    fn get<'a>(&'a self, event: &'a Event) -> Option<Cow<'a, Value>> {
        match self {
            Self::Field(field) => event.get(field),
            Self::Value(value) => Some(Cow::Borrowed(value)),
        }
    }
}

/// A number as JSON has it: 200 and not 200.0.
pub(crate) fn whole_or_float(number: f64) -> Value {
    let whole = number as i64;
    if whole as f64 == number { whole.into() } else { number.into() }
}

impl Condition {
    /// Checks a condition.
    ///
    /// # Errors
    /// A pattern that is none, a reference that is none, a list where none can be.
    pub(crate) fn of(condition: &grammar::Condition) -> Checked<Self> {
        let line = condition.line;
        let all = |parts: &[grammar::Condition]| parts.iter().map(Self::of).collect::<Checked<Vec<_>>>();
        Ok(match &condition.test {
            Test::All(parts) => Self::All(all(parts)?),
            Test::Any(parts) => Self::Any(all(parts)?),
            Test::Not(part) => Self::Not(Box::new(Self::of(part)?)),
            Test::Truthy(operand) => Self::Truthy(Side::of(operand, line)?),
            Test::Compare(left, how, right) => {
                Self::Compare(Side::of(left, line)?, *how, Side::of(right, line)?)
            }
            Test::In(left, Operand::List(items)) => {
                // Logstash takes a list of one for a reference to a field, and the condition is always false.
                if items.len() == 1 {
                    return mistake(line, "a list of one is no list for Logstash: write == instead of in");
                }
                let items = items.iter().map(|item| Side::of(item, line)).collect::<Checked<_>>()?;
                Self::InList(Side::of(left, line)?, items)
            }
            Test::In(_, Operand::Field(name)) if name.trim_matches(['[', ']']).parse::<f64>().is_ok() => {
                return mistake(line, "a list of one is no list for Logstash: write == instead of in");
            }
            Test::In(left, right) => Self::InField(Side::of(left, line)?, Side::of(right, line)?),
            Test::Matches(left, pattern) => {
                Self::Matches(Side::of(left, line)?, Box::new(regex(pattern, line)?))
            }
        })
    }

    pub(crate) fn holds(&self, event: &Event) -> bool {
        match self {
            Self::All(parts) => parts.iter().all(|part| part.holds(event)),
            Self::Any(parts) => parts.iter().any(|part| part.holds(event)),
            Self::Not(part) => !part.holds(event),
            Self::Truthy(side) => side.get(event).is_some_and(|value| truthy(&value)),
            Self::Compare(left, how, right) => compare(left.get(event), *how, right.get(event)),
            Self::InList(left, items) => {
                let Some(value) = left.get(event) else { return false };
                items.iter().any(|item| item.get(event).is_some_and(|item| same(&value, &item)))
            }
            Self::InField(left, right) => {
                let (Some(value), Some(whole)) = (left.get(event), right.get(event)) else { return false };
                match (&*value, &*whole) {
                    (Value::String(part), Value::String(whole)) => whole.contains(part.as_str()),
                    (value, Value::Array(items)) => items.iter().any(|item| same(value, item)),
                    (value, other) => same(value, other),
                }
            }
            // A pattern that gives up has not matched.
            Self::Matches(side, pattern) => side.get(event).is_some_and(|value| match &*value {
                Value::String(text) => pattern.is_match(text).unwrap_or(false),
                Value::Array(items) => {
                    items.iter().filter_map(Value::as_str).any(|text| pattern.is_match(text).unwrap_or(false))
                }
                _ => false,
            }),
        }
    }
}

/// "", false and "false" are false; 0 is true.
fn truthy(value: &Value) -> bool {
    match value {
        Value::Null | Value::Bool(false) => false,
        Value::String(text) => !text.is_empty() && text != "false",
        _ => true,
    }
}

/// Of one kind and equal: "200" is not 200.
fn same(one: &Value, other: &Value) -> bool {
    match (one, other) {
        (Value::Number(a), Value::Number(b)) => a.as_f64() == b.as_f64(),
        _ => one == other,
    }
}

/// Values of two kinds have no order: then it does not hold. Logstash's pipeline would end there.
fn compare(left: Option<Cow<'_, Value>>, how: Comparison, right: Option<Cow<'_, Value>>) -> bool {
    let (left, right) = match (left, right) {
        (Some(left), Some(right)) => (left, right),
        (None, None) => return how == Comparison::Equal,
        _ => return how == Comparison::NotEqual,
    };
    let order = match (&*left, &*right) {
        (Value::Number(a), Value::Number(b)) => a.as_f64().partial_cmp(&b.as_f64()),
        (Value::String(a), Value::String(b)) => Some(a.cmp(b)),
        _ => None,
    };
    match how {
        Comparison::Equal => same(&left, &right),
        Comparison::NotEqual => !same(&left, &right),
        Comparison::Less => order.is_some_and(|order| order.is_lt()),
        Comparison::LessOrEqual => order.is_some_and(|order| order.is_le()),
        Comparison::Greater => order.is_some_and(|order| order.is_gt()),
        Comparison::GreaterOrEqual => order.is_some_and(|order| order.is_ge()),
    }
}
