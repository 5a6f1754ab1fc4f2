//! Pages of a topic: its records from the newest back, or from a place on, filtered. Each record is looked at once, and a place
//! ([`Cursor`]) says where the next page begins; nothing is remembered between pages.

mod filter;

use std::collections::BTreeMap;
use std::fmt;
use std::ops::ControlFlow;
use std::str::FromStr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::{Offset, TopicPartitionList};
use streamlab_records::reader::read;
use streamlab_records::text::visible;
use tokio::runtime::Handle;
use tokio::sync::Semaphore;

pub use self::filter::Filter;
use super::kafka::{self, PATIENCE, Record};
use super::shown::{Part, Shown};

/// Records of each partition that are read at once where nothing is left out, at most.
const PLAIN: i64 = 400;
/// The same where a filter leaves records out: few at first, so that large ones are noticed before there are many of them.
const PORTIONS: [i64; 6] = [25, 100, 400, 2_000, 20_000, 50_000];
/// When a search stops although there is more.
const MOST_RECORDS: u64 = 1_000_000;
const MOST_TIME: Duration = Duration::from_secs(5);
const MOST_BYTES: usize = 4 << 20;
/// Connected clients that wait for the next page.
const IDLE: usize = 2;

/// Where a page begins.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Begin {
    /// With the newest record; the page goes back.
    Newest,
    /// With the oldest record.
    Oldest,
    /// With an offset, in each partition.
    Offset(i64),
    /// With the first record at a time (milliseconds since the epoch) or later.
    Time(i64),
    /// Where another page has ended.
    Cursor(Cursor),
}

/// A place in a topic, and the direction in which to go on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cursor {
    /// Towards older records.
    pub back: bool,
    /// By partition: the next record, or, towards older ones, the one that was the last.
    pub offsets: BTreeMap<i32, i64>,
}

impl fmt::Display for Cursor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.back { "before" } else { "after" })?;
        self.offsets.iter().try_for_each(|(partition, offset)| write!(f, ".{partition}-{offset}"))
    }
}

impl FromStr for Cursor {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || format!("{text:?} is no place in a topic: take one from an answer as it is");
        let mut parts = text.split('.');
        let back = match parts.next() {
            Some("before") => true,
            Some("after") => false,
            _ => return Err(wrong()),
        };
        let place = |part: &str| {
            let (partition, offset) = part.split_once('-')?;
            Some((partition.parse().ok()?, offset.parse().ok()?))
        };
        let offsets = parts.map(place).collect::<Option<_>>().ok_or_else(wrong)?;
        Ok(Self { back, offsets })
    }
}

/// Which page is wanted.
#[derive(Debug, Clone)]
pub struct Wanted {
    /// Topic.
    pub topic: String,
    /// One partition alone.
    pub partition: Option<i32>,
    /// Where it begins.
    pub begin: Begin,
    /// Records on the page, at most.
    pub limit: usize,
    /// Letters of a key or value, at most.
    pub letters: usize,
    /// Which records.
    pub filter: Filter,
}

/// A record that was found.
#[derive(Debug, Clone)]
pub struct Found {
    /// Partition.
    pub partition: i32,
    /// Offset in the partition.
    pub offset: i64,
    /// Milliseconds since the epoch, where it says so.
    pub timestamp: Option<i64>,
    /// Its key.
    pub key: Part,
    /// Its value.
    pub value: Part,
    /// Its headers, in their order.
    pub headers: Vec<(String, Part)>,
}

impl Found {
    async fn of(record: &Record, shown: &Shown, letters: usize) -> Self {
        let mut headers = Vec::new();
        for (name, value) in &record.headers {
            headers.push((visible(name), shown.part(value.as_deref(), letters).await));
        }
        Self {
            partition: record.partition,
            offset: record.offset,
            timestamp: record.timestamp,
            key: shown.part(record.key.as_deref(), letters).await,
            value: shown.part(record.value.as_deref(), letters).await,
            headers,
        }
    }

    fn bytes(&self) -> usize {
        let headers: usize = self.headers.iter().map(|(name, part)| name.len() + part.text.len()).sum();
        self.key.text.len() + self.value.text.len() + headers
    }
}

/// Why a page ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Stopped {
    /// There is no more in this direction.
    End,
    /// It is full.
    Limit,
    /// So many records were looked at, or for so long, or what was found is so large: the next page goes on.
    Budget,
}

/// One page.
#[derive(Debug)]
pub struct Page {
    /// Newest first where it goes back, oldest first otherwise; by time, and in a partition by offset.
    pub records: Vec<Found>,
    /// Records that were looked at.
    pub scanned: u64,
    /// Why it ends here.
    pub stopped: Stopped,
    /// Where the next page begins. After the last record of a topic: where what comes will be.
    pub next: Cursor,
    /// Where everything that comes after this page was asked for will be.
    pub end: Cursor,
}

