//! The bones of the events lab: records and schemas through one combined node.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use apache_avro::types::Value as Avro;
use rdkafka::ClientConfig;
use rdkafka::producer::{FutureProducer, FutureRecord};
use schema_registry_converter::async_impl::avro::AvroDecoder;
use streamlab::clients::kafka;
use streamlab::clients::schema_registry;

use crate::avro_topic::{AvroTopic, refused};
use crate::exact::exactly_once;
use crate::lab::Lab;
use crate::transactions::new_run;
use crate::trial::{Chapter, Check, Trial};

const TOPICS: [&str; 3] = ["user-events", "application-logs", "system-metrics"];

pub(crate) fn trials(chapter: &Chapter<'_>) -> Vec<Trial> {
    [
        chapter.flow("events-record", Check::plain(|lab| Box::pin(record(lab)))),
        chapter.flow("events-schema", Check::plain(|lab| Box::pin(schema(lab)))),
        chapter.flow("events-commands", Check::plain(|lab| Box::pin(commands(lab)))),
    ]
    .into_iter()
    .flatten()
    .collect()
}

fn producer(lab: &Lab) -> Result<FutureProducer> {
    let mut config = ClientConfig::new();
    Ok(config.set("bootstrap.servers", lab.bootstrap()).set("acks", "all").create()?)
}

/// Writes records with keys; where Kafka said each is.
async fn written(lab: &Lab, topic: &str, run: &str) -> Result<Vec<String>> {
    let producer = producer(lab)?;
    let mut places = Vec::new();
    for number in 0..60 {
        let (key, value) = (format!("key-{}-{run}", number % 6), format!("{number} of {run}"));
        let record = FutureRecord::to(topic).key(&key).payload(&value);
        let at = producer.send(record, Duration::from_secs(10)).await.map_err(|(error, _)| error)?;
        places.push(format!("{key} {value} {}@{}", at.partition, at.offset));
    }
    Ok(places)
}

async fn record(lab: Arc<Lab>) -> Result<String> {
    let run = new_run();
    let mut keys = 0;
    for topic in TOPICS {
        let expected = written(&lab, topic, &run).await?;
        let suffix = format!("-{run}");
        let (found, _) = kafka::read_topic(&lab.bootstrap(), topic, BTreeMap::new(), move |r| {
            r.key_text().ends_with(&suffix).then_some(r)
        })
        .await?;
        let line = |r: &kafka::Record| {
            let (key, value) = (r.key_text(), String::from_utf8_lossy(r.bytes()));
            format!("{key} {value} {}@{}", r.partition, r.offset)
        };
        exactly_once(topic, expected, found.iter().map(line))?;
        let mut partition_of: BTreeMap<&[u8], i32> = BTreeMap::new();
        for record in &found {
            let key = record.key.as_deref().context("a record without its key")?;
            if *partition_of.entry(key).or_insert(record.partition) != record.partition {
                bail!("{topic}: {} is in two partitions", record.key_text());
            }
        }
        keys += partition_of.len();
    }
    Ok(format!("60 records in each of {} topics, {keys} keys", TOPICS.len()))
}

const SCHEMA: &str = r#"{"type":"record","name":"UserEvent","namespace":"streamlab.events","fields":[
    {"name":"userId","type":"string"},{"name":"kind","type":"string"},{"name":"at","type":"long"}]}"#;

async fn schema(lab: Arc<Lab>) -> Result<String> {
    let topic = AvroTopic::new(&lab, "user-events-avro", SCHEMA).await?;
    let (registry, id) = (&topic.registry, topic.schema_id);
    let event = || {
        let text = |value: &str| Avro::String(value.to_owned());
        vec![("userId", text("user_7")), ("kind", text("purchase")), ("at", Avro::Long(1_700_000_000_000))]
    };
    let bytes = topic.encode(event()).await?;
    kafka::write(&lab.bootstrap(), &topic.name, &bytes).await?;
    let (records, _) = kafka::read_topic(&lab.bootstrap(), &topic.name, BTreeMap::new(), Some).await?;
    let [record] = records.as_slice() else { bail!("one record went in, {} came out", records.len()) };
    if record.bytes().get(..5) != Some(&[&[0][..], &id.to_be_bytes()].concat()) {
        bail!("the record does not carry schema id {id}: {:?}", record.bytes());
    }
    let decoder = AvroDecoder::new(schema_registry::settings(registry.url())?);
    let Avro::Record(fields) = decoder.decode(Some(record.bytes())).await?.value else { bail!("no record") };
    let expected: Vec<(String, Avro)> =
        event().into_iter().map(|(name, value)| (name.to_owned(), value)).collect();
    if fields != expected {
        bail!("made {expected:?}, read {fields:?}");
    }
    let incompatible = SCHEMA.replace("\"long\"", "\"boolean\"");
    refused(registry, &topic.subject, &incompatible).await?;
    kafka::delete_topic(&lab.bootstrap(), &topic.name).await?;
    Ok(format!("schema id {id}"))
}

async fn commands(lab: Arc<Lab>) -> Result<String> {
    let node = lab.names_of("kafka").into_iter().next().context("nobody plays kafka")?;
    // The address that holds inside: the published one is the host's.
    let address = lab.plan.fill(&lab.project.file, "{role.kafka}").map_err(|why| anyhow::anyhow!(why))?;
    let listed = lab.exec(&node, &["kafka-topics", "--bootstrap-server", &address, "--list"]).await?;
    for topic in TOPICS {
        if !listed.lines().any(|line| line == topic) {
            bail!("kafka-topics does not list {topic}:\n{listed}");
        }
    }
    let topic = format!("commands-{}", new_run());
    kafka::create_topic(&lab.bootstrap(), &topic, 1).await?;
    let script = format!(
        "echo written-by-kafkas-own-tool | kafka-console-producer --bootstrap-server {address} --topic {topic} && \
         kafka-console-consumer --bootstrap-server {address} --topic {topic} --from-beginning --max-messages 1 --timeout-ms 30000"
    );
    let read = lab.exec(&node, &["bash", "-c", &script]).await?;
    kafka::delete_topic(&lab.bootstrap(), &topic).await?;
    if !read.contains("written-by-kafkas-own-tool") {
        bail!("the record was not read back:\n{read}");
    }
    Ok(String::new())
}
