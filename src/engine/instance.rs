//! What is there of an instance, found by its label alone, and its removal.

use std::collections::{BTreeSet, HashMap};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use testcontainers::bollard::errors::Error as BollardError;
use testcontainers::bollard::models::{ContainerSummary, NetworkCreateRequest, VolumeCreateRequest};
use testcontainers::bollard::query_parameters::{
    InspectNetworkOptions, ListContainersOptions, ListContainersOptionsBuilder, ListNetworksOptionsBuilder,
    ListVolumesOptionsBuilder, RemoveContainerOptionsBuilder, RemoveVolumeOptions,
};

use super::docker::past_podmans_states;
use super::{
    DEFINITION_LABEL, Engine, FAULT_LABEL, GRACE_LABEL, INSTANCE_LABEL, LAB_LABEL, OFFSET_LABEL,
    SERVICE_LABEL, SOURCE_LABEL, STOPS_LAST_LABEL,
};
use crate::probes::{Answer, eventually};
use crate::project::Project;
use crate::topology::{Instance, Plan, Ready, Service, Source};

/// How long a removed container may take to leave its network.
const LEAVES_WITHIN: Duration = Duration::from_secs(30);
const LEAVES_EVERY: Duration = Duration::from_millis(100);

/// What is there of an instance.
#[derive(Debug, Clone, Default)]
pub struct InstanceState {
    /// Containers, by service name.
    pub containers: Vec<ContainerState>,
    /// Ids of its networks: one, or more where somebody made another of that name.
    pub networks: Vec<String>,
    /// Lab that the network was made for.
    pub lab: Option<String>,
    /// Port offset that the network was made with.
    pub offset: u16,
    /// The definition that it was started from.
    pub definition: Option<String>,
    /// Image source that the network was made with.
    pub source: Option<Source>,
    /// Volumes.
    pub volumes: Vec<String>,
    /// The images whose services wrote them; none where nobody has noted it.
    pub data_of: Option<Source>,
    /// Faults that are in force, by name.
    pub faults: Vec<String>,
}

/// One container of an instance.
#[derive(Debug, Clone, serde::Serialize)]
pub struct ContainerState {
    /// Service name.
    pub service: String,
    /// Container name.
    pub container: String,
    /// `running`, `exited`, `created`, …
    pub state: String,
    /// In words, with the exit code where it ended.
    pub status: String,
    /// Published ports: host port → port inside.
    pub ports: Vec<(u16, u16)>,
    /// Published on an address other than 127.0.0.1.
    pub exposed: bool,
    /// It is stopped after the others.
    #[serde(skip)]
    pub stops_last: bool,
    /// Seconds between SIGTERM and SIGKILL.
    #[serde(skip)]
    pub grace: i32,
    /// Named volumes: name, path inside.
    #[serde(skip)]
    pub volumes: Vec<(String, String)>,
}

/// What a removal took away.
#[derive(Debug, Clone, Copy, Default)]
pub struct Removed {
    /// Containers.
    pub containers: usize,
    /// Networks.
    pub networks: usize,
    /// Volumes.
    pub volumes: usize,
    /// Volumes that stay.
    pub kept_volumes: usize,
}

impl ContainerState {
    /// It runs.
    pub fn running(&self) -> bool {
        self.state == "running"
    }

    /// It ended with exit code 0.
    pub fn completed(&self) -> bool {
        self.state == "exited" && self.status.contains("(0)")
    }
}

impl InstanceState {
    /// Nothing but volumes is there.
    pub fn is_down(&self) -> bool {
        self.containers.is_empty() && self.networks.is_empty()
    }

    /// A container by service name.
    pub fn of(&self, service: &str) -> Option<&ContainerState> {
        self.containers.iter().find(|c| c.service == service)
    }

    /// Refuses to start on data that the other source's images have written: versions differ, and an older one may not read what a
    /// newer one wrote.
    ///
    /// # Errors
    /// Whose data it is, and the way out.
    pub fn data_fits(&self, instance: &Instance, source: Source) -> Result<()> {
        let Some(other) = self.data_of.filter(|s| *s != source) else { return Ok(()) };
        let (other, wanted, option) = (other.name(), source.name(), instance.option());
        bail!(
            "the data of instance {instance} was written by {other} images; {wanted} images may not be able to read it.\n  Go on with it: ./lab up --images {other}{option}\n  Or delete it: ./lab down --volumes{option}"
        )
    }

