//! Alerts from fault to resolved: what is broken, what Prometheus, Alertmanager and the receivers say of it and when, and
//! that it is over once it is put right.

use std::sync::Arc;
use std::time::Instant;

use anyhow::{Context, Result, bail};
use streamlab::probes::{Answer, eventually};
use streamlab::topology::{Alert, Fault, Plan};

use crate::console_alerts::{AlertsPage, silences};
use crate::episode::Participant;
use crate::followed::{EVERY, alertmanager, followed, newest, quiet, raised, resolved};
use crate::lab::Lab;
use crate::metrics::prometheus;
use crate::receivers::{Notice, mails, notices};
use crate::trial::{Chapter, Check, Holds, Kind, PATIENCE, Trial};

const BROKER_DOWN: &str = "KafkaBrokerDown";
const LAG_HIGH: &str = "KafkaConsumerLagHigh";
const NOT_DELIVERED: &str = "AlertDeliveryFailing";
const REGISTRY_DOWN: &str = "SchemaRegistryDown";

/// How an alert gets from what is broken to people.
const CHAIN: [&str; 8] = [
    "lab-exporter",
    "elasticsearch-exporter",
    "blackbox-exporter",
    "prometheus",
    "alertmanager",
    "alertmanager-front",
    "alert-receiver",
    "mail-sink",
];

pub(crate) fn trials(chapter: &Chapter<'_>) -> Vec<Trial> {
    let file = &chapter.project.file;
    let rows = file.alerts_of(&chapter.plan.lab).into_iter().filter(|alert| {
        let has = |lab: &&str| file.alerts_of(lab).iter().any(|a| a.name.get_ref() == alert.name.get_ref());
        let labs: Vec<&str> = file.labs_in_order().into_iter().filter(has).collect();
        (chapter.proves)(&labs)
    });
    let rows = rows.filter_map(|alert| {
        let fault = file.fault(alert.fault.as_ref()?.get_ref())?;
        Some(trial(chapter.plan, alert, fault))
    });
    let flows = [
        (BROKER_DOWN, "alert-broker-down", Check::in_episode(|lab, e| Box::pin(broker_down(lab, e)))),
        (LAG_HIGH, "alert-lag", Check::in_episode(|lab, e| Box::pin(lag(lab, e)))),
        (REGISTRY_DOWN, "alert-silenced", Check::plain(|lab| Box::pin(silenced(lab)))),
        (NOT_DELIVERED, "alert-receiver-lost", Check::in_episode(|lab, e| Box::pin(receiver_lost(lab, e)))),
        (REGISTRY_DOWN, "prometheus-restarted", Check::plain(|lab| Box::pin(prometheus_restarted(lab)))),
    ];
    let flows = flows.into_iter().filter_map(|(alert, id, check)| {
        chapter.flow(id, check).map(|trial| watching(chapter.plan, alert, trial))
    });
    rows.chain(flows).collect()
}

/// The part of the chain that a lab has.
fn chain(plan: &Plan) -> Vec<String> {
    CHAIN.iter().filter(|name| plan.service(name).is_some()).map(|name| (*name).to_owned()).collect()
}

/// A trial that follows an alert to its end needs the chain for longer than what was broken.
fn watching(plan: &Plan, alert: &str, mut trial: Trial) -> Trial {
    if let Kind::Fault(holds) = &mut trial.kind {
        holds.watches = chain(plan);
        holds.follows.push(alert.to_owned());
    }
    if let Some(stations) = &mut trial.stations {
        stations.extend(chain(plan));
    }
    trial
}

