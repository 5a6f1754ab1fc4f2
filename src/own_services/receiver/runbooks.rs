//! The runbooks: markdown of the project as one page whose headings can be linked to.

use std::collections::BTreeMap;

use pulldown_cmark::{CowStr, Event, Options, Parser, Tag, TagEnd, html};

use super::html::web_address;

/// Markdown as HTML. A heading's anchor is its text in lower case; HTML in the markdown is shown, not obeyed.
pub(super) fn render(markdown: &str) -> String {
    let mut events: Vec<Event<'_>> =
        Parser::new_ext(markdown, Options::ENABLE_TABLES | Options::ENABLE_STRIKETHROUGH)
            .map(|event| match event {
                Event::Html(text) | Event::InlineHtml(text) => Event::Text(text),
                Event::Start(Tag::Link { link_type, dest_url, title, id }) => {
                    Event::Start(Tag::Link { link_type, dest_url: safe(dest_url), title, id })
                }
                // Nothing is loaded from elsewhere: the description stands for the picture.
                Event::Start(Tag::Image { .. }) | Event::End(TagEnd::Image) => Event::Text("".into()),
                other => other,
            })
            .collect();
    name_headings(&mut events);
    let mut out = String::new();
    html::push_html(&mut out, events.into_iter());
    out
}

/// Links within the page and to the web; everything else leads nowhere.
fn safe(address: CowStr<'_>) -> CowStr<'_> {
    if address.starts_with('#') || web_address(&address).is_some() { address } else { "#".into() }
}

fn name_headings(events: &mut [Event<'_>]) {
    let mut seen: BTreeMap<String, u32> = BTreeMap::new();
    let mut start = None;
    for at in 0..events.len() {
        match &events[at] {
            Event::Start(Tag::Heading { .. }) => start = Some(at),
            Event::End(TagEnd::Heading(_)) => {
                let Some(start) = start.take() else { continue };
                let text: String = events[start..at]
                    .iter()
                    .filter_map(|e| match e {
                        Event::Text(text) | Event::Code(text) => Some(text.as_ref()),
                        _ => None,
                    })
                    .collect();
                let name = text.trim().to_lowercase().split_whitespace().collect::<Vec<_>>().join("-");
                let times = seen.entry(name.clone()).or_default();
                let anchor = if *times == 0 { name } else { format!("{name}-{times}") };
                *times += 1;
                if let Event::Start(Tag::Heading { id, .. }) = &mut events[start] {
                    *id = Some(anchor.into());
                }
            }
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use rstest::rstest;

    use super::*;

    #[rstest]
    #[case::heading("## KafkaBrokerDown\n", "<h2 id=\"kafkabrokerdown\">KafkaBrokerDown</h2>\n")]
    #[case::heading_of_code("# `Disk` filling\n", "<h1 id=\"disk-filling\"><code>Disk</code> filling</h1>\n")]
    #[case::twice("# A\n# A\n", "<h1 id=\"a\">A</h1>\n<h1 id=\"a-1\">A</h1>\n")]
    #[case::html("<script>x</script>\n", "&lt;script&gt;x&lt;/script&gt;\n")]
    #[case::html_within("a <b onclick=x>b\n", "<p>a &lt;b onclick=x&gt;b</p>\n")]
    #[case::link("[x](http://a/b)", "<p><a href=\"http://a/b\">x</a></p>\n")]
    #[case::own_link("[x](#a)", "<p><a href=\"#a\">x</a></p>\n")]
    #[case::script_link("[x](javascript:a)", "<p><a href=\"#\">x</a></p>\n")]
    #[case::picture("![the graph](http://a/b.png)", "<p>the graph</p>\n")]
    fn markdown_becomes_html(#[case] markdown: &str, #[case] expected: &str) {
        assert_eq!(render(markdown), expected);
    }

    #[test]
    fn tables_are_tables() {
        assert!(render("|a|b|\n|-|-|\n|1|2|\n").contains("<td>1</td>"));
    }

    proptest! {
        #[test]
        fn no_script_comes_through(text in "[a-z<>/# \n\\[\\]()`!:\"]{0,60}(<script>|<img onerror=x>|\\[a\\]\\(javascript:x\\))[a-z<># \n]{0,20}") {
            let page = render(&text);
            prop_assert!(!page.contains("<script") && !page.contains("<img") && !page.contains("href=\"javascript"), "{}", page);
        }
    }
}
