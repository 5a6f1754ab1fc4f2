//! What is asked of one container: run a command inside, read its log, its use of memory and CPU, kill, start.

use anyhow::{Context, Result};
use futures::{Stream, StreamExt, TryStreamExt};
use testcontainers::bollard::container::LogOutput;
use testcontainers::bollard::exec::StartExecResults;
use testcontainers::bollard::models::ExecConfig;
use testcontainers::bollard::query_parameters::{
    KillContainerOptions, LogsOptionsBuilder, StatsOptionsBuilder, StopContainerOptionsBuilder,
};

use super::Engine;

/// What a command inside a container gave.
#[derive(Debug, Clone)]
pub struct ExecOutput {
    /// Exit code.
    pub code: i64,
    /// Standard output, and then standard error: as they come, the one may cut a line of the other in two.
    pub text: String,
}

/// What a container uses.
#[derive(Debug, Clone, Copy, Default, serde::Serialize)]
pub struct Usage {
    /// Bytes now, without the page cache.
    pub memory: u64,
    /// The most it may have, in bytes.
    pub memory_limit: u64,
    /// CPU-seconds since it was started.
    pub cpu_seconds: f64,
    /// Bytes received over the network since it was started.
    pub received: u64,
    /// Bytes sent over the network since it was started.
    pub sent: u64,
}

impl Engine {
    /// Runs a command inside a container to its end.
    ///
    /// # Errors
    /// The container is not running, or the engine does not answer. A non-zero exit code is no error.
    pub async fn exec(&self, container: &str, command: &[&str]) -> Result<ExecOutput> {
        let config = ExecConfig {
            cmd: Some(command.iter().map(|c| (*c).to_owned()).collect()),
            attach_stdout: Some(true),
            attach_stderr: Some(true),
            ..Default::default()
        };
        let exec = self.docker.create_exec(container, config).await?;
        let (mut out, mut err) = (Vec::new(), Vec::new());
        if let StartExecResults::Attached { mut output, .. } = self.docker.start_exec(&exec.id, None).await? {
            while let Some(chunk) = output.next().await {
                match chunk? {
                    LogOutput::StdErr { message } => err.extend(message),
                    other => out.extend(other.into_bytes()),
                }
            }
        }
        let code = self.docker.inspect_exec(&exec.id).await?.exit_code;
        out.extend(err);
        let text = String::from_utf8_lossy(&out).into_owned();
        Ok(ExecOutput { code: code.context("the command has not ended")?, text })
    }

    /// The log of a container: the last `tail` lines (all where none), going on as it grows where `follow`.
    pub fn log(
        &self,
        container: &str,
        tail: Option<usize>,
        follow: bool,
    ) -> impl Stream<Item = Result<String>> + use<> {
        let options = LogsOptionsBuilder::new()
            .stdout(true)
            .stderr(true)
            .follow(follow)
            .tail(&tail.map_or("all".to_owned(), |n| n.to_string()))
            .build();
        let docker = self.docker.clone();
        let container = container.to_owned();
        async_log(docker, container, options)
    }

    /// The last telling lines of a container's log, indented; empty where there is none: see [`telling`].
    pub async fn last_lines(&self, container: &str, lines: usize) -> String {
        let log = self.log(container, Some(lines * 20), false);
        let text = log.try_collect::<Vec<String>>().await.unwrap_or_default().concat();
        telling(&text, lines)
    }

    /// What a container uses now.
    ///
    /// # Errors
    /// The container is not there, or the engine does not answer.
    pub async fn usage(&self, container: &str) -> Result<Usage> {
        let options = StatsOptionsBuilder::new().stream(false).one_shot(true).build();
        let stats = self.docker.stats(container, Some(options)).next().await.context("no figures")??;
        let memory = stats.memory_stats.unwrap_or_default();
        // What `docker stats` shows: use less the page cache that can go.
        let details = memory.stats.unwrap_or_default();
        let cache =
            details.get("inactive_file").or(details.get("total_inactive_file")).copied().unwrap_or_default();
        let cpu = stats.cpu_stats.and_then(|c| c.cpu_usage).and_then(|u| u.total_usage).unwrap_or_default();
        let networks = stats.networks.unwrap_or_default();
        #[allow(clippy::cast_precision_loss)]
        Ok(Usage {
            memory: memory.usage.unwrap_or_default().saturating_sub(cache),
            memory_limit: memory.limit.unwrap_or_default(),
            cpu_seconds: cpu as f64 / 1e9,
            received: networks.values().filter_map(|n| n.rx_bytes).sum(),
            sent: networks.values().filter_map(|n| n.tx_bytes).sum(),
        })
    }

