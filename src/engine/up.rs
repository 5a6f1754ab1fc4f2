//! Bringing an instance up: everything at once, each service as soon as those it needs are ready; and undoing it.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail};
use testcontainers::ContainerAsync;
use testcontainers::bollard::models::{ContainerCreateBody, HostConfig, Mount, MountTypeEnum};
use testcontainers::bollard::query_parameters::{CreateContainerOptions, RemoveContainerOptionsBuilder};
use tokio::sync::{RwLock, mpsc::UnboundedSender, watch};

use super::start::{ServiceImage, addon_volume, mounts};
use super::{Engine, Resolved};
use crate::project::Project;
use crate::topology::{Service, Topology};

/// How an instance is brought up.
#[derive(Debug, Clone)]
pub struct UpOptions {
    /// Image source, for the label.
    pub source: String,
    /// Images and add-ons.
    pub resolved: Resolved,
}

/// What happens while an instance starts.
#[derive(Debug, Clone)]
pub enum StartEvent {
    /// Waits for services it needs.
    Waiting(String, Vec<String>),
    /// Its container was started.
    Starting(String),
    /// It answers its probe, so many seconds after the start of all.
    Ready(String, Duration),
}

/// A started instance. Dropping it removes its containers; [`Started::give_away`] leaves them.
#[derive(Debug)]
pub struct Started {
    handles: Vec<ContainerAsync<ServiceImage>>,
    /// Seconds to ready, by service.
    pub ready: Vec<(String, Duration)>,
    /// Volumes that this start made.
    pub made_volumes: Vec<String>,
}

/// Why a start failed; everything it made is gone by then.
#[derive(Debug, thiserror::Error)]
#[error("{why}{}", if last_lines.is_empty() { String::new() } else { format!("\n  its last lines:\n{last_lines}") })]
pub struct StartFailure {
    /// The service that failed, where it was one.
    pub service: Option<String>,
    /// What failed and what was seen.
    pub why: String,
    /// The last lines of its log.
    pub last_lines: String,
}

impl Started {
    /// Leaves the containers running when this process ends.
    pub fn give_away(self) -> Vec<(String, Duration)> {
        for handle in self.handles {
            // testcontainers removes a container when its handle is dropped, and has no other way to let one go.
            std::mem::forget(handle);
        }
        self.ready
    }
}

impl Engine {
    /// Starts every service of a topology and waits until all are ready. What fails or is cancelled (by `cancel`
    /// turning true) is undone before this returns; volumes that were there before stay.
    ///
    /// # Errors
    /// A port that is taken (and by whom), or the first service that fails, with its last lines.
    pub async fn up(
        &self,
        project: &Project,
        topology: &Topology,
        options: &UpOptions,
        events: UnboundedSender<StartEvent>,
        mut cancel: watch::Receiver<bool>,
    ) -> Result<Started> {
        self.ports_are_free(topology).await?;
        // Creation is never cut off half-way: an aborted call may still leave a container behind.
        let gate = Arc::new(RwLock::new(()));
        let made_volumes = self.create_volumes(topology).await?;
        let start = Instant::now();
        let result = {
            let work = self.start_all(project, topology, options, &events, start, Arc::clone(&gate));
            tokio::select! {
                result = work => result,
                _ = cancel.wait_for(|cancelled| *cancelled) => Err(anyhow!("interrupted")),
            }
        };
        match result {
            Ok((handles, ready)) => Ok(Started { handles, ready, made_volumes }),
            Err(error) => {
                let _closed = gate.write().await;
                let undone = self.remove_instance(topology.instance.name(), false).await;
                let volumes = self.remove_volumes(&made_volumes).await;
                match undone.and(volumes) {
                    Ok(_) => Err(error),
                    Err(left) => Err(error
                        .context(format!("and it could not be undone wholly ({left:#}): run ./lab down"))),
                }
            }
        }
    }

    async fn start_all(
        &self,
        project: &Project,
        topology: &Topology,
        options: &UpOptions,
        events: &UnboundedSender<StartEvent>,
        start: Instant,
        gate: Arc<RwLock<()>>,
    ) -> Result<(Vec<ContainerAsync<ServiceImage>>, Vec<(String, Duration)>)> {
        self.create_network(project, topology, &options.source).await?;
        self.fill_addons(project, topology, &options.resolved).await?;
        let ready: HashMap<&str, watch::Sender<bool>> =
            topology.services.iter().map(|s| (s.name.as_str(), watch::channel(false).0)).collect();
        let services = topology.services.iter().map(|service| {
            let (ready, gate) = (&ready, Arc::clone(&gate));
            async move {
                let missing: Vec<String> = service.needs.clone();
                if !missing.is_empty() {
                    let _ = events.send(StartEvent::Waiting(service.name.clone(), missing));
                }
                for need in &service.needs {
                    if let Some(sender) = ready.get(need.as_str()) {
                        sender.subscribe().wait_for(|is| *is).await?;
                    }
                }
                let handle = self.create(project, topology, service, options, gate).await?;
                let _ = events.send(StartEvent::Starting(service.name.clone()));
                if let Err(gave_up) = self.wait_ready(topology, service, None).await {
                    let last_lines = self.last_lines(&service.container, 15).await;
                    let why = gave_up.to_string();
                    bail!(StartFailure { service: Some(service.name.clone()), why, last_lines });
                }
                let took = start.elapsed();
                let _ = events.send(StartEvent::Ready(service.name.clone(), took));
                ready[service.name.as_str()].send_replace(true);
                Ok((handle, (service.name.clone(), took)))
            }
        });
        Ok(futures::future::try_join_all(services).await?.into_iter().unzip())
    }

