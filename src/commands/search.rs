//! `lab search`: log lines of Kafka's nodes and of applications, by time, level, service, node, text and stack trace.

use std::time::Duration;

use anyhow::{Result, anyhow};
use serde_json::{Value, json};

use super::context::Context;
use crate::clients::elasticsearch::{Document, Elasticsearch};
use crate::signals::watch_signals;

const KAFKA: &str = "kafka-logs-logstash-*";
const APPLICATIONS: &str = "dev-logs-*,prod-logs-*";

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Whole words that stand in the line, in this order.
    text: Option<String>,
    /// How far back: 30m, 24h, 7d.
    #[arg(long, default_value = "24h", value_parser = span)]
    since: String,
    /// Of this level, and no other: ERROR.
    #[arg(long)]
    level: Option<String>,
    /// Of this service of an application.
    #[arg(long)]
    service: Option<String>,
    /// Of this node of Kafka, by its container's name (./lab status).
    #[arg(long)]
    node: Option<String>,
    /// Words that stand in its stack trace, such as an exception.
    #[arg(long)]
    trace: Option<String>,
    /// Kafka's lines alone.
    #[arg(long)]
    kafka: bool,
    /// The newest N.
    #[arg(long, value_name = "N", default_value_t = 100, value_parser = clap::value_parser!(u16).range(1..=10_000))]
    count: u16,
    /// Go on with lines as they are written; Ctrl-C ends it.
    #[arg(long)]
    follow: bool,
    /// A document a line.
    #[arg(long)]
    json: bool,
}

/// Words in a field. `IOException` is found in `java.io.IOException` by the field's words without dots, which have no digits.
fn words_in(field: &str, words: &str) -> Value {
    let whole = json!({ "match_phrase": { field: words } });
    if words.chars().any(|c| c.is_ascii_digit()) {
        return whole;
    }
    json!({ "bool": { "should": [whole, { "match_phrase": { format!("{field}.words"): words } }] } })
}

/// A span as Elasticsearch's dates take it.
fn span(text: &str) -> Result<String, String> {
    let number = text.strip_suffix(['s', 'm', 'h', 'd']).unwrap_or_default();
    match number.parse::<u32>() {
        Ok(1..=100_000) => Ok(text.to_owned()),
        _ => Err("write a number and s, m, h or d: 24h".to_owned()),
    }
}

impl Args {
    fn indices(&self) -> String {
        if self.kafka { KAFKA.to_owned() } else { format!("{KAFKA},{APPLICATIONS}") }
    }

    /// What is asked for; the time only where lines are not followed as they are written.
    fn query(&self, with_time: bool) -> Value {
        let mut filters = Vec::new();
        if with_time {
            filters.push(json!({ "range": { "@timestamp": { "gte": format!("now-{}", self.since) } } }));
        }
        let exact = [
            ("level", self.level.as_ref().map(|l| l.to_uppercase())),
            ("service", self.service.clone()),
            ("node", self.node.clone()),
        ];
        let exact = exact.into_iter().filter_map(|(field, value)| Some(json!({ "term": { field: value? } })));
        let words = [("message", &self.text), ("trace", &self.trace)];
        let words = words.into_iter().filter_map(|(field, value)| Some(words_in(field, value.as_ref()?)));
        filters.extend(exact.chain(words));
        json!({ "bool": { "filter": filters } })
    }

    fn show(&self, documents: &[Document]) {
        for document in documents {
            if self.json {
                say!("{}", document.source);
            } else {
                say!("{}", line(&document.source));
            }
        }
    }
}

pub(super) async fn run(context: &Context, args: Args) -> Result<()> {
    let mut cancel = watch_signals();
    let endpoints = context.running().await?.endpoints();
    let url = endpoints.search_url().map_err(|_| {
        anyhow!("the lab {} keeps no logs.\n  One that does: ./lab up --lab logs", endpoints.lab)
    })?;
    let elasticsearch = Elasticsearch::new(&url);
    let silent = |why: anyhow::Error| {
        anyhow!(
            "Elasticsearch cannot be searched on {url}: {why:#}\n  What runs: ./lab status{}",
            context.option()
        )
    };
    let indices = args.indices();
    let mut from = elasticsearch.written_to(&indices).await.map_err(silent)?;
    let found = elasticsearch.newest(&indices, &args.query(true), args.count.into()).await.map_err(silent)?;
    args.show(&found);
    if !args.follow {
        if found.is_empty() {
            eprintln!(
                "nothing was found in the last {}; look further back (--since 7d), or ask for less",
                args.since
            );
        } else if found.len() == usize::from(args.count) {
            eprintln!("the newest {}; more: --count", args.count);
        }
        return Ok(());
    }
    let query = args.query(false);
    let mut ticks = tokio::time::interval(Duration::from_secs(1));
    let mut trouble = false;
    loop {
        tokio::select! {
            _ = ticks.tick() => {}
            _ = cancel.wait_for(|c| *c) => return Ok(()),
        }
        // What was shown above, and written between the two questions, is not shown again.
        match elasticsearch.written_since(&indices, &query, &mut from).await {
            Ok(mut more) => {
                more.retain(|document| !found.contains(document));
                args.show(&more);
                trouble = false;
            }
            Err(why) if !trouble => {
                eprintln!("Elasticsearch cannot be searched: {why:#}; trying again");
                trouble = true;
            }
            Err(_) => {}
        }
    }
}

/// A document as a line: when, how bad, who, what; a stack trace below it.
fn line(source: &Value) -> String {
    let text = |field: &str| source[field].as_str().unwrap_or_default();
    let who = match (text("node"), text("class"), text("service"), text("environment")) {
        ("", _, "", environment) => environment.to_owned(),
        ("", _, service, environment) => format!("{environment}/{service}"),
        (node, "", ..) => node.to_owned(),
        (node, class, ..) => format!("{node} {class}"),
    };
    let level = if text("level").is_empty() { "-" } else { text("level") };
    let said = if text("text").is_empty() { text("message") } else { text("text") };
    let mut line = format!("{} {level:<5} {who}  {said}", text("@timestamp"));
    if !text("trace").is_empty() {
        text("trace").lines().for_each(|more| line.push_str(&format!("\n    {}", more.trim_end())));
    }
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_says_when_how_bad_who_and_what() {
        let kafka = json!({
            "@timestamp": "2026-11-30T03:00:05.017Z", "node": "kafka-broker-1", "level": "ERROR", "class": "LogDirFailureChannel",
            "text": "Error while appending", "message": "[2026-11-30 …", "trace": "java.io.IOException: full\n\tat a.B.c",
        });
        assert_eq!(
            line(&kafka),
            "2026-11-30T03:00:05.017Z ERROR kafka-broker-1 LogDirFailureChannel  Error while appending\n    java.io.IOException: full\n    \tat a.B.c"
        );
        let application = json!({ "@timestamp": "t", "environment": "dev", "service": "checkout", "level": "INFO", "message": "paid" });
        assert_eq!(line(&application), "t INFO  dev/checkout  paid");
        assert_eq!(
            line(&json!({ "@timestamp": "t", "node": "kafka", "message": "odd" })),
            "t -     kafka  odd"
        );
    }

    #[test]
    fn a_span_is_a_number_and_a_unit() {
        assert_eq!(span("24h").as_deref(), Ok("24h"));
        for wrong in ["", "h", "24", "-1h", "1.5h", "0d", "1w", "now", "999999999999d"] {
            assert!(span(wrong).is_err(), "{wrong}");
        }
    }
}
