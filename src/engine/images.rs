//! From an image's name in `lab.toml` to the id of an image on the engine, for either source.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use anyhow::{Context, Result, bail};
use testcontainers::bollard::errors::Error as BollardError;
use testcontainers::bollard::query_parameters::{ListImagesOptionsBuilder, RemoveImageOptionsBuilder};

use super::recipe::recipe_images;
use super::session::Event;
use super::{Engine, RECIPE_LABEL};
use crate::clients::oci;
use crate::lock::without_localhost;
use crate::project::{Project, lock_entries};
use crate::topology::{Image, ImageRecord, Plan, Source};

/// Where somebody wants images from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum SourceChoice {
    /// Built on this machine from package registries.
    Local,
    /// Public images, by digest.
    Upstream,
    /// Upstream where each image registry gives one of its images, otherwise local.
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

    /// The public image that a service runs from; none where its own recipe makes it: from the local source, where there is no
    /// public one, or none for this engine's architecture.
    pub fn public<'i>(&self, image: &'i Image, source: Source) -> Option<&'i str> {
        let made_for = |r: &ImageRecord| r.architectures.contains(&self.arch);
        let runs_here = image.record.as_ref().is_none_or(made_for) || image.recipe.is_none();
        image.upstream.as_deref().filter(|_| source == Source::Upstream && runs_here)
    }

    /// Recipes whose images a plan needs.
    pub fn recipes_of(&self, project: &Project, plan: &Plan, source: Source) -> BTreeSet<String> {
        let images = plan.services.iter().filter_map(|s| project.file.images.get(&s.image));
        let local = images.filter(|i| self.public(i, source).is_none());
        let of_images = local.filter_map(|i| i.recipe.as_ref());
        let addons = plan.services.iter().flat_map(|s| &s.addons);
        let of_addons = addons.filter_map(|a| project.file.addons.get(&a.name)?.recipe.as_ref());
        of_images.chain(of_addons).map(|r| r.get_ref().clone()).collect()
    }

    /// Decides `auto`: upstream if each image registry gives one of its images.
    ///
    /// # Errors
    /// The lock file is missing or malformed.
    pub(super) async fn decide(
        &self,
        project: &Project,
        plan: &Plan,
        choice: SourceChoice,
        say: &(impl Fn(Event) + Sync),
    ) -> Result<Source> {
        match choice {
            SourceChoice::Local => return Ok(Source::Local),
            SourceChoice::Upstream => return Ok(Source::Upstream),
            SourceChoice::Auto => {}
        }
        let lock = lock_entries(&project.root)?;
        let mut of_registries = BTreeMap::new();
        for reference in self.public_of(project, plan, Source::Upstream).into_values() {
            of_registries.entry(oci::registry_of(reference)?).or_insert(reference);
        }
        if of_registries.is_empty() {
            return Ok(Source::Local);
        }
        let one_of_each = of_registries.into_values().collect();
        match self.pull_all(&one_of_each, &lock, &|event| say(Event::Pull(event))).await {
            Ok(_) => Ok(Source::Upstream),
            Err(why) => {
                say(Event::Note(format!(
                    "images are built here, because public ones cannot be had: {why:#}"
                )));
                Ok(Source::Local)
            }
        }
    }

    /// The public images of a plan: image name → `name:tag`.
    fn public_of<'p>(
        &self,
        project: &'p Project,
        plan: &'p Plan,
        source: Source,
    ) -> BTreeMap<&'p str, &'p str> {
        let images = plan.services.iter().filter_map(|s| project.file.images.get_key_value(&s.image));
        images.filter_map(|(name, image)| Some((name.as_str(), self.public(image, source)?))).collect()
    }

    /// The ids of all images and add-ons of a plan. Upstream images are pulled by digest, all at once; local ones must have
    /// been built.
    ///
    /// # Errors
    /// All images that are missing, by name, and what to run.
    pub(super) async fn resolve(
        &self,
        project: &Project,
        plan: &Plan,
        source: Source,
        say: &(impl Fn(Event) + Sync),
    ) -> Result<Resolved> {
        let recipes: HashMap<String, String> =
            recipe_images(project, &self.arch)?.into_iter().map(|i| (i.name, i.reference)).collect();
        let public = self.public_of(project, plan, source);
        let mut pulled = BTreeMap::new();
        if !public.is_empty() {
            let lock = lock_entries(&project.root)?;
            let references = public.values().copied().collect();
            pulled = self.pull_all(&references, &lock, &|event| say(Event::Pull(event))).await?;
        }
        let mut resolved =
            Resolved { images: BTreeMap::new(), addons: BTreeMap::new(), taken: BTreeMap::new() };
        let mut missing = Vec::new();
        for name in plan.services.iter().map(|s| &s.image).collect::<BTreeSet<_>>() {
            let image = &project.file.images[name];
            let reference = match (public.get(name.as_str()), &image.recipe) {
                (Some(reference), _) => {
                    let there = pulled[*reference].clone();
                    for difference in self.differs(&there, image).await? {
                        say(Event::Note(format!("note: {reference} {difference}")));
                    }
                    there
                }
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

    /// In what a pulled image is another than the one that the lab was written for.
    ///
    /// # Errors
    /// It is for another architecture: it cannot run here.
    async fn differs(&self, reference: &str, image: &Image) -> Result<Vec<String>> {
        let found = self.docker.inspect_image(reference).await.context("an image that was pulled")?;
        if found.architecture.as_ref().is_some_and(|a| *a != self.arch) {
            bail!(
                "{reference} is for {}, and this engine is {}.\n  Build it here: --images local",
                found.architecture.unwrap_or_default(),
                self.arch
            );
        }
        let Some(record) = &image.record else { return Ok(Vec::new()) };
        let is = found.config.unwrap_or_default();
        let volumes = is.volumes.unwrap_or_default().into_iter().collect();
        Ok(record.differences(&is.user.unwrap_or_default(), &is.entrypoint.unwrap_or_default(), &volumes))
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
            let tags: Vec<_> = image.repo_tags.iter().filter(|t| !t.starts_with("<none>")).collect();
            let tags: Vec<_> = tags.into_iter().map(|t| without_localhost(t).to_owned()).collect();
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
