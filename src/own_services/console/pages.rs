//! The pages. Everything that comes from a record, a topic or a group is text; the template library escapes it.

use std::sync::Arc;

use axum::extract::rejection::QueryRejection;
use axum::extract::{Path, Query, State};
use axum::http::{StatusCode, Uri};
use axum::response::{Html, IntoResponse, Response};
use maud::{DOCTYPE, Markup, html};

use super::Console;
use super::api::{Message, Messages, Refused, lag, shortened};
use super::asked::{Asked, LIMIT, shown};
use super::cluster::Seen;
use crate::clients::browse::Stopped;
use crate::clients::groups::Group;
use crate::clients::kafka::TopicShape;
use crate::clients::shown::{Kind, Part};
use crate::topology::KAFKA;

/// Letters of a key or value in a table of records.
const SHORT: usize = 300;
/// Records that a reader looks through at once, where the next page has them.
const PAGES: [(&str, &str); 3] = [("/", "Lab"), ("/topics", "Topics"), ("/groups", "Groups")];

/// A page that could not be made, in the same frame.
pub(super) struct Failed(Arc<Console>, Refused);

impl IntoResponse for Failed {
    fn into_response(self) -> Response {
        let Self(console, Refused(status, why)) = self;
        let body = html! { p.problem role="alert" { (why) } p { a href="/topics" { "All topics" } } };
        (status, console.frame("Not shown", "", None, &body)).into_response()
    }
}

impl Console {
    fn frame(&self, title: &str, current: &str, seen: Option<&Seen>, body: &Markup) -> Html<String> {
        let page = html! {
            (DOCTYPE)
            html lang="en" {
                head {
                    meta charset="utf-8";
                    meta name="viewport" content="width=device-width, initial-scale=1";
                    meta name="color-scheme" content="light dark";
                    title { (title) " · " (self.lab.lab) }
                    link rel="stylesheet" href="/console.css";
                    link rel="icon" href="/icon.svg";
                    script src="/console.js" defer {}
                }
                body {
                    a.skip href="#main" { "To the content" }
                    header {
                        strong { "Streamlab" }
                        span { "lab " (self.lab.lab) @if self.lab.instance != "default" { " · " (self.lab.instance) } }
                        nav aria-label="Pages" {
                            @for (href, name) in PAGES {
                                a href=(href) aria-current=[(href == current).then_some("page")] { (name) }
                            }
                        }
                    }
                    main id="main" tabindex="-1" {
                        h1 { (title) }
                        @if let Some(seen) = seen {
                            p.as-of { "as of " time data-live="at" { (time_of(seen)) } }
                            p.problem role="status" data-live="problem" hidden[seen.problem.is_none()] {
                                @if let Some(problem) = &seen.problem { "Kafka does not answer: " (problem) }
                            }
                        }
                        (body)
                    }
                }
            }
        };
        Html(page.into_string())
    }

    fn kafka(&self) -> &str {
        self.lab.host_roles.get(KAFKA).map_or("localhost", String::as_str)
    }

    fn instance_option(&self) -> String {
        crate::topology::instance_option(&self.lab.instance)
    }
}

fn time_of(seen: &Seen) -> String {
    shown((seen.at.unix_timestamp_nanos() / 1_000_000).try_into().unwrap_or_default())
}

fn rate(rate: Option<f64>) -> String {
    rate.map_or("–".to_owned(), |rate| format!("{rate:.1}"))
}

fn commands(commands: &[String]) -> Markup {
    html! {
        details.commands {
            summary { "The same as a command" }
            @for command in commands { pre { code { (command) } } }
        }
    }
}

pub(super) async fn not_found(State(console): State<Arc<Console>>, uri: Uri) -> Failed {
    Failed(console, Refused(StatusCode::NOT_FOUND, format!("no page {}", uri.path())))
}

