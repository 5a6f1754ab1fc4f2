//! The part of Logstash's pipeline files that the lab uses, carried out by a program of our own: inputs file, kafka, tcp and beats;
//! filters grok, date, mutate, json and drop; conditions; the output elasticsearch. What a file asks for beyond that is refused with
//! its line before anything is read.
//!
//! A document is counted as written when Elasticsearch has answered for it; only then does an input remember that it has read so far.
//! Its id comes from its place in the source: what is read twice is one document.

mod condition;
mod counters;
mod event;
mod field;
mod filters;
mod grammar;
mod inputs;
mod joda;
mod options;
mod output;
mod pipeline;
mod pipelines;
mod template;

pub use counters::{Counters, Snapshot};
pub use event::Event;
pub use filters::Filters;
pub use pipelines::{Pipeline, Surroundings, pipelines};

/// What is wrong with a file, and in which line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mistake {
    /// The line, from 1.
    pub line: usize,
    /// What was found, and what was expected.
    pub message: String,
}

impl std::fmt::Display for Mistake {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "line {}: {}", self.line, self.message)
    }
}

impl std::error::Error for Mistake {}

/// What is read from a file, or what is wrong in it.
type Checked<T> = Result<T, Mistake>;

fn mistake<T>(line: usize, message: impl Into<String>) -> Checked<T> {
    Err(Mistake { line, message: message.into() })
}
