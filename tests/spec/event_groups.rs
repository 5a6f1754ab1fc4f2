//! Producers of the events lab → topics → consumer groups: what the groups have added up is what was acknowledged, also while
//! members come, go and are killed.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, bail};
use rdkafka::producer::FutureRecord;
use streamlab::clients::groups::{Group, GroupReader};
use streamlab::clients::producer::{Acks, Ledger, Order, Progress, produce};
use streamlab::own_services::group;
use streamlab::probes::{Answer, eventually};
use streamlab::results::{Alerts, Analytics, Logger, Results, ServiceResults, UserResults};
use streamlab::scenarios::Sequence;
use streamlab::scenarios::events::{AppLogs, Defaults, HostMetrics, Severity, UserEvents, UserTotals};
use tokio::sync::watch;
use tokio::time::Instant;

use crate::exact::exactly_once;
use crate::lab::Lab;
use crate::metrics::prometheus;
use crate::transactions::new_run;
use crate::trial::{Chapter, Check, PATIENCE, Trial};

const EVERY: Duration = Duration::from_millis(500);
const COUNT: u64 = 3000;

pub(crate) fn trials(chapter: &Chapter<'_>) -> Vec<Trial> {
    [
        chapter.flow("user-events", Check::plain(|lab| Box::pin(user_events(lab)))),
        chapter.flow("application-logs", Check::plain(|lab| Box::pin(application_logs(lab)))),
        chapter.flow("system-metrics", Check::plain(|lab| Box::pin(system_metrics(lab)))),
        chapter.flow("consumers-scaled", Check::plain(|lab| Box::pin(scaled(lab)))),
        chapter.flow("consumers-restarted", Check::plain(|lab| Box::pin(restarted(lab)))),
        chapter.flow("latency", Check::plain(|lab| Box::pin(latency(lab)))),
    ]
    .into_iter()
    .flatten()
    .collect()
}

fn order(lab: &Lab, run: &str, defaults: Defaults) -> Order {
    Order {
        bootstrap: lab.bootstrap(),
        profile: defaults.profile,
        // Also where the seed asks for less: what is counted here must not be lost.
        acks: Acks::All,
        count: Some(COUNT),
        seed: 42,
        run: Some(run.to_owned()),
        ..Order::default()
    }
}

async fn written<S: Sequence>(order: &Order, sequence: S) -> Result<Ledger<S::Totals>> {
    let (_stop, never) = watch::channel(false);
    let ledger = produce(order, sequence, Arc::new(Progress::default()), never).await?;
    if ledger.acknowledged != COUNT {
        bail!("{} of {COUNT} are acknowledged: {:?}", ledger.acknowledged, ledger.failed);
    }
    Ok(ledger)
}

/// What the group has kept, once it reaches past every record of the ledger.
async fn kept<R: Results, T>(lab: &Lab, ledger: &Ledger<T>) -> Result<R> {
    let mut last: BTreeMap<i32, i64> = BTreeMap::new();
    for (_, partition, offset) in ledger.records.values() {
        let last = last.entry(*partition).or_default();
        *last = (*last).max(*offset);
    }
    reaching(lab, &last).await
}

/// What the group has kept, once it reaches past an offset of each partition.
async fn reaching<R: Results>(lab: &Lab, last: &BTreeMap<i32, i64>) -> Result<R> {
    let question = format!("results of {} past {last:?}", R::GROUP);
    eventually(&question, PATIENCE, EVERY, || async {
        let seen = group::results::<R>(&lab.bootstrap(), R::GROUP).await?;
        let there = last.iter().all(|(partition, offset)| seen.offsets.get(partition) > Some(offset));
        Ok(if there { Answer::Is(seen.results) } else { Answer::NotYet(format!("{:?}", seen.offsets)) })
    })
    .await
    .map_err(Into::into)
}

fn of_run<T>(all: BTreeMap<String, T>, run: &str) -> BTreeMap<String, T> {
    let suffix = format!("-{run}");
    all.into_iter().filter(|(name, _)| name.ends_with(&suffix)).collect()
}

