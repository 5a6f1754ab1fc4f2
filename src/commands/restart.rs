//! `lab restart`: one service in a new container, so that changed files and settings hold.

use anyhow::{Result, bail};

use super::context::Context;
use crate::engine::InstanceLock;

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Service, by its documented name.
    service: String,
    /// Remove its data first; services that share the data are started anew too.
    #[arg(long)]
    fresh: bool,
}

pub(super) async fn run(context: &Context, args: Args) -> Result<()> {
    let _lock = InstanceLock::take(&context.instance)?;
    let running = context.running().await?;
    let Some(service) = running.topology.service(&args.service) else {
        let names: Vec<_> = running.topology.services.iter().map(|s| s.name.as_str()).collect();
        bail!("no service named {:?}; there are: {}", args.service, names.join(", "));
    };
    let resolved = running.resolved().await?;
    let started =
        running.engine.replace(&running.project, &running.topology, service, &resolved, args.fresh).await?;
    println!("ready again: {}", started.join(", "));
    Ok(())
}
