//! `alert-receiver`: takes what Alertmanager posts to Slack's incoming webhooks, keeps it, and shows it; and the runbooks.

mod html;
mod kept;
mod page;
mod runbooks;
mod slack;

use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use axum::body::Bytes;
use axum::extract::{DefaultBodyLimit, Query, Request, State};
use axum::http::{HeaderValue, StatusCode, header};
use axum::middleware::{Next, from_fn, map_response};
use axum::response::{Html, IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use prometheus_client::encoding::EncodeLabelSet;
use serde::Deserialize;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;
use tokio::net::TcpListener;
use tokio::sync::{Semaphore, watch};

use self::kept::Kept;
use self::slack::Status;
use super::metrics::{Counters, Registry, serve};

/// Bytes that a payload may have.
const LIMIT: usize = 1 << 20;
/// Payloads that are read at once: the others wait outside, where they take no memory.
const READ_AT_ONCE: usize = 16;
/// How long one may take to arrive.
const ARRIVES_WITHIN: Duration = Duration::from_secs(5);

/// Nothing from elsewhere is loaded or run, whatever a payload says.
const POLICY: &str = "default-src 'self'; frame-ancestors 'none'; base-uri 'none'; form-action 'none'";

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Received {
    status: &'static str,
}

struct Receiver {
    kept: Mutex<Kept>,
    received: Counters<Received>,
    runbooks: PathBuf,
}

impl Receiver {
    fn kept(&self) -> MutexGuard<'_, Kept> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

type Shared = State<Arc<Receiver>>;

/// Answers until `stop` turns true. `runbooks` is the markdown that is shown as the page of runbooks.
pub async fn run(listener: TcpListener, runbooks: PathBuf, stop: watch::Receiver<bool>) {
    let mut registry = Registry::new();
    let received = registry.counters("notifications_received", "Notifications kept");
    for status in [Status::Firing, Status::Resolved] {
        drop(received.get_or_create(&Received { status: status.name() }));
    }
    let places = Arc::new(Semaphore::new(READ_AT_ONCE));
    let receiver = Arc::new(Receiver { kept: Mutex::default(), received, runbooks });
    let router = Router::new()
        .route("/", get(notifications))
        .route(
            "/slack",
            post(slack).layer(from_fn(move |request, next| in_turn(Arc::clone(&places), request, next))),
        )
        .route("/api/notifications", get(list))
        .route("/runbooks", get(runbooks_page))
        .route("/page.css", get(|| asset("text/css; charset=utf-8", include_str!("receiver/page.css"))))
        .route("/page.js", get(|| asset("text/javascript; charset=utf-8", include_str!("receiver/page.js"))))
        .layer(DefaultBodyLimit::max(LIMIT))
        .layer(map_response(careful))
        .with_state(receiver);
    serve(listener, registry.router(|| Ok(())).merge(router), stop).await;
}

async fn careful(mut response: Response) -> Response {
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_SECURITY_POLICY, HeaderValue::from_static(POLICY));
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

/// Answers when there is a place, and gives up on a payload that does not arrive.
async fn in_turn(places: Arc<Semaphore>, request: Request, next: Next) -> Response {
    let Ok(_place) = places.acquire().await else {
        return StatusCode::SERVICE_UNAVAILABLE.into_response();
    };
    match tokio::time::timeout(ARRIVES_WITHIN, next.run(request)).await {
        Ok(answer) => answer,
        Err(_) => {
            (StatusCode::REQUEST_TIMEOUT, "request_timeout: the payload did not arrive\n").into_response()
        }
    }
}

async fn asset(kind: &'static str, text: &'static str) -> Response {
    ([(header::CONTENT_TYPE, kind)], text).into_response()
}

/// Slack's answers: `ok`, or a word for what is wrong.
async fn slack(State(receiver): Shared, body: Bytes) -> Response {
    let now = OffsetDateTime::now_utc();
    let received = now.replace_millisecond(now.millisecond()).unwrap_or(now).format(&Rfc3339);
    let added = receiver.kept().add(&body, received.unwrap_or_default());
    match added {
        Ok((_, status)) => {
            receiver.received.get_or_create(&Received { status: status.name() }).inc();
            "ok".into_response()
        }
        Err(why) => (StatusCode::BAD_REQUEST, format!("{why}\n")).into_response(),
    }
}

#[derive(Deserialize)]
struct After {
    #[serde(default)]
    after: u64,
}

async fn list(State(receiver): Shared, Query(After { after }): Query<After>) -> Response {
    let kept = receiver.kept();
    Json(kept.after(after).collect::<Vec<_>>()).into_response()
}

async fn notifications(State(receiver): Shared) -> Html<String> {
    Html(page::notifications(&receiver.kept()))
}

/// Read anew each time: an edited runbook is there at once.
async fn runbooks_page(State(receiver): Shared) -> Response {
    match tokio::fs::read_to_string(&receiver.runbooks).await {
        Ok(markdown) => {
            let body = format!("<main>\n{}</main>\n", runbooks::render(&markdown));
            Html(page::frame("Runbooks", "", &body)).into_response()
        }
        Err(error) => {
            let why = format!("no runbooks: {}: {error}\n", receiver.runbooks.display());
            (StatusCode::NOT_FOUND, why).into_response()
        }
    }
}
