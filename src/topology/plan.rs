//! The plan of a lab: every container as every body gets it, and what can be asked of it. It is worked out in [`super::resolve`];
//! the engine, compose and Nix only write it down.

use std::collections::{BTreeMap, BTreeSet};

use serde::Serialize;

use super::file::{LabFile, Protocol, Ready};
use super::resolve::Mistake;
use super::roster::Roster;
use super::targets::{Probe, Target};
use super::tokens::{Lists, Scope};
use super::{Instance, TopologyError};

/// The engine's socket, on the machine that it runs on and inside services that have it.
pub const ENGINE_SOCKET: &str = "/var/run/docker.sock";

/// A lab as one instance runs it.
#[derive(Debug, Clone, Serialize)]
pub struct Plan {
    /// Name of the lab.
    pub lab: String,
    /// The instance.
    #[serde(skip)]
    pub instance: Instance,
    /// Network name on the engine.
    pub network: String,
    /// Services in the order of `lab.toml`.
    pub services: Vec<Service>,
    /// Role → how clients reach those that play it.
    pub roles: BTreeMap<String, Vec<Player>>,
    /// The topics that the set-up makes.
    pub topics: Vec<TopicPlan>,
    /// The lab's scenarios.
    pub scenarios: Vec<String>,
}

/// One container.
#[derive(Debug, Clone, Serialize)]
pub struct Service {
    /// Documented name.
    pub name: String,
    /// The table of `lab.toml` it comes from.
    pub group: String,
    /// Container and DNS name in this instance.
    pub container: String,
    /// One line for people.
    pub about: String,
    /// Table in `images`.
    pub image: String,
    /// Arguments.
    pub command: Vec<String>,
    /// Working directory where it is not the image's own.
    pub working_dir: Option<String>,
    /// Environment.
    pub environment: BTreeMap<String, String>,
    /// Ports.
    pub ports: Vec<Port>,
    /// Named volumes.
    pub volumes: Vec<Volume>,
    /// Folders of jars, mounted read-only.
    pub addons: Vec<AddonMount>,
    /// Read-only mounts from the project, files of add-ons among them.
    pub files: Vec<FileMount>,
    /// Limit in bytes.
    pub memory: u64,
    /// Services that are ready before it starts.
    pub waits_for: Vec<Wait>,
    /// Services that must run too. They may start later.
    pub beside: Vec<String>,
    /// When it counts as ready.
    pub ready: Ready,
    /// The same question as a command inside the container; none for a service that is ready when it has ended.
    pub health: Option<Health>,
    /// What the engine keeps of its log.
    pub log: LogLimit,
    /// Whether it is started again when it ends by itself.
    pub restart: Restart,
    /// How it is stopped.
    pub stop: Stop,
    /// What Prometheus reads of it.
    pub metrics: Vec<Target>,
    /// The URL in the network that must answer.
    pub probe: Option<Probe>,
    /// Has the engine's socket.
    pub engine_socket: bool,
}

/// A port of a service.
#[derive(Debug, Clone, Serialize)]
pub struct Port {
    /// Name in `lab.toml`.
    pub name: String,
    /// Port inside.
    pub container: u16,
    /// Documented host port in this lab.
    pub documented: Option<u16>,
    /// Host port of this instance, on 127.0.0.1.
    pub host: Option<u16>,
    /// What it speaks.
    pub protocol: Protocol,
    /// What to ask for over HTTP.
    pub path: Option<String>,
    /// One line for people.
    pub about: String,
}

/// A named volume of a service.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Volume {
    /// Name on the engine.
    pub name: String,
    /// Path inside.
    pub path: String,
    /// The service reads what others write there.
    #[serde(rename = "readOnly")]
    pub read_only: bool,
}

/// A folder or file of the project, mounted read-only.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct FileMount {
    /// Path from the project's root.
    pub source: String,
    /// Path inside.
    pub path: String,
}

/// An add-on whose recipe makes a folder of jars.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct AddonMount {
    /// Table in `addons`.
    pub name: String,
    /// Path inside.
    pub path: String,
}

/// A service that is waited for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Wait {
    /// Its documented name.
    pub service: String,
    /// It is ready when it has ended.
    pub completes: bool,
    /// It is waited for only by the public image.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub upstream_only: bool,
}

/// How an engine asks by itself whether a container is healthy. Seconds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Health {
    /// The command inside; it ends with 0 when the service is ready.
    pub command: Vec<String>,
    /// Between two questions. Each costs the engine a process in the container.
    pub interval: u64,
    /// How long one may take.
    pub timeout: u64,
    /// How long failures do not count after the start.
    pub start: u64,
    /// Failures one after the other that make it unhealthy.
    pub retries: u32,
}

/// What the engine keeps of a log: json-file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct LogLimit {
    /// Mebibytes of one file.
    pub megabytes: u32,
    /// Files.
    pub files: u32,
}

/// Whether an engine starts a container again that has ended by itself. What somebody has killed through the engine stays dead.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Restart {
    /// Never: it had something to do once.
    No,
    /// Where it has not ended well, [`Restart::MOST`] times.
    OnFailure,
}

impl Restart {
    /// A service that dies more often is broken, and is seen as dead.
    pub const MOST: u16 = 3;

    /// As engines call it.
    pub fn name(self) -> &'static str {
        match self {
            Self::No => "no",
            Self::OnFailure => "on-failure",
        }
    }
}

/// How a container is stopped: SIGTERM, and SIGKILL some seconds later.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Stop {
    /// Seconds between the two.
    pub grace: u32,
    /// After the others.
    pub last: bool,
}

