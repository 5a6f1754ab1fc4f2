//! One real service at a time, below the spec: our images keep the upstream contract, our clients read what they say.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test that cannot go on has failed")]

mod support;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt as _;
use rdkafka::consumer::{BaseConsumer, Consumer, StreamConsumer};
use rdkafka::producer::{FutureProducer, FutureRecord};
use rdkafka::{ClientConfig, Message, Offset, TopicPartitionList};
use rstest::rstest;
use schema_registry_converter::async_impl::avro::AvroEncoder;
use schema_registry_converter::schema_registry_common::SubjectNameStrategy;
use serde_json::json;
use streamlab::clients::schema_registry::{self, Registered, SchemaRegistry};
use streamlab::clients::{kafka, producer};
use streamlab::engine::{Engine, recipe_images};
use streamlab::probes::{Answer, eventually};
use streamlab::project::Project;
use streamlab::scenarios::transactions::{AGGREGATES_TOPIC, TOPIC};
use streamlab::services::metrics::{Buckets, Registry, Topic};
use support::service::{PATIENCE, Service};
use support::{engine_with, lab, text};
use testcontainers::core::{ContainerPort, WaitFor};
use testcontainers::runners::AsyncRunner;
use testcontainers::{ContainerAsync, GenericImage, ImageExt};
use testcontainers_modules::kafka::apache;

/// `name` and `tag` of a recipe's image.
fn reference(project: &Project, engine: &Engine, recipe: &str) -> (String, String) {
    let images = recipe_images(project, &engine.arch).unwrap();
    let image = images.into_iter().find(|i| i.name == recipe).unwrap();
    let (name, tag) = image.reference.rsplit_once(':').unwrap();
    (name.to_owned(), tag.to_owned())
}

/// testcontainers-modules' Kafka knows nothing of this project: it starts our image as it starts apache/kafka, by
/// its entry point, paths, user and environment.
async fn kafka_module() -> (ContainerAsync<apache::Kafka>, String) {
    let (project, engine) = engine_with(&["kafka"]).await;
    let (name, tag) = reference(&project, &engine, "kafka");
    let node = apache::Kafka::default().with_jvm_image().with_name(name).with_tag(tag).start().await.unwrap();
    let port = node.get_host_port_ipv4(apache::KAFKA_PORT).await.unwrap();
    (node, format!("127.0.0.1:{port}"))
}

#[tokio::test]
async fn the_kafka_image_keeps_the_contract_that_testcontainers_modules_expects() {
    let (_node, bootstrap) = kafka_module().await;
    let producer: FutureProducer = ClientConfig::new().set("bootstrap.servers", &bootstrap).create().unwrap();
    for n in 0..20 {
        let value = format!("value {n}");
        let record = FutureRecord::to("contract").key("k").payload(&value);
        producer.send(record, PATIENCE).await.unwrap();
    }
    let consumer: StreamConsumer = ClientConfig::new()
        .set("bootstrap.servers", &bootstrap)
        .set("group.id", "contract")
        .set("auto.offset.reset", "earliest")
        .create()
        .unwrap();
    consumer.subscribe(&["contract"]).unwrap();
    let read = consumer
        .stream()
        .take(20)
        .map(|m| String::from_utf8(m.unwrap().payload().unwrap().to_vec()).unwrap());
    let values: Vec<String> = tokio::time::timeout(PATIENCE, read.collect()).await.unwrap();
    assert_eq!(values, (0..20).map(|n| format!("value {n}")).collect::<Vec<_>>());
}

