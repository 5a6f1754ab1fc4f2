//! The shape of `lab.toml`: one type a table, unknown keys refused. What the values mean is checked in `check`.

use std::collections::{BTreeMap, BTreeSet};

use serde::Deserialize;
use toml::Spanned;

use super::rows::{Alert, Command, Fault, Flow, Topic};
use super::{TopologyError, check};

/// The whole of `lab.toml`, parsed and checked.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LabFile {
    /// The lab that commands mean when none is named.
    pub default_lab: Spanned<String>,
    /// Named selections of services.
    pub labs: BTreeMap<String, Lab>,
    /// The virtual machine that `nix run .#lab-vm` starts.
    pub vm: Option<Vm>,
    /// What differs from cluster to cluster, on Kubernetes.
    #[serde(default)]
    pub overlays: BTreeMap<String, Overlay>,
    /// Recipes under `compose/images/`, by name.
    #[serde(default)]
    pub recipes: BTreeMap<String, Recipe>,
    /// What services are made from, by name.
    pub images: BTreeMap<String, Image>,
    /// Artifacts mounted read-only, by name.
    #[serde(default)]
    pub addons: BTreeMap<String, Addon>,
    /// Services and groups of like services, by name.
    pub services: BTreeMap<String, ServiceSpec>,
    /// Topics that the set-up makes.
    #[serde(default)]
    pub topics: Vec<Topic>,
    /// Documented data paths.
    #[serde(default)]
    pub flows: Vec<Flow>,
    /// Documented command lines.
    #[serde(default)]
    pub commands: Vec<Command>,
    /// What can be broken.
    #[serde(default)]
    pub faults: Vec<Fault>,
    /// Alerts, each with the fault that raises it, or why no fault does.
    #[serde(default)]
    pub alerts: Vec<Alert>,
}

/// A named selection of services, and what differs between labs.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Lab {
    /// One line for people.
    pub about: String,
    /// Name of the Docker network in the default instance.
    pub network: String,
    /// Tables of `services`, in the order that people read them.
    pub services: Vec<Spanned<String>>,
    /// Scenarios whose topics and schemas the set-up makes.
    #[serde(default)]
    pub scenarios: Vec<Spanned<String>>,
    /// Host ports that are others here than in the services' own tables: `"SERVICE.PORT" = NUMBER`.
    #[serde(default)]
    pub host: BTreeMap<String, Spanned<u16>>,
    /// What `{value.x}` stands for in this lab.
    #[serde(default)]
    pub values: BTreeMap<String, String>,
    /// Services of the seed that this lab does without.
    #[serde(default)]
    pub replaced: Vec<Replaced>,
}

/// A service of the seed with its documented port, whose work another does here.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Replaced {
    /// The seed's name for it.
    pub service: String,
    /// Its documented port, which nothing of the lab may have.
    pub port: Spanned<u16>,
    /// What does its work here.
    pub why: String,
}

/// A virtual machine's size.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Vm {
    /// Memory such as `12g`.
    pub memory: Spanned<String>,
    /// Virtual processors.
    pub cores: u16,
    /// Disk such as `24g`.
    pub disk: Spanned<String>,
}

/// A kind of cluster that a lab runs on with Kubernetes.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Overlay {
    /// One line for people.
    pub about: String,
    /// What each claim asks for, such as `20Gi`.
    pub storage: String,
    /// The class of its storage; the cluster's default where absent.
    pub storage_class: Option<String>,
    /// The class of storage that several nodes reach at once.
    pub shared_storage_class: Option<String>,
    /// Of the memory that a service has on one machine: what is reserved for it; more than 100 is its limit too.
    pub memory_percent: u32,
    /// Hours that Kafka and Prometheus keep what they have.
    pub retention_hours: u32,
    /// No two members of a group on one node.
    #[serde(default)]
    pub spread: bool,
}