/// Every user's line as it was acknowledged, and nothing else of the run.
fn same_users(
    run: &str,
    totals: BTreeMap<String, UserTotals>,
    found: BTreeMap<String, UserResults>,
) -> Result<usize> {
    let users = totals.len();
    let expected = totals.into_iter().map(|(user, of)| format!("{user} {:?} {}", of.events, of.amount));
    let found = of_run(found, run).into_iter();
    let found = found.map(|(user, of)| format!("{user} {:?} {}", of.events, of.amount));
    exactly_once("users of analytics-group", expected, found)?;
    Ok(users)
}

/// Waits until a sum at Prometheus is at least what is known already.
async fn at_prometheus(lab: &Lab, expression: &str, least: u64) -> Result<()> {
    let prometheus = prometheus(lab)?;
    eventually(&format!("{expression} is {least} or more"), PATIENCE, EVERY, || async {
        let seen = prometheus.sum(expression).await?.unwrap_or_default();
        Ok(if seen >= least as f64 { Answer::Is(()) } else { Answer::NotYet(seen.to_string()) })
    })
    .await?;
    Ok(())
}

/// Records that a producer of the lab had acknowledged when Prometheus last asked it.
async fn own_records(lab: &Lab, producer: &str) -> Result<u64> {
    let expression = format!("producer_records_total{{job=\"{producer}\",outcome=\"acknowledged\"}}");
    let seen = eventually(&expression, PATIENCE, EVERY, || async {
        let seen = prometheus(lab)?.sum(&expression).await?.unwrap_or_default();
        Ok(if seen >= 1.0 { Answer::Is(seen) } else { Answer::NotYet(seen.to_string()) })
    });
    Ok(seen.await? as u64)
}

/// What a group has added up of names without a run, once it is as much as the lab's own producer has written.
async fn own_counted<R: Results>(lab: &Lab, least: u64, count: impl Fn(&R) -> u64) -> Result<u64> {
    eventually(&format!("{least} records of the lab's own producer"), PATIENCE, EVERY, || async {
        let seen = count(&group::results::<R>(&lab.bootstrap(), R::GROUP).await?.results);
        Ok(if seen >= least { Answer::Is(seen) } else { Answer::NotYet(seen.to_string()) })
    })
    .await
    .map_err(Into::into)
}

async fn user_events(lab: Arc<Lab>) -> Result<String> {
    let run = new_run();
    let order = order(&lab, &run, UserEvents::DEFAULTS);
    let ledger = written(&order, UserEvents::of(&order)).await?;
    let found: Analytics = kept(&lab, &ledger).await?;
    let events = found.users.values().flat_map(|user| user.events.values()).sum();
    let users = same_users(&run, ledger.totals, found.users)?;
    at_prometheus(&lab, "sum(analytics_events{job=\"analytics-consumer\"})", events).await?;
    let own = own_records(&lab, "event-producer").await?;
    let own = own_counted(&lab, own, |results: &Analytics| {
        let own = results.users.iter().filter(|(name, _)| !name.contains('-'));
        own.flat_map(|(_, user)| user.events.values()).sum()
    })
    .await?;
    Ok(format!("{COUNT} events of {users} users; {own} of the lab's own producer"))
}

async fn application_logs(lab: Arc<Lab>) -> Result<String> {
    let run = new_run();
    let order = order(&lab, &run, AppLogs::DEFAULTS);
    let ledger = written(&order, AppLogs::of(&order)).await?;
    let found: Alerts = kept(&lab, &ledger).await?;
    let line = |(service, levels): (String, BTreeMap<Severity, u64>)| format!("{service} {levels:?}");
    let counted = of_run(found.services, &run).into_iter().map(|(service, of)| (service, of.levels));
    exactly_once("services of alert-group", ledger.totals.into_iter().map(line), counted.map(line))?;
    let alerted = alert(&lab).await?;
    let own = own_records(&lab, "log-producer").await?;
    let own = own_counted(&lab, own, |results: &Alerts| {
        let own = results.services.iter().filter(|(name, _)| name.matches('-').count() == 1);
        own.flat_map(|(_, service)| service.levels.values()).sum()
    })
    .await?;
    Ok(format!("{COUNT} log records; {alerted}; {own} of the lab's own producer"))
}

