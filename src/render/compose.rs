//! Compose files: one for each lab and image source, for people who live in compose.

use std::collections::BTreeMap;

use anyhow::Result;
use serde::Serialize;

use super::Inputs;
use super::nix::mounts;
use crate::topology::{ENGINE_SOCKET, LabFile, Service, Topology};

const HEAD: &str = "# Rendered from lab.toml by `./lab render`; a test holds it against drift. How to use it: docs/compose.md\n";

/// Where compose's images come from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ComposeSource {
    /// Built on this machine.
    Local,
    /// Public images, by digest.
    Upstream,
}

impl ComposeSource {
    /// What of a lab there are images for.
    pub fn part_of(self, file: &LabFile, whole: &Topology) -> Topology {
        match self {
            Self::Local => whole.buildable(file),
            Self::Upstream => whole.clone(),
        }
    }
}

#[derive(Serialize)]
struct File {
    name: String,
    services: BTreeMap<String, Container>,
    networks: BTreeMap<&'static str, Network>,
    volumes: BTreeMap<String, Nothing>,
}

#[derive(Serialize)]
struct Nothing {}

#[derive(Serialize)]
struct Network {
    name: String,
}

#[derive(Default, Serialize)]
struct Container {
    container_name: String,
    image: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pull_policy: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    working_dir: Option<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    command: Vec<String>,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    environment: BTreeMap<String, String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    ports: Vec<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    volumes: Vec<String>,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    depends_on: BTreeMap<String, Condition>,
    #[serde(skip_serializing_if = "Option::is_none")]
    healthcheck: Option<Healthcheck>,
    #[serde(skip_serializing_if = "Option::is_none")]
    mem_limit: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    memswap_limit: Option<String>,
    stop_grace_period: &'static str,
}

#[derive(Serialize)]
struct Condition {
    condition: &'static str,
}

#[derive(Serialize)]
struct Healthcheck {
    test: Vec<String>,
    interval: &'static str,
    timeout: &'static str,
    start_period: String,
    retries: u32,
}

/// The compose file of a lab as an instance runs it; paths in it are relative to `compose/`.
///
/// # Errors
/// None that is known: every field is text or a number.
pub fn compose_file(
    file: &LabFile,
    inputs: &Inputs,
    topology: &Topology,
    source: ComposeSource,
) -> Result<String> {
    let topology = &source.part_of(file, topology);
    let mut services = BTreeMap::new();
    let mut volumes = BTreeMap::new();
    for service in &topology.services {
        let container = container(file, inputs, topology, service, source);
        let named = container.volumes.iter().filter(|v| !v.starts_with(['.', '/']));
        volumes.extend(named.filter_map(|v| Some((v.split(':').next()?.to_owned(), Nothing {}))));
        for addon in recipe_addons(file, service) {
            services.insert(filler(addon), addon_filler(file, topology, addon));
        }
        services.insert(service.name.clone(), container);
    }
    let whole = File {
        name: topology.instance.container(&format!("streamlab-{}", topology.lab)),
        services,
        networks: BTreeMap::from([("default", Network { name: topology.network.clone() })]),
        volumes,
    };
    let yaml = serde_saphyr::to_string_with_options(
        &whole,
        serde_saphyr::ser_options! { prefer_block_scalars: false },
    )?;
    Ok(format!("{HEAD}{yaml}"))
}

fn recipe_addons<'a>(file: &'a LabFile, service: &'a Service) -> impl Iterator<Item = &'a str> {
    service.addons.iter().filter(|a| file.addons[*a].recipe.is_some()).map(String::as_str)
}

fn filler(addon: &str) -> String {
    format!("addon-{addon}")
}

