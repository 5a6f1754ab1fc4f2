//! Log files → Elasticsearch: every event of a file is one document, as it stands (Filebeat) and parsed (Logstash), whatever is killed,
//! full or rotated meanwhile. What the lab's own services say on their output is the chapter `logs`.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};
use streamlab::clients::elasticsearch::{Document, Elasticsearch};
use streamlab::clients::kafka;
use streamlab::probes::{Answer, eventually};
use streamlab::topology::KAFKA;

use crate::episode::Participant;
use crate::exact::exactly_once;
use crate::lab::Lab;
use crate::log_records::{DEV, Records};
use crate::metrics::prometheus;
use crate::transactions::new_run;
use crate::trial::{Chapter, Check, PATIENCE, Trial};

pub(crate) const EVERY: Duration = Duration::from_millis(500);
/// Where Kafka's nodes write, in their containers.
const FOLDER: &str = "/usr/logs";
/// Who writes an index, and by which field a document names its file.
const RAW: Way = Way { service: "filebeat", indices: "kafka-logs-filebeat-*", file: "kafka.file" };
const PARSED: Way = Way { service: "logstash", indices: "kafka-logs-logstash-*", file: "log.file.path" };

/// One of the two ways of a line.
#[derive(Clone, Copy)]
struct Way {
    service: &'static str,
    indices: &'static str,
    file: &'static str,
}

impl Way {
    /// The ways that run in a lab, or in the part of it that was started.
    fn of(lab: &Lab) -> Vec<Self> {
        [RAW, PARSED].into_iter().filter(|way| !lab.plan.meant(way.service).is_empty()).collect()
    }

    /// Every document of a file: the texts of its events.
    async fn found(self, lab: &Lab, file: &str) -> Result<Vec<Document>> {
        let query = match self.service {
            "filebeat" => json!({ "term": { self.file: file } }),
            // A renamed file has more letters behind its name.
            _ => json!({ "prefix": { self.file: format!("{FOLDER}/{file}.log") } }),
        };
        elasticsearch(lab)?.documents(self.indices, &query).await
    }
}

pub(crate) fn trials(chapter: &Chapter<'_>) -> Vec<Trial> {
    [
        chapter.flow("logs-raw", Check::plain(|lab| Box::pin(whole(lab, RAW)))),
        chapter.flow("logs-raw-cluster", Check::plain(|lab| Box::pin(whole(lab, RAW)))),
        chapter.flow("logs-parsed", Check::plain(|lab| Box::pin(parsed(lab)))),
        chapter.flow("logs-rotated", Check::plain(|lab| Box::pin(rotated(lab)))),
        chapter.flow("logs-search-lost", Check::in_episode(|lab, e| Box::pin(while_broken(lab, e)))),
        chapter.flow("logs-filebeat-lost", Check::in_episode(|lab, e| Box::pin(while_broken(lab, e)))),
        chapter.flow("logs-logstash-lost", Check::in_episode(|lab, e| Box::pin(while_broken(lab, e)))),
        chapter.flow("logs-held-back", Check::in_episode(|lab, e| Box::pin(while_broken(lab, e)))),
        chapter.flow("elasticsearch-metrics", Check::plain(|lab| Box::pin(metrics(lab)))),
    ]
    .into_iter()
    .flatten()
    .collect()
}

pub(crate) fn elasticsearch(lab: &Lab) -> Result<Elasticsearch> {
    Ok(Elasticsearch::new(lab.endpoints.search_url()?))
}

/// The events of a text: a line that does not begin with a date belongs to the event before it.
fn events(text: &str) -> Vec<String> {
    let dated = |line: &str| {
        let date = line.as_bytes().get(..12);
        date.is_some_and(|d| {
            let digits = [1, 2, 3, 4, 6, 7, 9, 10];
            d[0] == b'[' && digits.iter().all(|at| d[*at].is_ascii_digit()) && d[5] == b'-' && d[8] == b'-'
        })
    };
    let mut events = Vec::<String>::new();
    for line in text.lines() {
        match events.last_mut() {
            Some(event) if !dated(line) => {
                event.push('\n');
                event.push_str(line);
            }
            _ => events.push(line.to_owned()),
        }
    }
    events
}

