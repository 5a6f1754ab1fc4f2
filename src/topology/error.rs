//! What can be wrong with `lab.toml`, with the line it is on.

use std::ops::Range;

/// One mistake in `lab.toml`. Lines count from 1; 0 means that no single line is to blame.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("lab.toml{}: {message}", if *line > 0 { format!(":{line}") } else { String::new() })]
pub struct TopologyError {
    /// Line in the file, from 1.
    pub line: usize,
    /// What is wrong and what was expected.
    pub message: String,
}

impl TopologyError {
    pub(super) fn at(text: &str, span: Range<usize>, message: impl Into<String>) -> Self {
        let upto = text.get(..span.start).unwrap_or(text);
        Self { line: upto.matches('\n').count() + 1, message: message.into() }
    }

    pub(super) fn whole(message: impl Into<String>) -> Self {
        Self { line: 0, message: message.into() }
    }

    pub(super) fn from_toml(text: &str, error: &toml::de::Error) -> Self {
        match error.span() {
            Some(span) => Self::at(text, span, error.message()),
            None => Self::whole(error.message()),
        }
    }
}
