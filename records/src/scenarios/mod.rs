//! Seeded data sets, a folder each: record types, generator, producer settings, and the totals that must come out at the other
//! end.

mod draw;
pub mod events;
pub mod logs;
pub mod transactions;

use anyhow::Result;
use apache_avro::types::Value as Avro;
use schema_registry_converter::async_impl::avro::AvroEncoder;
use serde::Serialize;
use tokio::sync::watch;
use tokio::task::JoinHandle;

use crate::writer::{Ledger, Order, Writer};

/// How records are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Format {
    /// JSON.
    Json,
    /// Avro in Confluent's wire format.
    Avro,
}

/// Settings of a producer that a seed describes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Profile {
    /// What people call it.
    pub name: &'static str,
    /// librdkafka's settings.
    #[serde(skip)]
    pub settings: &'static [(&'static str, &'static str)],
}

/// A seeded, endless sequence of records: each follows from the seed and its index.
pub trait Sequence: Send + Sync + 'static {
    /// One record.
    type Record: Serialize + Send + Sync + 'static;
    /// What must come out for some records.
    type Totals: Default + Serialize + Send + 'static;
    /// The same for the terminal: without what is as long as the records.
    type InShort: Serialize;

    /// The record with an index, as if it happened at `time_ms` (since the epoch). Its id, its key and what it adds to totals do not
    /// depend on the time.
    fn record(&self, index: u64, time_ms: i64) -> Self::Record;
    /// The topic that records of a format go to.
    fn topic(&self, format: Format) -> &'static str;
    /// What tells a record from all others.
    fn id(record: &Self::Record) -> &str;
    /// The key that decides its partition.
    fn key(record: &Self::Record) -> &str;
    /// The fields of its Avro schema; none where a scenario has JSON alone.
    fn avro(_: &Self::Record) -> Vec<(&'static str, Avro)> {
        Vec::new()
    }
    /// A record was made, and is handed to the client now.
    fn made(&self, _: &Self::Record) {}
    /// Counts one more record.
    fn add(totals: &mut Self::Totals, record: &Self::Record);
    /// Writes the records of an order by [`Writer`], compiled in this crate for this type.
    fn write(
        self,
        writer: Writer,
        order: Order,
        encoder: Option<AvroEncoder>,
        stop: watch::Receiver<bool>,
    ) -> JoinHandle<Result<Ledger<Self::Totals>>>;
    /// Totals for the terminal.
    fn in_short(totals: &Self::Totals) -> Self::InShort;
}