/// Four errors in a minute are no alert, the fifth is one, the sixth is the same one; four in the next are none.
async fn alert(lab: &Lab) -> Result<String> {
    const WINDOW: i64 = 60_000;
    let service = format!("checkout-{}", new_run());
    // Ten minutes ago, at the beginning of a window.
    let now = i64::try_from(SystemTime::now().duration_since(UNIX_EPOCH)?.as_millis())?;
    let begin = now - now % WINDOW - 10 * WINDOW;
    let producer = lab.producer()?;
    let mut written = Vec::new();
    let mut last = BTreeMap::new();
    for (level, at) in [("ERROR", 0), ("INFO", 1), ("ERROR", 2), ("FATAL", 3), ("ERROR", 59_998)] {
        written.push((level, begin + at));
    }
    written.extend([("FATAL", begin + 59_999), ("ERROR", begin + 59_999)]);
    written.extend((0..4).map(|at| ("ERROR", begin + WINDOW + at)));
    let before = written.iter().position(|(_, at)| *at == begin + 59_999).context("no fifth error")?;
    for (number, (level, at)) in written.iter().enumerate() {
        let value = format!("{{\"service\":\"{service}\",\"level\":\"{level}\"}}");
        let record = FutureRecord::to(AppLogs::TOPIC).key(&service).payload(&value).timestamp(*at);
        let sent = producer.send(record, Duration::from_secs(10)).await.map_err(|(error, _)| error)?;
        last.insert(sent.partition, sent.offset);
        if number + 1 == before {
            let found: Alerts = reaching(lab, &last).await?;
            let seen = found.services.get(&service).context("the service is not counted")?;
            if seen.alerts != 0 || seen.errors_in_window != 4 {
                bail!("after four errors: {seen:?}");
            }
        }
    }
    let found: Alerts = reaching(lab, &last).await?;
    let expected = ServiceResults {
        levels: BTreeMap::from([(Severity::Info, 1), (Severity::Error, 8), (Severity::Fatal, 2)]),
        window: begin + WINDOW,
        errors_in_window: 4,
        alerts: 1,
        alerting: false,
    };
    match found.services.get(&service) {
        Some(seen) if *seen == expected => {}
        seen => bail!("expected {expected:?}, found {seen:?}"),
    }
    at_prometheus(lab, &format!("alert_alerts{{service=\"{service}\"}}"), 1).await?;
    Ok("the fifth error in a minute is one alert".to_owned())
}

async fn system_metrics(lab: Arc<Lab>) -> Result<String> {
    let run = new_run();
    let order = order(&lab, &run, HostMetrics::DEFAULTS);
    let ledger = written(&order, HostMetrics::of(&order)).await?;
    let found: Logger = kept(&lab, &ledger).await?;
    let mut expected = Vec::new();
    let mut anomalies = 0;
    for (host, metrics) in &ledger.totals {
        for (metric, of) in metrics {
            anomalies += of.anomalies;
            expected.push(format!("{host} {metric:?} {} {}", of.count, of.anomalies));
        }
    }
    let counted = of_run(found.hosts, &run);
    let counted = counted.iter().flat_map(|(host, metrics)| {
        let line = move |(metric, of): (&_, &streamlab::results::Samples)| {
            format!("{host} {metric:?} {} {}", of.count, of.anomalies)
        };
        metrics.iter().map(line)
    });
    exactly_once("hosts of logger-group", expected, counted)?;
    if anomalies == 0 {
        bail!("no sample is an anomaly: nothing is proven of them");
    }
    at_prometheus(&lab, &format!("sum(logger_anomalies{{host=~\".+-{run}\"}})"), anomalies).await?;
    let own = own_records(&lab, "metrics-producer").await?;
    let own = own_counted(&lab, own, |results: &Logger| {
        let own = results.hosts.iter().filter(|(name, _)| name.matches('-').count() == 2);
        own.flat_map(|(_, metrics)| metrics.values()).map(|samples| samples.count).sum()
    })
    .await?;
    Ok(format!("{COUNT} samples, {anomalies} anomalies; {own} of the lab's own producer"))
}

