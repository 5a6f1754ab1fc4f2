//! `lab up` and `lab reset`: images, start, endpoint table, live line.

use std::collections::BTreeSet;
use std::io::IsTerminal;

use anyhow::{Result, bail};
use tokio::sync::watch;

use super::bundle::url;
use super::bundle_import::take_from;
use super::context::{Context, same_definition};
use super::progress::{build_progress, start_progress};
use super::signals::{Interrupted, watch_signals};
use super::{live, status};
use crate::engine::{
    Engine, InstanceLock, InstanceState, Resolved, Source, Started, UpOptions, build_images, free_offset,
};
use crate::project::Project;
use crate::topology::{DEFAULT_INSTANCE, Endpoints, Instance, Topology};

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
    images: Source,
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
    project.topology(args.lab.as_deref(), instance.clone())?;
    let lock = InstanceLock::take(instance.name())?;
    let engine = Engine::connect().await?;
    let state = engine.instance(instance.name()).await?;
    same_definition(&project, &state, instance.name())?;
    let topology = match attach(&project, &state, &args, &instance)? {
        Some(topology) => {
            say!("instance {instance} is already up; nothing was changed");
            topology
        }
        None => bring_up(&project, &engine, &state, &args, instance.name(), cancel.clone()).await?,
    };
    drop(lock);
    say!("{}", status::endpoint_table(&topology));
    if !args.detach && std::io::stdout().is_terminal() {
        say!(
            "produced and aggregated count every record in the topics; lagging: written, not yet counted by Spark."
        );
        say!("Ctrl-C ends only the line below; the lab stays up until ./lab down{}.", context.option());
        live::follow(&Endpoints::of(&topology), cancel).await;
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

/// The topology of an instance that is wholly up; none where it must be started.
fn attach(
    project: &Project,
    state: &InstanceState,
    args: &Args,
    instance: &Instance,
) -> Result<Option<Topology>> {
    let Some(lab) = &state.lab else { return Ok(None) };
    let running = project.topology(Some(lab), Instance::new(instance.name(), state.offset)?);
    // A lab that this definition no longer has can only be replaced.
    let Ok(running) = running else { return Ok(None) };
    let running = super::context::of_source(project, running, state);
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
) -> Result<Topology> {
    if !state.is_down() {
        say!(
            "instance {instance} is not whole (an interrupted start, or services that died): starting it anew; its data stays"
        );
        engine.remove_instance(instance, false).await?;
    } else if !state.volumes.is_empty() {
        say!(
            "data of an earlier run is there, and the lab goes on from it (./lab reset starts from nothing)"
        );
    }
    let offset = match args.port_offset {
        Some(offset) => offset,
        None => default_offset(project, args.lab.as_deref(), instance)?,
    };
    if offset > 0 && args.port_offset.is_none() {
        say!("documented host ports are taken: instance {instance} moves its own by {offset}");
    }
    let topology = project.topology(args.lab.as_deref(), Instance::new(instance, offset)?)?;
    if let Some(url) = &args.from {
        let mut cancel = cancel.clone();
        tokio::select! {
            taken = take_from(url, project, engine, &topology, args.images) => taken?,
            _ = cancel.wait_for(|c| *c) => return Err(Interrupted("what was fetched is kept".to_owned()).into()),
        }
    }
    let (topology, started) = start(project, engine, &topology, args.images, cancel).await?;
    started.give_away();
    Ok(topology)
}

/// How far an instance that is not up moves its host ports unless it is told: the default one has the documented ports.
pub(super) fn default_offset(project: &Project, lab: Option<&str>, instance: &str) -> Result<u16> {
    if instance == DEFAULT_INSTANCE { Ok(0) } else { free_offset(project, lab, instance) }
}

/// A lab whose images are on the engine.
pub(super) struct Prepared {
    /// Where they are from.
    pub(super) source: Source,
    /// Their ids.
    pub(super) resolved: Resolved,
    /// What of the lab there are images for.
    pub(super) topology: Topology,
}

/// Builds or pulls the images that a topology needs, with progress.
pub(super) async fn prepare(
    project: &Project,
    engine: &Engine,
    whole: &Topology,
    source: Source,
) -> Result<Prepared> {
    let decided = engine.decide(project, whole, source).await?;
    let topology = &if decided == Source::Upstream { whole.clone() } else { whole.buildable(&project.file) };
    for left in whole.services.iter().filter(|s| topology.service(&s.name).is_none()) {
        say!("note: without {}: its image cannot be built here (--images upstream has it)", left.name);
    }
    let wanted: BTreeSet<String> = Engine::recipes_of(project, topology, decided);
    let (events, lines) = build_progress();
    let built = build_images(engine, project, &wanted, events).await;
    lines.await?;
    built?;
    let resolved = engine.resolve(project, topology, decided).await?;
    if source == Source::Auto {
        for (image, reference) in &resolved.taken {
            say!("image {image:<18} {reference}");
        }
    }
    Ok(Prepared { source: decided, resolved, topology: topology.clone() })
}

/// Prepares the images and starts a topology, with progress; undone where `cancel` turns true.
pub(super) async fn start(
    project: &Project,
    engine: &Engine,
    topology: &Topology,
    source: Source,
    mut cancel: watch::Receiver<bool>,
) -> Result<(Topology, Started)> {
    let undone = |what: &str| anyhow::Error::new(Interrupted(what.to_owned()));
    let Prepared { source: decided, resolved, topology } = tokio::select! {
        prepared = prepare(project, engine, topology, source) => prepared?,
        _ = cancel.wait_for(|c| *c) => return Err(undone("no service was started")),
    };
    for (image, spec) in &project.file.images {
        let used = topology.services.iter().any(|s| &s.image == image);
        if let Some(substitute) = spec.substitute.as_ref().filter(|_| used && decided == Source::Local) {
            say!("note: in place of {}: {substitute}", spec.upstream.as_deref().unwrap_or(image));
        }
    }
    let label = if decided == Source::Upstream { "upstream" } else { "local" };
    let options = UpOptions { source: label.to_owned(), resolved };
    let (events, lines) = start_progress();
    let result = engine.up(project, &topology, &options, events, cancel.clone()).await;
    lines.await?;
    if *cancel.borrow() && result.is_err() {
        return Err(undone("the start was undone; nothing of it is left"));
    }
    Ok((topology, result?))
}
