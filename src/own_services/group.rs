//! Members of a consumer group of the events lab, in one program: what they add up is served as metrics and as JSON, and outlives
//! them.

mod kept;
mod member;

use std::collections::BTreeMap;
use std::io::Write as _;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Result, anyhow};
use axum::routing::get;
use axum::{Json, Router};
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric as _};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::metrics::histogram::Histogram;
use serde::Serialize;
use streamlab_records::results::{Figure, Results};
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinSet;

use self::kept::{Keeper, Kept};
use self::member::Member;
use super::metrics::{Buckets, Registry, Topic, serve};

/// How long members may take to keep, commit and leave. Brokers that are away must not keep the program.
const LEAVE: Duration = Duration::from_secs(5);
/// Longest pause between two polls with which a member counts as alive.
const ALIVE: Duration = Duration::from_secs(15);
/// Errors that are told apart.
const KINDS: usize = 16;

/// Which members of which group.
#[derive(Debug, Clone)]
pub struct Order<R: Results> {
    /// Kafka's bootstrap servers.
    pub bootstrap: String,
    /// The group.
    pub group: String,
    /// What the results depend on besides the records.
    pub settings: R::Settings,
    /// How many members.
    pub members: usize,
}

/// A partition that a member has.
struct Owned<R> {
    member: usize,
    kept: Kept<R>,
    /// Up to where the results are kept.
    stored: i64,
}

/// One member as others see it.
#[derive(Debug, Clone, Default)]
struct State {
    polled: Option<Instant>,
    /// The partitions that it was told; none before it is in the group.
    told: Option<Vec<i32>>,
}

/// What members and answers share.
struct Shared<R: Results> {
    bootstrap: String,
    group: String,
    settings: R::Settings,
    keeper: Keeper,
    owned: Mutex<BTreeMap<i32, Owned<R>>>,
    members: Mutex<Vec<State>>,
    errors: Mutex<Vec<String>>,
    /// Why it cannot go on.
    failure: Mutex<Option<String>>,
    records: Counter,
    malformed: Counter,
    failures: Counter,
    batches: Counter,
    age: Histogram,
}

fn held<T>(lock: &Mutex<T>) -> MutexGuard<'_, T> {
    lock.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A line of the log; a log that nobody takes must not end the service.
fn say(line: std::fmt::Arguments<'_>) {
    let _ = writeln!(std::io::stdout(), "{line}");
}

impl<R: Results> Shared<R> {
    fn new(order: &Order<R>, registry: &mut Registry) -> Result<Self> {
        const SECONDS: Buckets =
            Buckets(&[0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 60.0, 3600.0]);
        let topic = Topic::of(R::TOPIC);
        let errors =
            registry.counters("consumer_errors", "Malformed records by topic, and errors of the client");
        Ok(Self {
            bootstrap: order.bootstrap.clone(),
            group: order.group.clone(),
            settings: order.settings.clone(),
            keeper: Keeper::new(&order.bootstrap, &order.group)?,
            owned: Mutex::default(),
            members: Mutex::new(vec![State::default(); order.members]),
            errors: Mutex::default(),
            failure: Mutex::default(),
            records: registry
                .counters("consumer_records", "Records read, malformed ones too")
                .get_or_create_owned(&topic),
            malformed: errors.get_or_create_owned(&topic),
            failures: errors.get_or_create_owned(&Topic::of("client")),
            batches: registry
                .counters("consumer_batches", "Batches of records that were taken at once")
                .get_or_create_owned(&topic),
            age: registry
                .histograms(
                    "consumer_record_age_seconds",
                    "From the record's timestamp until it was handled",
                    SECONDS,
                )
                .get_or_create_owned(&topic),
        })
    }

    fn owned(&self) -> MutexGuard<'_, BTreeMap<i32, Owned<R>>> {
        held(&self.owned)
    }

    fn own(&self, member: usize, partition: i32, kept: Kept<R>) {
        let stored = kept.next;
        self.owned().insert(partition, Owned { member, kept, stored });
    }

    fn disown(&self, member: usize, partition: i32) {
        let mut owned = self.owned();
        if owned.get(&partition).is_some_and(|own| own.member == member) {
            owned.remove(&partition);
        }
    }

    fn polled(&self, member: usize) {
        held(&self.members)[member].polled = Some(Instant::now());
    }

    /// The member has been told its partitions: says which they are, where they are others than before.
    fn has(&self, member: usize) {
        let partitions = self.partitions(member);
        held(&self.errors).clear();
        let before = held(&self.members)[member].told.replace(partitions.clone());
        if before.as_ref() == Some(&partitions) {
            return;
        }
        let (member, group) = (member + 1, &self.group);
        match partitions.is_empty() {
            true => say(format_args!("member {member} of {group} has no partition")),
            false => say(format_args!("member {member} of {group} has partitions {partitions:?}")),
        }
    }

    fn partitions(&self, member: usize) -> Vec<i32> {
        self.owned().iter().filter(|(_, own)| own.member == member).map(|(partition, _)| *partition).collect()
    }

    /// Counts an error of the client. The same again is not said again: a broker that is away repeats itself.
    fn client_error(&self, error: String) {
        self.failures.inc();
        let mut errors = held(&self.errors);
        match errors.iter().position(|known| *known == error) {
            Some(at) => drop(errors.remove(at)),
            None => say(format_args!("client: {error}")),
        }
        errors.push(error);
        if errors.len() > KINDS {
            errors.remove(0);
        }
    }

    fn fail(&self, why: String) {
        held(&self.failure).get_or_insert(why);
    }

    fn failed(&self) -> Result<()> {
        match held(&self.failure).clone() {
            Some(why) => Err(anyhow!(why)),
            None => Ok(()),
        }
    }

    /// Whether every member is in the group and asks for records; one without a partition is well too.
    fn health(&self) -> Result<(), String> {
        let members = held(&self.members).clone();
        let why = members.iter().enumerate().find_map(|(number, state)| {
            let number = number + 1;
            match state.polled.map(|polled| polled.elapsed()) {
                None => Some(format!("member {number} has not begun")),
                Some(since) if since > ALIVE => {
                    Some(format!("member {number} asked for records {} s ago", since.as_secs()))
                }
                _ if state.told.is_none() => {
                    Some(format!("member {number} is not in the group {}", self.group))
                }
                _ => None,
            }
        });
        match (why, held(&self.errors).last()) {
            (None, _) => Ok(()),
            (Some(why), None) => Err(why),
            (Some(why), Some(error)) => Err(format!("{why}; last error: {error}")),
        }
    }

    /// Who has what, and what was added up.
    fn page(&self) -> Page<R> {
        let members = (0..held(&self.members).len())
            .map(|member| Shares { member: member + 1, partitions: self.partitions(member) })
            .collect();
        let kept = self.owned().iter().map(|(partition, own)| (*partition, own.kept.clone())).collect();
        Page { members, results: GroupResults::of(&self.group, kept) }
    }
}

