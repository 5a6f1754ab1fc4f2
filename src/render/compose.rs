//! Compose files: one for each lab and image source, for people who live in compose.

use std::collections::BTreeMap;

use anyhow::Result;
use serde::Serialize;

use super::Inputs;
use crate::topology::{ENGINE_SOCKET, LabFile, Plan, Restart, Service, Source};

const HEAD: &str = "# Rendered from lab.toml by `./lab render`; a test fails if it is out of date. How to use it: docs/compose.md\n";

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
    #[serde(skip_serializing_if = "Option::is_none")]
    logging: Option<Logging>,
    #[serde(skip_serializing_if = "Option::is_none")]
    restart: Option<String>,
    stop_grace_period: String,
}

#[derive(Serialize)]
struct Logging {
    driver: &'static str,
    options: BTreeMap<&'static str, String>,
}

#[derive(Serialize)]
struct Condition {
    condition: &'static str,
}

#[derive(Serialize)]
struct Healthcheck {
    test: Vec<String>,
    interval: String,
    timeout: String,
    start_period: String,
    retries: u32,
}

/// The compose file of a lab as an instance runs it; paths in it are relative to `compose/`.
///
/// # Errors
/// As [`LabFile::plan`].
pub fn compose_file(file: &LabFile, inputs: &Inputs, plan: &Plan, source: Source) -> Result<String> {
    let plan = &source.part_of(file, plan)?;
    let mut services = BTreeMap::new();
    let mut volumes = BTreeMap::new();
    for service in &plan.services {
        let container = container(file, inputs, plan, service, source);
        let named = container.volumes.iter().filter(|v| !v.starts_with(['.', '/']));
        volumes.extend(named.filter_map(|v| Some((v.split(':').next()?.to_owned(), Nothing {}))));
        for addon in &service.addons {
            services.insert(filler(&addon.name), addon_filler(file, plan, &addon.name));
        }
        services.insert(service.name.clone(), container);
    }
    let whole = File {
        name: plan.instance.container(&format!("streamlab-{}", plan.lab)),
        services,
        networks: BTreeMap::from([("default", Network { name: plan.network.clone() })]),
        volumes,
    };
    let yaml = serde_saphyr::to_string_with_options(
        &whole,
        serde_saphyr::ser_options! { prefer_block_scalars: false },
    )?;
    Ok(format!("{HEAD}{yaml}"))
}

fn filler(addon: &str) -> String {
    format!("addon-{addon}")
}

/// An empty volume takes what the image has at its path: running `true` there is all it needs.
fn addon_filler(file: &LabFile, plan: &Plan, addon: &str) -> Container {
    let recipe = file.addons[addon].recipe.as_ref().map_or(addon, |r| r.get_ref());
    Container {
        container_name: plan.instance.container(&filler(addon)),
        image: local_image(recipe),
        pull_policy: Some("never"),
        volumes: vec![format!("{}:/addons/{addon}", filler(addon))],
        stop_grace_period: "2s".to_owned(),
        ..Container::default()
    }
}

fn container(file: &LabFile, inputs: &Inputs, plan: &Plan, service: &Service, source: Source) -> Container {
    let image = &file.images[&service.image];
    let upstream = image.upstream.as_ref().filter(|_| source == Source::Upstream);
    let pinned = upstream.and_then(|r| Some(format!("{r}@{}", inputs.digests.get(r)?)));
    let recipe = image.recipe.as_ref().map_or(&service.image, |r| r.get_ref());
    let local = pinned.is_none();
    let condition = |completes: bool| Condition {
        condition: if completes { "service_completed_successfully" } else { "service_healthy" },
    };
    let mut depends_on: BTreeMap<_, _> =
        service.waits_for.iter().map(|wait| (wait.service.clone(), condition(wait.completes))).collect();
    let prefix = plan.instance.volume(None, "");
    let mut volumes: Vec<_> = service
        .volumes
        .iter()
        .map(|v| {
            let name = v.name.strip_prefix(&prefix).unwrap_or(&v.name);
            format!("{name}:{}{}", v.path, if v.read_only { ":ro" } else { "" })
        })
        .collect();
    for mount in &service.files {
        let source = match mount.source.strip_prefix("compose/") {
            Some(below) => format!("./{below}"),
            None => format!("../{}", mount.source),
        };
        volumes.push(format!("{source}:{}:ro", mount.path));
    }
    if service.engine_socket {
        volumes.push(format!("{ENGINE_SOCKET}:{ENGINE_SOCKET}"));
    }
    for addon in &service.addons {
        volumes.push(format!("{}:{}:ro", filler(&addon.name), addon.path));
        depends_on.insert(filler(&addon.name), condition(true));
    }
    let memory = format!("{}m", service.memory >> 20);
    Container {
        container_name: service.container.clone(),
        image: pinned.unwrap_or_else(|| local_image(recipe)),
        pull_policy: local.then_some("never"),
        working_dir: service.working_dir.clone(),
        command: service.command.iter().map(|c| literal(c)).collect(),
        environment: service.environment.iter().map(|(k, v)| (k.clone(), literal(v))).collect(),
        ports: service
            .ports
            .iter()
            .filter_map(|p| Some(format!("127.0.0.1:{}:{}", p.host?, p.container)))
            .collect(),
        volumes,
        depends_on,
        healthcheck: service.health.as_ref().map(|health| Healthcheck {
            test: std::iter::once("CMD".to_owned())
                .chain(health.command.iter().map(|c| literal(c)))
                .collect(),
            interval: format!("{}s", health.interval),
            timeout: format!("{}s", health.timeout),
            start_period: format!("{}s", health.start),
            retries: health.retries,
        }),
        mem_limit: Some(memory.clone()),
        memswap_limit: Some(memory),
        logging: Some(Logging {
            driver: "json-file",
            options: BTreeMap::from([
                ("max-size", format!("{}m", service.log.megabytes)),
                ("max-file", service.log.files.to_string()),
            ]),
        }),
        restart: Some(match service.restart {
            Restart::No => Restart::No.name().to_owned(),
            often => format!("{}:{}", often.name(), Restart::MOST),
        }),
        stop_grace_period: format!("{}s", service.stop.grace),
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