/// How an image is built from package registries.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Recipe {
    /// Recipes whose images this one stands on; they reach the Dockerfile as arguments (`spark-kafka` as `SPARK_KAFKA`).
    pub from: Vec<Spanned<String>>,
    /// Folders of the project that the build reads besides its own (a training run of the real job).
    #[serde(default)]
    pub trains_on: Vec<String>,
    /// Stands on a Debian root file system, given as the argument `DEBIAN`: this image, or one made of Debian's packages.
    pub debian: Option<String>,
    /// Gets the host's certificates and mirrors: only an image that others copy from, never a final one. Every build gets the proxies.
    #[serde(default)]
    pub host_settings: bool,
    /// Gets this program.
    #[serde(default)]
    pub program: bool,
}

/// What a service is made from, by source.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Image {
    /// Public image, `name:tag`; absent where only the recipe exists.
    pub upstream: Option<String>,
    /// Recipe of the local source; absent where only upstream exists.
    pub recipe: Option<Spanned<String>>,
    /// What runs, for the documentation.
    pub version: String,
    /// What the seed documents ask for.
    pub seed: String,
    /// Why we run this version.
    pub why: String,
    /// Set where the local recipe is another product in the same role.
    pub substitute: Option<String>,
    /// What the public image is, by its own Dockerfile. It is compared after a pull.
    pub record: Option<ImageRecord>,
    /// The number of the user that runs it on Kubernetes, which wants a number, and not root's.
    pub user: Option<u32>,
    /// It writes nothing but its volumes and /tmp.
    #[serde(default)]
    pub read_only: bool,
}

/// What a public image is; the lab is written for that. What is not known is left out, and not compared.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ImageRecord {
    /// Architectures that it is published for, as engines call them.
    pub architectures: Vec<String>,
    /// Its user; empty for root.
    pub user: Option<String>,
    /// Its entry point.
    pub entry_point: Option<Vec<String>>,
    /// The volumes that it declares.
    pub volumes: Option<BTreeSet<String>>,
}

impl ImageRecord {
    /// In what an image with this user, entry point and these volumes is another, in words.
    pub fn differences(&self, user: &str, entry_point: &[String], volumes: &BTreeSet<String>) -> Vec<String> {
        let words = |is: &dyn std::fmt::Debug| format!("{is:?}");
        let known = [
            ("user", self.user.as_ref().map(|meant| (words(&user), words(meant)))),
            ("entry point", self.entry_point.as_ref().map(|meant| (words(&entry_point), words(meant)))),
            ("volumes", self.volumes.as_ref().map(|meant| (words(volumes), words(meant)))),
        ];
        let differs = |(what, both): (&str, Option<(String, String)>)| {
            let (is, meant) = both.filter(|(is, meant)| is != meant)?;
            Some(format!("has {what} {is}, and the lab was written for {meant}"))
        };
        known.into_iter().filter_map(differs).collect()
    }
}

/// An artifact mounted read-only into services of either source.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Addon {
    /// Folder of the project whose files are mounted one by one.
    pub files: Option<String>,
    /// Names of the files in that folder: not in the text, but read from disk by `Project`.
    #[serde(skip)]
    pub names: Vec<String>,
    /// Recipe whose image holds the folder `/addons/<name>`.
    pub recipe: Option<Spanned<String>>,
    /// Folder inside the container.
    pub mount: String,
    /// The file in it that `{addon.x}` names; the folder where absent.
    pub file: Option<String>,
    /// Why it is not in the image.
    pub why: String,
}

