//! What most commands begin with: the project, the engine, and the instance that is meant.

use std::path::PathBuf;

use anyhow::{Result, bail};

use crate::engine::{Engine, InstanceState, Resolved, Source};
use crate::project::Project;
use crate::topology::{Endpoints, Instance, Service, Topology};

/// The global options.
#[derive(Debug)]
pub(super) struct Context {
    file: Option<PathBuf>,
    pub(super) instance: String,
}

/// An instance that is up.
pub(super) struct Running {
    pub(super) project: Project,
    pub(super) engine: Engine,
    pub(super) state: InstanceState,
    pub(super) topology: Topology,
}

impl Context {
    pub(super) fn new(file: Option<PathBuf>, instance: String) -> Self {
        Self { file, instance }
    }

    pub(super) fn project(&self) -> Result<Project> {
        Project::open(self.file.as_deref(), std::env::current_exe()?)
    }

    /// The instance as it runs: its lab and port offset are on its network's labels.
    pub(super) async fn running(&self) -> Result<Running> {
        let project = self.project()?;
        Instance::new(&self.instance, 0)?;
        let engine = Engine::connect().await?;
        let state = engine.instance(&self.instance).await?;
        if state.containers.is_empty() {
            bail!("instance {} is not up.\n  Start it: ./lab up{}", self.instance, self.option());
        }
        same_definition(&project, &state, &self.instance)?;
        let topology =
            project.topology(state.lab.as_deref(), Instance::new(&self.instance, state.offset)?)?;
        let topology = of_source(&project, topology, &state);
        Ok(Running { project, engine, state, topology })
    }

    /// ` --instance x`, where it is not the default one.
    pub(super) fn option(&self) -> String {
        crate::topology::instance_option(&self.instance)
    }
}

/// What of a lab an instance has: all of it, or what there were images for.
pub(super) fn of_source(project: &Project, whole: Topology, state: &InstanceState) -> Topology {
    if state.source.as_deref() == Some("upstream") { whole } else { whole.buildable(&project.file) }
}

/// An instance is looked after by the definition that it was started from.
pub(super) fn same_definition(project: &Project, state: &InstanceState, instance: &str) -> Result<()> {
    match &state.definition {
        Some(path) if *path != project.path.display().to_string() => bail!(
            "instance {instance} was started from another definition.\n  Give --file {path}, stop it (./lab down --instance {instance}), or use another --instance."
        ),
        _ => Ok(()),
    }
}

impl Running {
    pub(super) fn endpoints(&self) -> Endpoints {
        Endpoints::of(&self.topology)
    }

    /// A service by its documented name.
    pub(super) fn service(&self, name: &str) -> Result<&Service> {
        if let Some(service) = self.topology.service(name) {
            return Ok(service);
        }
        let services = &self.topology.services;
        let group: Vec<_> = services.iter().filter(|s| s.group == name).map(|s| s.name.as_str()).collect();
        if group.is_empty() {
            let names: Vec<_> = services.iter().map(|s| s.name.as_str()).collect();
            bail!("no service named {name:?}; there are:\n  {}", names.join("\n  "));
        }
        bail!("{name} is a group; name one of its services: {}", group.join(", "))
    }

    pub(super) fn source(&self) -> Source {
        if self.state.source.as_deref() == Some("upstream") { Source::Upstream } else { Source::Local }
    }

    /// The ids of the images that this instance runs from.
    pub(super) async fn resolved(&self) -> Result<Resolved> {
        self.engine.resolve(&self.project, &self.topology, self.source()).await
    }
}
