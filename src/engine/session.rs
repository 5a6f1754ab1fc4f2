//! Preparing a lab's images, starting it, attaching to one that runs: one way for the command line, the bench, bundles, the
//! spec, and tests of other people.

use std::collections::BTreeSet;

use anyhow::{Context as _, Result, bail};
use tokio::sync::mpsc::UnboundedSender;
use tokio::sync::watch;

use super::request::files_are_open;
use super::{
    BuildEvent, Engine, InstanceState, PullEvent, Resolved, SourceChoice, StartEvent, Started, build_images,
    free_offset,
};
use crate::project::Project;
use crate::topology::{DEFAULT_INSTANCE, Endpoints, Instance, Plan, Service, Source, instance_option};

/// What happens while a lab is prepared and started.
#[derive(Debug, Clone)]
pub enum Event {
    /// Something that people should know.
    Note(String),
    /// An image is built.
    Build(BuildEvent),
    /// An image is pulled.
    Pull(PullEvent),
    /// A service starts.
    Start(StartEvent),
}

/// A lab whose images are on the engine.
#[derive(Debug, Clone)]
pub struct Prepared {
    /// Where they are from.
    pub source: Source,
    /// Their ids.
    pub resolved: Resolved,
    /// What of the lab there are images for.
    pub plan: Plan,
}

/// An instance that is up.
pub struct Session {
    /// The checkout that it was started from.
    pub project: Project,
    /// The engine that it runs on.
    pub engine: Engine,
    /// What was there of it when it was looked at.
    pub state: InstanceState,
    /// The lab as it runs.
    pub plan: Plan,
    /// Where its images are from.
    pub source: Source,
}

/// Builds or pulls the images that a plan needs.
///
/// # Errors
/// An image that cannot be built or pulled, and what to do.
pub async fn prepare(
    project: &Project,
    engine: &Engine,
    whole: &Plan,
    choice: SourceChoice,
    events: &UnboundedSender<Event>,
) -> Result<Prepared> {
    let tell = |event| {
        let _ = events.send(event);
    };
    let say = |text: String| tell(Event::Note(text));
    files_are_open(&project.root, whole)?;
    let source = engine.decide(project, whole, choice, &tell).await?;
    let plan = source.part_of(&project.file, whole)?;
    for left in whole.services.iter().filter(|s| plan.service(&s.name).is_none()) {
        say(format!(
            "note: without {}: its image cannot be built here (--images upstream has it)",
            left.name
        ));
    }
    let wanted: BTreeSet<String> = engine.recipes_of(project, &plan, source);
    build_images(engine, project, &wanted, |event| {
        let _ = events.send(Event::Build(event));
    })
    .await?;
    let resolved = engine.resolve(project, &plan, source, &tell).await?;
    if choice == SourceChoice::Auto {
        for (image, reference) in &resolved.taken {
            say(format!("image {image:<18} {reference}"));
        }
    }
    for (image, spec) in &project.file.images {
        let used = plan.services.iter().any(|s| &s.image == image);
        if let Some(substitute) = spec.substitute.as_ref().filter(|_| used && source == Source::Local) {
            say(format!("note: in place of {}: {substitute}", spec.upstream.as_deref().unwrap_or(image)));
        }
    }
    Ok(Prepared { source, resolved, plan })
}

/// Starts a prepared lab and waits until every service is ready; undone where it fails or `cancel` turns true.
///
/// # Errors
/// A port that is taken (and by whom), or the first service that fails, with its last lines.
pub async fn start(
    project: &Project,
    engine: &Engine,
    prepared: &Prepared,
    events: &UnboundedSender<Event>,
    cancel: watch::Receiver<bool>,
) -> Result<Started> {
    engine.start_instance(project, prepared, events, cancel).await
}

/// How far an instance that is not up moves its host ports unless it is told: the default one has the documented ports.
///
/// # Errors
/// An unknown lab, or no offset with which every port is free.
pub fn default_offset(project: &Project, lab: Option<&str>, instance: &str) -> Result<u16> {
    if instance == DEFAULT_INSTANCE { Ok(0) } else { free_offset(project, lab, instance) }
}

/// An instance is looked after by the definition that it was started from.
///
/// # Errors
/// It was started from another definition.
pub fn same_definition(project: &Project, state: &InstanceState, instance: &str) -> Result<()> {
    match &state.definition {
        Some(path) if *path != project.path.display().to_string() => bail!(
            "instance {instance} was started from another definition.\n  Give --file {path}, stop it (./lab down --instance {instance}), or use another --instance."
        ),
        _ => Ok(()),
    }
}

impl Session {
    /// Attaches to an instance: its lab, port offset and source are on its network's labels.
    ///
    /// # Errors
    /// No engine, no such instance, or one of another definition.
    pub async fn attach(project: Project, instance: &str) -> Result<Self> {
        Instance::new(instance, 0)?;
        let engine = Engine::connect().await?;
        let state = engine.instance(instance).await?;
        if state.containers.is_empty() {
            bail!("instance {instance} is not up.\n  Start it: ./lab up{}", instance_option(instance));
        }
        same_definition(&project, &state, instance)?;
        Self::of(project, engine, state, instance)
    }

    /// The session of an instance whose state was asked for.
    ///
    /// # Errors
    /// Its lab is not in the definition any more, or its ports do not fit.
    pub fn of(project: Project, engine: Engine, state: InstanceState, instance: &str) -> Result<Self> {
        let whole = project.plan(state.lab.as_deref(), Instance::new(instance, state.offset)?)?;
        let source = state.source.unwrap_or(Source::Local);
        let plan = source.part_of(&project.file, &whole)?;
        Ok(Self { project, engine, state, plan, source })
    }

    /// Where it answers on the host.
    pub fn endpoints(&self) -> Endpoints {
        Endpoints::of(&self.plan)
    }

    /// A service by its documented name.
    ///
    /// # Errors
    /// There is no such service; the message lists those that exist.
    pub fn service(&self, name: &str) -> Result<&Service> {
        if let Some(service) = self.plan.service(name) {
            return Ok(service);
        }
        let services = &self.plan.services;
        let group: Vec<_> = services.iter().filter(|s| s.group == name).map(|s| s.name.as_str()).collect();
        if group.is_empty() {
            let names: Vec<_> = services.iter().map(|s| s.name.as_str()).collect();
            bail!("no service named {name:?}; there are:\n  {}", names.join("\n  "));
        }
        bail!("{name} is a group; name one of its services: {}", group.join(", "))
    }

    /// The ids of the images that this instance runs from.
    ///
    /// # Errors
    /// Images that are missing, by name.
    pub async fn resolved(&self) -> Result<Resolved> {
        self.engine.resolve(&self.project, &self.plan, self.source, &|_| ()).await
    }

    /// Starts an instance whose containers were removed again, with its data, and waits until it is ready.
    ///
    /// # Errors
    /// As [`start`].
    pub async fn start_again(&self, events: &UnboundedSender<Event>) -> Result<Started> {
        let prepared =
            Prepared { source: self.source, resolved: self.resolved().await?, plan: self.plan.clone() };
        let (_keep, never) = watch::channel(false);
        start(&self.project, &self.engine, &prepared, events, never).await.context("the start failed")
    }
}
