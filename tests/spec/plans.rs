//! The plan against the engine: what each container was started with, field by field. Compose and Nix are held to the same plan by
//! tests of their own.

use std::sync::Arc;

use anyhow::{Result, bail};
use streamlab::engine::GRACE_LABEL;

use crate::lab::Lab;
use crate::trial::{Chapter, Check, Trial, row};
use crate::written::Written;

pub(crate) fn trials(chapter: &Chapter<'_>) -> Vec<Trial> {
    let trial = |service: &streamlab::topology::Service| {
        let name = service.name.clone();
        let check = Check::plain(move |lab| {
            let name = name.clone();
            Box::pin(async move { is_as_planned(&lab, &name).await })
        });
        let what =
            "its container has what the plan says: command, environment, ports, mounts, limits".to_owned();
        row(format!("plan::{}", service.name), what, vec![service.name.clone()], true, check)
    };
    chapter.plan.services.iter().map(trial).collect()
}

async fn is_as_planned(lab: &Arc<Lab>, name: &str) -> Result<String> {
    let service = lab.service(name)?;
    let meant = Written::meant(&lab.plan, service, str::to_owned);
    let container = lab.engine()?.inspect(&service.container).await?;
    let root = lab.project.root.canonicalize()?;
    let written = Written::by_the_engine(&container, &meant, &root, GRACE_LABEL);
    if let Some(difference) = written.difference(&meant) {
        bail!("{name}: {difference}");
    }
    Ok(format!(
        "{} variables, {} mounts, {} ports",
        meant.environment.len(),
        meant.mounts.len(),
        meant.ports.len()
    ))
}
