//! Add-ons: the volume that holds the folder of an add-on's image, made once for all instances.

use std::collections::HashMap;

use anyhow::{Context as _, Result};
use futures::TryStreamExt as _;
use testcontainers::bollard::body_try_stream;
use testcontainers::bollard::models::{ContainerCreateBody, HostConfig, Mount, MountTypeEnum};
use testcontainers::bollard::query_parameters::{
    CreateContainerOptions, DownloadFromContainerOptionsBuilder, RemoveContainerOptionsBuilder,
    RemoveVolumeOptions, UploadToContainerOptionsBuilder,
};

use super::docker::Product;
use super::request::addon_volume;
use super::{Engine, INSTANCE_LABEL, Resolved};
use crate::topology::Plan;

/// Where an add-on's image has its folder.
const FOLDER: &str = "/addons";

impl Engine {
    /// Makes and fills the volumes of add-ons that are not there.
    pub(super) async fn fill_addons(&self, plan: &Plan, resolved: &Resolved) -> Result<()> {
        for (name, reference) in &resolved.addons {
            let volume = addon_volume(name, reference);
            if self.docker.inspect_volume(&volume).await.is_ok() {
                continue;
            }
            if let Err(error) = self.fill(plan, name, reference, &volume).await {
                // Half an add-on must not be taken for a whole one.
                let _ = self.docker.remove_volume(&volume, None::<RemoveVolumeOptions>).await;
                return Err(error.context(format!("add-on {name} ({reference}) cannot be unpacked")));
            }
        }
        Ok(())
    }

    /// Docker fills an empty volume from the image of the container that mounts it first, which is never started. Podman leaves it
    /// empty: there the folder is taken out of one container and put into another.
    async fn fill(&self, plan: &Plan, name: &str, reference: &str, volume: &str) -> Result<()> {
        let target = format!("{FOLDER}/{name}");
        let mounted = self.never_started(plan, reference, Some((volume, &target))).await?;
        let filled = match self.product {
            Product::Docker => Ok(()),
            Product::Podman => self.copy(plan, reference, &target, &mounted).await,
        };
        self.remove_made(&mounted).await.and(filled)
    }

    async fn copy(&self, plan: &Plan, reference: &str, folder: &str, mounted: &str) -> Result<()> {
        let source = self.never_started(plan, reference, None).await?;
        let options = DownloadFromContainerOptionsBuilder::new().path(folder).build();
        let archive = self.docker.download_from_container(&source, Some(options));
        let archive = body_try_stream(archive.map_err(std::io::Error::other));
        let into = UploadToContainerOptionsBuilder::new().path(FOLDER).build();
        let copied = self.docker.upload_to_container(mounted, Some(into), archive).await;
        self.remove_made(&source).await?;
        Ok(copied?)
    }

    /// A container of an image, made and not started; its id.
    async fn never_started(
        &self,
        plan: &Plan,
        reference: &str,
        volume: Option<(&str, &str)>,
    ) -> Result<String> {
        let mounts = volume.map(|(name, target)| Mount {
            typ: Some(MountTypeEnum::VOLUME),
            source: Some(name.to_owned()),
            target: Some(target.to_owned()),
            ..Default::default()
        });
        let instance = plan.instance.name().to_owned();
        let body = ContainerCreateBody {
            image: Some(reference.to_owned()),
            host_config: Some(HostConfig { mounts: mounts.map(|m| vec![m]), ..Default::default() }),
            labels: Some(HashMap::from([(INSTANCE_LABEL.to_owned(), instance)])),
            ..Default::default()
        };
        let made = self.docker.create_container(None::<CreateContainerOptions>, body).await;
        Ok(made.context("no container of it can be made")?.id)
    }

    async fn remove_made(&self, container: &str) -> Result<()> {
        let options = RemoveContainerOptionsBuilder::new().force(true).build();
        Ok(self.docker.remove_container(container, Some(options)).await?)
    }
}
