//! Readiness: each kind of `lab.toml` as a question to the running service.

use std::time::Duration;

use anyhow::{Context, Result, anyhow};

use super::Engine;
use crate::clients::{kafka, spark};
use crate::probes::{Answer, GaveUp, eventually};
use crate::topology::{Ready, Service, Topology};

/// How often a service that is starting is asked.
const EVERY: Duration = Duration::from_millis(250);

impl Engine {
    /// Waits until a service is ready, for as long as its kind is given or for `patience`.
    pub(super) async fn wait_ready(
        &self,
        topology: &Topology,
        service: &Service,
        patience: Option<Duration>,
    ) -> Result<(), GaveUp> {
        let question = format!("start of {}", service.name);
        let patience = patience.unwrap_or(Duration::from_secs(service.ready.timeout_seconds()));
        let mut asked = 0_u32;
        eventually(&question, patience, EVERY, || {
            asked += 1;
            // Inspecting costs the engine more than the question costs the service.
            let look = asked.is_multiple_of(4);
            async move {
                if look && let Some(ended) = self.ended(service).await? {
                    return Ok(ended);
                }
                self.ask(topology, service).await
            }
        })
        .await
    }

    /// An answer, if the container has ended: success for one that only had to run, otherwise never.
    async fn ended(&self, service: &Service) -> Result<Option<Answer<()>>> {
        let found = self
            .docker
            .inspect_container(
                &service.container,
                None::<testcontainers::bollard::query_parameters::InspectContainerOptions>,
            )
            .await?;
        let state = found.state.context("no state")?;
        if state.running == Some(true) {
            return Ok(None);
        }
        let code = state.exit_code.unwrap_or_default();
        if service.ready == Ready::Completed && code == 0 {
            return Ok(Some(Answer::Is(())));
        }
        let killed =
            if state.oom_killed == Some(true) { ", killed for passing its memory limit" } else { "" };
        Ok(Some(Answer::Never(anyhow!("it has ended with exit code {code}{killed}"))))
    }

    async fn ask(&self, topology: &Topology, service: &Service) -> Result<Answer<()>> {
        let port = |name: &str| {
            let port = service.ports.iter().find(|p| p.name == name).context("no such port")?;
            port.host.with_context(|| format!("port {name} is not published"))
        };
        match &service.ready {
            Ready::Tcp { .. } => self.healthy_inside(topology, service).await,
            Ready::Kafka { port: name } => kafka::node_serves(port(name)?).await,
            // A port that is not published is asked inside.
            Ready::Http { port: name, .. } if port(name).is_err() => {
                self.healthy_inside(topology, service).await
            }
            Ready::Http { port: name, path, contains, .. } => {
                let url = format!("http://127.0.0.1:{}{path}", port(name)?);
                let answer = crate::clients::http().get(&url).send().await?;
                let status = answer.status();
                let body = answer.text().await?;
                if !status.is_success() {
                    return Ok(Answer::NotYet(format!("{url} answers {status}")));
                }
                Ok(match contains.iter().find(|text| !body.contains(*text)) {
                    Some(text) => Answer::NotYet(format!("{url} does not hold {text:?}")),
                    None => Answer::Is(()),
                })
            }
            Ready::SparkWorker { master } => {
                let master = topology.service(master).context("no master")?;
                let ui = master.ports.iter().find(|p| p.name == "ui").and_then(|p| p.host);
                let workers = spark::alive_workers(ui.context("the master's ui is not published")?).await?;
                Ok(if workers.contains(&service.container) {
                    Answer::Is(())
                } else {
                    Answer::NotYet(format!("the master knows the workers {workers:?}"))
                })
            }
            Ready::Completed => Ok(self
                .ended(service)
                .await?
                .unwrap_or_else(|| Answer::NotYet("it is still running".to_owned()))),
        }
    }

    /// Asks by the command that compose and the virtual machine ask by. One call waits inside for a while: an engine
    /// call costs more than that.
    async fn healthy_inside(&self, topology: &Topology, service: &Service) -> Result<Answer<()>> {
        let health = topology.health(service).context("it has no health command")?;
        let script = r#"for i in 1 2 3 4 5 6 7 8 9 10; do "$@" && exit; sleep 0.5; done; exit 1"#;
        let mut command = vec!["sh", "-c", script, "health"];
        command.extend(health.iter().map(String::as_str));
        let output = self.exec(&service.container, &command).await?;
        Ok(match output.code {
            0 => Answer::Is(()),
            _ => Answer::NotYet(format!("{} fails inside {}", health.join(" "), output.text.trim())),
        })
    }
}
