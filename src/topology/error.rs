//! What can be wrong with the definition, with the file and line it is in.

use std::ops::Range;

/// One mistake in the definition. Lines count from 1; 0 means that no single line is to blame.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{file}{}: {message}", if *line > 0 { format!(":{line}") } else { String::new() })]
pub struct TopologyError {
    /// `lab.toml`, or one of its parts.
    pub file: String,
    /// Line in the file, from 1.
    pub line: usize,
    /// What is wrong and what was expected.
    pub message: String,
}

impl TopologyError {
    pub(super) fn at(text: &str, span: Range<usize>, message: impl Into<String>) -> Self {
        let upto = text.get(..span.start).unwrap_or(text);
        Self { line: upto.matches('\n').count() + 1, ..Self::whole(message) }
    }

    pub(super) fn whole(message: impl Into<String>) -> Self {
        Self { file: "lab.toml".to_owned(), line: 0, message: message.into() }
    }

    pub(super) fn from_toml(text: &str, error: &toml::de::Error) -> Self {
        match error.span() {
            Some(span) => Self::at(text, span, error.message()),
            None => Self::whole(error.message()),
        }
    }

    /// The same, where the text that it is about was put together of `parts`: files and how many lines each has.
    pub(super) fn in_parts(mut self, parts: &[(String, usize)]) -> Self {
        for (file, lines) in parts {
            if self.line <= *lines {
                self.file.clone_from(file);
                break;
            }
            self.line -= lines;
        }
        self
    }
}
