//! Containers of services that only run and end. They are made without testcontainers: its start asks about the container once that
//! runs, and one that has ended by then is for a moment in a state of Podman's that its client cannot read (see
//! [`past_podmans_states`](super::docker::past_podmans_states)).

use std::path::Path;

use anyhow::{Context as _, Result, bail};
use futures::TryStreamExt as _;
use testcontainers::bollard::errors::Error;
use testcontainers::bollard::models::{ContainerCreateBody, HostConfig};
use testcontainers::bollard::query_parameters::{
    CreateContainerOptionsBuilder, RemoveContainerOptionsBuilder, StartContainerOptions, WaitContainerOptions,
};

use super::request::{host_settings, labels, mounts, start_failure};
use super::{Engine, Resolved, SERVICE_LABEL};
use crate::topology::{Plan, Service};

impl Engine {
    /// Makes the container of a service and starts it.
    pub(super) async fn start_once(
        &self,
        root: &Path,
        plan: &Plan,
        service: &Service,
        resolved: &Resolved,
    ) -> Result<()> {
        let body = body(root, plan, service, resolved)?;
        self.make(&service.container, body).await.map_err(|error| start_failure(service, &error))
    }

    /// Runs a service to its end once more, in a container of its own, which is gone afterwards: the one of the start stays as it is.
    ///
    /// # Errors
    /// It ends with another code than 0, with its last lines.
    pub(super) async fn run_again(
        &self,
        root: &Path,
        plan: &Plan,
        service: &Service,
        resolved: &Resolved,
    ) -> Result<()> {
        let mut body = body(root, plan, service, resolved)?;
        // One of the instance, so that `down` takes it; but not the service itself.
        body.labels.get_or_insert_default().remove(SERVICE_LABEL);
        let name = format!("{}-again", service.container);
        let remove = || {
            let options = RemoveContainerOptionsBuilder::new().force(true).v(true).build();
            self.docker.remove_container(&name, Some(options))
        };
        // A program that was killed has left it.
        let _ = remove().await;
        let ended = async {
            self.make(&name, body).await?;
            // The engine answers a non-zero code with an error.
            self.docker.wait_container(&name, None::<WaitContainerOptions>).try_collect::<Vec<_>>().await
        };
        let ended = ended.await;
        let said = self.last_lines(&name, 15).await;
        let _ = remove().await;
        match ended {
            Ok(_) => Ok(()),
            Err(Error::DockerContainerWaitError { code, .. }) => {
                bail!("{} has ended with exit code {code}\n  its last lines:\n{said}", service.name)
            }
            Err(error) => Err(error).with_context(|| format!("{} could not be run again", service.name)),
        }
    }

    async fn make(&self, name: &str, body: ContainerCreateBody) -> Result<(), Error> {
        let options = CreateContainerOptionsBuilder::new().name(name).build();
        self.docker.create_container(Some(options), body).await?;
        self.docker.start_container(name, None::<StartContainerOptions>).await
    }
}

fn body(root: &Path, plan: &Plan, service: &Service, resolved: &Resolved) -> Result<ContainerCreateBody> {
    let mounts = mounts(root, service, resolved)?;
    let mut host = HostConfig {
        mounts: Some(mounts.iter().map(Into::into).collect()),
        network_mode: Some(plan.network.clone()),
        ..HostConfig::default()
    };
    host_settings(service)?(&mut host);
    Ok(ContainerCreateBody {
        image: Some(resolved.images[&service.image].clone()),
        cmd: Some(service.command.clone()),
        env: Some(service.environment.iter().map(|(name, value)| format!("{name}={value}")).collect()),
        working_dir: service.working_dir.clone(),
        labels: Some(
            labels(plan, service).into_iter().map(|(name, value)| (name.to_owned(), value)).collect(),
        ),
        host_config: Some(host),
        ..ContainerCreateBody::default()
    })
}
