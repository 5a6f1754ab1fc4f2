//! Alerts from fault to resolved: what is broken, what Prometheus, Alertmanager and the receivers say of it and when, and
//! that it is over once it is put right.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use streamlab::clients::alertmanager::Alertmanager;
use streamlab::engine::Breakable;
use streamlab::probes::{Answer, eventually};
use streamlab::topology::Fault;
use tokio::sync::OnceCell;

use crate::harness::{Body, PATIENCE};
use crate::lab::Lab;
use crate::metrics::prometheus;
use crate::receivers::{Notice, mails, notices};

const EVERY: Duration = Duration::from_millis(500);

/// What one fault has shown of all its alerts: a fault is done once, however many trials look at it.
#[derive(Default)]
pub(crate) struct Episodes(std::sync::Mutex<BTreeMap<String, Played>>);

type Played = Arc<OnceCell<Result<Episode, String>>>;

/// A fault from injection to the last resolved notice.
#[derive(Clone, Debug)]
pub(crate) struct Episode {
    /// Alert → seconds from the fault to each phase, and from the repair to the notice that it is over.
    phases: BTreeMap<String, Phases>,
    /// Everything that the receiver got, in Slack's form, from the fault on.
    notices: Vec<Notice>,
    /// Everything that came by e-mail: subjects, from the fault on.
    mails: Vec<String>,
}

#[derive(Clone, Debug, Default)]
struct Phases {
    pending: Option<f64>,
    firing: f64,
    alertmanager: f64,
    receiver: f64,
    resolved: f64,
}

fn alertmanager(lab: &Lab) -> Result<Alertmanager> {
    Ok(Alertmanager::new(format!("http://127.0.0.1:{}", lab.endpoints.port("alertmanager", "web")?)))
}

/// One row of the alerts table.
pub(crate) fn body(alert: String, fault: String) -> Body {
    Arc::new(move |lab| {
        let (alert, fault) = (alert.clone(), fault.clone());
        Box::pin(async move {
            let episode = episode(&lab, &fault).await?;
            let phases =
                episode.phases.get(&alert).with_context(|| format!("{fault} does not raise {alert}"))?;
            let pending =
                phases.pending.map_or("not seen pending".to_owned(), |s| format!("pending {s:.0} s"));
            Ok(format!(
                "{fault}: {pending}, firing {:.0} s, at Alertmanager {:.0} s, at the receiver {:.0} s; repaired: resolved notice after {:.0} s",
                phases.firing, phases.alertmanager, phases.receiver, phases.resolved
            ))
        })
    })
}

async fn episode(lab: &Arc<Lab>, fault: &str) -> Result<Episode> {
    let cell = {
        let mut all = lab.episodes.0.lock().expect("no trial panics while it holds this");
        Arc::clone(all.entry(fault.to_owned()).or_default())
    };
    let outcome = cell.get_or_init(|| async { play(lab, fault).await.map_err(|e| format!("{e:#}")) }).await;
    outcome.clone().map_err(|why| anyhow::anyhow!(why))
}

fn breakable(lab: &Lab) -> Result<Breakable<'_>> {
    Ok(Breakable { engine: lab.engine()?, file: &lab.project.file, topology: &lab.topology })
}

async fn inject(lab: &Lab, fault: &Fault) -> Result<()> {
    let state = lab.engine()?.instance(lab.topology.instance.name()).await?;
    breakable(lab)?.inject(&state, fault).await
}

async fn undo(lab: &Lab) -> Result<()> {
    let state = lab.engine()?.instance(lab.topology.instance.name()).await?;
    breakable(lab)?.undo_all(&state).await?;
    Ok(())
}

fn fault_of<'a>(lab: &'a Lab, name: &str) -> Result<&'a Fault> {
    lab.project
        .file
        .faults
        .iter()
        .find(|f| f.name.get_ref() == name)
        .with_context(|| format!("no fault {name}"))
}

/// Nothing fires before the fault: what the one before has left must be over, or it would be taken for this one's.
async fn quiet(lab: &Lab) -> Result<()> {
    let (prometheus, alertmanager) = (prometheus(lab)?, alertmanager(lab)?);
    eventually("nothing fires", PATIENCE, EVERY, || async {
        let pending = prometheus.alerts().await?.into_iter().map(|a| a.labels["alertname"].clone());
        let firing = alertmanager.alerts().await?;
        let mut all: Vec<String> = pending.chain(firing.iter().map(|a| a.name().to_owned())).collect();
        all.sort();
        all.dedup();
        Ok(if all.is_empty() { Answer::Is(()) } else { Answer::NotYet(all.join(", ")) })
    })
    .await?;
    Ok(())
}

