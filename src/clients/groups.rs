//! Consumer groups: members, committed offsets and lag, against the ends of their topics.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use anyhow::Result;
use bytes::Buf as _;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::groups::GroupMemberInfo;
use rdkafka::{Offset, TopicPartitionList};

use super::committed::Coordinators;
use super::kafka::{PATIENCE, TopicShape, blocking, config};

/// A topic and one of its partitions.
pub type TopicPartition = (String, i32);

/// What was seen of a cluster's topics and groups at one moment.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Groups {
    /// First and next offset of each partition of the topics that are not Kafka's own.
    pub offsets: BTreeMap<TopicPartition, (i64, i64)>,
    /// Shape of these topics.
    pub topics: BTreeMap<String, TopicShape>,
    /// Brokers: node id → address.
    pub brokers: BTreeMap<i32, String>,
    /// Groups by name.
    pub groups: BTreeMap<String, Group>,
}

/// A consumer group.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Group {
    /// `Stable`, `Empty`, `PreparingRebalance`, …, as Kafka says it.
    pub state: String,
    /// The consumers that are in it.
    pub members: Vec<Member>,
    /// Committed offset of each partition that it has committed: the next record it will read.
    pub committed: BTreeMap<TopicPartition, i64>,
}

/// A member of a group.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Member {
    /// The name that Kafka gave it.
    pub id: String,
    /// The name that it gave itself.
    pub client_id: String,
    /// Where it comes from.
    pub host: String,
    /// What it reads; nothing where it is idle, or while partitions are shared out anew.
    pub partitions: Vec<TopicPartition>,
}

impl Member {
    fn of(found: &GroupMemberInfo) -> Self {
        let assigned = found.assignment().and_then(assigned).unwrap_or_default();
        let text = str::to_owned;
        Self {
            id: text(found.id()),
            client_id: text(found.client_id()),
            host: text(found.client_host().trim_start_matches('/')),
            partitions: assigned,
        }
    }
}

/// What an assignment of the consumers' protocol says; nothing where it is another protocol's. Anybody may join a group with any bytes:
/// a number of entries is believed only as far as there are bytes for them.
fn assigned(mut bytes: &[u8]) -> Option<Vec<TopicPartition>> {
    // Its version: what is new in later ones stands behind what is read here.
    bytes.try_get_i16().ok()?;
    let mut partitions = Vec::new();
    for _ in 0..bytes.try_get_i32().ok()? {
        let length = usize::try_from(bytes.try_get_i16().ok()?).ok()?;
        let (name, rest) = bytes.split_at_checked(length)?;
        let topic = std::str::from_utf8(name).ok()?;
        bytes = rest;
        for _ in 0..bytes.try_get_i32().ok()? {
            partitions.push((topic.to_owned(), bytes.try_get_i32().ok()?));
        }
    }
    Some(partitions)
}

impl Groups {
    /// Records of a partition that a group has not committed yet; none where it has committed nothing there.
    pub fn lag(&self, group: &str, at: &TopicPartition) -> Option<i64> {
        let committed = self.groups.get(group)?.committed.get(at)?;
        let (first, next) = self.offsets.get(at)?;
        // What retention has removed cannot be read any more; a commit may be newer than the end that was seen.
        Some((next - committed.max(first)).max(0))
    }
}

/// Asks one cluster for its groups, again and again: connections are kept, however many groups there are.
#[derive(Clone)]
pub struct GroupReader(Arc<Mutex<Connections>>);

struct Connections {
    bootstrap: String,
    /// Asks for topics, their ends, and the list of groups; it joins none.
    watcher: Option<BaseConsumer>,
    coordinators: Coordinators,
}

impl GroupReader {
    /// It connects when it is first used.
    pub fn new(bootstrap: &str) -> Self {
        let coordinators = Coordinators::new(bootstrap);
        let connections = Connections { bootstrap: bootstrap.to_owned(), watcher: None, coordinators };
        Self(Arc::new(Mutex::new(connections)))
    }

    /// Topics, groups and offsets as they are now.
    ///
    /// # Errors
    /// The cluster does not answer.
    pub async fn read(&self) -> Result<Groups> {
        let connections = Arc::clone(&self.0);
        blocking(move || connections.lock().unwrap_or_else(PoisonError::into_inner).read()).await
    }
}

impl Connections {
    fn watcher(&mut self) -> Result<&BaseConsumer> {
        let watcher = match self.watcher.take() {
            Some(watcher) => watcher,
            None => config(&self.bootstrap)
                .set("group.id", "streamlab-lag")
                .set("enable.auto.commit", "false")
                .set("allow.auto.create.topics", "false")
                // A transaction that stays open holds back its readers, and that is lag.
                .set("isolation.level", "read_uncommitted")
                .create()?,
        };
        Ok(self.watcher.insert(watcher))
    }

    /// Brokers, topics, first and next offset of each partition.
    fn topics(&mut self) -> Result<Groups> {
        let watcher = self.watcher()?;
        let metadata = watcher.fetch_metadata(None, PATIENCE)?;
        let topics = metadata.topics().iter().filter(|t| t.error().is_none() && !t.name().starts_with("__"));
        let topics: BTreeMap<String, TopicShape> =
            topics.map(|t| (t.name().to_owned(), TopicShape::of(t))).collect();
        let partitions: Vec<TopicPartition> = topics
            .iter()
            .flat_map(|(name, shape)| shape.partitions.keys().map(|partition| (name.clone(), *partition)))
            .collect();
        let first = at(watcher, &partitions, Offset::Beginning)?;
        let next = at(watcher, &partitions, Offset::End)?;
        let both = next.into_iter().filter_map(|(at, next)| Some((at.clone(), (*first.get(&at)?, next))));
        let brokers = metadata.brokers().iter().map(|b| (b.id(), format!("{}:{}", b.host(), b.port())));
        Ok(Groups { offsets: both.collect(), brokers: brokers.collect(), topics, groups: BTreeMap::new() })
    }

