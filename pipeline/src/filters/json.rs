//! json: a text that is JSON → fields.

use serde_json::Value;

use crate::Checked;
use crate::event::Event;
use crate::field::Field;
use crate::options::{Options, field};

#[derive(Debug)]
pub(crate) struct Json {
    source: Field,
    target: Option<Field>,
    quiet: bool,
    tags: Vec<String>,
}

impl Json {
    pub(super) fn of(options: &mut Options) -> Checked<Self> {
        let Some((source, line)) = options.text("source")? else { return options.missing("source") };
        let target = options.text("target")?.map(|(name, line)| field(&name, line)).transpose()?;
        let quiet = options.boolean("skip_on_invalid_json")?.unwrap_or(false);
        let tags: Vec<String> = options.texts("tag_on_failure")?.into_iter().map(|(tag, _)| tag).collect();
        let tags = if tags.is_empty() { vec!["_jsonparsefailure".to_owned()] } else { tags };
        Ok(Self { source: field(&source, line)?, target, quiet, tags })
    }

    pub(super) fn apply(&self, event: &mut Event) -> bool {
        let Some(text) = event.text(&self.source) else { return false };
        if text.is_empty() {
            return false;
        }
        match (serde_json::from_str::<Value>(&text), &self.target) {
            (Ok(value), Some(target)) => event.set(target, value),
            (Ok(Value::Object(members)), None) => {
                event.merge(members);
                true
            }
            // At the root only an object has a place.
            (Ok(_) | Err(_), _) => {
                if !self.quiet {
                    self.tags.iter().for_each(|tag| event.tag(tag));
                }
                false
            }
        }
    }
}
