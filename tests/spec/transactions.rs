//! Producers → Kafka: every acknowledged record is in the topic, once, where Kafka said it is.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use apache_avro::types::Value as Avro;
use schema_registry_converter::async_impl::avro::AvroDecoder;
use streamlab::clients::kafka::{self, Record};
use streamlab::clients::producer::{Order, Progress, produce};
use streamlab::clients::schema_registry::{self, Registered, SchemaRegistry};
use streamlab::probes::{Answer, eventually};
use streamlab::scenarios::transactions::{
    AVRO_TOPIC, JAVA, PYTHON, TOPIC, Totals, Transaction, Transactions,
};
use streamlab::scenarios::{Format, Sequence as _};
use tokio::sync::watch;

use crate::avro_topic::{AvroTopic, refused};
use crate::exact::exactly_once;
use crate::kafka::{inside, kafka_tool};
use crate::lab::Lab;
use crate::trial::{Chapter, Check, PATIENCE, Trial};

pub(crate) type Ledger = streamlab::clients::producer::Ledger<Totals>;

pub(crate) fn trials(chapter: &Chapter<'_>) -> Vec<Trial> {
    [
        chapter.flow("transactions-python", Check::plain(|lab| Box::pin(python(lab)))),
        chapter.flow("transactions-java", Check::plain(|lab| Box::pin(java(lab)))),
        chapter.flow("transactions-avro", Check::plain(|lab| Box::pin(avro(lab)))),
        chapter.flow("schema-rejected", Check::plain(|lab| Box::pin(schema_rejected(lab)))),
    ]
    .into_iter()
    .flatten()
    .collect()
}

/// A suffix that no other run has: totals are exact beside other flows, old data and a live producer.
pub(crate) fn new_run() -> String {
    uuid::Uuid::new_v4().simple().to_string()[..8].to_owned()
}

/// An order for this lab; tests change what they are about.
pub(crate) fn order(lab: &Lab, run: &str, count: u64) -> Order {
    Order {
        bootstrap: lab.bootstrap(),
        registry_url: lab.endpoints.registry_url().unwrap_or_default(),
        profile: PYTHON,
        count: Some(count),
        seed: 42,
        run: Some(run.to_owned()),
        ..Order::default()
    }
}

/// Carries out an order to its end; every record must have been acknowledged.
pub(crate) async fn produced(order: &Order) -> Result<Ledger> {
    let (_stop, never) = watch::channel(false);
    let progress = Arc::new(Progress::default());
    let ledger = produce(order, Transactions::of(order), Arc::clone(&progress), never).await?;
    if Some(ledger.acknowledged) != order.count || !ledger.failed.is_empty() {
        bail!("of {:?} records {} were acknowledged: {:?}", order.count, ledger.acknowledged, ledger.failed);
    }
    if progress.acknowledged.get() != ledger.acknowledged {
        bail!("progress and ledger differ");
    }
    Ok(ledger)
}

/// Waits until consumers may read what a ledger says: with acks 1 the leader acknowledges before its followers have
/// the record, and until they have, no consumer gets it.
async fn readable(lab: &Lab, ledger: &Ledger) -> Result<()> {
    let mut wanted: BTreeMap<i32, i64> = BTreeMap::new();
    for (_, partition, offset) in ledger.records.values() {
        let last = wanted.entry(*partition).or_insert(*offset);
        *last = (*last).max(*offset);
    }
    let question = format!("{} hands out every acknowledged record", ledger.topic);
    eventually(&question, PATIENCE, Duration::from_millis(200), || async {
        let bounds = kafka::offsets(&lab.bootstrap(), &ledger.topic).await?;
        let behind: Vec<_> =
            wanted.iter().filter(|(p, last)| bounds.get(p).is_none_or(|(_, end)| end <= last)).collect();
        Ok(if behind.is_empty() {
            Answer::Is(())
        } else {
            Answer::NotYet(format!("partitions {behind:?} are behind"))
        })
    })
    .await?;
    Ok(())
}

/// The records of a ledger's run in the JSON topic.
pub(crate) async fn read_run(lab: &Lab, ledger: &Ledger, run: &str) -> Result<Vec<(Record, Transaction)>> {
    readable(lab, ledger).await?;
    let suffix = format!("-{run}");
    let (records, _) = kafka::read_topic(&lab.bootstrap(), TOPIC, BTreeMap::new(), move |record| {
        let transaction: Transaction = serde_json::from_slice(record.bytes()).ok()?;
        transaction.merchant_id.ends_with(&suffix).then_some((record, transaction))
    })
    .await?;
    Ok(records)
}