/// Reads pages of a cluster's topics, a few at once. Clients that are connected wait for the next page.
pub struct Browser {
    bootstrap: String,
    shown: Arc<Shown>,
    places: Arc<Semaphore>,
    idle: Arc<Mutex<Vec<BaseConsumer>>>,
}

impl Browser {
    /// At most `at_once` pages are read at the same time: each has a client and its buffers. It connects when the first is wanted.
    pub fn new(bootstrap: &str, shown: Arc<Shown>, at_once: usize) -> Self {
        let places = Arc::new(Semaphore::new(at_once));
        Self { bootstrap: bootstrap.to_owned(), shown, places, idle: Arc::default() }
    }

    /// Whether a page would have to wait for others.
    pub fn is_busy(&self) -> bool {
        self.places.available_permits() == 0
    }

    /// A page of a topic.
    ///
    /// # Errors
    /// No such topic or partition; the cluster does not answer, or stops answering.
    pub async fn page(&self, wanted: Wanted) -> Result<Page> {
        let (bootstrap, shown, idle) =
            (self.bootstrap.clone(), Arc::clone(&self.shown), Arc::clone(&self.idle));
        let runtime = Handle::current();
        let place = Arc::clone(&self.places).acquire_owned().await?;
        // Whoever does not wait for the page any more drops this.
        let wanted_still = Arc::new(());
        let waits = Arc::downgrade(&wanted_still);
        let page = kafka::blocking(move || {
            // Held until the reading ends, also where nobody waits for the page any more.
            let _place = place;
            let held = || idle.lock().unwrap_or_else(PoisonError::into_inner);
            let waiting = held().pop();
            let consumer = match waiting {
                Some(consumer) => consumer,
                None => client(&bootstrap)?,
            };
            let look = |record: &Record| {
                let takes = wanted.filter.takes(record, &shown, &runtime);
                takes.then(|| runtime.block_on(Found::of(record, &shown, wanted.letters)))
            };
            let page = read_page(&consumer, &wanted, &look, &|| waits.strong_count() > 0)?;
            // One that failed is not used again: it may be what is wrong.
            consumer.unassign()?;
            let mut idle = held();
            if idle.len() < IDLE {
                idle.push(consumer);
            }
            Ok(page)
        })
        .await;
        drop(wanted_still);
        page
    }
}

/// A client that reads little ahead: by itself it would take 64 MB for each topic that is searched.
fn client(bootstrap: &str) -> Result<BaseConsumer> {
    let mut config = kafka::config(bootstrap);
    config
        .set("group.id", "streamlab-console")
        .set("enable.auto.commit", "false")
        .set("auto.offset.reset", "earliest")
        .set("allow.auto.create.topics", "false")
        .set("fetch.wait.max.ms", "100")
        .set("fetch.queue.backoff.ms", "10")
        .set("queued.min.messages", "1000")
        .set("queued.max.messages.kbytes", "2048");
    Ok(config.create()?)
}

fn read_page(
    consumer: &BaseConsumer,
    wanted: &Wanted,
    look: &dyn Fn(&Record) -> Option<Found>,
    waits: &dyn Fn() -> bool,
) -> Result<Page> {
    let mut bounds = kafka::watermarks(consumer, &wanted.topic)?;
    if let Some(partition) = wanted.partition {
        let last = bounds.len().saturating_sub(1);
        bounds.retain(|p, _| *p == partition);
        if bounds.is_empty() {
            bail!("{} has no partition {partition}: it has 0 to {last}", wanted.topic);
        }
    }
    let mut scan = Scan::new(consumer, wanted, bounds)?;
    scan.run(consumer, wanted, look, waits)?;
    Ok(scan.page(wanted.limit))
}

/// What is left to look at of a partition, and what was found there.
struct Left {
    begin: i64,
    end: i64,
}

struct Scan {
    back: bool,
    left: BTreeMap<i32, Left>,
    ends: BTreeMap<i32, i64>,
    found: Vec<Found>,
    scanned: u64,
    over_budget: bool,
}

