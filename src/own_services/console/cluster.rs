//! What is known of the lab, Kafka above all: looked at every two seconds while somebody looks at the console, and not at all otherwise.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use time::OffsetDateTime;
use tokio::sync::{Notify, watch};
use tokio::time::{MissedTickBehavior, interval, timeout};

use super::monitoring::{Monitored, Monitoring};
use crate::clients::groups::{GroupReader, Groups};

/// How often somebody who looks sees something new.
const EVERY: Duration = Duration::from_secs(2);
/// So long after the last request nobody looks any more.
const LOOKING: Duration = Duration::from_secs(10);
/// What is older is not shown without looking again.
const FRESH: Duration = Duration::from_secs(3);
/// How long a page waits for Kafka before it is shown with what is known.
const PATIENCE: Duration = Duration::from_secs(4);
/// Over how long rates are measured.
const RATE: Duration = Duration::from_secs(10);

/// The cluster at one moment.
#[derive(Debug, Clone)]
pub(super) struct Seen {
    /// When.
    pub(super) at: OffsetDateTime,
    looked: Option<Instant>,
    /// Topics, groups, brokers.
    pub(super) groups: Groups,
    /// Records a second by topic, over ten seconds; none after the first look.
    pub(super) rates: BTreeMap<String, f64>,
    /// Why Kafka could not be asked since then.
    pub(super) problem: Option<String>,
    /// What fires, and which services answer: as it is now, also where Kafka does not answer.
    pub(super) monitored: Monitored,
}

impl Seen {
    /// The offsets that a topic has given out so far, of all partitions.
    pub(super) fn written(&self, topic: &str) -> i64 {
        self.partitions(topic).map(|(_, next)| next).sum()
    }

    /// The offsets that are still there. More than records: a transaction's end and what compaction has removed have offsets too.
    pub(super) fn offsets(&self, topic: &str) -> i64 {
        self.partitions(topic).map(|(first, next)| next - first).sum()
    }

    /// Records a second of all topics; none after the first look.
    pub(super) fn rate(&self) -> Option<f64> {
        (!self.rates.is_empty()).then(|| self.rates.values().sum())
    }

    fn partitions(&self, topic: &str) -> impl Iterator<Item = (i64, i64)> {
        self.groups.offsets.iter().filter(move |((name, _), _)| name == topic).map(|(_, ends)| *ends)
    }
}

/// Looks at the cluster.
pub(super) struct Cluster {
    reader: GroupReader,
    monitoring: Arc<Monitoring>,
    seen: watch::Sender<Arc<Seen>>,
    asked: Mutex<Option<Instant>>,
    woken: Notify,
    /// The ends of topics over the last seconds.
    before: Mutex<VecDeque<(Instant, BTreeMap<String, i64>)>>,
}

impl Cluster {
    pub(super) fn new(bootstrap: &str, monitoring: Arc<Monitoring>) -> Self {
        let nothing = Seen {
            at: OffsetDateTime::now_utc(),
            looked: None,
            groups: Groups::default(),
            rates: BTreeMap::new(),
            problem: None,
            monitored: Monitored::default(),
        };
        Self {
            monitoring,
            reader: GroupReader::new(bootstrap),
            seen: watch::Sender::new(Arc::new(nothing)),
            asked: Mutex::default(),
            woken: Notify::new(),
            before: Mutex::default(),
        }
    }

    /// Each new look, from now on; somebody looks as long as this is held.
    pub(super) fn news(&self) -> watch::Receiver<Arc<Seen>> {
        let news = self.seen.subscribe();
        self.woken.notify_one();
        news
    }

    /// The cluster as it is now, or as it was when Kafka last answered, with the problem since.
    pub(super) async fn now(&self) -> Arc<Seen> {
        self.seen_since(Instant::now().checked_sub(FRESH)).await
    }

    /// The same; where something is not in it, as it is after one more look: it may have come a moment ago.
    pub(super) async fn now_with(&self, has: impl Fn(&Groups) -> bool) -> Arc<Seen> {
        let seen = self.now().await;
        if has(&seen.groups) || seen.problem.is_some() {
            return seen;
        }
        self.after_now().await
    }

