//! One real service at a time, below the spec: our images keep the upstream contract, our clients read what they say.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test that cannot go on has failed")]

mod support;

use std::collections::BTreeMap;
use std::time::Duration;

use futures::StreamExt as _;
use rdkafka::consumer::{Consumer, StreamConsumer};
use rdkafka::producer::{FutureProducer, FutureRecord};
use rdkafka::{ClientConfig, Message};
use rstest::rstest;
use schema_registry_converter::async_impl::avro::AvroEncoder;
use schema_registry_converter::schema_registry_common::SubjectNameStrategy;
use streamlab::clients::kafka;
use streamlab::clients::schema_registry::{self, Registered, SchemaRegistry};
use streamlab::engine::{Engine, recipe_images};
use streamlab::probes::{Answer, eventually};
use streamlab::project::Project;
use support::engine_with;
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
        producer.send(record, Duration::from_secs(10)).await.unwrap();
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
    let values: Vec<String> = tokio::time::timeout(Duration::from_secs(30), read.collect()).await.unwrap();
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
    eventually("the topic can be used", Duration::from_secs(20), Duration::from_millis(200), || async {
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
