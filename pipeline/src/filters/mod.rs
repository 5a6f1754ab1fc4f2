//! Filters: what happens to an event between input and output, in the order of the file.

mod date;
mod grok;
mod json;
mod mutate;

use fancy_regex::{Regex, RegexBuilder};
use serde_json::Value;

use crate::condition::Condition;
use crate::event::Event;
use crate::field::Field;
use crate::grammar::{self, Plugin, Statement};
use crate::options::{Options, field, template, text};
use crate::template::Template;
use crate::{Checked, Mistake, mistake};

/// How far a pattern may go back in one text before it counts as one without an end.
const MOST_STEPS: usize = 100_000;

/// The filters of a file, in order.
#[derive(Debug)]
pub struct Filters(Vec<Step>);

#[derive(Debug)]
enum Step {
    Filter(Box<Filter>),
    Choice(Vec<(Option<Condition>, Vec<Step>)>),
}

#[derive(Debug)]
struct Filter {
    kind: Kind,
    after: After,
}

#[derive(Debug)]
enum Kind {
    Grok(grok::Grok),
    Date(date::Date),
    Mutate(mutate::Mutate),
    Json(json::Json),
    Drop,
}

impl Filters {
    /// The filters of a pipeline file's text; inputs and outputs are not looked at.
    ///
    /// # Errors
    /// What is not known, with its line.
    pub fn parse(text: &str) -> Checked<Self> {
        Self::of(&grammar::parse(text)?.filters)
    }

    pub(crate) fn of(block: &[Statement]) -> Checked<Self> {
        Ok(Self(steps(block)?))
    }

    /// Carries them out on one event; one that is dropped says so.
    pub fn apply(&self, event: &mut Event) {
        carry_out(&self.0, event);
    }
}

fn steps(block: &[Statement]) -> Checked<Vec<Step>> {
    let step = |statement: &Statement| match statement {
        Statement::Plugin(plugin) => Ok(Step::Filter(Box::new(Filter::of(plugin)?))),
        Statement::Choice(branches) => {
            let branch = |(when, inside): &(Option<grammar::Condition>, Vec<Statement>)| {
                Ok((when.as_ref().map(Condition::of).transpose()?, steps(inside)?))
            };
            Ok(Step::Choice(branches.iter().map(branch).collect::<Checked<_>>()?))
        }
    };
    block.iter().map(step).collect()
}

fn carry_out(steps: &[Step], event: &mut Event) {
    for step in steps {
        if event.dropped {
            return;
        }
        match step {
            Step::Filter(filter) => filter.apply(event),
            Step::Choice(branches) => {
                let taken =
                    branches.iter().find(|(when, _)| when.as_ref().is_none_or(|when| when.holds(event)));
                if let Some((_, inside)) = taken {
                    carry_out(inside, event);
                }
            }
        }
    }
}

impl Filter {
    fn of(plugin: &Plugin) -> Checked<Self> {
        let mut options = Options::of(plugin)?;
        let after = After::of(&mut options)?;
        let kind = match plugin.name.as_str() {
            "grok" => Kind::Grok(grok::Grok::of(&mut options)?),
            "date" => Kind::Date(date::Date::of(&mut options)?),
            "mutate" => Kind::Mutate(mutate::Mutate::of(&mut options)?),
            "json" => Kind::Json(json::Json::of(&mut options)?),
            "drop" => Kind::Drop,
            other => {
                let known = "known are grok, date, mutate, json and drop";
                return mistake(plugin.line, format!("no filter {other} here; {known}"));
            }
        };
        options.none_left()?;
        Ok(Self { kind, after })
    }

    fn apply(&self, event: &mut Event) {
        let succeeded = match &self.kind {
            Kind::Grok(filter) => filter.apply(event),
            Kind::Date(filter) => filter.apply(event),
            Kind::Mutate(filter) => filter.apply(event),
            Kind::Json(filter) => filter.apply(event),
            Kind::Drop => {
                event.dropped = true;
                true
            }
        };
        if succeeded {
            self.after.apply(event);
        }
    }
}

/// What every filter can do once it has succeeded, in Logstash's order.
#[derive(Debug)]
pub(crate) struct After {
    add_field: Vec<(Template, Addition)>,
    remove_field: Vec<Template>,
    add_tag: Vec<Template>,
    remove_tag: Vec<Template>,
}

#[derive(Debug)]
enum Addition {
    Text(Template),
    Other(Value),
}

impl After {
    pub(crate) fn of(options: &mut Options) -> Checked<Self> {
        // Only for people.
        options.text("id")?;
        let mut templates = |name: &str| -> Checked<Vec<Template>> {
            options.texts(name)?.into_iter().map(|(text, line)| template(&text, line)).collect()
        };
        let (remove_field, add_tag, remove_tag) =
            (templates("remove_field")?, templates("add_tag")?, templates("remove_tag")?);
        for reference in &remove_field {
            let known = reference.fill_whole(&Event::new(
                String::new(),
                time::OffsetDateTime::UNIX_EPOCH,
                String::new(),
            ));
            if let Some(name) = known {
                field(&name, options.line)?;
            }
        }
        let mut add_field = Vec::new();
        for (name, value, line) in options.hash("add_field")? {
            let value = match value {
                grammar::Value::Number(number) => Addition::Other(crate::condition::whole_or_float(number)),
                other => Addition::Text(template(&text("add_field", other, line)?, line)?),
            };
            // The name may hold references; as it is written it must be one of a field.
            Field::parse(&name).map_err(|message| Mistake { line, message })?;
            add_field.push((template(&name, line)?, value));
        }
        Ok(Self { add_field, remove_field, add_tag, remove_tag })
    }

    pub(crate) fn apply(&self, event: &mut Event) {
        for (name, addition) in &self.add_field {
            let value = match addition {
                Addition::Text(template) => Value::String(template.fill(event)),
                Addition::Other(value) => value.clone(),
            };
            if let Ok(field) = Field::parse(&name.fill(event)) {
                event.add(&field, value);
            }
        }
        for name in &self.remove_field {
            if let Ok(field) = Field::parse(&name.fill(event)) {
                event.remove(&field);
            }
        }
        for tag in &self.add_tag {
            let tag = tag.fill(event);
            event.tag(&tag);
        }
        for tag in &self.remove_tag {
            let tag = tag.fill(event);
            event.untag(&tag);
        }
    }
}

/// A pattern as Ruby's: `^` and `$` are those of every line.
pub(crate) fn regex(pattern: &str, line: usize) -> Checked<Regex> {
    build(pattern, false).map_err(|message| Mistake { line, message })
}

/// `whole_text`: a dot is also the end of a line, as in grok.
fn build(pattern: &str, whole_text: bool) -> Result<Regex, String> {
    RegexBuilder::new(pattern)
        .oniguruma_mode(true)
        .multi_line(true)
        .dot_matches_new_line(whole_text)
        .backtrack_limit(MOST_STEPS)
        .build()
        .map_err(|why| format!("{pattern:?} is no pattern: {why}"))
}
