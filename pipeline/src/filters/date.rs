//! date: a text → the event's time.

use serde_json::Value;
use time::format_description::well_known::Rfc3339;
use time::{OffsetDateTime, UtcOffset};

use crate::event::Event;
use crate::field::Field;
use crate::joda::{Joda, iso8601, zone};
use crate::options::{Options, field};
use crate::{Checked, mistake};

#[derive(Debug)]
pub(crate) struct Date {
    from: Field,
    formats: Vec<Format>,
    target: Field,
    zone: UtcOffset,
    tags: Vec<String>,
}

#[derive(Debug)]
enum Format {
    Iso8601,
    /// Seconds, with or without a fraction.
    Unix,
    UnixMilliseconds,
    Joda(Joda),
}

impl Date {
    pub(super) fn of(options: &mut Options) -> Checked<Self> {
        let matched = options.texts("match")?;
        let Some(((from, line), formats)) = matched.split_first() else { return options.missing("match") };
        if formats.is_empty() {
            return mistake(*line, "match must be a list: the field, then the formats of its date");
        }
        let mut read = Vec::new();
        for (format, line) in formats {
            read.push(match format.as_str() {
                "ISO8601" => Format::Iso8601,
                "UNIX" => Format::Unix,
                "UNIX_MS" => Format::UnixMilliseconds,
                other => match Joda::parse(other) {
                    Ok(format) if format.has_year() => Format::Joda(format),
                    Ok(_) => {
                        return mistake(
                            *line,
                            format!("the format {other:?} has no year: it would be guessed"),
                        );
                    }
                    Err(why) => return mistake(*line, why),
                },
            });
        }
        let zone = match options.text("timezone")? {
            // The time of the machine would make one line two documents on two machines.
            None => UtcOffset::UTC,
            Some((name, _)) if ["UTC", "Etc/UTC", "Z"].contains(&name.as_str()) => UtcOffset::UTC,
            Some((name, line)) => match zone(&name) {
                Some((offset, "")) => offset,
                _ => {
                    return mistake(
                        line,
                        format!("timezone {name:?}: write UTC, or a distance such as +02:00"),
                    );
                }
            },
        };
        let target = match options.text("target")? {
            None => Field::Timestamp,
            Some((name, line)) => field(&name, line)?,
        };
        options.only("locale", "en")?;
        let tags: Vec<String> = options.texts("tag_on_failure")?.into_iter().map(|(tag, _)| tag).collect();
        let tags = if tags.is_empty() { vec!["_dateparsefailure".to_owned()] } else { tags };
        Ok(Self { from: field(from, *line)?, formats: read, target, zone, tags })
    }

    pub(super) fn apply(&self, event: &mut Event) -> bool {
        // Without the field there is nothing to do, and nothing has failed.
        let Some(text) = event.text(&self.from) else { return false };
        let found = self.formats.iter().find_map(|format| format.read(&text, self.zone));
        let Some(time) = found else {
            self.tags.iter().for_each(|tag| event.tag(tag));
            return false;
        };
        match &self.target {
            Field::Timestamp => event.timestamp = time,
            other => {
                event.set(other, Value::String(time.format(&Rfc3339).unwrap_or_default()));
            }
        }
        true
    }
}

impl Format {
    fn read(&self, text: &str, zone: UtcOffset) -> Option<OffsetDateTime> {
        let nanoseconds = |number: f64, each: f64| {
            let whole = (number * each).round();
            (whole.abs() < 9e18).then(|| OffsetDateTime::from_unix_timestamp_nanos(whole as i128).ok())?
        };
        match self {
            Self::Iso8601 => iso8601(text, zone),
            Self::Unix => nanoseconds(text.parse().ok()?, 1e9),
            Self::UnixMilliseconds => nanoseconds(text.parse().ok()?, 1e6),
            Self::Joda(format) => format.read(text, zone),
        }
    }
}
