//! From an image's name in `lab.toml` to the id of an image on the engine, for either source.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use anyhow::{Context, Result, bail};
use futures::TryStreamExt;
use testcontainers::bollard::errors::Error as BollardError;
use testcontainers::bollard::query_parameters::{
    CreateImageOptionsBuilder, ListImagesOptionsBuilder, RemoveImageOptionsBuilder, TagImageOptionsBuilder,
};

use super::recipe::recipe_images;
use super::{Engine, RECIPE_LABEL};
use crate::lock::{Lock, LockEntry, Platform};
use crate::project::{Project, lock_entries};
use crate::topology::{Plan, Source};

/// Where somebody wants images from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum SourceChoice {
    /// Built on this machine from package registries.
    Local,
    /// Public images, by digest.
    Upstream,
    /// Upstream where the image registry answers, otherwise local.
    Auto,
}

/// The images and add-ons of a plan, as ids on the engine.
#[derive(Debug, Clone)]
pub struct Resolved {
    /// `sha256:…` by image name.
    pub images: BTreeMap<String, String>,
    /// Image references that fill add-on volumes, by add-on name.
    pub addons: BTreeMap<String, String>,
    /// What was taken from where, by image name.
    pub taken: BTreeMap<String, String>,
}

/// An image that was built here.
#[derive(Debug, Clone)]
pub struct BuiltImage {
    /// Its recipe.
    pub recipe: String,
    /// Its tag; none for a stage that the engine keeps to build on.
    pub reference: Option<String>,
    /// Its id.
    pub id: String,
    /// Its size with all layers, which others may share.
    pub bytes: i64,
}

impl Engine {
    /// The id of an image that is on the engine.
    ///
    /// # Errors
    /// The engine does not answer.
    pub async fn image_id(&self, reference: &str) -> Result<Option<String>> {
        match self.docker.inspect_image(reference).await {
            Ok(image) => Ok(image.id),
            Err(BollardError::DockerResponseServerError { status_code: 404, .. }) => Ok(None),
            Err(e) => Err(e.into()),
        }
    }

    /// Recipes whose images a plan needs from the local source.
    pub fn recipes_of(project: &Project, plan: &Plan, source: Source) -> BTreeSet<String> {
        let images = plan.services.iter().filter_map(|s| project.file.images.get(&s.image));
        let local = images.filter(|i| source == Source::Local || i.upstream.is_none());
        let of_images = local.filter_map(|i| i.recipe.as_ref());
        let addons = plan.services.iter().flat_map(|s| &s.addons);
        let of_addons = addons.filter_map(|a| project.file.addons.get(&a.name)?.recipe.as_ref());
        of_images.chain(of_addons).map(|r| r.get_ref().clone()).collect()
    }

    /// Decides `auto`: upstream if the image registry gives one of the images.
    ///
    /// # Errors
    /// The lock file is missing or malformed.
    pub async fn decide(&self, project: &Project, plan: &Plan, choice: SourceChoice) -> Result<Source> {
        match choice {
            SourceChoice::Local => return Ok(Source::Local),
            SourceChoice::Upstream => return Ok(Source::Upstream),
            SourceChoice::Auto => {}
        }
        let lock = lock_entries(&project.root)?;
        let references =
            plan.services.iter().filter_map(|s| project.file.images.get(&s.image)?.upstream.as_ref());
        let Some(reference) = references.into_iter().next() else { return Ok(Source::Local) };
        let there = self.pull_pinned(reference, &lock).await.is_ok();
        Ok(if there { Source::Upstream } else { Source::Local })
    }

    /// The ids of all images and add-ons of a plan. Upstream images are pulled by digest; local ones must have
    /// been built.
    ///
    /// # Errors
    /// All images that are missing, by name, and what to run.
    pub async fn resolve(&self, project: &Project, plan: &Plan, source: Source) -> Result<Resolved> {
        let recipes: HashMap<String, String> =
            recipe_images(project, &self.arch)?.into_iter().map(|i| (i.name, i.reference)).collect();
        let lock = lock_entries(&project.root)?;
        let mut resolved =
            Resolved { images: BTreeMap::new(), addons: BTreeMap::new(), taken: BTreeMap::new() };
        let mut missing = Vec::new();
        for name in plan.services.iter().map(|s| &s.image).collect::<BTreeSet<_>>() {
            let image = &project.file.images[name];
            let upstream = image.upstream.as_ref().filter(|_| source == Source::Upstream);
            let reference = match (upstream, &image.recipe) {
                (Some(reference), _) => self.pull_pinned(reference, &lock).await?,
                (None, Some(recipe)) => recipes[recipe.get_ref()].clone(),
                (None, None) => {
                    missing.push(format!("{name} (upstream only)"));
                    continue;
                }
            };
            match self.image_id(&reference).await? {
                Some(id) => {
                    resolved.images.insert(name.clone(), id);
                    resolved.taken.insert(name.clone(), reference);
                }
                None => missing.push(name.clone()),
            }
        }
        for name in plan.services.iter().flat_map(|s| &s.addons).map(|a| &a.name).collect::<BTreeSet<_>>() {
            if let Some(recipe) = &project.file.addons[name].recipe {
                let reference = &recipes[recipe.get_ref()];
                match self.image_id(reference).await? {
                    Some(_) => drop(resolved.addons.insert(name.clone(), reference.clone())),
                    None => missing.push(format!("add-on {name}")),
                }
            }
        }
        if !missing.is_empty() {
            bail!("images are missing: {}.\n  Build them: ./lab images build", missing.join(", "));
        }
        Ok(resolved)
    }

