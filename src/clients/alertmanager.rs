//! Questions to Alertmanager: what fires and whether it is held back; silences.

use std::collections::BTreeMap;

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

/// Alertmanager at a base URL.
#[derive(Debug, Clone)]
pub struct Alertmanager {
    url: String,
}

/// An alert as Alertmanager holds it.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Alert {
    /// Labels, `alertname` among them.
    pub labels: BTreeMap<String, String>,
    /// Annotations: summary, description, runbook_url.
    pub annotations: BTreeMap<String, String>,
    /// Since when, RFC 3339.
    pub starts_at: String,
    /// Whether it is passed on.
    pub status: Status,
}

/// Whether an alert is passed on, and what holds it back.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Status {
    /// `active`, `suppressed` or `unprocessed`.
    pub state: String,
    /// Ids of the silences that hold it back.
    pub silenced_by: Vec<String>,
    /// Fingerprints of the alerts that hold it back.
    pub inhibited_by: Vec<String>,
}

impl Alert {
    /// Its name in the rules.
    pub fn name(&self) -> &str {
        self.labels.get("alertname").map_or("", String::as_str)
    }
}

impl Alertmanager {
    /// The server at a base URL such as `http://localhost:59093`.
    pub fn new(url: impl Into<String>) -> Self {
        Self { url: url.into() }
    }

    /// Every alert that fires, also those that are held back.
    ///
    /// # Errors
    /// The server does not answer.
    pub async fn alerts(&self) -> Result<Vec<Alert>> {
        let url = format!("{}/api/v2/alerts", self.url);
        let answer = super::http().get(&url).send().await?.error_for_status()?;
        answer.json().await.with_context(|| format!("{url} does not answer as Alertmanager"))
    }

    /// Holds back every alert of a name until `until` (RFC 3339); gives the silence's id.
    ///
    /// # Errors
    /// The server does not answer, or refuses.
    pub async fn silence(&self, alert: &str, from: &str, until: &str, comment: &str) -> Result<String> {
        let silence = json!({
            "matchers": [{ "name": "alertname", "value": alert, "isRegex": false, "isEqual": true }],
            "startsAt": from,
            "endsAt": until,
            "createdBy": "streamlab",
            "comment": comment,
        });
        let url = format!("{}/api/v2/silences", self.url);
        let answer: Value =
            super::http().post(&url).json(&silence).send().await?.error_for_status()?.json().await?;
        Ok(answer["silenceID"].as_str().context("no silenceID in the answer")?.to_owned())
    }

    /// Ends a silence.
    ///
    /// # Errors
    /// The server does not answer, or knows no such silence.
    pub async fn expire(&self, silence: &str) -> Result<()> {
        let url = format!("{}/api/v2/silence/{silence}", self.url);
        super::http().delete(&url).send().await?.error_for_status()?;
        Ok(())
    }
}