/// A service, or a group of services that differ only in name, node id and host port.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ServiceSpec {
    /// One line for people.
    pub about: String,
    /// The service's name, where it is not the table's: two labs may each have a service of one name.
    pub name: Option<Spanned<String>>,
    /// Name of a table in `images`.
    pub image: Spanned<String>,
    /// Members of a group; without any the table is one service.
    #[serde(default)]
    pub members: Vec<Member>,
    /// Roles that it plays for others, and the ports by which they reach it.
    #[serde(default)]
    pub provides: BTreeMap<String, Provided>,
    /// Arguments; the image's own where absent.
    #[serde(default)]
    pub command: Vec<Spanned<String>>,
    /// Working directory; the image's own where absent.
    pub working_dir: Option<String>,
    /// Memory limit such as `256m` or `1g`.
    pub memory: Spanned<String>,
    /// Roles, services or groups that the lab must have, and that are ready before this one starts.
    #[serde(default)]
    pub needs: Vec<Spanned<String>>,
    /// Roles, services or groups that are ready before this one starts, where it runs from its public image.
    #[serde(default)]
    pub upstream_needs: Vec<Spanned<String>>,
    /// Roles, services or groups that are ready before this one starts, where the lab has them.
    #[serde(default)]
    pub after: Vec<Spanned<String>>,
    /// It starts after every service with a probe, except those that wait for it themselves.
    #[serde(default)]
    pub after_probes: bool,
    /// Roles, services or groups that the lab must have. They may start later: this one waits for them by itself.
    #[serde(default)]
    pub beside: Vec<Spanned<String>>,
    /// When it counts as ready.
    pub ready: Ready,
    /// It is stopped after the others, because they need it for an orderly end.
    #[serde(default)]
    pub stops_last: bool,
    /// Ports by name.
    #[serde(default)]
    pub ports: BTreeMap<String, PortSpec>,
    /// Environment.
    #[serde(default)]
    pub environment: BTreeMap<String, Spanned<String>>,
    /// Named volumes.
    #[serde(default)]
    pub volumes: Vec<VolumeSpec>,
    /// Add-ons by name.
    #[serde(default)]
    pub addons: Vec<Spanned<String>>,
    /// Folders or files of the project, mounted read-only: project path → path inside.
    #[serde(default)]
    pub files: BTreeMap<String, String>,
    /// What Prometheus reads.
    #[serde(default)]
    pub metrics: Vec<Scrape>,
    /// Port (HTTP, with its path) that is asked from outside whether the service answers.
    pub probe: Option<Spanned<String>>,
    /// Has the engine's socket: it asks the engine about the other services.
    #[serde(default)]
    pub engine_socket: bool,
    /// Services and groups that it reaches, and is reached by, at ports that they agree on while they run.
    #[serde(default)]
    pub meets: Vec<Spanned<String>>,
    /// How many members a group, or pods a service without data, can have on Kubernetes, where that is more than there are here.
    pub scales_to: Option<u32>,
}

/// By which ports a service is reached in a role.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Provided {
    /// Port (by name) for services of the lab.
    pub port: Spanned<String>,
    /// Port (by name) for clients on the host; the same one where absent.
    pub host: Option<Spanned<String>>,
}

/// A page of metrics.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Scrape {
    /// Port name.
    pub port: Spanned<String>,
    /// Path of the page.
    #[serde(default = "default_metrics_path")]
    pub path: String,
    /// Label `job`, where it is not the name of the service's table: two pages of one service must differ in it.
    pub job: Option<String>,
}

fn default_metrics_path() -> String {
    "/metrics".to_owned()
}

/// One service of a group.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Member {
    /// Service name.
    pub name: Spanned<String>,
    /// Node id, for products that number their nodes.
    pub node: Option<u32>,
    /// Host ports by port name.
    #[serde(default)]
    pub host: BTreeMap<String, Spanned<u16>>,
}

/// A documented port.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PortSpec {
    /// Port inside the container.
    pub port: u16,
    /// Documented port on the host, where the lab does not give another; inside only where absent.
    pub host: Option<Spanned<u16>>,
    /// A service that has the same port on the host where it runs.
    pub gives_way: Option<GivesWay>,
    /// What answers there.
    pub protocol: Protocol,
    /// What to ask for over HTTP.
    pub path: Option<String>,
    /// One line for people.
    pub about: String,
}

/// Another port on the host, where a service runs that has the documented one.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GivesWay {
    /// The other service.
    pub to: Spanned<String>,
    /// The port beside it.
    pub host: Spanned<u16>,
}

/// What a port speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Protocol {
    /// Kafka's wire protocol.
    Kafka,
    /// HTTP/1.1.
    Http,
    /// A product's own protocol: a connection is accepted.
    Tcp,
}

