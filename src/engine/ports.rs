//! Host ports: is one free, who has it, and keeping it free until the engine publishes on it. A process is found through /proc,
//! so on Linux only.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::fmt;
use std::net::{Ipv4Addr, TcpListener};
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Result, anyhow, bail};
use testcontainers::bollard::models::ContainerSummary;
use testcontainers::bollard::query_parameters::ListContainersOptions;
use tokio::net::TcpSocket;

use super::Engine;
use super::docker::past_podmans_states;
use crate::probes::{Answer, eventually};
use crate::project::Project;
use crate::topology::{Instance, Plan};

/// Linux keeps a port for 60 s after the connection that had it was closed (TIME_WAIT).
const CONNECTION_ENDS_WITHIN: Duration = Duration::from_secs(75);
const ASKED_EVERY: Duration = Duration::from_millis(250);

/// Who has a port on this machine.
#[derive(Debug, Clone, PartialEq, Eq)]
struct PortHolder {
    /// It is a connection's own end, not a listener: the kernel gives such ports to outgoing connections.
    connection: bool,
    /// Process id; none when it belongs to another user, or the connection was closed.
    pid: Option<u32>,
    /// Its name, or what is known instead.
    name: String,
}

impl fmt::Display for PortHolder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.connection {
            f.write_str("an outgoing connection of ")?;
        }
        match self.pid {
            Some(pid) => write!(f, "{} (pid {pid})", self.name),
            None => f.write_str(&self.name),
        }
    }
}

/// A port that is to be published, and the service that wants it.
pub(super) type WantedPort = (u16, String);

/// Ports that no outgoing connection can get while this is there. Whoever wants to listen on them still can.
pub(super) struct HeldPorts {
    _sockets: BTreeMap<u16, TcpSocket>,
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
    /// An outgoing connection has it: it is free again a minute after that has ended.
    pub passing: bool,
    /// The compose project of that container, if it has one.
    project: Option<String>,
}

/// The host ports of a plan that are taken. Without an engine, containers go by the process that publishes for them.
///
/// # Errors
/// The engine does not answer.
pub async fn taken_ports(engine: Option<&Engine>, plan: &Plan) -> Result<Vec<TakenPort>> {
    taken_of(engine, &wanted_ports(plan)).await
}

pub(super) fn wanted_ports(plan: &Plan) -> Vec<WantedPort> {
    plan.host_ports().map(|(port, service, _)| (port, service.name.clone())).collect()
}

async fn taken_of(engine: Option<&Engine>, wanted: &[WantedPort]) -> Result<Vec<TakenPort>> {
    let taken: Vec<_> = wanted.iter().filter(|(port, _)| !is_free(*port)).collect();
    let containers = match engine {
        Some(engine) if !taken.is_empty() => {
            past_podmans_states(|| engine.docker.list_containers(None::<ListContainersOptions>)).await?
        }
        _ => Vec::new(),
    };
    let who = |(port, service): &WantedPort| {
        let publishes =
            |c: &&ContainerSummary| c.ports.iter().flatten().any(|p| p.public_port == Some(*port));
        let publisher = containers.iter().find(publishes);
        let process = if publisher.is_none() { holder_of(*port) } else { None };
        let holder = match publisher {
            Some(container) => {
                let names = container.names.iter().flatten().map(|n| n.trim_start_matches('/'));
                format!("the container {}", names.collect::<Vec<_>>().join(", "))
            }
            None => process.as_ref().map_or("somebody".to_owned(), PortHolder::to_string),
        };
        let labels = publisher.and_then(|c| c.labels.as_ref());
        let project = labels.and_then(|l| l.get("com.docker.compose.project")).cloned();
        // Nobody in the kernel's table: it has become free just now.
        let passing = publisher.is_none() && process.map_or(cfg!(target_os = "linux"), |p| p.connection);
        TakenPort { port: *port, service: service.clone(), holder, passing, project }
    };
    Ok(taken.into_iter().map(who).collect())
}

