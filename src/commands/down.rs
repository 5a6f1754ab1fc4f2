//! `lab down`: containers and network go; data stays unless it is asked to go.

use anyhow::Result;

use super::context::Context;
use crate::engine::{Engine, InstanceLock};
use crate::topology::Instance;

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Remove the data too: Kafka's, the registry's and Spark's checkpoints together.
    #[arg(long)]
    volumes: bool,
}

pub(super) async fn run(context: &Context, args: Args) -> Result<()> {
    Instance::new(&context.instance, 0)?;
    let _lock = InstanceLock::take(&context.instance)?;
    let engine = Engine::connect().await?;
    let state = engine.instance(&context.instance).await?;
    let nothing = state.is_down() && (state.volumes.is_empty() || !args.volumes);
    if nothing {
        let kept = match state.volumes.len() {
            0 => String::new(),
            n => format!(" ({n} volumes of data stay; --volumes removes them)"),
        };
        say!("instance {}: nothing is running{kept}", context.instance);
        return Ok(());
    }
    let bytes = if args.volumes { 0 } else { engine.volume_bytes(&state).await };
    let removed = engine.remove_instance(&context.instance, args.volumes).await?;
    let mut text = format!("instance {}: {} containers removed", context.instance, removed.containers);
    if removed.volumes > 0 {
        text += &format!(", {} volumes removed", removed.volumes);
    }
    if removed.kept_volumes > 0 {
        text += &format!("; {} volumes of data stay", removed.kept_volumes);
        if bytes > 0 {
            text += &format!(" ({})", super::status::megabytes(bytes));
        }
        text += ", --volumes removes them";
    }
    say!("{text}");
    Ok(())
}
