//! What Prometheus and Alertmanager know: what fires, and which services answer. And the only thing that a console changes: silences.

use std::collections::BTreeMap;
use std::hash::{Hash as _, Hasher as _};
use std::time::Duration;

use anyhow::{Context as _, Result};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;
use tokio::time::timeout;

use crate::clients::alertmanager::Alertmanager;
use crate::clients::alerts::{KnownAlert, known};
use crate::clients::prometheus::Prometheus;
use crate::topology::{ALERTS, LabView, METRICS};

/// How long each may take: a page that shows Kafka does not wait for it any longer.
const PATIENCE: Duration = Duration::from_millis(1500);
/// Of each service whether all that is asked of it is answered.
const UP: &str = "min by (instance) (up or probe_success)";

/// Prometheus and Alertmanager, where the lab has them.
pub(super) struct Monitoring {
    prometheus: Option<Prometheus>,
    alertmanager: Option<Alertmanager>,
}

/// What they know.
#[derive(Debug, Clone, Default)]
pub(super) struct Monitored {
    pub(super) alerts: Vec<KnownAlert>,
    /// Service → whether it answers.
    pub(super) up: BTreeMap<String, bool>,
    /// Who of them did not answer, and why.
    pub(super) problems: Vec<String>,
}

impl Monitored {
    /// Alerts that somebody is told of.
    pub(super) fn firing(&self) -> usize {
        self.alerts.iter().filter(|alert| alert.state.starts_with("firing")).count()
    }

    /// Changes when an alert comes, goes or is held back, and when a service does not answer any more.
    pub(super) fn mark(&self) -> String {
        let alerts = self.alerts.iter().map(|a| format!("{}|{}|{}", a.alert, a.since, a.state));
        let down = self.up.iter().filter(|(_, up)| !**up).map(|(service, _)| format!("down|{service}"));
        let whole = alerts.chain(down).chain(self.problems.iter().cloned()).collect::<Vec<_>>();
        // Names of alerts are anybody's: in a page they could become others than in the news.
        let mut hash = std::hash::DefaultHasher::new();
        whole.hash(&mut hash);
        format!("{:x}", hash.finish())
    }
}

impl Monitoring {
    pub(super) fn of(lab: &LabView) -> Self {
        let url = |role| lab.roles.get(role).map(|address| format!("http://{address}"));
        Self {
            prometheus: url(METRICS).map(Prometheus::new),
            alertmanager: url(ALERTS).map(Alertmanager::new),
        }
    }

    /// Whether the lab has either.
    pub(super) fn is_there(&self) -> bool {
        self.prometheus.is_some() || self.alertmanager.is_some()
    }

    pub(super) async fn ask(&self) -> Monitored {
        let prometheus = async {
            let Some(prometheus) = &self.prometheus else { return Ok(Default::default()) };
            tokio::try_join!(prometheus.alerts(), prometheus.query(UP))
        };
        let alertmanager = async {
            let Some(alertmanager) = &self.alertmanager else { return Ok(Vec::new()) };
            alertmanager.alerts().await
        };
        let (of_prometheus, passed_on) =
            tokio::join!(in_time("Prometheus", prometheus), in_time("Alertmanager", alertmanager));
        let mut problems = Vec::new();
        let mut or_problem = |why: String| problems.push(why);
        let (pending, samples) = of_prometheus.unwrap_or_else(|why| {
            or_problem(why);
            Default::default()
        });
        let passed_on = passed_on.map_err(or_problem).ok();
        let up = samples.into_iter().filter_map(|sample| {
            let service = sample.labels.get("instance")?.clone();
            Some((service, sample.value > 0.0))
        });
        Monitored { alerts: known(&pending, passed_on.as_deref()), up: up.collect(), problems }
    }

    /// Holds back every alert of a name; gives the silence's id.
    pub(super) async fn silence(&self, alert: &str, minutes: i64, comment: &str) -> Result<String> {
        let alertmanager = self.alertmanager.as_ref().context("the lab has no Alertmanager")?;
        let now = OffsetDateTime::now_utc();
        let until = now + time::Duration::minutes(minutes);
        alertmanager.silence(alert, &now.format(&Rfc3339)?, &until.format(&Rfc3339)?, comment).await
    }

    /// Ends a silence.
    pub(super) async fn end_silence(&self, id: &str) -> Result<()> {
        self.alertmanager.as_ref().context("the lab has no Alertmanager")?.expire(id).await
    }
}

async fn in_time<T>(who: &str, question: impl Future<Output = Result<T>>) -> Result<T, String> {
    match timeout(PATIENCE, question).await {
        Ok(Ok(answer)) => Ok(answer),
        Ok(Err(error)) => Err(format!("{who} does not answer: {error:#}")),
        Err(_) => Err(format!("{who} does not answer within {} ms", PATIENCE.as_millis())),
    }
}
