//! Bytes as people read them in a terminal: nothing in them that a terminal would obey.

use std::fmt::Write as _;

/// Bytes of a binary value that are shown.
const BINARY: usize = 256;

/// The text that the bytes are, or their digits where they are none.
pub fn plain(bytes: &[u8]) -> String {
    std::str::from_utf8(bytes)
        .ok()
        .filter(|text| !text.contains('\0'))
        .map_or_else(|| binary(bytes), printable)
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

/// The text without what a terminal obeys, or what would change the order in which people read.
pub fn printable(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
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
    out
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn nothing_that_is_shown_is_obeyed(bytes: Vec<u8>, text: String) {
            let obeyed = |shown: &str| shown.chars().any(char::is_control);
            prop_assert!(!obeyed(&plain(&bytes)) && !obeyed(&printable(&text)));
        }
    }
}
