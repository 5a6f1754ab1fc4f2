//! The lab under test: started or attached to, asked, disturbed, removed; and the evidence of what failed in it.

use std::collections::BTreeSet;
use std::net::{Ipv4Addr, TcpListener};
use std::panic::AssertUnwindSafe;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use futures::FutureExt as _;
use rdkafka::ClientConfig;
use rdkafka::producer::FutureProducer;
use streamlab::clients::kafka;
use streamlab::engine::{
    Engine, Event, Prepared, Session, SourceChoice, StartEvent, build_images, free_offset, prepare,
    recipe_images,
};
use streamlab::probes::{Answer, eventually};
use streamlab::project::Project;
use streamlab::topology::{Endpoints, Instance, KAFKA, Plan, Service, Source};
use tokio::sync::mpsc::{UnboundedSender, unbounded_channel};
use tokio::sync::watch;
use tokio::task::JoinHandle;

use crate::trial::PATIENCE;

/// The instance that the spec starts, beside a lab that is up.
pub(crate) const INSTANCE: &str = "test";

/// What a trial may know: the endpoints; and the engine, where there is one.
pub(crate) struct Lab {
    pub(crate) project: Project,
    pub(crate) endpoints: Endpoints,
    pub(crate) plan: Plan,
    engine: Option<Engine>,
    prepared: Option<Prepared>,
}

impl Lab {
    pub(crate) fn bootstrap(&self) -> String {
        self.endpoints.bootstrap()
    }

    /// A producer that loses nothing and writes nothing twice.
    pub(crate) fn producer(&self) -> Result<FutureProducer> {
        let mut config = ClientConfig::new();
        config
            .set("bootstrap.servers", self.bootstrap())
            .set("acks", "all")
            .set("enable.idempotence", "true");
        Ok(config.create()?)
    }

    pub(crate) fn engine(&self) -> Result<&Engine> {
        self.engine.as_ref().context("not without the engine")
    }

    pub(crate) fn service(&self, name: &str) -> Result<&Service> {
        self.plan.service(name).with_context(|| format!("no service {name}"))
    }