/// Events with the same text are told apart by a number.
fn numbered(events: impl IntoIterator<Item = String>) -> Vec<String> {
    let mut seen: BTreeMap<String, usize> = BTreeMap::new();
    let mut number = |event: String| {
        let times = seen.entry(event.clone()).or_default();
        *times += 1;
        format!("{event} (number {times} of this text)")
    };
    events.into_iter().map(&mut number).collect()
}

async fn whole(lab: Arc<Lab>, way: Way) -> Result<String> {
    // Something to say for every broker, and a name that only this run has.
    let topic = format!("logs-{}", new_run());
    kafka::create_topic(&lab.bootstrap(), &topic, 3).await?;
    kafka::delete_topic(&lab.bootstrap(), &topic).await?;
    let nodes: Vec<String> =
        lab.plan.services.iter().filter(|s| s.image == KAFKA).map(|s| s.name.clone()).collect();
    let mut said = 0;
    let mut counts = Vec::new();
    for node in &nodes {
        let container = lab.service(node)?.container.clone();
        for file in [container.clone(), format!("{container}-gc")] {
            let count = all_found(&lab, way, node, &file, &topic, &mut said).await?;
            counts.push(format!("{file} {count}"));
        }
    }
    if said == 0 {
        bail!("no node has said anything about the topic {topic}: nothing would be proven");
    }
    Ok(format!("events, each one document: {}; {said} of them about {topic}", counts.join(", ")))
}

/// Waits until each event that a file has now is a document. Then each document must be an event that the file has, and as often.
async fn all_found(
    lab: &Lab,
    way: Way,
    node: &str,
    file: &str,
    topic: &str,
    said: &mut usize,
) -> Result<usize> {
    let read = async || {
        let text = lab.exec(node, &["cat", &format!("{FOLDER}/{file}.log")]).await?;
        anyhow::Ok(events(&text))
    };
    let mut expected = read().await?;
    // The last one may still go on.
    expected.pop();
    *said += expected.iter().filter(|event| event.contains(topic)).count();
    let expected = numbered(expected);
    let count = expected.len();
    let found = eventually(&format!("{count} events of {file}"), PATIENCE, EVERY, || async {
        let found = way.found(lab, file).await?;
        let texts = found.iter().map(|document| Ok(message(document)?.to_owned()));
        let found = numbered(texts.collect::<Result<Vec<_>>>()?);
        let missing = expected.iter().filter(|event| !found.contains(event)).count();
        Ok(if missing == 0 { Answer::Is(found) } else { Answer::NotYet(format!("{missing} missing")) })
    })
    .await?;
    let later = numbered(read().await?);
    let unknown: Vec<&String> = found.iter().filter(|event| !later.contains(event)).collect();
    if let Some(first) = unknown.first() {
        bail!("{file}: {} documents are no events of it, or there too often: {first}", unknown.len());
    }
    Ok(count)
}

fn message(document: &Document) -> Result<&str> {
    document.source["message"].as_str().with_context(|| format!("no message in {}", document.source))
}

/// A row of the table of lines and fields, written under a name of its own.
pub(crate) struct Written {
    row: Value,
    /// The node that the file's name says.
    node: String,
    path: String,
    text: String,
}

/// Writes the lines of the table, each row into a file of its kind.
pub(crate) async fn write_table(lab: &Lab) -> Result<Vec<Written>> {
    let table = lab.project.root.join("monitoring/logstash/expected.json");
    let table: Vec<Value> = serde_json::from_slice(&std::fs::read(table)?)?;
    let run = new_run();
    let mut written = Vec::new();
    for (number, row) in table.into_iter().enumerate() {
        let name = row["file"].as_str().context("no file")?;
        let kind = name.find("-gc.log").or(name.find(".log")).context("no log file")?;
        let node = format!("spec-{run}-{number}");
        let path = format!("{node}{}", &name[kind..]);
        let lines = row["lines"].as_array().context("no lines")?;
        let lines: Vec<&str> = lines.iter().filter_map(Value::as_str).collect();
        let text = lines.join("\n");
        File::new(lab, &path)?.write(&format!("{text}\n")).await?;
        written.push(Written { row, node, path, text });
    }
    Ok(written)
}

