//! Kafka → the console: its API as programs ask it. Its pages are in [`crate::console_pages`].

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use futures::StreamExt as _;
use rdkafka::ClientConfig;
use rdkafka::consumer::{BaseConsumer, CommitMode, Consumer as _};
use rdkafka::message::{Header, OwnedHeaders};
use rdkafka::producer::FutureRecord;
use reqwest::StatusCode;
use reqwest::header::{HOST, ORIGIN};
use serde_json::Value;
use streamlab::clients::{http, kafka};
use streamlab::probes::{Answer, eventually};

use crate::browser::Chromium;
use crate::exact::exactly_once;
use crate::lab::Lab;
use crate::transactions::new_run;
use crate::trial::{Chapter, Check, PATIENCE, Trial};

const EVERY: Duration = Duration::from_millis(200);
pub(crate) const TOPIC: &str = "user-events";

pub(crate) fn trials(chapter: &Chapter<'_>) -> Vec<Trial> {
    [
        chapter.flow("web-console", Check::plain(|lab| Box::pin(api(lab)))),
        chapter.flow("console-alone", Check::plain(|lab| Box::pin(alone(lab)))),
        chapter.flow("consumer-lag-console", Check::plain(|lab| Box::pin(lag(lab)))),
    ]
    .into_iter()
    .flatten()
    .collect()
}

pub(crate) fn console(lab: &Lab) -> Result<String> {
    Ok(lab.endpoints.url("console", "web")?)
}

async fn asked(lab: &Lab, path: &str) -> Result<Value> {
    let url = format!("{}{path}", console(lab)?);
    let answer = http().get(&url).send().await?;
    let (status, text) = (answer.status(), answer.text().await?);
    if status != StatusCode::OK {
        bail!("{path}: {status} {text}");
    }
    serde_json::from_str(&text).with_context(|| format!("{path}: {text}"))
}

/// Every record that the pages of a search have, in their order.
async fn all_pages(lab: &Lab, topic: &str, search: &str, from: &str) -> Result<Vec<Value>> {
    let (mut found, mut from) = (Vec::new(), from.to_owned());
    for _ in 0..1000 {
        let page = asked(lab, &format!("/api/messages/{topic}?{search}&from={from}")).await?;
        found.extend(page["messages"].as_array().context("no messages")?.iter().cloned());
        page["next"].as_str().context("no next")?.clone_into(&mut from);
        if page["stopped"] == "end" {
            return Ok(found);
        }
    }
    bail!("{search}: no end after 1000 pages")
}

fn place(message: &Value) -> String {
    let text = |value: &Value| value["text"].as_str().unwrap_or("?").to_owned();
    format!(
        "{}@{} {} {}",
        message["partition"],
        message["offset"].as_str().unwrap_or("?"),
        text(&message["key"]),
        text(&message["value"])
    )
}

/// Records of a run: where Kafka said that each is, with its key and value. The third of each three has a header.
async fn written(lab: &Lab, topic: &str, run: &str, count: u64) -> Result<Vec<String>> {
    let producer = lab.producer()?;
    let mut places = Vec::new();
    for number in 0..count {
        let key = format!("{}-{run}", number % 4);
        let value = format!("{{\"run\":\"{run}\",\"number\":{number},\"exact\":9007199254740993}}");
        let mut record = FutureRecord::to(topic).key(&key).payload(&value);
        if number % 3 == 2 {
            let header = Header { key: "trace", value: Some(run.as_bytes()) };
            record = record.headers(OwnedHeaders::new().insert(header));
        }
        let at = producer.send(record, Duration::from_secs(10)).await.map_err(|(error, _)| error)?;
        places.push(format!("{}@{} {key} {value}", at.partition, at.offset));
    }
    Ok(places)
}

