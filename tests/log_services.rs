//! Elasticsearch and Filebeat, the real ones of the recipes, with the files of `monitoring/`: every line of a log file becomes
//! searchable, once, whatever is killed meanwhile; without a lab around them.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test that cannot go on has failed")]

mod support;

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs::{OpenOptions, Permissions};
use std::io::Write as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::Command;

use rstest::rstest;
use serde_json::{Value, json};
use streamlab::clients::elasticsearch::{Elasticsearch, Refused};
use streamlab::clients::http;
use streamlab::probes::{Answer, eventually};
use support::root;
use support::search::{EVERY, answers, ask, documents, elasticsearch, image, kill, url};
use support::service::PATIENCE;
use testcontainers::core::Mount;
use testcontainers::runners::AsyncRunner as _;
use testcontainers::{ContainerAsync, ContainerRequest, GenericImage, ImageExt as _};

const LOGS: &str = "/usr/logs";

/// Elasticsearch with the lab's templates, and Filebeat reading a folder of the host into it.
struct Logging {
    elasticsearch: ContainerAsync<GenericImage>,
    filebeat: ContainerAsync<GenericImage>,
    network: String,
    /// Elasticsearch's name in it.
    name: String,
    folder: tempfile::TempDir,
}

/// A folder that the containers' users can read.
fn open_folder() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    std::fs::set_permissions(folder.path(), Permissions::from_mode(0o755)).unwrap();
    folder
}

async fn filebeat(network: &str, elasticsearch: &str, logs: &Path) -> ContainerAsync<GenericImage> {
    let inside = "/opt/streamlab/filebeat";
    let files = root().join("monitoring/filebeat");
    let filebeat: ContainerRequest<GenericImage> = image("filebeat").await.into();
    filebeat
        .with_network(network)
        .with_mount(Mount::bind_mount(logs.to_str().unwrap(), LOGS))
        .with_mount(Mount::bind_mount(files.to_str().unwrap(), inside))
        .with_env_var("LOGS", LOGS)
        .with_env_var("MONITORING_PORT", "5066")
        .with_env_var("ELASTICSEARCH_URL", format!("http://{elasticsearch}:9200"))
        .with_cmd(["-e", "--strict.perms=false", "-c", &format!("{inside}/filebeat.yml")])
        .start()
        .await
        .unwrap()
}

impl Logging {
    async fn start() -> Self {
        let id = uuid::Uuid::new_v4().simple().to_string();
        let (network, name) = (format!("logs-{id}"), format!("elasticsearch-{id}"));
        let elasticsearch = elasticsearch(&network, &name).await;
        let folder = open_folder();
        let filebeat = filebeat(&network, &name, folder.path()).await;
        Self { elasticsearch, filebeat, network, name, folder }
    }

    /// Filebeat is started again after it was killed; a new one knows nothing of what was read.
    async fn filebeat_again(&mut self, new: bool) {
        if new {
            self.filebeat = filebeat(&self.network, &self.name, self.folder.path()).await;
        } else {
            self.filebeat.start().await.unwrap();
        }
    }

    fn append(&self, file: &str, bytes: &[u8]) {
        let path = self.folder.path().join(file);
        OpenOptions::new().create(true).append(true).open(path).unwrap().write_all(bytes).unwrap();
    }

    /// Every document: its message and its fields. An index that has just been made does not answer yet.
    async fn documents(&self) -> anyhow::Result<Vec<(String, Value)>> {
        documents(&self.elasticsearch, "kafka-logs-filebeat-*").await
    }

    /// Waits until there are this many documents, of which no two have the same message.
    async fn until(&self, count: usize) -> BTreeMap<String, Value> {
        let documents = eventually(&format!("{count} documents"), PATIENCE, EVERY, || async {
            let documents = self.documents().await?;
            let seen = documents.len();
            Ok(if seen >= count { Answer::Is(documents) } else { Answer::NotYet(format!("{seen}")) })
        })
        .await
        .unwrap();
        let found = documents.len();
        let by_message: BTreeMap<String, Value> = documents.into_iter().collect();
        assert_eq!((found, by_message.len()), (count, count), "documents, and different messages");
        by_message
    }
}