/// Who plays a role, by documented names.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Player {
    /// The service.
    pub service: String,
    /// The port (by name) that services of the lab use.
    pub inside: String,
    /// Host port of this instance, where clients on the host reach it.
    pub host: Option<u16>,
}

/// A topic as the set-up makes it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, serde::Deserialize)]
pub struct TopicPlan {
    /// Name.
    pub name: String,
    /// Number of partitions.
    pub partitions: i32,
    /// Replicas of each partition.
    pub replicas: i32,
    /// Settings beside the cluster's defaults.
    pub config: BTreeMap<String, String>,
}

/// The role of the brokers.
pub const KAFKA: &str = "kafka";
/// The role of who sends alerts on: a lab without it proves none.
pub const ALERTS: &str = "alerts";
/// The role of who reads all metrics and evaluates the rules.
pub const METRICS: &str = "metrics";
/// The role of Elasticsearch.
pub const SEARCH: &str = "search";
/// The role of the schema registry.
pub const SCHEMA_REGISTRY: &str = "schema-registry";

impl Plan {
    /// A service by its documented name.
    pub fn service(&self, name: &str) -> Option<&Service> {
        self.services.iter().find(|s| s.name == name)
    }

    /// The services that play a role, or else those of a service's or group's name.
    pub fn meant(&self, name: &str) -> Vec<&Service> {
        match self.roles.get(name) {
            Some(players) => players.iter().filter_map(|p| self.service(&p.service)).collect(),
            None => self.services.iter().filter(|s| s.name == name || s.group == name).collect(),
        }
    }

    /// Services that only run and end, that this service waits for, and that make files for it out of the project's in a volume which
    /// both have.
    pub fn file_writers_for(&self, service: &Service) -> Vec<&Service> {
        let ended = service.waits_for.iter().filter(|w| w.completes).filter_map(|w| self.service(&w.service));
        let shares =
            |w: &&Service| w.volumes.iter().any(|v| service.volumes.iter().any(|own| own.name == v.name));
        ended.filter(|w| !w.files.is_empty()).filter(shares).collect()
    }

    /// Services that only run and end, and that wait for this one: what they make of its data goes with that data.
    pub fn set_up_after(&self, service: &Service) -> Vec<&Service> {
        let waits = |s: &&Service| s.waits_for.iter().any(|w| w.service == service.name);
        self.services.iter().filter(|s| s.ready == Ready::Completed).filter(waits).collect()
    }

    /// Every host port, with the service that owns it.
    pub fn host_ports(&self) -> impl Iterator<Item = (u16, &Service, &Port)> {
        self.services.iter().flat_map(|s| s.ports.iter().filter_map(move |p| Some((p.host?, s, p))))
    }

    /// The same lab with only what is named (roles, services, groups), what they wait for and what must run beside them.
    ///
    /// # Errors
    /// As [`LabFile::plan`].
    pub fn only<'n>(
        &self,
        file: &LabFile,
        names: impl IntoIterator<Item = &'n str>,
    ) -> Result<Self, TopologyError> {
        let mut wanted = BTreeSet::new();
        let mut open: Vec<&Service> = names.into_iter().flat_map(|n| self.meant(n)).collect();
        while let Some(service) = open.pop() {
            if wanted.insert(service.name.clone()) {
                let needs = file.services.get(&service.group).map(|s| s.needs.as_slice()).unwrap_or_default();
                open.extend(needs.iter().flat_map(|n| self.meant(n.get_ref())));
                open.extend(service.beside.iter().filter_map(|n| self.service(n)));
            }
        }
        file.plan_of(&self.lab, self.instance.clone(), |e| wanted.contains(e.name))
    }

    /// The same lab without the services whose image no recipe builds: what runs where there are no public images.
    ///
    /// # Errors
    /// As [`LabFile::plan`].
    pub fn buildable(&self, file: &LabFile) -> Result<Self, TopologyError> {
        let wanted: BTreeSet<&str> = match file.labs.get_key_value(&self.lab) {
            Some((name, lab)) => Roster::of(file, name, lab).buildable(),
            None => BTreeSet::new(),
        };
        let mut plan = if self.services.iter().all(|s| wanted.contains(s.name.as_str())) {
            self.clone()
        } else {
            file.plan_of(&self.lab, self.instance.clone(), |e| wanted.contains(e.name))?
        };
        for service in &mut plan.services {
            service.waits_for.retain(|wait| !wait.upstream_only);
        }
        Ok(plan)
    }

    /// Fills the tokens of a documented command line.
    ///
    /// # Errors
    /// The first token that stands for nothing, and why.
    pub fn fill(&self, file: &LabFile, text: &str) -> Result<String, String> {
        let (name, lab) = file.labs.get_key_value(&self.lab).ok_or("this lab is not there any more")?;
        let roster = Roster::of(file, name, lab).running(|e| self.service(e.name).is_some());
        let lists = Lists::default();
        Scope { roster: &roster, instance: &self.instance, own: None, lists: &lists }.fill(text)
    }

    /// No moved port lies on a documented one of another service.
    pub(super) fn moved_onto_another(&self) -> Option<Mistake> {
        let documented: BTreeSet<u16> =
            self.services.iter().flat_map(|s| &s.ports).filter_map(|p| p.documented).collect();
        self.host_ports().find_map(|(host, service, port)| {
            (Some(host) != port.documented && documented.contains(&host)).then(|| {
                let offset = self.instance.offset();
                let message = format!(
                    "{}: port offset {offset} puts {} on {host}, a documented port of another service",
                    service.name, port.name
                );
                (None, message)
            })
        })
    }
}
