//! One real service at a time, below the spec: our images keep the upstream contract, our clients read what they say.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test that cannot go on has failed")]

mod support;

use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt as _;
use rdkafka::consumer::{BaseConsumer, CommitMode, Consumer, StreamConsumer};
use rdkafka::error::RDKafkaErrorCode as Code;
use rdkafka::producer::{BaseProducer, BaseRecord, FutureProducer, FutureRecord, Producer};
use rdkafka::{ClientConfig, Message, Offset, TopicPartitionList};
use rstest::rstest;
use serde_json::json;
use streamlab::clients::groups::GroupReader;
use streamlab::clients::{kafka, producer};
use streamlab::engine::{Engine, recipe_images};
use streamlab::own_services::metrics::{Buckets, Registry, Topic};
use streamlab::probes::{Answer, eventually};
use streamlab::project::Project;
use streamlab::scenarios::Format;
use streamlab::scenarios::transactions::{self, AGGREGATES_TOPIC, TOPIC, Totals, Transactions};
use streamlab::topology::TopicPlan;
use support::service::{PATIENCE, Service};
use support::{engine_with, lab};
use testcontainers::runners::AsyncRunner;
use testcontainers::{ContainerAsync, ImageExt};
use testcontainers_modules::kafka::apache;

/// `name` and `tag` of a recipe's image.
fn reference(project: &Project, engine: &Engine, recipe: &str) -> (String, String) {
    let images = recipe_images(project, &engine.arch).unwrap();
    let image = images.into_iter().find(|i| i.name == recipe).unwrap();
    let (name, tag) = image.reference.rsplit_once(':').unwrap();
    (name.to_owned(), tag.to_owned())
}

fn topic(name: &str, partitions: i32, replicas: i32) -> TopicPlan {
    TopicPlan { name: name.to_owned(), partitions, replicas, config: BTreeMap::new() }
}

