//! `lab up` and `lab reset`: images, start, endpoint table, live line.

use std::io::IsTerminal;

use anyhow::{Result, bail};
use tokio::sync::watch;

use super::bundle::url;
use super::bundle_import::take_from;
use super::context::Context;
use super::progress::progress;
use super::{live, status};
use crate::engine::{
    Engine, InstanceLock, InstanceState, Session, SourceChoice, Started, default_offset, prepare,
    same_definition, start,
};
use crate::project::Project;
use crate::signals::{Interrupted, watch_signals};
use crate::topology::{Endpoints, Instance, Plan, Source, instance_option};

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Which lab; lab.toml's default where absent.
    #[arg(long, value_name = "NAME")]
    lab: Option<String>,
    /// Moves every host port; other instances than the default one find a free offset themselves.
    #[arg(long, value_name = "N")]
    port_offset: Option<u16>,
    /// Where images come from.
    #[arg(long, value_enum, default_value = "local")]
    images: SourceChoice,
    /// Take images from somebody who runs `lab bundle serve`, such as http://192.168.1.10:5000.
    #[arg(long, value_name = "URL", value_parser = url)]
    from: Option<String>,
    /// Return when every service is ready, without the live line.
    #[arg(long)]
    detach: bool,
}

#[derive(Debug, clap::Args)]
pub(super) struct ResetArgs {
    #[command(flatten)]
    up: Args,
}

pub(super) async fn run(context: &Context, args: Args) -> Result<()> {
    let cancel = watch_signals();
    let project = context.project()?;
    let instance = Instance::new(&context.instance, args.port_offset.unwrap_or_default())?;
    // What is wrong with the lab's name or its ports is said before anything is asked or started.
    project.plan(args.lab.as_deref(), instance.clone())?;
    let lock = InstanceLock::take(instance.name())?;
    let engine = Engine::connect().await?;
    let state = engine.instance(instance.name()).await?;
    same_definition(&project, &state, instance.name())?;
    let plan = match attach(&project, &engine, &state, &args, &instance)? {
        Some(plan) => {
            say!("instance {instance} is already up; nothing was changed");
            plan
        }
        None => bring_up(&project, &engine, &state, &args, instance.name(), cancel.clone()).await?,
    };
    drop(lock);
    say!("{}", status::endpoint_table(&plan));
    // A living line needs a terminal that can go back to its beginning.
    let living =
        std::io::stdout().is_terminal() && std::env::var_os("TERM").is_none_or(|term| term != "dumb");
    if !args.detach && living {
        if let Some(line) = live::explained(&plan) {
            say!("{line}");
        }
        say!("Ctrl-C ends only the line below; the lab stays up until ./lab down{}.", context.option());
        live::follow(&plan, &Endpoints::of(&plan), cancel).await;
    } else {
        say!("The lab stays up until ./lab down{}.", context.option());
    }
    Ok(())
}

pub(super) async fn reset(context: &Context, args: ResetArgs) -> Result<()> {
    let mut up = args.up;
    {
        let _lock = InstanceLock::take(&context.instance)?;
        let engine = Engine::connect().await?;
        let state = engine.instance(&context.instance).await?;
        same_definition(&context.project()?, &state, &context.instance)?;
        if up.lab.is_none() {
            up.lab.clone_from(&state.lab);
        }
        if up.port_offset.is_none() && !state.networks.is_empty() {
            up.port_offset = Some(state.offset);
        }
        let removed = engine.remove_instance(&context.instance, true).await?;
        say!("removed {} containers and {} volumes", removed.containers, removed.volumes);
    }
    run(context, up).await
}

/// The plan of an instance that is wholly up; none where it must be started.
fn attach(
    project: &Project,
    engine: &Engine,
    state: &InstanceState,
    args: &Args,
    instance: &Instance,
) -> Result<Option<Plan>> {
    let Some(lab) = &state.lab else { return Ok(None) };
    // A lab that this definition no longer has can only be replaced.
    let session = Session::of(project.clone(), engine.clone(), state.clone(), instance.name());
    let Ok(session) = session else { return Ok(None) };
    let running = session.plan;
    // What was broken on purpose is not mended behind anybody's back.
    if !state.faults.is_empty() {
        let broken = state.faults.join(", ");
        say!(
            "instance {instance} is broken on purpose: {broken}.\n  Undo it: ./lab fault undo{}",
            instance.option()
        );
        return Ok(Some(running));
    }
    if !running.services.is_empty() && state.dead(&running).is_empty() {
        if args.lab.as_ref().is_some_and(|wanted| wanted != lab) {
            bail!(
                "instance {instance} runs lab {lab}; stop it first, or start this one as another --instance"
            );
        }
        return Ok(Some(running));
    }
    Ok(None)
}

async fn bring_up(
    project: &Project,
    engine: &Engine,
    state: &InstanceState,
    args: &Args,
    instance: &str,
    cancel: watch::Receiver<bool>,
) -> Result<Plan> {
    if !state.is_down() {
        say!(
            "instance {instance} is not whole (an interrupted start, or services that died): starting it anew; its data stays"
        );
        engine.remove_instance(instance, false).await?;
    } else if !state.volumes.is_empty() {
        let option = instance_option(instance);
        say!(
            "data of an earlier run is there, and the lab goes on from it (./lab reset{option} starts from nothing)"
        );
    }
    let offset = match args.port_offset {
        Some(offset) => offset,
        None => default_offset(project, args.lab.as_deref(), instance)?,
    };
    if offset > 0 && args.port_offset.is_none() {
        say!("documented host ports are taken: instance {instance} moves its own by {offset}");
    }
    let plan = project.plan(args.lab.as_deref(), Instance::new(instance, offset)?)?;
    // Known before gigabytes are pulled; `auto` is decided later, and the start looks again.
    if args.images != SourceChoice::Auto {
        state.data_fits(&plan.instance, source_from(args.images))?;
    }
    if let Some(url) = &args.from {
        let mut cancel = cancel.clone();
        tokio::select! {
            taken = take_from(url, project, engine, &plan, source_from(args.images)) => taken?,
            _ = cancel.wait_for(|c| *c) => return Err(Interrupted("what was fetched is kept".to_owned()).into()),
        }
    }
    let (plan, started) = start_lab(project, engine, &plan, args.images, cancel).await?;
    drop(started.give_away());
    Ok(plan)
}

/// Somebody who offers a bundle stands for the registries: public images come from there only where they are asked for.
fn source_from(choice: SourceChoice) -> Source {
    if choice == SourceChoice::Upstream { Source::Upstream } else { Source::Local }
}

/// Prepares the images and starts a lab, with progress; undone where `cancel` turns true.
pub(super) async fn start_lab(
    project: &Project,
    engine: &Engine,
    whole: &Plan,
    choice: SourceChoice,
    mut cancel: watch::Receiver<bool>,
) -> Result<(Plan, Started)> {
    let (events, lines) = progress();
    let started = async {
        let prepared = tokio::select! {
            prepared = prepare(project, engine, whole, choice, &events) => prepared?,
            _ = cancel.wait_for(|c| *c) => return Err(Interrupted("no service was started".to_owned()).into()),
        };
        let started = start(project, engine, &prepared, &events, cancel.clone()).await?;
        Ok((prepared.plan, started))
    };
    let started: Result<_> = started.await;
    drop(events);
    lines.await?;
    started
}
