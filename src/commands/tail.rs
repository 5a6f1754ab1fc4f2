//! `lab tail`: the records of a topic as they come, `partition@offset key value`, decoded through the registry.

use std::collections::BTreeMap;
use std::io::Write as _;
use std::time::Duration;

use anyhow::{Result, bail};
use tokio::sync::watch;

use super::context::Context;
use crate::clients::kafka;
use crate::clients::shown::Shown;
use crate::signals::watch_signals;

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Topic.
    topic: String,
    /// From the first record on, not from now.
    #[arg(long)]
    from_beginning: bool,
    /// End after N records.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    count: Option<u64>,
}

pub(super) async fn run(context: &Context, args: Args) -> Result<()> {
    let cancel = watch_signals();
    let endpoints = context.running().await?.endpoints();
    let bootstrap = endpoints.bootstrap();
    let shown = Shown::new(endpoints.registry_url().ok())?;
    let topics = kafka::topics(&bootstrap).await?;
    if !topics.contains(&args.topic) {
        bail!("no topic named {:?}; there are:\n  {}", args.topic, topics.join("\n  "));
    }
    let bounds = kafka::offsets(&bootstrap, &args.topic).await?;
    let start =
        bounds.into_iter().map(|(p, (begin, end))| (p, if args.from_beginning { begin } else { end }));
    follow(&bootstrap, &args, start.collect(), &shown, cancel).await
}

async fn follow(
    bootstrap: &str,
    args: &Args,
    mut from: BTreeMap<i32, i64>,
    shown: &Shown,
    mut cancel: watch::Receiver<bool>,
) -> Result<()> {
    let mut ticks = tokio::time::interval(Duration::from_millis(500));
    let mut count = 0;
    loop {
        tokio::select! {
            _ = ticks.tick() => {}
            _ = cancel.wait_for(|c| *c) => return Ok(()),
        }
        let (records, ends) = kafka::read_topic(bootstrap, &args.topic, from, Some).await?;
        from = ends;
        for record in records {
            let line = format!("{}@{} {}", record.partition, record.offset, shown.line(&record).await);
            // A closed pipe (`| head`) is the reader's wish, not a failure.
            if writeln!(std::io::stdout(), "{line}").is_err() {
                return Ok(());
            }
            count += 1;
            if args.count == Some(count) {
                return Ok(());
            }
        }
    }
}
