//! `lab fault`: break a running lab on purpose, see what fires, put it right.

use anyhow::{Context as _, Result, bail};

use super::context::{Context, Running};
use crate::engine::{Breakable, InstanceLock};
use crate::topology::{Fault, Step};

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// What to break, or `undo` to put right everything that is broken; without it, what there is.
    name: Option<String>,
}

pub(super) async fn run(context: &Context, args: Args) -> Result<()> {
    let running = match args.name {
        None => return list(&context.running().await?),
        Some(_) => {
            let _lock = InstanceLock::take(&context.instance)?;
            let running = context.running().await?;
            let resolved = running.resolved().await?;
            let breakable = Breakable {
                engine: &running.engine,
                file: &running.project.file,
                topology: &running.topology,
                resolved: &resolved,
            };
            match args.name.as_deref() {
                Some("undo") => return undo(&running, &breakable).await,
                name => {
                    let fault = find(&running, name.unwrap_or_default())?;
                    breakable.inject(&running.state, fault).await?;
                }
            }
            running
        }
    };
    let name = args.name.unwrap_or_default();
    let fault = find(&running, &name)?;
    say!("{name}: {}", fault.about);
    for step in &fault.steps {
        say!("  done: {}", in_words(step));
    }
    match raised(&running, fault).as_slice() {
        [] => say!("no alert is there for it"),
        alerts => say!("raises {}; see ./lab alerts", alerts.join(", ")),
    }
    say!("put it right: ./lab fault undo");
    Ok(())
}

async fn undo(running: &Running, breakable: &Breakable<'_>) -> Result<()> {
    let undone = breakable.undo_all(&running.state).await?;
    if undone.is_empty() {
        say!("nothing is broken on purpose");
    } else {
        say!("put right: {}", undone.join(", "));
    }
    Ok(())
}

fn list(running: &Running) -> Result<()> {
    let faults = &running.project.file.faults;
    if faults.is_empty() {
        bail!("this definition knows no faults");
    }
    for fault in faults {
        let name = fault.name.get_ref();
        let broken = running.state.faults.contains(name);
        say!("{name}{}", if broken { "   (in force; ./lab fault undo)" } else { "" });
        say!("  {}", fault.about);
        let alerts = raised(running, fault);
        if !alerts.is_empty() {
            say!("  raises {}", alerts.join(", "));
        }
    }
    Ok(())
}

fn find<'a>(running: &'a Running, name: &str) -> Result<&'a Fault> {
    let faults = &running.project.file.faults;
    faults.iter().find(|f| f.name.get_ref() == name).with_context(|| {
        let known: Vec<_> = faults.iter().map(|f| f.name.get_ref().as_str()).collect();
        format!("no fault named {name:?}; there are: {}", known.join(", "))
    })
}

fn raised(running: &Running, fault: &Fault) -> Vec<String> {
    let alerts = &running.project.file.alerts;
    let by_it = |name: &&crate::topology::Alert| {
        name.fault.as_ref().is_some_and(|f| f.get_ref() == fault.name.get_ref())
    };
    alerts.iter().filter(by_it).map(|a| a.name.get_ref().clone()).collect()
}

fn in_words(step: &Step) -> String {
    match step {
        Step::Kill(services) => format!("killed {}", services.join(", ")),
        Step::Pause(services) => format!("paused {}", services.join(", ")),
        Step::Cut { services, from } if from.is_empty() => {
            format!("cut {} from the network", services.join(", "))
        }
        Step::Cut { services, from } => format!("cut {} from {}", services.join(", "), from.join(", ")),
        Step::Slow { services, kilobits } => {
            format!("{} sends at most {kilobits} kilobits a second", services.join(", "))
        }
        Step::Produce(records) => format!("wrote {records} records into financial_transactions"),
    }
}
