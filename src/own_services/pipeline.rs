//! `pipeline`: Logstash's pipeline files, carried out; and on a page of its own how far it is. What is read, filtered and written is
//! the crate `streamlab-pipeline`'s.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use anyhow::{Context as _, Result};
use axum::routing::get;
use axum::{Json, Router};
use serde_json::{Value, json};
use streamlab_pipeline::{Counters, Pipeline};
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinSet;

use super::metrics::serve;
use crate::clients::plain;

type All = Arc<BTreeMap<String, Arc<Counters>>>;

/// Reads and writes until `stop` turns true. What is not written then is read again by the next one.
///
/// # Errors
/// A pipeline cannot begin or go on.
pub async fn run(
    listener: TcpListener,
    pipelines: Vec<Pipeline>,
    data: PathBuf,
    stop: watch::Receiver<bool>,
) -> Result<()> {
    let counters: All = Arc::new(pipelines.iter().map(|p| (p.id.clone(), Arc::clone(&p.counters))).collect());
    let client = plain().build().context("the HTTP client")?;
    let mut running = JoinSet::new();
    for pipeline in pipelines {
        let (client, data) = (client.clone(), data.clone());
        running.spawn(async move { pipeline.run(client, &data).await });
    }
    let router = Router::new().route("/", get(move || async move { Json(shown(&counters)) }));
    tokio::select! {
        () = serve(listener, router, stop) => Ok(()),
        Some(ended) = running.join_next() => ended?,
    }
}

/// As Logstash's own page begins; the counters are ours.
fn shown(counters: &BTreeMap<String, Arc<Counters>>) -> Value {
    let counters: BTreeMap<_, _> = counters.iter().map(|(id, one)| (id, one.snapshot())).collect();
    let waits = counters.values().any(|one| one.trouble.is_some());
    json!({ "status": if waits { "yellow" } else { "green" }, "name": "streamlab pipeline", "pipelines": counters })
}
