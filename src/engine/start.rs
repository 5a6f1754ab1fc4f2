//! Starting an instance: everything at once, each service as soon as those it waits for are ready; and undoing it. One service
//! of a running instance is started anew here too.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use testcontainers::ContainerAsync;
use tokio::sync::{RwLock, mpsc::UnboundedSender, watch};

use super::ports::wanted_ports;
use super::request::{ServiceImage, files_are_open, mounts};
use super::session::{Event, Prepared};
use super::{Engine, EngineError, Resolved};
use crate::project::Project;
use crate::signals::Interrupted;
use crate::topology::{Plan, Service, Source};

/// What happens while an instance starts.
#[derive(Debug, Clone)]
pub enum StartEvent {
    /// Waits for services.
    Waiting(String, Vec<String>),
    /// Its container was started.
    Starting(String),
    /// It is ready, so many seconds after the lab's start began.
    Ready(String, Duration),
}

/// Seconds to ready, by service.
pub type ReadyTimes = Vec<(String, Duration)>;

/// A started instance. Dropping it removes its containers; [`Started::give_away`] leaves them.
#[derive(Debug)]
pub struct Started {
    handles: Vec<Option<ContainerAsync<ServiceImage>>>,
    ready: ReadyTimes,
}

impl Started {
    /// Leaves the containers running when this process ends.
    pub fn give_away(self) -> ReadyTimes {
        for handle in self.handles {
            // testcontainers removes a container when its handle is dropped, and has no other way to let one go.
            std::mem::forget(handle);
        }
        self.ready
    }
}

impl Engine {
    /// Starts every service of a plan and waits until all are ready. What fails or is cancelled (by `cancel`
    /// turning true) is undone before this returns; volumes that were there before stay.
    ///
    /// # Errors
    /// A port that is taken (and by whom), or the first service that fails, with its last lines.
    pub(super) async fn start_instance(
        &self,
        project: &Project,
        prepared: &Prepared,
        events: &UnboundedSender<Event>,
        mut cancel: watch::Receiver<bool>,
    ) -> Result<Started> {
        let plan = &prepared.plan;
        self.instance(plan.instance.name()).await?.data_fits(&plan.instance, prepared.source)?;
        // Creation is never cut off half-way: an aborted call may still leave a container behind.
        let gate = Arc::new(RwLock::new(()));
        let made_volumes = self.create_volumes(plan, prepared.source).await?;
        let result = {
            let work = self.start_all(project, prepared, events, Arc::clone(&gate));
            tokio::select! {
                result = work => result,
                _ = cancel.wait_for(|cancelled| *cancelled) => {
                    Err(Interrupted("the start was undone; nothing of it is left".to_owned()).into())
                }
                () = self.until_gone() => Err(anyhow::anyhow!("the engine has stopped answering")),
            }
        };
        match result {
            Ok((handles, ready)) => Ok(Started { handles, ready }),
            Err(error) => {
                let _closed = gate.write().await;
                if !self.answers().await {
                    return Err(EngineError::WentAway { option: plan.instance.option() }.into());
                }
                let undone = self.remove_instance(plan.instance.name(), false).await;
                let volumes = self.remove_volumes(&made_volumes).await;
                match undone.and(volumes) {
                    Ok(_) => Err(error),
                    Err(left) => {
                        bail!(
                            "{error:#}\n  It could not be undone wholly ({left:#}): run ./lab down{}",
                            plan.instance.option()
                        )
                    }
                }
            }
        }
    }

    async fn start_all(
        &self,
        project: &Project,
        prepared: &Prepared,
        events: &UnboundedSender<Event>,
        gate: Arc<RwLock<()>>,
    ) -> Result<(Vec<Option<ContainerAsync<ServiceImage>>>, ReadyTimes)> {
        let start = Instant::now();
        let plan = &prepared.plan;
        let waits = |text| {
            let _ = events.send(Event::Note(text));
        };
        let _until_published = self.hold_ports(&wanted_ports(plan), waits).await?;
        self.create_network(project, plan, prepared.source).await?;
        self.fill_addons(plan, &prepared.resolved).await?;
        let say = |event| {
            let _ = events.send(Event::Start(event));
        };
        let ready: HashMap<&str, watch::Sender<bool>> =
            plan.services.iter().map(|s| (s.name.as_str(), watch::channel(false).0)).collect();
        let services = plan.services.iter().map(|service| {
            let (ready, gate) = (&ready, Arc::clone(&gate));
            async move {
                let waits: Vec<String> = service.waits_for.iter().map(|w| w.service.clone()).collect();
                if !waits.is_empty() {
                    say(StartEvent::Waiting(service.name.clone(), waits.clone()));
                }
                for other in &waits {
                    if let Some(sender) = ready.get(other.as_str()) {
                        sender.subscribe().wait_for(|is| *is).await?;
                    }
                }
                let handle = self.create(project, prepared, service, gate).await?;
                say(StartEvent::Starting(service.name.clone()));
                self.until_ready(plan, service).await?;
                let took = start.elapsed();
                say(StartEvent::Ready(service.name.clone(), took));
                ready[service.name.as_str()].send_replace(true);
                Ok::<_, anyhow::Error>((handle, (service.name.clone(), took)))
            }
        });
        Ok(futures::future::try_join_all(services).await?.into_iter().unzip())
    }

