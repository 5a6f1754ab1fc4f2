//! `lab alerts`: what fires, since when, and what to do about it.

use anyhow::{Result, bail};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use super::context::Context;
use crate::clients::alertmanager::Alertmanager;
use crate::clients::alerts;
use crate::clients::prometheus::Prometheus;

/// Seconds after its start within which Prometheus may not yet have seen what is wrong: it reads and evaluates every 5 s,
/// and a rate needs a few readings.
const SETTLES_AFTER: i64 = 30;

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// As JSON.
    #[arg(long)]
    json: bool,
}

pub(super) async fn run(context: &Context, args: Args) -> Result<()> {
    let running = context.running().await?;
    let endpoints = running.endpoints();
    let url = |service| anyhow::Ok(format!("http://{}:{}", endpoints.host, endpoints.port(service, "web")?));
    let prometheus = Prometheus::new(url("prometheus")?);
    let alertmanager = Alertmanager::new(url("alertmanager-front")?);
    let (known, passed_on) = tokio::join!(prometheus.alerts(), alertmanager.alerts());
    // Alertmanager is asked by way of its front: which of both does not answer, the error tells.
    let refused = |error: &anyhow::Error| {
        error.chain().any(|why| why.downcast_ref::<reqwest::Error>().is_some_and(reqwest::Error::is_connect))
    };
    let gone = if passed_on.as_ref().is_err_and(refused) { "alertmanager-front" } else { "alertmanager" };
    let missing = [("prometheus", known.as_ref().err()), (gone, passed_on.as_ref().err())];
    for (name, error) in missing.iter().filter_map(|(name, error)| Some((name, (*error)?))) {
        eprintln!(
            "{name} does not answer, and what it knows is missing here: {error:#}\n  ./lab restart {}{}",
            name,
            context.option()
        );
    }
    if missing.iter().all(|(_, error)| error.is_some()) {
        bail!("neither answers.\n  See ./lab status{}", context.option());
    }
    let partly = missing.iter().any(|(_, error)| error.is_some());
    let rows = alerts::known(&known.unwrap_or_default(), passed_on.ok().as_deref());
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
    use super::*;

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
