//! `streamlab serve …`: the long-running services that the lab itself brings, in the own image.

use std::net::SocketAddr;
use std::path::PathBuf;

use anyhow::{Context as _, Result};
use clap::Subcommand;
use tokio::net::TcpListener;

use super::variable;
use crate::engine::Engine;
use crate::own_services::exporter::{Exporter, Used};
use crate::own_services::{app, console, front, metrics, pipeline, receiver};
use crate::probes::Usage;
use crate::signals::watch_signals;

#[derive(Debug, Subcommand)]
pub(crate) enum Service {
    /// Reads transactions and totals in the group app-service (BOOTSTRAP_SERVERS) and answers what it has read.
    App(AppArgs),
    /// Takes Alertmanager's messages to Slack and shows them, with the runbooks (the file that RUNBOOKS names).
    Receiver(ReceiverArgs),
    /// The way from the host to a service that answers the pages of every origin (TO), published on this machine as PUBLISHED_PORT, and
    /// known to others in the lab as INSIDE.
    Front(FrontArgs),
    /// Consumer lag (BOOTSTRAP_SERVERS), Spark's queries (CHECKPOINT_DIR), containers of the engine's network NETWORK, this one being
    /// CONTAINER_NAME; none without NETWORK.
    Exporter(ExporterArgs),
    /// Logstash's pipeline files, carried out by this program.
    Pipeline(PipelineArgs),
    /// The console: pages about the lab that LAB describes, published on this machine as PUBLISHED_PORT, with the charts of the jar
    /// CHARTS and the runbooks at RUNBOOKS.
    Console(ConsoleArgs),
}

#[derive(Debug, clap::Args)]
pub(crate) struct PipelineArgs {
    /// Address to say on how far it is.
    #[arg(long, default_value = "0.0.0.0:9600")]
    listen: SocketAddr,
    /// The list of pipelines, where Logstash has it.
    #[arg(long, default_value = "/usr/share/logstash/config/pipelines.yml")]
    pipelines: PathBuf,
    /// Folder for what must outlive the program.
    #[arg(long, default_value = "/usr/share/logstash/data")]
    data: PathBuf,
}

#[derive(Debug, clap::Args)]
pub(crate) struct ExporterArgs {
    /// Address to answer on.
    #[arg(long, default_value = "0.0.0.0:9308")]
    listen: SocketAddr,
}

#[derive(Debug, clap::Args)]
pub(crate) struct AppArgs {
    /// Address to answer on.
    #[arg(long, default_value = "0.0.0.0:8000")]
    listen: SocketAddr,
}

#[derive(Debug, clap::Args)]
pub(crate) struct ConsoleArgs {
    /// Address to answer on.
    #[arg(long, default_value = "0.0.0.0:8080")]
    listen: SocketAddr,
    /// Folder with monitoring/grafana as the project has it.
    #[arg(long, default_value = "/etc/streamlab")]
    files: PathBuf,
}

#[derive(Debug, clap::Args)]
pub(crate) struct FrontArgs {
    /// Address to answer on.
    #[arg(long, default_value = "0.0.0.0:9093")]
    listen: SocketAddr,
}

#[derive(Debug, clap::Args)]
pub(crate) struct ReceiverArgs {
    /// Address to answer on.
    #[arg(long, default_value = "0.0.0.0:8080")]
    listen: SocketAddr,
}

pub(super) async fn run(service: Service) -> Result<()> {
    // First of all: as process 1 of a container a signal without a handler is lost.
    let stop = watch_signals();
    match service {
        Service::App(args) => {
            let bootstrap = variable("BOOTSTRAP_SERVERS")?;
            app::run(listen(args.listen).await?, bootstrap, stop).await
        }
        Service::Exporter(args) => {
            let used = match std::env::var("NETWORK") {
                Ok(network) => {
                    let own = variable("CONTAINER_NAME")?;
                    let prefix = own.strip_suffix("lab-exporter").unwrap_or_default().to_owned();
                    let used: Used = Box::new(move || Box::pin(containers(network.clone(), prefix.clone())));
                    Some(used)
                }
                Err(_) => None,
            };
            let checkpoints = PathBuf::from(variable("CHECKPOINT_DIR")?);
            let exporter = Exporter::new(&variable("BOOTSTRAP_SERVERS")?, checkpoints, used);
            exporter.run(listen(args.listen).await?, stop).await;
            Ok(())
        }
        Service::Pipeline(args) => {
            // Before anything is read or listened on: a mistake in a file ends it here.
            let variable = |name: &str| std::env::var(name).ok();
            let pipelines = streamlab_pipeline::pipelines(
                &args.pipelines,
                &streamlab_pipeline::Surroundings { variable: &variable },
            )?;
            pipeline::run(listen(args.listen).await?, pipelines, args.data, stop).await
        }
        Service::Console(args) => {
            let lab = serde_json::from_str(&variable("LAB")?).context("LAB is no lab")?;
            let port = variable("PUBLISHED_PORT")?.parse().context("PUBLISHED_PORT is no port")?;
            let charts = PathBuf::from(variable("CHARTS")?);
            let runbooks = std::env::var("RUNBOOKS").ok();
            let given =
                console::Given { lab, port, files: &args.files, charts: &charts, runbooks, breaker: None };
            console::run(listen(args.listen).await?, given, stop).await
        }
        Service::Front(args) => {
            let to = format!("http://{}", variable("TO")?);
            let port = variable("PUBLISHED_PORT")?.parse().context("PUBLISHED_PORT is no port")?;
            front::run(listen(args.listen).await?, to, port, variable("INSIDE")?, stop).await
        }
        Service::Receiver(args) => {
            let runbooks = variable("RUNBOOKS")?.into();
            receiver::run(listen(args.listen).await?, runbooks, stop).await;
            Ok(())
        }
    }
}

async fn listen(address: SocketAddr) -> Result<TcpListener> {
    let listener = metrics::listen(address).await?;
    say!("listening on {}", listener.local_addr()?);
    Ok(listener)
}

/// What each container on a network uses, by documented name.
async fn containers(network: String, prefix: String) -> Result<Vec<(String, Usage)>> {
    let engine = Engine::connect().await?;
    let names = engine.containers_on(&network).await?;
    let used = names.iter().map(|container| async {
        // One that has just gone has no figures; the others have.
        let usage = engine.usage(container).await.ok()?;
        let name = container.strip_prefix(&prefix).unwrap_or(container);
        Some((name.to_owned(), usage))
    });
    Ok(futures::future::join_all(used).await.into_iter().flatten().collect())
}
