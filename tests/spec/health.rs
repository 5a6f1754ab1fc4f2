//! Readiness as compose and the virtual machine ask for it: the health command of each service, inside the running one.

use std::sync::Arc;

use anyhow::{Context, Result, bail};
use streamlab::topology::Topology;

use crate::harness::Body;
use crate::lab::Lab;

/// Services with a health command: all but those that only have to end.
pub(crate) fn services(documented: &Topology) -> Vec<String> {
    let healthy = documented.services.iter().filter(|s| documented.health(s).is_some());
    healthy.map(|s| s.name.clone()).collect()
}

pub(crate) fn body(service: String) -> Body {
    Arc::new(move |lab| {
        let service = service.clone();
        Box::pin(async move { agrees(&lab, &service).await })
    })
}

/// The engine's own probe has found it ready: the command must say the same, and must be able to say no.
async fn agrees(lab: &Arc<Lab>, service: &str) -> Result<String> {
    let spec = lab.service(service)?;
    let health = lab.topology.health(spec).context("no health command")?;
    let words: Vec<&str> = health.iter().map(String::as_str).collect();
    lab.exec(service, &words).await?;
    // The same question about something that is not there.
    let mut wrong = words;
    *wrong.last_mut().context("no argument")? = "29999";
    let answer = lab.engine()?.exec(&spec.container, &wrong).await?;
    if answer.code == 0 {
        bail!("{wrong:?} says that it is healthy too");
    }
    Ok(health[1..].join(" "))
}