#[tokio::test]
async fn our_kafka_client_reads_what_one_broker_says() {
    let (_node, bootstrap) = kafka_module().await;
    assert_eq!(kafka::cluster_id(&bootstrap).await.unwrap(), apache::DEFAULT_CLUSTER_ID);
    assert!(kafka::offsets(&bootstrap, "nowhere").await.is_err(), "asking for a topic must not make it");
    assert!(kafka::topic_shape(&bootstrap, "nowhere").await.is_err());
    // One broker cannot hold three replicas: its own answer comes through.
    let refusal = kafka::create_topic(&bootstrap, "three-replicas", 1).await.unwrap_err();
    assert!(format!("{refusal:#}").contains("InvalidReplicationFactor"), "{refusal:#}");
    let spec = kafka::TopicSpec {
        name: "small",
        partitions: 2,
        replication: 1,
        settings: &[("retention.ms", "60000")],
    };
    for _ in 0..2 {
        // The second time it is there already, which is fine.
        kafka::create_topics(&bootstrap, std::slice::from_ref(&spec)).await.unwrap();
    }
    eventually("the topic can be used", PATIENCE, Duration::from_millis(200), || async {
        kafka::write_and_read(&bootstrap, "small").await.map(Answer::Is)
    })
    .await
    .unwrap();
    assert_eq!(kafka::topic_setting(&bootstrap, "small", "retention.ms").await.unwrap(), "60000");
    let (records, ends) = kafka::read_topic(&bootstrap, "small", BTreeMap::new(), Some).await.unwrap();
    assert_eq!(records.len() as i64, ends.values().sum::<i64>());
    // From the end on there is nothing, and that is an answer.
    let (more, _) = kafka::read_topic(&bootstrap, "small", ends, Some).await.unwrap();
    assert!(more.is_empty());
}

async fn registry() -> (ContainerAsync<GenericImage>, SchemaRegistry) {
    let (project, engine) = engine_with(&["schema-registry"]).await;
    let (name, tag) = reference(&project, &engine, "schema-registry");
    let image = GenericImage::new(name, tag)
        .with_exposed_port(ContainerPort::Tcp(8081))
        .with_wait_for(WaitFor::message_on_stdout("ready on port 8081"));
    let container = image.start().await.unwrap();
    let port = container.get_host_port_ipv4(8081).await.unwrap();
    (container, SchemaRegistry::new(format!("http://127.0.0.1:{port}")))
}

fn docker(arguments: &[&str]) {
    let output = std::process::Command::new("docker").args(arguments).output().unwrap();
    println!("docker {arguments:?}: {}", text(&output));
}

/// Killed when a tenth of an empty database's bytes are there: what it finds at its next start must be a whole one.
#[tokio::test]
async fn a_registry_that_is_killed_in_its_first_moments_starts_again() {
    let (project, engine) = engine_with(&["schema-registry"]).await;
    let (name, tag) = reference(&project, &engine, "schema-registry");
    let image = GenericImage::new(name, tag).with_exposed_port(ContainerPort::Tcp(8081));
    let container = image.start().await.unwrap();
    let id = container.id();
    // Inside, since the moment is a short one. -1 is everything but tini, which ends with what it started.
    let script = "until [ \"$(stat -c %s /var/lib/schema-registry/registry.mv.db 2>/dev/null || echo 0)\" -ge 60000 ]; do :; done; kill -9 -1";
    docker(&["exec", id, "timeout", "60", "sh", "-c", script]);
    let ended = || async {
        let running = container.is_running().await?;
        Ok(if running { Answer::NotYet("it runs".to_owned()) } else { Answer::Is(()) })
    };
    eventually("it was killed", PATIENCE, Duration::from_millis(100), ended).await.unwrap();
    docker(&["start", id]);
    let port = container.get_host_port_ipv4(8081).await.unwrap();
    let registry = SchemaRegistry::new(format!("http://127.0.0.1:{port}"));
    let subjects = || async { Ok(Answer::Is(registry.subjects().await?)) };
    let found = eventually("it answers", PATIENCE, Duration::from_millis(200), subjects).await.unwrap();
    assert!(found.is_empty());
}

const ONE: &str = r#"{"type":"record","name":"R","fields":[{"name":"id","type":"string"}]}"#;

