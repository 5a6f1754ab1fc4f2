//! Log records of applications → topic or TCP → Logstash → Elasticsearch: each is one document with its fields.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use rdkafka::producer::{FutureProducer, FutureRecord};
use serde_json::{Value, json};
use streamlab::probes::{Answer, eventually};
use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpStream;

use crate::exact::exactly_once;
use crate::lab::Lab;
use crate::log_lines::{EVERY, elasticsearch};
use crate::transactions::new_run;
use crate::trial::{Chapter, Check, PATIENCE, Trial};

/// An environment of the log platform.
#[derive(Clone, Copy)]
pub(crate) struct Environment {
    name: &'static str,
    pub(crate) topic: &'static str,
    index: &'static str,
    /// What its pipeline drops.
    drops: Option<&'static str>,
}

pub(crate) const DEV: Environment =
    Environment { name: "dev", topic: "logs-topic", index: "dev-logs-index", drops: None };
const PROD: Environment =
    Environment { name: "prod", topic: "prod-logs-topic", index: "prod-logs-index", drops: Some("DEBUG") };

const LEVELS: [&str; 4] = ["DEBUG", "INFO", "WARN", "ERROR"];
const SERVICES: [&str; 3] = ["checkout", "catalogue", "accounts"];

pub(crate) fn trials(chapter: &Chapter<'_>) -> Vec<Trial> {
    [
        chapter.flow("logs-topic-dev", Check::plain(|lab| Box::pin(of_topic(lab, DEV)))),
        chapter.flow("logs-topic-prod", Check::plain(|lab| Box::pin(of_topic(lab, PROD)))),
        chapter.flow("logs-tcp", Check::plain(|lab| Box::pin(over_tcp(lab)))),
        chapter.flow("logs-beats", Check::plain(|lab| Box::pin(by_filebeat(lab)))),
    ]
    .into_iter()
    .flatten()
    .collect()
}

/// Records of one run, and what must become of them.
pub(crate) struct Records<'a> {
    lab: &'a Lab,
    environment: Environment,
    producer: FutureProducer,
    run: String,
    written: Vec<Value>,
}

impl<'a> Records<'a> {
    pub(crate) fn new(lab: &'a Lab, environment: Environment) -> Result<Self> {
        Ok(Self { lab, environment, producer: lab.producer()?, run: new_run(), written: Vec::new() })
    }

    pub(crate) fn count(&self) -> usize {
        self.written.len()
    }

    fn record(&self, number: usize) -> Value {
        json!({
            "timestamp": format!("2026-11-{:02}T10:00:00.{:03}Z", 1 + number % 28, number % 1000),
            "level": LEVELS[number % LEVELS.len()].to_lowercase(),
            "service": SERVICES[number % SERVICES.len()],
            "message": format!("record {number} of {}", self.run),
            "run": self.run,
            // As many say it, and as many others have an object.
            "host": "web-1",
        })
    }

    pub(crate) async fn write(&mut self, count: usize) -> Result<()> {
        let first = self.written.len();
        let made: Vec<Value> = (first..first + count).map(|number| self.record(number)).collect();
        let sent = made.iter().map(|record| async {
            let (key, value) = (record["service"].as_str().unwrap_or_default(), record.to_string());
            let record = FutureRecord::to(self.environment.topic).key(key).payload(&value);
            self.producer.send(record, Duration::from_secs(30)).await.map_err(|(error, _)| error)
        });
        futures::future::try_join_all(sent).await?;
        self.written.extend(made);
        Ok(())
    }

    /// The document of a record; none where its level is dropped.
    fn document(&self, record: &Value) -> Option<Value> {
        let level = record["level"].as_str()?.to_uppercase();
        if self.environment.drops == Some(&level) {
            return None;
        }
        Some(json!({
            "@timestamp": record["timestamp"], "@version": "1", "environment": self.environment.name, "level": level,
            "service": record["service"], "message": record["message"], "run": record["run"], "host": { "name": "web-1" },
        }))
    }

    pub(crate) async fn are_found(&self) -> Result<Vec<Value>> {
        let expected: Vec<Value> = self.written.iter().filter_map(|record| self.document(record)).collect();
        let found = found(self.lab, self.environment, &self.run, expected.len()).await?;
        let keys = |documents: &[Value]| documents.iter().map(Value::to_string).collect::<Vec<_>>();
        exactly_once(self.environment.index, keys(&expected), keys(&found))?;
        Ok(found)
    }
}

/// Waits for so many documents of a run.
async fn found(lab: &Lab, environment: Environment, run: &str, count: usize) -> Result<Vec<Value>> {
    let question = format!("{count} documents in {}", environment.index);
    let found = eventually(&question, PATIENCE, EVERY, || async {
        let query = json!({ "match_phrase": { "message": run } });
        let found = elasticsearch(lab)?.documents(environment.index, &query).await?;
        let seen = found.len();
        Ok(if seen >= count { Answer::Is(found) } else { Answer::NotYet(seen.to_string()) })
    });
    Ok(found.await?.into_iter().map(|document| document.source).collect())
}