    /// The cluster as it is after something was changed.
    pub(super) async fn after_now(&self) -> Arc<Seen> {
        self.seen_since(Some(Instant::now())).await
    }

    async fn seen_since(&self, moment: Option<Instant>) -> Arc<Seen> {
        *self.asked.lock().unwrap_or_else(PoisonError::into_inner) = Some(Instant::now());
        let mut news = self.news();
        let later = |seen: &Arc<Seen>| seen.looked.is_some_and(|at| Some(at) >= moment);
        if let Ok(Ok(seen)) = timeout(PATIENCE, news.wait_for(later)).await {
            return Arc::clone(&seen);
        }
        let mut known = Seen::clone(&news.borrow());
        known.problem.get_or_insert_with(|| format!("Kafka did not answer within {} s", PATIENCE.as_secs()));
        Arc::new(known)
    }

    fn wanted(&self) -> bool {
        let asked = *self.asked.lock().unwrap_or_else(PoisonError::into_inner);
        self.seen.receiver_count() > 0 || asked.is_some_and(|at| at.elapsed() < LOOKING)
    }

    /// Looks while somebody wants it, until `stop` turns true.
    pub(super) async fn look_while_wanted(self: Arc<Self>, mut stop: watch::Receiver<bool>) {
        let looking = async {
            let mut ticks = interval(EVERY);
            ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
            loop {
                ticks.tick().await;
                if !self.wanted() {
                    self.before.lock().unwrap_or_else(PoisonError::into_inner).clear();
                    self.woken.notified().await;
                    ticks.reset();
                }
                self.look().await;
            }
        };
        tokio::select! {
            () = looking => {}
            _ = stop.wait_for(|s| *s) => {}
        }
    }

    async fn look(&self) {
        let (read, monitored) = tokio::join!(self.reader.read(), self.monitoring.ask());
        let next = match read {
            Ok(groups) => {
                let mut seen = Seen {
                    at: OffsetDateTime::now_utc(),
                    looked: Some(Instant::now()),
                    groups,
                    rates: BTreeMap::new(),
                    problem: None,
                    monitored,
                };
                seen.rates = self.rates(&seen);
                seen
            }
            Err(error) => {
                let known = Seen::clone(&self.seen.borrow());
                let (looked, problem) = (Some(Instant::now()), Some(format!("{error:#}")));
                Seen { looked, problem, monitored, ..known }
            }
        };
        self.seen.send_replace(Arc::new(next));
    }

    fn rates(&self, seen: &Seen) -> BTreeMap<String, f64> {
        let now = Instant::now();
        let written: BTreeMap<String, i64> =
            seen.groups.topics.keys().map(|topic| (topic.clone(), seen.written(topic))).collect();
        let mut before = self.before.lock().unwrap_or_else(PoisonError::into_inner);
        before.retain(|(at, _)| now.duration_since(*at) <= RATE);
        let rates = before.front().map(|(at, then)| rates(then, &written, now.duration_since(*at)));
        before.push_back((now, written));
        rates.unwrap_or_default()
    }
}

/// Records a second of the topics that were there before; one that was made anew has none.
#[allow(clippy::cast_precision_loss, reason = "a rate for people")]
fn rates(
    then: &BTreeMap<String, i64>,
    now: &BTreeMap<String, i64>,
    after: Duration,
) -> BTreeMap<String, f64> {
    let seconds = after.as_secs_f64().max(0.001);
    let of = |(topic, written): (&String, &i64)| {
        let more = written - then.get(topic)?;
        (more >= 0).then(|| (topic.clone(), more as f64 / seconds))
    };
    now.iter().filter_map(of).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rate_is_of_topics_that_were_there_and_have_grown() {
        let of = |topics: &[(&str, i64)]| topics.iter().map(|(t, n)| ((*t).to_owned(), *n)).collect();
        let then = of(&[("a", 10), ("quiet", 5), ("made-anew", 100)]);
        let now = of(&[("a", 30), ("quiet", 5), ("made-anew", 3), ("new", 7)]);
        let rates = rates(&then, &now, Duration::from_secs(10));
        assert_eq!(rates, BTreeMap::from([("a".to_owned(), 2.0), ("quiet".to_owned(), 0.0)]));
    }
}
