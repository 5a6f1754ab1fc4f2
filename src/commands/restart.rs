//! `lab restart`: one service in a new container, so that changed files and settings hold.

use anyhow::Result;

use super::context::Context;
use crate::engine::InstanceLock;
use crate::signals::watch_signals;

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Service, by its documented name.
    service: String,
    /// Remove its data first; services that share the data are started anew too.
    #[arg(long)]
    fresh: bool,
}

pub(super) async fn run(context: &Context, args: Args) -> Result<()> {
    let mut cancel = watch_signals();
    let _lock = InstanceLock::take(&context.instance)?;
    let running = context.running().await?;
    let service = running.service(&args.service)?;
    let resolved = running.resolved().await?;
    let work = running.engine.replace(&running.project, &running.plan, service, &resolved, args.fresh);
    let mut work = std::pin::pin!(work);
    let started = tokio::select! {
        started = &mut work => started?,
        _ = cancel.wait_for(|c| *c) => {
            eprintln!("a service that is half restarted would be missing: finishing first");
            work.await?
        }
    };
    say!("ready again: {}", started.join(", "));
    // A restart may have mended what a fault broke: which, only `undo` knows.
    if !running.state.faults.is_empty() {
        let broken = running.state.faults.join(", ");
        say!("still counts as broken on purpose: {broken}   (./lab fault undo{})", context.option());
    }
    Ok(())
}
