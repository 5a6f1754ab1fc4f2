//! Log files → Elasticsearch: every event of a file is one document, whatever is killed, full or rotated meanwhile. What the lab's
//! own services say on their output is the chapter `logs`.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use serde_json::json;
use streamlab::clients::elasticsearch::{Document, Elasticsearch};
use streamlab::clients::kafka;
use streamlab::probes::{Answer, eventually};
use streamlab::topology::KAFKA;

use crate::episode::Participant;
use crate::exact::exactly_once;
use crate::lab::Lab;
use crate::metrics::prometheus;
use crate::transactions::new_run;
use crate::trial::{Chapter, Check, PATIENCE, Trial};

const EVERY: Duration = Duration::from_millis(500);
/// Where Kafka's nodes write, in their containers.
const FOLDER: &str = "/usr/logs";
const RAW: &str = "kafka-logs-filebeat-*";

pub(crate) fn trials(chapter: &Chapter<'_>) -> Vec<Trial> {
    [
        chapter.flow("logs-raw", Check::plain(|lab| Box::pin(raw(lab)))),
        chapter.flow("logs-raw-cluster", Check::plain(|lab| Box::pin(raw(lab)))),
        chapter.flow("logs-rotated", Check::plain(|lab| Box::pin(rotated(lab)))),
        chapter.flow("logs-search-lost", Check::in_episode(|lab, e| Box::pin(while_broken(lab, e)))),
        chapter.flow("logs-filebeat-lost", Check::in_episode(|lab, e| Box::pin(while_broken(lab, e)))),
        chapter.flow("logs-held-back", Check::in_episode(|lab, e| Box::pin(while_broken(lab, e)))),
        chapter.flow("elasticsearch-metrics", Check::plain(|lab| Box::pin(metrics(lab)))),
    ]
    .into_iter()
    .flatten()
    .collect()
}

fn elasticsearch(lab: &Lab) -> Result<Elasticsearch> {
    Ok(Elasticsearch::new(lab.endpoints.search_url()?))
}

/// The events of a text as Filebeat's configuration cuts them: a line that does not begin with a date belongs to the event before it.
/// Each with the place where it begins.
fn events(text: &str) -> Vec<(usize, String)> {
    let dated = |line: &str| {
        let date = line.as_bytes().get(..12);
        date.is_some_and(|d| {
            let digits = [1, 2, 3, 4, 6, 7, 9, 10];
            d[0] == b'[' && digits.iter().all(|at| d[*at].is_ascii_digit()) && d[5] == b'-' && d[8] == b'-'
        })
    };
    let (mut events, mut place) = (Vec::<(usize, String)>::new(), 0);
    for line in text.split_inclusive('\n') {
        let words = line.trim_end_matches(['\n', '\r']);
        match events.last_mut() {
            Some((_, event)) if !dated(words) => {
                event.push('\n');
                event.push_str(words);
            }
            _ => events.push((place, words.to_owned())),
        }
        place += line.len();
    }
    events
}

async fn raw(lab: Arc<Lab>) -> Result<String> {
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
            let text = lab.exec(node, &["cat", &format!("{FOLDER}/{file}.log")]).await?;
            let mut expected = events(&text);
            // The last one may still go on.
            let Some((end, _)) = expected.pop() else { continue };
            said += expected.iter().filter(|(_, event)| event.contains(&topic)).count();
            let count = all_found(&lab, &file, end, expected).await?;
            counts.push(format!("{file} {count}"));
        }
    }
    if said == 0 {
        bail!("no node has said anything about the topic {topic}: nothing would be proven");
    }
    Ok(format!("events, each one document: {}; {said} of them about {topic}", counts.join(", ")))
}

/// Waits until each event of the beginning of a file is a document; then each must be one, and nothing else from there.
async fn all_found(lab: &Lab, file: &str, end: usize, expected: Vec<(usize, String)>) -> Result<usize> {
    let elasticsearch = elasticsearch(lab)?;
    let expected = numbered(expected);
    if expected.is_empty() {
        return Ok(0);
    }
    let count = expected.len();
    let found = eventually(&format!("{count} events of {file}"), PATIENCE, EVERY, || async {
        let found = elasticsearch.documents(RAW, &json!({ "term": { "kafka.file": file } })).await?;
        let mut events = Vec::new();
        for document in found {
            // Of an event of several lines it is the place of the last one.
            let place = document.source["log"]["offset"].as_u64().context("no offset")?;
            let place = usize::try_from(place)?;
            if place < end {
                events.push((place, message(&document)?.to_owned()));
            }
        }
        let found = events.len();
        Ok(if found >= count { Answer::Is(numbered(events)) } else { Answer::NotYet(found.to_string()) })
    })
    .await?;
    exactly_once(file, expected, found)?;
    Ok(count)
}

