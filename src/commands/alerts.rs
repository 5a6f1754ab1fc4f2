//! `lab alerts`: what fires, since when, and what to do about it.

use anyhow::{Result, bail};
use serde::Serialize;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use super::context::Context;
use crate::clients::alertmanager::{Alert, Alertmanager};
use crate::clients::prometheus::{PendingAlert, Prometheus};

/// Seconds after its start within which Prometheus may not yet have seen what is wrong: it reads and evaluates every 5 s,
/// and a rate needs a few readings.
const SETTLES_AFTER: i64 = 30;

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// As JSON.
    #[arg(long)]
    json: bool,
}

/// An alert as people ask for it.
#[derive(Debug, PartialEq, Eq, Serialize)]
struct Row {
    alert: String,
    severity: String,
    /// `pending`, `firing`, `held back by …`.
    state: String,
    since: String,
    summary: String,
    what_to_do: String,
    runbook: String,
}

pub(super) async fn run(context: &Context, args: Args) -> Result<()> {
    let running = context.running().await?;
    let endpoints = running.endpoints();
    let url = |service| anyhow::Ok(format!("http://{}:{}", endpoints.host, endpoints.port(service, "web")?));
    let prometheus = Prometheus::new(url("prometheus")?);
    let alertmanager = Alertmanager::new(url("alertmanager")?);
    let (known, passed_on) = tokio::join!(prometheus.alerts(), alertmanager.alerts());
    let missing = [("Prometheus", known.as_ref().err()), ("Alertmanager", passed_on.as_ref().err())];
    for (name, error) in missing.iter().filter_map(|(name, error)| Some((name, (*error)?))) {
        eprintln!(
            "{name} does not answer, and what it knows is missing here: {error:#}\n  ./lab restart {}{}",
            name.to_lowercase(),
            context.option()
        );
    }
    if missing.iter().all(|(_, error)| error.is_some()) {
        bail!("neither answers.\n  See ./lab status{}", context.option());
    }
    let partly = missing.iter().any(|(_, error)| error.is_some());
    let rows = rows(&known.unwrap_or_default(), &passed_on.unwrap_or_default());
    if args.json {
        say!("{}", serde_json::to_string_pretty(&rows)?);
        return Ok(());
    }
    if rows.is_empty() {
        // It remembers what fired only once it has asked everything anew.
        let started = prometheus.started_at().await.unwrap_or_default();
        say!("{}", nothing_known(partly, age(&started)));
    }
    if !running.state.faults.is_empty() {
        let broken = running.state.faults.join(", ");
        say!(
            "broken on purpose: {broken}. An alert takes 15 to 45 s to fire, and as long to end after ./lab fault undo{}",
            context.option()
        );
    }
    for row in rows {
        say!("{} · {} · {} · since {}", row.alert, row.severity, row.state, ago(&row.since));
        say!("  {}", row.summary);
        say!("  {}", row.what_to_do);
        say!("  {}", row.runbook);
    }
    Ok(())
}

/// What to say where no alert is known: asked of both or not, and seconds since Prometheus was started.
fn nothing_known(partly: bool, started: Option<i64>) -> String {
    if partly {
        return "whether anything fires is not known".to_owned();
    }
    match started.filter(|seconds| *seconds < SETTLES_AFTER) {
        Some(seconds) => format!(
            "nothing fires and nothing is pending, but Prometheus was started {seconds} s ago: what is wrong shows within {SETTLES_AFTER} s of that"
        ),
        None => "nothing fires and nothing is pending".to_owned(),
    }
}

