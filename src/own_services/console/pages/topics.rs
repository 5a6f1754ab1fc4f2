//! Topics, one of them with its records, and one record.

use std::sync::Arc;

use axum::extract::rejection::QueryRejection;
use axum::extract::{Path, Query, State};
use axum::http::StatusCode;
use axum::response::Html;
use maud::{Markup, html};

use super::{Console, Failed, commands, rate};
use crate::clients::browse::Stopped;
use crate::clients::kafka::TopicShape;
use crate::clients::shown::{Kind, Part};
use crate::own_services::console::api::{Message, Messages, Refused, WHOLE};
use crate::own_services::console::asked::{Asked, LIMIT};
use crate::own_services::console::cluster::Seen;

/// Letters of a key or value in a table of records.
const SHORT: usize = 300;

pub(in crate::own_services::console) async fn topics(State(console): State<Arc<Console>>) -> Html<String> {
    let seen = console.cluster.now().await;
    let body = html! {
        div.scroll tabindex="0" role="region" aria-label="Topics" {
            table {
                caption { "Topics" span.note { "Offsets: how many are still there; the ends of transactions and what compaction removed have one too." } }
                thead {
                    tr {
                        th scope="col" { "Topic" }
                        th.number scope="col" { "Partitions" }
                        th.number scope="col" { "Offsets" }
                        th.number scope="col" { "Records / s" }
                        th scope="col" { "Not in sync" }
                    }
                }
                tbody {
                    @for (name, shape) in &seen.groups.topics {
                        tr {
                            th scope="row" { a href={ "/topics/" (name) } { (name) } }
                            td.number { (shape.partitions.len()) }
                            td.number data-live="offsets" data-of=(name) { (seen.offsets(name)) }
                            td.number data-live="rate" data-of=(name) { (rate(seen.rates.get(name).copied())) }
                            td { (out_of_sync(shape)) }
                        }
                    }
                }
            }
        }
        @if seen.groups.topics.is_empty() && seen.problem.is_none() { p { "There are no topics." } }
        (commands(&[format!("kcat -b {} -L", console.kafka())]))
    };
    console.frame("Topics", "/topics", Some(&seen), &body)
}

/// Partitions with fewer in-sync replicas than replicas, and those without a leader.
fn out_of_sync(shape: &TopicShape) -> String {
    let wrong = shape.partitions.iter().filter_map(|(partition, (leader, replicas, in_sync))| {
        match (*leader < 0, in_sync.len() < replicas.len()) {
            (true, _) => Some(format!("{partition}: no leader")),
            (false, true) => Some(format!("{partition}: {} of {}", in_sync.len(), replicas.len())),
            (false, false) => None,
        }
    });
    wrong.collect::<Vec<_>>().join(", ")
}

pub(in crate::own_services::console) async fn topic(
    State(console): State<Arc<Console>>,
    Path(topic): Path<String>,
    asked: Result<Query<Asked>, QueryRejection>,
) -> Result<Html<String>, Failed> {
    let failed = |why| Failed(Arc::clone(&console), why);
    let asked = asked.map_err(|why| failed(why.into()))?.0;
    let found = console.messages(&topic, &asked, SHORT).await.map_err(failed)?;
    let seen = console.cluster.now().await;
    let body = html! {
        @if let Some(shape) = seen.groups.topics.get(&topic) { (partitions(&seen, &topic, shape)) }
        (form(&topic, &asked))
        (records(&topic, &asked, found))
        (commands(&[
            format!("./lab tail {topic}{}", console.instance_option()),
            format!("kcat -b {} -t {topic} -C -o -{LIMIT} -e", console.kafka()),
        ]))
    };
    Ok(console.frame(&topic, "/topics", Some(&seen), &body))
}