    /// Services of `plan` that are not there or have ended. One that ends well has ended all the same, as when its engine is stopped,
    /// unless that is what it is for.
    pub fn dead<'t>(&self, plan: &'t Plan) -> Vec<(&'t str, String)> {
        let state = |service: &Service| match self.of(&service.name) {
            None => Some("not there".to_owned()),
            Some(c) if c.running() => None,
            Some(c) if c.completed() && service.ready == Ready::Completed => None,
            Some(c) => Some(c.status.to_lowercase()),
        };
        plan.services.iter().filter_map(|s| Some((s.name.as_str(), state(s)?))).collect()
    }
}

fn by_label(label: &str) -> HashMap<&'static str, Vec<String>> {
    HashMap::from([("label", vec![label.to_owned()])])
}

impl Engine {
    /// What is there of an instance.
    ///
    /// # Errors
    /// The engine does not answer.
    pub async fn instance(&self, name: &str) -> Result<InstanceState> {
        let mut state = InstanceState::default();
        let label = by_label(&format!("{INSTANCE_LABEL}={name}"));
        let options = ListContainersOptionsBuilder::new().all(true).filters(&label).build();
        for found in self.containers(options).await? {
            let labels = found.labels.unwrap_or_default();
            let first = found.names.unwrap_or_default().into_iter().next().unwrap_or_default();
            let mut ports: Vec<(u16, u16)> = Vec::new();
            let mut exposed = false;
            for port in found.ports.unwrap_or_default() {
                if let Some(host) = port.public_port {
                    exposed |= port.ip.as_deref() != Some("127.0.0.1");
                    ports.push((host, port.private_port));
                }
            }
            ports.sort_unstable();
            state.faults.extend(labels.get(FAULT_LABEL).cloned());
            state.containers.push(ContainerState {
                service: labels.get(SERVICE_LABEL).cloned().unwrap_or_default(),
                container: first.trim_start_matches('/').to_owned(),
                state: found.state.map(|s| s.to_string()).unwrap_or_default(),
                status: found.status.unwrap_or_default(),
                ports,
                exposed,
                stops_last: labels.contains_key(STOPS_LAST_LABEL),
                grace: labels.get(GRACE_LABEL).and_then(|g| g.parse().ok()).unwrap_or_default(),
                volumes: found
                    .mounts
                    .unwrap_or_default()
                    .into_iter()
                    .filter_map(|m| Some((m.name?, m.destination?)))
                    .collect(),
            });
        }
        state.containers.sort_by(|a, b| a.service.cmp(&b.service));
        let options = ListNetworksOptionsBuilder::new().filters(&label).build();
        for network in self.docker.list_networks(Some(options)).await? {
            let labels = network.labels.unwrap_or_default();
            state.networks.extend(network.id);
            state.definition = labels.get(DEFINITION_LABEL).cloned();
            state.lab = labels.get(LAB_LABEL).cloned();
            state.offset = labels.get(OFFSET_LABEL).and_then(|o| o.parse().ok()).unwrap_or_default();
            state.source = labels.get(SOURCE_LABEL).and_then(|name| Source::named(name));
        }
        let options = ListVolumesOptionsBuilder::new().filters(&label).build();
        let volumes = self.docker.list_volumes(Some(options)).await?.volumes.unwrap_or_default();
        state.data_of = volumes.iter().find_map(|v| Source::named(v.labels.get(SOURCE_LABEL)?));
        state.volumes = volumes.into_iter().map(|v| v.name).collect();
        state.volumes.sort();
        Ok(state)
    }

    async fn containers(
        &self,
        options: ListContainersOptions,
    ) -> Result<Vec<ContainerSummary>, BollardError> {
        past_podmans_states(|| self.docker.list_containers(Some(options.clone()))).await
    }