/// Alertmanager says what is passed on and what is held back; what only Prometheus knows is pending, or on its way.
fn rows(known: &[PendingAlert], passed_on: &[Alert]) -> Vec<Row> {
    let mut rows: Vec<Row> = passed_on
        .iter()
        .map(|a| {
            let state = match (a.status.silenced_by.is_empty(), a.status.inhibited_by.is_empty()) {
                (false, _) => "held back by a silence".to_owned(),
                (true, false) => "held back by another alert".to_owned(),
                (true, true) => "firing".to_owned(),
            };
            row(&a.labels, &a.annotations, state, &a.starts_at)
        })
        .collect();
    for alert in known {
        let there = passed_on
            .iter()
            .any(|a| alert.labels.iter().all(|(name, value)| a.labels.get(name) == Some(value)));
        if !there {
            let state = if alert.state == "pending" { "pending" } else { "firing, not yet at Alertmanager" };
            rows.push(row(&alert.labels, &alert.annotations, state.to_owned(), &alert.active_at));
        }
    }
    rows.sort_by(|a, b| (&a.severity, &a.since, &a.summary).cmp(&(&b.severity, &b.since, &b.summary)));
    rows
}

type Texts = std::collections::BTreeMap<String, String>;

fn row(labels: &Texts, annotations: &Texts, state: String, since: &str) -> Row {
    let of = |texts: &Texts, name: &str| texts.get(name).cloned().unwrap_or_default();
    Row {
        alert: of(labels, "alertname"),
        severity: of(labels, "severity"),
        state,
        since: since.to_owned(),
        summary: of(annotations, "summary"),
        what_to_do: of(annotations, "description"),
        runbook: of(annotations, "runbook_url"),
    }
}

/// Seconds since a time; none where the text is no time.
fn age(since: &str) -> Option<i64> {
    let then = OffsetDateTime::parse(since, &Rfc3339).ok()?;
    Some((OffsetDateTime::now_utc() - then).whole_seconds().max(0))
}

/// `45 s ago`; the text itself where it is no time.
fn ago(since: &str) -> String {
    let Some(seconds) = age(since) else { return since.to_owned() };
    match seconds {
        0..120 => format!("{seconds} s ago"),
        120..7200 => format!("{} min ago", seconds / 60),
        _ => format!("{} h ago", seconds / 3600),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_is_held_back_and_what_is_only_pending_is_told_apart() {
        let alert = |name: &str, silenced: &[&str], inhibited: &[&str]| {
            json!({"labels": {"alertname": name, "severity": "warning"}, "annotations": {}, "startsAt": "x",
                   "status": {"state": "active", "silencedBy": silenced, "inhibitedBy": inhibited}})
        };
        let passed_on: Vec<Alert> = serde_json::from_value(json!([
            alert("A", &[], &[]),
            alert("B", &["s"], &[]),
            alert("C", &[], &["f"]),
        ]))
        .unwrap();
        let pending = |name: &str, state: &str| json!({"labels": {"alertname": name}, "annotations": {}, "state": state, "activeAt": "y"});
        let known: Vec<PendingAlert> = serde_json::from_value(json!([
            pending("A", "firing"),
            pending("D", "pending"),
            pending("E", "firing")
        ]))
        .unwrap();
        let mut found: Vec<_> =
            rows(&known, &passed_on).into_iter().map(|r| format!("{}: {}", r.alert, r.state)).collect();
        found.sort();
        assert_eq!(
            found,
            [
                "A: firing",
                "B: held back by a silence",
                "C: held back by another alert",
                "D: pending",
                "E: firing, not yet at Alertmanager",
            ]
        );
    }

    #[test]
    fn silence_is_told_from_not_knowing() {
        assert_eq!(nothing_known(false, None), "nothing fires and nothing is pending");
        assert_eq!(nothing_known(false, Some(300)), nothing_known(false, None));
        assert!(nothing_known(false, Some(3)).contains("was started 3 s ago"));
        assert_eq!(nothing_known(true, Some(300)), "whether anything fires is not known");
    }

    #[test]
    fn ages_are_in_units_that_people_say() {
        let then = |seconds| {
            (OffsetDateTime::now_utc() - time::Duration::seconds(seconds)).format(&Rfc3339).unwrap()
        };
        assert_eq!(ago(&then(600)), "10 min ago");
        assert_eq!(ago(&then(7300)), "2 h ago");
        assert_eq!(ago("soon"), "soon");
    }
}