/// The one document of a row, once it is there.
pub(crate) async fn document_of(lab: &Lab, written: &Written) -> Result<Value> {
    let query = json!({ "term": { PARSED.file: format!("{FOLDER}/{}", written.path) } });
    Ok(eventually(&format!("{}: a document", written.row["about"]), PATIENCE, EVERY, || async {
        let mut found = elasticsearch(lab)?.documents(PARSED.indices, &query).await?;
        Ok(match (found.pop(), found.len()) {
            (Some(document), 0) => Answer::Is(document.source),
            (None, _) => Answer::NotYet("none".to_owned()),
            (_, more) => Answer::Never(anyhow::anyhow!("{} documents of one event", more + 1)),
        })
    })
    .await?)
}

/// The whole of the nodes' files, and the table of lines with their fields.
async fn parsed(lab: Arc<Lab>) -> Result<String> {
    let table = write_table(&lab).await?;
    for written in &table {
        let document = document_of(&lab, written).await?;
        let Written { row, node, text, .. } = written;
        let fields = row["fields"].as_object().context("no fields")?;
        for (field, wanted) in
            fields.iter().map(|(field, wanted)| (field.as_str(), wanted)).chain([("message", &json!(text))])
        {
            // The node is the file's name, which is this run's.
            let wanted = if field == "node" { &json!(node) } else { wanted };
            if document[field] != *wanted {
                bail!("{}: {field} is {}, not {wanted}", row["about"], document[field]);
            }
        }
    }
    Ok(format!("{} rows of the table; {}", table.len(), whole(lab, PARSED).await?))
}

/// A log file beside those of Kafka's nodes, written by hand in the first node.
struct File<'a> {
    lab: &'a Lab,
    node: String,
    path: String,
}

impl<'a> File<'a> {
    fn new(lab: &'a Lab, name: &str) -> Result<Self> {
        let node = lab.names_of(KAFKA).into_iter().next().context("nobody plays kafka")?;
        Ok(Self { lab, node, path: format!("{FOLDER}/{name}") })
    }

    async fn run(&self, script: &str) -> Result<()> {
        self.lab.exec(&self.node, &["sh", "-ec", script, "sh", &self.path]).await?;
        Ok(())
    }

    /// Appends whole lines.
    async fn write(&self, text: &str) -> Result<()> {
        self.run(&format!("cat >>\"$1\" <<'END'\n{text}END")).await
    }
}

/// Lines with today's date and a number each, and what must become of them.
struct Lines<'a> {
    file: File<'a>,
    name: String,
    written: Vec<String>,
}

impl<'a> Lines<'a> {
    fn new(lab: &'a Lab) -> Result<Self> {
        let name = format!("spec-{}", new_run());
        Ok(Self { file: File::new(lab, &format!("{name}.log"))?, name, written: Vec::new() })
    }

    async fn write(&mut self, count: usize) -> Result<()> {
        let now = time::OffsetDateTime::now_utc();
        let (date, hour) = (now.date(), now.hour());
        let mut text = String::new();
        for _ in 0..count {
            let number = self.written.len();
            let milli = number % 1000;
            let line = format!(
                "[{date} {hour:02}:00:00,{milli:03}] INFO [spec] line {number} of {} (spec.Lines)",
                self.name
            );
            writeln!(text, "{line}")?;
            self.written.push(line);
        }
        self.file.write(&text).await
    }

