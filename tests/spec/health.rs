//! Readiness as compose and the virtual machine ask for it: the health command of each service, inside the running one.

use std::sync::Arc;

use anyhow::{Context, Result, bail};

use crate::lab::Lab;
use crate::trial::{Chapter, Check, Trial, row};

/// Services with a health command: all but those that only have to end.
pub(crate) fn trials(chapter: &Chapter<'_>) -> Vec<Trial> {
    let healthy = chapter.plan.services.iter().filter(|s| s.health.is_some());
    let trial = |service: &streamlab::topology::Service| {
        let name = service.name.clone();
        let check = Check::plain(move |lab| {
            let name = name.clone();
            Box::pin(async move { agrees(&lab, &name).await })
        });
        let what = "its health command, run inside, says that it is ready, and fails for something that is not there".to_owned();
        row(format!("health::{}", service.name), what, vec![service.name.clone()], true, check)
    };
    healthy.map(trial).collect()
}

/// The engine has found it ready by its own question: the command must say the same, and must be able to say no.
async fn agrees(lab: &Arc<Lab>, service: &str) -> Result<String> {
    let spec = lab.service(service)?;
    let health = spec.health.as_ref().context("no health command")?;
    let words: Vec<&str> = health.command.iter().map(String::as_str).collect();
    lab.exec(service, &words).await?;
    // The same question about something that is not there.
    let mut wrong = words;
    *wrong.last_mut().context("no argument")? = "29999";
    let answer = lab.engine()?.exec(&spec.container, &wrong).await?;
    if answer.code == 0 {
        bail!("{wrong:?} says that it is healthy too");
    }
    Ok(health.command[1..].join(" "))
}