async fn api(lab: Arc<Lab>) -> Result<String> {
    const COUNT: u64 = 50;
    let news = http().get(format!("{}/api/stream", console(&lab)?)).timeout(PATIENCE).send().await?;
    let run = new_run();
    let begin =
        i64::try_from(std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH)?.as_millis())?;
    let expected = written(&lab, TOPIC, &run, COUNT).await?;
    for (search, from) in [
        (format!("key=-{run}&limit=7"), "newest"),
        (format!("text={run}&limit=7"), "oldest"),
        (format!("field=run&is={run}&limit=1000"), "newest"),
        (format!("field=exact&is=9007199254740993&text={run}&limit=20"), "newest"),
        (format!("key=-{run}&at={begin}&limit=11"), "time"),
    ] {
        let found = all_pages(&lab, TOPIC, &search, from).await?;
        exactly_once(&search, expected.clone(), found.iter().map(place))?;
        let mut last: BTreeMap<i64, i64> = BTreeMap::new();
        for message in &found {
            let partition = message["partition"].as_i64().context("no partition")?;
            let offset: i64 = message["offset"].as_str().context("no offset")?.parse()?;
            let sign = if from == "newest" { -1 } else { 1 };
            if last.insert(partition, offset).is_some_and(|before| (offset - before) * sign <= 0) {
                bail!("{search}: partition {partition} is out of order at {offset}");
            }
        }
    }
    let with_header = all_pages(&lab, TOPIC, &format!("header=trace={run}"), "newest").await?;
    if with_header.len() as u64 != COUNT / 3 {
        bail!("{} of {} have the header", with_header.len(), COUNT / 3);
    }
    one_by_its_place(&lab, &expected).await?;
    summaries(&lab).await?;
    kinds(&lab).await?;
    large(&lab).await?;
    let heard = first_news(news, TOPIC).await?;
    let refused = refusals(&lab).await?;
    Ok(format!("{COUNT} records, {refused} requests refused, {TOPIC} at {heard} in the news"))
}

/// A record is found by partition and offset.
async fn one_by_its_place(lab: &Lab, expected: &[String]) -> Result<()> {
    let one = expected.first().context("nothing was written")?;
    let (at, _) = one.split_once(' ').context("no place")?;
    let (partition, offset) = at.split_once('@').context("no place")?;
    let path = format!("/api/messages/{TOPIC}?from=offset&at={offset}&partition={partition}&limit=1");
    let found = asked(lab, &path).await?;
    if place(&found["messages"][0]) != *one {
        bail!("{path}: {found}, not {one}");
    }
    let page = http().get(format!("{}/topics/{TOPIC}/{partition}/{offset}", console(lab)?)).send().await?;
    if page.status() != StatusCode::OK || !page.text().await?.contains("9007199254740993") {
        bail!("the record has no page, or not its exact number");
    }
    Ok(())
}

/// Topics, statistics and the newest record are what Kafka says.
async fn summaries(lab: &Lab) -> Result<()> {
    let topics = asked(lab, "/api/topics").await?;
    let topics = topics["topics"].as_array().context("no topics")?;
    let names: BTreeSet<&str> = topics.iter().filter_map(|topic| topic["name"].as_str()).collect();
    for topic in &lab.plan.topics {
        let found = topics.iter().find(|found| found["name"] == topic.name.as_str());
        let found = found.with_context(|| format!("no {} in {names:?}", topic.name))?;
        let shape = kafka::topic_shape(&lab.bootstrap(), &topic.name).await?;
        for (partition, (leader, replicas, in_sync)) in shape.partitions {
            let shown = &found["partitions"][usize::try_from(partition)?];
            let expected = serde_json::json!([partition, leader, replicas, in_sync]);
            let seen =
                serde_json::json!([shown["partition"], shown["leader"], shown["replicas"], shown["inSync"]]);
            if seen != expected {
                bail!("{}: the console says {seen}, Kafka {expected}", topic.name);
            }
        }
    }
    let stats = asked(lab, "/api/stats").await?;
    let partitions: i32 = lab.plan.topics.iter().map(|topic| topic.partitions).sum();
    if stats["brokers"] != 1 || stats["partitions"].as_i64() < Some(partitions.into()) {
        bail!("/api/stats: {stats}");
    }
    let topic = format!("latest-{}", new_run());
    kafka::create_topic(&lab.bootstrap(), &topic, 1).await?;
    let empty = asked(lab, &format!("/api/latest/{topic}")).await?;
    kafka::write(&lab.bootstrap(), &topic, b"first").await?;
    kafka::write(&lab.bootstrap(), &topic, b"newest").await?;
    let newest = asked(lab, &format!("/api/latest/{topic}")).await?;
    kafka::delete_topic(&lab.bootstrap(), &topic).await?;
    if empty["message"] != Value::Null
        || newest["message"]["value"]["text"] != "newest"
        || newest["message"]["offset"] != "1"
    {
        bail!("an empty topic: {empty}; then: {newest}");
    }
    let health = http().get(format!("{}/health", console(lab)?)).send().await?;
    if health.status() != StatusCode::OK {
        bail!("/health: {}", health.status());
    }
    Ok(())
}