#[derive(Serialize)]
struct Page<R> {
    members: Vec<Shares>,
    #[serde(flatten)]
    results: GroupResults<R>,
}

#[derive(Serialize)]
struct Shares {
    member: usize,
    partitions: Vec<i32>,
}

/// What a group has added up of a topic.
#[derive(Debug, Serialize)]
pub struct GroupResults<R> {
    /// The group.
    pub group: String,
    /// Its topic.
    pub topic: &'static str,
    /// The first offset of each partition that is not in the results.
    pub offsets: BTreeMap<i32, i64>,
    /// Of all these partitions together.
    pub results: R,
}

impl<R: Results> GroupResults<R> {
    fn of(group: &str, partitions: BTreeMap<i32, Kept<R>>) -> Self {
        let offsets = partitions.iter().map(|(partition, kept)| (*partition, kept.next)).collect();
        let mut results = R::default();
        partitions.into_values().for_each(|kept| results.join(kept.results));
        Self { group: group.to_owned(), topic: R::TOPIC, offsets, results }
    }
}

/// What a group has kept, whoever its members are: up to five seconds old.
///
/// # Errors
/// The cluster does not answer, or has no topic for results.
pub async fn results<R: Results>(bootstrap: &str, group: &str) -> Result<GroupResults<R>> {
    Ok(GroupResults::of(group, kept::read(bootstrap, group).await?))
}

/// The results as gauges, by partition: each partition is one member's, so that a sum over members counts nothing twice.
struct Gauges<R: Results>(Arc<Shared<R>>);

impl<R: Results> std::fmt::Debug for Gauges<R> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "results of {}", self.0.group)
    }
}

impl<R: Results> Collector for Gauges<R> {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), std::fmt::Error> {
        let figures: Vec<(i32, Vec<Figure>)> =
            self.0.owned().iter().map(|(partition, own)| (*partition, own.kept.results.figures())).collect();
        for (metric, help) in R::METRICS {
            let gauge = ConstGauge::new(0.0);
            let mut family = encoder.encode_descriptor(metric, help, None, gauge.metric_type())?;
            for (partition, figures) in &figures {
                for figure in figures.iter().filter(|figure| figure.metric == *metric) {
                    let mut labels = figure.labels.clone();
                    labels.push(("partition", partition.to_string()));
                    ConstGauge::new(figure.value).encode(family.encode_family(&labels)?)?;
                }
            }
        }
        Ok(())
    }
}

/// Reads as members of a group until `stop` turns true; with a listener, answers on it meanwhile.
///
/// # Errors
/// A member cannot be made, or the group's results cannot be read.
pub async fn run<R: Results>(
    order: Order<R>,
    listener: Option<TcpListener>,
    stop: watch::Receiver<bool>,
) -> Result<()> {
    let mut registry = Registry::new();
    let shared = Arc::new(Shared::new(&order, &mut registry)?);
    registry.inner().register_collector(Box::new(Gauges(Arc::clone(&shared))));
    let server = listener.map(|listener| {
        let (health, page) = (Arc::clone(&shared), Arc::clone(&shared));
        let results = Router::new().route("/results", get(move || async move { Json(page.page()) }));
        let router = registry.router(move || health.health()).merge(results);
        tokio::spawn(serve(listener, router, stop.clone()))
    });
    let mut members = JoinSet::new();
    for number in 0..order.members {
        let member = Member::new(Arc::clone(&shared), number, stop.clone());
        members.spawn_blocking(move || member.run());
    }
    let mut stopped = stop;
    let stopped = async move { drop(stopped.wait_for(|s| *s).await) };
    let ended = async {
        while let Some(ended) = members.join_next().await {
            ended??;
        }
        anyhow::Ok(())
    };
    tokio::pin!(ended);
    let result = tokio::select! {
        result = &mut ended => result,
        () = stopped => match tokio::time::timeout(LEAVE, ended).await {
            Ok(result) => result,
            // What is not kept is read again: the results are the same then.
            Err(_) => Ok(()),
        },
    };
    if let Some(server) = server {
        server.abort();
    }
    result
}
