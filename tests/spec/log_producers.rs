//! The generator of log records → topic → Logstash → Elasticsearch: totals by level and service, the stream of the lab's own
//! producers, and the requests that they count.

use std::collections::BTreeMap;
use std::sync::Arc;

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};
use streamlab::clients::elasticsearch::Document;
use streamlab::clients::http;
use streamlab::clients::producer::{Acks, Ledger, Order, Progress, produce};
use streamlab::probes::{Answer, eventually};
use streamlab::scenarios::Sequence as _;
use streamlab::scenarios::logs::{Environment, Level, Logs, Requests, SHIPPER, Totals};
use tokio::sync::watch;

use crate::exact::exactly_once;
use crate::lab::Lab;
use crate::log_lines::{EVERY, elasticsearch};
use crate::metrics::prometheus;
use crate::transactions::new_run;
use crate::trial::{Chapter, Check, PATIENCE, Trial};

/// Counts by two values: level and service, service and status.
type Counts = BTreeMap<(String, String), u64>;

pub(crate) fn trials(chapter: &Chapter<'_>) -> Vec<Trial> {
    [
        chapter.flow("logs-produced", Check::plain(|lab| Box::pin(produced(lab)))),
        chapter.flow("logs-producer", Check::plain(|lab| Box::pin(without_gap(lab)))),
        chapter.flow("logs-requests", Check::plain(|lab| Box::pin(requests(lab)))),
    ]
    .into_iter()
    .flatten()
    .collect()
}

fn index(environment: Environment) -> &'static str {
    match environment {
        Environment::Dev => "dev-logs-index",
        Environment::Prod => "prod-logs-index",
    }
}

/// What an environment's pipeline keeps.
fn keeps(environment: Environment, level: Level) -> bool {
    environment == Environment::Dev || level != Level::Debug
}

fn of_run(run: &str) -> Value {
    json!({ "term": { "run": run } })
}

fn name_of(level: Level) -> Result<String> {
    Ok(serde_json::to_value(level)?.as_str().context("a level is a text")?.to_owned())
}

async fn produced(lab: Arc<Lab>) -> Result<String> {
    let mut notes = Vec::new();
    for environment in [Environment::Dev, Environment::Prod] {
        notes.push(produced_in(&lab, environment).await?);
    }
    Ok(notes.join("; "))
}

async fn produced_in(lab: &Lab, environment: Environment) -> Result<String> {
    const COUNT: u64 = 3000;
    let run = new_run();
    let order = Order {
        bootstrap: lab.bootstrap(),
        profile: SHIPPER,
        acks: Acks::All,
        threads: 1,
        count: Some(COUNT),
        seed: 42,
        ..Order::default()
    };
    let sequence = Logs::new(environment, order.seed, &run, Requests::default());
    let (_stop, never) = watch::channel(false);
    let ledger: Ledger<Totals> =
        produce(&order, sequence.clone(), Arc::new(Progress::default()), never).await?;
    if ledger.acknowledged != COUNT || ledger.totals != sequence.totals(COUNT) {
        bail!("{} of {COUNT} are acknowledged; totals {:?}", ledger.acknowledged, ledger.totals);
    }
    // Without its time: the generator is asked for the record once more.
    let made = (0..COUNT).map(|number| sequence.record(number, 0)).filter(|r| keeps(environment, r.level));
    let expected: Vec<String> = made
        .map(|record| {
            let mut fields = serde_json::to_value(record)?;
            fields["host"] = json!({ "name": fields["host"] });
            fields["environment"] = serde_json::to_value(environment)?;
            Ok(without_time(fields))
        })
        .collect::<Result<_>>()?;
    let wanted = expected.len() as u64;
    complete(lab, environment, &run, wanted).await?;
    let found = elasticsearch(lab)?.documents(index(environment), &of_run(&run)).await?;
    for document in &found {
        if document.source["@timestamp"].as_str().is_none_or(|at| !at.ends_with('Z') || at.len() != 24) {
            bail!("no time in milliseconds: {}", document.source);
        }
    }
    let found = found.into_iter().map(|document| without_time(document.source));
    exactly_once(index(environment), expected, found)?;
    let counted =
        elasticsearch(lab)?.counted(index(environment), &of_run(&run), ("level", "service")).await?;
    let mut totals = Counts::new();
    for (level, services) in ledger.totals.0.iter().filter(|(level, _)| keeps(environment, **level)) {
        for (service, count) in services {
            totals.insert((name_of(*level)?, service.clone()), *count);
        }
    }
    if counted != totals {
        bail!("the ledger's totals are {totals:?}, Elasticsearch counts {counted:?}");
    }
    Ok(format!("{COUNT} records, {wanted} documents in {}", index(environment)))
}

fn without_time(mut fields: Value) -> String {
    if let Some(fields) = fields.as_object_mut() {
        ["timestamp", "@timestamp", "@version"].iter().for_each(|name| drop(fields.remove(*name)));
    }
    fields.to_string()
}

