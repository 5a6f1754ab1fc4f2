//! One alert followed from the fault to the notice that it is over: at Prometheus, at Alertmanager, at the receivers. Which trials
//! follow which alert is in [`crate::alerts`].

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use streamlab::clients::alertmanager::{Alert, Alertmanager};
use streamlab::probes::{Answer, eventually};
use streamlab::topology::Fault;

use crate::episode::Participant;
use crate::lab::Lab;
use crate::metrics::prometheus;
use crate::receivers::{Notice, mails, notices};
use crate::trial::PATIENCE;

pub(crate) const EVERY: Duration = Duration::from_millis(500);

/// One alert from the fault to the last notice: seconds from the fault to each phase, and from the repair to the notice that it is
/// over.
#[derive(Clone, Debug, Default)]
pub(crate) struct Followed {
    pub(crate) pending: Option<f64>,
    pub(crate) firing: f64,
    pub(crate) alertmanager: f64,
    pub(crate) receiver: f64,
    pub(crate) resolved: f64,
    /// What the receiver got, in Slack's form, until all was mended: that something fires.
    pub(crate) pages: Vec<Notice>,
    /// All that it got from the fault to the last notice.
    pub(crate) notices: Vec<Notice>,
    /// Everything that came by e-mail from the fault on: subjects.
    pub(crate) mails: Vec<String>,
}

pub(crate) fn alertmanager(lab: &Lab) -> Result<Alertmanager> {
    Ok(Alertmanager::new(lab.endpoints.url("alertmanager-front", "web")?))
}

/// None of these fires before the fault: what one before has left would be taken for this one's.
pub(crate) async fn quiet(lab: &Lab, names: &[&str]) -> Result<()> {
    let (prometheus, alertmanager) = (prometheus(lab)?, alertmanager(lab)?);
    eventually(&format!("{} do not fire", names.join(", ")), PATIENCE, EVERY, || async {
        let pending = prometheus.alerts().await?.into_iter().map(|a| a.labels["alertname"].clone());
        let firing = alertmanager.alerts().await?;
        let mut all: Vec<String> = pending.chain(firing.iter().map(|a| a.name().to_owned())).collect();
        all.retain(|a| names.contains(&a.as_str()));
        all.sort();
        all.dedup();
        Ok(if all.is_empty() { Answer::Is(()) } else { Answer::NotYet(all.join(", ")) })
    })
    .await?;
    Ok(())
}

pub(crate) async fn newest(lab: &Lab) -> Result<u64> {
    Ok(notices(lab, 0).await?.last().map_or(0, |n| n.id))
}

/// Prepared, broken, raised at every station, mended, resolved.
pub(crate) async fn followed(
    lab: &Lab,
    mut episode: Participant,
    alert: &str,
    fault: &Fault,
) -> Result<Followed> {
    let held: Vec<&str> = fault.holds_back.iter().map(|a| a.get_ref().as_str()).collect();
    // What Alertmanager posts to Slack cannot arrive while the receiver is gone: then it must come by e-mail.
    let by_mail = fault.disturbs().any(|s| s == "alert-receiver");
    quiet(lab, &[&[alert], held.as_slice()].concat()).await?;
    let mark = newest(lab).await?;
    let mails_before = mails(lab).await?.len();
    let start = episode.broken().await?;
    let mut seen = raised(lab, alert, start, mark, mails_before, by_mail).await?;
    for other in &held {
        held_back(lab, other).await?;
    }
    let repaired = episode.mended().await?;
    // Before others may disturb the same: their notices are not this fault's.
    let during = notices(lab, if by_mail { 0 } else { mark }).await?;
    seen.pages = during.into_iter().filter(|n| n.status == "firing").collect();
    episode.only_watches();
    seen.resolved = resolved(lab, alert, repaired, mark).await?;
    seen.mails = mails(lab).await?.into_iter().skip(mails_before).collect();
    // A receiver that was killed has begun anew.
    seen.notices = notices(lab, if by_mail { 0 } else { mark }).await?;
    for other in &held {
        if let Some(notice) = seen.notices.iter().find(|n| n.is("firing", other)) {
            bail!("somebody was told about {other}, which is held back: {}", notice.title());
        }
    }
    Ok(seen)
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

pub(crate) async fn raised(
    lab: &Lab,
    alert: &str,
    start: Instant,
    mark: u64,
    mails_before: usize,
    by_mail: bool,
) -> Result<Followed> {
    let (prometheus, alertmanager) = (prometheus(lab)?, alertmanager(lab)?);
    let mut phases = Followed::default();
    let pending = Mutex::new(None);
    eventually(&format!("{alert} fires"), PATIENCE, EVERY, || async {
        let found = prometheus.alerts().await?;
        let states: Vec<&str> =
            found.iter().filter(|a| a.labels["alertname"] == alert).map(|a| a.state.as_str()).collect();
        if states.contains(&"pending") {
            let mut pending = pending.lock().unwrap_or_else(PoisonError::into_inner);
            pending.get_or_insert(start.elapsed().as_secs_f64());
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
    phases.pending = *pending.lock().unwrap_or_else(PoisonError::into_inner);
    let found = eventually(&format!("{alert} is at Alertmanager"), PATIENCE, EVERY, || async {
        let all = alertmanager.alerts().await?.into_iter();
        let found: Vec<_> = all.filter(|a| a.name() == alert).collect();
        Ok(if found.is_empty() { Answer::NotYet("not there".to_owned()) } else { Answer::Is(found) })
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
    // What people read: what is wrong, what to do, where it is explained. Another fault may have raised one of that name too.
    if let Some(notice) = notice {
        let mut lacks = Vec::new();
        for alert in &found {
            lacks.push(lacking(alert, &notice)?);
        }
        if let Some(Some(part)) = lacks.iter().find(|_| lacks.iter().all(Option::is_some)) {
            bail!("{alert}: the notice does not hold {part}:\n{}", notice.text());
        }
    }
    Ok(phases)
}

/// What a notice lacks of an alert's annotations; none where it holds all.
fn lacking(alert: &Alert, notice: &Notice) -> Result<Option<String>> {
    for part in ["summary", "description", "runbook_url"] {
        let expected =
            alert.annotations.get(part).with_context(|| format!("{} has no {part}", alert.name()))?;
        // Slack's text escapes no quotes; the summary may have changed its number since.
        let start: String = expected.chars().take_while(|c| !c.is_ascii_digit()).take(30).collect();
        if !notice.text().contains(&start) {
            return Ok(Some(format!("the {part} {expected:?}")));
        }
    }
    Ok(None)
}

pub(crate) async fn resolved(lab: &Lab, alert: &str, repaired: Instant, mark: u64) -> Result<f64> {
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
