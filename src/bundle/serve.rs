//! A bundle offered to a classroom: a read-only registry over the OCI distribution protocol, the manifest, and the whole file.

use std::sync::Arc;

use anyhow::{Context, Result};
use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::{Path, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use tokio::net::TcpListener;

use super::BundleFile;
use super::manifest::{MANIFEST, blob, check_digest};

/// Bytes that are read at once.
const CHUNK: usize = 1 << 20;

/// Answers on `listener` until `stop` resolves.
///
/// # Errors
/// The listener fails.
pub async fn serve(
    bundle: BundleFile,
    listener: TcpListener,
    stop: impl Future<Output = ()> + Send + 'static,
) -> Result<()> {
    let router = Router::new()
        .route("/", get(page))
        .route(&format!("/{MANIFEST}"), get(manifest))
        .route("/bundle", get(whole))
        .route("/v2/", get(|| async { "{}" }))
        .route("/v2/{*path}", get(registry))
        .with_state(Arc::new(bundle));
    axum::serve(listener, router).with_graceful_shutdown(stop).await.context("the server ended")
}

type Offered = State<Arc<BundleFile>>;

async fn page(State(bundle): Offered, headers: HeaderMap) -> Response {
    let host = headers.get(header::HOST).and_then(|h| h.to_str().ok()).unwrap_or("THIS-ADDRESS");
    let lab = &bundle.manifest.lab;
    let fingerprint = bundle.manifest.fingerprint().unwrap_or_default();
    format!(
        "Streamlab: the lab {lab}, for {} (bundle {fingerprint}).\n\n\
         With a checkout:     ./lab up --from http://{host}\n\
         With nothing at all: curl -o {lab}.bundle http://{host}/bundle\n\
         \x20                    tar -xf {lab}.bundle streamlab && ./streamlab bundle import {lab}.bundle\n\
         \x20                    cd streamlab-{lab} && ./lab up\n\n\
         The import says which bundle it is: compare it with {fingerprint} on the teacher's screen.\n",
        bundle.manifest.architecture
    )
    .into_response()
}

async fn manifest(State(bundle): Offered) -> Response {
    match bundle.manifest.text() {
        Ok(text) => ([(header::CONTENT_TYPE, "application/json")], text).into_response(),
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, error.to_string()).into_response(),
    }
}

async fn whole(State(bundle): Offered, headers: HeaderMap) -> Response {
    match bundle.size() {
        Ok(size) => part(&bundle, 0, size, &headers, "application/x-tar"),
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, error.to_string()).into_response(),
    }
}

/// `<repository>/manifests/<tag or digest>` and `<repository>/blobs/<digest>`.
async fn registry(State(bundle): Offered, Path(path): Path<String>, headers: HeaderMap) -> Response {
    let found = match path.rsplit('/').collect::<Vec<_>>().as_slice() {
        [reference, "manifests", repository @ ..] => {
            let repository: Vec<&str> = repository.iter().rev().copied().collect();
            let named = bundle.manifest.images.get(&format!("{}:{reference}", repository.join("/")));
            let by_digest = bundle.manifest.images.values().find(|i| i.manifest == **reference);
            named.or(by_digest).map(|i| (i.manifest.clone(), "application/vnd.oci.image.manifest.v1+json"))
        }
        [digest, "blobs", ..] if check_digest(digest).is_ok() => {
            Some(((*digest).to_owned(), "application/octet-stream"))
        }
        _ => None,
    };
    let found = found.and_then(|(digest, kind)| Some((bundle.place(&blob(&digest))?, digest, kind)));
    let Some(((at, size), digest, kind)) = found else {
        let body = r#"{"errors":[{"code":"NAME_UNKNOWN","message":"this bundle does not hold it"}]}"#;
        return (StatusCode::NOT_FOUND, [(header::CONTENT_TYPE, "application/json")], body).into_response();
    };
    let mut response = part(&bundle, at, size, &headers, kind);
    if let Ok(value) = digest.parse() {
        response.headers_mut().insert("docker-content-digest", value);
    }
    response
}

/// What a Range header asks for of `size` bytes at `at`; all of them where it asks for nothing.
fn part(bundle: &Arc<BundleFile>, at: u64, size: u64, headers: &HeaderMap, kind: &'static str) -> Response {
    let asked = headers.get(header::RANGE).and_then(|r| range(r.to_str().ok()?, size));
    if asked.is_some_and(|(from, to)| from >= to) {
        let range = [(header::CONTENT_RANGE, format!("bytes */{size}"))];
        return (StatusCode::RANGE_NOT_SATISFIABLE, range).into_response();
    }
    let (start, end) = asked.unwrap_or((0, size));
    let bundle = Arc::clone(bundle);
    let chunks = futures::stream::try_unfold((at + start, end - start), move |(position, left)| {
        let bundle = Arc::clone(&bundle);
        async move {
            if left == 0 {
                return Ok(None);
            }
            let length = usize::try_from(left).unwrap_or(CHUNK).min(CHUNK);
            let read = tokio::task::spawn_blocking(move || bundle.read_at(position, length));
            let bytes = Bytes::from(read.await.map_err(std::io::Error::other)??);
            Ok::<_, std::io::Error>(Some((bytes, (position + length as u64, left - length as u64))))
        }
    });
    let mut response = Response::builder()
        .header(header::CONTENT_TYPE, kind)
        .header(header::CONTENT_LENGTH, end - start)
        .header(header::ACCEPT_RANGES, "bytes");
    if asked.is_some() {
        response = response
            .status(StatusCode::PARTIAL_CONTENT)
            .header(header::CONTENT_RANGE, format!("bytes {start}-{}/{size}", end - 1));
    }
    let body = Body::from_stream(chunks);
    response.body(body).unwrap_or_else(|_| StatusCode::INTERNAL_SERVER_ERROR.into_response())
}

/// First byte and the one after the last of `bytes=a-b`, `bytes=a-` or `bytes=-n`; none for anything else, which HTTP lets a
/// server answer with everything.
fn range(header: &str, size: u64) -> Option<(u64, u64)> {
    let (from, to) = header.strip_prefix("bytes=")?.split_once('-')?;
    match (from.is_empty(), to.is_empty()) {
        (false, true) => Some((from.parse().ok()?, size)),
        (false, false) => Some((from.parse().ok()?, to.parse::<u64>().ok()?.saturating_add(1).min(size))),
        (true, false) => Some((size.saturating_sub(to.parse().ok()?), size)),
        (true, true) => None,
    }
}
