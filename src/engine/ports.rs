//! Host ports: is one free, and who holds it. A process is found through /proc, so on Linux only.

use std::collections::BTreeSet;
use std::fmt;
use std::net::{Ipv4Addr, TcpListener};

use anyhow::{Result, bail};
use testcontainers::bollard::models::ContainerSummary;
use testcontainers::bollard::query_parameters::ListContainersOptions;

use super::Engine;
use crate::project::Project;
use crate::topology::{Instance, Topology};

/// The process that listens on a port.
#[derive(Debug, Clone, PartialEq, Eq)]
struct PortHolder {
    /// Process id; none when it belongs to another user.
    pid: Option<u32>,
    /// Its name, or what is known instead.
    name: String,
}

impl fmt::Display for PortHolder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.pid {
            Some(pid) => write!(f, "{} (pid {pid})", self.name),
            None => f.write_str(&self.name),
        }
    }
}

/// A host port that a lab wants and somebody has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TakenPort {
    /// The port.
    pub port: u16,
    /// The service that wants it.
    pub service: String,
    /// Who has it, in words: a container, a process, or somebody.
    pub holder: String,
    /// The compose project of that container, if it has one.
    project: Option<String>,
}

/// The host ports of a topology that are taken. Without an engine, containers go by the process that publishes for them.
///
/// # Errors
/// The engine does not answer.
pub async fn taken_ports(engine: Option<&Engine>, topology: &Topology) -> Result<Vec<TakenPort>> {
    let taken: Vec<_> = topology.host_ports().filter(|(port, ..)| !is_free(*port)).collect();
    let containers = match engine {
        Some(engine) if !taken.is_empty() => {
            engine.docker.list_containers(None::<ListContainersOptions>).await?
        }
        _ => Vec::new(),
    };
    let who = |(port, service, _): (u16, &crate::topology::Service, _)| {
        let publishes = |c: &&ContainerSummary| c.ports.iter().flatten().any(|p| p.public_port == Some(port));
        let publisher = containers.iter().find(publishes);
        let holder = match publisher {
            Some(container) => {
                let names = container.names.iter().flatten().map(|n| n.trim_start_matches('/'));
                format!("the container {}", names.collect::<Vec<_>>().join(", "))
            }
            None => holder_of(port).map_or("somebody".to_owned(), |holder| holder.to_string()),
        };
        let labels = publisher.and_then(|c| c.labels.as_ref());
        let project = labels.and_then(|l| l.get("com.docker.compose.project")).cloned();
        TakenPort { port, service: service.name.clone(), holder, project }
    };
    Ok(taken.into_iter().map(who).collect())
}

impl Engine {
    /// All ports that are taken, in one message, with who holds them.
    pub(super) async fn ports_are_free(&self, topology: &Topology) -> Result<()> {
        let taken = taken_ports(Some(self), topology).await?;
        if taken.is_empty() {
            return Ok(());
        }
        let projects: BTreeSet<_> = taken.iter().filter_map(|t| t.project.as_deref()).collect();
        let hint = match projects.first() {
            Some(project) => format!(
                "Docker compose runs them: docker compose -p {project} down   (or start another --instance, which moves its ports)"
            ),
            None => "End what holds them, or start with --port-offset 1000 (every host port moves by it)."
                .to_owned(),
        };
        let line = |t: &TakenPort| format!("  {} for {}: held by {}", t.port, t.service, t.holder);
        let lines: Vec<_> = taken.iter().map(line).collect();
        bail!("host port(s) taken:\n{}\n  {hint}", lines.join("\n"))
    }
}

/// Whether a service could be published on 127.0.0.1 at `port`.
fn is_free(port: u16) -> bool {
    // Without SO_REUSEADDR a connection in TIME_WAIT would count as a holder; std sets it on Unix.
    TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok()
        && TcpListener::bind((Ipv4Addr::UNSPECIFIED, port)).is_ok()
}

/// The first port offset with which every host port of a lab is free.
///
/// # Errors
/// An unknown lab, or no such offset.
pub fn free_offset(project: &Project, lab: Option<&str>, instance: &str) -> Result<u16> {
    project.topology(lab, Instance::new(instance, 0)?)?;
    for offset in (0..16_000).step_by(100) {
        // Some offsets would put a port on a documented one of another service.
        let Ok(topology) = project.topology(lab, Instance::new(instance, offset)?) else { continue };
        if topology.host_ports().all(|(port, ..)| is_free(port)) {
            return Ok(offset);
        }
    }
    bail!("no port offset up to 16000 has every port free; give one with --port-offset")
}

/// Who listens on `port`, if that can be told.
fn holder_of(port: u16) -> Option<PortHolder> {
    let mut inodes = Vec::new();
    for table in ["/proc/net/tcp", "/proc/net/tcp6"] {
        let text = std::fs::read_to_string(table).unwrap_or_default();
        inodes.extend(text.lines().skip(1).filter_map(|line| listening_inode(line, port)));
    }
    if inodes.is_empty() {
        return None;
    }
    let unknown = PortHolder { pid: None, name: "a process of another user".to_owned() };
    let Ok(processes) = std::fs::read_dir("/proc") else { return Some(unknown) };
    for process in processes.flatten() {
        let Some(pid) = process.file_name().to_str().and_then(|n| n.parse::<u32>().ok()) else { continue };
        let Ok(files) = std::fs::read_dir(process.path().join("fd")) else { continue };
        let holds = files.flatten().filter_map(|f| std::fs::read_link(f.path()).ok()).any(|target| {
            let target = target.to_string_lossy().into_owned();
            inodes.iter().any(|inode| target == format!("socket:[{inode}]"))
        });
        if holds {
            let name = std::fs::read_to_string(process.path().join("comm")).unwrap_or_default();
            return Some(PortHolder { pid: Some(pid), name: name.trim().to_owned() });
        }
    }
    Some(unknown)
}

/// The socket's inode, if a line of /proc/net/tcp is a listener on `port`.
fn listening_inode(line: &str, port: u16) -> Option<String> {
    let fields: Vec<_> = line.split_whitespace().collect();
    let local = u16::from_str_radix(fields.get(1)?.rsplit(':').next()?, 16).ok()?;
    (local == port && *fields.get(3)? == "0A").then(|| fields.get(9).map(|i| (*i).to_owned()))?
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_listener_is_found_with_its_process() {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let port = listener.local_addr().unwrap().port();
        assert!(!is_free(port));
        if cfg!(target_os = "linux") {
            assert_eq!(holder_of(port).unwrap().pid, Some(std::process::id()));
        }
        drop(listener);
        assert!(is_free(port));
        assert_eq!(holder_of(port), None);
    }
}