/// What is no plain text is told apart, and shown as what it is.
async fn kinds(lab: &Lab) -> Result<()> {
    let topic = format!("kinds-{}", new_run());
    kafka::create_topic(&lab.bootstrap(), &topic, 1).await?;
    let producer = lab.producer()?;
    let huge = "h".repeat(900_000);
    let values: [Option<&[u8]>; 6] = [
        None,
        Some(b""),
        Some(b"null"),
        Some(b"\xff\x00"),
        Some(b"a\x1b[31m\xe2\x80\xae"),
        Some(huge.as_bytes()),
    ];
    for value in values {
        let mut record = FutureRecord::<[u8], [u8]>::to(&topic);
        record.payload = value;
        producer.send(record, Duration::from_secs(10)).await.map_err(|(error, _)| error)?;
    }
    let found = all_pages(lab, &topic, "limit=100", "oldest").await;
    let whole = async {
        let page = http().get(format!("{}/topics/{topic}/0/5", console(lab)?)).send().await?;
        Ok::<_, anyhow::Error>(page.text().await?.len())
    };
    let whole = whole.await;
    kafka::delete_topic(&lab.bootstrap(), &topic).await?;
    let seen: Vec<(String, usize, String)> = found?
        .iter()
        .map(|message| {
            let value = &message["value"];
            let text: String = value["text"].as_str().unwrap_or_default().chars().take(20).collect();
            let bytes = usize::try_from(value["bytes"].as_u64().unwrap_or_default()).unwrap_or_default();
            (value["kind"].as_str().unwrap_or_default().to_owned(), bytes, text)
        })
        .collect();
    let row = |kind: &str, bytes: usize, text: &str| (kind.to_owned(), bytes, text.to_owned());
    let expected = [
        row("null", 0, ""),
        row("empty", 0, ""),
        row("text", 4, "null"),
        row("binary", 2, "0xff00"),
        row("text", 9, "a\\u001b[31m\\u202e"),
        row("text", 900_000, &huge[..20]),
    ];
    if seen != expected {
        bail!("{seen:?}");
    }
    if whole? < huge.len() {
        bail!("the page of one record does not have all of it");
    }
    Ok(())
}

/// Records that are far larger than the console's memory together, searched by four at once, by some who do not wait, and page by page.
async fn large(lab: &Lab) -> Result<()> {
    const COUNT: usize = 150;
    let topic = format!("large-{}", new_run());
    kafka::create_topic(&lab.bootstrap(), &topic, 1).await?;
    let producer = lab.producer()?;
    let value = "l".repeat(900_000);
    for _ in 0..COUNT {
        let record = FutureRecord::<str, str>::to(&topic).payload(&value);
        producer.send(record, Duration::from_secs(10)).await.map_err(|(error, _)| error)?;
    }
    let url = format!("{}/api/messages/{topic}?limit=1000", console(lab)?);
    for _ in 0..12 {
        let gone = http().get(&url).timeout(Duration::from_millis(50)).send().await;
        drop(gone);
    }
    let pages = (0..4).map(|_| all_pages(lab, &topic, "limit=1000", "newest"));
    let found = futures::future::try_join_all(pages).await;
    kafka::delete_topic(&lab.bootstrap(), &topic).await?;
    for found in found? {
        let offsets = found.iter().map(|m| m["offset"].as_str().unwrap_or("?").to_owned());
        exactly_once(&topic, (0..COUNT).map(|offset| offset.to_string()), offsets)?;
    }
    Ok(())
}