/// Events with the same text are told apart by their order in the file.
fn numbered(mut events: Vec<(usize, String)>) -> Vec<String> {
    events.sort();
    let mut seen: BTreeMap<String, usize> = BTreeMap::new();
    let mut number = |event: String| {
        let times = seen.entry(event.clone()).or_default();
        *times += 1;
        format!("{event} (number {times} of this text)")
    };
    events.into_iter().map(|(_, event)| number(event)).collect()
}

fn message(document: &Document) -> Result<&str> {
    document.source["message"].as_str().with_context(|| format!("no message in {}", document.source))
}

/// A log file beside those of Kafka's nodes, written by hand in the first node.
struct File<'a> {
    lab: &'a Lab,
    node: String,
    name: String,
    written: Vec<String>,
}

impl<'a> File<'a> {
    fn new(lab: &'a Lab) -> Result<Self> {
        let node = lab.names_of(KAFKA).into_iter().next().context("nobody plays kafka")?;
        Ok(Self { lab, node, name: format!("spec-{}", new_run()), written: Vec::new() })
    }

    async fn run(&self, script: &str) -> Result<()> {
        let path = format!("{FOLDER}/{}.log", self.name);
        self.lab.exec(&self.node, &["sh", "-ec", script, "sh", &path]).await?;
        Ok(())
    }

    /// Lines with today's date and a number each.
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
        self.run(&format!("cat >>\"$1\" <<'END'\n{text}END")).await
    }

    async fn found(&self) -> Result<Vec<String>> {
        let of_file = json!({ "term": { "kafka.file": self.name } });
        let documents = elasticsearch(self.lab)?.documents(RAW, &of_file).await?;
        documents.iter().map(|document| Ok(message(document)?.to_owned())).collect()
    }

    /// Every line that was written is a document, and nothing else is.
    async fn is_found(&self) -> Result<()> {
        let count = self.written.len();
        let found = eventually(&format!("{count} lines of {}", self.name), PATIENCE, EVERY, || async {
            let found = self.found().await?;
            Ok(if found.len() >= count { Answer::Is(found) } else { Answer::NotYet(found.len().to_string()) })
        })
        .await?;
        exactly_once(&self.name, self.written.clone(), found)
    }
}

async fn rotated(lab: Arc<Lab>) -> Result<String> {
    let mut file = File::new(&lab)?;
    file.write(500).await?;
    // At once: Filebeat has not read it all, and the rest is in a file with another name.
    file.run("mv \"$1\" \"$1.1\"").await?;
    file.write(500).await?;
    file.is_found().await?;
    // Emptied in place, as copytruncate does; the next line is at a place that was read before.
    file.run("cp \"$1\" \"$1.2\"; : >\"$1\"").await?;
    file.write(200).await?;
    file.is_found().await?;
    Ok(format!("{} lines, renamed once, emptied once", file.written.len()))
}

/// Lines before, while something is broken, and after it.
async fn while_broken(lab: Arc<Lab>, mut episode: Participant) -> Result<String> {
    let mut file = File::new(&lab)?;
    file.write(300).await?;
    file.is_found().await?;
    episode.broken().await?;
    file.write(700).await?;
    episode.mended().await?;
    file.write(100).await?;
    file.is_found().await?;
    // What was sent twice would come before a later line.
    file.write(1).await?;
    file.is_found().await?;
    Ok(format!("{} lines, 700 of them written meanwhile: each found once", file.written.len()))
}

async fn metrics(lab: Arc<Lab>) -> Result<String> {
    let (prometheus, elasticsearch) = (prometheus(&lab)?, elasticsearch(&lab)?);
    let mut file = File::new(&lab)?;
    file.write(60).await?;
    file.is_found().await?;
    // Kafka's nodes may say something between the two questions.
    let documents = eventually("Prometheus knows how many documents there are", PATIENCE, EVERY, || async {
        let counted = elasticsearch.count("*", &json!({ "match_all": {} })).await?;
        let seen = prometheus.sum("elasticsearch_indices_docs").await?.unwrap_or_default();
        Ok(if seen == counted as f64 {
            Answer::Is(counted)
        } else {
            Answer::NotYet(format!("Prometheus {seen}, Elasticsearch {counted}"))
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
    Ok(format!("{documents} documents in both"))
}