/// Lines as Kafka's nodes write them, each with its number.
fn lines(numbers: std::ops::Range<usize>) -> String {
    let mut text = String::new();
    for number in numbers {
        let (second, milli) = (number / 1000 % 60, number % 1000);
        writeln!(
            text,
            "[2026-11-30 10:00:{second:02},{milli:03}] INFO [Broker id=4] line {number} (state.change.logger)"
        )
        .unwrap();
    }
    text
}

/// Where Filebeat does not remember how far it was, it sends all again: that must change nothing.
#[rstest]
#[case::and_it_goes_on_where_it_was(false)]
#[case::and_it_sends_all_again(true)]
#[tokio::test]
async fn every_line_is_found_once_whatever_is_killed_meanwhile(#[case] all_again: bool) {
    let mut logging = Logging::start().await;
    let file = "kafka-broker-1.log";
    logging.append(file, lines(0..500).as_bytes());
    logging.until(500).await;

    kill(&logging.filebeat);
    logging.append(file, lines(500..1500).as_bytes());
    logging.filebeat_again(all_again).await;
    logging.append(file, lines(1500..2000).as_bytes());
    kill(&logging.elasticsearch);
    logging.append(file, lines(2000..3000).as_bytes());
    kill(&logging.filebeat);
    // The file is rotated while nobody looks: what was not read yet is in the old one.
    let (now, old) = (logging.folder.path().join(file), logging.folder.path().join("kafka-broker-1.log.1"));
    std::fs::rename(&now, &old).unwrap();
    logging.append(file, lines(3000..3500).as_bytes());
    logging.filebeat_again(all_again).await;
    logging.elasticsearch.start().await.unwrap();
    answers(&logging.elasticsearch).await;
    logging.append(file, lines(3500..4000).as_bytes());

    logging.until(4000).await;
    // Whatever was sent twice has arrived before a last line of the same file.
    for (number, file) in [(4000, file), (4001, "kafka-broker-1.log.1")] {
        logging.append(file, lines(number..number + 1).as_bytes());
    }
    let found = logging.until(4002).await;
    for line in lines(0..4002).lines() {
        assert!(found.contains_key(line), "missing: {line}");
    }
    let one = &found[lines(1234..1235).trim_end()];
    assert_eq!(one["_source"]["kafka"]["file"], "kafka-broker-1");
    assert_eq!(one["_source"]["@timestamp"], "2026-11-30T10:00:01.234Z", "the line's own time");
    assert_eq!(one["_index"], "kafka-logs-filebeat-2026.11.30");
}

#[tokio::test]
async fn odd_lines_are_kept_whole() {
    let logging = Logging::start().await;
    let trace = "[2026-11-30 10:00:00,001] ERROR Error while appending to demo-0 (kafka.server.LogDirFailureChannel)\n\
                 java.io.IOException: No space left on device\n\tat a.B.c(B.java:7)\nCaused by: x.Y: z";
    let collected = "[2026-11-30T10:00:05.118+0000][gc          ] GC(12) Pause Young (Allocation Failure) 71M->18M(247M) 6.402ms";
    let long = format!("[2026-11-30 10:00:06,000] INFO {} (a.B)", "word ".repeat(200_000));
    let last_year = "[2025-11-30 10:00:00,000] INFO of last year (a.B)";
    let object = r#"[2026-11-30 10:00:07,000] INFO {"host":"text where others have an object"} (a.B)"#;
    for line in [trace, collected, &long, last_year, object] {
        logging.append("kafka-broker-1.log", format!("{line}\n").as_bytes());
    }
    // No date, bytes that are no text, and an empty file.
    logging.append("kafka-broker-2.log", b"cannot open shared archive \xe4\n");
    logging.append("kafka-broker-3.log", b"");
    let found = logging.until(6).await;
    for line in [trace, collected, &long, last_year, object] {
        assert!(found.contains_key(line), "missing: {}", &line[..40]);
    }
    let time = |line: &str| found[line]["_source"]["@timestamp"].as_str().unwrap().to_owned();
    assert_eq!(time(collected), "2026-11-30T10:00:05.118Z");
    assert_eq!(found[last_year]["_index"], "kafka-logs-filebeat-2025.11.30");
    let undated = found.keys().find(|message| message.starts_with("cannot open")).unwrap();
    assert!(undated.contains('\u{fffd}'), "{undated}");
    // A line without its end is not yet a line.
    logging.append("kafka-broker-2.log", b"[2026-11-30 10:00:08,000] INFO half");
    logging.append("kafka-broker-1.log", b"[2026-11-30 10:00:09,000] INFO after it (a.B)\n");
    logging.until(7).await;
    logging.append("kafka-broker-2.log", b" and half (a.B)\n");
    let found = logging.until(8).await;
    assert!(found.contains_key("[2026-11-30 10:00:08,000] INFO half and half (a.B)"));
}

