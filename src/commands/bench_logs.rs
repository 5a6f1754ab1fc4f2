//! `lab bench logs`: how long a line takes until it is found, what a minute of records does, and how many lines a second the filters
//! take. It asks a lab that is up, and leaves what it wrote there.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use rdkafka::ClientConfig;
use rdkafka::producer::{FutureProducer, FutureRecord};
use serde_json::json;
use streamlab_pipeline::{Event, Filters};
use time::OffsetDateTime;

use super::context::Context;
use super::status::megabytes;
use crate::clients::elasticsearch::Elasticsearch;
use crate::engine::Session;
use crate::probes::{Answer, eventually};
use crate::topology::KAFKA;

/// Lines of the first part; records a second, and seconds, of the second; seconds of the third.
const LINES: usize = 60;
const RATE: u64 = 2000;
const SECONDS: u64 = 60;
const FILTERED: Duration = Duration::from_secs(5);
const FOLDER: &str = "/usr/logs";
const WAYS: [(&str, &str); 2] =
    [("filebeat", "kafka-logs-filebeat-*"), ("logstash", "kafka-logs-logstash-*")];
const TOPIC: &str = "logs-topic";
const INDEX: &str = "dev-logs-index";

pub(super) async fn run(context: &Context) -> Result<()> {
    let session = context.running().await?;
    let url = session.endpoints().search_url();
    let url = url.with_context(|| format!("the lab {} keeps no logs", session.plan.lab))?;
    let elasticsearch = Elasticsearch::new(url);
    let run = format!("{:08x}", rand::random::<u32>());
    until_found(&session, &elasticsearch, &run).await?;
    sustained(&session, &elasticsearch, &run).await?;
    for service in &session.plan.services {
        if ["elasticsearch", "filebeat", "logstash", "elasticsearch-exporter"]
            .contains(&service.group.as_str())
        {
            let usage = session.engine.usage(&service.container).await?;
            say!("{:<24} {}", service.name, megabytes(usage.memory));
        }
    }
    filtered(&session).await
}

/// Lines one after the other, each until it is found on both ways.
async fn until_found(session: &Session, elasticsearch: &Elasticsearch, run: &str) -> Result<()> {
    let node = session.plan.meant(KAFKA).first().map(|s| s.container.clone()).context("no Kafka")?;
    let mut took: [Vec<f64>; 2] = Default::default();
    for number in 0..LINES {
        let words = format!("bench {run} line {number}");
        let now = OffsetDateTime::now_utc();
        let line = format!(
            "[{} {:02}:{:02}:{:02},000] INFO [bench] {words} (bench.Lines)",
            now.date(),
            now.hour(),
            now.minute(),
            now.second()
        );
        let script = format!("echo '{line}' >>{FOLDER}/bench-{run}.log");
        let written = Instant::now();
        let output = session.engine.exec(&node, &["sh", "-c", &script]).await?;
        if output.code != 0 {
            bail!("a line cannot be written: {}", output.text);
        }
        let query = json!({ "match_phrase": { "message": words } });
        let ways = WAYS.map(|(_, indices)| {
            let query = &query;
            let question = format!("{words} in {indices}");
            async move {
                eventually(&question, Duration::from_secs(60), Duration::from_millis(50), || async {
                    let found = elasticsearch.count(indices, query).await?;
                    Ok(if found > 0 { Answer::Is(written.elapsed()) } else { Answer::NotYet("0".to_owned()) })
                })
                .await
            }
        });
        let found = futures::future::try_join_all(ways).await?;
        took.iter_mut().zip(found).for_each(|(all, one)| all.push(one.as_secs_f64()));
    }
    for ((service, _), mut seconds) in WAYS.into_iter().zip(took) {
        let first = seconds.first().copied().unwrap_or_default();
        seconds.sort_by(f64::total_cmp);
        let at = |share: f64| seconds[((seconds.len() - 1) as f64 * share).round() as usize];
        say!(
            "{service}: a line is found after {:.1} s at the median, {:.1} s at p99, {:.1} s at most ({LINES} lines; the first {first:.1} s)",
            at(0.5),
            at(0.99),
            at(1.0)
        );
    }
    Ok(())
}

/// So many records a second for a minute, and then until the last is found.
async fn sustained(session: &Session, elasticsearch: &Elasticsearch, run: &str) -> Result<()> {
    let mut config = ClientConfig::new();
    config.set("bootstrap.servers", session.endpoints().bootstrap()).set("acks", "all");
    let producer: FutureProducer = config.create()?;
    let mut ticks = tokio::time::interval(Duration::from_millis(100));
    let (mut sent, begun) = (Vec::new(), Instant::now());
    for tick in 0..SECONDS * 10 {
        ticks.tick().await;
        for number in 0..RATE / 10 {
            let record = json!({
                "level": "info", "service": "bench", "run": run, "number": tick * (RATE / 10) + number,
                "message": format!("record {number} of {tick}: an order of three articles was paid, and goes out tomorrow"),
            });
            let record = record.to_string();
            let record = FutureRecord::<str, str>::to(TOPIC).payload(&record);
            sent.push(producer.send_result(record).map_err(|(why, _)| why)?);
        }
    }
    let count = sent.len() as u64;
    for acknowledged in sent {
        acknowledged.await?.map_err(|(why, _)| why)?;
    }
    let last = Instant::now();
    let query = json!({ "term": { "run": run } });
    let question = format!("{count} records in {INDEX}");
    let patience = Duration::from_secs(120);
    eventually(&question, patience, Duration::from_millis(100), || async {
        let found = elasticsearch.count(INDEX, &query).await?;
        Ok(if found == count { Answer::Is(()) } else { Answer::NotYet(found.to_string()) })
    })
    .await?;
    say!(
        "{count} records in {:.1} s: all are found {:.1} s after the last was acknowledged",
        last.duration_since(begun).as_secs_f64(),
        last.elapsed().as_secs_f64()
    );
    Ok(())
}

/// What the filters alone do with real lines, in one thread, up to the document as text.
async fn filtered(session: &Session) -> Result<()> {
    let node = session.plan.meant(KAFKA).first().map(|s| s.container.clone()).context("no Kafka")?;
    let output = session.engine.exec(&node, &["cat", &format!("{FOLDER}/{node}.log")]).await?;
    let lines: Vec<&str> = output.text.lines().filter(|line| line.starts_with('[')).collect();
    if lines.is_empty() {
        bail!("{node} has written no line");
    }
    let file = session.project.root.join("monitoring/logstash/pipeline/kafka-logs.conf");
    let filters =
        Filters::parse(&std::fs::read_to_string(&file)?).with_context(|| file.display().to_string())?;
    let (begun, mut done, mut bytes) = (Instant::now(), 0, 0);
    while begun.elapsed() < FILTERED {
        for line in &lines {
            let mut event = Event::new((*line).to_owned(), OffsetDateTime::UNIX_EPOCH, String::new());
            let path = json!({ "file": { "path": format!("{FOLDER}/{node}.log") } });
            event.fields.insert("log".to_owned(), path);
            filters.apply(&mut event);
            bytes += event.document().to_string().len();
            done += 1;
        }
    }
    let seconds = begun.elapsed().as_secs_f64();
    say!(
        "filters: {:.0} lines a second in one thread ({} real lines again and again, {:.0} MB of documents a second)",
        f64::from(done) / seconds,
        lines.len(),
        bytes as f64 / seconds / 1e6
    );
    Ok(())
}