    fn read(&mut self) -> Result<Groups> {
        let mut seen = asked_again(|| self.topics())?;
        let watcher = self.watcher()?;
        let list = asked_again(|| Ok(watcher.client().fetch_group_list(None, PATIENCE)?))?;
        for found in list.groups() {
            let members = found.members().iter().map(Member::of).collect();
            let group = Group { state: found.state().to_owned(), members, ..Group::default() };
            seen.groups.insert(found.name().to_owned(), group);
        }
        let names: Vec<&str> = seen.groups.keys().map(String::as_str).collect();
        for (name, committed) in self.coordinators.committed(&names)? {
            if let Some(group) = seen.groups.get_mut(&name) {
                group.committed =
                    committed.into_iter().filter(|(at, _)| seen.offsets.contains_key(at)).collect();
            }
        }
        Ok(seen)
    }
}

/// A topic that goes, or a leader or coordinator that moves, while it is asked makes the whole answer an error: then all is asked again.
fn asked_again<T>(mut ask: impl FnMut() -> Result<T>) -> Result<T> {
    let begun = Instant::now();
    loop {
        match ask() {
            Err(error) if has_moved(&error) && begun.elapsed() < PATIENCE => {}
            answer => return answer,
        }
    }
}

/// What was asked is led by another than a moment ago, by nobody just now, or is not there any more.
fn has_moved(error: &anyhow::Error) -> bool {
    use RDKafkaErrorCode::{
        CoordinatorLoadInProgress, CoordinatorNotAvailable, LeaderNotAvailable, NotCoordinator,
        NotLeaderForPartition, UnknownPartition, UnknownTopic, UnknownTopicOrPartition,
    };
    let code = error.downcast_ref::<KafkaError>().and_then(KafkaError::rdkafka_error_code);
    matches!(
        code,
        Some(
            CoordinatorLoadInProgress
                | CoordinatorNotAvailable
                | LeaderNotAvailable
                | NotCoordinator
                | NotLeaderForPartition
                | UnknownPartition
                | UnknownTopic
                | UnknownTopicOrPartition
        )
    )
}

fn list_of(partitions: &[TopicPartition], offset: Offset) -> Result<TopicPartitionList> {
    let mut list = TopicPartitionList::with_capacity(partitions.len());
    for (topic, partition) in partitions {
        list.add_partition_offset(topic, *partition, offset)?;
    }
    Ok(list)
}

/// The partitions whose offset is known; one without a leader has none.
fn known(list: &TopicPartitionList) -> BTreeMap<TopicPartition, i64> {
    let elements = list.elements();
    let offset = |e: &rdkafka::topic_partition_list::TopicPartitionListElem<'_>| match (e.error(), e.offset())
    {
        (Ok(()), Offset::Offset(offset)) => Some(((e.topic().to_owned(), e.partition()), offset)),
        _ => None,
    };
    elements.iter().filter_map(offset).collect()
}

/// The first or the next offset of many partitions in one question to each leader.
fn at(
    consumer: &BaseConsumer,
    partitions: &[TopicPartition],
    which: Offset,
) -> Result<BTreeMap<TopicPartition, i64>> {
    if partitions.is_empty() {
        return Ok(BTreeMap::new());
    }
    Ok(known(&consumer.offsets_for_times(list_of(partitions, which)?, PATIENCE)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn groups(offsets: (i64, i64), committed: i64) -> Groups {
        let at: TopicPartition = ("t".to_owned(), 0);
        let group = Group { committed: BTreeMap::from([(at.clone(), committed)]), ..Group::default() };
        Groups {
            offsets: BTreeMap::from([(at, offsets)]),
            groups: BTreeMap::from([("g".to_owned(), group)]),
            ..Groups::default()
        }
    }

    #[test]
    fn an_assignment_of_another_protocol_is_no_assignment() {
        // Version 1: one topic "t" with partitions 0 and 2, no data of the assignor's.
        let bytes = [0, 1, 0, 0, 0, 1, 0, 1, b't', 0, 0, 0, 2, 0, 0, 0, 0, 0, 0, 0, 2, 255, 255, 255, 255];
        assert_eq!(assigned(&bytes), Some(vec![("t".to_owned(), 0), ("t".to_owned(), 2)]));
        assert_eq!(assigned(&bytes[..9]), None);
        assert_eq!(assigned(b"sticky things"), None);
        // Two thousand million topics, and not one of them there.
        assert_eq!(assigned(&[0, 1, 127, 255, 255, 255]), None);
        assert_eq!(assigned(&[0, 1, 0, 0, 0, 1, 0, 1, b't', 127, 255, 255, 255, 0]), None);
        assert_eq!(assigned(b""), None);
    }

    #[test]
    fn lag_is_what_can_still_be_read() {
        let at = ("t".to_owned(), 0);
        assert_eq!(groups((0, 10), 4).lag("g", &at), Some(6));
        assert_eq!(groups((0, 10), 10).lag("g", &at), Some(0));
        assert_eq!(groups((0, 10), 12).lag("g", &at), Some(0), "a commit newer than the end that was seen");
        assert_eq!(groups((8, 10), 4).lag("g", &at), Some(2), "retention has removed the first four of them");
        assert_eq!(groups((0, 10), 4).lag("g", &("t".to_owned(), 1)), None, "nothing committed there");
        assert_eq!(groups((0, 10), 4).lag("another", &at), None);
    }
}
