//! `alertmanager-front`: the only way to Alertmanager from the host. Alertmanager answers the pages of every origin, and nothing can forbid it; this
//! hands on what the [`super::guard`] lets through, and changes nothing of it.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Result, anyhow};
use axum::Router;
use axum::body::Bytes;
use axum::extract::{DefaultBodyLimit, State};
use axum::http::{HeaderMap, HeaderName, Method, StatusCode, Uri, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use reqwest::redirect;
use tokio::net::TcpListener;
use tokio::sync::watch;

use super::guard::{Guard, local};
use super::metrics::serve;
use crate::clients::plain;

/// Bytes that a request may bring: a silence has some hundred.
const BODY: usize = 256 << 10;
const PATIENCE: Duration = Duration::from_secs(20);

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
    let front = Arc::new(Front { client, to });
    let mut hosts = local(port);
    hosts.push(inside);
    let all = Router::new().fallback(hand_on).layer(DefaultBodyLimit::max(BODY));
    let guarded = Guard { hosts, token: None, headers: &HEADERS }.before(all.with_state(Arc::clone(&front)));
    // Asked inside the container, by whatever name.
    let ready = Router::new().route("/-/ready", get(hand_on)).with_state(front);
    serve(listener, ready.merge(guarded), stop).await;
    Ok(())
}

async fn hand_on(
    State(front): State<Arc<Front>>,
    method: Method,
    uri: Uri,
    headers: HeaderMap,
    body: Bytes,
) -> Response {
    front.answer(method, &uri, headers, body).await.unwrap_or_else(|error| {
        (StatusCode::BAD_GATEWAY, format!("{} does not answer: {error:#}\n", front.to)).into_response()
    })
}

impl Front {
    async fn answer(&self, method: Method, uri: &Uri, headers: HeaderMap, body: Bytes) -> Result<Response> {
        let path = uri.path_and_query().map_or("/", |path| path.as_str());
        let request = self.client.request(method, format!("{}{path}", self.to));
        let answer = request.headers(of_the_message(headers)).body(body).send().await;
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
