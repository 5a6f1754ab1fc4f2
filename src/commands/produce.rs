//! `lab produce`: writes a scenario's records; on the host into a running lab, or as a service of the lab itself.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use clap::{Subcommand, ValueEnum};
use prometheus_client::encoding::EncodeLabelSet;

use super::context::Context;
use crate::clients::producer::{Acks, Ledger, Order, Progress, produce};
use crate::engine::Session;
use crate::own_services::metrics::{self, Buckets, Registry, Topic};
use crate::probes::{Answer, eventually};
use crate::scenarios::events::{AppLogs, Defaults, HostMetrics, UserEvents};
use crate::scenarios::logs::{Environment, Logs, SHIPPER};
use crate::scenarios::transactions::{self, JAVA, PYTHON, Transactions};
use crate::scenarios::{Format, Sequence};
use crate::signals::watch_signals;

#[derive(Debug, Subcommand)]
pub(super) enum Scenario {
    /// Financial transactions.
    Transactions(TransactionsArgs),
    /// Log records of applications.
    Logs(LogsArgs),
    /// What users do (events lab): acks all, 0.5 a second.
    Events(EventsArgs),
    /// What services log (events lab): acks 1, 0.3 a second.
    AppLogs(EventsArgs),
    /// What hosts measure (events lab): acks 1, 1.8 a second.
    Metrics(EventsArgs),
}

/// Producer settings, as the seed's two producers have them.
#[derive(Debug, Clone, Copy, ValueEnum)]
enum TransactionsProfile {
    /// gzip, acks 1, linger 10 ms, batches of 1000 records.
    Python,
    /// snappy, acks 1, linger 3 ms, batches of 64 KB, partitioned as Kafka's own client does.
    Java,
}

#[derive(Debug, clap::Args)]
pub(super) struct TransactionsArgs {
    /// Producer settings, as one of the seed's two producers has them.
    #[arg(long, value_enum, default_value = "python")]
    profile: TransactionsProfile,
    /// Record format.
    #[arg(long, value_enum, default_value = "json")]
    format: Format,
    /// Threads; --rate is that of each.
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=256))]
    threads: u32,
    /// Own merchants for this run: merchant_1-RUN and so on.
    #[arg(long)]
    run: Option<String>,
    /// The schema registry of --bootstrap-servers, for --format avro.
    #[arg(long, value_name = "URL", requires = "bootstrap_servers")]
    schema_registry_url: Option<String>,
    #[command(flatten)]
    any: Args,
}

#[derive(Debug, clap::Args)]
pub(super) struct LogsArgs {
    /// Which applications: those under development, or those in production.
    #[arg(long = "env", value_enum, default_value = "dev")]
    environment: Environment,
    /// What the field run of each record says; a random one where absent.
    #[arg(long, value_parser = name_of_a_run)]
    run: Option<String>,
    #[command(flatten)]
    any: Args,
}

#[derive(Debug, clap::Args)]
pub(super) struct EventsArgs {
    /// Producers side by side; --rate is that of each.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=64))]
    scale: u32,
    /// Own users, services or hosts for this run: user_1-RUN and so on.
    #[arg(long, value_parser = name_of_a_run)]
    run: Option<String>,
    #[command(flatten)]
    any: Args,
}

/// Records a second.
#[derive(Debug, Clone, Copy)]
enum Rate {
    Of(f64),
    Max,
}

/// What every scenario's producer takes.
#[derive(Debug, clap::Args)]
struct Args {
    /// Acknowledgement: the leader alone, or every in-sync replica with idempotence. Where absent: the scenario's own, or 1.
    #[arg(long, value_enum)]
    acks: Option<Acks>,
    /// Records a second, or max for as fast as it goes. Where absent: max with --count, without it the scenario's own, or 10.
    #[arg(long, value_parser = positive_rate, allow_negative_numbers = true)]
    rate: Option<Rate>,
    /// Records in all; without it until Ctrl-C.
    #[arg(long, value_parser = clap::value_parser!(u64).range(1..=100_000_000))]
    count: Option<u64>,
    /// Seed of the generator; a random one where absent.
    #[arg(long)]
    seed: Option<u64>,
    /// Write the ledger of every acknowledged record to a file, as JSON (- for standard output).
    #[arg(long, value_name = "FILE", requires = "count")]
    ledger: Option<PathBuf>,
    /// Write to these brokers (host:port,…) instead of an instance that runs here.
    #[arg(long, value_name = "ADDRESSES")]
    bootstrap_servers: Option<String>,
    /// Serve /metrics and /health (200 from the first acknowledged record on) at this address while producing.
    #[arg(long, value_name = "ADDRESS")]
    metrics_listen: Option<SocketAddr>,
}