    /// Creates and starts a container in a task of its own, which a cancelled start waits for.
    async fn create(
        &self,
        project: &Project,
        topology: &Topology,
        service: &Service,
        options: &UpOptions,
        gate: Arc<RwLock<()>>,
    ) -> Result<ContainerAsync<ServiceImage>> {
        let (engine, project, topology) = (self.clone(), project.clone(), topology.clone());
        let (service, resolved) = (service.clone(), options.resolved.clone());
        let pass = gate.read_owned().await;
        tokio::spawn(async move {
            let started = engine.start_service(&project, &topology, &service, &resolved).await;
            drop(pass);
            started
        })
        .await?
    }

    /// Starts one service of a running instance anew, in a new container, and waits until it is ready. With `fresh`
    /// its data goes first, and every service that shares that data is started anew as well. Gives their names.
    ///
    /// # Errors
    /// One cannot be started, or does not become ready.
    pub async fn replace(
        &self,
        project: &Project,
        topology: &Topology,
        service: &Service,
        resolved: &Resolved,
        fresh: bool,
    ) -> Result<Vec<String>> {
        let data: Vec<String> = service.volumes.iter().map(|v| v.name.clone()).collect();
        let shares = |other: &&Service| {
            other.name == service.name || (fresh && other.volumes.iter().any(|v| data.contains(&v.name)))
        };
        let affected: Vec<&Service> = topology.services.iter().filter(shares).collect();
        let state = self.instance(topology.instance.name()).await?;
        if state.networks.is_empty() {
            bail!(
                "the network of instance {} is gone: ./lab up starts it anew, its data stays",
                topology.instance
            );
        }
        // What cannot be mounted must be known before the old container is gone.
        for service in &affected {
            mounts(project, service, resolved)?;
        }
        for container in affected.iter().filter_map(|s| state.of(&s.name)) {
            self.remove_container(container).await?;
        }
        if fresh {
            self.remove_volumes(&data).await?;
        }
        self.create_volumes(topology).await?;
        self.fill_addons(project, topology, resolved).await?;
        // lab.toml's order is one in which each service comes after those it needs.
        for service in &affected {
            let handle = self.start_service(project, topology, service, resolved).await?;
            std::mem::forget(handle);
            self.until_ready(topology, service).await?;
        }
        Ok(affected.iter().map(|s| s.name.clone()).collect())
    }

    /// Waits until a running service answers its probe.
    ///
    /// # Errors
    /// It ends or does not answer, with its last lines.
    pub async fn until_ready(&self, topology: &Topology, service: &Service) -> Result<()> {
        if let Err(gave_up) = self.wait_ready(topology, service, None).await {
            let last_lines = self.last_lines(&service.container, 15).await;
            bail!(StartFailure { service: Some(service.name.clone()), why: gave_up.to_string(), last_lines });
        }
        Ok(())
    }

    /// Whether a service answers its probe now.
    pub async fn is_ready(&self, topology: &Topology, service: &Service) -> bool {
        self.wait_ready(topology, service, Some(Duration::from_secs(2))).await.is_ok()
    }

    /// An empty named volume is filled from the image of the first container that mounts it: that container is
    /// made from the add-on's image, and never started.
    async fn fill_addons(&self, project: &Project, topology: &Topology, resolved: &Resolved) -> Result<()> {
        for (name, reference) in &resolved.addons {
            let volume = addon_volume(name, reference);
            if self.docker.inspect_volume(&volume).await.is_ok() {
                continue;
            }
            let mount = Mount {
                typ: Some(MountTypeEnum::VOLUME),
                source: Some(volume.clone()),
                target: Some(format!("/addons/{name}")),
                ..Default::default()
            };
            let body = ContainerCreateBody {
                image: Some(reference.clone()),
                host_config: Some(HostConfig { mounts: Some(vec![mount]), ..Default::default() }),
                labels: Some(HashMap::from([(
                    super::INSTANCE_LABEL.to_owned(),
                    topology.instance.name().to_owned(),
                )])),
                ..Default::default()
            };
            let made = self.docker.create_container(None::<CreateContainerOptions>, body).await;
            let made = made.with_context(|| {
                format!("add-on {name} ({}) cannot be unpacked", project.file.addons[name].mount)
            })?;
            let options = RemoveContainerOptionsBuilder::new().force(true).build();
            self.docker.remove_container(&made.id, Some(options)).await?;
        }
        Ok(())
    }
}
