//! What every own service has: its metrics in one registry, served with its health, counted requests, an orderly end.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context as _, Result};
use axum::Router;
use axum::extract::{MatchedPath, Request, State};
use axum::http::{Method, StatusCode, header};
use axum::middleware::{Next, from_fn_with_state};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use hyper_util::server::graceful::GracefulShutdown;
use hyper_util::service::TowerToHyperService;
use prometheus_client::encoding::{EncodeLabelSet, text};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::{Family, MetricConstructor};
use prometheus_client::metrics::histogram::Histogram;
use tokio::net::TcpListener;
use tokio::sync::watch;

/// The only format that the client writes: Prometheus reads it by this name.
const OPEN_METRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// How long requests that are being answered may take once the service is told to end.
const LAST_ANSWERS: Duration = Duration::from_millis(500);

/// How long a connection may be open without a whole question.
const PATIENCE: Duration = Duration::from_secs(30);

/// Bytes of a question without its body, and of what is read ahead: a service has little memory, and anybody may ask.
const LARGEST_HEAD: usize = 64 << 10;

/// Upper bounds of a histogram, in seconds.
#[derive(Debug, Clone, Copy)]
pub struct Buckets(pub &'static [f64]);

impl MetricConstructor<Histogram> for Buckets {
    fn new_metric(&self) -> Histogram {
        Histogram::new(self.0.iter().copied())
    }
}

/// Counters by labels.
pub type Counters<L> = Family<L, Counter>;
/// Histograms by labels.
pub type Histograms<L> = Family<L, Histogram, Buckets>;

/// A label set of the topic alone.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct Topic {
    /// Name.
    pub topic: String,
}

impl Topic {
    /// The label set of one topic.
    pub fn of(topic: &str) -> Self {
        Self { topic: topic.to_owned() }
    }
}

/// What a label set must be able to do.
pub trait Labels:
    Clone + std::hash::Hash + Eq + EncodeLabelSet + std::fmt::Debug + Send + Sync + 'static
{
}
impl<L: Clone + std::hash::Hash + Eq + EncodeLabelSet + std::fmt::Debug + Send + Sync + 'static> Labels
    for L
{
}

/// The metrics of one service. What is registered here stays in the caller's hands: both are the same metric.
#[derive(Debug, Default)]
pub struct Registry(prometheus_client::registry::Registry);

impl Registry {
    /// An empty one.
    pub fn new() -> Self {
        Self::default()
    }

    /// Counters; in the text their name ends in `_total`, which is not given here.
    pub fn counters<L: Labels>(&mut self, name: &str, help: &str) -> Counters<L> {
        let family = Counters::default();
        self.0.register(name, help, family.clone());
        family
    }

    /// Histograms.
    pub fn histograms<L: Labels>(&mut self, name: &str, help: &str, buckets: Buckets) -> Histograms<L> {
        let family = Family::new_with_constructor(buckets);
        self.0.register(name, help, family.clone());
        family
    }

    /// The client's own registry, for kinds that have no short form here (collectors that ask when they are scraped).
    pub fn inner(&mut self) -> &mut prometheus_client::registry::Registry {
        &mut self.0
    }

    /// Everything as OpenMetrics text.
    ///
    /// # Errors
    /// A collector cannot write.
    pub fn text(&self) -> Result<String> {
        let mut out = String::new();
        text::encode(&mut out, &self.0).context("the metrics cannot be written")?;
        Ok(out)
    }

    /// The answer to Prometheus.
    pub fn response(&self) -> Response {
        match self.text() {
            Ok(text) => ([(header::CONTENT_TYPE, OPEN_METRICS)], text).into_response(),
            Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, format!("{error:#}\n")).into_response(),
        }
    }

    /// Routes `/metrics` and `/health`: 200, or 503 with the reason that `health` gives.
    pub fn router<H>(self, health: H) -> Router
    where
        H: Fn() -> Result<(), String> + Clone + Send + Sync + 'static,
    {
        let registry = Arc::new(self);
        let metrics = move || async move { registry.response() };
        let health = move || async move {
            match health() {
                Ok(()) => (StatusCode::OK, "ok\n".to_owned()),
                Err(why) => (StatusCode::SERVICE_UNAVAILABLE, format!("{why}\n")),
            }
        };
        Router::new().route("/metrics", get(metrics)).route("/health", get(health))
    }
}

/// Seconds since a record's timestamp; none below 0, for two machines' clocks differ.
#[allow(clippy::cast_precision_loss)]
pub(super) fn age_seconds(written_ms: i64, now: SystemTime) -> f64 {
    let now = now.duration_since(UNIX_EPOCH).unwrap_or_default();
    (now.as_secs_f64() - written_ms as f64 / 1000.0).max(0.0)
}

/// Binds `listen`; port 0 stands for any.
///
/// # Errors
/// The port is taken, or the address is not this machine's.
pub async fn listen(listen: SocketAddr) -> Result<TcpListener> {
    TcpListener::bind(listen).await.map_err(|error| match error.kind() {
        std::io::ErrorKind::AddrInUse => {
            anyhow::anyhow!("port {} is taken: another program listens on {listen}", listen.port())
        }
        _ => anyhow::Error::new(error).context(format!("{listen} cannot be listened on")),
    })
}