    /// Pulls `name:tag` by the digest that the lock holds for it; gives the digest reference.
    pub(super) async fn pull_pinned(&self, reference: &str, lock: &Lock) -> Result<String> {
        let entry = lock.get(reference).with_context(|| {
            format!("images.lock.json has no digest for {reference}: it is not run unpinned")
        })?;
        let name = reference.rsplit_once(':').map_or(reference, |(name, _)| name);
        let pinned = format!("{name}@{}", entry.index);
        if self.image_id(&pinned).await?.is_none() {
            if self.came_from_a_bundle(reference, entry).await? {
                return Ok(reference.to_owned());
            }
            let options = CreateImageOptionsBuilder::new().from_image(&pinned).build();
            let pull: Result<Vec<_>, _> =
                self.docker.create_image(Some(options), None, None).try_collect().await;
            pull.with_context(|| {
                format!(
                    "{pinned} cannot be pulled (does an image registry answer? --images local needs none)"
                )
            })?;
        }
        Ok(pinned)
    }

    /// An image that was loaded has a tag but no registry's digest: it is the pinned one if its id is the digest of the
    /// configuration that the pinned index leads to.
    async fn came_from_a_bundle(&self, reference: &str, entry: &LockEntry) -> Result<bool> {
        let platform = Platform::ALL.into_iter().find(|p| p.architecture() == self.arch);
        let Some(pinned) = platform.and_then(|p| entry.platforms.get(&p)) else { return Ok(false) };
        Ok(self.image_id(reference).await?.is_some_and(|id| id == pinned.config.as_str()))
    }

    /// Gives an upstream image, which the engine has by its digest, its tag: archives carry tags only.
    ///
    /// # Errors
    /// The engine does not have it.
    pub async fn tag_upstream(&self, pinned: &str, reference: &str) -> Result<()> {
        let (name, tag) = reference.rsplit_once(':').context("a reference without a tag")?;
        let options = TagImageOptionsBuilder::new().repo(name).tag(tag).build();
        self.docker
            .tag_image(pinned, Some(options))
            .await
            .with_context(|| format!("{pinned} cannot be tagged"))
    }

    /// Images built here.
    ///
    /// # Errors
    /// The engine does not answer.
    pub async fn built_images(&self) -> Result<Vec<BuiltImage>> {
        let filters = HashMap::from([("label", vec![RECIPE_LABEL])]);
        let options = ListImagesOptionsBuilder::new().filters(&filters).build();
        let mut found = Vec::new();
        for image in self.docker.list_images(Some(options)).await? {
            let recipe = image.labels.get(RECIPE_LABEL).cloned().unwrap_or_default();
            let tags: Vec<_> = image.repo_tags.into_iter().filter(|t| !t.starts_with("<none>")).collect();
            // An image that somebody built on one of ours has its label too.
            let (tags, others): (Vec<_>, Vec<_>) =
                tags.into_iter().partition(|t| t.starts_with("streamlab/"));
            if tags.is_empty() && others.is_empty() {
                found.push(BuiltImage {
                    recipe: recipe.clone(),
                    reference: None,
                    id: image.id.clone(),
                    bytes: image.size,
                });
            }
            for tag in tags {
                let id = image.id.clone();
                found.push(BuiltImage {
                    recipe: recipe.clone(),
                    reference: Some(tag),
                    id,
                    bytes: image.size,
                });
            }
        }
        found.sort_by(|a, b| (&a.recipe, &a.reference).cmp(&(&b.recipe, &b.reference)));
        Ok(found)
    }

    /// Removes an image by reference.
    ///
    /// # Errors
    /// A container still stands on it, or the engine does not answer.
    pub async fn remove_image(&self, reference: &str) -> Result<()> {
        let options = RemoveImageOptionsBuilder::new().build();
        self.docker
            .remove_image(reference, Some(options), None)
            .await
            .with_context(|| format!("{reference} cannot be removed"))?;
        Ok(())
    }
}
