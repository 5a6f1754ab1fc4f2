//! One container of a plan as a testcontainers request. Services that only run and end are made in `once`. Ready conditions are not its
//! business: see `ready`.

use std::borrow::Cow;
use std::collections::{BTreeSet, HashMap};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, anyhow, bail};
use testcontainers::bollard::models::{
    HostConfig, HostConfigLogConfig, PortBinding, RestartPolicy, RestartPolicyNameEnum,
};
use testcontainers::core::{AccessMode, ContainerPort, Mount, WaitFor};
use testcontainers::runners::AsyncRunner;
use testcontainers::{ContainerAsync, Image, ImageExt};

use super::{Engine, GRACE_LABEL, INSTANCE_LABEL, Resolved, SERVICE_LABEL, STOPS_LAST_LABEL};
use crate::topology::{ENGINE_SOCKET, Plan, Ready, Restart, Service, Volume};

/// A service of the plan, as testcontainers wants it.
#[derive(Debug, Clone)]
pub(super) struct ServiceImage {
    id: String,
    environment: HashMap<String, String>,
    command: Vec<String>,
    mounts: Vec<Mount>,
    inside: Vec<ContainerPort>,
}

impl Image for ServiceImage {
    // testcontainers joins `name:tag`. The two halves of the image id, `sha256` and its digits, fit: an id is never pulled.
    fn name(&self) -> &str {
        self.id.split(':').next().unwrap_or_default()
    }
    fn tag(&self) -> &str {
        self.id.split(':').nth(1).unwrap_or_default()
    }
    fn ready_conditions(&self) -> Vec<WaitFor> {
        Vec::new()
    }
    fn env_vars(&self) -> impl IntoIterator<Item = (impl Into<Cow<'_, str>>, impl Into<Cow<'_, str>>)> {
        &self.environment
    }
    fn cmd(&self) -> impl IntoIterator<Item = impl Into<Cow<'_, str>>> {
        &self.command
    }
    fn mounts(&self) -> impl IntoIterator<Item = &Mount> {
        &self.mounts
    }
    fn expose_ports(&self) -> &[ContainerPort] {
        &self.inside
    }
}

impl Engine {
    /// Starts the container of one service. Dropping the handle removes the container; there is none for a service that only runs and
    /// ends.
    pub(super) async fn start_service(
        &self,
        root: &Path,
        plan: &Plan,
        service: &Service,
        resolved: &Resolved,
    ) -> Result<Option<ContainerAsync<ServiceImage>>> {
        if service.ready == Ready::Completed {
            self.start_once(root, plan, service, resolved).await?;
            return Ok(None);
        }
        let image = ServiceImage {
            id: resolved.images[&service.image].clone(),
            environment: service.environment.clone().into_iter().collect(),
            command: service.command.clone(),
            mounts: mounts(root, service, resolved)?,
            inside: service.ports.iter().map(|p| ContainerPort::Tcp(p.container)).collect(),
        };
        let mut request = image
            .with_container_name(&service.container)
            .with_network(&plan.network)
            .with_labels(labels(plan, service))
            .with_startup_timeout(std::time::Duration::from_secs(120))
            // Runs last: testcontainers by itself publishes on every address.
            .with_host_config_modifier(host_settings(service)?);
        if let Some(dir) = &service.working_dir {
            request = request.with_working_dir(dir);
        }
        request.start().await.map(Some).map_err(|e| start_failure(service, &e))
    }
}

/// What the plan says of a container beyond its program: ports, memory, log, whether it is started again.
pub(super) fn host_settings(service: &Service) -> Result<impl Fn(&mut HostConfig) + Send + Sync + 'static> {
    let bindings: HashMap<_, _> = service
        .ports
        .iter()
        .filter_map(|port| {
            let binding = PortBinding {
                host_ip: Some("127.0.0.1".to_owned()),
                host_port: Some(port.host?.to_string()),
            };
            Some((format!("{}/tcp", port.container), Some(vec![binding])))
        })
        .collect();
    let memory = i64::try_from(service.memory)?;
    let log = HashMap::from([
        ("max-size".to_owned(), format!("{}m", service.log.megabytes)),
        ("max-file".to_owned(), service.log.files.to_string()),
    ]);
    let restart = match service.restart {
        Restart::No => RestartPolicy { name: Some(RestartPolicyNameEnum::NO), maximum_retry_count: None },
        Restart::OnFailure => RestartPolicy {
            name: Some(RestartPolicyNameEnum::ON_FAILURE),
            maximum_retry_count: Some(Restart::MOST.into()),
        },
    };
    Ok(move |host: &mut HostConfig| {
        host.publish_all_ports = Some(false);
        host.port_bindings = Some(bindings.clone());
        host.memory = Some(memory);
        host.memory_swap = Some(memory);
        host.log_config =
            Some(HostConfigLogConfig { typ: Some("json-file".to_owned()), config: Some(log.clone()) });
        host.restart_policy = Some(restart.clone());
    })
}

