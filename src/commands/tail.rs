//! `lab tail`: the records of a topic as they come, `partition@offset key value`, decoded through the registry.

use std::collections::BTreeMap;
use std::io::Write as _;
use std::ops::ControlFlow;
use std::time::Duration;

use anyhow::{Result, anyhow, bail};
use tokio::sync::mpsc;

use super::context::Context;
use crate::clients::kafka::{self, Record};
use crate::clients::shown::Shown;
use crate::signals::watch_signals;

/// Batches that are read but not printed yet, at most: a topic may be larger than the memory.
const ROOM: usize = 4;

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
    let mut cancel = watch_signals();
    let endpoints = context.running().await?.endpoints();
    let bootstrap = endpoints.bootstrap();
    let shown = Shown::new(endpoints.registry_url().ok())?;
    let topics = kafka::topics(&bootstrap).await.map_err(|why| {
        anyhow!(
            "Kafka does not answer on {bootstrap}: {why:#}\n  What runs: ./lab status{}",
            context.option()
        )
    })?;
    if !topics.contains(&args.topic) {
        bail!("no topic named {:?}; there are:\n  {}", args.topic, topics.join("\n  "));
    }
    let bounds = kafka::offsets(&bootstrap, &args.topic).await?;
    let start =
        bounds.into_iter().map(|(p, (begin, end))| (p, if args.from_beginning { begin } else { end }));
    let from = if args.from_beginning { "its first record" } else { "now" };
    let end = if args.count.is_some() { "" } else { "; Ctrl-C ends it" };
    eprintln!("reading {} from {from} on{end}", args.topic);
    let (sender, records) = mpsc::channel(ROOM);
    let reader = tokio::spawn(read_on(bootstrap, args.topic, start.collect(), sender));
    let enough = tokio::select! {
        enough = print(records, args.count, &shown) => enough,
        _ = cancel.wait_for(|c| *c) => true,
    };
    // Nothing more comes where more was wanted: reading has failed, and says why.
    if enough { Ok(()) } else { reader.await? }
}

/// Reads the records that there are, and those that come; ends when nobody wants more.
async fn read_on(
    bootstrap: String,
    topic: String,
    mut from: BTreeMap<i32, i64>,
    sender: mpsc::Sender<Vec<Record>>,
) -> Result<()> {
    let mut ticks = tokio::time::interval(Duration::from_millis(500));
    while !sender.is_closed() {
        ticks.tick().await;
        let to = sender.clone();
        let each = move |batch| match to.blocking_send(batch) {
            Ok(()) => ControlFlow::Continue(()),
            Err(_) => ControlFlow::Break(()),
        };
        from = kafka::each_batch(&bootstrap, &topic, from, each).await?;
    }
    Ok(())
}

/// A line for each record. Whether it ended because it had enough: `count` are printed, or nobody reads them.
async fn print(mut batches: mpsc::Receiver<Vec<Record>>, count: Option<u64>, shown: &Shown) -> bool {
    let mut out = std::io::stdout();
    let mut left = count.map(|count| usize::try_from(count).unwrap_or(usize::MAX));
    let mut lines = String::new();
    while let Some(batch) = batches.recv().await {
        let wanted = left.map_or(batch.len(), |left| left.min(batch.len()));
        lines.clear();
        for record in &batch[..wanted] {
            shown.push_line(&mut lines, record).await;
        }
        left = left.map(|left| left - wanted);
        let written = out.write_all(lines.as_bytes()).and_then(|()| out.flush());
        // A closed pipe (`| head`) is the reader's wish, not a failure.
        if left == Some(0) || written.is_err() {
            return true;
        }
    }
    false
}