/// The first news that has a topic: how much was written to it.
async fn first_news(answer: reqwest::Response, topic: &str) -> Result<String> {
    let mut stream = answer.bytes_stream();
    let mut text = String::new();
    while let Some(part) = stream.next().await {
        text += &String::from_utf8_lossy(&part?);
        for line in text.lines().filter_map(|line| line.strip_prefix("data: ")) {
            let Ok(news) = serde_json::from_str::<Value>(line) else { continue };
            if let Some(written) = news["topics"][topic][0].as_str() {
                return Ok(written.to_owned());
            }
        }
    }
    bail!("no news: {text}")
}

/// Requests that are refused, each with its status and a reason. How many.
async fn refusals(lab: &Lab) -> Result<usize> {
    let url = console(lab)?;
    let plain = [
        ("/api/messages/no-such-topic", 404, "no topic"),
        ("/topics/no-such-topic", 404, "no topic"),
        ("/topics/..%2F..%2Fetc%2Fpasswd", 404, "no topic"),
        ("/topics/user-events/0/999999999", 404, "no record"),
        ("/topics/user-events/99/0", 404, "no partition"),
        ("/groups/no-such-group", 404, "no consumer group"),
        ("/nowhere", 404, "no page"),
        ("/api/messages/user-events?partition=99", 404, "no partition"),
        ("/api/messages/user-events?partition=x", 400, "no partition"),
        ("/api/messages/user-events?limit=0", 400, "no limit"),
        ("/api/messages/user-events?limit=100000000", 400, "no limit"),
        ("/api/messages/user-events?from=offset&at=x", 400, "no offset"),
        ("/api/messages/user-events?from=time&at=yesterday", 400, "no time"),
        ("/api/messages/user-events?from=nowhere", 400, "no place"),
        ("/api/messages/user-events?is=7", 400, "which field"),
        ("/api/messages/user-events?filter=x", 400, "filter"),
    ];
    for (path, status, why) in plain {
        let answer = http().get(format!("{url}{path}")).send().await?;
        let (seen, text) = (answer.status().as_u16(), answer.text().await?);
        if seen != status || !text.contains(why) {
            bail!("{path}: {seen} {text}, not {status} and {why:?}");
        }
    }
    let post = http().post(format!("{url}/api/topics")).send().await?.status();
    if post != StatusCode::FORBIDDEN {
        bail!("a POST: {post}");
    }
    let strangers = [
        (HOST.as_str(), "evil.example:8080", 421),
        (ORIGIN.as_str(), "http://localhost:9090", 403),
        ("sec-fetch-site", "cross-site", 403),
        ("sec-fetch-site", "same-site", 403),
    ];
    for (name, value, status) in strangers {
        let answer = http().get(format!("{url}/api/topics")).header(name, value).send().await?;
        if answer.status().as_u16() != status || answer.text().await?.contains(TOPIC) {
            bail!("{name}: {value} was not answered with {status}");
        }
    }
    Ok(plain.len() + 1 + strangers.len())
}