#[tokio::test]
async fn the_registry_answers_confluents_api_at_the_root() {
    let (_container, registry) = registry().await;
    assert!(registry.subjects().await.unwrap().is_empty());
    registry.set_compatibility("BACKWARD").await.unwrap();
    let Registered::Id(id) = registry.register("a-value", ONE).await.unwrap() else { panic!("refused") };
    assert_eq!(
        registry.register("a-value", ONE).await.unwrap(),
        Registered::Id(id),
        "the same schema, the same id"
    );
    assert_eq!(registry.versions("a-value").await.unwrap(), [1]);
    let schema: serde_json::Value = serde_json::from_str(&registry.schema(id).await.unwrap()).unwrap();
    assert_eq!(schema, serde_json::from_str::<serde_json::Value>(ONE).unwrap());
    // The global level holds for a subject without one of its own.
    let changed = ONE.replace("\"string\"", "\"long\"");
    let Registered::Incompatible(body) = registry.register("a-value", &changed).await.unwrap() else {
        panic!("accepted")
    };
    assert_eq!(serde_json::from_str::<serde_json::Value>(&body).unwrap()["error_code"], 409);
    registry.set_subject_compatibility("a-value", "NONE").await.unwrap();
    assert_eq!(registry.subject_compatibility("a-value").await.unwrap(), "NONE");
    assert!(
        matches!(registry.register("a-value", &changed).await.unwrap(), Registered::Id(other) if other != id)
    );
}

#[tokio::test]
async fn an_encoder_asks_the_registry_through_our_settings() {
    let (_container, registry) = registry().await;
    let Registered::Id(id) = registry.register("a-value", ONE).await.unwrap() else { panic!("refused") };
    let encoder = AvroEncoder::new(schema_registry::settings(registry.url()).unwrap());
    let strategy = SubjectNameStrategy::TopicNameStrategy("a".to_owned(), false);
    let value = vec![("id", apache_avro::types::Value::String("1".to_owned()))];
    let bytes = encoder.encode(value, strategy).await.unwrap();
    assert_eq!(bytes[..5], [&[0][..], &id.to_be_bytes()].concat());
}

#[rstest]
#[case::not_avro("nonsense")]
#[case::empty("")]
#[case::no_fields(r#"{"type":"record","name":"R"}"#)]
#[tokio::test]
async fn the_registry_refuses_what_is_no_schema(#[case] schema: &str) {
    let (_container, registry) = registry().await;
    let error = registry.register("bad-value", schema).await.unwrap_err().to_string();
    assert!(error.contains("422"), "{error}");
    assert!(registry.subjects().await.unwrap().is_empty());
}

/// A message with a key, so that it keeps its order.
async fn keyed(producer: &FutureProducer, topic: &str, key: &str, value: &serde_json::Value) {
    let value = value.to_string();
    producer.send(FutureRecord::to(topic).key(key).payload(&value), PATIENCE).await.unwrap();
}

async fn transactions(bootstrap: &str, count: u64, run: &str) -> producer::Ledger {
    let order = producer::Order {
        bootstrap: bootstrap.to_owned(),
        registry_url: String::new(),
        profile: producer::Profile::Python,
        format: producer::Format::Json,
        acks: producer::Acks::All,
        threads: 3,
        rate: None,
        count: Some(count),
        seed: 5,
        run: Some(run.to_owned()),
    };
    let (_stop, never) = tokio::sync::watch::channel(false);
    let mut registry = Registry::new();
    let delivery = registry.histograms("seconds", "", Buckets(&[1.0])).get_or_create_owned(&Topic::of(TOPIC));
    let progress = Arc::new(producer::Progress { delivery: Some(delivery), ..Default::default() });
    let ledger = producer::produce(&order, Arc::clone(&progress), never).await.unwrap();
    assert_eq!(progress.acknowledged.get(), count);
    let metrics = registry.text().unwrap();
    assert!(metrics.contains(&format!("seconds_count{{topic=\"{TOPIC}\"}} {count}\n")), "{metrics}");
    ledger
}

