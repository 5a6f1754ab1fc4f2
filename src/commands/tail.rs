//! `lab tail`: the records of a topic as they come, `partition@offset key value`, Avro decoded through the registry.

use std::collections::BTreeMap;
use std::io::Write as _;
use std::time::Duration;

use anyhow::{Result, bail};
use schema_registry_converter::async_impl::avro::AvroDecoder;
use tokio::sync::watch;

use super::context::Context;
use super::signals::watch_signals;
use crate::clients::kafka::{self, Record};
use crate::clients::schema_registry;

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
    let settings = endpoints.registry_url().ok().map(schema_registry::settings).transpose()?;
    let decoder = settings.map(AvroDecoder::new);
    let topics = kafka::topics(&bootstrap).await?;
    if !topics.contains(&args.topic) {
        bail!("no topic named {:?}; there are:\n  {}", args.topic, topics.join("\n  "));
    }
    let bounds = kafka::offsets(&bootstrap, &args.topic).await?;
    let start =
        bounds.into_iter().map(|(p, (begin, end))| (p, if args.from_beginning { begin } else { end }));
    follow(&bootstrap, &args, start.collect(), decoder.as_ref(), cancel).await
}

async fn follow(
    bootstrap: &str,
    args: &Args,
    mut from: BTreeMap<i32, i64>,
    decoder: Option<&AvroDecoder>,
    mut cancel: watch::Receiver<bool>,
) -> Result<()> {
    let mut ticks = tokio::time::interval(Duration::from_millis(500));
    let mut shown = 0;
    loop {
        tokio::select! {
            _ = ticks.tick() => {}
            _ = cancel.wait_for(|c| *c) => return Ok(()),
        }
        let (records, ends) = kafka::read_topic(bootstrap, &args.topic, from, Some).await?;
        from = ends;
        for record in records {
            let text = decode(&record, decoder).await;
            let key = record.key.unwrap_or_default();
            let line = format!("{}@{} {key} {text}", record.partition, record.offset);
            // A closed pipe (`| head`) is the reader's wish, not a failure.
            if writeln!(std::io::stdout(), "{line}").is_err() {
                return Ok(());
            }
            shown += 1;
            if args.count == Some(shown) {
                return Ok(());
            }
        }
    }
}

async fn decode(record: &Record, decoder: Option<&AvroDecoder>) -> String {
    // Confluent's wire format: a zero byte and the schema's id in four more.
    if let (Some(0), Some(decoder)) = (record.value.first(), decoder) {
        return match decoder.decode(Some(&record.value)).await {
            Ok(decoded) => match serde_json::Value::try_from(decoded.value) {
                Ok(json) => json.to_string(),
                Err(error) => format!("(Avro that is no JSON: {error})"),
            },
            Err(error) => format!("({} bytes that do not decode: {error})", record.value.len()),
        };
    }
    String::from_utf8_lossy(&record.value).into_owned()
}
