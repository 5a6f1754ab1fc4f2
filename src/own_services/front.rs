//! `alertmanager-front`: the only way to Alertmanager from the host. Alertmanager answers the pages of every origin, and nothing can forbid it; this
//! hands on what the [`super::guard`] lets through, and changes nothing of it.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Result, anyhow};
use axum::Router;
use axum::body::{Body, Bytes, HttpBody as _, to_bytes};
use axum::extract::{Request, State};
use axum::http::request::Parts;
use axum::http::{HeaderMap, HeaderName, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use reqwest::redirect;
use tokio::net::TcpListener;
use tokio::sync::{Semaphore, watch};

use super::guard::{Guard, local};
use super::metrics::serve;
use crate::clients::plain;

/// Bytes that a request may bring: a silence has some hundred.
const BODY: usize = 64 << 10;
/// How long one may take to arrive.
const ARRIVES_WITHIN: Duration = Duration::from_secs(5);
/// How long Alertmanager may take; its profiles of half a minute among it.
const PATIENCE: Duration = Duration::from_secs(60);
/// Bodies that arrive at once, and requests that are handed on at once: the others wait, where they take no memory.
const ARRIVING: usize = 16;
const AT_ONCE: usize = 16;

static HEADERS: [(HeaderName, &str); 5] = [
    (header::CONTENT_SECURITY_POLICY, "frame-ancestors 'none'"),
    (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
    (header::REFERRER_POLICY, "no-referrer"),
    (HeaderName::from_static("cross-origin-resource-policy"), "same-origin"),
    (HeaderName::from_static("cross-origin-opener-policy"), "same-origin"),
];

/// About one connection, not about what is said on it; or said anew by whoever sends it on.
const OF_A_CONNECTION: [HeaderName; 8] = [
    header::CONNECTION,
    header::CONTENT_LENGTH,
    header::HOST,
    header::TE,
    header::TRAILER,
    header::TRANSFER_ENCODING,
    header::UPGRADE,
    HeaderName::from_static("keep-alive"),
];

struct Front {
    client: reqwest::Client,
    /// `http://host:port` of who answers.
    to: String,
    arriving: Semaphore,
    places: Semaphore,
}

/// Hands on what comes to `listener` until `stop` turns true. `to`: who answers, as `http://host:port`. `port`: where this is published on the
/// host. `inside`: as which `host:port` services of the lab know it.
///
/// # Errors
/// A client cannot be made.
pub async fn run(
    listener: TcpListener,
    to: String,
    port: u16,
    inside: String,
    stop: watch::Receiver<bool>,
) -> Result<()> {
    let client = plain().redirect(redirect::Policy::none()).timeout(PATIENCE).build()?;
    let front =
        Arc::new(Front { client, to, arriving: Semaphore::new(ARRIVING), places: Semaphore::new(AT_ONCE) });
    let mut hosts = local(port);
    hosts.push(inside);
    let all = Router::new().fallback(hand_on);
    let guarded = Guard { hosts, token: None, headers: &HEADERS }.before(all.with_state(Arc::clone(&front)));
    // Asked inside the container, by whatever name.
    let ready = Router::new().route("/-/ready", get(hand_on)).with_state(front);
    serve(listener, ready.merge(guarded), stop).await;
    Ok(())
}

async fn hand_on(State(front): State<Arc<Front>>, request: Request) -> Response {
    let (parts, body) = request.into_parts();
    if !parts.uri.path().starts_with('/') {
        return (StatusCode::BAD_REQUEST, "a path begins with /\n").into_response();
    }
    let body = match front.arrived(body).await {
        Ok(body) => body,
        Err((status, why)) => return (status, why).into_response(),
    };
    let Ok(_place) = front.places.acquire().await else {
        return StatusCode::SERVICE_UNAVAILABLE.into_response();
    };
    front.answer(parts, body).await.unwrap_or_else(|error| {
        let why = format!(
            "{} does not answer: {error:#}\n  Start it again: ./lab restart alertmanager\n",
            front.to
        );
        (StatusCode::BAD_GATEWAY, why).into_response()
    })
}

impl Front {
    /// A body, as far as it is waited for. A request without one waits for nobody's.
    async fn arrived(&self, body: Body) -> Result<Bytes, (StatusCode, String)> {
        if body.size_hint().exact() == Some(0) {
            return Ok(Bytes::new());
        }
        let _place = self.arriving.acquire().await;
        match tokio::time::timeout(ARRIVES_WITHIN, to_bytes(body, BODY)).await {
            Ok(Ok(body)) => Ok(body),
            Ok(Err(_)) => Err((StatusCode::PAYLOAD_TOO_LARGE, format!("at most {BODY} bytes\n"))),
            Err(_) => {
                let why = format!("it did not arrive within {} s\n", ARRIVES_WITHIN.as_secs());
                Err((StatusCode::REQUEST_TIMEOUT, why))
            }
        }
    }

    async fn answer(&self, parts: Parts, body: Bytes) -> Result<Response> {
        let path = parts.uri.path_and_query().map_or("/", |path| path.as_str());
        let request = self.client.request(parts.method, format!("{}{path}", self.to));
        let answer = request.headers(of_the_message(parts.headers)).body(body).send().await;
        // The address is said already.
        let mut answer = answer.map_err(|error| anyhow!(error.without_url()))?;
        let (status, headers) = (answer.status(), std::mem::take(answer.headers_mut()));
        Ok((status, of_the_message(headers), answer.bytes().await?).into_response())
    }
}

/// The headers that are handed on. Nobody else's page is let in, whatever the answer says.
fn of_the_message(headers: HeaderMap) -> HeaderMap {
    let mut kept = headers;
    for name in OF_A_CONNECTION {
        kept.remove(name);
    }
    let open: Vec<HeaderName> =
        kept.keys().filter(|name| name.as_str().starts_with("access-control-")).cloned().collect();
    for name in open {
        kept.remove(name);
    }
    kept
}
