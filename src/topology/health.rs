//! Readiness as a command inside the container: the same questions as the engine's, for compose and the virtual machine.

use super::{Ready, Service, Topology};

/// Folder of the project with one script a question; every service has it at [`PATH`].
pub(super) const SOURCE: &str = "compose/health";
/// Where services have it.
pub(super) const PATH: &str = "/opt/streamlab/health";

impl Topology {
    /// The command that ends with 0 inside the container when the service is ready. None for a service that is ready
    /// when it has ended.
    pub fn health(&self, service: &Service) -> Option<Vec<String>> {
        let inside =
            |name: &str| service.ports.iter().find(|p| p.name == name).map(|p| p.container.to_string());
        let (question, arguments) = match &service.ready {
            Ready::Tcp { port } => ("tcp", vec![inside(port)?]),
            Ready::Kafka { port } => {
                let advertised = service.ports.iter().find(|p| &p.name == port)?.host?;
                ("kafka", vec![inside(port)?, advertised.to_string()])
            }
            Ready::Http { port, path, contains, .. } => {
                let mut arguments = vec!["127.0.0.1".to_owned(), inside(port)?, path.clone()];
                arguments.extend(contains.iter().cloned());
                ("http", arguments)
            }
            Ready::SparkWorker { master } => {
                let master = self.service(master)?;
                let ui = master.ports.iter().find(|p| p.name == "ui")?.container.to_string();
                ("spark-worker", vec![master.container.clone(), ui, service.container.clone()])
            }
            Ready::Completed => return None,
        };
        // Not every public image has bash: what those are asked goes without it.
        let shell = if matches!(question, "kafka" | "spark-worker") { "bash" } else { "sh" };
        let mut command = vec![shell.to_owned(), format!("{PATH}/{question}")];
        command.extend(arguments);
        Some(command)
    }
}
