//! `pipeline`, which stands in Logstash's place, with the real Elasticsearch and the real Filebeat: every line and record is one
//! document, or a dead letter, whatever is killed meanwhile and whatever they hold.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test that cannot go on has failed")]

mod support;

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs::{OpenOptions, Permissions};
use std::io::Write as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;
use std::process::Command;

use serde_json::{Value, json};
use streamlab::clients::http;
use streamlab::probes::{Answer, eventually};
use support::search::{EVERY, answers, documents, elasticsearch, image, kill};
use support::service::PATIENCE;
use support::{root, text};
use testcontainers::core::{ContainerPort, Mount};
use testcontainers::runners::AsyncRunner as _;
use testcontainers::{ContainerAsync, ContainerRequest, GenericImage, ImageExt as _};
use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpStream;

const LOGS: &str = "/usr/logs";
const DATA: &str = "/usr/share/logstash/data";

/// Elasticsearch, a folder of log files, and a pipeline that knows both.
struct Lab {
    elasticsearch: ContainerAsync<GenericImage>,
    network: String,
    id: String,
    folder: tempfile::TempDir,
}

impl Lab {
    async fn start() -> Self {
        let id = uuid::Uuid::new_v4().simple().to_string();
        let network = format!("pipeline-{id}");
        let elasticsearch = elasticsearch(&network, &format!("elasticsearch-{id}")).await;
        let folder = tempfile::tempdir().unwrap();
        for name in ["logs", "files"] {
            std::fs::create_dir(folder.path().join(name)).unwrap();
        }
        std::fs::set_permissions(folder.path(), Permissions::from_mode(0o755)).unwrap();
        Self { elasticsearch, network, id, folder }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn pipeline_name(&self) -> String {
        format!("pipeline-{}", self.id)
    }

    /// A pipeline of one file; it may end at once.
    async fn pipeline(&self, file: &str) -> ContainerAsync<GenericImage> {
        std::fs::write(self.path("files/a.conf"), file).unwrap();
        let list = "- pipeline.id: a\n  path.config: /usr/share/logstash/pipeline/a.conf\n";
        std::fs::write(self.path("pipelines.yml"), list).unwrap();
        let mount = |from: &str, to: &str| Mount::bind_mount(self.path(from).to_str().unwrap(), to);
        let pipeline = image("pipeline").await.with_exposed_port(ContainerPort::Tcp(5000));
        pipeline
            .with_exposed_port(ContainerPort::Tcp(9600))
            .with_network(&self.network)
            .with_container_name(self.pipeline_name())
            .with_mount(mount("logs", LOGS))
            .with_mount(mount("files", "/usr/share/logstash/pipeline"))
            .with_mount(mount("pipelines.yml", "/usr/share/logstash/config/pipelines.yml"))
            .with_env_var("LOGS", LOGS)
            .with_env_var("ELASTICSEARCH_URL", format!("http://elasticsearch-{}:9200", self.id))
            .start()
            .await
            .unwrap()
    }

    /// What the pipeline says of itself.
    async fn counters(pipeline: &ContainerAsync<GenericImage>) -> anyhow::Result<Value> {
        // It has another port after it was started again.
        let port = pipeline.get_host_port_ipv4(9600).await?;
        let page: Value = http().get(format!("http://127.0.0.1:{port}/")).send().await?.json().await?;
        Ok(page["pipelines"]["a"].clone())
    }

    /// Waits until it holds what it has read and cannot write.
    async fn until_it_holds(pipeline: &ContainerAsync<GenericImage>, read: u64) {
        eventually("it holds what it cannot write", PATIENCE, EVERY, || async {
            let counters = Self::counters(pipeline).await?;
            let holds = counters["read"].as_u64() > Some(read) && counters["trouble"].is_string();
            Ok(if holds { Answer::Is(()) } else { Answer::NotYet(counters.to_string()) })
        })
        .await
        .unwrap();
    }

    fn append(&self, file: &str, bytes: &[u8]) {
        let path = self.path("logs").join(file);
        OpenOptions::new().create(true).append(true).open(path).unwrap().write_all(bytes).unwrap();
    }

    /// Waits until there are so many documents.
    async fn until(&self, indices: &str, count: usize) -> Vec<(String, Value)> {
        eventually(&format!("{count} documents"), PATIENCE, EVERY, || async {
            let documents = documents(&self.elasticsearch, indices).await?;
            let seen = documents.len();
            Ok(if seen >= count { Answer::Is(documents) } else { Answer::NotYet(format!("{seen}")) })
        })
        .await
        .unwrap()
    }

    /// The same, and every line is one of them.
    async fn until_these(&self, indices: &str, lines: &str) -> BTreeMap<String, Value> {
        let count = lines.lines().count();
        let documents = self.until(indices, count).await;
        let found = documents.len();
        let by_message: BTreeMap<String, Value> = documents.into_iter().collect();
        assert_eq!((found, by_message.len()), (count, count), "documents, and different messages");
        for line in lines.lines() {
            assert!(by_message.contains_key(line), "missing: {line}");
        }
        by_message
    }
}

fn lines(numbers: std::ops::Range<usize>) -> String {
    let mut text = String::new();
    for number in numbers {
        let (second, milli) = (number / 1000 % 60, number % 1000);
        writeln!(
            text,
            "[2026-11-30 10:00:{second:02},{milli:03}] INFO [main] line {number} (state.change.logger)"
        )
        .unwrap();
    }
    text
}

fn of_the_lab(file: &str) -> String {
    std::fs::read_to_string(root().join("monitoring/logstash/pipeline").join(file)).unwrap()
}

#[tokio::test]
async fn every_line_of_a_file_is_one_document_whatever_is_killed_meanwhile() {
    let lab = Lab::start().await;
    let file = "kafka-broker-1.log";
    lab.append(file, lines(0..500).as_bytes());
    let pipeline = lab.pipeline(&of_the_lab("kafka-logs.conf")).await;
    let indices = "kafka-logs-logstash-*";
    lab.until(indices, 500).await;

    kill(&pipeline);
    lab.append(file, lines(500..1500).as_bytes());
    pipeline.start().await.unwrap();
    lab.append(file, lines(1500..2000).as_bytes());
    lab.until(indices, 1500).await;
    kill(&lab.elasticsearch);
    lab.append(file, lines(2000..3000).as_bytes());
    Lab::until_it_holds(&pipeline, 0).await;
    kill(&pipeline);
    let (now, old) = (lab.path("logs").join(file), lab.path("logs").join("kafka-broker-1.log.1"));
    std::fs::rename(&now, &old).unwrap();
    lab.append(file, lines(3000..3500).as_bytes());
    pipeline.start().await.unwrap();
    lab.elasticsearch.start().await.unwrap();
    answers(&lab.elasticsearch).await;
    lab.append(file, lines(3500..4000).as_bytes());

    lab.until(indices, 4000).await;
    // Whatever was read twice has been written before a last line.
    lab.append(file, lines(4000..4001).as_bytes());
    let found = lab.until_these(indices, &lines(0..4001)).await;
    let one = &found[lines(1234..1235).trim_end()];
    assert_eq!(one["_source"]["node"], "kafka-broker-1");
    assert_eq!(one["_source"]["@timestamp"], "2026-11-30T10:00:01.234Z");
    assert_eq!(one["_index"], "kafka-logs-logstash-2026.11.30");
    // The place of every file is forgotten: all is read again, and changes nothing.
    let forget = ["exec", pipeline.id(), "rm", &format!("{DATA}/kafka-logs.sincedb")];
    assert!(Command::new("docker").args(forget).output().unwrap().status.success());
    kill(&pipeline);
    pipeline.start().await.unwrap();
    lab.append(file, lines(4001..4002).as_bytes());
    lab.until_these(indices, &lines(0..4002)).await;
    // The last line of the rotated file waits a second for lines that belong to it, and is written after the others.
    let counted = eventually("every line was there already", PATIENCE, EVERY, || async {
        let counters = Lab::counters(&pipeline).await?;
        let there = counters["there_already"] == 4001;
        Ok(if there { Answer::Is(counters) } else { Answer::NotYet(counters.to_string()) })
    });
    assert_eq!(counted.await.unwrap()["written"], 1);
}

const SENDS: &str = r#"
filebeat.inputs:
  - type: filestream
    id: lines
    paths: ["/usr/logs/*.log"]
output.logstash:
  hosts: ["${PIPELINE}:5044"]
  bulk_max_size: 200
setup.template.enabled: false
setup.ilm.enabled: false
logging.level: warning
"#;

const RECEIVES: &str = r#"
input { beats { port => 5044 } }
output { elasticsearch { hosts => ["${ELASTICSEARCH_URL}"] index => "dev-logs-index" } }
"#;

#[tokio::test]
async fn a_real_filebeat_is_told_only_of_what_is_written() {
    let lab = Lab::start().await;
    let pipeline = lab.pipeline(RECEIVES).await;
    std::fs::write(lab.path("filebeat.yml"), SENDS).unwrap();
    lab.append("a.log", lines(0..1000).as_bytes());
    let filebeat: ContainerRequest<GenericImage> = image("filebeat").await.into();
    let mount = |from: &str, to: &str| Mount::bind_mount(lab.path(from).to_str().unwrap(), to);
    let _filebeat = filebeat
        .with_network(&lab.network)
        .with_mount(mount("logs", LOGS))
        .with_mount(mount("filebeat.yml", "/opt/filebeat.yml"))
        .with_env_var("PIPELINE", lab.pipeline_name())
        .with_cmd(["-e", "--strict.perms=false", "-c", "/opt/filebeat.yml"])
        .start()
        .await
        .unwrap();
    let found = lab.until_these("dev-logs-index", &lines(0..1000)).await;
    let one = &found[lines(7..8).trim_end()]["_source"];
    assert_eq!(one["log"]["file"]["path"], "/usr/logs/a.log");
    assert_eq!(one["@metadata"], Value::Null);

    // Elasticsearch goes first: what is received waits, is not acknowledged, and is sent again to the pipeline that comes back.
    kill(&lab.elasticsearch);
    lab.append("a.log", lines(1000..2500).as_bytes());
    Lab::until_it_holds(&pipeline, 1000).await;
    kill(&pipeline);
    pipeline.start().await.unwrap();
    lab.elasticsearch.start().await.unwrap();
    answers(&lab.elasticsearch).await;
    lab.append("a.log", lines(2500..2600).as_bytes());
    lab.until("dev-logs-index", 2600).await;
    lab.append("a.log", lines(2600..2601).as_bytes());
    lab.until_these("dev-logs-index", &lines(0..2601)).await;
}

const TAKES: &str = r#"
input { tcp { port => 5000 } }
filter {
  json { source => "message" }
  date { match => ["timestamp", "ISO8601"] }
  if [host] and ![host][name] { mutate { rename => { "host" => "[host][name]" } } }
}
output { elasticsearch { hosts => ["${ELASTICSEARCH_URL}"] index => "dev-logs-index" } }
"#;

#[tokio::test]
async fn odd_records_are_kept_and_what_elasticsearch_refuses_is_a_dead_letter() {
    let lab = Lab::start().await;
    let pipeline = lab.pipeline(TAKES).await;
    let fields: BTreeMap<String, Value> = (0..10_000).map(|n| (format!("field{n}"), json!(n))).collect();
    let records = [
        json!({ "message": "many fields", "inside": fields }),
        json!({ "message": "a long one", "text": "word ".repeat(200_000) }),
        json!({ "message": "a number that is none", "number": "many" }),
        json!({ "message": "a host that is a text", "host": "web-1" }),
        json!({ "message": "last year", "timestamp": "2025-11-30T10:00:00Z" }),
        json!({ "message": "in ten years", "timestamp": "2036-11-30T10:00:00Z" }),
        json!({ "message": "no time", "timestamp": "2026-13-45" }),
        // A service is a word: Elasticsearch has no place for this one.
        json!({ "message": "refused", "service": { "name": "a" } }),
    ];
    let mut stream = {
        let port = pipeline.get_host_port_ipv4(5000).await.unwrap();
        eventually("the port is open", PATIENCE, EVERY, || async {
            Ok(Answer::Is(TcpStream::connect(("127.0.0.1", port)).await?))
        })
        .await
        .unwrap()
    };
    for record in &records {
        stream.write_all(format!("{record}\n").as_bytes()).await.unwrap();
    }
    stream.write_all(b"no JSON, and no text: \xe4\n\n[1, 2]\nwithout its end").await.unwrap();
    stream.shutdown().await.unwrap();
    // All but the refused one; an empty line is a line.
    let found = lab.until("dev-logs-index", records.len() - 1 + 4).await;
    assert_eq!(found.len(), records.len() - 1 + 4);
    let by_message: BTreeMap<String, Value> = found.into_iter().collect();
    let source = |message: &str| &by_message[message]["_source"];
    assert_eq!(source("no JSON, and no text: \\xE4")["tags"], json!(["_jsonparsefailure"]));
    assert_eq!(source("[1, 2]")["tags"], json!(["_jsonparsefailure"]));
    assert_eq!(source("without its end")["message"], "without its end");
    assert_eq!(source("last year")["@timestamp"], "2025-11-30T10:00:00.000Z");
    assert_eq!(source("in ten years")["@timestamp"], "2036-11-30T10:00:00.000Z");
    assert_eq!(source("no time")["tags"], json!(["_dateparsefailure"]));
    assert_eq!(source("a host that is a text")["host"], json!({ "name": "web-1" }));
    let read = ["exec", pipeline.id(), "cat", &format!("{DATA}/dead-letters-a.ndjson")];
    let letters = Command::new("docker").args(read).output().unwrap();
    let letters = String::from_utf8(letters.stdout).unwrap();
    let letter: Value = serde_json::from_str(letters.trim_end()).expect("one letter");
    assert_eq!(letter["document"]["message"], "refused");
    assert!(letter["reason"].as_str().unwrap().contains("mapper_parsing_exception"), "{letter}");
}

#[tokio::test]
async fn a_file_with_a_mistake_ends_it_before_anything_is_read() {
    let lab = Lab::start().await;
    lab.append("kafka-broker-1.log", lines(0..10).as_bytes());
    let wrong =
        of_the_lab("kafka-logs.conf").replace("  date {\n", "  geoip { source => \"ip\" }\n  date {\n");
    let line = wrong.lines().position(|line| line.contains("geoip")).unwrap() + 1;
    let pipeline = lab.pipeline(&wrong).await;
    let told = eventually("its end", PATIENCE, EVERY, || async {
        let format = "{{.State.Running}} {{.State.ExitCode}}";
        let state = Command::new("docker").args(["inspect", "--format", format, pipeline.id()]).output()?;
        let state = text(&state);
        Ok(if state.trim() == "false 1" { Answer::Is(()) } else { Answer::NotYet(state) })
    });
    told.await.unwrap();
    let told = text(&Command::new("docker").args(["logs", pipeline.id()]).output().unwrap());
    let says = format!(
        "/usr/share/logstash/pipeline/a.conf: line {line}: no filter geoip here; known are grok, date, mutate, json and drop"
    );
    assert!(told.contains(&says), "{told}");
    assert!(!told.contains("listening"), "{told}");
    assert_eq!(documents(&lab.elasticsearch, "*").await.unwrap().len(), 0);
}
