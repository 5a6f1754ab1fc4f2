//! The shape of `lab.toml`: one type a table, unknown keys refused. What the values mean is checked in `check`.

use std::collections::BTreeMap;

use serde::Deserialize;
use toml::Spanned;

use super::rows::{Alert, Command, Fault, Flow};
use super::{TopologyError, check};

/// The whole of `lab.toml`, parsed and checked.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LabFile {
    /// Name of the Docker network in the default instance.
    pub network: String,
    /// The lab that commands mean when none is named.
    pub default_lab: Spanned<String>,
    /// Named selections of services.
    pub labs: BTreeMap<String, Lab>,
    /// The virtual machine that `nix run .#lab-vm` starts.
    pub vm: Option<Vm>,
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
    /// Documented data paths.
    #[serde(default)]
    pub flows: Vec<Flow>,
    /// Documented command lines.
    #[serde(default)]
    pub commands: Vec<Command>,
    /// What can be broken.
    #[serde(default)]
    pub faults: Vec<Fault>,
    /// Alerts, each with the fault that proves it.
    #[serde(default)]
    pub alerts: Vec<Alert>,
}

/// A named selection of services.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Lab {
    /// One line for people.
    pub about: String,
    /// Services and groups, in the order that people read them.
    pub services: Vec<Spanned<String>>,
    /// What `{value.x}` stands for in this lab.
    #[serde(default)]
    pub values: BTreeMap<String, String>,
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
    /// Gets the host's certificates, proxies and mirrors (a builder stage; no final image may).
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
}

/// An artifact mounted read-only into services of either source.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Addon {
    /// Folder of the project whose files are mounted one by one.
    pub files: Option<String>,
    /// Recipe whose image holds the folder `/addons/<name>`.
    pub recipe: Option<Spanned<String>>,
    /// Folder inside the container.
    pub mount: String,
    /// Why it is not in the image.
    pub why: String,
}

/// A service, or a group of services that differ only in name, node id and host port.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ServiceSpec {
    /// One line for people.
    pub about: String,
    /// Name of a table in `images`.
    pub image: Spanned<String>,
    /// Members of a group; without any the table is one service of its own name.
    #[serde(default)]
    pub members: Vec<Member>,
    /// Arguments; the image's own where absent.
    #[serde(default)]
    pub command: Vec<String>,
    /// Working directory; the image's own where absent.
    pub working_dir: Option<String>,
    /// Memory limit such as `256m` or `1g`.
    pub memory: Spanned<String>,
    /// Services or groups that must be ready before this one starts.
    #[serde(default)]
    pub needs: Vec<Spanned<String>>,
    /// Services or groups that must run too, in no order: it starts beside them and waits for them by itself.
    #[serde(default)]
    pub beside: Vec<Spanned<String>>,
    /// When it counts as ready.
    pub ready: Ready,
    /// Others need it to end well: it is stopped after them.
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
    /// Documented port on the host; inside only where absent.
    pub host: Option<Spanned<u16>>,
    /// What answers there.
    pub protocol: Protocol,
    /// What to ask for over HTTP.
    pub path: Option<String>,
    /// One line for people.
    pub about: String,
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

    /// Every public image that the lab may pull, `name:tag`.
    pub fn upstream_references(&self) -> impl Iterator<Item = &str> {
        let images = self.images.values().filter_map(|i| i.upstream.as_deref());
        images.chain(self.recipes.values().filter_map(|r| r.debian.as_deref()))
    }

    /// Service names of a service or group; empty for an unknown name.
    pub fn members_of(&self, name: &str) -> Vec<String> {
        if let Some(spec) = self.services.get(name) {
            return spec.member_names(name);
        }
        let owns = |spec: &&ServiceSpec| spec.members.iter().any(|m| m.name.get_ref() == name);
        self.services.values().find(owns).map(|_| vec![name.to_owned()]).unwrap_or_default()
    }
}

impl ServiceSpec {
    /// Names of the services that this table `key` stands for.
    pub fn member_names(&self, key: &str) -> Vec<String> {
        if self.members.is_empty() {
            vec![key.to_owned()]
        } else {
            self.members.iter().map(|m| m.name.get_ref().clone()).collect()
        }
    }
}
