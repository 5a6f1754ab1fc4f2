//! The console's page of alerts in a real browser: what people see of an alert, and the buttons that make and end a silence.

use anyhow::{Result, bail};
use reqwest::StatusCode;
use serde_json::json;
use streamlab::clients::http;
use streamlab::probes::{Answer, eventually};

use crate::browser::{Chromium, Opened};
use crate::console::console;
use crate::followed::EVERY;
use crate::lab::Lab;
use crate::trial::PATIENCE;

/// The page, open at one alert.
pub(crate) struct AlertsPage {
    url: String,
    alert: &'static str,
    page: Opened,
    _chromium: Chromium,
}

impl AlertsPage {
    pub(crate) async fn open(lab: &Lab, alert: &'static str) -> Result<Self> {
        let url = console(lab)?;
        let chromium = Chromium::start(lab).await?;
        let page = chromium.open(&format!("{url}/alerts")).await?;
        Ok(Self { url, alert, page, _chromium: chromium })
    }

    /// The part of the page that is about the alert, as a script.
    fn part(&self) -> String {
        format!(
            "[...document.querySelectorAll('section.alert')].find((e) => e.querySelector('h2').textContent === '{}')",
            self.alert
        )
    }

    /// Waits until the page, which nobody loads again, shows the alert in a state.
    pub(crate) async fn shows(&self, state: &str) -> Result<()> {
        let script = format!("{}?.querySelector('p span').textContent ?? 'nothing'", self.part());
        self.page.until(&script, state).await
    }

    /// Clicks the button with this text. A page that is being loaded again takes no click.
    pub(crate) async fn press(&self, text: &str) -> Result<()> {
        let button = self.button(text);
        let script = format!("{button} && !changing ? ({button}.click(), changing) : false");
        self.page.until(&script, "true").await
    }

    fn button(&self, text: &str) -> String {
        format!(
            "[...({})?.querySelectorAll('button') ?? []].find((e) => e.textContent === '{text}')",
            self.part()
        )
    }

    /// Puts the focus on a button, as somebody does who is about to press it.
    pub(crate) async fn focus(&self, text: &str) -> Result<()> {
        let button = self.button(text);
        let script = format!("{button}?.focus(), document.activeElement.textContent");
        self.page.until(&script, text).await
    }

    /// Waits until the page says that it has changed, without taking the focus away; and has it loaded again.
    pub(crate) async fn is_told_of_a_change(&self, focused: &str) -> Result<()> {
        let told = "!document.querySelector('[data-live=changed]').hidden";
        self.page.until(told, "true").await?;
        self.page.until("document.activeElement.textContent", focused).await?;
        self.page.click("[data-live=changed] a").await
    }

    /// How it looks, light and dark.
    pub(crate) async fn keep(&self, lab: &Lab) -> Result<()> {
        self.page.keep(&lab.project.root.join("target/spec/pages"), "alert").await?;
        self.page.go(&format!("{}/alerts", self.url)).await
    }

    /// What only a page of the console may do is refused without its token.
    pub(crate) async fn refuses_strangers(&self) -> Result<()> {
        let body = json!({ "alert": self.alert, "minutes": 5 });
        let answer = http().post(format!("{}/api/silences", self.url)).json(&body).send().await?;
        if answer.status() != StatusCode::FORBIDDEN {
            bail!("a silence without the page's token: {}", answer.status());
        }
        Ok(())
    }

    pub(crate) fn is_clean(&self) -> Result<()> {
        self.page.is_clean(&self.url)
    }
}

/// Waits until as many silences hold the alert as `wanted`; gives them.
pub(crate) async fn silences(lab: &Lab, alert: &str, wanted: usize) -> Result<Vec<String>> {
    let alertmanager = crate::followed::alertmanager(lab)?;
    let what = format!("{wanted} silences hold {alert}");
    let found = eventually(&what, PATIENCE, EVERY, || async {
        let found = alertmanager.alerts().await?.into_iter().find(|a| a.name() == alert);
        let holding = found.map(|a| a.status.silenced_by).unwrap_or_default();
        Ok(if holding.len() == wanted { Answer::Is(holding) } else { Answer::NotYet(format!("{holding:?}")) })
    });
    Ok(found.await?)
}
