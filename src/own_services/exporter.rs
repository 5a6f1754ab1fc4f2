//! `lab-exporter`: what no product of the lab says about itself: consumer lag, how far Spark's queries are, and what each
//! container uses. Everything is asked for anew at each scrape, so that what has gone is gone from the page too.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use axum::Router;
use axum::extract::State;
use axum::http::StatusCode;
use axum::routing::get;
use futures::future::BoxFuture;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

use tokio::net::TcpListener;
use tokio::sync::watch;

use super::metrics;
use crate::clients::checkpoints;
use crate::clients::groups::{GroupReader, Groups, TopicPartition};
use crate::probes::Usage;

/// One collector may take this long; Prometheus gives up after 4 s.
const PATIENCE: Duration = Duration::from_secs(3);

type Number = Gauge<i64>;
type Seconds = Gauge<f64, std::sync::atomic::AtomicU64>;
type Total = Counter<f64, std::sync::atomic::AtomicU64>;

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OfPartition {
    topic: String,
    partition: i32,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OfGroup {
    consumergroup: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OfGroupPartition {
    consumergroup: String,
    topic: String,
    partition: i32,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OfQueryPartition {
    query: String,
    topic: String,
    partition: i32,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OfContainer {
    name: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OfCollector {
    collector: &'static str,
}

/// Asks what each container uses, by documented name.
pub type Used = Box<dyn Fn() -> BoxFuture<'static, Result<Vec<(String, Usage)>>> + Send + Sync>;

/// Where the exporter looks.
pub struct Exporter {
    groups: GroupReader,
    checkpoints: PathBuf,
    used: Option<Used>,
}

impl Exporter {
    /// Groups and topics at `bootstrap`; queries below `checkpoints`, where there is such a folder; containers by `used`,
    /// where there is an engine to ask.
    pub fn new(bootstrap: &str, checkpoints: PathBuf, used: Option<Used>) -> Self {
        Self { groups: GroupReader::new(bootstrap), checkpoints, used }
    }

    /// Everything that can be had now; a collector that fails says so in `lab_collector_success` and on standard error.
    async fn collect(&self) -> metrics::Registry {
        let mut collected = metrics::Registry::new();
        let registry = collected.inner();
        let used = async {
            match &self.used {
                Some(used) => Some(timed(used()).await),
                None => None,
            }
        };
        let (groups, used) = tokio::join!(timed(self.groups.read()), used);
        // A lab without Spark has no checkpoints, and no figures of them.
        let queries = timed(async {
            if self.checkpoints.is_dir() { checkpoints::read(&self.checkpoints) } else { Ok(BTreeMap::new()) }
        })
        .await;
        let outcome = Outcome::new(registry);
        let groups = outcome.of("consumer_groups", groups).unwrap_or_default();
        offsets(registry, &groups);
        group_figures(registry, &groups);
        if let Some(queries) = outcome.of("spark_queries", queries) {
            let offset = Family::<OfQueryPartition, Number>::default();
            let behind = Family::<OfQueryPartition, Number>::default();
            for (query, partitions) in queries {
                for (at, next) in partitions {
                    let labels =
                        OfQueryPartition { query: query.clone(), topic: at.0.clone(), partition: at.1 };
                    offset.get_or_create(&labels).set(next);
                    if let Some((_, end)) = groups.offsets.get(&at) {
                        behind.get_or_create(&labels).set((end - next).max(0));
                    }
                }
            }
            registry.register(
                "spark_query_offset",
                "Next offset that a streaming query will read, as its checkpoint says",
                offset,
            );
            registry.register(
                "spark_query_records_behind",
                "Records that a streaming query has not committed yet",
                behind,
            );
        }
        if let Some(used) = used.and_then(|used| outcome.of("containers", used)) {
            container_figures(registry, used);
        }
        collected
    }

    /// Answers on `listener` until `stop` turns true. Healthy while the cluster answers.
    pub async fn run(self, listener: TcpListener, stop: watch::Receiver<bool>) {
        let router = Router::new()
            .route(
                "/metrics",
                get(|State(own): State<Arc<Self>>| async move { own.collect().await.response() }),
            )
            .route("/health", get(health))
            .with_state(Arc::new(self));
        metrics::serve(listener, router, stop).await;
    }
}

async fn health(State(own): State<Arc<Exporter>>) -> (StatusCode, String) {
    match own.groups.read().await {
        Ok(_) => (StatusCode::OK, "ok\n".to_owned()),
        Err(error) => (StatusCode::SERVICE_UNAVAILABLE, format!("{error:#}\n")),
    }
}

async fn timed<T>(work: impl Future<Output = Result<T>>) -> (Duration, Result<T>) {
    let start = Instant::now();
    let result = match tokio::time::timeout(PATIENCE, work).await {
        Ok(result) => result,
        Err(elapsed) => Err(elapsed).context(format!("no end after {} s", PATIENCE.as_secs())),
    };
    (start.elapsed(), result)
}

/// Says of each collector whether it worked and how long it took.
struct Outcome {
    success: Family<OfCollector, Number>,
    duration: Family<OfCollector, Seconds>,
}

impl Outcome {
    fn new(registry: &mut Registry) -> Self {
        let outcome = Self { success: Family::default(), duration: Family::default() };
        registry.register(
            "lab_collector_success",
            "1 where a collector worked, 0 where it failed",
            outcome.success.clone(),
        );
        registry.register(
            "lab_collector_duration_seconds",
            "How long a collector took",
            outcome.duration.clone(),
        );
        outcome
    }

    fn of<T>(&self, collector: &'static str, (took, result): (Duration, Result<T>)) -> Option<T> {
        let labels = OfCollector { collector };
        self.duration.get_or_create(&labels).set(took.as_secs_f64());
        self.success.get_or_create(&labels).set(i64::from(result.is_ok()));
        result.inspect_err(|error| eprintln!("{collector}: {error:#}")).ok()
    }
}

fn offsets(registry: &mut Registry, groups: &Groups) {
    let next = Family::<OfPartition, Number>::default();
    let first = Family::<OfPartition, Number>::default();
    for ((topic, partition), (begin, end)) in &groups.offsets {
        let labels = OfPartition { topic: topic.clone(), partition: *partition };
        first.get_or_create(&labels).set(*begin);
        next.get_or_create(&labels).set(*end);
    }
    registry.register("kafka_topic_partition_current_offset", "Next offset of a partition", next);
    registry.register("kafka_topic_partition_oldest_offset", "First offset of a partition", first);
}

fn group_figures(registry: &mut Registry, groups: &Groups) {
    let members = Family::<OfGroup, Number>::default();
    let committed = Family::<OfGroupPartition, Number>::default();
    let lag = Family::<OfGroupPartition, Number>::default();
    for (name, group) in &groups.groups {
        let count = i64::try_from(group.members.len()).unwrap_or(i64::MAX);
        members.get_or_create(&OfGroup { consumergroup: name.clone() }).set(count);
        for (at, offset) in &group.committed {
            let (topic, partition): TopicPartition = at.clone();
            let labels = OfGroupPartition { consumergroup: name.clone(), topic, partition };
            committed.get_or_create(&labels).set(*offset);
            if let Some(records) = groups.lag(name, at) {
                lag.get_or_create(&labels).set(records);
            }
        }
    }
    registry.register("kafka_consumergroup_members", "Consumers in a group", members);
    registry.register("kafka_consumergroup_current_offset", "Offset that a group has committed", committed);
    registry.register("kafka_consumergroup_lag", "Records that a group has not committed yet", lag);
}

fn container_figures(registry: &mut Registry, used: Vec<(String, Usage)>) {
    let bytes = |n: u64| i64::try_from(n).unwrap_or(i64::MAX);
    #[allow(clippy::cast_precision_loss, reason = "bytes of a lab's network fit in 53 bits")]
    let total = |n: u64| n as f64;
    let memory = Family::<OfContainer, Number>::default();
    let limit = Family::<OfContainer, Number>::default();
    let cpu = Family::<OfContainer, Total>::default();
    let received = Family::<OfContainer, Total>::default();
    let sent = Family::<OfContainer, Total>::default();
    let restarts = Family::<OfContainer, Total>::default();
    for (name, usage) in used {
        let labels = OfContainer { name };
        memory.get_or_create(&labels).set(bytes(usage.memory));
        limit.get_or_create(&labels).set(bytes(usage.memory_limit));
        cpu.get_or_create(&labels).inc_by(usage.cpu_seconds);
        received.get_or_create(&labels).inc_by(total(usage.received));
        sent.get_or_create(&labels).inc_by(total(usage.sent));
        restarts.get_or_create(&labels).inc_by(total(usage.restarts));
    }
    registry.register(
        "container_memory_working_set_bytes",
        "Memory of a container without page cache that can go",
        memory,
    );
    registry.register("container_spec_memory_limit_bytes", "Memory limit of a container", limit);
    registry.register("container_cpu_usage_seconds", "CPU time of a container", cpu);
    registry.register("container_network_receive_bytes", "Bytes that a container has received", received);
    registry.register("container_network_transmit_bytes", "Bytes that a container has sent", sent);
    registry.register(
        "container_restarts",
        "How often the engine has started a container again after it had died by itself",
        restarts,
    );
}
