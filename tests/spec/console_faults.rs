//! A console on the host that may break the lab, in a real browser; and the lab's own, which must not.

use std::process::Stdio;
use std::sync::Arc;

use anyhow::{Context, Result, bail};
use reqwest::StatusCode;
use streamlab::clients::http;
use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::process::Command;

use crate::browser::Chromium;
use crate::console::console;
use crate::drawn::token;
use crate::lab::Lab;
use crate::trial::{Chapter, Check, Kind, PATIENCE, Trial};

/// It raises no alert that another trial would take for its own.
const FAULT: &str = "registry-slow";

pub(crate) fn trials(chapter: &Chapter<'_>) -> Vec<Trial> {
    let trial = chapter.flow("console-faults", Check::plain(|lab| Box::pin(by_buttons(lab))));
    trial.map(|trial| alone(chapter, trial)).into_iter().collect()
}

/// Its button puts everything right, also what another trial has broken.
fn alone(chapter: &Chapter<'_>, mut trial: Trial) -> Trial {
    if let Kind::Fault(holds) = &mut trial.kind {
        holds.breaks = chapter.plan.services.iter().map(|service| service.name.clone()).collect();
    }
    trial
}

async fn by_buttons(lab: Arc<Lab>) -> Result<String> {
    only_reads(&console(&lab)?).await?;
    let proven = broken_and_put_right(&lab).await;
    // On every path.
    let undone = program(&lab, &["fault", "undo"]).output().await?;
    if !undone.status.success() {
        bail!("{}", String::from_utf8_lossy(&undone.stderr));
    }
    proven
}

/// The lab's own console has no way to the engine, also for who has its token.
async fn only_reads(url: &str) -> Result<()> {
    for path in [format!("/api/faults/{FAULT}/inject"), "/api/faults/undo".to_owned()] {
        let asked = http().post(format!("{url}{path}")).header("x-streamlab-token", token(url).await?);
        let answer = asked.json(&serde_json::json!({})).send().await?;
        if answer.status() != StatusCode::FORBIDDEN {
            bail!("the lab's own console answers {path} with {}", answer.status());
        }
    }
    Ok(())
}

async fn broken_and_put_right(lab: &Lab) -> Result<String> {
    let mut command = program(lab, &["console", "--allow-faults"]);
    let mut running = command.stdout(Stdio::piped()).kill_on_drop(true).spawn()?;
    let mut lines = BufReader::new(running.stdout.take().context("no output")?).lines();
    let said = tokio::time::timeout(PATIENCE, lines.next_line()).await??.context("it ended at once")?;
    let url = said.split("/faults").next().unwrap_or_default().to_owned();
    let engine = lab.engine()?;
    let in_force = async || Ok::<_, anyhow::Error>(engine.instance(lab.plan.instance.name()).await?.faults);
    let chromium = Chromium::start(lab).await?;
    let page = chromium.open(&format!("{url}/faults")).await?;
    let buttons = "document.querySelectorAll('[data-change$=\"/inject\"]').length > 0";
    page.until(buttons, "true").await?;
    page.click(&format!("[data-change=\"/api/faults/{FAULT}/inject\"]")).await?;
    let shown = "[...document.querySelectorAll('main p')].map((p) => p.textContent).find((p) => p.startsWith('In force')) ?? ''";
    page.until(&format!("({shown}).includes('{FAULT}')"), "true").await?;
    let broken = in_force().await?;
    page.keep(&lab.project.root.join("target/spec/pages"), "faults-in-force").await?;
    page.click("[data-change=\"/api/faults/undo\"]").await?;
    page.until(shown, "In force: no fault").await?;
    let whole = in_force().await?;
    page.is_clean(&url)?;
    if broken != [FAULT] || !whole.is_empty() {
        bail!("in force after the first button: {broken:?}, after the second: {whole:?}");
    }
    Ok(said)
}

/// `./lab` for the lab under test.
fn program(lab: &Lab, arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_streamlab"));
    command
        .arg("--file")
        .arg(&lab.project.path)
        .args(["--instance", lab.plan.instance.name()])
        .args(arguments);
    command.stdin(Stdio::null());
    command
}