/// One row of the alerts table.
fn trial(plan: &Plan, alert: &Alert, fault: &Fault) -> Trial {
    let breaks: Vec<String> = fault.disturbs().map(str::to_owned).collect();
    let stands_on: Vec<String> = fault.undisturbed().map(str::to_owned).collect();
    let (name, row) = (alert.name.get_ref().clone(), fault.clone());
    let check = Check::in_episode(move |lab, participant| {
        let (name, fault) = (name.clone(), row.clone());
        Box::pin(async move {
            let seen = followed(&lab, participant, &name, &fault).await?;
            let pending = seen.pending.map_or("not seen pending".to_owned(), |s| format!("pending {s:.0} s"));
            Ok(format!(
                "{}: {pending}, firing {:.0} s, at Alertmanager {:.0} s, at the receiver {:.0} s; repaired: resolved notice after {:.0} s",
                fault.name.get_ref(),
                seen.firing,
                seen.alertmanager,
                seen.receiver,
                seen.resolved
            ))
        })
    });
    let stations = breaks.iter().chain(&stands_on).cloned().collect();
    let follows = fault.holds_back.iter().map(|a| a.get_ref().clone()).collect();
    let fault = Some(fault.name.get_ref().clone());
    let holds = Holds { fault, breaks, stands_on, follows, ..Holds::default() };
    let trial = Trial {
        name: format!("alert::{}", alert.name.get_ref()),
        what: format!("{}: from the fault to the notice that it is over", alert.about),
        kind: Kind::Fault(holds),
        stations: Some(stations),
        engine: true,
        check,
    };
    watching(plan, alert.name.get_ref(), trial)
}

fn fault_of<'a>(lab: &'a Lab, name: &str) -> Result<&'a Fault> {
    lab.project.file.fault(name).with_context(|| format!("no fault {name}"))
}

async fn broker_down(lab: Arc<Lab>, episode: Participant) -> Result<String> {
    let fault = fault_of(&lab, "broker-killed")?;
    let seen = followed(&lab, episode, BROKER_DOWN, fault).await?;
    // One page for the broker, none for its partitions. Other faults are played beside this one, and a query may fall behind: what
    // is about neither brokers nor partitions is another matter.
    let about_it = |notice: &&Notice| {
        ["KafkaBroker", "KafkaUnder", "KafkaOffline"].iter().any(|n| notice.title().contains(n))
            || fault.disturbs().any(|broker| notice.text().contains(&format!("{broker} does not answer")))
    };
    let pages: Vec<&str> = seen.pages.iter().filter(about_it).map(Notice::title).collect();
    if pages.len() != 1 {
        bail!("one dead broker sent {} notices: {pages:?}", pages.len());
    }
    for wanted in ["KafkaBrokerDown", "RESOLVED"] {
        if !seen.mails.iter().any(|subject| subject.contains(wanted)) {
            bail!("no e-mail about {wanted}: {:?}", seen.mails);
        }
    }
    Ok(format!("{pages:?}, {} e-mails; its partitions' alert fired and was held back", seen.mails.len()))
}

async fn lag(lab: Arc<Lab>, episode: Participant) -> Result<String> {
    let seen = followed(&lab, episode, LAG_HIGH, fault_of(&lab, "consumer-paused")?).await?;
    let notice = seen.notices.iter().find(|n| n.is("firing", LAG_HIGH)).context("no notice")?;
    for wanted in ["app-service", "financial_transactions"] {
        if !notice.text().contains(wanted) {
            bail!("the notice does not name {wanted}: {}", notice.text());
        }
    }
    Ok(notice.text().lines().next().unwrap_or_default().to_owned())
}

const REGISTRY: &str = "schema-registry";
const HELD_BACK: &str = "held back by a silence";
const END: &str = "End the silence";
const SUPPRESSED: &str = "sum(alertmanager_notifications_suppressed_total{reason=\"silence\"})";