pub(super) async fn overview(State(console): State<Arc<Console>>) -> Html<String> {
    let seen = console.cluster.now().await;
    let offline = seen.groups.topics.values().flat_map(|t| t.partitions.values()).filter(|(l, ..)| *l < 0);
    let behind = seen
        .groups
        .topics
        .values()
        .flat_map(|t| t.partitions.values())
        .filter(|(_, r, isr)| isr.len() < r.len());
    let body = html! {
        dl.figures {
            div { dt { "Brokers" } dd { (seen.groups.brokers.len()) } }
            div { dt { "Topics" } dd { a href="/topics" { (seen.groups.topics.len()) } } }
            div { dt { "Records a second" } dd data-live="rate" { (rate(seen.rate())) } }
            div { dt { "Consumer groups" } dd { a href="/groups" { (seen.groups.groups.len()) } } }
            div { dt { "Partitions without a leader" } dd { (offline.count()) } }
            div { dt { "Partitions not in sync" } dd { (behind.count()) } }
        }
        div.scroll tabindex="0" role="region" aria-label="Services" {
            table {
                caption { "Services of the lab" }
                thead { tr { th scope="col" { "Service" } th scope="col" { "What it does" } th scope="col" { "On this machine" } } }
                tbody {
                    @for service in &console.lab.services {
                        tr {
                            th scope="row" { (service.name) }
                            td { (service.about) }
                            td {
                                @for (address, about) in &service.pages {
                                    div {
                                        @if address.starts_with("http://") { a href=(address) rel="noreferrer" { (address) } }
                                        @else { code { (address) } }
                                        " " (about)
                                    }
                                }
                            }
                        }
                    }
                }
            }
        }
        (commands(&[format!("./lab status{}", console.instance_option())]))
    };
    console.frame("Lab", "/", Some(&seen), &body)
}