/// testcontainers-modules' Kafka knows nothing of this project: it starts our image as it starts apache/kafka, by
/// its entry point, paths, user and environment.
async fn kafka_module() -> (ContainerAsync<apache::Kafka>, String) {
    let (project, engine) = engine_with(&["kafka"]).await;
    let (name, tag) = reference(&project, &engine, "kafka");
    let image = apache::Kafka::default().with_jvm_image().with_name(name).with_tag(tag);
    // One broker holds the log of transactions too.
    let node = image
        .with_env_var("KAFKA_TRANSACTION_STATE_LOG_REPLICATION_FACTOR", "1")
        .with_env_var("KAFKA_TRANSACTION_STATE_LOG_MIN_ISR", "1")
        .start()
        .await
        .unwrap();
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
    let refusal = kafka::create_topics(&bootstrap, &[topic("three-replicas", 1, 3)]).await.unwrap_err();
    assert!(format!("{refusal:#}").contains("InvalidReplicationFactor"), "{refusal:#}");
    let mut spec = topic("small", 2, 1);
    spec.config.insert("retention.ms".to_owned(), "60000".to_owned());
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

#[rstest]
#[case::none("none")]
#[case::gzip("gzip")]
#[case::snappy("snappy")]
#[case::lz4("lz4")]
#[case::zstd("zstd")]
#[tokio::test]
async fn records_of_every_codec_are_read(#[case] codec: &str) {
    let (_node, bootstrap) = kafka_module().await;
    kafka::create_topics(&bootstrap, &[topic("packed", 1, 1)]).await.unwrap();
    let mut config = ClientConfig::new();
    config.set("bootstrap.servers", &bootstrap).set("compression.type", codec).set("linger.ms", "50");
    let producer: FutureProducer = config.create().unwrap();
    // Long and alike: a batch that grows by packing is sent as it is.
    let value = "the same words ".repeat(40);
    let sent =
        (0..1200).map(|_| producer.send(FutureRecord::to("packed").key("k").payload(&value), PATIENCE));
    for sent in futures::future::join_all(sent).await {
        sent.unwrap();
    }
    let (records, _) = kafka::read_topic(&bootstrap, "packed", BTreeMap::new(), Some).await.unwrap();
    assert_eq!(records.len(), 1200);
    assert!(records.iter().all(|r| r.bytes() == value.as_bytes()));
    // Whoever has enough is given no more.
    for (enough, expected) in [(usize::MAX, vec![500, 500, 200]), (1, vec![500])] {
        let (sender, given) = std::sync::mpsc::channel();
        let mut batches = 0;
        let each = move |batch: Vec<kafka::Record>| {
            sender.send(batch.len()).unwrap();
            batches += 1;
            if batches == enough { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        };
        let ends = kafka::each_batch(&bootstrap, "packed", BTreeMap::new(), each).await.unwrap();
        assert_eq!((given.iter().collect::<Vec<_>>(), ends[&0]), (expected, 1200));
    }
}

/// Commits offset 4 of partition 1 in a group's name.
fn commit(bootstrap: &str, group: &str) {
    let mut config = ClientConfig::new();
    config.set("bootstrap.servers", bootstrap).set("group.id", group);
    let member: BaseConsumer = config.create().unwrap();
    let mut done = TopicPartitionList::new();
    done.add_partition_offset("read", 1, Offset::Offset(4)).unwrap();
    // The broker has just made the topic of offsets: its partitions are loaded one after the other.
    let start = std::time::Instant::now();
    while let Err(error) = member.commit(&done, CommitMode::Sync) {
        let loads = matches!(
            error.rdkafka_error_code(),
            Some(Code::NotCoordinator | Code::CoordinatorNotAvailable | Code::CoordinatorLoadInProgress)
        );
        assert!(loads && start.elapsed() < PATIENCE, "{group}: {error}");
    }
}

/// Test suites leave a group each; and a transaction that stays open holds back whoever reads committed records only.
/// Topics come and go in a lab: a question about all of them must not fail because one has just gone.
#[tokio::test]
async fn groups_and_offsets_are_read_while_topics_come_and_go() {
    let (_node, bootstrap) = kafka_module().await;
    kafka::create_topic(&bootstrap, "stays", 1).await.unwrap();
    let (stop, stopped) = tokio::sync::watch::channel(false);
    let coming_and_going = tokio::spawn({
        let (bootstrap, stopped) = (bootstrap.clone(), stopped);
        async move {
            let mut number = 0;
            while !*stopped.borrow() {
                let name = format!("goes-{number}");
                kafka::create_topic(&bootstrap, &name, 20).await.unwrap();
                kafka::delete_topic(&bootstrap, &name).await.unwrap();
                number += 1;
            }
            number
        }
    });
    let reader = GroupReader::new(&bootstrap);
    for _ in 0..300 {
        let seen = reader.read().await.unwrap();
        assert_eq!(seen.offsets[&("stays".to_owned(), 0)], (0, 0));
    }
    stop.send(true).unwrap();
    assert!(coming_and_going.await.unwrap() > 10);
}

#[tokio::test]
async fn the_lag_of_hundreds_of_groups_is_known_up_to_the_end_of_the_log() {
    let (_node, bootstrap) = kafka_module().await;
    kafka::create_topics(&bootstrap, &[topic("read", 2, 1)]).await.unwrap();
    let mut config = ClientConfig::new();
    config.set("bootstrap.servers", &bootstrap);
    let plain: FutureProducer = config.create().unwrap();
    let write = async |count: usize| {
        for _ in 0..count {
            plain
                .send(FutureRecord::<(), str>::to("read").partition(1).payload("x"), PATIENCE)
                .await
                .unwrap();
        }
    };
    write(10).await;
    let at = bootstrap.clone();
    let held = tokio::task::spawn_blocking(move || {
        let mut config = ClientConfig::new();
        config.set("bootstrap.servers", &at).set("transactional.id", "held");
        let held: BaseProducer = config.create().unwrap();
        held.init_transactions(PATIENCE).unwrap();
        held.begin_transaction().unwrap();
        held.send(BaseRecord::<(), str>::to("read").partition(1).payload("never finished")).unwrap();
        held.flush(PATIENCE).unwrap();
        // A client each, as test suites have them; most of a commit is waiting.
        std::thread::scope(|scope| {
            for part in 0..20 {
                let at = &at;
                scope.spawn(move || (0..15).for_each(|n| commit(at, &format!("suite-{part}-{n}"))));
            }
        });
        held
    });
    let _held = held.await.unwrap();
    write(5).await;
    let groups = GroupReader::new(&bootstrap).read().await.unwrap();
    let partition = ("read".to_owned(), 1);
    assert_eq!(groups.offsets[&partition], (0, 16));
    let lags: Vec<_> = groups.groups.keys().map(|group| groups.lag(group, &partition)).collect();
    assert_eq!(lags, vec![Some(12); 300]);
}

/// A message with a key, so that it keeps its order.
async fn keyed(producer: &FutureProducer, topic: &str, key: &str, value: &serde_json::Value) {
    let value = value.to_string();
    producer.send(FutureRecord::to(topic).key(key).payload(&value), PATIENCE).await.unwrap();
}

async fn produced(bootstrap: &str, count: u64, run: &str) -> producer::Ledger<Totals> {
    let order = producer::Order {
        bootstrap: bootstrap.to_owned(),
        registry_url: String::new(),
        profile: transactions::PYTHON,
        format: Format::Json,
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
    let ledger =
        producer::produce(&order, Transactions::of(&order), Arc::clone(&progress), never).await.unwrap();
    assert_eq!(progress.acknowledged.get(), count);
    let metrics = registry.text().unwrap();
    assert!(metrics.contains(&format!("seconds_count{{topic=\"{TOPIC}\"}} {count}\n")), "{metrics}");
    ledger
}

/// An order without an end keeps no records. Its summary still says how many were acknowledged.
#[tokio::test]
async fn an_order_without_an_end_is_counted() {
    let (_node, bootstrap) = kafka_module().await;
    kafka::create_topics(&bootstrap, &[topic(TOPIC, 2, 1)]).await.unwrap();
    let order = producer::Order {
        bootstrap,
        rate: Some(200.0),
        run: Some("endless".to_owned()),
        ..producer::Order::default()
    };
    let (stop, stops) = tokio::sync::watch::channel(false);
    let progress = Arc::new(producer::Progress::default());
    let running = tokio::spawn({
        let progress = Arc::clone(&progress);
        async move { producer::produce(&order, Transactions::of(&order), progress, stops).await }
    });
    eventually("some are acknowledged", PATIENCE, Duration::from_millis(200), || async {
        let seen = progress.acknowledged.get();
        Ok(if seen > 20 { Answer::Is(()) } else { Answer::NotYet(seen.to_string()) })
    })
    .await
    .unwrap();
    stop.send_replace(true);
    let ledger = running.await.unwrap().unwrap();
    assert!(ledger.acknowledged > 20 && ledger.records.is_empty(), "{ledger:?}");
    assert_eq!(ledger.acknowledged, ledger.produced);
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
    kafka::create_topics(&bootstrap, &[topic(TOPIC, 5, 1), topic(AGGREGATES_TOPIC, 3, 1)]).await.unwrap();
    let start = || Service::start("app", &[("BOOTSTRAP_SERVERS", bootstrap.as_str())]);
    let app = start();
    let healthy = || async {
        let (status, why) = app.get("/health").await;
        Ok(if status == 200 { Answer::Is(()) } else { Answer::NotYet(why) })
    };
    eventually("app-service is healthy", PATIENCE, Duration::from_millis(200), healthy).await.unwrap();

    let ledger = produced(&bootstrap, 300, "one").await;
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

    produced(&bootstrap, 10, "two").await;
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
    let to = ["produce", "transactions", "--rate", "20", "--bootstrap-servers", &bootstrap];
    let producer = Service::run(lab(&[&to[..], &["--metrics-listen", "127.0.0.1:0"]].concat()));
    // The topic is not there yet.
    assert_eq!(producer.get("/health").await.0, 503);
    kafka::create_topics(&bootstrap, &[topic(TOPIC, 1, 1)]).await.unwrap();
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