    /// Names of the running containers on a network, whoever started them.
    ///
    /// # Errors
    /// The engine does not answer.
    pub async fn containers_on(&self, network: &str) -> Result<Vec<String>> {
        let filters = HashMap::from([("network", vec![network.to_owned()])]);
        let options = ListContainersOptionsBuilder::new().filters(&filters).build();
        let found = self.containers(options).await?;
        let names = found.into_iter().filter_map(|c| c.names?.into_iter().next());
        Ok(names.map(|n| n.trim_start_matches('/').to_owned()).collect())
    }

    /// Names of all instances that have a network, and their port offsets.
    ///
    /// # Errors
    /// The engine does not answer.
    pub async fn instances(&self) -> Result<Vec<(String, u16)>> {
        let options = ListNetworksOptionsBuilder::new().filters(&by_label(INSTANCE_LABEL)).build();
        let networks = self.docker.list_networks(Some(options)).await?;
        let labels = networks.into_iter().filter_map(|n| n.labels);
        let of = |l: HashMap<String, String>| {
            let offset = l.get(OFFSET_LABEL).and_then(|o| o.parse().ok()).unwrap_or_default();
            Some((l.get(INSTANCE_LABEL)?.clone(), offset))
        };
        let mut found: Vec<_> = labels.filter_map(of).collect();
        found.sort();
        Ok(found)
    }

    /// Makes the network of an instance; its labels say what it was made for.
    ///
    /// # Errors
    /// A network of that name is there that is not the lab's: names decide where a container goes.
    pub(super) async fn create_network(&self, project: &Project, plan: &Plan, source: Source) -> Result<()> {
        let name = &plan.network;
        let named = HashMap::from([("name", vec![name.clone()])]);
        let options = ListNetworksOptionsBuilder::new().filters(&named).build();
        if self.docker.list_networks(Some(options)).await?.iter().any(|n| n.name.as_ref() == Some(name)) {
            bail!(
                "a network named {name} is there that is not this instance's.\n  Remove it (docker network rm {name}), or start as another --instance."
            );
        }
        let labels = HashMap::from([
            (INSTANCE_LABEL.to_owned(), plan.instance.name().to_owned()),
            (LAB_LABEL.to_owned(), plan.lab.clone()),
            (OFFSET_LABEL.to_owned(), plan.instance.offset().to_string()),
            (SOURCE_LABEL.to_owned(), source.name().to_owned()),
            (DEFINITION_LABEL.to_owned(), project.path.display().to_string()),
        ]);
        let request =
            NetworkCreateRequest { name: plan.network.clone(), labels: Some(labels), ..Default::default() };
        self.docker
            .create_network(request)
            .await
            .with_context(|| format!("network {} cannot be made", plan.network))?;
        Ok(())
    }

    /// Makes the volumes of a plan that are not there; gives the names of those it made.
    pub(super) async fn create_volumes(&self, plan: &Plan, source: Source) -> Result<Vec<String>> {
        let there = self.instance(plan.instance.name()).await?.volumes;
        let wanted = plan.services.iter().flat_map(|s| &s.volumes).map(|v| v.name.clone());
        let missing: BTreeSet<String> = wanted.filter(|name| !there.contains(name)).collect();
        // All are looked at before the first is made: what fails here leaves nothing.
        for name in &missing {
            if self.docker.inspect_volume(name).await.is_ok() {
                bail!(
                    "a volume named {name} is there that is not this instance's.\n  Remove it (docker volume rm {name}), or start as another --instance."
                );
            }
        }
        let mut made = Vec::new();
        for name in missing {
            let labels = HashMap::from([
                (INSTANCE_LABEL.to_owned(), plan.instance.name().to_owned()),
                (SOURCE_LABEL.to_owned(), source.name().to_owned()),
            ]);
            let request =
                VolumeCreateRequest { name: Some(name.clone()), labels: Some(labels), ..Default::default() };
            self.docker
                .create_volume(request)
                .await
                .with_context(|| format!("volume {name} cannot be made"))?;
            made.push(name);
        }
        Ok(made)
    }

