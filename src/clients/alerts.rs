//! What fires, as Prometheus and Alertmanager say it together.

use std::collections::BTreeMap;

use serde::Serialize;
use streamlab_records::text::visible;

use super::alertmanager::Alert;
use super::prometheus::PendingAlert;

/// An alert as people ask for it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct KnownAlert {
    /// Its name.
    pub alert: String,
    /// `critical`, `warning`.
    pub severity: String,
    /// `pending`, `firing`, `held back by …`.
    pub state: String,
    /// RFC 3339.
    pub since: String,
    /// What is wrong.
    pub summary: String,
    /// What to do about it.
    pub what_to_do: String,
    /// Address of its runbook.
    pub runbook: String,
    /// The silences that hold it back.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub silences: Vec<String>,
}

/// Alertmanager says what is passed on and what is held back; what only Prometheus knows is pending, or on its way.
/// `passed_on` is none where Alertmanager does not answer.
pub fn known(of_prometheus: &[PendingAlert], passed_on: Option<&[Alert]>) -> Vec<KnownAlert> {
    let asked = passed_on.is_some();
    let passed_on = passed_on.unwrap_or_default();
    let mut all: Vec<KnownAlert> = passed_on
        .iter()
        .map(|a| {
            let state = match (a.status.silenced_by.is_empty(), a.status.inhibited_by.is_empty()) {
                (false, _) => "held back by a silence",
                (true, false) => "held back by another alert",
                (true, true) => "firing",
            };
            let silences = a.status.silenced_by.clone();
            KnownAlert { silences, ..alert(&a.labels, &a.annotations, state, &a.starts_at) }
        })
        .collect();
    for pending in of_prometheus {
        let there = passed_on
            .iter()
            .any(|a| pending.labels.iter().all(|(name, value)| a.labels.get(name) == Some(value)));
        if !there {
            let state = match (pending.state == "pending", asked) {
                (true, _) => "pending",
                (false, true) => "firing, not yet at Alertmanager",
                (false, false) => "firing; Alertmanager does not say whether it is held back",
            };
            all.push(alert(&pending.labels, &pending.annotations, state, &pending.active_at));
        }
    }
    all.sort_by(|a, b| (&a.severity, &a.since, &a.summary).cmp(&(&b.severity, &b.since, &b.summary)));
    all
}

type Texts = BTreeMap<String, String>;

fn alert(labels: &Texts, annotations: &Texts, state: &str, since: &str) -> KnownAlert {
    // Anybody may post an alert: a terminal obeys nothing of it.
    let of = |texts: &Texts, name: &str| texts.get(name).map(|text| visible(text)).unwrap_or_default();
    KnownAlert {
        alert: of(labels, "alertname"),
        severity: of(labels, "severity"),
        state: state.to_owned(),
        since: since.to_owned(),
        summary: of(annotations, "summary"),
        what_to_do: of(annotations, "description"),
        runbook: of(annotations, "runbook_url"),
        silences: Vec::new(),
    }
}

#[cfg(test)]
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
        let of_prometheus: Vec<PendingAlert> = serde_json::from_value(json!([
            pending("A", "firing"),
            pending("D", "pending"),
            pending("E", "firing")
        ]))
        .unwrap();
        let mut found: Vec<_> = known(&of_prometheus, Some(&passed_on))
            .into_iter()
            .map(|r| format!("{}: {}", r.alert, r.state))
            .collect();
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
}