/// The topic holds exactly the ledger's records, each where it was acknowledged, with the generator's content.
pub(crate) fn matches_ledger(ledger: &Ledger, order: &Order, found: &[(Record, Transaction)]) -> Result<()> {
    let line = |id: &str, key: &str, partition: i32, offset: i64| format!("{id} {key} {partition}@{offset}");
    let expected = ledger.records.iter().map(|(id, (key, p, o))| line(id, key, *p, *o));
    let there = found.iter().map(|(r, t)| line(&t.transaction_id, &r.key_text(), r.partition, r.offset));
    exactly_once("records in the topic", expected, there)?;
    let sequence = Transactions::new(order.seed, order.run.as_deref());
    let mut made: BTreeMap<String, Transaction> = (0..order.count.unwrap_or_default())
        .map(|i| sequence.record(i, 0))
        .map(|t| (t.transaction_id.clone(), t))
        .collect();
    for (_, transaction) in found {
        let mut made = made.remove(&transaction.transaction_id).context("not of this sequence")?;
        made.transaction_time = transaction.transaction_time;
        if made != *transaction {
            bail!("made {made:?}, found {transaction:?}");
        }
    }
    if ledger.totals != sequence.totals(order.count.unwrap_or_default()) {
        bail!("the ledger's totals are not the generator's");
    }
    Ok(())
}

/// On every broker; partitions, replicas and settings are a trial of their own.
async fn topic_is_on_every_broker(lab: &Lab) -> Result<()> {
    let shape = kafka::topic_shape(&lab.bootstrap(), TOPIC).await?;
    let brokers = kafka::broker_ids(&lab.bootstrap()).await?;
    if shape.partitions.values().any(|(_, replicas, _)| replicas != &brokers) {
        bail!("{TOPIC} should be on brokers {brokers:?}: {shape:?}");
    }
    Ok(())
}

async fn python(lab: Arc<Lab>) -> Result<String> {
    topic_is_on_every_broker(&lab).await?;
    let run = new_run();
    // As documented: 3 threads of 10 a second.
    let order = Order { rate: Some(10.0), ..order(&lab, &run, 150) };
    let ledger = produced(&order).await?;
    matches_ledger(&ledger, &order, &read_run(&lab, &ledger, &run).await?)?;
    if lab.engine().is_ok() {
        compressed_with(&lab, &ledger, "gzip").await?;
    }
    Ok(format!("{} records in {:.1} s", ledger.acknowledged, ledger.seconds))
}

async fn java(lab: Arc<Lab>) -> Result<String> {
    let run = new_run();
    let order = Order { profile: JAVA, ..order(&lab, &run, 2500) };
    let ledger = produced(&order).await?;
    matches_ledger(&ledger, &order, &read_run(&lab, &ledger, &run).await?)?;
    compressed_with(&lab, &ledger, "snappy").await?;
    read_by_console_consumer(&lab, &ledger).await?;
    partitioned_as_kafkas_own_client(&lab, &ledger, &run).await?;
    Ok(format!("{} records; 100 keys partitioned alike", ledger.acknowledged))
}

/// The batches that hold the ledger's records, as the leader's log has them, are compressed with `codec`.
async fn compressed_with(lab: &Lab, ledger: &Ledger, codec: &str) -> Result<()> {
    let shape = kafka::topic_shape(&lab.bootstrap(), TOPIC).await?;
    let (_, (_, partition, offset)) = ledger.records.iter().next().context("an empty ledger")?;
    let leader = shape.partitions.get(partition).context("no such partition")?.0;
    let file = format!("/var/lib/kafka/data/log/{TOPIC}-{partition}/00000000000000000000.log");
    // Node ids count on from the controllers'.
    let ids = kafka::broker_ids(&lab.bootstrap()).await?;
    let at = ids.iter().position(|id| *id == leader).context("its leader is no broker")?;
    let broker = lab.names_of("kafka").into_iter().nth(at).context("no such broker")?;
    let dump = lab.exec(&broker, &["/opt/kafka/bin/kafka-dump-log.sh", "--files", &file]).await?;
    let number = |line: &str, name: &str| -> Option<i64> {
        line.split_once(&format!("{name}: "))?.1.split_whitespace().next()?.parse().ok()
    };
    let batch = dump.lines().find(|l| {
        number(l, "baseOffset").is_some_and(|b| b <= *offset)
            && number(l, "lastOffset").is_some_and(|e| e >= *offset)
    });
    let batch = batch.with_context(|| format!("no batch of {file} holds offset {offset}"))?;
    if !batch.to_lowercase().contains(&format!("compresscodec: {codec}")) {
        bail!("documented is {codec}: {batch}");
    }
    Ok(())
}