impl Scan {
    fn new(consumer: &BaseConsumer, wanted: &Wanted, bounds: BTreeMap<i32, (i64, i64)>) -> Result<Self> {
        let ends = bounds.iter().map(|(partition, (_, end))| (*partition, *end)).collect();
        let at_time = match wanted.begin {
            Begin::Time(at) => first_at(consumer, &wanted.topic, &bounds, at)?,
            _ => BTreeMap::new(),
        };
        let back = match &wanted.begin {
            Begin::Newest => true,
            Begin::Cursor(cursor) => cursor.back,
            _ => false,
        };
        let left = bounds.into_iter().map(|(partition, (first, next))| {
            let within = |offset: i64| offset.clamp(first, next);
            let (begin, end) = match &wanted.begin {
                Begin::Newest | Begin::Oldest => (first, next),
                Begin::Offset(offset) => (within(*offset), next),
                Begin::Time(_) => (within(at_time.get(&partition).copied().unwrap_or(next)), next),
                // A partition that is new since then is read from where it begins.
                Begin::Cursor(cursor) => match (cursor.offsets.get(&partition), back) {
                    (Some(offset), true) => (first, within(*offset)),
                    (Some(offset), false) => (within(*offset), next),
                    (None, true) => (first, first),
                    (None, false) => (first, next),
                },
            };
            (partition, Left { begin, end })
        });
        let left = left.collect();
        Ok(Self { back, left, ends, found: Vec::new(), scanned: 0, over_budget: false })
    }

    fn run(
        &mut self,
        consumer: &BaseConsumer,
        wanted: &Wanted,
        look: &dyn Fn(&Record) -> Option<Found>,
        waits: &dyn Fn() -> bool,
    ) -> Result<()> {
        let begun = Instant::now();
        // Where nothing is left out, a page takes what it has room for: each question to Kafka takes its time.
        let plain = wanted.filter == Filter::default();
        let room = i64::try_from(wanted.limit).unwrap_or(i64::MAX).min(PLAIN);
        let mut portions = PORTIONS.into_iter();
        let mut portion = PORTIONS[0];
        let mut bytes = 0;
        while self.found.len() < wanted.limit {
            portion = portions.next().unwrap_or(portion);
            let most = if plain { room } else { portion };
            let bounds = self.portion(most);
            if bounds.is_empty() {
                return Ok(());
            }
            let Self { found, scanned, .. } = self;
            read(consumer, &wanted.topic, &bounds, &mut |batch| {
                *scanned += batch.len() as u64;
                for one in batch.iter().filter_map(look) {
                    bytes += one.bytes();
                    found.push(one);
                }
                if waits() { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
            })?;
            if !waits() {
                bail!("nobody waits for the page any more");
            }
            let much = self.scanned >= MOST_RECORDS || begun.elapsed() > MOST_TIME || bytes > MOST_BYTES;
            if much && self.found.len() < wanted.limit {
                self.over_budget = true;
                return Ok(());
            }
        }
        Ok(())
    }

    /// The next records of each partition, at most so many; they count as looked at.
    fn portion(&mut self, most: i64) -> BTreeMap<i32, (i64, i64)> {
        let mut bounds = BTreeMap::new();
        for (partition, left) in self.left.iter_mut().filter(|(_, left)| left.begin < left.end) {
            if self.back {
                let begin = left.begin.max(left.end - most);
                bounds.insert(*partition, (begin, left.end));
                left.end = begin;
            } else {
                let end = left.end.min(left.begin + most);
                bounds.insert(*partition, (left.begin, end));
                left.begin = end;
            }
        }
        bounds
    }

    fn page(mut self, limit: usize) -> Page {
        let place = |record: &Found| (record.timestamp, record.partition, record.offset);
        self.found.sort_by_key(place);
        in_order_of_offsets(&mut self.found);
        if self.back {
            self.found.reverse();
        }
        let beyond = self.found.split_off(limit.min(self.found.len()));
        let next = self.left.iter().map(|(partition, left)| {
            // What was found and has no room any more is the next page's.
            let of_partition = beyond.iter().filter(|record| record.partition == *partition);
            let offsets = of_partition.map(|record| record.offset);
            let next = match self.back {
                true => offsets.max().map_or(left.end, |offset| offset + 1),
                false => offsets.min().unwrap_or(left.begin),
            };
            (*partition, next)
        });
        let next = Cursor { back: self.back, offsets: next.collect() };
        let more = !beyond.is_empty() || self.left.values().any(|left| left.begin < left.end);
        let stopped = match (more, self.over_budget) {
            (false, _) => Stopped::End,
            (true, true) => Stopped::Budget,
            (true, false) => Stopped::Limit,
        };
        let end = Cursor { back: false, offsets: self.ends };
        Page { records: self.found, scanned: self.scanned, stopped, next, end }
    }
}

/// Puts the records of each partition into the order of their offsets, in the places that the partition has by time: timestamps may go
/// back, and a page must not.
fn in_order_of_offsets(records: &mut [Found]) {
    let mut of_partition: BTreeMap<i32, Vec<usize>> = BTreeMap::new();
    for (place, record) in records.iter().enumerate() {
        of_partition.entry(record.partition).or_default().push(place);
    }
    for places in of_partition.into_values() {
        let mut sorted: Vec<Found> = places.iter().map(|place| records[*place].clone()).collect();
        sorted.sort_by_key(|record| record.offset);
        for (place, record) in places.into_iter().zip(sorted) {
            records[place] = record;
        }
    }
}

/// The first offset at a time or later, of each partition that has one.
fn first_at(
    consumer: &BaseConsumer,
    topic: &str,
    bounds: &BTreeMap<i32, (i64, i64)>,
    at: i64,
) -> Result<BTreeMap<i32, i64>> {
    let mut times = TopicPartitionList::new();
    for partition in bounds.keys() {
        times.add_partition_offset(topic, *partition, Offset::Offset(at))?;
    }
    let found = consumer.offsets_for_times(times, PATIENCE)?;
    let offset = |e: rdkafka::topic_partition_list::TopicPartitionListElem<'_>| match e.offset() {
        Offset::Offset(offset) => Some((e.partition(), offset)),
        _ => None,
    };
    Ok(found.elements().into_iter().filter_map(offset).collect())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use rstest::rstest;

