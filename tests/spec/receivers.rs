//! What arrived where people are told: notices in Slack's form, and e-mails.

use anyhow::{Context, Result};
use serde_json::Value;
use streamlab::clients::http;

use crate::lab::Lab;

/// A notice in Slack's form, as the receiver keeps it.
#[derive(Clone, Debug, serde::Deserialize)]
pub(crate) struct Notice {
    pub(crate) id: u64,
    pub(crate) status: String,
    payload: Value,
}

impl Notice {
    pub(crate) fn title(&self) -> &str {
        self.payload["attachments"][0]["title"].as_str().unwrap_or_default()
    }

    pub(crate) fn text(&self) -> &str {
        self.payload["attachments"][0]["text"].as_str().unwrap_or_default()
    }

    /// It says that an alert fires, or that it is over.
    pub(crate) fn is(&self, status: &str, alert: &str) -> bool {
        self.status == status && self.title().split([' ', ':']).any(|word| word == alert)
    }
}

/// What has arrived after a number, in order.
pub(crate) async fn notices(lab: &Lab, after: u64) -> Result<Vec<Notice>> {
    let url = format!("{}/api/notifications?after={after}", lab.endpoints.url("alert-receiver", "web")?);
    Ok(http().get(url).send().await?.error_for_status()?.json().await?)
}

/// Subjects of all e-mails, in order.
pub(crate) async fn mails(lab: &Lab) -> Result<Vec<String>> {
    let url = format!("{}/api/v2/messages?limit=250", lab.endpoints.url("mail-sink", "ui")?);
    let found: Value = http().get(url).send().await?.error_for_status()?.json().await?;
    let items = found["items"].as_array().context("no items")?;
    // The newest comes first.
    let subjects = items.iter().rev().filter_map(|m| m["Content"]["Headers"]["Subject"][0].as_str());
    Ok(subjects.map(str::to_owned).collect())
}
