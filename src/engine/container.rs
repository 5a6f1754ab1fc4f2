//! What is done with one container: run a command inside, kill, pause, start, stop.

use std::io::Read as _;

use anyhow::{Context, Result};
use futures::{StreamExt, TryStreamExt as _};
use testcontainers::bollard::container::LogOutput;
use testcontainers::bollard::errors::Error;
use testcontainers::bollard::exec::StartExecResults;
use testcontainers::bollard::models::{ContainerInspectResponse, ExecConfig};
use testcontainers::bollard::query_parameters::{
    DownloadFromContainerOptionsBuilder, InspectContainerOptions, KillContainerOptions,
    StartContainerOptions, StopContainerOptionsBuilder,
};

use super::Engine;
use super::docker::past_podmans_states;

/// What a command inside a container gave.
#[derive(Debug, Clone)]
pub struct ExecOutput {
    /// Exit code.
    pub code: i64,
    /// Standard output, and then standard error: as they come, the one may cut a line of the other in two.
    pub text: String,
}

impl Engine {
    /// A file of a container, which need not run.
    ///
    /// # Errors
    /// There is no such file, or the engine does not answer.
    pub async fn file_of(&self, container: &str, path: &str) -> Result<Vec<u8>> {
        let options = DownloadFromContainerOptionsBuilder::new().path(path).build();
        let chunks: Vec<_> =
            self.docker.download_from_container(container, Some(options)).try_collect().await?;
        let archive = chunks.concat();
        let mut bytes = Vec::new();
        for entry in tar::Archive::new(archive.as_slice()).entries()? {
            entry?.read_to_end(&mut bytes)?;
        }
        Ok(bytes)
    }

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
    /// The container is not there, or it cannot be started: somebody may have its ports by now.
    pub async fn start_again(&self, container: &str) -> Result<()> {
        let _until_published = self.hold_ports(&self.ports_of(container).await?, |_| ()).await?;
        self.docker
            .start_container(container, None::<StartContainerOptions>)
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

    /// A container's address in a network.
    ///
    /// # Errors
    /// The container is not there, or has no address in it.
    pub async fn address(&self, container: &str, network: &str) -> Result<String> {
        let found = self.look_at(container).await?;
        let networks = found.network_settings.and_then(|n| n.networks).unwrap_or_default();
        let address = networks.get(network).and_then(|n| n.ip_address.clone()).filter(|a| !a.is_empty());
        address.with_context(|| format!("{container} has no address in {network}"))
    }

    /// What the engine says of a container.
    ///
    /// # Errors
    /// The container is not there, or the engine does not answer.
    pub(super) async fn look_at(&self, container: &str) -> Result<ContainerInspectResponse, Error> {
        past_podmans_states(|| self.docker.inspect_container(container, None::<InspectContainerOptions>))
            .await
    }

    /// What the engine says of a container, as JSON.
    ///
    /// # Errors
    /// The container is not there, or the engine does not answer.
    pub async fn inspect(&self, container: &str) -> Result<serde_json::Value> {
        let found = self.look_at(container).await?;
        Ok(serde_json::to_value(found)?)
    }
}