    use super::*;
    use crate::clients::shown::Kind;

    fn record(partition: i32, offset: i64, timestamp: i64) -> Found {
        let part = Part { kind: Kind::Null, text: String::new(), whole: true, bytes: 0, note: None };
        let (key, value) = (part.clone(), part);
        Found { partition, offset, timestamp: Some(timestamp), key, value, headers: Vec::new() }
    }

    /// All pages of a topic, one after the other, as [`Scan`] makes them without Kafka.
    fn pages(topic: &[Found], back: bool, limit: usize, takes: &dyn Fn(&Found) -> bool) -> Vec<Found> {
        let partitions: Vec<i32> = vec![0, 1, 2];
        let end = |p: i32| topic.iter().filter(|r| r.partition == p).map(|r| r.offset + 1).max().unwrap_or(0);
        let mut left: BTreeMap<i32, (i64, i64)> = partitions.iter().map(|p| (*p, (0, end(*p)))).collect();
        let mut all = Vec::new();
        for _ in 0..1000 {
            let of = left.iter().map(|(p, (begin, end))| (*p, Left { begin: *begin, end: *end }));
            let ends = BTreeMap::new();
            let mut scan =
                Scan { back, left: of.collect(), ends, found: Vec::new(), scanned: 0, over_budget: false };
            while scan.found.len() < limit {
                let bounds = scan.portion(3);
                if bounds.is_empty() {
                    break;
                }
                let within =
                    |r: &&Found| bounds.get(&r.partition).is_some_and(|(b, e)| (*b..*e).contains(&r.offset));
                scan.found.extend(topic.iter().filter(within).filter(|r| takes(r)).cloned());
            }
            let page = scan.page(limit);
            assert!(page.records.len() <= limit);
            all.extend(page.records);
            if page.stopped == Stopped::End {
                return all;
            }
            let next: Cursor = page.next.to_string().parse().unwrap();
            assert_eq!(next, page.next);
            for (partition, offset) in next.offsets {
                let left = left.get_mut(&partition).unwrap();
                if back { left.1 = offset } else { left.0 = offset }
            }
        }
        panic!("no end");
    }

    proptest! {
        #[test]
        fn pages_have_every_record_once_and_in_order(
            sizes in proptest::collection::vec(0..20_i64, 3),
            times in proptest::collection::vec(0..50_i64, 60),
            limit in 1..8_usize,
            back: bool,
            every in 1..4_i64,
        ) {
            let mut topic = Vec::new();
            for (partition, size) in sizes.iter().enumerate() {
                for offset in 0..*size {
                    let time = times[(partition * 20 + usize::try_from(offset).unwrap()) % times.len()];
                    topic.push(record(i32::try_from(partition).unwrap(), offset, time));
                }
            }
            let takes = |r: &Found| r.offset % every == 0;
            let found = pages(&topic, back, limit, &takes);
            for partition in 0..3 {
                let offsets = |records: &[Found]| -> Vec<i64> {
                    records.iter().filter(|r| r.partition == partition).map(|r| r.offset).collect()
                };
                let mut expected = offsets(&topic.iter().filter(|r| takes(r)).cloned().collect::<Vec<_>>());
                if back {
                    expected.reverse();
                }
                prop_assert_eq!(offsets(&found), expected);
            }
        }
    }

    #[rstest]
    #[case("")]
    #[case("after.0")]
    #[case("after.x-1")]
    #[case("sideways.0-1")]
    #[case("before.0-99999999999999999999")]
    fn what_is_no_place_is_refused(#[case] text: &str) {
        assert!(text.parse::<Cursor>().unwrap_err().contains("no place"));
    }
}