    /// Creates and starts a container in a task of its own, which a cancelled start waits for.
    async fn create(
        &self,
        project: &Project,
        prepared: &Prepared,
        service: &Service,
        gate: Arc<RwLock<()>>,
    ) -> Result<Option<ContainerAsync<ServiceImage>>> {
        let (engine, root, plan) = (self.clone(), project.root.clone(), prepared.plan.clone());
        let (service, resolved) = (service.clone(), prepared.resolved.clone());
        let pass = gate.read_owned().await;
        tokio::spawn(async move {
            let started = engine.start_service(&root, &plan, &service, &resolved).await;
            drop(pass);
            started
        })
        .await?
    }

    /// Starts one service of a running instance anew, in a new container, and waits until it is ready; what writes files for it runs
    /// again first. With `fresh` its data goes first, every service that shares that data is started anew as well, and what was set up in it is
    /// set up again. Gives their names.
    ///
    /// # Errors
    /// One cannot be started, or does not become ready.
    pub async fn replace(
        &self,
        project: &Project,
        plan: &Plan,
        service: &Service,
        resolved: &Resolved,
        fresh: bool,
    ) -> Result<Vec<String>> {
        // What it only reads is not its own.
        let own = service.volumes.iter().filter(|v| !v.read_only);
        let data: Vec<String> = own.map(|v| v.name.clone()).collect();
        let shares = |other: &&Service| {
            other.name == service.name || (fresh && other.volumes.iter().any(|v| data.contains(&v.name)))
        };
        let affected: Vec<&Service> = plan.services.iter().filter(shares).collect();
        let state = self.instance(plan.instance.name()).await?;
        let source = state.source.unwrap_or(Source::Local);
        if state.networks.is_empty() {
            bail!(
                "the network of instance {} is gone: ./lab up{} starts it anew, its data stays",
                plan.instance,
                plan.instance.option()
            );
        }
        // What cannot be mounted, or read, must be known before the old container is gone.
        files_are_open(&project.root, plan)?;
        for service in &affected {
            mounts(&project.root, service, resolved)?;
        }
        // What writes its files does so again, while the old container still runs: a file that is refused changes nothing.
        if !fresh {
            for writer in plan.file_writers_for(service) {
                self.run_again(&project.root, plan, writer, resolved).await?;
            }
        }
        for container in affected.iter().filter_map(|s| state.of(&s.name)) {
            self.remove_container(container).await?;
        }
        let mut wanted = wanted_ports(plan);
        wanted.retain(|(_, name)| affected.iter().any(|a| a.name == *name));
        let _until_published = self.hold_ports(&wanted, |_| ()).await?;
        if fresh {
            self.remove_volumes(&data).await?;
        }
        self.create_volumes(plan, source).await?;
        self.fill_addons(plan, resolved).await?;
        // lab.toml's order is one in which each service comes after those it waits for.
        for service in &affected {
            std::mem::forget(self.start_service(&project.root, plan, service, resolved).await?);
            self.until_ready(plan, service).await?;
        }
        if fresh {
            let again = |s: &&Service| !affected.iter().any(|a| a.name == s.name);
            for set_up in affected.iter().flat_map(|s| plan.set_up_after(s)).filter(again) {
                self.run_again(&project.root, plan, set_up, resolved).await?;
            }
        }
        Ok(affected.iter().map(|s| s.name.clone()).collect())
    }

    /// Waits until a running service is ready.
    ///
    /// # Errors
    /// It ends or does not answer, with its last lines.
    pub async fn until_ready(&self, plan: &Plan, service: &Service) -> Result<()> {
        let Err(gave_up) = self.wait_ready(plan, service, None).await else { return Ok(()) };
        let last_lines = self.last_lines(&service.container, 15).await;
        let shown =
            if last_lines.is_empty() { String::new() } else { format!("\n  its last lines:\n{last_lines}") };
        bail!("{gave_up}{shown}")
    }

    /// Whether a service is ready now.
    pub async fn is_ready(&self, plan: &Plan, service: &Service) -> bool {
        self.wait_ready(plan, service, Some(Duration::from_secs(2))).await.is_ok()
    }
}