async fn alone(lab: Arc<Lab>) -> Result<String> {
    let page = async |path: &str| -> Result<(u16, String)> {
        let answer = http().get(format!("{}{path}", console(&lab)?)).send().await?;
        Ok((answer.status().as_u16(), answer.text().await?))
    };
    // A status, and what is in the text.
    let shows = async |path: &str, status: u16, wanted: &[&str]| -> Result<()> {
        eventually(&format!("{path} answers {status} with {wanted:?}"), PATIENCE, EVERY, || async {
            let (seen, text) = page(path).await?;
            let there = seen == status && wanted.iter().all(|part| text.contains(part));
            Ok(if there { Answer::Is(()) } else { Answer::NotYet(format!("{seen} {text}")) })
        })
        .await
        .map_err(Into::into)
    };
    shows("/topics", 200, &[TOPIC]).await?;
    lab.while_killed(&["kafka", "prometheus"], async {
        shows("/api/topics", 503, &["error"]).await?;
        shows(&format!("/api/messages/{TOPIC}"), 503, &["error"]).await?;
        shows("/topics", 200, &["Kafka does not answer", TOPIC]).await?;
        shows("/api/alerts", 200, &["Prometheus does not answer"]).await?;
        shows("/alerts", 200, &["Prometheus does not answer"]).await
    })
    .await?;
    shows("/api/topics", 200, &[TOPIC]).await?;
    shows("/alerts", 200, &[]).await?;
    eventually("the console has nobody to complain of", PATIENCE, EVERY, || async {
        let (_, text) = page("/api/alerts").await?;
        Ok(if text.contains("\"problems\":[]") { Answer::Is(()) } else { Answer::NotYet(text) })
    })
    .await?;
    Ok(String::new())
}

async fn lag(lab: Arc<Lab>) -> Result<String> {
    let run = new_run();
    let (topic, group) = (format!("lag-{run}"), format!("lag-{run}"));
    kafka::create_topic(&lab.bootstrap(), &topic, 2).await?;
    for _ in 0..7 {
        kafka::write(&lab.bootstrap(), &topic, b"record").await?;
    }
    let ends = kafka::offsets(&lab.bootstrap(), &topic).await?;
    let commit = |back: i64| {
        let (bootstrap, topic, group, ends) = (lab.bootstrap(), topic.clone(), group.clone(), ends.clone());
        tokio::task::spawn_blocking(move || -> Result<()> {
            let consumer: BaseConsumer =
                ClientConfig::new().set("bootstrap.servers", bootstrap).set("group.id", group).create()?;
            let mut offsets = rdkafka::TopicPartitionList::new();
            for (partition, (begin, end)) in ends {
                let at = rdkafka::Offset::Offset((end - back).max(begin));
                offsets.add_partition_offset(&topic, partition, at)?;
            }
            Ok(consumer.commit(&offsets, CommitMode::Sync)?)
        })
    };
    commit(2).await??;
    let expected: i64 = ends.values().map(|(begin, end)| (end - begin).min(2)).sum();
    shows_lag(&lab, &group, expected).await?;
    let page = http().get(format!("{}/groups/{group}", console(&lab)?)).send().await?.text().await?;
    if page.matches(&format!("/topics/{topic}")).count() != ends.len() {
        bail!("the page of {group} does not show its {} partitions:\n{page}", ends.len());
    }
    // The chart of its page has the lag as Prometheus knows it, and moves.
    let chromium = Chromium::start(&lab).await?;
    let url = console(&lab)?;
    let chart = chromium.open(&format!("{url}/groups/{group}")).await?;
    let last = "document.querySelector('[data-panel] td.number')?.textContent ?? 'no chart'";
    chart.until(last, &expected.to_string()).await?;
    commit(0).await??;
    shows_lag(&lab, &group, 0).await?;
    chart.until(last, "0").await?;
    chart.keep(&lab.project.root.join("target/spec/pages"), "group").await?;
    chart.is_clean(&url)?;
    kafka::delete_topic(&lab.bootstrap(), &topic).await?;
    Ok(format!("lag {expected}, then 0"))
}

async fn shows_lag(lab: &Lab, group: &str, wanted: i64) -> Result<()> {
    eventually(&format!("the console shows lag {wanted} of {group}"), PATIENCE, EVERY, || async {
        let groups = asked(lab, "/api/groups").await?;
        let found = groups["groups"].as_array().into_iter().flatten().find(|g| g["name"] == group);
        let lag = found.and_then(|group| group["lag"].as_str()).unwrap_or("nothing");
        Ok(if lag == wanted.to_string() { Answer::Is(()) } else { Answer::NotYet(lag.to_owned()) })
    })
    .await?;
    Ok(())
}
