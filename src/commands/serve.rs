//! `streamlab serve …`: the long-running services that the lab itself brings, in the own image.

use std::net::SocketAddr;
use std::path::PathBuf;

use anyhow::{Context as _, Result};
use clap::Subcommand;
use tokio::net::TcpListener;

use super::signals::watch_signals;
use crate::services::exporter::Exporter;
use crate::services::{app, metrics, receiver};

#[derive(Debug, Subcommand)]
pub(super) enum Service {
    /// Reads transactions and totals in the group app-service (BOOTSTRAP_SERVERS) and answers what it has read.
    App(AppArgs),
    /// Takes Alertmanager's messages to Slack and shows them, with the runbooks (the file that RUNBOOKS names).
    Receiver(ReceiverArgs),
    /// Consumer lag (BOOTSTRAP_SERVERS), Spark's queries (CHECKPOINT_DIR), containers of the network NETWORK, this one being
    /// CONTAINER_NAME.
    Exporter(ExporterArgs),
}

#[derive(Debug, clap::Args)]
pub(super) struct ExporterArgs {
    /// Address to answer on.
    #[arg(long, default_value = "0.0.0.0:9308")]
    listen: SocketAddr,
}

#[derive(Debug, clap::Args)]
pub(super) struct AppArgs {
    /// Address to answer on.
    #[arg(long, default_value = "0.0.0.0:8000")]
    listen: SocketAddr,
}

#[derive(Debug, clap::Args)]
pub(super) struct ReceiverArgs {
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
            let own = variable("CONTAINER_NAME")?;
            let prefix = own.strip_suffix("lab-exporter").unwrap_or_default().to_owned();
            let checkpoints = PathBuf::from(variable("CHECKPOINT_DIR")?);
            let exporter =
                Exporter::new(&variable("BOOTSTRAP_SERVERS")?, checkpoints, variable("NETWORK")?, prefix);
            exporter.run(listen(args.listen).await?, stop).await
        }
        Service::Receiver(args) => {
            let runbooks = variable("RUNBOOKS")?.into();
            receiver::run(listen(args.listen).await?, runbooks, stop).await
        }
    }
}

async fn listen(address: SocketAddr) -> Result<TcpListener> {
    let listener = metrics::listen(address).await?;
    say!("listening on {}", listener.local_addr()?);
    Ok(listener)
}

fn variable(name: &str) -> Result<String> {
    std::env::var(name).with_context(|| format!("the variable {name} is missing"))
}