    /// Removes the containers and the network of an instance, and its volumes where `volumes`.
    ///
    /// # Errors
    /// The engine refuses, or does not answer.
    pub async fn remove_instance(&self, name: &str, volumes: bool) -> Result<Removed> {
        let state = self.instance(name).await?;
        let mut removed = Removed { kept_volumes: state.volumes.len(), ..Removed::default() };
        for last in [false, true] {
            let containers = state.containers.iter().filter(|c| c.stops_last == last);
            let gone = futures::future::try_join_all(containers.map(|c| self.remove_container(c))).await?;
            removed.containers += gone.len();
        }
        for network in &state.networks {
            self.remove_network(network).await?;
            removed.networks += 1;
        }
        if volumes {
            removed.volumes = self.remove_volumes(&state.volumes).await?;
            removed.kept_volumes -= removed.volumes;
        }
        Ok(removed)
    }

    /// Removes a network once nothing is on it any more. It is not tried before: an engine that is asked while a container leaves
    /// may count that container for ever (seen with Docker 20.10).
    pub(super) async fn remove_network(&self, network: &str) -> Result<()> {
        let question = format!("removal of network {network}");
        eventually(&question, LEAVES_WITHIN, LEAVES_EVERY, || async {
            let on_it = match self.docker.inspect_network(network, None::<InspectNetworkOptions>).await {
                Ok(found) => found.containers.unwrap_or_default().len(),
                Err(error) => return Ok(gone(Err(error))),
            };
            if on_it > 0 {
                return Ok(Answer::NotYet(format!("{on_it} containers are on it")));
            }
            Ok(gone(self.docker.remove_network(network).await))
        })
        .await
        .context(
            "the engine still counts somebody on it who is gone: ./lab engine stop && ./lab engine start",
        )
    }

    /// Stops and removes one container, and the nameless volumes that its image declares.
    pub(super) async fn remove_container(&self, container: &ContainerState) -> Result<()> {
        if container.running() {
            // One that ended in between is as good as stopped.
            let _ = self.stop(&container.container, container.grace).await;
        }
        let question = format!("removal of {}", container.container);
        eventually(&question, LEAVES_WITHIN, LEAVES_EVERY, || async {
            let options = RemoveContainerOptionsBuilder::new().force(true).v(true).build();
            Ok(gone(self.docker.remove_container(&container.container, Some(options)).await))
        })
        .await
        .with_context(|| format!("{} cannot be removed", container.container))
    }

    /// Removes volumes by name, each once nobody has it any more.
    pub(super) async fn remove_volumes(&self, names: &[String]) -> Result<usize> {
        for name in names {
            eventually(&format!("removal of volume {name}"), LEAVES_WITHIN, LEAVES_EVERY, || async {
                Ok(gone(self.docker.remove_volume(name, None::<RemoveVolumeOptions>).await))
            })
            .await
            .with_context(|| format!("volume {name} cannot be removed"))?;
        }
        Ok(names.len())
    }

    /// Bytes in the volumes of an instance, as its running containers see them.
    pub async fn volume_bytes(&self, state: &InstanceState) -> u64 {
        let mut asked = BTreeSet::new();
        let mut questions = Vec::new();
        for container in state.containers.iter().filter(|c| c.running()) {
            for (volume, path) in &container.volumes {
                if state.volumes.contains(volume) && asked.insert(volume) {
                    questions.push(async move {
                        let output = self.exec(&container.container, &["du", "-sk", path]).await.ok()?;
                        output.text.split_whitespace().next()?.parse::<u64>().ok()
                    });
                }
            }
        }
        futures::future::join_all(questions).await.into_iter().flatten().sum::<u64>() * 1024
    }
}

/// Whether a thing that is removed is gone. 403 and 409: somebody still has it, or removes it already; 500 with "busy": its files are
/// still mounted somewhere, for a container that ends.
fn gone(result: Result<(), BollardError>) -> Answer<()> {
    match result {
        Ok(()) | Err(BollardError::DockerResponseServerError { status_code: 404, .. }) => Answer::Is(()),
        Err(BollardError::DockerResponseServerError { status_code: 403 | 409, message }) => {
            Answer::NotYet(message)
        }
        Err(BollardError::DockerResponseServerError { status_code: 500, message })
            if message.contains("busy") =>
        {
            Answer::NotYet(message)
        }
        Err(error) => Answer::Never(error.into()),
    }
}
