//! The lab under test: started or attached to, asked, disturbed, removed; and the evidence of what failed in it.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, Result, bail};
use streamlab::engine::{
    Engine, Resolved, Source, Started, UpOptions, build_images, free_offset, recipe_images,
};
use streamlab::project::Project;
use streamlab::topology::{DEFAULT_INSTANCE, Endpoints, Instance, Service, Topology};
use tokio::runtime::Runtime;
use tokio::sync::watch;

use crate::alerts::Episodes;

/// The instance that the spec starts, beside a lab that is up.
pub(crate) const INSTANCE: &str = "test";
/// What a trial may know: the endpoints; and the engine, where there is one.
pub(crate) struct Lab {
    pub(crate) project: Project,
    pub(crate) endpoints: Endpoints,
    pub(crate) topology: Topology,
    /// What faults have shown of their alerts.
    pub(crate) episodes: Episodes,
    engine: Option<Engine>,
    resolved: Option<Resolved>,
}

impl Lab {
    pub(crate) fn bootstrap(&self) -> String {
        self.endpoints.bootstrap()
    }

    pub(crate) fn engine(&self) -> Result<&Engine> {
        self.engine.as_ref().context("not without the engine")
    }

    pub(crate) fn service(&self, name: &str) -> Result<&Service> {
        self.topology.service(name).with_context(|| format!("no service {name}"))
    }

    /// Runs a command inside a service; its output, if it ended with 0.
    pub(crate) async fn exec(&self, service: &str, command: &[&str]) -> Result<String> {
        let output = self.engine()?.exec(&self.service(service)?.container, command).await?;
        if output.code != 0 {
            bail!("{command:?} in {service} ended with {}:\n{}", output.code, output.text);
        }
        Ok(output.text)
    }

    pub(crate) async fn kill(&self, service: &str) -> Result<()> {
        self.engine()?.kill(&self.service(service)?.container).await
    }

    /// Starts a killed service again and waits until it is ready.
    pub(crate) async fn start_again(&self, service: &str) -> Result<()> {
        self.start_all_again(&[service]).await
    }

    /// Starts killed services again, one after the other, and waits until all are ready.
    pub(crate) async fn start_all_again(&self, services: &[&str]) -> Result<()> {
        let engine = self.engine()?;
        for service in services {
            engine.start_again(&self.service(service)?.container).await?;
        }
        for service in services {
            engine.until_ready(&self.topology, self.service(service)?).await?;
        }
        Ok(())
    }

    /// The addresses of services in the lab's network.
    pub(crate) async fn addresses(&self, services: &[&str]) -> Result<Vec<String>> {
        let mut found = Vec::new();
        for service in services {
            let container = &self.service(service)?.container;
            let options = None::<testcontainers::bollard::query_parameters::InspectContainerOptions>;
            let inspected = self.engine()?.client().inspect_container(container, options).await?;
            let networks = inspected.network_settings.and_then(|n| n.networks).unwrap_or_default();
            let address = networks.get(&self.topology.network).and_then(|n| n.ip_address.clone());
            found.push(address.with_context(|| format!("{service} has no address"))?);
        }
        Ok(found)
    }

    /// Stops the whole lab, data kept, and starts it again.
    pub(crate) async fn down_and_up(&self) -> Result<()> {
        let engine = self.engine()?;
        engine.remove_instance(self.topology.instance.name(), false).await?;
        let started =
            up(engine, &self.project, &self.topology, self.resolved.clone().context("attached")?).await?;
        started.give_away();
        Ok(())
    }
}

async fn up(engine: &Engine, project: &Project, topology: &Topology, resolved: Resolved) -> Result<Started> {
    let (events, mut seen) = tokio::sync::mpsc::unbounded_channel();
    let (_keep, never) = watch::channel(false);
    let options = UpOptions { source: "local".to_owned(), resolved };
    let printer = tokio::spawn(async move {
        while let Some(event) = seen.recv().await {
            if let streamlab::engine::StartEvent::Ready(name, took) = event {
                println!("  {name:<24} ready after {:.1} s", took.as_secs_f64());
            }
        }
    });
    let started = engine.up(project, topology, &options, events, never).await;
    printer.await?;
    started
}

/// What a failed trial leaves behind: every service's log and inspect output, and what was seen.
pub(crate) async fn evidence(lab: &Lab, folder: &Path, trial: &str, text: &str) -> PathBuf {
    let safe: String =
        trial.chars().map(|c| if c.is_ascii_alphanumeric() || c == '-' { c } else { '_' }).collect();
    let folder = folder.join("evidence").join(safe);
    let _ = std::fs::create_dir_all(&folder);
    let _ = std::fs::write(folder.join("failure.txt"), text);
    let _ = std::fs::write(folder.join("topology.txt"), format!("{:#?}", lab.topology));
    if let Some(engine) = &lab.engine {
        for service in &lab.topology.services {
            let lines = engine.last_lines(&service.container, 2000).await;
            let _ = std::fs::write(folder.join(format!("{}.log", service.name)), lines);
            let options = None::<testcontainers::bollard::query_parameters::InspectContainerOptions>;
            if let Ok(found) = engine.client().inspect_container(&service.container, options).await {
                let json = serde_json::to_string_pretty(&found).unwrap_or_default();
                let _ = std::fs::write(folder.join(format!("{}.json", service.name)), json);
            }
        }
    }
    folder
}