fn partitions(seen: &Seen, topic: &str, shape: &TopicShape) -> Markup {
    html! {
        details {
            summary {
                (shape.partitions.len()) " partitions, "
                span data-live="offsets" data-of=(topic) { (seen.offsets(topic)) } " offsets, "
                span data-live="rate" data-of=(topic) { (rate(seen.rates.get(topic).copied())) } " records a second"
            }
            div.scroll tabindex="0" role="region" aria-label="Partitions" {
                table {
                    thead {
                        tr {
                            th.number scope="col" { "Partition" } th.number scope="col" { "Leader" }
                            th scope="col" { "Replicas" } th scope="col" { "In sync" }
                            th.number scope="col" { "First offset" } th.number scope="col" { "Next offset" }
                        }
                    }
                    tbody {
                        @for (partition, (leader, replicas, in_sync)) in &shape.partitions {
                            @let ends = seen.groups.offsets.get(&(topic.to_owned(), *partition));
                            tr {
                                th.number scope="row" { a href={ "/topics/" (topic) "?partition=" (partition) } { (partition) } }
                                td.number { @if *leader < 0 { "none" } @else { (leader) } }
                                td { (list(replicas)) }
                                td { (list(in_sync)) }
                                td.number { @if let Some((first, _)) = ends { (first) } @else { "–" } }
                                td.number { @if let Some((_, next)) = ends { (next) } @else { "–" } }
                            }
                        }
                    }
                }
            }
        }
    }
}

fn list(nodes: &[i32]) -> String {
    nodes.iter().map(i32::to_string).collect::<Vec<_>>().join(", ")
}

fn form(topic: &str, asked: &Asked) -> Markup {
    let begins = [
        ("newest", "the newest, going back"),
        ("oldest", "the oldest"),
        ("offset", "the offset"),
        ("time", "the time"),
    ];
    let field = |name: &str, label: &str, value: &str, example: &str| {
        html! { label { (label) input name=(name) value=(value) placeholder=(example) autocomplete="off" spellcheck="false"; } }
    };
    html! {
        form.search method="get" action={ "/topics/" (topic) } {
            label {
                "Begin with"
                select name="from" {
                    @for (value, label) in begins {
                        option value=(value) selected[asked.from == value] { (label) }
                    }
                }
            }
            (field("at", "Offset, or time (UTC)", &asked.at, "2026-11-30T15:04"))
            (field("partition", "Partition", &asked.partition, "all"))
            (field("key", "Key contains", &asked.key, ""))
            (field("text", "Value contains", &asked.text, ""))
            (field("field", "Field", &asked.field, "user.id"))
            (field("is", "is", &asked.is, ""))
            (field("header", "Header", &asked.header, "trace=7"))
            (field("limit", "Records", &asked.limit, "100"))
            button type="submit" { "Show" }
        }
    }
}

fn records(topic: &str, asked: &Asked, found: Messages) -> Markup {
    let newest = matches!(asked.from.as_str(), "" | "newest");
    let more = if newest || asked.from.starts_with("before") { "Older" } else { "Later" };
    let reached = match found.stopped {
        Stopped::End => "there is no more in this direction",
        Stopped::Limit => "there is more",
        Stopped::Budget => "the search has stopped: there is more to look at",
    };
    let rows = html! { @for message in &found.messages { (row(topic, message)) } };
    html! {
        p.said {
            (found.messages.len()) " records" @if asked.filters() { ", " (found.scanned) " looked at" } "; " (reached) ". "
            @if found.stopped != Stopped::End { a href={ "?" (asked.query(&found.next)) } { (more) } " " }
            @let query = asked.query(&asked.from);
            "As a file: " a href={ "/api/messages/" (topic) "/csv?" (query) } { "CSV" } " "
            a href={ "/api/messages/" (topic) "?" (query) } download={ (topic) ".json" } { "JSON" } " "
            @if newest {
                button type="button" data-follow={ "/api/messages/" (topic) "?" (asked.query(&found.end)) }
                    data-topic=(topic) aria-pressed="false" hidden { "Show what comes" }
                span aria-live="polite" data-news {}
            }
        }
        div.scroll tabindex="0" role="region" aria-label="Records" {
            table.records {
                caption { "Records of " (topic) }
                thead {
                    tr {
                        th.number scope="col" { "Partition" } th.number scope="col" { "Offset" }
                        th scope="col" { "Time (UTC)" } th scope="col" { "Key" } th scope="col" { "Value" }
                    }
                }
                tbody data-records=(topic) { (rows) }
            }
        }
        p { a href={ "/api/messages/" (topic) "?" (asked.query(&asked.from)) } download={ (topic) ".json" } { "These records as JSON" } }
    }
}

