//! Records and bytes as people read them in a terminal: null and empty told apart, and nothing in them that a terminal would obey.

use std::fmt::Write as _;

use crate::reader::Record;

/// Bytes of a binary value that are shown.
const BINARY: usize = 256;

/// Adds a record as one line: `partition@offset key value`, and headers where there are any. A decoded key or value is shown in place
/// of its bytes.
pub fn push_line(out: &mut String, record: &Record, key: Option<&str>, value: Option<&str>) {
    let _ = write!(out, "{}@{} ", record.partition, record.offset);
    push_part(out, record.key.as_deref(), key, ["(no key)", "(empty key)"]);
    out.push(' ');
    push_part(out, record.value.as_deref(), value, ["(tombstone)", "(empty value)"]);
    for (name, value) in &record.headers {
        out.push_str(" [");
        push_printable(out, name);
        out.push('=');
        match value {
            Some(value) => push_plain(out, value),
            None => out.push_str("(null)"),
        }
        out.push(']');
    }
    out.push('\n');
}

fn push_part(out: &mut String, bytes: Option<&[u8]>, decoded: Option<&str>, [none, empty]: [&str; 2]) {
    match (bytes, decoded) {
        (_, Some(decoded)) => push_printable(out, decoded),
        (None, _) => out.push_str(none),
        (Some([]), _) => out.push_str(empty),
        (Some(bytes), _) => push_plain(out, bytes),
    }
}

/// The text that the bytes are, or their digits where they are none.
pub fn plain(bytes: &[u8]) -> String {
    let mut out = String::new();
    push_plain(&mut out, bytes);
    out
}

/// The text without what would be invisible, or would change the order in which people read.
pub fn visible(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    push_printable(&mut out, text);
    out
}

fn push_plain(out: &mut String, bytes: &[u8]) {
    match std::str::from_utf8(bytes) {
        Ok(text) if !text.contains('\0') => push_printable(out, text),
        _ => out.push_str(&binary(bytes)),
    }
}

/// `0x` and two digits for each byte; of a long value its beginning, and how long it is.
pub fn binary(bytes: &[u8]) -> String {
    let shown = hexadecimal(&bytes[..bytes.len().min(BINARY)]);
    if bytes.len() > BINARY { format!("{shown}… ({} bytes)", bytes.len()) } else { shown }
}

/// `0x` and two digits for each byte.
pub fn hexadecimal(bytes: &[u8]) -> String {
    bytes.iter().fold("0x".to_owned(), |mut text, byte| {
        _ = write!(text, "{byte:02x}");
        text
    })
}

/// Adds the text without what a terminal obeys, or what would change the order in which people read.
fn push_printable(out: &mut String, text: &str) {
    // Most texts are nothing else, and this question is much cheaper than the next.
    if text.bytes().all(|b| matches!(b, b' '..=b'~')) {
        return out.push_str(text);
    }
    for c in text.chars() {
        match c {
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            c if c.is_control()
                || matches!(u32::from(c), 0x61c | 0x200e | 0x200f | 0x2028..=0x202e | 0x2066..=0x2069 | 0xfeff) =>
            {
                let _ = write!(out, "\\u{:04x}", u32::from(c));
            }
            c => out.push(c),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn nothing_that_is_shown_is_obeyed(bytes: Vec<u8>, text: String) {
            let obeyed = |shown: &str| shown.chars().any(char::is_control);
            let mut out = String::new();
            push_printable(&mut out, &text);
            prop_assert!(!obeyed(&plain(&bytes)) && !obeyed(&out));
            // What is already shown stays as it is.
            let mut again = String::new();
            push_printable(&mut again, &out);
            prop_assert_eq!(again, out);
        }
    }
}