/// Waits until a group has so many members and has shared out the partitions of its topic among them.
async fn shared_out(lab: &Lab, members: usize) -> Result<Group> {
    let reader = GroupReader::new(&lab.bootstrap());
    let question = format!("{members} members of {} have its partitions", Analytics::GROUP);
    let group = eventually(&question, PATIENCE, EVERY, || async {
        let mut seen = reader.read().await?;
        let partitions = seen.offsets.keys().filter(|(topic, _)| topic == Analytics::TOPIC).count();
        let group = seen.groups.remove(Analytics::GROUP).context("no such group")?;
        let shared: Vec<_> = group.members.iter().flat_map(|m| &m.partitions).collect();
        let each = shared.iter().collect::<BTreeSet<_>>().len();
        let whole = group.members.len() == members && shared.len() == partitions && each == partitions;
        let seen = format!("{} members, partitions {shared:?}", group.members.len());
        Ok(if whole { Answer::Is(group) } else { Answer::NotYet(seen) })
    });
    Ok(group.await?)
}

async fn scaled(lab: Arc<Lab>) -> Result<String> {
    const MORE: usize = 4;
    let alone = shared_out(&lab, 1).await?.members.len();
    let run = new_run();
    let mut order = order(&lab, &run, UserEvents::DEFAULTS);
    // So slow that records come before, while and after members do.
    order.rate = Some(100.0);
    let writing = tokio::spawn(async move { written(&order, UserEvents::of(&order)).await });
    let (stop, stopped) = watch::channel(false);
    let of_group = group::Order::<Analytics> {
        bootstrap: lab.bootstrap(),
        group: Analytics::GROUP.to_owned(),
        settings: (),
        members: MORE,
    };
    let members = tokio::spawn(group::run(of_group, None, stopped));
    let seen = shared_out(&lab, alone + MORE).await;
    stop.send(true)?;
    members.await??;
    let idle = seen?.members.iter().filter(|member| member.partitions.is_empty()).count();
    if idle != 2 {
        bail!("3 partitions, 5 members: {idle} of them are idle");
    }
    shared_out(&lab, alone).await?;
    let ledger = writing.await??;
    let found: Analytics = kept(&lab, &ledger).await?;
    same_users(&run, ledger.totals, found.users)?;
    Ok(format!("{COUNT} events, 1 to 5 to 1 members, {idle} of 5 idle"))
}

async fn restarted(lab: Arc<Lab>) -> Result<String> {
    const CONSUMER: &str = "analytics-consumer";
    let run = new_run();
    let mut order = order(&lab, &run, UserEvents::DEFAULTS);
    order.rate = Some(100.0);
    let begin = Instant::now();
    let writing = tokio::spawn(async move { written(&order, UserEvents::of(&order)).await });
    // Some of the run's records are in what is kept, later ones are not.
    eventually("the group has kept events of this run", PATIENCE, EVERY, || async {
        let seen = group::results::<Analytics>(&lab.bootstrap(), Analytics::GROUP).await?.results;
        let users = of_run(seen.users, &run).len();
        Ok(if users > 0 { Answer::Is(()) } else { Answer::NotYet("none".to_owned()) })
    })
    .await?;
    let killed_after = begin.elapsed();
    let ledger = lab.while_killed(&[CONSUMER], async { writing.await? }).await?;
    let found: Analytics = kept(&lab, &ledger).await?;
    same_users(&run, ledger.totals, found.users)?;
    Ok(format!("{COUNT} events, killed after {:.1} s of writing", killed_after.as_secs_f64()))
}

async fn latency(lab: Arc<Lab>) -> Result<String> {
    let prometheus = prometheus(&lab)?;
    let mut notes = Vec::new();
    for (job, topic) in [
        ("analytics-consumer", Analytics::TOPIC),
        ("alert-consumer", Alerts::TOPIC),
        ("logger-consumer", Logger::TOPIC),
    ] {
        let of = format!("{{job=\"{job}\",topic=\"{topic}\"}}");
        let (records, ages) =
            (format!("consumer_records_total{of}"), format!("consumer_record_age_seconds_count{of}"));
        let question = format!("{records} and {ages} are the same at Prometheus, and not 0");
        let count = eventually(&question, PATIENCE, EVERY, || async {
            let both = format!("({records} == {ages}) > 0");
            Ok(match prometheus.sum(&both).await? {
                Some(count) => Answer::Is(count),
                None => Answer::NotYet(format!(
                    "{:?} and {:?}",
                    prometheus.sum(&records).await?,
                    prometheus.sum(&ages).await?
                )),
            })
        })
        .await?;
        notes.push(format!("{topic}: {count} records"));
    }
    Ok(notes.join("; "))
}
