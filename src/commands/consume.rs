//! `lab consume`: members of the events lab's consumer groups; on the host beside a running lab, or as a service of the lab itself.

use std::net::SocketAddr;

use anyhow::Result;
use clap::Subcommand;

use super::context::Context;
use super::produce::brokers;
use crate::own_services::group::{self, Order};
use crate::own_services::metrics;
use crate::results::{Alerts, Analytics, Limits, Logger, Results};
use crate::scenarios::events::Thresholds;
use crate::signals::watch_signals;

#[derive(Debug, Subcommand)]
pub(super) enum Kind {
    /// analytics-group: what users did and bought, from user-events.
    Analytics(Args),
    /// alert-group: services that log too many errors, from application-logs.
    Alerts(AlertsArgs),
    /// logger-group: what hosts measure, and anomalies, from system-metrics.
    Logger(LoggerArgs),
}

#[derive(Debug, clap::Args)]
pub(super) struct AlertsArgs {
    /// Length of a window, in seconds.
    #[arg(long, default_value_t = 60, value_parser = clap::value_parser!(u32).range(1..=86_400))]
    window: u32,
    /// So many ERROR and FATAL records of a service in one window are an alert.
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u64).range(1..))]
    errors: u64,
    #[command(flatten)]
    any: Args,
}

#[derive(Debug, clap::Args)]
pub(super) struct LoggerArgs {
    /// Above which value a sample is an anomaly: METRIC=VALUE, or HOST:METRIC=VALUE. May be given more than once.
    #[arg(long = "threshold", value_name = "[HOST:]METRIC=VALUE")]
    thresholds: Vec<String>,
    #[command(flatten)]
    any: Args,
}

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Members of the group in this program. Members beyond the topic's partitions have nothing to do.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=64))]
    scale: u32,
    /// Join another group: it adds up for itself, from the beginning.
    #[arg(long, value_parser = clap::builder::NonEmptyStringValueParser::new())]
    group: Option<String>,
    /// Print what the group has added up, as JSON, and end; nothing is read or joined.
    #[arg(long, conflicts_with_all = ["scale", "listen"])]
    results: bool,
    /// Read from these brokers (host:port,…) instead of an instance that runs here.
    #[arg(long, value_name = "ADDRESSES")]
    bootstrap_servers: Option<String>,
    /// Serve /results, /metrics and /health at this address while consuming.
    #[arg(long, value_name = "ADDRESS")]
    listen: Option<SocketAddr>,
}

pub(super) async fn run(context: &Context, kind: Kind) -> Result<()> {
    match kind {
        Kind::Analytics(args) => consume::<Analytics>(context, args, ()).await,
        Kind::Alerts(args) => {
            let limits = Limits { window_ms: i64::from(args.window) * 1000, errors: args.errors };
            consume::<Alerts>(context, args.any, limits).await
        }
        Kind::Logger(args) => {
            let mut thresholds = Thresholds::default();
            for text in &args.thresholds {
                thresholds.set(text).map_err(|why| anyhow::anyhow!("--threshold {text}: {why}"))?;
            }
            consume::<Logger>(context, args.any, thresholds).await
        }
    }
}

async fn consume<R: Results>(context: &Context, args: Args, settings: R::Settings) -> Result<()> {
    let cancel = watch_signals();
    let (bootstrap, _) = brokers(context, args.bootstrap_servers.as_deref(), R::TOPIC).await?;
    let group = args.group.unwrap_or_else(|| R::GROUP.to_owned());
    if args.results {
        say!("{}", serde_json::to_string_pretty(&group::results::<R>(&bootstrap, &group).await?)?);
        return Ok(());
    }
    eprintln!("reading {} at {bootstrap} in the group {group}; Ctrl-C ends it", R::TOPIC);
    let listener = match args.listen {
        Some(address) => {
            let listener = metrics::listen(address).await?;
            say!("listening on {}", listener.local_addr()?);
            Some(listener)
        }
        None => None,
    };
    let order = Order::<R> { bootstrap, group, settings, members: args.scale as usize };
    group::run(order, listener, cancel).await
}