/// What the group has committed, by partition, beside the topic's end; a partition without a record has no commit.
async fn committed(bootstrap: &str, topic: &str) -> (BTreeMap<i32, i64>, BTreeMap<i32, i64>) {
    let ends: BTreeMap<i32, i64> =
        kafka::offsets(bootstrap, topic).await.unwrap().into_iter().map(|(p, (_, end))| (p, end)).collect();
    let consumer: BaseConsumer = ClientConfig::new()
        .set("bootstrap.servers", bootstrap)
        .set("group.id", "app-service")
        .create()
        .unwrap();
    let mut wanted = TopicPartitionList::new();
    for partition in ends.keys() {
        wanted.add_partition(topic, *partition);
    }
    let found = tokio::task::spawn_blocking(move || consumer.committed_offsets(wanted, PATIENCE));
    let found = found.await.unwrap().unwrap();
    let of = |offset| if let Offset::Offset(at) = offset { at } else { 0 };
    (found.elements().iter().map(|e| (e.partition(), of(e.offset()))).collect(), ends)
}

#[tokio::test]
async fn app_service_counts_every_record_once_and_goes_on_where_it_committed() {
    let (node, bootstrap) = kafka_module().await;
    let spec = |name, partitions| kafka::TopicSpec { name, partitions, replication: 1, settings: &[] };
    kafka::create_topics(&bootstrap, &[spec(TOPIC, 5), spec(AGGREGATES_TOPIC, 3)]).await.unwrap();
    let start = || Service::start("app", &[("BOOTSTRAP_SERVERS", bootstrap.as_str())]);
    let app = start();
    let healthy = || async {
        let (status, why) = app.get("/health").await;
        Ok(if status == 200 { Answer::Is(()) } else { Answer::NotYet(why) })
    };
    eventually("app-service is healthy", PATIENCE, Duration::from_millis(200), healthy).await.unwrap();

    let ledger = transactions(&bootstrap, 300, "one").await;
    assert_eq!(ledger.acknowledged, 300);
    let producer: FutureProducer = ClientConfig::new().set("bootstrap.servers", &bootstrap).create().unwrap();
    for count in 1..=3 {
        let total = json!({"merchantId": "merchant_1-one", "totalAmount": 10.25, "transactionCount": count});
        keyed(&producer, AGGREGATES_TOPIC, "merchant_1-one", &total).await;
    }
    keyed(&producer, TOPIC, "malformed", &json!({"merchantId": "merchant_1-one"})).await;
    keyed(&producer, AGGREGATES_TOPIC, "malformed", &json!("nothing")).await;
    app.until("consumer_records_total{topic=\"financial_transactions\"}", 301.0).await;
    app.until("consumer_records_total{topic=\"transaction_aggregates\"}", 4.0).await;
    let samples = app.samples().await;
    assert_eq!(samples["consumer_errors_total{topic=\"financial_transactions\"}"], 1.0);
    assert_eq!(samples["consumer_errors_total{topic=\"transaction_aggregates\"}"], 1.0);
    assert_eq!(samples["consumer_errors_total{topic=\"client\"}"], 0.0);
    assert_eq!(samples["consumer_record_age_seconds_count{topic=\"financial_transactions\"}"], 301.0);

    let merchants = app.json("/merchants").await;
    let seen: BTreeMap<String, u64> = merchants
        .as_array()
        .unwrap()
        .iter()
        .map(|m| {
            let counts = m["transactionsSeen"].as_object().unwrap();
            (m["merchantId"].as_str().unwrap().to_owned(), counts.values().map(|c| c.as_u64().unwrap()).sum())
        })
        .collect();
    let expected = ledger.totals.merchants.iter().map(|(m, t)| (m.clone(), t.transaction_count));
    assert_eq!(seen, expected.collect());
    assert_eq!(
        merchants[0]["aggregate"],
        json!({"totalAmount": 10.25, "transactionCount": 3}),
        "the newest total of {}",
        merchants[0]["merchantId"]
    );
    let latest = app.json("/transactions/latest").await;
    assert_eq!(latest.as_array().unwrap().len(), 20);
    let latest_are_ours = latest
        .as_array()
        .unwrap()
        .iter()
        .all(|t| ledger.records.contains_key(t["transactionId"].as_str().unwrap()));
    assert!(latest_are_ours, "{latest}");

    let asked = (0..100).map(|n| {
        let app = &app;
        async move { app.get(if n < 60 { "/merchants/merchant_1-one" } else { "/merchants/nobody" }).await.0 }
    });
    let statuses = futures::future::join_all(asked).await;
    assert_eq!(statuses.iter().filter(|s| **s == 200).count(), 60);
    let samples = app.samples().await;
    assert_eq!(samples["http_requests_total{method=\"GET\",path=\"/merchants/{id}\",status=\"200\"}"], 60.0);
    assert_eq!(samples["http_requests_total{method=\"GET\",path=\"/merchants/{id}\",status=\"404\"}"], 40.0);

    app.terminate();
    for topic in [TOPIC, AGGREGATES_TOPIC] {
        let (committed, ends) = committed(&bootstrap, topic).await;
        assert_eq!(committed, ends, "{topic}");
    }

    transactions(&bootstrap, 10, "two").await;
    let mut app = start();
    app.until("consumer_records_total{topic=\"financial_transactions\"}", 10.0).await;
    // While it still runs.
    let all = || async {
        let (committed, ends) = committed(&bootstrap, TOPIC).await;
        Ok(if committed == ends { Answer::Is(()) } else { Answer::NotYet(format!("{committed:?}")) })
    };
    eventually("what was read is committed", PATIENCE, Duration::from_millis(200), all).await.unwrap();
    assert_eq!(app.samples().await["consumer_records_total{topic=\"transaction_aggregates\"}"], 0.0);

    drop(node);
    let gone = || async {
        let errors = app.samples().await["consumer_errors_total{topic=\"client\"}"];
        Ok(if errors > 0.0 { Answer::Is(()) } else { Answer::NotYet("no error".to_owned()) })
    };
    eventually("the broker is missed", PATIENCE, Duration::from_millis(200), gone).await.unwrap();
    assert!(app.runs() && app.json("/merchants").await.as_array().unwrap().len() == 3);
    app.terminate();
}