/// Starts a lab with what `stations` need (the whole lab where none).
pub(crate) async fn prepare(
    project: Project,
    stations: Option<Vec<String>>,
) -> Result<(Lab, Option<Started>)> {
    let engine = Engine::connect().await?;
    build_own_image(&engine, &project).await?;
    // What a killed run left.
    engine.remove_instance(INSTANCE, true).await?;
    let offset = free_offset(&project, None, INSTANCE)?;
    if offset > 0 {
        println!(
            "documented host ports are taken (a lab `{DEFAULT_INSTANCE}` is up?): this run moves its own by {offset}; \
             the documented numbers are proven from the definition"
        );
    }
    let whole = project.topology(None, Instance::new(INSTANCE, offset)?)?.buildable(&project.file);
    let topology = match stations {
        Some(stations) => whole.only(stations.iter().map(String::as_str)),
        None => whole,
    };
    let resolved = engine.resolve(&project, &topology, Source::Local).await?;
    println!("starting instance {INSTANCE}: {} services", topology.services.len());
    let started = up(&engine, &project, &topology, resolved.clone()).await?;
    let endpoints = Endpoints::of(&topology);
    Ok((
        Lab {
            project,
            endpoints,
            topology,
            episodes: Episodes::default(),
            engine: Some(engine),
            resolved: Some(resolved),
        },
        Some(started),
    ))
}

/// The lab of an instance, or of an endpoints file.
pub(crate) async fn attached(project: Project, attach: &str) -> Result<Lab> {
    if Path::new(attach).is_file() {
        let text = std::fs::read_to_string(attach)?;
        let endpoints: Endpoints =
            serde_json::from_str(&text).with_context(|| format!("{attach} is no endpoints file"))?;
        let whole = project.topology(Some(&endpoints.lab), Instance::documented())?;
        let all = whole.host_ports().all(|(_, service, _)| endpoints.services.contains_key(&service.name));
        let topology = if all { whole } else { whole.buildable(&project.file) };
        return Ok(Lab {
            project,
            endpoints,
            topology,
            episodes: Episodes::default(),
            engine: None,
            resolved: None,
        });
    }
    let engine = Engine::connect().await?;
    let state = engine.instance(attach).await?;
    if state.containers.is_empty() {
        bail!("LAB_ATTACH={attach}: no such file, and no instance of that name is up (./lab up)");
    }
    let whole = project.topology(state.lab.as_deref(), Instance::new(attach, state.offset)?)?;
    let upstream = state.source.as_deref() == Some("upstream");
    let topology = if upstream { whole } else { whole.buildable(&project.file) };
    let resolved = engine.resolve(&project, &topology, Source::Local).await.ok();
    Ok(Lab {
        project,
        endpoints: Endpoints::of(&topology),
        topology,
        episodes: Episodes::default(),
        engine: Some(engine),
        resolved,
    })
}

/// The program changes with every edit and its image takes a second; all others must have been built.
async fn build_own_image(engine: &Engine, project: &Project) -> Result<()> {
    let recipes = recipe_images(project, &engine.arch)?;
    let (own, others): (Vec<_>, Vec<_>) = recipes.into_iter().partition(|r| r.recipe.program);
    let standing: BTreeSet<&String> =
        own.iter().flat_map(|r| r.recipe.from.iter().map(toml::Spanned::get_ref)).collect();
    for recipe in &others {
        if standing.contains(&recipe.name) && engine.image_id(&recipe.reference).await?.is_none() {
            bail!("images are missing.\n  Build them: ./lab images build   (or run ./lab test, which does)");
        }
    }
    let wanted = own.into_iter().map(|r| r.name).collect();
    let (events, _seen) = tokio::sync::mpsc::unbounded_channel();
    build_images(engine, project, &wanted, events).await
}

/// Ctrl-C and SIGTERM remove the lab before the process ends; after SIGKILL the next run does.
pub(crate) fn remove_on_signal(runtime: &Runtime, lab: &Arc<Lab>) {
    let lab = Arc::clone(lab);
    runtime.spawn(async move {
        use tokio::signal::unix::{SignalKind, signal};
        let (Ok(mut interrupt), Ok(mut terminate)) =
            (signal(SignalKind::interrupt()), signal(SignalKind::terminate()))
        else {
            return;
        };
        tokio::select! { _ = interrupt.recv() => {}, _ = terminate.recv() => {} }
        eprintln!("interrupted: removing instance {INSTANCE}");
        if let Ok(engine) = lab.engine() {
            let _ = engine.remove_instance(INSTANCE, true).await;
        }
        std::process::exit(130);
    });
}