impl Engine {
    /// Keeps ports free until the engine has published on them. Where nobody but outgoing connections has one it waits for their
    /// end, and says so once.
    ///
    /// # Errors
    /// Somebody listens on one: all that are taken, in one message, with who has them. Or a connection does not end.
    pub(super) async fn hold_ports(&self, wanted: &[WantedPort], say: impl Fn(String)) -> Result<HeldPorts> {
        let held = Mutex::new(BTreeMap::new());
        let said = AtomicBool::new(false);
        let held_by_none = eventually("host ports", CONNECTION_ENDS_WITHIN, ASKED_EVERY, || async {
            keep(wanted, &mut held.lock().unwrap_or_else(PoisonError::into_inner));
            let taken = taken_of(Some(self), wanted).await?;
            if taken.is_empty() {
                return Ok(Answer::Is(()));
            }
            let what = refusal(&taken);
            if taken.iter().any(|t| !t.passing) {
                return Ok(Answer::Never(anyhow!(what)));
            }
            if !said.swap(true, Relaxed) {
                say(format!("waiting for the end of connections, which have {what}"));
            }
            Ok(Answer::NotYet(what))
        });
        held_by_none.await.map_err(|gave_up| anyhow!(gave_up.last))?;
        Ok(HeldPorts { _sockets: held.into_inner().unwrap_or_else(PoisonError::into_inner) })
    }

    /// The host ports that a container is published on when it runs.
    pub(super) async fn ports_of(&self, container: &str) -> Result<Vec<WantedPort>> {
        let found = self.look_at(container).await?;
        let bindings = found.host_config.and_then(|c| c.port_bindings).unwrap_or_default();
        let ports = bindings.into_values().flatten().flatten().filter_map(|b| b.host_port?.parse().ok());
        Ok(ports.map(|port| (port, container.to_owned())).collect())
    }
}

/// All ports that are taken, with who has them and what to do.
fn refusal(taken: &[TakenPort]) -> String {
    let project = taken.iter().find_map(|t| t.project.as_deref());
    let hint = match project {
        Some(project) => format!(
            "Docker compose runs them: docker compose -p {project} down   (or start another --instance, which moves its ports)"
        ),
        None if taken.iter().all(|t| t.passing) => {
            let ports: Vec<_> = taken.iter().map(|t| t.port.to_string()).collect();
            format!(
                "The system gives such ports to connections. To keep them for the lab: sudo sysctl -w net.ipv4.ip_local_reserved_ports={}",
                ports.join(",")
            )
        }
        None => {
            "End what holds them, or start with --port-offset 1000 (every host port moves by it).".to_owned()
        }
    };
    let line = |t: &TakenPort| format!("  {} for {}: held by {}", t.port, t.service, t.holder);
    let lines: Vec<_> = taken.iter().map(line).collect();
    format!("host port(s) taken:\n{}\n  {hint}", lines.join("\n"))
}

