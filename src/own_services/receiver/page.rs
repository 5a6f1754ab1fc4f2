//! The pages that people read: notifications, newest first, and the frame of the runbooks.

use std::fmt::Write as _;

use super::html::{escape, link, text};
use super::kept::{Kept, Notification};
use super::slack::{Attachment, Payload, Status};

/// Notifications that the page shows; the others are in the API.
const SHOWN: usize = 100;

/// The frame that every page has.
pub(super) fn frame(title: &str, head: &str, body: &str) -> String {
    format!(
        r#"<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{}</title>
<link rel="stylesheet" href="/page.css">
{head}</head>
<body>
<nav><a href="/">Notifications</a> <a href="/runbooks">Runbooks</a> <a href="/api/notifications">JSON</a></nav>
{body}</body>
</html>
"#,
        escape(title)
    )
}

/// The list of notifications.
pub(super) fn notifications(kept: &Kept) -> String {
    let mut list = String::new();
    for notification in kept.after(0).rev().take(SHOWN) {
        list += &one(notification);
    }
    if list.is_empty() {
        list.push_str("<p>Nothing has been received yet.</p>\n");
    }
    let last = kept.last();
    let head = "<script src=\"/page.js\" defer></script>\n<noscript><meta http-equiv=\"refresh\" content=\"10\"></noscript>\n";
    let body = format!(
        "<h1>alert-receiver</h1>\n<p>What Alertmanager would have posted to Slack, newest first, the last {SHOWN}. \
         <span id=\"state\" role=\"status\"></span></p>\n<main id=\"list\" data-last=\"{last}\">\n{list}</main>\n"
    );
    frame("alert-receiver", head, &body)
}

fn one(notification: &Notification) -> String {
    // It was read when it came; one that cannot be read again would be shown as it is.
    let Ok(payload) = serde_json::from_str::<Payload>(notification.payload.get()) else {
        return format!("<pre>{}</pre>\n", escape(notification.payload.get()));
    };
    let (word, class) = match notification.status {
        Status::Firing => ("▲ FIRING", "firing"),
        Status::Resolved => ("✓ RESOLVED", "resolved"),
    };
    let mut out = format!(
        "<article class=\"{class}\" id=\"n{id}\">\n<header><span class=\"status\">{word}</span> <span>#{id}</span> \
         <time>{}</time>",
        escape(&notification.received),
        id = notification.id
    );
    for (name, value) in [("channel", &payload.channel), ("from", &payload.username)] {
        if let Some(value) = value {
            let _ = write!(out, " <span>{name} {}</span>", escape(value));
        }
    }
    out.push_str("</header>\n");
    if let Some(said) = &payload.text {
        let _ = writeln!(out, "<div class=\"text\">{}</div>", text(said));
    }
    for attachment in &payload.attachments {
        out += &attached(attachment);
    }
    out + "</article>\n"
}

fn attached(attachment: &Attachment) -> String {
    let mut out = String::new();
    if let Some(title) = &attachment.title {
        let address = attachment.title_link.as_deref().unwrap_or_default();
        let _ = writeln!(out, "<h2>{}</h2>", link(address, title));
    }
    let said = |t: &&String| !t.trim().is_empty();
    let mut texts: Vec<&String> =
        [&attachment.pretext, &attachment.text].into_iter().flatten().filter(said).collect();
    if texts.is_empty() && attachment.title.is_none() {
        texts.extend(attachment.fallback.as_ref());
    }
    for part in texts.into_iter().chain(attachment.footer.as_ref().filter(said)) {
        let _ = writeln!(out, "<div class=\"text\">{}</div>", text(part));
    }
    if !attachment.fields.is_empty() {
        out.push_str("<dl>\n");
        for field in &attachment.fields {
            let _ = writeln!(out, "<dt>{}</dt><dd>{}</dd>", escape(&field.title), text(&field.value));
        }
        out.push_str("</dl>\n");
    }
    let buttons = attachment.actions.iter().filter_map(|a| Some((a.url.as_deref()?, a.text.as_deref()?)));
    let links: Vec<String> = buttons.map(|(address, label)| link(address, label)).collect();
    if !links.is_empty() {
        let _ = writeln!(out, "<p>{}</p>", links.join(" · "));
    }
    out
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    fn page(payload: &serde_json::Value) -> String {
        let mut kept = Kept::default();
        kept.add(payload.to_string().as_bytes(), "2026-01-01T00:00:00Z".to_owned()).unwrap();
        notifications(&kept)
    }

    fn evil(text: &str) -> serde_json::Value {
        json!({
            "channel": text, "username": text, "text": text,
            "attachments": [{
                "title": text, "title_link": text, "pretext": text, "text": text, "fallback": text, "footer": text,
                "fields": [{"title": text, "value": text}], "actions": [{"type": "button", "text": text, "url": text}]
            }]
        })
    }

    #[test]
    fn everything_that_was_sent_is_shown_escaped() {
        let shown = page(&evil("<img src=x onerror=alert(1)>"));
        assert!(!shown.contains("<img"), "{shown}");
        // channel, username, text; title, pretext, text, footer, field title and value, button.
        assert_eq!(shown.matches("&lt;img src=x onerror=alert(1)&gt;").count(), 10, "{shown}");
    }

    #[test]
    fn a_script_address_is_no_link() {
        assert!(!page(&evil("javascript:alert(1)")).contains("href=\"javascript"));
    }

    #[test]
    fn the_status_is_a_word() {
        assert!(page(&json!({"attachments": [{"title": "[RESOLVED] x"}]})).contains("✓ RESOLVED"));
        assert!(page(&json!({"attachments": [{"title": "[FIRING:1] x"}]})).contains("▲ FIRING"));
    }

    proptest! {
        #[test]
        fn no_text_opens_an_element(text in "[<>\"'&a-z:/ ]{1,40}") {
            let (safe, given) = (page(&evil("x")), page(&evil(&format!("x{text}"))));
            let elements = |page: &str| page.matches('<').count() - 2 * page.matches("<a href=\"http").count();
            prop_assert_eq!(elements(&safe), elements(&given));
        }
    }
}
