//! `lab fault`: break a running lab on purpose, see what fires, put it right.

use anyhow::{Context as _, Result};

use super::context::Context;
use crate::engine::{Breakable, InstanceLock, Session};
use crate::signals::watch_signals;
use crate::topology::{Alert, Fault};

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// What to break, or `undo` to put right everything that is broken; without it, what there is.
    name: Option<String>,
}

pub(super) async fn run(context: &Context, args: Args) -> Result<()> {
    let Some(name) = args.name else { return list(context, &context.running().await?) };
    let mut cancel = watch_signals();
    let _lock = InstanceLock::take(&context.instance)?;
    let running = context.running().await?;
    let mut work = std::pin::pin!(change(context, &running, &name));
    tokio::select! {
        done = &mut work => done,
        _ = cancel.wait_for(|c| *c) => {
            eprintln!("a fault that is half done could not be told from others: finishing first");
            work.await
        }
    }
}

async fn change(context: &Context, running: &Session, name: &str) -> Result<()> {
    let (engine, file, plan) = (&running.engine, &running.project.file, &running.plan);
    let breakable = Breakable { engine, file, plan };
    if name == "undo" {
        let undone = breakable.undo_all(&running.state).await?;
        match undone.as_slice() {
            [] => say!("nothing is broken on purpose"),
            names => say!("put right: {}", names.join(", ")),
        }
        return Ok(());
    }
    let fault = find(running, name)?;
    breakable.inject(&running.state, fault).await?;
    say!("{name}: {}", fault.about);
    for step in &fault.steps {
        say!("  done: {step}");
    }
    match raised(running, fault).as_slice() {
        [] => say!("it has no alert of its own"),
        alerts => say!("raises {}: see ./lab alerts{}", alerts.join(", "), context.option()),
    }
    say!("put it right: ./lab fault undo{}", context.option());
    Ok(())
}

fn list(context: &Context, running: &Session) -> Result<()> {
    for fault in running.project.file.faults_of(&running.plan.lab) {
        let name = fault.name.get_ref();
        let broken = running.state.faults.contains(name);
        let broken = if broken {
            format!("   (in force: ./lab fault undo{})", context.option())
        } else {
            String::new()
        };
        say!("{name}{broken}");
        say!("  {}", fault.about);
        let alerts = raised(running, fault);
        if !alerts.is_empty() {
            say!("  raises {}", alerts.join(", "));
        }
    }
    Ok(())
}

fn find<'a>(running: &'a Session, name: &str) -> Result<&'a Fault> {
    let faults = running.project.file.faults_of(&running.plan.lab);
    let known: Vec<_> = faults.iter().map(|f| f.name.get_ref().as_str()).collect();
    let found = faults.iter().find(|f| f.name.get_ref() == name).copied();
    found.with_context(|| match known.as_slice() {
        [] => format!("lab {} has nothing that can be broken", running.plan.lab),
        known => format!("no fault named {name:?}; there are: {}", known.join(", ")),
    })
}

fn raised(running: &Session, fault: &Fault) -> Vec<String> {
    let by_it = |alert: &&Alert| alert.fault.as_ref().is_some_and(|f| f.get_ref() == fault.name.get_ref());
    running.project.file.alerts.iter().filter(by_it).map(|a| a.name.get_ref().clone()).collect()
}