/// Answers on `listener` until `stop` turns true, then ends within half a second: a client that holds its connection open
/// does not hold the service. A connection on which nothing is asked is closed after a while.
pub async fn serve(listener: TcpListener, router: Router, stop: watch::Receiver<bool>) {
    serve_patiently(listener, router, stop, PATIENCE).await;
}

async fn serve_patiently(
    mut listener: TcpListener,
    router: Router,
    mut stop: watch::Receiver<bool>,
    patience: Duration,
) {
    let mut server = auto::Builder::new(TokioExecutor::new()).http1_only();
    server.http1().timer(TokioTimer::new()).header_read_timeout(patience).max_buf_size(LARGEST_HEAD);
    let connections = GracefulShutdown::new();
    let stopped = async {
        // An error is a sender that is gone: nobody can tell us to end any more.
        if stop.wait_for(|s| *s).await.is_err() {
            std::future::pending::<()>().await;
        }
    };
    tokio::pin!(stopped);
    loop {
        let (stream, _) = tokio::select! {
            accepted = axum::serve::Listener::accept(&mut listener) => accepted,
            () = &mut stopped => break,
        };
        let service = TowerToHyperService::new(router.clone());
        let connection = server.serve_connection(TokioIo::new(stream), service).into_owned();
        let connection = connections.watch(connection);
        // How it ended is the client's affair.
        tokio::spawn(async move { drop(connection.await) });
    }
    drop(listener);
    let _ = tokio::time::timeout(LAST_ANSWERS, connections.shutdown()).await;
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Asked {
    method: &'static str,
    path: String,
    status: u16,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct PathOnly {
    path: String,
}

/// Counts and times every request of a router.
#[derive(Debug, Clone)]
pub struct Requests {
    total: Counters<Asked>,
    duration: Histograms<PathOnly>,
}

impl Requests {
    /// `http_requests_total` and `http_request_duration_seconds`.
    pub fn new(registry: &mut Registry) -> Self {
        const SECONDS: Buckets =
            Buckets(&[0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5]);
        Self {
            total: registry.counters("http_requests", "Requests answered"),
            duration: registry.histograms("http_request_duration_seconds", "Time to the answer", SECONDS),
        }
    }

    /// The router with every request counted, also those that no route takes. To be called after the last route.
    pub fn count(self, router: Router) -> Router {
        router.layer(from_fn_with_state(self, counted))
    }
}

async fn counted(State(requests): State<Requests>, request: Request, next: Next) -> Response {
    // The route's template, and few methods: a client must not be able to make up series.
    let path = request.extensions().get::<MatchedPath>().map_or("other", MatchedPath::as_str).to_owned();
    let method = method_label(request.method());
    let start = Instant::now();
    let response = next.run(request).await;
    requests.duration.get_or_create(&PathOnly { path: path.clone() }).observe(start.elapsed().as_secs_f64());
    let status = response.status().as_u16();
    requests.total.get_or_create(&Asked { method, path, status }).inc();
    response
}

fn method_label(method: &Method) -> &'static str {
    match method.as_str() {
        "GET" => "GET",
        "HEAD" => "HEAD",
        "POST" => "POST",
        "PUT" => "PUT",
        "DELETE" => "DELETE",
        "OPTIONS" => "OPTIONS",
        "PATCH" => "PATCH",
        _ => "other",
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    use super::*;

    #[test]
    fn an_age_is_never_below_zero() {
        let now = UNIX_EPOCH + Duration::from_millis(10_500);
        assert_eq!((age_seconds(10_000, now), age_seconds(11_000, now)), (0.5, 0.0));
    }

    #[tokio::test]
    async fn a_connection_without_a_question_is_closed_and_others_are_answered() {
        let listener = listen(([127, 0, 0, 1], 0).into()).await.unwrap();
        let address = listener.local_addr().unwrap();
        let (stop, stopped) = watch::channel(false);
        let router = Router::new().route("/", get(|| async { "here" }));
        let server = tokio::spawn(serve_patiently(listener, router, stopped, Duration::from_millis(200)));
        let mut silent = tokio::net::TcpStream::connect(address).await.unwrap();
        let mut half = tokio::net::TcpStream::connect(address).await.unwrap();
        half.write_all(b"GET / HTTP/1.1\r\nhost:").await.unwrap();
        let mut whole = tokio::net::TcpStream::connect(address).await.unwrap();
        whole.write_all(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
        let mut answers = [String::new(), String::new(), String::new()];
        for (client, answer) in [&mut silent, &mut half, &mut whole].into_iter().zip(&mut answers) {
            // Ends only when the server closes the connection.
            client.read_to_string(answer).await.unwrap();
        }
        assert!(answers[0].is_empty() && !answers[1].contains("here"), "{answers:?}");
        assert!(answers[2].starts_with("HTTP/1.1 200") && answers[2].ends_with("here"), "{answers:?}");
        stop.send(true).unwrap();
        server.await.unwrap();
    }
}
