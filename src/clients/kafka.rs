//! Questions to a Kafka cluster: metadata, topics, offsets, and reading a topic from beginning to end.

use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail};
use rdkafka::ClientConfig;
use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, ResourceSpecifier, TopicReplication};
use rdkafka::client::DefaultClientContext;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::metadata::MetadataTopic;
pub use streamlab_records::reader::Record;
use streamlab_records::reader::read;

use crate::probes::Answer;
use crate::topology::TopicPlan;

/// How long one question may take.
pub(super) const PATIENCE: Duration = Duration::from_secs(5);

/// A topic's shape.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TopicShape {
    /// Partition → (leader, replicas, in-sync replicas), by node id.
    pub partitions: BTreeMap<i32, (i32, Vec<i32>, Vec<i32>)>,
}

impl TopicShape {
    pub(super) fn of(found: &MetadataTopic) -> Self {
        let partitions = found.partitions().iter().map(|p| {
            let sorted = |ids: &[i32]| {
                let mut ids = ids.to_vec();
                ids.sort_unstable();
                ids
            };
            (p.id(), (p.leader(), sorted(p.replicas()), sorted(p.isr())))
        });
        Self { partitions: partitions.collect() }
    }
}

pub(super) fn config(bootstrap: &str) -> ClientConfig {
    let mut config = ClientConfig::new();
    config
        .set("bootstrap.servers", bootstrap)
        .set("client.id", "streamlab")
        .set("socket.connection.setup.timeout.ms", "3000")
        .set("reconnect.backoff.max.ms", "1000")
        // Every question reports its own failure; librdkafka's log would only repeat it.
        .set("log_level", "0");
    config
}

fn consumer(bootstrap: &str) -> Result<BaseConsumer> {
    let mut config = config(bootstrap);
    config
        .set("group.id", format!("streamlab-{}", uuid::Uuid::new_v4()))
        .set("enable.auto.commit", "false")
        .set("enable.partition.eof", "false")
        .set("auto.offset.reset", "earliest")
        .set("fetch.wait.max.ms", "100")
        // By itself the client rests for a second whenever it has read ahead far enough.
        .set("fetch.queue.backoff.ms", "10")
        .set("allow.auto.create.topics", "false");
    Ok(config.create()?)
}

/// An admin client.
///
/// # Errors
/// Bad settings only; it connects when it is first used.
pub fn admin(bootstrap: &str) -> Result<AdminClient<DefaultClientContext>> {
    Ok(config(bootstrap).create()?)
}

pub(super) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T> + Send + 'static,
) -> Result<T> {
    tokio::task::spawn_blocking(work).await?
}

/// Whether the node whose host listener is on `port` serves: it answers metadata, and every partition that it
/// knows has a leader.
///
/// # Errors
/// It does not answer.
pub async fn node_serves(port: u16) -> Result<Answer<()>> {
    blocking(move || {
        let consumer = consumer(&format!("127.0.0.1:{port}"))?;
        let metadata = consumer.fetch_metadata(None, Duration::from_secs(2))?;
        let own = metadata.brokers().iter().any(|b| b.port() == i32::from(port));
        let leaderless =
            metadata.topics().iter().flat_map(|t| t.partitions()).filter(|p| p.leader() < 0).count();
        Ok(if !own {
            Answer::NotYet(format!("it is not among the {} brokers that answer", metadata.brokers().len()))
        } else if leaderless > 0 {
            Answer::NotYet(format!("{leaderless} partitions have no leader"))
        } else {
            Answer::Is(())
        })
    })
    .await
}

/// Node ids of the brokers that answer.
///
/// # Errors
/// The cluster does not answer.
pub async fn broker_ids(bootstrap: &str) -> Result<Vec<i32>> {
    let bootstrap = bootstrap.to_owned();
    blocking(move || {
        let metadata = consumer(&bootstrap)?.fetch_metadata(None, PATIENCE)?;
        let mut ids: Vec<_> = metadata.brokers().iter().map(rdkafka::metadata::MetadataBroker::id).collect();
        ids.sort_unstable();
        Ok(ids)
    })
    .await
}

/// Names of the topics that are not Kafka's own.
///
/// # Errors
/// The cluster does not answer.
pub async fn topics(bootstrap: &str) -> Result<Vec<String>> {
    let bootstrap = bootstrap.to_owned();
    blocking(move || {
        let metadata = consumer(&bootstrap)?.fetch_metadata(None, PATIENCE)?;
        let names = metadata.topics().iter().map(|t| t.name().to_owned());
        let mut names: Vec<_> = names.filter(|n| !n.starts_with("__")).collect();
        names.sort();
        Ok(names)
    })
    .await
}

/// The cluster id.
///
/// # Errors
/// The cluster does not answer.
pub async fn cluster_id(bootstrap: &str) -> Result<String> {
    let bootstrap = bootstrap.to_owned();
    blocking(move || {
        let consumer = consumer(&bootstrap)?;
        consumer.client().fetch_cluster_id(PATIENCE).context("no broker named the cluster id")
    })
    .await
}

