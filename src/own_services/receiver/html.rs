//! Text of others as HTML: everything escaped, links only to http and https.

use std::fmt::Write as _;

/// Bytes of one text that are shown.
const SHOWN: usize = 20_000;
/// Bytes of an address with its label: where none ends within them, there is none.
const LONGEST_ADDRESS: usize = 2048;

/// Text with the five characters that mean something in HTML escaped.
pub(super) fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\'' => out.push_str("&#39;"),
            // Not allowed in HTML, and of no use to a reader.
            c if c.is_control() && !matches!(c, '\n' | '\t') => out.push('\u{fffd}'),
            c => out.push(c),
        }
    }
    out
}

/// An address that may be linked to.
pub(super) fn web_address(text: &str) -> Option<&str> {
    let text = text.trim();
    let url = reqwest::Url::parse(text).ok()?;
    (matches!(url.scheme(), "http" | "https") && url.has_host()).then_some(text)
}

/// A link, or the label alone where the address is none to be linked to.
pub(super) fn link(address: &str, label: &str) -> String {
    match web_address(address) {
        Some(address) => {
            format!(r#"<a href="{}" rel="noreferrer noopener">{}</a>"#, escape(address), escape(label))
        }
        None => escape(label),
    }
}

/// Text as it stands, with Slack's `<address|label>` and plain addresses as links.
pub(super) fn text(text: &str) -> String {
    let mut out = String::new();
    let shown = (0..=text.len().min(SHOWN)).rev().find(|at| text.is_char_boundary(*at));
    let mut rest = &text[..shown.unwrap_or_default()];
    let cut = rest.len() < text.len();
    while let Some(at) = next_address(rest) {
        let (before, from) = rest.split_at(at);
        let wrapped = before
            .ends_with('<')
            .then(|| from.bytes().take(LONGEST_ADDRESS).position(|b| b == b'>'))
            .flatten();
        let (address, label, taken) = match wrapped {
            Some(end) => {
                let (address, label) = from[..end].split_once('|').unwrap_or((&from[..end], &from[..end]));
                (address, label, end + 1)
            }
            None => {
                let end = from.find(|c: char| c.is_whitespace() || "<>|\"'`".contains(c));
                let address =
                    from[..end.unwrap_or(from.len())].trim_end_matches(['.', ',', ';', ':', ')', '!', '?']);
                (address, address, address.len())
            }
        };
        let before = if wrapped.is_some() { &before[..before.len() - 1] } else { before };
        let _ = write!(out, "{}{}", escape(before), link(address, label));
        rest = &from[taken..];
    }
    out += &escape(rest);
    if cut {
        let _ = write!(out, "… ({SHOWN} of {} bytes; the whole is in the JSON)", text.len());
    }
    out
}

/// One search, so that a text of many addresses is gone through once.
fn next_address(text: &str) -> Option<usize> {
    text.match_indices("http").map(|(at, _)| at).find(|at| {
        let after = &text[at + "http".len()..];
        after.strip_prefix('s').unwrap_or(after).starts_with("://")
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use rstest::rstest;

    use super::*;

    const OF: &str = r#" rel="noreferrer noopener""#;

    #[rstest]
    #[case::markup("<script>alert('x')</script>", "&lt;script&gt;alert(&#39;x&#39;)&lt;/script&gt;")]
    #[case::plain(
        "see http://a/b?c=1&d=2.",
        "see <a href=\"http://a/b?c=1&amp;d=2\"REL>http://a/b?c=1&amp;d=2</a>."
    )]
    #[case::slack("<https://a/#x|the runbook>!", "<a href=\"https://a/#x\"REL>the runbook</a>!")]
    #[case::slack_without_label("<http://a>", "<a href=\"http://a\"REL>http://a</a>")]
    #[case::slack_without_end("<http://a b", "&lt;<a href=\"http://a\"REL>http://a</a> b")]
    #[case::quote_in_address(
        "<http://a/\" onclick=\"x|y>",
        "<a href=\"http://a/&quot; onclick=&quot;x\"REL>y</a>"
    )]
    #[case::label_with_markup("<http://a|<b>>", "<a href=\"http://a\"REL>&lt;b</a>&gt;")]
    #[case::other_scheme("<javascript:alert(1)|x>", "&lt;javascript:alert(1)|x&gt;")]
    #[case::no_host("http:// x", "http:// x")]
    fn text_is_shown_as_it_stands(#[case] given: &str, #[case] expected: &str) {
        assert_eq!(text(given), expected.replace("REL", OF));
    }

    #[rstest]
    #[case::script("javascript:alert(1)")]
    #[case::data("data:text/html,x")]
    #[case::relative("/here")]
    #[case::nothing("")]
    fn only_web_addresses_are_linked(#[case] address: &str) {
        assert_eq!(link(address, "x"), "x");
    }

    #[rstest]
    #[case::many_addresses("http://a ")]
    #[case::never_closed("<http://a ")]
    #[case::no_address("http")]
    #[case::wide("ä<http://ä")]
    fn a_huge_text_is_shown_in_part_and_at_once(#[case] piece: &str) {
        let huge = piece.repeat(1 << 20);
        let shown = text(&huge);
        assert!(shown.len() < 20 * SHOWN, "{}", shown.len());
        assert!(shown.ends_with(&format!("… (20000 of {} bytes; the whole is in the JSON)", huge.len())));
    }

    proptest! {
        #[test]
        fn nothing_but_our_links_comes_through(given in "[a-z<>|\"'& :/.]{0,40}(https?://[a-z<>|\"']{0,9}){0,3}") {
            let shown = text(&given);
            for tag in shown.split('<').skip(1) {
                prop_assert!(tag.starts_with("a href=\"http") || tag.starts_with("/a>"), "{}", shown);
            }
        }
    }
}
