//! Readiness: each kind of `lab.toml` as a question to the running service.

use std::sync::OnceLock;
use std::time::Duration;

use anyhow::{Context, Result, anyhow};
use testcontainers::bollard::models::ContainerState;

use super::Engine;
use crate::clients::{kafka, spark};
use crate::probes::{Answer, GaveUp, eventually};
use crate::topology::{Plan, Ready, Restart, Service};

/// How often a service that is starting is asked.
const EVERY: Duration = Duration::from_millis(250);

impl Engine {
    /// Waits until a service is ready, for as long as its kind is given or for `patience`.
    pub(super) async fn wait_ready(
        &self,
        plan: &Plan,
        service: &Service,
        patience: Option<Duration>,
    ) -> Result<(), GaveUp> {
        let question = format!("start of {}", service.name);
        let patience = patience.unwrap_or(Duration::from_secs(service.ready.timeout_seconds()));
        let mut asked = 0_u32;
        let restarts = OnceLock::new();
        eventually(&question, patience, EVERY, || {
            asked += 1;
            // Inspecting costs the engine more than the question costs the service.
            let look = asked.is_multiple_of(4);
            let restarts = &restarts;
            async move {
                if look && let Some(ended) = self.ended(service, restarts).await? {
                    return Ok(ended);
                }
                self.ask(plan, service).await
            }
        })
        .await
    }

    /// An answer, if the container has ended: success for one that only had to run, otherwise never. `restarts`: how often the
    /// engine had started it again when it was looked at first; once more, and it has ended too.
    async fn ended(&self, service: &Service, restarts: &OnceLock<i64>) -> Result<Option<Answer<()>>> {
        let found = self.look_at(&service.container).await?;
        let state = found.state.context("no state")?;
        let again = found.restart_count.unwrap_or_default();
        if again > *restarts.get_or_init(|| again) {
            let state = self.next_end(service).await.unwrap_or(state);
            return Ok(Some(Answer::Never(anyhow!(
                "it ends by itself with {}, also when it is started again",
                how_it_ended(&state)
            ))));
        }
        if state.running == Some(true) {
            return Ok(None);
        }
        if service.ready == Ready::Completed && state.exit_code == Some(0) {
            return Ok(Some(Answer::Is(())));
        }
        Ok(Some(Answer::Never(anyhow!("it has ended with {}", how_it_ended(&state)))))
    }

    /// The state in which a container that ends again and again has ended: while it runs its last exit code is not known.
    async fn next_end(&self, service: &Service) -> Option<ContainerState> {
        let every = Duration::from_millis(50);
        let ended = eventually("its next end", Duration::from_secs(10), every, || async {
            let state = self.look_at(&service.container).await?.state.context("no state")?;
            let runs = state.running == Some(true) && state.restarting != Some(true);
            Ok(if runs { Answer::NotYet("it runs".to_owned()) } else { Answer::Is(state) })
        });
        ended.await.ok()
    }

    /// What there is to say of a service that died by itself: how it ended and its last line, or how often the engine has started
    /// it again. None where all is well.
    pub async fn death(&self, service: &Service) -> Option<String> {
        let found = self.look_at(&service.container).await.ok()?;
        let state = found.state?;
        if state.running == Some(true) {
            let again = found.restart_count.filter(|n| *n > 0)?;
            return Some(format!(
                "it has died by itself and was started again, {again} of {} times",
                Restart::MOST
            ));
        }
        if service.ready == Ready::Completed && state.exit_code == Some(0) {
            return None;
        }
        let last = self.last_lines(&service.container, 1).await;
        let last = last.trim_start_matches([' ', '|']);
        let said = if last.is_empty() { String::new() } else { format!("; its last line: {last}") };
        Some(format!("it has ended with {}{said}", how_it_ended(&state)))
    }

    async fn ask(&self, plan: &Plan, service: &Service) -> Result<Answer<()>> {
        let port = |name: &str| {
            let port = service.ports.iter().find(|p| p.name == name).context("no such port")?;
            port.host.with_context(|| format!("port {name} is not published"))
        };
        match &service.ready {
            Ready::Tcp { .. } => self.healthy_inside(service).await,
            Ready::Kafka { port: name } => kafka::node_serves(port(name)?).await,
            // A port that is not published is asked inside.
            Ready::Http { port: name, .. } if port(name).is_err() => self.healthy_inside(service).await,
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
            Ready::SparkWorker { master, port: name } => {
                let master = plan.service(master).context("no master")?;
                let ui = master.ports.iter().find(|p| &p.name == name).and_then(|p| p.host);
                let workers = spark::alive_workers(ui.context("the master's ui is not published")?).await?;
                Ok(if workers.contains(&service.container) {
                    Answer::Is(())
                } else {
                    Answer::NotYet(format!("the master knows the workers {workers:?}"))
                })
            }
            Ready::Completed => Ok(self
                .ended(service, &OnceLock::new())
                .await?
                .unwrap_or_else(|| Answer::NotYet("it is still running".to_owned()))),
        }
    }

    /// Asks by the command that compose and the virtual machine ask by. One call waits inside for a while: an engine
    /// call costs more than that.
    async fn healthy_inside(&self, service: &Service) -> Result<Answer<()>> {
        let health = &service.health.as_ref().context("it has no health command")?.command;
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

fn how_it_ended(state: &ContainerState) -> String {
    let code = state.exit_code.unwrap_or_default();
    let killed = if state.oom_killed == Some(true) { ", killed for passing its memory limit" } else { "" };
    format!("exit code {code}{killed}")
}