fn name_of_a_run(text: &str) -> Result<String, String> {
    let fits = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
    match text.len() {
        1..=64 if text.chars().all(fits) => Ok(text.to_owned()),
        _ => Err("a run is 1 to 64 letters, digits, - _ or .".to_owned()),
    }
}

fn positive_rate(text: &str) -> Result<Rate, String> {
    if text == "max" {
        return Ok(Rate::Max);
    }
    match text.parse::<f64>() {
        Ok(rate) if (0.001..=100_000.0).contains(&rate) => Ok(Rate::Of(rate)),
        _ => Err("a rate is a number of records a second, from 0.001 to 100000, or max".to_owned()),
    }
}

/// What scenarios have that no seed describes.
const OTHERWISE: Defaults = Defaults { profile: SHIPPER, acks: Acks::Leader, rate: 10.0 };

pub(super) async fn run(context: &Context, scenario: Scenario) -> Result<()> {
    let registry = Registry::new();
    match scenario {
        Scenario::Transactions(args) => {
            let mut order = args.any.order(context, transactions::topic(args.format), OTHERWISE).await?;
            order.profile = match args.profile {
                TransactionsProfile::Python => PYTHON,
                TransactionsProfile::Java => JAVA,
            };
            order.registry_url = args.schema_registry_url.unwrap_or(order.registry_url);
            (order.format, order.threads, order.run) = (args.format, args.threads, args.run);
            let sequence = Transactions::of(&order);
            write(args.any, order, sequence, registry).await
        }
        Scenario::Logs(args) => logs(context, args, registry).await,
        Scenario::Events(args) => {
            let defaults = UserEvents::DEFAULTS;
            events(context, args, UserEvents::TOPIC, defaults, UserEvents::of, registry).await
        }
        Scenario::AppLogs(args) => {
            let defaults = AppLogs::DEFAULTS;
            events(context, args, AppLogs::TOPIC, defaults, AppLogs::of, registry).await
        }
        Scenario::Metrics(args) => {
            let defaults = HostMetrics::DEFAULTS;
            events(context, args, HostMetrics::TOPIC, defaults, HostMetrics::of, registry).await
        }
    }
}

async fn events<S: Sequence>(
    context: &Context,
    args: EventsArgs,
    topic: &str,
    defaults: Defaults,
    sequence: fn(&Order) -> S,
    registry: Registry,
) -> Result<()> {
    let mut order = args.any.order(context, topic, defaults).await?;
    (order.threads, order.run) = (args.scale, args.run);
    let sequence = sequence(&order);
    write(args.any, order, sequence, registry).await
}

async fn logs(context: &Context, args: LogsArgs, mut registry: Registry) -> Result<()> {
    let mut order = args.any.order(context, args.environment.topic(), OTHERWISE).await?;
    order.threads = 1;
    let run = args.run.unwrap_or_else(|| format!("{:08x}", rand::random::<u32>()));
    eprintln!("each record has the field run: {run}");
    let requests = registry.counters("http_requests", "Requests that were answered");
    let sequence = Logs::new(args.environment, order.seed, &run, requests);
    write(args.any, order, sequence, registry).await
}

impl Args {
    /// An order to write to a topic of the brokers that are meant.
    async fn order(&self, context: &Context, topic: &str, defaults: Defaults) -> Result<Order> {
        let (bootstrap, registry_url) = brokers(context, self.bootstrap_servers.as_deref(), topic).await?;
        Ok(Order {
            bootstrap,
            registry_url,
            profile: defaults.profile,
            acks: self.acks.unwrap_or(defaults.acks),
            rate: match (self.rate, self.count) {
                (Some(Rate::Of(rate)), _) => Some(rate),
                (Some(Rate::Max), _) | (None, Some(_)) => None,
                (None, None) => Some(defaults.rate),
            },
            count: self.count,
            seed: self.seed.unwrap_or_else(|| uuid::Uuid::new_v4().as_u64_pair().0),
            ..Order::default()
        })
    }
}

/// Addresses of the brokers that are meant, and of the registry beside them: those that were named, or those of a lab that has the
/// topic.
pub(super) async fn brokers(context: &Context, named: Option<&str>, topic: &str) -> Result<(String, String)> {
    // Not from BOOTSTRAP_SERVERS: a variable of the shell would silently be another cluster than the instance that is meant.
    if let Some(named) = named {
        return Ok((named.to_owned(), String::new()));
    }
    let session = context.running().await?;
    has_topic(&session, topic)?;
    let endpoints = session.endpoints();
    let bootstrap = endpoints.bootstrap();
    if bootstrap.is_empty() {
        bail!("instance {} has no Kafka brokers", context.instance);
    }
    Ok((bootstrap, endpoints.registry_url().unwrap_or_default()))
}

