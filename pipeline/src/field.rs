//! References to fields, `[a][b]` or `a`: read once, then used on every event.

/// Where a field is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Field {
    /// `@timestamp`: kept as a time.
    Timestamp,
    /// Below `@metadata`: never written out.
    Metadata(Vec<String>),
    /// In the document, by its names from outside in.
    Document(Vec<String>),
}

impl Field {
    /// Reads a reference. `a.b` is one name.
    ///
    /// # Errors
    /// What is wrong with it.
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        let refused = || format!("{text:?} is no field: write name or [name][name]");
        let names: Vec<String> = match text.strip_prefix('[') {
            None if text.is_empty() || text.contains(['[', ']']) => return Err(refused()),
            None => vec![text.to_owned()],
            Some(_) => {
                let inside = text.strip_prefix('[').and_then(|t| t.strip_suffix(']')).ok_or_else(refused)?;
                inside.split("][").map(str::to_owned).collect()
            }
        };
        if names.iter().any(|name| name.is_empty() || name.contains(['[', ']'])) {
            return Err(refused());
        }
        Ok(match names.split_first() {
            Some((first, [])) if first == "@timestamp" => Self::Timestamp,
            Some((first, _)) if first == "@timestamp" => return Err(refused()),
            Some((first, within)) if first == "@metadata" => Self::Metadata(within.to_vec()),
            _ => Self::Document(names),
        })
    }
}
