//! The lab's console: what a person wants to look at, as pages and as JSON. It changes nothing but silences; one that is started on the
//! host for it also breaks the lab and puts it right, by a [`Breaker`].
//!
//! [`cluster`] looks at Kafka and [`monitoring`] while somebody looks at the console, [`dashboards`] draws Grafana's files,
//! [`diagram`] the lab, [`logs`] finds log records, [`asked`] and [`window`] read what a request wants, [`api`] answers programs, [`pages`] people. Who is answered at all is decided before, by [`super::guard`].

mod api;
mod asked;
mod charts;
mod cluster;
mod dashboards;
mod diagram;
mod export;
mod logs;
mod monitoring;
mod pages;
mod window;

use std::path::Path;
use std::sync::Arc;

use anyhow::{Context, Result};
use axum::Router;
use axum::extract::DefaultBodyLimit;
use axum::http::{HeaderName, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use futures::future::BoxFuture;
use tokio::net::TcpListener;
use tokio::sync::{Semaphore, watch};

use self::charts::Charts;
use self::cluster::Cluster;
use self::dashboards::Dashboards;
use self::logs::Logs;
use self::monitoring::Monitoring;
use super::guard::{Guard, local};
use super::metrics::{Registry, Requests, serve};
use crate::clients::browse::Browser;
use crate::clients::schema_registry::SchemaRegistry;
use crate::clients::shown::Shown;
use crate::topology::{KAFKA, LabView, SCHEMA_REGISTRY};

/// Topics that are searched at once: each search has a client and its buffers.
const SEARCHES: usize = 4;
/// Browsers that may hold a stream of news at once.
const STREAMS: usize = 64;

/// Dashboards that are drawn at once.
const DRAWN: usize = 8;

/// Bytes that a request may bring: the largest is a schema.
const BODY: usize = 256 << 10;

/// Nothing from elsewhere, no script from data, no frame around it.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self'; \
    base-uri 'none'; form-action 'self'; frame-ancestors 'none'; require-trusted-types-for 'script'; trusted-types 'none'";

static HEADERS: [(HeaderName, &str); 6] = [
    (header::CONTENT_SECURITY_POLICY, POLICY),
    (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
    (header::REFERRER_POLICY, "no-referrer"),
    (header::CACHE_CONTROL, "no-store"),
    (HeaderName::from_static("cross-origin-resource-policy"), "same-origin"),
    (HeaderName::from_static("cross-origin-opener-policy"), "same-origin"),
];

/// What every answer is made from.
struct Console {
    lab: LabView,
    cluster: Arc<Cluster>,
    monitoring: Arc<Monitoring>,
    /// What a page of this console knows and no other: it may change something.
    token: String,
    schemas: Option<SchemaRegistry>,
    browser: Browser,
    streams: Arc<Semaphore>,
    dashboards: Dashboards,
    drawing: Semaphore,
    charts: Charts,
    logs: Option<Logs>,
    /// Where the runbooks are on the host.
    runbooks: Option<String>,
    breaker: Option<Box<dyn Breaker>>,
}

/// What a console is given.
pub struct Given<'a> {
    /// What it is about.
    pub lab: LabView,
    /// Where it is published on the host, and the only port for which it answers.
    pub port: u16,
    /// The folder that has Grafana's files as the project has them.
    pub files: &'a Path,
    /// The jar with the library of the charts.
    pub charts: &'a Path,
    /// Where the runbooks are on the host.
    pub runbooks: Option<String>,
    /// Who breaks the lab for somebody who asks for it; without one, the console only reads.
    pub breaker: Option<Box<dyn Breaker>>,
}

/// Breaks a lab and puts it right.
pub trait Breaker: Send + Sync {
    /// The faults that are in force.
    fn in_force(&self) -> BoxFuture<'_, Result<Vec<String>>>;
    /// Does a fault, by its name.
    fn inject<'a>(&'a self, name: &'a str) -> BoxFuture<'a, Result<()>>;
    /// Puts right what all faults in force have broken.
    fn undo(&self) -> BoxFuture<'_, Result<()>>;
}

/// Answers on `listener` until `stop` turns true.
///
/// # Errors
/// A client cannot be made, a dashboard cannot be drawn, or the charts' library is not there.
pub async fn run(listener: TcpListener, given: Given<'_>, stop: watch::Receiver<bool>) -> Result<()> {
    let Given { lab, port, files, charts, runbooks, breaker } = given;
    let bootstrap = lab.roles.get(KAFKA).cloned().unwrap_or_default();
    let registry_url = lab.roles.get(SCHEMA_REGISTRY).map(|address| format!("http://{address}"));
    let monitoring = Arc::new(Monitoring::of(&lab));
    let token = uuid::Uuid::new_v4().simple().to_string();
    let cluster = Arc::new(Cluster::new(&bootstrap, Arc::clone(&monitoring)));
    let looking = tokio::spawn(Arc::clone(&cluster).look_while_wanted(stop.clone()));
    let schemas = registry_url.clone().map(SchemaRegistry::new);
    let dashboards = Dashboards::of(&lab, files)?;
    let charts = Charts::read(charts).with_context(|| charts.display().to_string())?;
    let logs = Logs::of(&lab);
    let console = Arc::new(Console {
        lab,
        logs,
        dashboards,
        drawing: Semaphore::new(DRAWN),
        charts,
        runbooks,
        breaker,
        cluster,
        monitoring,
        token: token.clone(),
        browser: Browser::new(&bootstrap, Arc::new(Shown::new(registry_url)?), SEARCHES),
        schemas,
        streams: Arc::new(Semaphore::new(STREAMS)),
    });
    let mut registry = Registry::new();
    let requests = Requests::new(&mut registry);
    let routes = Router::new()
        .route("/", get(pages::lab::overview))
        .route("/topics", get(pages::topics::topics))
        .route("/topics/{topic}", get(pages::topics::topic))
        .route("/topics/{topic}/{partition}/{offset}", get(pages::topics::record))
        .route("/groups", get(pages::groups::groups))
        .route("/groups/{group}", get(pages::groups::group))
        .route("/schemas", get(pages::schemas::schemas))
        .route("/schemas/{subject}", get(pages::schemas::schema))
        .route("/alerts", get(pages::alerts::alerts))
        .route("/dashboards", get(pages::dashboards::list))
        .route("/dashboards/{uid}", get(pages::dashboards::dashboard))
        .route("/services/{group}", get(pages::lab::group))
        .route("/faults", get(pages::faults::faults))
        .route("/api/faults/undo", post(pages::faults::undo))
        .route("/api/faults/{name}/inject", post(pages::faults::inject))
        .route("/logs", get(pages::logs::page))
        .route("/logs/{index}/{id}", get(pages::logs::one))
        .route("/api/logs", get(pages::logs::data))
        .route("/api/logs/csv", get(pages::logs::file))
        .route("/api/dashboards/{uid}", get(pages::dashboards::data))
        .route("/api/alerts", get(api::alerts))
        .route("/api/silences", post(api::silence))
        .route("/api/silences/{id}/end", post(api::end_silence))
        .route("/api/schemas/{subject}/compatibility", post(api::try_schema))
        .route("/api/topics", get(api::topics))
        .route("/api/messages/{topic}", get(api::messages))
        .route("/api/messages/{topic}/csv", get(export::messages))
        .route("/api/latest/{topic}", get(api::latest))
        .route("/api/stats", get(api::stats))
        .route("/api/groups", get(api::groups))
        .route("/api/groups/{group}/lag", get(pages::groups::lag_over_time))
        .route("/api/stream", get(api::stream))
        .route(
            "/console.css",
            get(|| asset("text/css; charset=utf-8", include_str!("console/assets/console.css"))),
        )
        .route(
            "/console.js",
            get(|| asset("text/javascript; charset=utf-8", include_str!("console/assets/console.js"))),
        )
        .route(
            "/charts.js",
            get(|| asset("text/javascript; charset=utf-8", include_str!("console/assets/charts.js"))),
        )
        .route("/uplot.js", get(charts::script))
        .route("/uplot.css", get(charts::style))
        .route("/icon.svg", get(|| asset("image/svg+xml", include_str!("console/assets/icon.svg"))))
        .fallback(pages::not_found)
        .layer(DefaultBodyLimit::max(BODY))
        .with_state(Arc::clone(&console));
    let guard = Guard { hosts: local(port), token: Some(token), headers: &HEADERS };
    let routes = guard.before(routes);
    let router = requests.count(registry.router(|| Ok(())).merge(routes));
    serve(listener, router, stop).await;
    looking.abort();
    Ok(())
}

async fn asset(kind: &'static str, text: &'static str) -> Response {
    ([(header::CONTENT_TYPE, kind)], text).into_response()
}