/// When a service counts as ready: a closed set, each answered by the real service.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, serde::Serialize)]
#[serde(tag = "kind", rename_all = "kebab-case", deny_unknown_fields)]
pub enum Ready {
    /// Accepts connections inside the container (for ports that no client outside can speak to).
    Tcp {
        /// Port name.
        port: String,
    },
    /// Metadata of the node on its host listener, with every partition led.
    Kafka {
        /// Port name.
        port: String,
    },
    /// 200 on the host port, or inside where the port is not published, and the body holds each text.
    Http {
        /// Port name.
        port: String,
        /// Path and query.
        path: String,
        /// Texts that the body must hold.
        #[serde(default)]
        contains: Vec<String>,
        /// Seconds until it counts as failed.
        #[serde(default = "default_timeout")]
        timeout_seconds: u64,
    },
    /// The master lists it as alive.
    SparkWorker {
        /// Service name of the master.
        master: String,
        /// Port name of the master's UI.
        port: String,
    },
    /// Ended with exit code 0.
    Completed,
}

fn default_timeout() -> u64 {
    120
}

impl Ready {
    /// Seconds until a service that is not ready counts as failed.
    pub fn timeout_seconds(&self) -> u64 {
        match self {
            Self::Http { timeout_seconds, .. } => *timeout_seconds,
            _ => default_timeout(),
        }
    }
}

/// A named volume.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct VolumeSpec {
    /// Name within the service, or within the instance where shared.
    pub name: String,
    /// Path inside the container.
    pub path: String,
    /// One volume for all services that name it.
    #[serde(default)]
    pub shared: bool,
    /// Mounted only in a lab where another service has this shared volume.
    #[serde(default)]
    pub optional: bool,
    /// The service reads what others write there.
    #[serde(default)]
    pub read_only: bool,
}

impl LabFile {
    /// Reads and checks a definition in parts (file, text), which count as one text.
    ///
    /// # Errors
    /// As [`Self::parse`], each with its file.
    pub fn parse_parts(parts: &[(String, String)]) -> Result<Self, Vec<TopologyError>> {
        let text: String = parts.iter().map(|(_, text)| format!("{text}\n")).collect();
        let lines: Vec<_> =
            parts.iter().map(|(file, text)| (file.clone(), text.matches('\n').count() + 1)).collect();
        Self::parse(&text).map_err(|mistakes| mistakes.into_iter().map(|m| m.in_parts(&lines)).collect())
    }

    /// Reads and checks the text of a `lab.toml`.
    ///
    /// # Errors
    /// Everything that is wrong: one syntax or key error, or all mistakes of meaning, each with its line.
    pub fn parse(text: &str) -> Result<Self, Vec<TopologyError>> {
        let file: Self = toml::from_str(text).map_err(|e| vec![TopologyError::from_toml(text, &e)])?;
        let mistakes = check::mistakes(&file, text);
        if mistakes.is_empty() { Ok(file) } else { Err(mistakes) }
    }

    /// A fault by name.
    pub fn fault(&self, name: &str) -> Option<&Fault> {
        self.faults.iter().find(|f| f.name.get_ref() == name)
    }

    /// Every public image that the lab may pull, `name:tag`.
    pub fn upstream_references(&self) -> impl Iterator<Item = &str> {
        let images = self.images.values().filter_map(|i| i.upstream.as_deref());
        images.chain(self.recipes.values().filter_map(|r| r.debian.as_deref()))
    }
}

impl ServiceSpec {
    /// Names of the services that this table `key` stands for, each with its member where it is a group.
    pub fn services<'a>(&'a self, key: &'a str) -> Vec<(&'a str, Option<&'a Member>)> {
        if self.members.is_empty() {
            vec![(self.name.as_ref().map_or(key, |name| name.get_ref()), None)]
        } else {
            self.members.iter().map(|m| (m.name.get_ref().as_str(), Some(m))).collect()
        }
    }
}
