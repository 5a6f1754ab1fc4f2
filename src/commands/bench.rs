//! `lab bench`: seconds to ready, CPU-seconds and memory of each service, the time to the first correct aggregate, by us
//! and by docker compose. Prints what was measured; asserts no time.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use clap::Subcommand;

use super::context::Context;
use super::progress::progress;
use super::status::megabytes;
use crate::clients::producer::{Acks, Order, Progress, produce};
use crate::clients::{kafka, scenarios};
use crate::engine::{Compose, Engine, InstanceLock, SourceChoice, Started, Usage, prepare, start};
use crate::probes::{Answer, eventually};
use crate::project::Project;
use crate::scenarios::transactions::{PYTHON, TOPIC, Transactions};
use crate::signals::{Interrupted, watch_signals};
use crate::topology::{Endpoints, Instance, Plan};

#[derive(Debug, Subcommand)]
pub(super) enum Bench {
    /// From `up` to the first correct aggregate, on an instance of its own that is removed afterwards.
    Startup {
        /// How often.
        #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=20))]
        runs: u32,
        /// Where images come from.
        #[arg(long, value_enum, default_value = "local")]
        images: SourceChoice,
        /// Which lab; of one without Spark the time to ready is measured.
        #[arg(long, value_name = "NAME")]
        lab: Option<String>,
    },
    /// Of a lab with logs that is up: until a line is found, a minute of records, the filters alone.
    Logs,
    /// Of the lab events that is up: from producer to consumer, what the console takes, how fast it searches.
    Events,
    /// The same lab by `lab up` and by docker compose, in turns: from the command to the first correct aggregate.
    Race {
        /// How often each.
        #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=20))]
        runs: u32,
    },
}

/// Records of which the totals must come out.
const RECORDS: u64 = 300;
const SEED: u64 = 7;
const RUN: &str = "bench";

/// Nobody else's instance.
const INSTANCE: &str = "bench";

pub(super) async fn run(context: &Context, bench: Bench) -> Result<()> {
    match bench {
        Bench::Startup { runs, images, lab } => startup(context, runs, images, lab.as_deref()).await,
        Bench::Events => super::bench_events::run(context).await,
        Bench::Logs => super::bench_logs::run(context).await,
        Bench::Race { runs } => race(context, runs).await,
    }
}

/// What is measured on: an instance of its own, which nobody else starts meanwhile.
struct Ground {
    project: Project,
    engine: Engine,
    instance: Instance,
    _lock: InstanceLock,
}

impl Ground {
    async fn take(context: &Context) -> Result<Self> {
        let (project, instance) = (context.project()?, Instance::new(INSTANCE, 0)?);
        Ok(Self { project, instance, _lock: InstanceLock::take(INSTANCE)?, engine: Engine::connect().await? })
    }
}

async fn startup(context: &Context, runs: u32, images: SourceChoice, lab: Option<&str>) -> Result<()> {
    let Ground { project, engine, instance, _lock } = Ground::take(context).await?;
    let plan = project.plan(lab, instance)?;
    let mut firsts = Vec::new();
    for run in 1..=runs {
        say!("run {run}");
        firsts.push(ours(&project, &engine, &plan, images).await?);
    }
    summary("lab up", firsts);
    Ok(())
}

async fn race(context: &Context, runs: u32) -> Result<()> {
    let Ground { project, engine, instance, _lock } = Ground::take(context).await?;
    let plan = project.plan(None, instance)?;
    let (mut by_us, mut by_compose) = (Vec::new(), Vec::new());
    for run in 1..=runs {
        say!("run {run}");
        by_us.push(ours(&project, &engine, &plan, SourceChoice::Local).await?);
        by_compose.push(composed(&project, &engine, &plan).await?);
    }
    let ratio = summary("docker compose", by_compose) / summary("lab up", by_us);
    say!("docker compose takes {ratio:.2} times as long");
    Ok(())
}

/// Prints the spread; gives the median, in seconds.
fn summary(what: &str, mut seconds: Vec<f64>) -> f64 {
    seconds.sort_by(f64::total_cmp);
    let at = |n: usize| seconds.get(n).copied().unwrap_or_default();
    let median = at(seconds.len() / 2);
    say!(
        "{what}: first correct aggregate over {} run(s): min {:.1} s, median {median:.1} s, max {:.1} s",
        seconds.len(),
        at(0),
        at(seconds.len() - 1)
    );
    median
}

/// One start by the lab itself, and its end; seconds to the first correct aggregate.
async fn ours(project: &Project, engine: &Engine, plan: &Plan, images: SourceChoice) -> Result<f64> {
    engine.remove_instance(INSTANCE, true).await?;
    let result = measure(project, engine, plan, images).await;
    let stopping = Instant::now();
    engine.remove_instance(INSTANCE, false).await?;
    let stopped = stopping.elapsed();
    engine.remove_instance(INSTANCE, true).await?;
    let first = result?.as_secs_f64();
    say!("lab up: first correct aggregate after {first:.1} s; down in {:.1} s\n", stopped.as_secs_f64());
    Ok(first)
}