#[tokio::test]
async fn a_producer_is_healthy_from_the_first_acknowledged_record_on() {
    let (_node, bootstrap) = kafka_module().await;
    let mut command = lab(&["produce", "transactions", "--rate", "20", "--metrics-listen", "127.0.0.1:0"]);
    command.env("BOOTSTRAP_SERVERS", &bootstrap);
    let producer = Service::run(command);
    // The topic is not there yet.
    assert_eq!(producer.get("/health").await.0, 503);
    let topic = kafka::TopicSpec { name: TOPIC, partitions: 1, replication: 1, settings: &[] };
    kafka::create_topics(&bootstrap, &[topic]).await.unwrap();
    let healthy = || async {
        let (status, why) = producer.get("/health").await;
        Ok(if status == 200 { Answer::Is(()) } else { Answer::NotYet(why) })
    };
    eventually("it is healthy", PATIENCE, Duration::from_millis(100), healthy).await.unwrap();
    let samples = producer.samples().await;
    let acknowledged = "producer_records_total{topic=\"financial_transactions\",outcome=\"acknowledged\"}";
    assert!(samples[acknowledged] > 0.0);
    assert_eq!(samples["producer_records_total{topic=\"financial_transactions\",outcome=\"failed\"}"], 0.0);
    assert!(samples["producer_delivery_seconds_sum{topic=\"financial_transactions\"}"] > 0.0);
    producer.terminate();
}