/// Read back by a client that is not ours.
async fn read_by_console_consumer(lab: &Lab, ledger: &Ledger) -> Result<()> {
    let mut ranges: BTreeMap<i32, (i64, i64)> = BTreeMap::new();
    for (_, partition, offset) in ledger.records.values() {
        let range = ranges.entry(*partition).or_insert((*offset, *offset));
        *range = (range.0.min(*offset), range.1.max(*offset));
    }
    let mut found = Vec::new();
    for (partition, (first, last)) in ranges {
        let (partition, first, count) =
            (partition.to_string(), first.to_string(), (last - first + 1).to_string());
        let arguments = [
            "--topic",
            TOPIC,
            "--partition",
            &partition,
            "--offset",
            &first,
            "--max-messages",
            &count,
            "--timeout-ms",
            "30000",
        ];
        let text = kafka_tool(lab, 1, "kafka-console-consumer.sh", &arguments).await?;
        found.extend(text.lines().filter_map(|l| serde_json::from_str::<Transaction>(l).ok()));
    }
    // Others write into the same partitions meanwhile.
    let ours = found.into_iter().map(|t| t.transaction_id).filter(|id| ledger.records.contains_key(id));
    exactly_once("records that Kafka's console consumer reads", ledger.records.keys().cloned(), ours)
}

/// The java profile puts a key where Kafka's own producer puts it.
async fn partitioned_as_kafkas_own_client(lab: &Lab, ledger: &Ledger, run: &str) -> Result<()> {
    let ours: BTreeMap<&str, i32> = ledger.records.values().map(|(key, p, _)| (key.as_str(), *p)).collect();
    if ours.len() != 100 {
        bail!("the run should have every one of the 100 keys, it has {}", ours.len());
    }
    let topic = format!("keys-{run}");
    kafka::create_topic(&lab.bootstrap(), &topic, 5).await?;
    let keys = ours.keys().map(|k| format!("{k}:x")).collect::<Vec<_>>().join("\\n");
    let broker = lab.names_of("kafka").into_iter().nth(2).context("no third broker")?;
    let server = inside(lab, &broker, "local")?;
    let script = format!(
        "printf '{keys}\\n' | /opt/kafka/bin/kafka-console-producer.sh --bootstrap-server {server} --topic {topic} \
         --property parse.key=true --property key.separator=:"
    );
    lab.exec(&broker, &["bash", "-c", &script]).await?;
    let (records, _) = kafka::read_topic(&lab.bootstrap(), &topic, BTreeMap::new(), Some).await?;
    kafka::delete_topic(&lab.bootstrap(), &topic).await?;
    let theirs = records.iter().map(|r| format!("{} in {}", r.key_text(), r.partition));
    exactly_once("keys by partition", ours.iter().map(|(key, p)| format!("{key} in {p}")), theirs)
}

async fn avro(lab: Arc<Lab>) -> Result<String> {
    let run = new_run();
    let order = Order { format: Format::Avro, ..order(&lab, &run, 300) };
    let ledger = produced(&order).await?;
    let ids = decoded_run(&lab, &ledger, &order).await?;
    let registry = SchemaRegistry::new(lab.endpoints.registry_url()?);
    let file = lab.project.root.join("schemas/transactions/financial_transactions_avro-value/v1.avsc");
    let Registered::Id(id) =
        registry.register(&format!("{AVRO_TOPIC}-value"), &std::fs::read_to_string(file)?).await?
    else {
        bail!("the registered schema is refused");
    };
    if ids != BTreeSet::from([id]) {
        bail!("records carry schema ids {ids:?}, registered is {id}");
    }
    Ok(format!("{} records with schema id {id}", ledger.acknowledged))
}