/// A topic's partitions, replicas and in-sync replicas.
///
/// # Errors
/// The cluster does not answer, or has no such topic.
pub async fn topic_shape(bootstrap: &str, topic: &str) -> Result<TopicShape> {
    let (bootstrap, topic) = (bootstrap.to_owned(), topic.to_owned());
    blocking(move || {
        let metadata = consumer(&bootstrap)?.fetch_metadata(Some(&topic), PATIENCE)?;
        let found = metadata.topics().iter().find(|t| t.name() == topic).context("no such topic")?;
        if let Some(error) = found.error() {
            bail!("{topic}: {}", RDKafkaErrorCode::from(error));
        }
        Ok(TopicShape::of(found))
    })
    .await
}

/// Partitions that have fewer in-sync replicas than replicas, Kafka's own topics among them, as `TOPIC-PARTITION`.
///
/// # Errors
/// The cluster does not answer.
pub async fn out_of_sync(bootstrap: &str) -> Result<Vec<String>> {
    let bootstrap = bootstrap.to_owned();
    blocking(move || {
        let metadata = consumer(&bootstrap)?.fetch_metadata(None, PATIENCE)?;
        let behind = metadata.topics().iter().flat_map(|topic| {
            let behind = topic.partitions().iter().filter(|p| p.isr().len() < p.replicas().len());
            behind.map(|p| format!("{}-{}", topic.name(), p.id()))
        });
        Ok(behind.collect())
    })
    .await
}

/// One setting of a topic as it holds now.
///
/// # Errors
/// The cluster does not answer, or has no such topic or setting.
pub async fn topic_setting(bootstrap: &str, topic: &str, setting: &str) -> Result<String> {
    let admin = admin(bootstrap)?;
    let found = admin.describe_configs(&[ResourceSpecifier::Topic(topic)], &options()).await?;
    for resource in found {
        let resource = resource.map_err(|e| anyhow!("{topic}: {e}"))?;
        if let Some(entry) = resource.entries.iter().find(|e| e.name == setting) {
            return entry.value.clone().with_context(|| format!("{setting} has no value"));
        }
    }
    bail!("{topic} has no setting {setting}")
}

fn options() -> AdminOptions {
    let patience = Some(Duration::from_secs(10));
    AdminOptions::new().request_timeout(patience).operation_timeout(patience)
}

/// Creates the topics that are not there.
///
/// # Errors
/// The cluster does not answer, or refuses one; topics that exist are fine.
pub async fn create_topics(bootstrap: &str, topics: &[TopicPlan]) -> Result<()> {
    let admin = admin(bootstrap)?;
    let new: Vec<NewTopic<'_>> = topics
        .iter()
        .map(|t| {
            let topic = NewTopic::new(&t.name, t.partitions, TopicReplication::Fixed(t.replicas));
            t.config.iter().fold(topic, |topic, (key, value)| topic.set(key, value))
        })
        .collect();
    for result in admin.create_topics(&new, &options()).await? {
        match result {
            Ok(_) | Err((_, RDKafkaErrorCode::TopicAlreadyExists)) => {}
            Err((topic, code)) => bail!("topic {topic} could not be created: {code}"),
        }
    }
    Ok(())
}

/// Creates one topic with as many replicas as the cluster gives by default; the cluster's own answer where it refuses.
///
/// # Errors
/// The code with which the cluster refused, or that it did not answer in time.
pub async fn create_topic(bootstrap: &str, name: &str, partitions: i32) -> Result<()> {
    let admin = admin(bootstrap)?;
    // -1: the cluster's default.
    let topic = NewTopic::new(name, partitions, TopicReplication::Fixed(-1));
    for result in admin.create_topics(&[topic], &options()).await? {
        result.map_err(|(topic, code)| anyhow!("{topic}: {code}"))?;
    }
    Ok(())
}

/// Deletes a topic.
///
/// # Errors
/// The cluster does not answer, or refuses.
pub async fn delete_topic(bootstrap: &str, name: &str) -> Result<()> {
    for result in admin(bootstrap)?.delete_topics(&[name], &options()).await? {
        result.map_err(|(topic, code)| anyhow!("{topic}: {code}"))?;
    }
    Ok(())
}

/// Beginning and end offset by partition.
///
/// # Errors
/// The cluster does not answer, or has no such topic.
pub async fn offsets(bootstrap: &str, topic: &str) -> Result<BTreeMap<i32, (i64, i64)>> {
    let (bootstrap, topic) = (bootstrap.to_owned(), topic.to_owned());
    blocking(move || watermarks(&consumer(&bootstrap)?, &topic)).await
}

/// A partition's leader may move between the question who it is and the question to it: then it is asked anew, as every
/// client of Kafka does.
pub(super) fn watermarks(consumer: &BaseConsumer, topic: &str) -> Result<BTreeMap<i32, (i64, i64)>> {
    let start = Instant::now();
    loop {
        match watermarks_of_leaders(consumer, topic) {
            Err(error) if leader_moved(&error) && start.elapsed() < PATIENCE => {}
            answer => return answer,
        }
    }
}