/// Binds a socket to each port that none is bound to yet, and does not listen. No connection gets such a port then, and a listener
/// with SO_REUSEADDR, as engines have, still does. Elsewhere than on Linux such a socket would shut the listener out.
fn keep(wanted: &[WantedPort], held: &mut BTreeMap<u16, TcpSocket>) {
    if !cfg!(target_os = "linux") {
        return;
    }
    let bound = |port: u16| {
        let socket = TcpSocket::new_v4()?;
        socket.set_reuseaddr(true)?;
        socket.bind((Ipv4Addr::LOCALHOST, port).into())?;
        std::io::Result::Ok(socket)
    };
    for (port, _) in wanted {
        if let (Entry::Vacant(place), Ok(socket)) = (held.entry(*port), bound(*port)) {
            place.insert(socket);
        }
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
    project.plan(lab, Instance::new(instance, 0)?)?;
    for offset in (0..16_000).step_by(100) {
        // Some offsets would put a port on a documented one of another service.
        let Ok(plan) = project.plan(lab, Instance::new(instance, offset)?) else { continue };
        if plan.host_ports().all(|(port, ..)| is_free(port)) {
            return Ok(offset);
        }
    }
    bail!("no port offset up to 16000 has every port free; give one with --port-offset")
}

/// Who has `port`, if that can be told: a listener before a connection.
fn holder_of(port: u16) -> Option<PortHolder> {
    let mut sockets = Vec::new();
    for table in ["/proc/net/tcp", "/proc/net/tcp6"] {
        let text = std::fs::read_to_string(table).unwrap_or_default();
        sockets.extend(text.lines().skip(1).filter_map(|line| socket_on(line, port)));
    }
    let connection = !sockets.iter().any(|s| s.listens);
    sockets.retain(|s| s.listens != connection);
    let inodes: Vec<_> = sockets.into_iter().map(|s| s.inode).collect();
    // A closed connection belongs to nobody any more.
    if connection && inodes.iter().all(|inode| inode == "0") {
        let name = "a program that has closed it".to_owned();
        return (!inodes.is_empty()).then_some(PortHolder { connection, pid: None, name });
    }
    let unknown = PortHolder { connection, pid: None, name: "a process of another user".to_owned() };
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
            return Some(PortHolder { connection, pid: Some(pid), name: name.trim().to_owned() });
        }
    }
    Some(unknown)
}

/// A socket in the kernel's table.
struct SocketRow {
    inode: String,
    listens: bool,
}

/// What a line of /proc/net/tcp says, if it is of a socket with this port of its own.
fn socket_on(line: &str, port: u16) -> Option<SocketRow> {
    let fields: Vec<_> = line.split_whitespace().collect();
    let local = u16::from_str_radix(fields.get(1)?.rsplit(':').next()?, 16).ok()?;
    let (state, inode) = (*fields.get(3)?, (*fields.get(9)?).to_owned());
    (local == port).then(|| SocketRow { inode, listens: state == "0A" })
}

#[cfg(test)]
mod tests {
    use std::net::TcpStream;

    use super::*;

    #[test]
    fn a_listener_is_found_with_its_process() {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let port = listener.local_addr().unwrap().port();
        assert!(!is_free(port));
        if cfg!(target_os = "linux") {
            let holder = holder_of(port).unwrap();
            assert_eq!((holder.pid, holder.connection), (Some(std::process::id()), false));
        }
        drop(listener);
        assert!(is_free(port));
        assert_eq!(holder_of(port), None);
    }

    /// The ends of a connection: its own, and the one that was accepted.
    fn connection() -> (TcpStream, TcpStream) {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let out = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        (out, listener.accept().unwrap().0)
    }

    #[test]
    #[cfg(target_os = "linux")]
    fn an_outgoing_connection_is_no_listener_also_after_it_was_closed() {
        let (out, accepted) = connection();
        let port = out.local_addr().unwrap().port();
        assert!(!is_free(port));
        let holder = holder_of(port).unwrap();
        assert_eq!((holder.pid, holder.connection), (Some(std::process::id()), true));
        drop(out);
        drop(accepted);
        assert!(!is_free(port));
        let holder = holder_of(port).unwrap();
        assert_eq!((holder.pid, holder.connection), (None, true));
        let said = holder.to_string();
        assert_eq!(said, "an outgoing connection of a program that has closed it");
    }

    #[tokio::test]
    #[cfg(target_os = "linux")]
    async fn a_kept_port_goes_to_a_listener_and_not_to_a_connection() {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let port = listener.local_addr().unwrap().port();
        drop(listener);
        let mut kept = BTreeMap::new();
        keep(&[(port, "alpha".to_owned())], &mut kept);
        assert!(is_free(port), "a listener can have it");
        // As a connection does: without SO_REUSEADDR.
        assert!(TcpSocket::new_v4().unwrap().bind((Ipv4Addr::LOCALHOST, port).into()).is_err());
        let _listener = TcpListener::bind((Ipv4Addr::LOCALHOST, port)).unwrap();
        drop(kept);
        assert!(!is_free(port));
    }
}