    /// The most memory that a running container has had, in bytes, page cache included; none where the kernel keeps no
    /// such figure.
    pub async fn peak_memory(&self, container: &str) -> Option<u64> {
        // cgroup v2, then v1: the engine's own figures have it for v1 only.
        let script = "cat /sys/fs/cgroup/memory.peak 2>/dev/null || cat /sys/fs/cgroup/memory/memory.max_usage_in_bytes";
        self.exec(container, &["sh", "-c", script]).await.ok()?.text.trim().parse().ok()
    }

    /// Sends SIGKILL.
    ///
    /// # Errors
    /// The container is not running, or the engine does not answer.
    pub async fn kill(&self, container: &str) -> Result<()> {
        self.docker
            .kill_container(container, None::<KillContainerOptions>)
            .await
            .with_context(|| format!("{container} cannot be killed"))
    }

    /// Makes every process of a container stand still.
    ///
    /// # Errors
    /// The container is not running, or the engine does not answer.
    pub async fn pause(&self, container: &str) -> Result<()> {
        let paused = self.docker.pause_container(container).await;
        paused.with_context(|| format!("{container} cannot be paused"))
    }

    /// Lets a paused container go on.
    ///
    /// # Errors
    /// The container is not paused, or the engine does not answer.
    pub async fn unpause(&self, container: &str) -> Result<()> {
        let unpaused = self.docker.unpause_container(container).await;
        unpaused.with_context(|| format!("{container} cannot go on"))
    }

    /// Starts a container that has ended.
    ///
    /// # Errors
    /// The container is not there, or it cannot be started.
    pub async fn start_again(&self, container: &str) -> Result<()> {
        self.docker
            .start_container(
                container,
                None::<testcontainers::bollard::query_parameters::StartContainerOptions>,
            )
            .await
            .with_context(|| format!("{container} cannot be started"))
    }

    /// Stops a container: SIGTERM, and SIGKILL after `grace_seconds`.
    ///
    /// # Errors
    /// The engine does not answer.
    pub async fn stop(&self, container: &str, grace_seconds: i32) -> Result<()> {
        let options = StopContainerOptionsBuilder::new().t(grace_seconds).build();
        self.docker
            .stop_container(container, Some(options))
            .await
            .with_context(|| format!("{container} cannot be stopped"))
    }
}

fn async_log(
    docker: testcontainers::bollard::Docker,
    container: String,
    options: testcontainers::bollard::query_parameters::LogsOptions,
) -> impl Stream<Item = Result<String>> {
    let (send, receive) = futures::channel::mpsc::unbounded();
    tokio::spawn(async move {
        let mut chunks = docker.logs(&container, Some(options));
        while let Some(chunk) = chunks.next().await {
            let line = chunk
                .map(|c| String::from_utf8_lossy(&c.into_bytes()).into_owned())
                .map_err(|e| anyhow::anyhow!("the log of {container} cannot be read: {e}"));
            if send.unbounded_send(line).is_err() {
                return;
            }
        }
    });
    receive
}

/// The last lines of a text, indented, so many that they fit on a screen where some are long: what is wrong often stands at
/// the end of one. The frames of a Java stack trace are left out: they would push its message off the screen.
fn telling(text: &str, lines: usize) -> String {
    const LONGEST: usize = 1000;
    const USUAL: usize = 170;
    let frame = |line: &&str| {
        let line = line.trim_start();
        !line.is_empty() && !line.starts_with("at ") && !line.starts_with("... ")
    };
    let all: Vec<&str> = text.lines().filter(frame).collect();
    let mut room = lines * USUAL;
    let mut shown = Vec::new();
    for line in all.into_iter().rev().take(lines) {
        let line: String = line.chars().take(LONGEST).collect();
        let length = line.chars().count();
        if length > room && !shown.is_empty() {
            break;
        }
        room = room.saturating_sub(length);
        shown.push(format!("  | {line}"));
    }
    shown.reverse();
    shown.join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_end_of_a_log_fits_on_a_screen_and_keeps_what_stands_at_the_end_of_a_line() {
        let short: String = (1..=30).map(|n| format!("line {n}\n")).collect();
        assert!(telling(&short, 3).eq("  | line 28\n  | line 29\n  | line 30"));
        let long = format!("{}\n{} parse error\n", "first ".repeat(100), "why ".repeat(100));
        let shown = telling(&format!("{short}{}{long}", long.repeat(9)), 15);
        assert!(shown.ends_with("why  parse error"), "{shown}");
        assert!(shown.len() < 15 * 180, "{}", shown.len());
        assert_eq!(telling("Error: x\n\tat a.b(C.java)\n\t... 3 more\n\n", 5), "  | Error: x");
        assert_eq!(telling("", 5), "");
        assert_eq!(telling(&"x".repeat(1 << 20), 5).len(), 1004);
    }
}