fn watermarks_of_leaders(consumer: &BaseConsumer, topic: &str) -> Result<BTreeMap<i32, (i64, i64)>> {
    let metadata = consumer.fetch_metadata(Some(topic), PATIENCE)?;
    let found = metadata.topics().iter().find(|t| t.name() == topic && t.error().is_none());
    let found = found.with_context(|| format!("no topic {topic}"))?;
    let partitions = found.partitions().iter();
    partitions.map(|p| Ok((p.id(), consumer.fetch_watermarks(topic, p.id(), PATIENCE)?))).collect()
}

fn leader_moved(error: &anyhow::Error) -> bool {
    let code = error.downcast_ref::<KafkaError>().and_then(KafkaError::rdkafka_error_code);
    matches!(code, Some(RDKafkaErrorCode::NotLeaderForPartition | RDKafkaErrorCode::LeaderNotAvailable))
}

/// Reads a topic from `from` (its beginning where a partition is not named) to the end that it has now; records
/// for which `keep` gives nothing are dropped as they come.
///
/// # Errors
/// The cluster does not answer, or stops answering before the end is reached.
pub async fn read_topic<T: Send + 'static>(
    bootstrap: &str,
    topic: &str,
    from: BTreeMap<i32, i64>,
    keep: impl Fn(Record) -> Option<T> + Send + 'static,
) -> Result<(Vec<T>, BTreeMap<i32, i64>)> {
    let (bootstrap, topic) = (bootstrap.to_owned(), topic.to_owned());
    blocking(move || {
        let mut kept = Vec::new();
        let ends = read_to_end(&bootstrap, &topic, &from, &mut |batch| {
            kept.extend(batch.into_iter().filter_map(&keep));
            ControlFlow::Continue(())
        })?;
        Ok((kept, ends))
    })
    .await
}

/// Gives `each` the records that [`read_topic`] would read, in batches as they come and until it breaks off; then where the end was.
/// `each` runs on a thread that may wait.
///
/// # Errors
/// As [`read_topic`].
pub async fn each_batch(
    bootstrap: &str,
    topic: &str,
    from: BTreeMap<i32, i64>,
    mut each: impl FnMut(Vec<Record>) -> ControlFlow<()> + Send + 'static,
) -> Result<BTreeMap<i32, i64>> {
    let (bootstrap, topic) = (bootstrap.to_owned(), topic.to_owned());
    blocking(move || read_to_end(&bootstrap, &topic, &from, &mut each)).await
}

fn read_to_end(
    bootstrap: &str,
    topic: &str,
    from: &BTreeMap<i32, i64>,
    each: &mut dyn FnMut(Vec<Record>) -> ControlFlow<()>,
) -> Result<BTreeMap<i32, i64>> {
    let consumer = consumer(bootstrap)?;
    let bounds = watermarks(&consumer, topic)?;
    let ends = bounds.iter().map(|(&p, &(_, end))| (p, end)).collect();
    let bounds = bounds.into_iter().map(|(p, (begin, end))| {
        let start = from.get(&p).copied().unwrap_or(begin).max(begin);
        (p, (start, end))
    });
    read(&consumer, topic, &bounds.collect(), each)?;
    Ok(ends)
}

/// Writes one record, acknowledged by every in-sync replica, and reads that very record back.
///
/// # Errors
/// It was not acknowledged or not read within the patience of one question.
pub async fn write_and_read(bootstrap: &str, topic: &str) -> Result<()> {
    let token = uuid::Uuid::new_v4().to_string();
    let at = write(bootstrap, topic, token.as_bytes()).await?;
    let from = BTreeMap::from([at]);
    let (found, _) =
        read_topic(bootstrap, topic, from, move |r| (r.bytes() == token.as_bytes()).then_some(())).await?;
    if found.is_empty() {
        bail!("the record written to {topic} was not read back");
    }
    Ok(())
}

/// Writes one record without a key, acknowledged by every in-sync replica; gives its partition and offset.
///
/// # Errors
/// It was not acknowledged in time.
pub async fn write(bootstrap: &str, topic: &str, value: &[u8]) -> Result<(i32, i64)> {
    use rdkafka::producer::{FutureProducer, FutureRecord};
    let producer: FutureProducer =
        config(bootstrap).set("acks", "all").set("message.timeout.ms", "10000").create()?;
    let record = FutureRecord::<str, [u8]>::to(topic).payload(value);
    let at = producer.send(record, PATIENCE).await.map_err(|(error, _)| error)?;
    Ok((at.partition, at.offset))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_leader_that_moved_is_asked_again() {
        let moved = |code| leader_moved(&KafkaError::MetadataFetch(code).into());
        assert!(
            moved(RDKafkaErrorCode::NotLeaderForPartition) && moved(RDKafkaErrorCode::LeaderNotAvailable)
        );
        assert!(
            !moved(RDKafkaErrorCode::UnknownTopicOrPartition) && !moved(RDKafkaErrorCode::AllBrokersDown)
        );
        assert!(!leader_moved(&anyhow::anyhow!("no topic x")));
    }
}