async fn play(lab: &Arc<Lab>, name: &str) -> Result<Episode> {
    let fault = fault_of(lab, name)?;
    let alerts: Vec<String> = lab
        .project
        .file
        .alerts
        .iter()
        .filter(|a| a.fault.as_ref().is_some_and(|f| f.get_ref() == name))
        .map(|a| a.name.get_ref().clone())
        .collect();
    // What Alertmanager posts to Slack cannot arrive while the receiver is gone: then it must come by e-mail.
    let by_mail = fault.steps.iter().flat_map(|s| s.services()).any(|s| s == "alert-receiver");
    quiet(lab).await?;
    let mark = notices(lab, 0).await?.last().map_or(0, |n| n.id);
    let mails_before = mails(lab).await?.len();
    let start = Instant::now();
    inject(lab, fault).await?;
    let watched = futures::future::try_join_all(
        alerts.iter().map(|alert| raised(lab, alert, start, mark, mails_before, by_mail)),
    );
    let watched = async {
        let phases = watched.await?;
        for alert in &fault.holds_back {
            held_back(lab, alert.get_ref()).await?;
        }
        anyhow::Ok(phases)
    };
    // What was broken is put right whatever was seen.
    let watched = watched.await;
    let repaired = Instant::now();
    undo(lab).await?;
    let mut phases: BTreeMap<String, Phases> = alerts.iter().cloned().zip(watched?).collect();
    let over = futures::future::try_join_all(alerts.iter().map(|alert| resolved(lab, alert, repaired, mark)));
    for (alert, seconds) in alerts.iter().zip(over.await?) {
        if let Some(phases) = phases.get_mut(alert) {
            phases.resolved = seconds;
        }
    }
    let mails = mails(lab).await?.into_iter().skip(mails_before).collect();
    let notices = notices(lab, if by_mail { 0 } else { mark }).await?;
    for alert in &fault.holds_back {
        if let Some(notice) = notices.iter().find(|n| n.is("firing", alert.get_ref())) {
            bail!(
                "{name}: somebody was told about {}, which is held back: {}",
                alert.get_ref(),
                notice.title()
            );
        }
    }
    Ok(Episode { phases, notices, mails })
}

/// Waits until an alert is at Alertmanager and another holds it back.
async fn held_back(lab: &Lab, alert: &str) -> Result<()> {
    let alertmanager = alertmanager(lab)?;
    eventually(&format!("{alert} is held back"), PATIENCE, EVERY, || async {
        let found = alertmanager.alerts().await?.into_iter().find(|a| a.name() == alert);
        Ok(match found {
            Some(a) if !a.status.inhibited_by.is_empty() => Answer::Is(()),
            Some(a) => Answer::NotYet(format!("it is {}", a.status.state)),
            None => Answer::NotYet("not at Alertmanager".to_owned()),
        })
    })
    .await?;
    Ok(())
}