/// Waits until a run has so many documents, or more.
async fn complete(lab: &Lab, environment: Environment, run: &str, wanted: u64) -> Result<()> {
    let question = format!("{wanted} documents of {run} in {}", index(environment));
    eventually(&question, PATIENCE, EVERY, || async {
        let seen = elasticsearch(lab)?.count(index(environment), &of_run(run)).await?;
        Ok(if seen >= wanted { Answer::Is(()) } else { Answer::NotYet(seen.to_string()) })
    })
    .await?;
    Ok(())
}

/// The run of a producer that is a service, as it says itself at its start.
async fn run_of(lab: &Lab, service: &str) -> Result<String> {
    let log = lab.engine()?.whole_log(&lab.service(service)?.container).await?;
    let run = log.lines().rev().find_map(|line| line.split_once("has the field run: "));
    Ok(run.with_context(|| format!("{service} has not said its run"))?.1.trim().to_owned())
}

async fn without_gap(lab: Arc<Lab>) -> Result<String> {
    const MORE: u64 = 50;
    let run = run_of(&lab, "log-producer").await?;
    let index = index(Environment::Dev);
    let before = elasticsearch(&lab)?.count(index, &of_run(&run)).await?;
    complete(&lab, Environment::Dev, &run, before + MORE).await?;
    let number =
        |document: Document| document.source["number"].as_u64().context("a document without its number");
    let numbers = async |query: &Value| -> Result<Vec<u64>> {
        elasticsearch(&lab)?.documents(index, query).await?.into_iter().map(number).collect()
    };
    let newest = numbers(&of_run(&run)).await?.into_iter().max().context("no documents")?;
    // Partitions are read side by side: one before the newest may come after it.
    let until = json!({ "bool": { "filter": [of_run(&run), { "range": { "number": { "lte": newest } } }] } });
    eventually(&format!("records 0 to {newest} of {run}"), PATIENCE, EVERY, || async {
        let seen = elasticsearch(&lab)?.count(index, &until).await?;
        Ok(if seen > newest { Answer::Is(()) } else { Answer::NotYet(seen.to_string()) })
    })
    .await?;
    let told = |numbers: Vec<u64>| numbers.into_iter().map(|n| n.to_string()).collect::<Vec<_>>();
    exactly_once(index, told((0..=newest).collect()), told(numbers(&until).await?))?;
    Ok(format!("records 0 to {newest} of run {run}"))
}

async fn requests(lab: Arc<Lab>) -> Result<String> {
    let service = lab.names_of("web-shop").remove(0);
    let run = run_of(&lab, &service).await?;
    let before = counters(&lab, &service).await?;
    let question = format!("{} requests of {run} are documents", before.values().sum::<u64>());
    let counted = eventually(&question, PATIENCE, EVERY, || async {
        let fields = ("service", "status");
        let counted = elasticsearch(&lab)?.counted(index(Environment::Prod), &of_run(&run), fields).await?;
        let missing = before.iter().find(|(of, count)| counted.get(*of).is_none_or(|found| found < count));
        Ok(match missing {
            None => Answer::Is(counted),
            Some((of, count)) => Answer::NotYet(format!("{of:?}: {:?} of {count}", counted.get(of))),
        })
    })
    .await?;
    // No document without a request that was counted.
    let after = counters(&lab, &service).await?;
    for (of, found) in &counted {
        if after.get(of).is_none_or(|count| found > count) {
            bail!("{of:?}: {found} documents, {:?} requests", after.get(of));
        }
    }
    let prometheus = prometheus(&lab)?;
    let mut seen = Vec::new();
    for (of, count) in &after {
        let (service, status) = of;
        let series =
            format!("http_requests_total{{job=\"app-service\",service=\"{service}\",status=\"{status}\"}}");
        let question = format!("{series} is {count} or more");
        let known = eventually(&question, PATIENCE, EVERY, || async {
            let seen = prometheus.sum(&series).await?.unwrap_or_default();
            Ok(if seen >= *count as f64 { Answer::Is(seen) } else { Answer::NotYet(seen.to_string()) })
        });
        seen.push((of, known.await?));
    }
    let last = counters(&lab, &service).await?;
    for (of, seen) in seen {
        if last.get(of).is_none_or(|count| seen > *count as f64) {
            bail!("{of:?}: Prometheus has {seen} requests, app-service {:?}", last.get(of));
        }
    }
    Ok(format!("{} requests in {} kinds", after.values().sum::<u64>(), after.len()))
}

/// Requests by service and status, as the service says.
async fn counters(lab: &Lab, service: &str) -> Result<Counts> {
    let url = format!("{}/metrics", lab.endpoints.url(service, "metrics")?);
    let text = http().get(url).send().await?.error_for_status()?.text().await?;
    let mut counts = Counts::new();
    for line in text.lines().filter(|line| line.starts_with("http_requests_total{")) {
        let (labels, count) = line.rsplit_once(' ').context("a sample without a value")?;
        let label = |name: &str| {
            let value = labels.split_once(&format!("{name}=\"")).and_then(|(_, rest)| rest.split_once('"'));
            Ok::<_, anyhow::Error>(value.with_context(|| format!("{line}: no {name}"))?.0.to_owned())
        };
        counts.insert((label("service")?, label("status")?), count.parse()?);
    }
    if counts.is_empty() {
        bail!("{service} counts no requests");
    }
    Ok(counts)
}