/// An empty volume takes what the image has at its path: running `true` there is all it needs.
fn addon_filler(file: &LabFile, topology: &Topology, addon: &str) -> Container {
    let recipe = file.addons[addon].recipe.as_ref().map_or(addon, |r| r.get_ref());
    Container {
        container_name: topology.instance.container(&filler(addon)),
        image: local_image(recipe),
        pull_policy: Some("never"),
        volumes: vec![format!("{}:/addons/{addon}", filler(addon))],
        stop_grace_period: "2s",
        ..Container::default()
    }
}

fn container(
    file: &LabFile,
    inputs: &Inputs,
    topology: &Topology,
    service: &Service,
    source: ComposeSource,
) -> Container {
    let image = &file.images[&service.image];
    let upstream = image.upstream.as_ref().filter(|_| source == ComposeSource::Upstream);
    let pinned = upstream.and_then(|r| Some(format!("{r}@{}", inputs.digests.get(r)?)));
    let recipe = image.recipe.as_ref().map_or(&service.image, |r| r.get_ref());
    let local = pinned.is_none();
    let completes = |name: &str| topology.service(name).is_some_and(|s| topology.health(s).is_none());
    let mut depends_on: BTreeMap<_, _> = service
        .needs
        .iter()
        .map(|need| {
            let condition =
                if completes(need) { "service_completed_successfully" } else { "service_healthy" };
            (need.clone(), Condition { condition })
        })
        .collect();
    let prefix = topology.instance.volume(None, "");
    let mut volumes: Vec<_> = service
        .volumes
        .iter()
        .map(|v| format!("{}:{}", v.name.strip_prefix(&prefix).unwrap_or(&v.name), v.path))
        .collect();
    for mount in mounts(file, inputs, service) {
        let source = match mount.source.strip_prefix("compose/") {
            Some(below) => format!("./{below}"),
            None => format!("../{}", mount.source),
        };
        volumes.push(format!("{source}:{}:ro", mount.path));
    }
    if service.engine_socket {
        volumes.push(format!("{ENGINE_SOCKET}:{ENGINE_SOCKET}"));
    }
    for addon in recipe_addons(file, service) {
        volumes.push(format!("{}:{}:ro", filler(addon), file.addons[addon].mount));
        depends_on.insert(filler(addon), Condition { condition: "service_completed_successfully" });
    }
    let timeout = service.ready.timeout_seconds();
    let memory = format!("{}m", service.memory >> 20);
    Container {
        container_name: service.container.clone(),
        image: pinned.unwrap_or_else(|| local_image(recipe)),
        pull_policy: local.then_some("never"),
        working_dir: service.working_dir.clone(),
        command: service.command.iter().map(|c| literal(c)).collect(),
        environment: topology.environment(service).iter().map(|(k, v)| (k.clone(), literal(v))).collect(),
        ports: service
            .ports
            .iter()
            .filter_map(|p| Some(format!("127.0.0.1:{}:{}", p.host?, p.container)))
            .collect(),
        volumes,
        depends_on,
        healthcheck: topology.health(service).map(|command| Healthcheck {
            test: std::iter::once("CMD".to_owned()).chain(command.iter().map(|c| literal(c))).collect(),
            // Each question costs the engine a process in a container.
            interval: "3s",
            timeout: "10s",
            start_period: format!("{timeout}s"),
            retries: 5,
        }),
        mem_limit: Some(memory.clone()),
        memswap_limit: Some(memory),
        stop_grace_period: "2s",
    }
}

/// Tags of local images carry a hash of their recipe, which this file must not: `./lab images env` gives them.
fn local_image(recipe: &str) -> String {
    let variable = image_variable(recipe);
    format!(
        "${{{variable}:?not set; run in the project: ./lab images build && ./lab images env >compose/.env}}"
    )
}

/// The variable that holds the reference of a recipe's image: `LAB_IMAGE_SPARK_KAFKA`.
pub fn image_variable(recipe: &str) -> String {
    format!("LAB_IMAGE_{}", recipe.to_uppercase().replace('-', "_"))
}

/// Compose would replace what follows a `$`.
fn literal(text: &str) -> String {
    text.replace('$', "$$")
}