async fn silenced(lab: Arc<Lab>) -> Result<String> {
    use time::format_description::well_known::Rfc3339;
    quiet(&lab, &[REGISTRY_DOWN]).await?;
    let alertmanager = alertmanager(&lab)?;
    let page = AlertsPage::open(&lab, REGISTRY_DOWN).await?;
    let mark = newest(&lab).await?;
    let now = time::OffsetDateTime::now_utc();
    let until = now + time::Duration::minutes(30);
    let suppressed = prometheus(&lab)?.sum(SUPPRESSED).await?.unwrap_or_default();
    let silence = alertmanager
        .silence(REGISTRY_DOWN, &now.format(&Rfc3339)?, &until.format(&Rfc3339)?, "a trial")
        .await?;
    let proven = lab.while_killed(&[REGISTRY], async {
        eventually("the alert fires and the silence holds it", PATIENCE, EVERY, || async {
            let found = alertmanager.alerts().await?.into_iter().find(|a| a.name() == REGISTRY_DOWN);
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
        if notices(&lab, mark).await?.iter().any(|n| n.is("firing", REGISTRY_DOWN)) {
            bail!("a silenced alert was sent");
        }
        by_buttons(&lab, &page, mark).await
    });
    let proven = proven.await;
    // A silence that was not ended would hold back what others wait for.
    if proven.is_err() {
        let left = alertmanager.alerts().await.unwrap_or_default();
        for silence in left.iter().filter(|a| a.name() == REGISTRY_DOWN).flat_map(|a| &a.status.silenced_by) {
            let _ = alertmanager.expire(silence).await;
        }
    }
    proven?;
    let took = resolved(&lab, REGISTRY_DOWN, Instant::now(), mark).await?;
    Ok(format!("held back while silenced, sent after it; resolved {took:.0} s after the repair"))
}

/// The alert is on the page that is open since before; its buttons end the silence and make another.
async fn by_buttons(lab: &Lab, page: &AlertsPage, mark: u64) -> Result<()> {
    page.shows(HELD_BACK).await?;
    page.keep(lab).await?;
    page.refuses_strangers().await?;
    page.press(END).await?;
    eventually("its notice comes once the silence has ended", PATIENCE, EVERY, || async {
        let there = notices(lab, mark).await?.iter().any(|n| n.is("firing", REGISTRY_DOWN));
        Ok(if there { Answer::Is(()) } else { Answer::NotYet("nothing".to_owned()) })
    })
    .await?;
    page.shows("firing").await?;
    page.press("Silence for an hour").await?;
    page.shows(HELD_BACK).await?;
    let made = silences(lab, REGISTRY_DOWN, 1).await?;
    // Somebody else ends it while the page is in use.
    page.focus(END).await?;
    alertmanager(lab)?.expire(&made[0]).await?;
    page.is_told_of_a_change(END).await?;
    page.shows("firing").await?;
    page.is_clean()
}

async fn receiver_lost(lab: Arc<Lab>, episode: Participant) -> Result<String> {
    let seen = followed(&lab, episode, NOT_DELIVERED, fault_of(&lab, "receiver-killed")?).await?;
    let failing = seen.mails.iter().find(|subject| subject.contains("AlertDeliveryFailing"));
    let failing = failing.with_context(|| format!("no e-mail about it: {:?}", seen.mails))?;
    // The receiver has forgotten what it had; what it has now came after it was back.
    if seen.notices.is_empty() {
        bail!("nothing was sent again");
    }
    Ok(format!(
        "by e-mail: {failing}; once back: {:?}",
        seen.notices.iter().map(Notice::title).collect::<Vec<_>>()
    ))
}

async fn prometheus_restarted(lab: Arc<Lab>) -> Result<String> {
    quiet(&lab, &[REGISTRY_DOWN]).await?;
    let mark = newest(&lab).await?;
    let before = mails(&lab).await?.len();
    let again = lab.while_killed(&[REGISTRY], async {
        raised(&lab, REGISTRY_DOWN, Instant::now(), mark, before, false).await?;
        lab.while_killed(&["prometheus"], async { Ok(()) }).await?;
        let prometheus = prometheus(&lab)?;
        let again = Instant::now();
        eventually("it fires again", PATIENCE, EVERY, || async {
            let found = prometheus.alerts().await?;
            let firing = found.iter().any(|a| a.labels["alertname"] == REGISTRY_DOWN && a.state == "firing");
            Ok(if firing { Answer::Is(()) } else { Answer::NotYet("not firing".to_owned()) })
        })
        .await?;
        if notices(&lab, mark).await?.iter().any(|n| n.is("resolved", REGISTRY_DOWN)) {
            bail!("somebody was told that it is over while it is not");
        }
        Ok(again.elapsed().as_secs_f64())
    });
    let again = again.await?;
    let took = resolved(&lab, REGISTRY_DOWN, Instant::now(), mark).await?;
    let firing = notices(&lab, mark).await?.iter().filter(|n| n.is("firing", REGISTRY_DOWN)).count();
    if firing != 1 {
        bail!("it was sent {firing} times");
    }
    Ok(format!(
        "firing again {again:.0} s after Prometheus was back, one notice in all; resolved {took:.0} s after the repair"
    ))
}
