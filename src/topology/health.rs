//! Readiness as a command inside the container: the same questions as the engine's, for compose and the virtual machine.

use super::roster::{Entry, Roster};
use super::{Health, Instance, Port, Ready};

/// Folder of the project with one script a question; every service has it at [`PATH`].
pub(super) const SOURCE: &str = "compose/health";
/// Where services have it.
pub(super) const PATH: &str = "/opt/streamlab/health";

/// The health question of a service. None for a service that is ready when it has ended.
pub(super) fn of(
    roster: &Roster<'_>,
    entry: &Entry<'_>,
    instance: &Instance,
    ports: &[Port],
) -> Option<Health> {
    let port = |name: &str| ports.iter().find(|p| p.name == name);
    let inside = |name: &str| port(name).map(|p| p.container.to_string());
    let (question, arguments) = match &entry.spec.ready {
        Ready::Tcp { port } => ("tcp", vec![inside(port)?]),
        Ready::Kafka { port: name } => ("kafka", vec![inside(name)?, port(name)?.host?.to_string()]),
        Ready::Http { port, path, contains, .. } => {
            let mut arguments = vec!["127.0.0.1".to_owned(), inside(port)?, path.clone()];
            arguments.extend(contains.iter().cloned());
            ("http", arguments)
        }
        Ready::SparkWorker { master, port } => {
            let ui = roster.service(master)?.spec.ports.get(port)?.port.to_string();
            ("spark-worker", vec![instance.container(master), ui, instance.container(entry.name)])
        }
        Ready::Completed => return None,
    };
    // Not every public image has bash: what those are asked goes without it.
    let shell = if matches!(question, "kafka" | "spark-worker") { "bash" } else { "sh" };
    let mut command = vec![shell.to_owned(), format!("{PATH}/{question}")];
    command.extend(arguments);
    Some(Health { command, interval: 3, timeout: 10, start: entry.spec.ready.timeout_seconds(), retries: 5 })
}
