//! Images that were built here, put into a registry from which other machines pull them.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context as _, Result, bail};
use futures::TryStreamExt as _;
use testcontainers::bollard::query_parameters::PushImageOptionsBuilder;

use super::Engine;
use super::pull::credentials;
use super::recipe::{RecipeImage, recipe_images};
use crate::project::Project;
use crate::render::own_image;
use crate::topology::{Plan, Source};

/// An image of a lab in a registry.
#[derive(Debug)]
pub struct InRegistry {
    /// What makes it.
    pub image: RecipeImage,
    /// `registry/NAME:TAG`; the tag is the recipe's, so another image has another one.
    pub there: String,
    /// What Kubernetes' manifests call it: `streamlab/NAME`, and the public image in whose place it is.
    pub stands_for: BTreeSet<String>,
}

/// The images of a lab that are built here, as `registry` has them after `lab images push`. The order is the recipes'.
///
/// # Errors
/// As [`recipe_images`], or a lab that has nothing without public images.
pub fn in_registry(project: &Project, arch: &str, plan: &Plan, registry: &str) -> Result<Vec<InRegistry>> {
    let plan = Source::Local.part_of(&project.file, plan)?;
    let mut wanted: BTreeMap<&str, BTreeSet<String>> = BTreeMap::new();
    for service in &plan.services {
        for addon in &service.addons {
            let recipe = project.file.addons.get(&addon.name).and_then(|addon| addon.recipe.as_ref());
            if let Some(recipe) = recipe {
                wanted.entry(recipe.get_ref()).or_default();
            }
        }
        let image = &project.file.images[&service.image];
        let Some(recipe) = &image.recipe else { continue };
        let names = wanted.entry(recipe.get_ref()).or_default();
        names.extend(image.upstream.as_ref().map(|upstream| {
            upstream.rsplit_once(':').map_or(upstream.as_str(), |(name, _)| name).to_owned()
        }));
    }
    let registry = registry.trim_end_matches('/');
    let found = recipe_images(project, arch)?.into_iter().filter_map(|image| {
        let mut stands_for = wanted.remove(image.name.as_str())?;
        stands_for.insert(own_image(&image.name));
        let tag = image.reference.rsplit_once(':').map_or("latest", |(_, tag)| tag);
        let there = format!("{registry}/{}:{tag}", image.name);
        Some(InRegistry { image, there, stands_for })
    });
    Ok(found.collect())
}

impl Engine {
    /// Puts an image of the engine into the registry that `reference`, `registry/name:tag`, names; with the credentials of `docker login`.
    ///
    /// # Errors
    /// The engine has no such image, or the registry does not take it; the reason.
    pub async fn push(&self, image: &str, reference: &str) -> Result<()> {
        self.tag(image, reference).await?;
        let (name, tag) = reference.rsplit_once(':').context("a reference without a tag")?;
        let options = PushImageOptionsBuilder::new().tag(tag).build();
        let mut lines = self.docker.push_image(name, Some(options), credentials(reference)?);
        while let Some(said) =
            lines.try_next().await.with_context(|| format!("{reference} cannot be pushed"))?
        {
            if let Some(why) = said.error_detail.and_then(|detail| detail.message) {
                bail!("{reference} cannot be pushed: {why}");
            }
        }
        Ok(())
    }
}
