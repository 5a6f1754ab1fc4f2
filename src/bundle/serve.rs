//! A bundle offered to a classroom: a read-only registry over the OCI distribution protocol, the manifest, and the whole file.

use std::io::{Read as _, Seek as _, SeekFrom};
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
         \x20                    tar -xf {lab}.bundle streamlab && ./streamlab bundle import {lab}.bundle\n",
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
    match bundle.path().metadata() {
        Ok(data) => part(&bundle, 0, data.len(), &headers, "application/x-tar"),
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

/// The bytes `from-` on that a Range header asks for, of `size` bytes at `at`.
fn part(bundle: &Arc<BundleFile>, at: u64, size: u64, headers: &HeaderMap, kind: &'static str) -> Response {
    let asked = headers.get(header::RANGE).and_then(|r| r.to_str().ok());
    let from = asked.and_then(|r| r.strip_prefix("bytes=")?.strip_suffix('-')?.parse::<u64>().ok());
    if from.is_some_and(|from| from >= size) {
        let range = [(header::CONTENT_RANGE, format!("bytes */{size}"))];
        return (StatusCode::RANGE_NOT_SATISFIABLE, range).into_response();
    }
    let start = from.unwrap_or_default();
    let bundle = Arc::clone(bundle);
    let chunks = futures::stream::try_unfold((at + start, size - start), move |(position, left)| {
        let bundle = Arc::clone(&bundle);
        async move {
            if left == 0 {
                return Ok(None);
            }
            let length = usize::try_from(left).unwrap_or(CHUNK).min(CHUNK);
            let read = tokio::task::spawn_blocking(move || read_at(&bundle, position, length));
            let bytes = read.await.map_err(std::io::Error::other)??;
            Ok::<_, std::io::Error>(Some((bytes, (position + length as u64, left - length as u64))))
        }
    });
    let mut response = Response::builder()
        .header(header::CONTENT_TYPE, kind)
        .header(header::CONTENT_LENGTH, size - start)
        .header(header::ACCEPT_RANGES, "bytes");
    if from.is_some() {
        response = response
            .status(StatusCode::PARTIAL_CONTENT)
            .header(header::CONTENT_RANGE, format!("bytes {start}-{}/{size}", size - 1));
    }
    let body = Body::from_stream(chunks);
    response.body(body).unwrap_or_else(|_| StatusCode::INTERNAL_SERVER_ERROR.into_response())
}

fn read_at(bundle: &BundleFile, position: u64, length: usize) -> std::io::Result<Bytes> {
    let mut file = std::fs::File::open(bundle.path())?;
    file.seek(SeekFrom::Start(position))?;
    let mut bytes = vec![0; length];
    file.read_exact(&mut bytes)?;
    Ok(bytes.into())
}