/// One start by docker compose on the same images, and its end; seconds to the first correct aggregate.
async fn composed(project: &Project, engine: &Engine, plan: &Plan) -> Result<f64> {
    let compose = Compose::new(project, plan, &engine.arch)?;
    compose.down(engine).await?;
    let endpoints = Endpoints::of(plan);
    let mut cancel = watch_signals();
    let start = Instant::now();
    let raced = tokio::select! {
        raced = async { tokio::join!(compose.run(&["up", "--wait"]), first_aggregate(&endpoints, start)) } => Some(raced),
        _ = cancel.wait_for(|c| *c) => None,
    };
    let waited = start.elapsed().as_secs_f64();
    let stopping = Instant::now();
    if raced.is_none() {
        compose.give_up().await;
    }
    let down = compose.down(engine).await;
    let stopped = stopping.elapsed().as_secs_f64();
    let Some((up, first)) = raced else {
        return Err(Interrupted("what docker compose had started is gone".to_owned()).into());
    };
    up?;
    down?;
    let first = first?.as_secs_f64();
    say!(
        "docker compose: first correct aggregate after {first:.1} s (both ready after {waited:.1} s); down in {stopped:.1} s\n"
    );
    Ok(first)
}

async fn measure(project: &Project, engine: &Engine, plan: &Plan, images: SourceChoice) -> Result<Duration> {
    let cancel = watch_signals();
    let (events, lines) = progress();
    let measured = async {
        // Images are not part of a start: what is missing is built before the clock runs.
        let prepared = prepare(project, engine, plan, images, &events).await?;
        let endpoints = Endpoints::of(&prepared.plan);
        let clock = Instant::now();
        let starting = start(project, engine, &prepared, &events, cancel);
        let has_aggregates = prepared.plan.topics.iter().any(|t| t.name == TOPIC);
        let (started, first) = if has_aggregates {
            tokio::try_join!(starting, first_aggregate(&endpoints, clock))?
        } else {
            let started = starting.await?;
            (started, clock.elapsed())
        };
        anyhow::Ok((prepared.plan, started, first))
    };
    let measured = measured.await;
    drop(events);
    lines.await?;
    let (plan, started, first): (Plan, Started, Duration) = measured?;
    let ready: BTreeMap<String, Duration> = started.give_away().into_iter().collect();
    let mut sum = (0.0, 0, 0);
    say!("\n{:<24} {:>9} {:>8} {:>9} {:>9}", "SERVICE", "READY s", "CPU s", "MEMORY", "PEAK");
    for service in &plan.services {
        let usage: Usage = engine.usage(&service.container).await.unwrap_or_default();
        let peak = engine.peak_memory(&service.container).await;
        let seconds = ready.get(&service.name).map_or(f64::NAN, Duration::as_secs_f64);
        say!(
            "{:<24} {seconds:>9.1} {:>8.1} {:>9} {:>9}",
            service.name,
            usage.cpu_seconds,
            megabytes(usage.memory),
            peak.map_or("-".to_owned(), megabytes)
        );
        sum = (sum.0 + usage.cpu_seconds, sum.1 + usage.memory, sum.2 + peak.unwrap_or_default());
    }
    say!("{:<24} {:>9} {:>8.1} {:>9} {:>9}", "in all", "", sum.0, megabytes(sum.1), megabytes(sum.2));
    say!("(PEAK counts the page cache that the kernel charges to the container)");
    Ok(first)
}

/// Writes a known run as soon as Kafka takes it, and waits until Spark's totals are exactly its own.
async fn first_aggregate(endpoints: &Endpoints, start: Instant) -> Result<Duration> {
    let bootstrap = endpoints.bootstrap();
    let patience = Duration::from_secs(180);
    let every = Duration::from_millis(250);
    eventually("the topic is there", patience, every, || async {
        kafka::offsets(&bootstrap, TOPIC).await.map(|_| Answer::Is(()))
    })
    .await?;
    let order = Order {
        bootstrap: bootstrap.clone(),
        profile: PYTHON,
        acks: Acks::All,
        count: Some(RECORDS),
        seed: SEED,
        run: Some(RUN.to_owned()),
        ..Order::default()
    };
    let (_stop, never) = tokio::sync::watch::channel(false);
    let ledger = produce(&order, Transactions::of(&order), Arc::new(Progress::default()), never).await?;
    if ledger.acknowledged != RECORDS {
        bail!("{} of {RECORDS} records were acknowledged", ledger.acknowledged);
    }
    let expected = Transactions::new(SEED, Some(RUN)).totals(RECORDS);
    eventually("Spark's totals are the generator's", patience, every, || async {
        let of_run = |merchant: &str| merchant.ends_with(&format!("-{RUN}"));
        let found = scenarios::aggregates(&bootstrap, BTreeMap::new(), of_run).await?.merchants;
        Ok(if found == expected.merchants { Answer::Is(()) } else { Answer::NotYet(format!("{found:?}")) })
    })
    .await?;
    Ok(start.elapsed())
}
