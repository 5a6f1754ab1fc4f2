//! Carries out an order to produce: waits until Kafka and the registry answer, then the scenario's own writer writes.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use schema_registry_converter::async_impl::avro::AvroEncoder;
use streamlab_records::writer::Writer;
pub use streamlab_records::writer::{Acks, Ledger, Order, Progress};
use tokio::sync::watch;

use crate::probes::{Answer, eventually};
use crate::scenarios::{Format, Sequence};

/// How long a broker or the registry may be away at the start before the order is given up.
const PATIENCE: Duration = Duration::from_secs(60);
const EVERY: Duration = Duration::from_millis(500);

/// Writes the records of a sequence as an order says, until its count is reached or `stop` turns true; then waits for what is on the way.
///
/// # Errors
/// Kafka or (for Avro) the registry does not answer within a minute at the start. Records that fail later are
/// counted in the ledger.
pub async fn produce<S: Sequence>(
    order: &Order,
    sequence: S,
    progress: Arc<Progress>,
    stop: watch::Receiver<bool>,
) -> Result<Ledger<S::Totals>> {
    let topic = sequence.topic(order.format);
    let writer = wait_for_topic(Writer::new(order, progress)?, topic, &order.bootstrap).await?;
    let encoder = match order.format {
        Format::Json => None,
        Format::Avro => Some(avro_encoder(&order.registry_url, topic).await?),
    };
    sequence.write(writer, order.clone(), encoder, stop).await?
}

async fn wait_for_topic(writer: Writer, topic: &'static str, bootstrap: &str) -> Result<Writer> {
    let writer = Arc::new(writer);
    eventually(&format!("topic {topic} at {bootstrap}"), PATIENCE, EVERY, || {
        let writer = Arc::clone(&writer);
        async move {
            let asked = tokio::task::spawn_blocking(move || writer.knows(topic, Duration::from_secs(3)));
            Ok(match asked.await?.context("no broker answers")? {
                true => Answer::Is(()),
                false => Answer::NotYet("the topic is not there".to_owned()),
            })
        }
    })
    .await?;
    Arc::into_inner(writer).context("the question about the topic is still being asked")
}

/// An encoder that has fetched its schema. While the registry does not answer it says so, and waits a minute.
async fn avro_encoder(url: &str, topic: &str) -> Result<AvroEncoder> {
    let registry = super::schema_registry::SchemaRegistry::new(url);
    let subject = format!("{topic}-value");
    let mut said = false;
    eventually(&format!("schema {subject} at {url}"), PATIENCE, EVERY, || {
        let (registry, subject) = (registry.clone(), subject.clone());
        let first = !std::mem::replace(&mut said, true);
        async move {
            match registry.versions(&subject).await {
                Ok(_) => Ok(Answer::Is(())),
                Err(error) => {
                    if first {
                        eprintln!(
                            "schema registry: {subject} cannot be had from {} ({error:#}); waiting",
                            registry.url()
                        );
                    }
                    Err(error)
                }
            }
        }
    })
    .await?;
    Ok(AvroEncoder::new(super::schema_registry::settings(url)?))
}
