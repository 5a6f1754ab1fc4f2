//! `app-service`: a consumer of the transactions and of Spark's totals that answers over HTTP what it has read.

mod consumer;
mod seen;

use std::sync::{Arc, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::{Context as _, Result};
use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::response::{Html, IntoResponse, Response};
use axum::routing::get;
use axum::{Json, Router};
use serde_json::json;
use tokio::net::TcpListener;
use tokio::sync::watch;

use self::consumer::Shared;
use self::seen::Seen;
use super::metrics::{Registry, Requests, serve};

/// How long the consumer may take to commit and leave its group. A broker that is away must not keep the service.
const LEAVE: Duration = Duration::from_millis(800);

const PAGE: &str = r#"<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>app-service</title>
<style>body { font: 1rem/1.5 system-ui, sans-serif; max-width: 42rem; margin: 2rem auto; padding: 0 1rem }</style>
<h1>app-service</h1>
<p>Reads <code>financial_transactions</code> and <code>transaction_aggregates</code> in the consumer group
<code>app-service</code> and answers what it has read. Totals are Spark's; what is counted here is counted since this
process began.</p>
<ul>
<li><a href="/merchants">/merchants</a>: every merchant; <code>/merchants/merchant_1</code>: one</li>
<li><a href="/transactions/latest">/transactions/latest</a>: the last 20 transactions</li>
<li><a href="/health">/health</a>: whether it reads</li>
<li><a href="/metrics">/metrics</a>: for Prometheus</li>
</ul>
"#;

/// Reads and answers until `stop` turns true.
///
/// # Errors
/// The consumer cannot be made at all.
pub async fn run(listener: TcpListener, bootstrap: String, stop: watch::Receiver<bool>) -> Result<()> {
    let mut registry = Registry::new();
    let requests = Requests::new(&mut registry);
    let shared = Arc::new(Shared::new(&mut registry));
    let router = router(registry, requests, &shared);
    let for_consumer = stop.clone();
    let mut reading = tokio::task::spawn_blocking(move || consumer::read(&bootstrap, &shared, &for_consumer));
    tokio::select! {
        () = serve(listener, router, stop) => {}
        ended = &mut reading => return ended?.context("the consumer ended"),
    }
    match tokio::time::timeout(LEAVE, reading).await {
        Ok(ended) => ended?.context("the consumer ended"),
        // What is not committed is read again: at least once.
        Err(_) => Ok(()),
    }
}

fn router(registry: Registry, requests: Requests, shared: &Arc<Shared>) -> Router {
    let health = Arc::clone(shared);
    let api = Router::new()
        .route("/", get(|| async { Html(PAGE) }))
        .route("/merchants", get(merchants))
        .route("/merchants/{id}", get(merchant))
        .route("/transactions/latest", get(latest))
        .with_state(Arc::clone(shared));
    requests.count(registry.router(move || health.health()).merge(api))
}

fn seen(shared: &Shared) -> MutexGuard<'_, Seen> {
    shared.seen.lock().unwrap_or_else(PoisonError::into_inner)
}

async fn merchants(State(shared): State<Arc<Shared>>) -> Response {
    Json(seen(&shared).merchants()).into_response()
}

async fn merchant(State(shared): State<Arc<Shared>>, Path(id): Path<String>) -> Response {
    match seen(&shared).one(&id) {
        Some(merchant) => Json(merchant).into_response(),
        None => {
            let message = format!("no merchant {id:?} among those that were read");
            (StatusCode::NOT_FOUND, Json(json!({ "message": message }))).into_response()
        }
    }
}

async fn latest(State(shared): State<Arc<Shared>>) -> Response {
    Json(seen(&shared).latest()).into_response()
}