async fn raised(
    lab: &Lab,
    alert: &str,
    start: Instant,
    mark: u64,
    mails_before: usize,
    by_mail: bool,
) -> Result<Phases> {
    let (prometheus, alertmanager) = (prometheus(lab)?, alertmanager(lab)?);
    let mut phases = Phases::default();
    let pending = std::sync::Mutex::new(None);
    eventually(&format!("{alert} fires"), PATIENCE, EVERY, || async {
        let found = prometheus.alerts().await?;
        let states: Vec<&str> =
            found.iter().filter(|a| a.labels["alertname"] == alert).map(|a| a.state.as_str()).collect();
        if states.contains(&"pending") {
            pending.lock().expect("held for a moment only").get_or_insert(start.elapsed().as_secs_f64());
        }
        Ok(if states.contains(&"firing") {
            Answer::Is(())
        } else {
            let others: Vec<_> =
                found.iter().map(|a| format!("{} {}", a.labels["alertname"], a.state)).collect();
            Answer::NotYet(format!("there is: {}", others.join(", ")))
        })
    })
    .await?;
    phases.firing = start.elapsed().as_secs_f64();
    phases.pending = *pending.lock().expect("held for a moment only");
    let found = eventually(&format!("{alert} is at Alertmanager"), PATIENCE, EVERY, || async {
        let found = alertmanager.alerts().await?.into_iter().find(|a| a.name() == alert);
        Ok(found.map_or(Answer::NotYet("not there".to_owned()), Answer::Is))
    })
    .await?;
    phases.alertmanager = start.elapsed().as_secs_f64();
    let what = format!("{alert} arrives {}", if by_mail { "by e-mail" } else { "at the receiver" });
    let notice = eventually(&what, PATIENCE, EVERY, || async {
        if by_mail {
            let came = mails(lab).await?.into_iter().skip(mails_before).collect::<Vec<_>>();
            let there = came.iter().any(|subject| subject.contains(alert) && !subject.contains("RESOLVED"));
            return Ok(if there { Answer::Is(None) } else { Answer::NotYet(format!("mails {came:?}")) });
        }
        let came = notices(lab, mark).await?;
        let seen: Vec<String> = came.iter().map(|n| n.title().to_owned()).collect();
        let found = came.into_iter().find(|n| n.is("firing", alert));
        Ok(found.map_or(Answer::NotYet(format!("{seen:?}")), |n| Answer::Is(Some(n))))
    })
    .await?;
    phases.receiver = start.elapsed().as_secs_f64();
    // What people read: what is wrong, what to do, where it is explained.
    if let Some(notice) = notice {
        for part in ["summary", "description", "runbook_url"] {
            let expected = found.annotations.get(part).with_context(|| format!("{alert} has no {part}"))?;
            // Slack's text escapes no quotes; the summary may have changed its number since.
            let start: String = expected.chars().take_while(|c| !c.is_ascii_digit()).take(30).collect();
            if !notice.text().contains(&start) {
                bail!("{alert}: the notice does not hold the {part} {expected:?}:\n{}", notice.text());
            }
        }
    }
    Ok(phases)
}

async fn resolved(lab: &Lab, alert: &str, repaired: Instant, mark: u64) -> Result<f64> {
    eventually(&format!("{alert} is resolved at the receiver"), PATIENCE, EVERY, || async {
        // A receiver that was killed has begun anew.
        let mut came = notices(lab, mark).await?;
        if came.is_empty() {
            came = notices(lab, 0).await?;
        }
        let seen: Vec<String> = came.iter().map(|n| n.title().to_owned()).collect();
        Ok(if came.iter().any(|n| n.is("resolved", alert)) {
            Answer::Is(())
        } else {
            Answer::NotYet(format!("{seen:?}"))
        })
    })
    .await?;
    Ok(repaired.elapsed().as_secs_f64())
}

pub(crate) async fn broker_down(lab: Arc<Lab>) -> Result<String> {
    let episode = episode(&lab, "broker-killed").await?;
    // One page for the broker, none for its partitions. That a query falls behind meanwhile, as on a slow machine it does, is
    // another matter and the only other page there may be.
    let pages: Vec<&str> =
        episode.notices.iter().filter(|n| n.status == "firing").map(Notice::title).collect();
    let about_it = pages.iter().filter(|title| !title.contains("SparkQueryFallingBehind")).count();
    if about_it != 1 {
        bail!("one dead broker sent {about_it} notices: {pages:?}");
    }
    for wanted in ["KafkaBrokerDown", "RESOLVED"] {
        if !episode.mails.iter().any(|subject| subject.contains(wanted)) {
            bail!("no e-mail about {wanted}: {:?}", episode.mails);
        }
    }
    Ok(format!("{pages:?}, {} e-mails; its partitions' alert fired and was held back", episode.mails.len()))
}

pub(crate) async fn lag(lab: Arc<Lab>) -> Result<String> {
    let episode = episode(&lab, "consumer-paused").await?;
    let notice =
        episode.notices.iter().find(|n| n.is("firing", "KafkaConsumerLagHigh")).context("no notice")?;
    for wanted in ["app-service", "financial_transactions"] {
        if !notice.text().contains(wanted) {
            bail!("the notice does not name {wanted}: {}", notice.text());
        }
    }
    Ok(notice.text().lines().next().unwrap_or_default().to_owned())
}

const SILENT: &str = "SchemaRegistryDown";
const SILENT_FAULT: &str = "registry-killed";
const SUPPRESSED: &str = "sum(alertmanager_notifications_suppressed_total{reason=\"silence\"})";