pub(super) async fn topics(State(console): State<Arc<Console>>) -> Html<String> {
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

pub(super) async fn topic(
    State(console): State<Arc<Console>>,
    Path(topic): Path<String>,
    asked: Result<Query<Asked>, QueryRejection>,
) -> Result<Html<String>, Failed> {
    let failed = |why| Failed(Arc::clone(&console), why);
    let asked = asked.map_err(|why| failed(why.into()))?.0;
    let found = console.messages(&topic, &asked).await.map_err(failed)?;
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

fn records(topic: &str, asked: &Asked, mut found: Messages) -> Markup {
    for message in &mut found.messages {
        [&mut message.key, &mut message.value].into_iter().for_each(|part| shortened(part, SHORT));
    }
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
    }
}

pub(super) async fn record(
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
    let found = console.messages(&topic, &asked).await.map_err(failed)?;
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

pub(super) async fn groups(State(console): State<Arc<Console>>) -> Html<String> {
    let seen = console.cluster.now().await;
    let body = html! {
        div.scroll tabindex="0" role="region" aria-label="Consumer groups" {
            table {
                caption { "Consumer groups" span.note { "Lag: offsets that are not committed yet; it can stay above 0 where transactions end." } }
                thead {
                    tr {
                        th scope="col" { "Group" } th scope="col" { "State" } th.number scope="col" { "Members" }
                        th.number scope="col" { "Idle members" } th.number scope="col" { "Lag" }
                    }
                }
                tbody {
                    @for (name, group) in &seen.groups.groups {
                        tr {
                            th scope="row" { a href={ "/groups/" (percent(name)) } { (name) } }
                            td { (group.state) }
                            td.number { (group.members.len()) }
                            td.number { (idle(group)) }
                            td.number data-live="lag" data-of=(name) { (lag(&seen, name)) }
                        }
                    }
                }
            }
        }
        @if seen.groups.groups.is_empty() && seen.problem.is_none() { p { "There are no consumer groups." } }
        (commands(&[format!("./lab env{}", console.instance_option())]))
    };
    console.frame("Groups", "/groups", Some(&seen), &body)
}

fn idle(group: &Group) -> usize {
    group.members.iter().filter(|member| member.partitions.is_empty()).count()
}

/// A name as one step of a path.
fn percent(name: &str) -> String {
    url::form_urlencoded::byte_serialize(name.as_bytes()).collect::<String>().replace('+', "%20")
}

pub(super) async fn group(
    State(console): State<Arc<Console>>,
    Path(name): Path<String>,
) -> Result<Html<String>, Failed> {
    let seen = console.cluster.now_with(|known| known.groups.contains_key(&name)).await;
    let Some(group) = seen.groups.groups.get(&name) else {
        let why = match &seen.problem {
            Some(problem) => Refused(StatusCode::SERVICE_UNAVAILABLE, problem.clone()),
            None => Refused(StatusCode::NOT_FOUND, format!("no consumer group {name}")),
        };
        return Err(Failed(console, why));
    };
    let body = html! {
        p {
            (group.state) ", " (group.members.len()) " members, " (idle(group)) " of them idle, lag "
            span data-live="lag" data-of=(name) { (lag(&seen, &name)) }
        }
        div.scroll tabindex="0" role="region" aria-label="Partitions" {
            table {
                caption { "Partitions" }
                thead {
                    tr {
                        th scope="col" { "Topic" } th.number scope="col" { "Partition" } th.number scope="col" { "Committed" }
                        th.number scope="col" { "Next offset" } th.number scope="col" { "Lag" } th scope="col" { "Member" }
                    }
                }
                tbody {
                    @for (at, committed) in &group.committed {
                        @let member = group.members.iter().find(|member| member.partitions.contains(at));
                        tr {
                            th scope="row" { a href={ "/topics/" (at.0) } { (at.0) } }
                            td.number { (at.1) }
                            td.number { (committed) }
                            td.number { @if let Some((_, next)) = seen.groups.offsets.get(at) { (next) } @else { "–" } }
                            td.number { @if let Some(lag) = seen.groups.lag(&name, at) { (lag) } @else { "none" } }
                            td { @if let Some(member) = member { (member.client_id) " at " (member.host) } @else { "nobody" } }
                        }
                    }
                }
            }
        }
        div.scroll tabindex="0" role="region" aria-label="Members" {
            table {
                caption { "Members" }
                thead { tr { th scope="col" { "Member" } th scope="col" { "Address" } th scope="col" { "Reads" } } }
                tbody {
                    @for member in &group.members {
                        tr {
                            th scope="row" { (member.client_id) }
                            td { (member.host) }
                            td {
                                @if member.partitions.is_empty() { span.badge { "idle" } }
                                @for (topic, partition) in &member.partitions { (topic) "-" (partition) " " }
                            }
                        }
                    }
                }
            }
        }
        (commands(&[
            format!("kafka-consumer-groups --bootstrap-server {} --describe --group {}", console.kafka(), quoted(&name)),
            format!("kafka-consumer-groups --bootstrap-server {} --group {} --reset-offsets --to-earliest --all-topics --dry-run", console.kafka(), quoted(&name)),
        ]))
    };
    Ok(console.frame(&name, "/groups", Some(&seen), &body))
}

/// A text as one word of a shell.
fn quoted(text: &str) -> String {
    format!("'{}'", text.replace('\'', r"'\''"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_record_says_is_text() {
        let said = Part { kind: Kind::Text, text: "<script>alert(1)</script>&\"'".to_owned(), bytes: 1 };
        let shown = part(&said).into_string();
        assert!(!shown.contains("<script") && shown.contains("&lt;script&gt;"), "{shown}");
    }

    #[test]
    fn null_and_empty_are_told_apart() {
        let of = |kind| part(&Part { kind, text: String::new(), bytes: 0 }).into_string();
        assert_eq!(of(Kind::Null), r#"<span class="badge">null</span>"#);
        assert_eq!(of(Kind::Empty), r#"<span class="badge">empty</span>"#);
        let said = Part { kind: Kind::Text, text: "null".to_owned(), bytes: 4 };
        assert_eq!(part(&said).into_string(), "<code>null</code>");
    }

    #[test]
    fn a_name_is_one_word_and_one_step() {
        assert_eq!(quoted("a'b; rm"), r"'a'\''b; rm'");
        assert_eq!(percent("../a b?c"), "..%2Fa%20b%3Fc");
    }
}