/// Every Avro record of a ledger is in the topic once and decodes to what was made; gives the schema ids seen.
pub(crate) async fn decoded_run(lab: &Lab, ledger: &Ledger, order: &Order) -> Result<BTreeSet<u32>> {
    readable(lab, ledger).await?;
    let wanted: BTreeSet<(i32, i64)> = ledger.records.values().map(|(_, p, o)| (*p, *o)).collect();
    let (records, _) = kafka::read_topic(&lab.bootstrap(), AVRO_TOPIC, BTreeMap::new(), move |r| {
        wanted.contains(&(r.partition, r.offset)).then_some(r)
    })
    .await?;
    let decoder = AvroDecoder::new(schema_registry::settings(lab.endpoints.registry_url()?)?);
    let sequence = Transactions::new(order.seed, order.run.as_deref());
    let made: BTreeMap<String, Transaction> = (0..order.count.unwrap_or_default())
        .map(|i| sequence.record(i, 0))
        .map(|t| (t.transaction_id.clone(), t))
        .collect();
    let mut ids = BTreeSet::new();
    let mut found = Vec::new();
    for record in records {
        let [0, a, b, c, d, ..] = record.bytes()[..] else {
            bail!("no Confluent wire format: {:?}", record.bytes())
        };
        ids.insert(u32::from_be_bytes([a, b, c, d]));
        let Avro::Record(fields) = decoder.decode(Some(record.bytes())).await?.value else {
            bail!("no record")
        };
        let text = |name: &str| match fields.iter().find(|(n, _)| n == name) {
            Some((_, Avro::String(text))) => text.clone(),
            _ => String::new(),
        };
        let made = made.get(&text("transactionId")).context("not of this sequence")?;
        let mut expected = Transactions::avro(made);
        let time = fields.iter().find(|(n, _)| n == "transactionTime").map(|(_, v)| v.clone());
        for (name, value) in &mut expected {
            if *name == "transactionTime" {
                *value = time.clone().context("no time")?;
            }
            let there = fields.iter().find(|(n, _)| n == name).map(|(_, v)| v);
            if there.map(plain) != Some(plain(value)) {
                bail!("{name}: made {value:?}, found {there:?}");
            }
        }
        found.push(text("transactionId"));
    }
    exactly_once("Avro records in the topic", ledger.records.keys().cloned(), found)?;
    Ok(ids)
}

/// A decimal compares by its number: leading zero bytes say nothing.
fn plain(value: &Avro) -> String {
    match value {
        Avro::Decimal(decimal) => {
            let bytes = Vec::<u8>::try_from(decimal).unwrap_or_default();
            bytes.iter().fold(0_u64, |n, b| (n << 8) | u64::from(*b)).to_string()
        }
        other => format!("{other:?}"),
    }
}

const REQUIRED: &str = r#"{"type":"record","name":"Order","fields":[{"name":"id","type":"string"},{"name":"amount","type":"long"}]}"#;
/// A new field without a default: old records could not be read with it.
const INCOMPATIBLE: &str = r#"{"type":"record","name":"Order","fields":[{"name":"id","type":"string"},{"name":"amount","type":"long"},{"name":"country","type":"string"}]}"#;
const COMPATIBLE: &str = r#"{"type":"record","name":"Order","fields":[{"name":"id","type":"string"},{"name":"amount","type":"long"},{"name":"country","type":"string","default":"?"}]}"#;

async fn schema_rejected(lab: Arc<Lab>) -> Result<String> {
    let registry = SchemaRegistry::new(lab.endpoints.registry_url()?);
    // The documented subject: BACKWARD, and nothing incompatible gets in.
    let subject = format!("{AVRO_TOPIC}-value");
    let level = registry.subject_compatibility(&subject).await?;
    if level != "BACKWARD" {
        bail!("{subject} has compatibility {level}, documented is BACKWARD");
    }
    let versions = registry.versions(&subject).await?;
    refused(&registry, &subject, INCOMPATIBLE).await?;
    if registry.versions(&subject).await? != versions {
        bail!("the refused schema became a version of {subject}");
    }
    // A topic of its own: its end offsets are nobody else's.
    let topic = AvroTopic::new(&lab, "orders", REQUIRED).await?;
    let value = topic.encode(vec![("id", Avro::String("1".into())), ("amount", Avro::Long(7))]).await?;
    kafka::write(&lab.bootstrap(), &topic.name, &value).await?;
    let before = kafka::offsets(&lab.bootstrap(), &topic.name).await?;
    if before.values().map(|(_, end)| end).sum::<i64>() != 1 {
        bail!("the valid record did not reach the topic: {before:?}");
    }
    refused(&topic.registry, &topic.subject, INCOMPATIBLE).await?;
    if let Ok(bytes) = topic.encode(vec![("id", Avro::String("2".into()))]).await {
        kafka::write(&lab.bootstrap(), &topic.name, &bytes).await?;
        bail!("a record without the required field amount was encoded: {bytes:?}");
    }
    let after = kafka::offsets(&lab.bootstrap(), &topic.name).await?;
    if after != before {
        bail!("the end offsets moved: {before:?} → {after:?}");
    }
    // The refusal was about compatibility, and not a refusal of everything.
    let Registered::Id(_) = topic.registry.register(&topic.subject, COMPATIBLE).await? else {
        bail!("a compatible schema is refused too");
    };
    kafka::delete_topic(&lab.bootstrap(), &topic.name).await?;
    Ok("409 for a required field without a default; accepted with one".to_owned())
}