async fn of_topic(lab: Arc<Lab>, environment: Environment) -> Result<String> {
    let mut records = Records::new(&lab, environment)?;
    records.write(600).await?;
    let documents = records.are_found().await?;
    let mut totals: BTreeMap<String, usize> = BTreeMap::new();
    for document in &documents {
        for field in ["level", "service"] {
            *totals.entry(document[field].as_str().unwrap_or_default().to_owned()).or_default() += 1;
        }
    }
    for level in LEVELS {
        let wanted = if environment.drops == Some(level) { None } else { Some(&150) };
        if totals.get(level) != wanted {
            bail!("{level}: {:?} documents, not {wanted:?}", totals.get(level));
        }
    }
    // What is no JSON is kept as it is, with a tag.
    let (text, topic) = (format!("no JSON, {}", records.run), environment.topic);
    let record = FutureRecord::<str, str>::to(topic).payload(&text);
    records.producer.send(record, Duration::from_secs(30)).await.map_err(|(error, _)| error)?;
    let all = found(&lab, environment, &records.run, documents.len() + 1).await?;
    let odd = all.iter().find(|document| document["message"] == text).context("it is not there")?;
    if odd["tags"] != json!(["_jsonparsefailure"]) {
        bail!("it is not tagged: {odd}");
    }
    Ok(format!("600 records, {} documents, {totals:?}", documents.len()))
}

async fn over_tcp(lab: Arc<Lab>) -> Result<String> {
    let run = new_run();
    let lines: Vec<String> = (0..300).map(|number| format!("line {number} of {run}")).collect();
    let port = lab.endpoints.port(&lab.names_of("logstash")[0], "tcp")?;
    let mut stream = TcpStream::connect(("127.0.0.1", port)).await?;
    // In pieces that end within a line; the last line has no end of its own.
    let text = lines.join("\n");
    for piece in text.as_bytes().chunks(1000) {
        stream.write_all(piece).await?;
        stream.flush().await?;
    }
    stream.shutdown().await?;
    let found = found(&lab, DEV, &run, lines.len()).await?;
    for document in &found {
        if !document["tags"].as_array().is_some_and(|tags| tags.contains(&json!("tcp"))) {
            bail!("it is not tagged with where it came from: {document}");
        }
    }
    let messages = found.iter().map(|document| document["message"].as_str().unwrap_or_default().to_owned());
    exactly_once("dev-logs-index", lines, messages)?;
    Ok(format!("{} lines", found.len()))
}

/// A second Filebeat in the first one's container, with a file of its own. It ends by itself.
async fn by_filebeat(lab: Arc<Lab>) -> Result<String> {
    const SENDS: &str = r#"
        folder=$(mktemp -d); printf '%s' "$1" >"$folder/lines.log"
        printf '%s\n' "filebeat.inputs: [{ type: filestream, id: spec, paths: [\"$folder/lines.log\"] }]" \
            "output.logstash: { hosts: [\"$2\"] }" >"$folder/beat.yml"
        timeout 120 filebeat --path.home /usr/share/filebeat --path.data "$folder/data" -e --strict.perms=false \
            -c "$folder/beat.yml" >"$folder/said" 2>&1 &"#;
    let run = new_run();
    let records: Vec<Value> = (0..200)
        .map(|number| {
            let message = format!("beat {number} of {run}");
            json!({ "level": "warn", "service": "beats", "message": message, "timestamp": "2026-11-30T08:00:00.007Z" })
        })
        .collect();
    let lines: String = records.iter().map(|record| format!("{record}\n")).collect();
    let logstash = lab.service(&lab.names_of("logstash")[0])?;
    let port = logstash.ports.iter().find(|port| port.name == "beats").context("no port for Beats")?;
    let address = format!("{}:{}", logstash.container, port.container);
    let filebeat = lab.names_of("filebeat").into_iter().next().context("no filebeat")?;
    lab.exec(&filebeat, &["sh", "-ec", SENDS, "sh", &lines, &address]).await?;
    let found = found(&lab, DEV, &run, records.len()).await?;
    let shown = |fields: &Value| format!("{} {} {}", fields["message"], fields["level"], fields["service"]);
    for document in &found {
        let tags = document["tags"].as_array().cloned().unwrap_or_default();
        if !tags.contains(&json!("beats")) || document["@timestamp"] != "2026-11-30T08:00:00.007Z" {
            bail!("not as it was sent: {document}");
        }
    }
    let expected = records.iter().map(|record| shown(record).replace("\"warn\"", "\"WARN\""));
    exactly_once(DEV.index, expected, found.iter().map(shown))?;
    Ok(format!("{} records", records.len()))
}
