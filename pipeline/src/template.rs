//! Texts with references in them: `logs-%{[kafka][node]}-%{+YYYY.MM.dd}`. Read once, filled for every event.

use std::fmt::Write as _;

use crate::event::Event;
use crate::field::Field;
use crate::joda::Joda;

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Template(Vec<Part>);

#[derive(Debug, Clone, PartialEq, Eq)]
enum Part {
    Text(String),
    /// A field, and how the reference is written.
    Field(Field, String),
    Date(Joda),
}

impl Template {
    /// Reads a text.
    ///
    /// # Errors
    /// A reference that is none, or a date format with a letter that is not known.
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        let mut parts = Vec::new();
        let mut rest = text;
        while let Some(at) = rest.find("%{") {
            let Some(end) = rest[at..].find('}') else { break };
            if at > 0 {
                parts.push(Part::Text(rest[..at].to_owned()));
            }
            let inside = &rest[at + 2..at + end];
            parts.push(match inside.strip_prefix('+') {
                Some(format) => Part::Date(Joda::parse(format)?),
                None => Part::Field(Field::parse(inside)?, rest[at..=at + end].to_owned()),
            });
            rest = &rest[at + end + 1..];
        }
        if !rest.is_empty() {
            parts.push(Part::Text(rest.to_owned()));
        }
        Ok(Self(parts))
    }

    /// The text for an event; a field that is not there leaves its reference.
    pub(crate) fn fill(&self, event: &Event) -> String {
        self.filled(event).0
    }

    /// The text for an event, if every field in it is there.
    pub(crate) fn fill_whole(&self, event: &Event) -> Option<String> {
        let (text, whole) = self.filled(event);
        whole.then_some(text)
    }

    fn filled(&self, event: &Event) -> (String, bool) {
        let (mut text, mut whole) = (String::new(), true);
        for part in &self.0 {
            match part {
                Part::Text(words) => text.push_str(words),
                Part::Date(format) => {
                    let _ = write!(text, "{}", format.write(event.timestamp));
                }
                Part::Field(field, written) => match event.text(field) {
                    Some(found) => text.push_str(&found),
                    None => {
                        whole = false;
                        text.push_str(written);
                    }
                },
            }
        }
        (text, whole)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn references_are_filled_and_those_to_nothing_stay() {
        let mut event = Event::new("m".to_owned(), time::OffsetDateTime::UNIX_EPOCH, String::new());
        event.set(&Field::Document(vec!["a".to_owned(), "b".to_owned()]), serde_json::json!([1, "x"]));
        let fill = |text: &str| Template::parse(text).map(|t| t.fill(&event)).unwrap_or_else(|why| why);
        assert_eq!(fill("logs-%{[a][b]}-%{+YYYY.MM.dd}"), "logs-1,x-1970.01.01");
        assert_eq!(fill("%{missing} of %{message}"), "%{missing} of m");
        assert_eq!(fill("100% {x} %{open"), "100% {x} %{open");
        assert_eq!(fill("%{+ww}"), "\"ww\": the letter w is not known here; known are yYMdHmsSEDZ");
        assert_eq!(fill("%{[a]b}"), "\"[a]b\" is no field: write name or [name][name]");
        let whole = |text: &str| Template::parse(text).ok().and_then(|t| t.fill_whole(&event));
        assert_eq!(whole("%{[a][b]}").as_deref(), Some("1,x"));
        assert_eq!(whole("%{missing}"), None);
    }
}