pub(crate) async fn silenced(lab: Arc<Lab>) -> Result<String> {
    use time::format_description::well_known::Rfc3339;
    quiet(&lab).await?;
    let alertmanager = alertmanager(&lab)?;
    let mark = notices(&lab, 0).await?.last().map_or(0, |n| n.id);
    let now = time::OffsetDateTime::now_utc();
    let until = now + time::Duration::minutes(30);
    let suppressed = prometheus(&lab)?.sum(SUPPRESSED).await?.unwrap_or_default();
    let silence =
        alertmanager.silence(SILENT, &now.format(&Rfc3339)?, &until.format(&Rfc3339)?, "a trial").await?;
    inject(&lab, fault_of(&lab, SILENT_FAULT)?).await?;
    let shown = async {
        eventually("the alert fires and the silence holds it", PATIENCE, EVERY, || async {
            let found = alertmanager.alerts().await?.into_iter().find(|a| a.name() == SILENT);
            Ok(match found {
                Some(a) if a.status.silenced_by.contains(&silence) => Answer::Is(()),
                Some(a) => Answer::Never(anyhow::anyhow!("it is {}", a.status.state)),
                None => Answer::NotYet("not at Alertmanager".to_owned()),
            })
        })
        .await?;
        // It is not merely late: Alertmanager was about to send it, and the silence stopped it.
        eventually("a notice was held back by the silence", PATIENCE, EVERY, || async {
            let found = prometheus(&lab)?.sum(SUPPRESSED).await?.unwrap_or_default();
            Ok(if found > suppressed { Answer::Is(()) } else { Answer::NotYet(format!("{found} so far")) })
        })
        .await?;
        let came = notices(&lab, mark).await?;
        if came.iter().any(|n| n.is("firing", SILENT)) {
            bail!("a silenced alert was sent");
        }
        alertmanager.expire(&silence).await?;
        eventually("its notice comes once the silence has ended", PATIENCE, EVERY, || async {
            let came = notices(&lab, mark).await?;
            let there = came.iter().any(|n| n.is("firing", SILENT));
            Ok(if there { Answer::Is(()) } else { Answer::NotYet("nothing".to_owned()) })
        })
        .await?;
        anyhow::Ok(())
    };
    let shown = shown.await;
    undo(&lab).await?;
    shown?;
    let took = resolved(&lab, SILENT, Instant::now(), mark).await?;
    Ok(format!("held back while silenced, sent after it; resolved {took:.0} s after the repair"))
}

pub(crate) async fn receiver_lost(lab: Arc<Lab>) -> Result<String> {
    let episode = episode(&lab, "receiver-killed").await?;
    let failing = episode.mails.iter().find(|subject| subject.contains("AlertDeliveryFailing"));
    let failing = failing.with_context(|| format!("no e-mail about it: {:?}", episode.mails))?;
    // The receiver has forgotten what it had; what it has now came after it was back.
    if episode.notices.is_empty() {
        bail!("nothing was sent again");
    }
    Ok(format!(
        "by e-mail: {failing}; once back: {:?}",
        episode.notices.iter().map(Notice::title).collect::<Vec<_>>()
    ))
}

pub(crate) async fn prometheus_restarted(lab: Arc<Lab>) -> Result<String> {
    quiet(&lab).await?;
    let mark = notices(&lab, 0).await?.last().map_or(0, |n| n.id);
    let before = mails(&lab).await?.len();
    inject(&lab, fault_of(&lab, SILENT_FAULT)?).await?;
    let shown = async {
        raised(&lab, SILENT, Instant::now(), mark, before, false).await?;
        lab.kill("prometheus").await?;
        lab.start_again("prometheus").await?;
        let prometheus = prometheus(&lab)?;
        let again = Instant::now();
        eventually("it fires again", PATIENCE, EVERY, || async {
            let found = prometheus.alerts().await?;
            let firing = found.iter().any(|a| a.labels["alertname"] == SILENT && a.state == "firing");
            Ok(if firing { Answer::Is(()) } else { Answer::NotYet("not firing".to_owned()) })
        })
        .await?;
        let came = notices(&lab, mark).await?;
        if came.iter().any(|n| n.is("resolved", SILENT)) {
            bail!("somebody was told that it is over while it is not");
        }
        Ok(again.elapsed().as_secs_f64())
    };
    let shown = shown.await;
    undo(&lab).await?;
    let again = shown?;
    let took = resolved(&lab, SILENT, Instant::now(), mark).await?;
    let firing = notices(&lab, mark).await?.iter().filter(|n| n.is("firing", SILENT)).count();
    if firing != 1 {
        bail!("it was sent {firing} times");
    }
    Ok(format!(
        "firing again {again:.0} s after Prometheus was back, one notice in all; resolved {took:.0} s after the repair"
    ))
}