/// What a container of the lab is known by.
pub(super) fn labels(plan: &Plan, service: &Service) -> Vec<(&'static str, String)> {
    let mut labels = vec![
        (INSTANCE_LABEL, plan.instance.name().to_owned()),
        (SERVICE_LABEL, service.name.clone()),
        (GRACE_LABEL, service.stop.grace.to_string()),
    ];
    if service.stop.last {
        labels.push((STOPS_LAST_LABEL, "true".to_owned()));
    }
    labels
}

/// Files of a plan that containers cannot read: their services run as other users than the one who owns the checkout.
#[cfg(unix)]
pub fn closed_files(root: &Path, plan: &Plan) -> Vec<PathBuf> {
    let mut closed = BTreeSet::new();
    for file in plan.services.iter().flat_map(|service| &service.files) {
        closed_below(root, Path::new(&file.source), &mut closed);
    }
    closed.into_iter().collect()
}

/// Only Unix has modes.
#[cfg(not(unix))]
pub fn closed_files(_: &Path, _: &Plan) -> Vec<PathBuf> {
    Vec::new()
}

#[cfg(unix)]
fn closed_below(root: &Path, path: &Path, closed: &mut BTreeSet<PathBuf>) {
    use std::os::unix::fs::PermissionsExt as _;
    // What is not there is said where it is mounted.
    let Ok(found) = root.join(path).metadata() else { return };
    let needed = if found.is_dir() { 0o005 } else { 0o004 };
    if found.permissions().mode() & needed != needed {
        closed.insert(path.to_owned());
    }
    if found.is_dir() {
        for entry in std::fs::read_dir(root.join(path)).into_iter().flatten().flatten() {
            closed_below(root, &path.join(entry.file_name()), closed);
        }
    }
}

/// Refuses a plan whose files containers cannot read, with the files and the command that opens them.
pub(super) fn files_are_open(root: &Path, plan: &Plan) -> Result<()> {
    let closed = closed_files(root, plan);
    let Some(first) = closed.first() else { return Ok(()) };
    let tops: BTreeSet<String> = closed
        .iter()
        .filter_map(|path| Some(path.components().next()?.as_os_str().to_string_lossy().into_owned()))
        .collect();
    let tops: Vec<_> = tops.into_iter().collect();
    let more = if closed.len() > 1 { format!(" and {} more", closed.len() - 1) } else { String::new() };
    bail!(
        "containers cannot read {}{more}: their services run as users of their own.\n  Open them: chmod -R go+rX {}   (in {}; a checkout made under umask 077 is closed)",
        first.display(),
        tops.join(" "),
        root.display()
    )
}

fn volume(volume: &Volume) -> Mount {
    let mount = Mount::volume_mount(&volume.name, &volume.path);
    if volume.read_only { mount.with_access_mode(AccessMode::ReadOnly) } else { mount }
}

pub(super) fn mounts(root: &Path, service: &Service, resolved: &Resolved) -> Result<Vec<Mount>> {
    let mut mounts: Vec<Mount> = service.volumes.iter().map(volume).collect();
    if service.engine_socket {
        mounts.push(Mount::bind_mount(engine_socket(), ENGINE_SOCKET));
    }
    for file in &service.files {
        mounts.push(read_only(&root.join(&file.source), &file.path)?);
    }
    for addon in &service.addons {
        let reference = resolved.addons.get(&addon.name);
        let reference = reference.with_context(|| format!("add-on {} has no image", addon.name))?;
        let volume = addon_volume(&addon.name, reference);
        mounts.push(Mount::volume_mount(volume, &addon.path).with_access_mode(AccessMode::ReadOnly));
    }
    Ok(mounts)
}

/// Where the engine's own machine has its socket: elsewhere only for an engine without root on this one.
fn engine_socket() -> String {
    let host = std::env::var("DOCKER_HOST").unwrap_or_default();
    host.strip_prefix("unix://").filter(|_| cfg!(target_os = "linux")).unwrap_or(ENGINE_SOCKET).to_owned()
}

fn read_only(source: &Path, target: &str) -> Result<Mount> {
    let source = source.canonicalize().with_context(|| format!("{} cannot be mounted", source.display()))?;
    let source = source.to_str().context("a mounted path must be UTF-8")?;
    Ok(Mount::bind_mount(source, target).with_access_mode(AccessMode::ReadOnly))
}

/// The volume that holds an add-on: its name carries the hash, so a changed add-on is another volume.
pub(super) fn addon_volume(name: &str, reference: &str) -> String {
    let hash = reference.rsplit(':').next().unwrap_or_default();
    format!("streamlab-addon-{name}-{hash}")
}

pub(super) fn start_failure(service: &Service, error: &dyn std::error::Error) -> anyhow::Error {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(inner) = cause {
        text = inner.to_string();
        cause = inner.source();
    }
    let hint = if text.contains("is already in use by container") {
        format!(
            "\n  It is not this lab's: docker rm -f {}, or start as another --instance.",
            service.container
        )
    } else {
        String::new()
    };
    anyhow!("{} could not be started: {text}{hint}", service.name)
}