/// What Elasticsearch does with an index when the disk is nearly full.
#[tokio::test]
async fn an_index_that_takes_nothing_holds_lines_back_and_loses_none() {
    let logging = Logging::start().await;
    logging.append("kafka-broker-1.log", lines(0..100).as_bytes());
    logging.until(100).await;
    let url = url(&logging.elasticsearch).await;
    let block = |on: Value| {
        let settings = json!({ "index.blocks.read_only_allow_delete": on });
        ask(http().put(format!("{url}/kafka-logs-filebeat-*/_settings")).json(&settings))
    };
    block(json!(true)).await;
    logging.append("kafka-broker-1.log", lines(100..200).as_bytes());
    eventually("Filebeat is refused", PATIENCE, EVERY, || async {
        let refused = Command::new("docker").args(["logs", logging.filebeat.id()]).output().unwrap();
        let told = support::text(&refused);
        Ok(if told.contains("temporary bulk send failure") {
            Answer::Is(())
        } else {
            Answer::NotYet(told.lines().last().unwrap_or_default().to_owned())
        })
    })
    .await
    .unwrap();
    assert_eq!(logging.documents().await.unwrap().len(), 100);
    block(Value::Null).await;
    logging.until(200).await;
}

/// An index whose time is not asked for is not looked into: then the answer is a good one, of which a part has failed.
#[tokio::test]
async fn a_query_that_makes_no_sense_is_refused_also_beside_old_indices() {
    let id = uuid::Uuid::new_v4().simple().to_string();
    let elasticsearch = elasticsearch(&format!("logs-{id}"), &format!("elasticsearch-{id}")).await;
    let url = url(&elasticsearch).await;
    let now = time::OffsetDateTime::now_utc().format(&time::format_description::well_known::Rfc3339).unwrap();
    for (day, at) in [("2020.01.01", "2020-01-01T00:00:00Z"), ("2026.11.30", now.as_str())] {
        let document = json!({ "@timestamp": at, "message": "one" });
        let index = format!("{url}/kafka-logs-filebeat-{day}/_create/1?refresh=true");
        ask(http().put(index).json(&document)).await;
    }
    let client = Elasticsearch::new(url);
    let asked = |query: &str| {
        json!({
            "size": 10,
            "sort": [{ "@timestamp": "desc" }],
            "query": { "bool": { "filter": [
                { "range": { "@timestamp": { "gte": "now-15m" } } },
                { "query_string": { "query": query } },
            ] } },
        })
    };
    let found = client.search("kafka-logs-filebeat-*", &asked("message:one")).await.unwrap();
    assert_eq!(found["hits"]["hits"].as_array().unwrap().len(), 1);
    let wrong = asked("level:(");
    for refused in [
        client.search("kafka-logs-filebeat-*", &wrong).await,
        client.search_within("kafka-logs-filebeat-*", &wrong, 1 << 20).await,
    ] {
        let why = refused.unwrap_err();
        assert!(why.is::<Refused>() && why.to_string().contains("Failed to parse query"), "{why:#}");
    }
}