    /// The services that play a role, or of a group.
    pub(crate) fn names_of(&self, role: &str) -> Vec<String> {
        self.plan.meant(role).into_iter().map(|s| s.name.clone()).collect()
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

    /// Kills services, does `work`, and starts them again whatever became of it, also where it panics; then waits until they are
    /// ready.
    pub(crate) async fn while_killed<T>(
        &self,
        services: &[&str],
        work: impl Future<Output = Result<T>>,
    ) -> Result<T> {
        let killed = async {
            for service in services {
                self.kill(service).await?;
            }
            work.await
        };
        let seen = AssertUnwindSafe(killed).catch_unwind().await;
        let again = self.start_again(services).await;
        match seen {
            Ok(seen) => {
                let seen = seen?;
                again?;
                Ok(seen)
            }
            Err(panic) => std::panic::resume_unwind(panic),
        }
    }

    /// Starts services that do not run, in this order, and waits until all are ready.
    pub(crate) async fn start_again(&self, services: &[&str]) -> Result<()> {
        let engine = self.engine()?;
        for service in services {
            engine.start_again(&self.service(service)?.container).await?;
        }
        for service in services {
            engine.until_ready(&self.plan, self.service(service)?).await?;
        }
        self.is_whole().await
    }

    /// Waits until every replica is in sync: a broker that answers may still be behind, and the next fault would meet a
    /// cluster that is not whole.
    pub(crate) async fn is_whole(&self) -> Result<()> {
        if !self.plan.roles.contains_key(KAFKA) {
            return Ok(());
        }
        let every = Duration::from_millis(500);
        eventually("every replica is in sync", PATIENCE, every, || async {
            let behind = kafka::out_of_sync(&self.bootstrap()).await?;
            Ok(if behind.is_empty() { Answer::Is(()) } else { Answer::NotYet(behind.join(", ")) })
        })
        .await?;
        Ok(())
    }

    /// The address of a service in the lab's network.
    pub(crate) async fn address(&self, service: &str) -> Result<String> {
        self.engine()?.address(&self.service(service)?.container, &self.plan.network).await
    }

    /// Stops the whole lab, data kept, and starts it again.
    pub(crate) async fn down_and_up(&self) -> Result<()> {
        let prepared = self.prepared.as_ref().context("an attached lab is not stopped")?;
        self.engine()?.remove_instance(self.plan.instance.name(), false).await?;
        up(self.engine()?, &self.project, prepared).await?;
        self.is_whole().await
    }

    /// Removes it, with its data.
    pub(crate) async fn remove(&self) -> Result<()> {
        let removed = self.engine()?.remove_instance(self.plan.instance.name(), true).await?;
        println!("removed {} containers and {} volumes", removed.containers, removed.volumes);
        Ok(())
    }
}

/// Prints what is worth a line; ends when the sender is dropped.
fn printer() -> (UnboundedSender<Event>, JoinHandle<()>) {
    let (events, mut seen) = unbounded_channel();
    let printer = tokio::spawn(async move {
        while let Some(event) = seen.recv().await {
            if let Event::Start(StartEvent::Ready(name, took)) = event {
                println!("  {name:<24} ready after {:.1} s", took.as_secs_f64());
            }
        }
    });
    (events, printer)
}

async fn up(engine: &Engine, project: &Project, prepared: &Prepared) -> Result<()> {
    let (events, printer) = printer();
    let (_keep, never) = watch::channel(false);
    let started = streamlab::engine::start(project, engine, prepared, &events, never).await;
    drop(events);
    printer.await?;
    // It is removed by its label: the trials outlive any handle's owner.
    drop(started?.give_away());
    Ok(())
}

/// What a failed trial leaves behind: every service's whole log and what the engine says of it, the plan, and what was seen.
pub(crate) async fn evidence(lab: &Lab, folder: &Path, trial: &str, text: &str) -> PathBuf {
    let safe: String =
        trial.chars().map(|c| if c.is_ascii_alphanumeric() || c == '-' { c } else { '_' }).collect();
    let folder = folder.join("evidence").join(safe);
    let _ = std::fs::create_dir_all(&folder);
    let _ = std::fs::write(folder.join("failure.txt"), text);
    let _ = std::fs::write(folder.join("plan.txt"), format!("{:#?}", lab.plan));
    if let Some(engine) = &lab.engine {
        for service in &lab.plan.services {
            let log = engine.whole_log(&service.container).await.unwrap_or_else(|e| format!("{e:#}\n"));
            let _ = std::fs::write(folder.join(format!("{}.log", service.name)), log);
            if let Ok(found) = engine.inspect(&service.container).await {
                let json = serde_json::to_string_pretty(&found).unwrap_or_default();
                let _ = std::fs::write(folder.join(format!("{}.json", service.name)), json);
            }
        }
    }
    folder
}

/// Where an instance of a lab has room: on the documented ports, or with all of them moved.
pub(crate) fn vacant(project: &Project, lab: &str, instance: &str) -> Result<Instance> {
    Ok(Instance::new(instance, free_offset(project, Some(lab), instance)?)?)
}

/// Holds the host ports of a place, so that the next one is another.
pub(crate) fn hold(project: &Project, lab: &str, place: &Instance) -> Result<Vec<TcpListener>> {
    let plan = project.plan(Some(lab), place.clone())?;
    let ports = plan.host_ports().map(|(port, ..)| TcpListener::bind((Ipv4Addr::LOCALHOST, port)));
    ports.collect::<Result<_, _>>().context("a port that was free just now")
}

/// Starts a lab with what `stations` need (the whole lab where none).
pub(crate) async fn start(
    project: Project,
    lab: &str,
    instance: Instance,
    stations: Option<Vec<String>>,
) -> Result<Lab> {
    let engine = Engine::connect().await?;
    build_own_image(&engine, &project).await?;
    if instance.offset() > 0 {
        println!(
            "documented host ports are taken: instance {instance} of lab {lab} moves its own by {}",
            instance.offset()
        );
    }
    let whole = project.plan(Some(lab), instance.clone())?;
    let whole = Source::Local.part_of(&project.file, &whole)?;
    let wanted = match stations {
        Some(stations) => whole.only(&project.file, stations.iter().map(String::as_str))?,
        None => whole,
    };
    let (events, printer) = printer();
    let prepared = prepare(&project, &engine, &wanted, SourceChoice::Local, &events).await;
    drop(events);
    printer.await?;
    let prepared = prepared?;
    println!("starting lab {lab} as instance {instance}: {} services", prepared.plan.services.len());
    up(&engine, &project, &prepared).await?;
    let (plan, endpoints) = (prepared.plan.clone(), Endpoints::of(&prepared.plan));
    Ok(Lab { project, endpoints, plan, engine: Some(engine), prepared: Some(prepared) })
}

/// The lab of an instance, or of an endpoints file.
pub(crate) async fn attached(project: Project, attach: &str) -> Result<Lab> {
    if Path::new(attach).is_file() {
        let text = std::fs::read_to_string(attach)?;
        let endpoints: Endpoints =
            serde_json::from_str(&text).with_context(|| format!("{attach} is no endpoints file"))?;
        let whole = project.plan(Some(&endpoints.lab), Instance::documented())?;
        let all = whole.host_ports().all(|(_, service, _)| endpoints.services.contains_key(&service.name));
        let plan = if all { whole } else { whole.buildable(&project.file)? };
        return Ok(Lab { project, endpoints, plan, engine: None, prepared: None });
    }
    let session = Session::attach(project, attach)
        .await
        .with_context(|| format!("LAB_ATTACH={attach} is neither a file nor an instance that is up"))?;
    let endpoints = session.endpoints();
    let Session { project, engine, plan, .. } = session;
    Ok(Lab { project, endpoints, plan, engine: Some(engine), prepared: None })
}

/// The program changes with every edit and its image takes a second; all others must have been built.
async fn build_own_image(engine: &Engine, project: &Project) -> Result<()> {
    let recipes = recipe_images(project, &engine.arch)?;
    let (own, others): (Vec<_>, Vec<_>) = recipes.into_iter().partition(|r| r.has_program);
    let standing: BTreeSet<&String> =
        own.iter().flat_map(|r| r.recipe.from.iter().map(toml::Spanned::get_ref)).collect();
    for recipe in others.iter() {
        if standing.contains(&recipe.name) && engine.image_id(&recipe.reference).await?.is_none() {
            bail!("images are missing.\n  Build them: ./lab images build   (or run ./lab test, which does)");
        }
    }
    let wanted = own.into_iter().map(|r| r.name).collect();
    build_images(engine, project, &wanted, |_| ()).await
}

/// Removes every instance that the spec starts.
pub(crate) async fn remove_all(project: &Project) -> Result<()> {
    let engine = Engine::connect().await?;
    let beside = project.file.labs_in_order().into_iter().map(|lab| format!("{INSTANCE}-{lab}"));
    for instance in beside.chain([INSTANCE.to_owned()]) {
        let removed = engine.remove_instance(&instance, true).await;
        removed.with_context(|| {
            format!("{instance} could not be removed\n  ./lab down --volumes --instance {instance}")
        })?;
    }
    Ok(())
}

/// Ctrl-C and SIGTERM remove the labs before the process ends; after SIGKILL the next run does.
pub(crate) fn remove_on_signal(project: &Project) {
    let project = project.clone();
    tokio::spawn(async move {
        use tokio::signal::unix::{SignalKind, signal};
        let (Ok(mut interrupt), Ok(mut terminate)) =
            (signal(SignalKind::interrupt()), signal(SignalKind::terminate()))
        else {
            return;
        };
        tokio::select! { _ = interrupt.recv() => {}, _ = terminate.recv() => {} }
        eprintln!("interrupted: removing what was started");
        if let Err(error) = remove_all(&project).await {
            eprintln!("{error:#}");
        }
        std::process::exit(130);
    });
}
