//! `lab logs`: the log of one service.

use std::io::Write as _;

use anyhow::Result;
use futures::StreamExt;

use super::context::Context;
use crate::signals::watch_signals;

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Service, by its documented name.
    service: String,
    /// Go on as the log grows.
    #[arg(long, short)]
    follow: bool,
    /// Only the last N lines.
    #[arg(long, value_name = "N")]
    tail: Option<usize>,
}

pub(super) async fn run(context: &Context, args: Args) -> Result<()> {
    let mut cancel = watch_signals();
    let running = context.running().await?;
    let service = running.service(&args.service)?;
    let mut log = Box::pin(running.engine.log(&service.container, args.tail, args.follow));
    loop {
        tokio::select! {
            chunk = log.next() => match chunk {
                Some(text) => {
                    // A closed pipe (`| head`) is the reader's wish, not a failure.
                    if std::io::stdout().write_all(text?.as_bytes()).is_err() {
                        return Ok(());
                    }
                }
                None => return Ok(()),
            },
            _ = cancel.wait_for(|c| *c) => return Ok(()),
        }
    }
}
