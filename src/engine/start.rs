//! The one file that starts containers: each service of the topology is a testcontainers `Image`, for `lab up` and
//! for the tests alike.

use std::borrow::Cow;
use std::collections::HashMap;
use std::path::Path;

use anyhow::{Context, Result, anyhow};
use testcontainers::bollard::models::{HostConfigLogConfig, PortBinding};
use testcontainers::core::{AccessMode, ContainerPort, Mount, WaitFor};
use testcontainers::runners::AsyncRunner;
use testcontainers::{ContainerAsync, Image, ImageExt};

use super::{Engine, INSTANCE_LABEL, Resolved, SERVICE_LABEL, STOPS_LAST_LABEL};
use crate::project::Project;
use crate::topology::{ENGINE_SOCKET, Service, Topology};

/// A service of the topology, as testcontainers wants it. Ready conditions are not its business: see `ready`.
#[derive(Debug, Clone)]
pub(super) struct ServiceImage {
    id: String,
    environment: HashMap<String, String>,
    command: Vec<String>,
    mounts: Vec<Mount>,
    inside: Vec<ContainerPort>,
}

impl Image for ServiceImage {
    // The reference is `name:tag`; an image id is `sha256:hex`, which nothing can be pulled for behind our back.
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
    /// Starts the container of one service. Dropping the handle removes the container.
    pub(super) async fn start_service(
        &self,
        project: &Project,
        topology: &Topology,
        service: &Service,
        resolved: &Resolved,
    ) -> Result<ContainerAsync<ServiceImage>> {
        let image = ServiceImage {
            id: resolved.images[&service.image].clone(),
            environment: topology.environment(service).into_iter().collect(),
            command: service.command.clone(),
            mounts: mounts(project, service, resolved)?,
            inside: service.ports.iter().map(|p| ContainerPort::Tcp(p.container)).collect(),
        };
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
        let mut request = image
            .with_container_name(&service.container)
            .with_network(&topology.network)
            .with_labels([(INSTANCE_LABEL, topology.instance.name()), (SERVICE_LABEL, &service.name)])
            .with_startup_timeout(std::time::Duration::from_secs(120))
            .with_host_config_modifier(move |host| {
                // Runs last: testcontainers by itself publishes on every address.
                host.publish_all_ports = Some(false);
                host.port_bindings = Some(bindings.clone());
                host.memory = Some(memory);
                host.memory_swap = Some(memory);
                host.log_config = Some(HostConfigLogConfig {
                    typ: Some("json-file".to_owned()),
                    config: Some(HashMap::from([
                        ("max-size".to_owned(), "20m".to_owned()),
                        ("max-file".to_owned(), "2".to_owned()),
                    ])),
                });
            });
        if service.stops_last {
            request = request.with_label(STOPS_LAST_LABEL, "true");
        }
        if let Some(dir) = &service.working_dir {
            request = request.with_working_dir(dir);
        }
        request.start().await.map_err(|e| start_failure(service, &e))
    }
}

pub(super) fn mounts(project: &Project, service: &Service, resolved: &Resolved) -> Result<Vec<Mount>> {
    let mut mounts: Vec<Mount> =
        service.volumes.iter().map(|v| Mount::volume_mount(&v.name, &v.path)).collect();
    if service.engine_socket {
        mounts.push(Mount::bind_mount(engine_socket(), ENGINE_SOCKET));
    }
    for file in &service.files {
        mounts.push(read_only(&project.root.join(&file.source), &file.path)?);
    }
    for name in &service.addons {
        let addon = &project.file.addons[name];
        if let Some(reference) = resolved.addons.get(name) {
            let volume = addon_volume(name, reference);
            mounts.push(Mount::volume_mount(volume, &addon.mount).with_access_mode(AccessMode::ReadOnly));
        } else if let Some(folder) = &addon.files {
            let folder = project.root.join(folder);
            let entries = std::fs::read_dir(&folder).with_context(|| format!("{}", folder.display()))?;
            for entry in entries {
                let entry = entry?;
                let name = entry.file_name().to_string_lossy().into_owned();
                mounts.push(read_only(&entry.path(), &format!("{}/{name}", addon.mount))?);
            }
        }
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

fn start_failure(service: &Service, error: &testcontainers::TestcontainersError) -> anyhow::Error {
    use std::error::Error as _;
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