/// Says which labs have a topic that this one has not.
fn has_topic(session: &Session, topic: &str) -> Result<()> {
    if session.plan.topics.iter().any(|t| t.name == topic) {
        return Ok(());
    }
    let file = &session.project.file;
    let others = file.labs_in_order().into_iter();
    let others = others.filter(|lab| file.topics_of(lab).iter().any(|t| t.name.get_ref() == topic));
    let others: Vec<String> = others.map(|lab| format!("./lab up --lab {lab}")).collect();
    bail!("the lab {} has no topic {topic}.\n  Those that have it: {}", session.plan.lab, others.join(", "));
}

async fn write<S: Sequence>(args: Args, order: Order, sequence: S, mut registry: Registry) -> Result<()> {
    let topic = sequence.topic(order.format);
    eprintln!("writing to {topic} at {}", order.bootstrap);
    // A ledger that cannot be written is said before there is anything to write into it.
    let ledger_file = match &args.ledger {
        Some(path) if path.as_os_str() != "-" => {
            let file = std::fs::File::create(path);
            Some(file.with_context(|| format!("{} cannot be written", path.display()))?)
        }
        _ => None,
    };
    let cancel = watch_signals();
    let progress = Arc::new(progress(&mut registry, topic));
    let server = match args.metrics_listen {
        Some(address) => {
            let listener = metrics::listen(address).await?;
            if args.count.is_none() {
                say!("listening on {}", listener.local_addr()?);
            }
            let delivers = Arc::clone(&progress);
            let router = registry.router(move || match delivers.acknowledged.get() {
                0 => Err(format!("no record is acknowledged, {} failed", delivers.failed.get())),
                _ => Ok(()),
            });
            Some(tokio::spawn(metrics::serve(listener, router, cancel.clone())))
        }
        None => None,
    };
    let reporter = tokio::spawn(report(Arc::clone(&progress), args.count.is_none()));
    let result = produce(&order, sequence, Arc::clone(&progress), cancel).await;
    reporter.abort();
    if let Some(server) = server {
        server.abort();
    }
    let ledger = result?;
    write_ledger::<S>(&ledger, args.count.is_none(), args.ledger.is_some(), ledger_file)?;
    let failed: u64 = ledger.failed.values().sum();
    if failed > 0 {
        let reasons: Vec<_> = ledger.failed.iter().map(|(why, n)| format!("{n} × {why}")).collect();
        bail!("{failed} records were not acknowledged: {}", reasons.join("; "));
    }
    Ok(())
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Outcome {
    topic: &'static str,
    outcome: &'static str,
}

/// A progress whose counts are metrics of the registry.
fn progress(registry: &mut Registry, topic: &'static str) -> Progress {
    const SECONDS: Buckets =
        Buckets(&[0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 60.0]);
    let records = registry.counters("producer_records", "Records by what became of them");
    let count = |outcome| records.get_or_create_owned(&Outcome { topic, outcome });
    let delivery = registry.histograms(
        "producer_delivery_seconds",
        "From handing a record to the client until it was acknowledged",
        SECONDS,
    );
    Progress {
        acknowledged: count("acknowledged"),
        failed: count("failed"),
        delivery: Some(delivery.get_or_create_owned(&Topic::of(topic))),
    }
}

/// One line as soon as the first record is acknowledged, then one each ten seconds.
async fn report(progress: Arc<Progress>, endless: bool) {
    if !endless {
        return;
    }
    let seen = || async {
        let acknowledged = progress.acknowledged.get();
        Ok(if acknowledged > 0 { Answer::Is(acknowledged) } else { Answer::NotYet("none".to_owned()) })
    };
    let patience = Duration::from_secs(3600);
    if let Ok(first) = eventually("a first acknowledgement", patience, Duration::from_millis(100), seen).await
    {
        say!("acknowledged {first}");
    }
    let mut ticks = tokio::time::interval(Duration::from_secs(10));
    ticks.tick().await;
    loop {
        ticks.tick().await;
        let acknowledged = progress.acknowledged.get();
        let failed = progress.failed.get();
        let failures = if failed > 0 { format!(", failed {failed}") } else { String::new() };
        say!("acknowledged {acknowledged}{failures}");
    }
}

/// The whole ledger where it was asked for; a summary without the single records to the terminal.
fn write_ledger<S: Sequence>(
    ledger: &Ledger<S::Totals>,
    endless: bool,
    wanted: bool,
    file: Option<std::fs::File>,
) -> Result<()> {
    match file {
        Some(file) => serde_json::to_writer_pretty(file, ledger).context("the ledger cannot be written")?,
        None if wanted => {
            say!("{}", serde_json::to_string_pretty(ledger)?);
            return Ok(());
        }
        None => {}
    }
    // An order without an end keeps no records, so it has no totals.
    let totals = (!endless).then(|| S::in_short(&ledger.totals));
    say!("{}", serde_json::to_string_pretty(&ledger.without_records(totals))?);
    Ok(())
}