fn row(topic: &str, message: &Message) -> Markup {
    html! {
        tr {
            td.number { (message.partition) }
            td.number { a href={ "/topics/" (topic) "/" (message.partition) "/" (message.offset) } { (message.offset) } }
            td { @if let Some(at) = &message.timestamp { time { (at) } } @else { "none" } }
            td { (part(&message.key)) }
            td { (part(&message.value)) }
        }
    }
}

fn part(part: &Part) -> Markup {
    html! {
        @match part.kind {
            Kind::Null => span.badge { "null" },
            Kind::Empty => span.badge { "empty" },
            Kind::Binary => { span.badge { "binary" } code { (part.text) } },
            Kind::Text | Kind::Decoded => code { (part.text) },
        }
        @if !part.whole { "…" }
        @if let Some(note) = &part.note { div.note { (note) } }
    }
}

pub(in crate::own_services::console) async fn record(
    State(console): State<Arc<Console>>,
    Path((topic, partition, offset)): Path<(String, String, String)>,
) -> Result<Html<String>, Failed> {
    let asked = Asked {
        from: "offset".to_owned(),
        at: offset.clone(),
        partition: partition.clone(),
        limit: "1".to_owned(),
        ..Asked::default()
    };
    let failed = |why| Failed(Arc::clone(&console), why);
    let found = console.messages(&topic, &asked, WHOLE).await.map_err(failed)?;
    let there = found.messages.first().filter(|message| message.offset == offset);
    let Some(message) = there else {
        let why = format!(
            "{topic} has no record at offset {offset} of partition {partition}: retention or compaction has removed it, it is the end of a transaction, or it is still to come"
        );
        return Err(failed(Refused(StatusCode::NOT_FOUND, why)));
    };
    let body = html! {
        dl.record {
            dt { "Topic" } dd { a href={ "/topics/" (topic) } { (topic) } }
            dt { "Partition" } dd { (message.partition) }
            dt { "Offset" } dd { (message.offset) }
            dt { "Time (UTC)" } dd { @if let Some(at) = &message.timestamp { time { (at) } } @else { "none" } }
            dt { "Key, " (message.key.bytes) " bytes" } dd { (part(&message.key)) }
            dt { "Headers" }
            dd {
                @if message.headers.is_empty() { "none" } @else {
                    table {
                        thead { tr { th scope="col" { "Name" } th scope="col" { "Value" } } }
                        tbody { @for (name, value) in &message.headers { tr { th scope="row" { (name) } td { (part(value)) } } } }
                    }
                }
            }
            dt { "Value, " (message.value.bytes) " bytes" } dd { (part(&message.value)) }
        }
        (commands(&[
            format!("kcat -b {} -t {topic} -C -p {partition} -o {offset} -c 1", console.kafka()),
        ]))
    };
    Ok(console.frame(&format!("{topic} {partition}@{offset}"), "/topics", None, &body))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_record_says_is_text() {
        let said = Part {
            kind: Kind::Text,
            text: "<script>alert(1)</script>&\"'".to_owned(),
            whole: true,
            bytes: 1,
            note: None,
        };
        let shown = part(&said).into_string();
        assert!(!shown.contains("<script") && shown.contains("&lt;script&gt;"), "{shown}");
    }

    #[test]
    fn null_and_empty_are_told_apart() {
        let of =
            |kind| part(&Part { kind, text: String::new(), whole: true, bytes: 0, note: None }).into_string();
        assert_eq!(of(Kind::Null), r#"<span class="badge">null</span>"#);
        assert_eq!(of(Kind::Empty), r#"<span class="badge">empty</span>"#);
        let said = Part { kind: Kind::Text, text: "null".to_owned(), whole: true, bytes: 4, note: None };
        assert_eq!(part(&said).into_string(), "<code>null</code>");
    }
}