    /// Every line that was written is a document on each way, and nothing else is.
    async fn are_found(&self) -> Result<()> {
        for way in Way::of(self.file.lab) {
            let count = self.written.len();
            let question = format!("{count} lines of {} by {}", self.name, way.service);
            let found = eventually(&question, PATIENCE, EVERY, || async {
                let found = way.found(self.file.lab, &self.name).await?;
                let seen = found.len();
                Ok(if seen >= count { Answer::Is(found) } else { Answer::NotYet(seen.to_string()) })
            })
            .await?;
            let found: Vec<String> =
                found.iter().map(|document| Ok(message(document)?.to_owned())).collect::<Result<_>>()?;
            exactly_once(&question, self.written.clone(), found)?;
        }
        Ok(())
    }
}

async fn rotated(lab: Arc<Lab>) -> Result<String> {
    let mut lines = Lines::new(&lab)?;
    lines.write(500).await?;
    // At once: not all is read, and the rest is in a file with another name.
    lines.file.run("mv \"$1\" \"$1.1\"").await?;
    lines.write(500).await?;
    lines.are_found().await?;
    // Emptied in place, as copytruncate does; the next line is at a place that was read before.
    lines.file.run("cp \"$1\" \"/tmp/copy\"; : >\"$1\"").await?;
    lines.write(200).await?;
    lines.are_found().await?;
    Ok(format!("{} lines, renamed once, emptied once", lines.written.len()))
}

/// Lines and records before, while something is broken, and after it.
async fn while_broken(lab: Arc<Lab>, mut episode: Participant) -> Result<String> {
    let mut lines = Lines::new(&lab)?;
    let mut records =
        if lab.plan.meant(PARSED.service).is_empty() { None } else { Some(Records::new(&lab, DEV)?) };
    lines.write(300).await?;
    if let Some(records) = &mut records {
        records.write(200).await?;
    }
    lines.are_found().await?;
    episode.broken().await?;
    lines.write(700).await?;
    if let Some(records) = &mut records {
        records.write(300).await?;
    }
    episode.mended().await?;
    lines.write(100).await?;
    lines.are_found().await?;
    // What was sent twice would come before a later line.
    lines.write(1).await?;
    lines.are_found().await?;
    let of_topic = match records {
        Some(mut records) => {
            records.write(1).await?;
            records.are_found().await?;
            format!(", and {} records", records.count())
        }
        None => String::new(),
    };
    Ok(format!("{} lines, 700 of them written meanwhile{of_topic}: each found once", lines.written.len()))
}

async fn metrics(lab: Arc<Lab>) -> Result<String> {
    const DOCUMENTS: &str = "sum(elasticsearch_indices_docs_primary{index=~\"kafka-logs-.*\"})";
    let (prometheus, elasticsearch) = (prometheus(&lab)?, elasticsearch(&lab)?);
    let mut lines = Lines::new(&lab)?;
    lines.write(60).await?;
    lines.are_found().await?;
    // Not the applications' indices: they grow all the time. Kafka's nodes say something now and then, garbage collections too, and
    // Prometheus asks every few seconds: what it knows lies between what was there before and what is there now.
    let count = async || elasticsearch.count("kafka-logs-*", &json!({ "match_all": {} })).await;
    let before = count().await?;
    let documents = eventually("Prometheus knows how many documents there are", PATIENCE, EVERY, || async {
        let seen = prometheus.sum(DOCUMENTS).await?.unwrap_or_default();
        let now = count().await?;
        Ok(if (before as f64..=now as f64).contains(&seen) {
            Answer::Is(now)
        } else {
            Answer::NotYet(format!("Prometheus {seen}, Elasticsearch {before}, then {now}"))
        })
    })
    .await?;
    if documents < 60 {
        bail!("{documents} documents, and 60 were written just now");
    }
    for (expression, wanted) in [
        ("sum(elasticsearch_cluster_health_status{color=\"red\"})", 0.0),
        ("sum(elasticsearch_cluster_health_number_of_nodes)", 1.0),
        ("sum(elasticsearch_indices_settings_stats_read_only_indices)", 0.0),
    ] {
        let found = prometheus.sum(expression).await?;
        if found != Some(wanted) {
            bail!("{expression} is {found:?}, not {wanted}");
        }
    }
    Ok(format!("{before} to {documents} documents in both"))
}
