//! `lab images`: what the recipes make, with sizes; build, remove. `lock` has a file of its own.

use std::collections::BTreeSet;

use anyhow::{Result, bail};
use clap::Subcommand;

use super::context::Context;
use super::images_lock;
use super::progress::progress;
use crate::engine::{
    BuiltImage, Engine, Event, InRegistry, RecipeImage, build_images, in_registry, recipe_images,
};
use crate::project::Project;
use crate::render::image_variable;
use crate::signals::{Interrupted, watch_signals};
use crate::topology::Instance;

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(subcommand)]
    what: Option<What>,
}

#[derive(Debug, Subcommand)]
enum What {
    /// Every recipe's image, with its size (the default).
    List,
    /// Build what is missing.
    Build {
        /// Recipes; all where none is named.
        recipes: Vec<String>,
    },
    /// The images' references as variables for compose: `./lab images env >compose/.env`.
    Env,
    /// Pin the upstream images: the digests that their registries give for lab.toml's tags, and their documents.
    Lock(images_lock::Args),
    /// Put a lab's images that are built here into a registry, for a cluster that pulls from there.
    Push {
        /// Where: `registry.example/team`.
        registry: String,
        /// The lab.
        #[arg(long)]
        lab: Option<String>,
    },
    /// Remove images built here.
    Remove {
        /// Only those that the present recipes no longer make.
        #[arg(long)]
        old: bool,
    },
}

pub(super) async fn run(context: &Context, args: Args) -> Result<()> {
    // It needs no engine, and nothing of it is undone: Ctrl-C just ends it.
    let what = match args.what.unwrap_or(What::List) {
        What::Lock(args) => return images_lock::run(context, &args).await,
        what => what,
    };
    let mut cancel = watch_signals();
    let project = context.project()?;
    let engine = Engine::connect().await?;
    let recipes = recipe_images(&project, &engine.arch)?;
    match what {
        What::Lock(_) => {}
        What::List => {
            let built = engine.built_images().await?;
            say!("{:<18} {:<38} {:>8}  STATE", "RECIPE", "IMAGE", "SIZE");
            let line = |recipe: &str, image: &str, bytes: Option<i64>, state: &str| {
                say!("{recipe:<18} {image:<38} {:>8}  {state}", megabytes(bytes));
            };
            for recipe in &recipes {
                let found = built.iter().find(|b| b.reference.as_ref() == Some(&recipe.reference));
                let state = if found.is_some() { "built" } else { "missing: ./lab images build" };
                line(&recipe.name, &recipe.reference, found.map(|b| b.bytes), state);
            }
            for image in built.iter().filter(|b| !is_current(&recipes, b)) {
                if let Some(reference) = &image.reference {
                    let state = if image.recipe == "debian" { "root file system" } else { "old" };
                    line(&image.recipe, reference, Some(image.bytes), state);
                }
            }
            let stages = built.iter().filter(|b| b.reference.is_none()).count();
            say!(
                "{stages} build stages are kept so that a rebuild is short; `./lab images remove --old` removes them and what is old"
            );
        }
        What::Build { recipes: named } => {
            let wanted: BTreeSet<String> = if named.is_empty() {
                recipes.iter().map(|r| r.name.clone()).collect()
            } else {
                named.into_iter().collect()
            };
            let (events, lines) = progress();
            let shown = |event| {
                let _ = events.send(Event::Build(event));
            };
            tokio::select! {
                built = build_images(&engine, &project, &wanted, shown) => built?,
                _ = cancel.wait_for(|c| *c) => return Err(Interrupted("finished steps are kept".to_owned()).into()),
            }
            drop(events);
            lines.await?;
            say!("every image is there");
        }
        What::Env => {
            for recipe in &recipes {
                say!("{}={}", image_variable(&recipe.name), recipe.reference);
            }
        }
        What::Push { registry, lab } => push(&project, &engine, &registry, lab.as_deref()).await?,
        What::Remove { old } => {
            let mut failed = Vec::new();
            let (mut removed, mut built) = (0, engine.built_images().await?);
            // Tags before the stages that they stand on, and those that stand on others first.
            built.sort_by_key(|b| {
                (b.reference.is_none(), recipes.iter().rev().position(|r| r.name == b.recipe))
            });
            for image in built {
                if old && (is_current(&recipes, &image) || image.recipe == "debian") {
                    continue;
                }
                let is_stage = image.reference.is_none();
                match engine.remove_image(image.reference.as_ref().unwrap_or(&image.id)).await {
                    Ok(()) => removed += 1,
                    // A stage under an image that stays goes with that image.
                    Err(_) if is_stage => {}
                    Err(error) => failed.push(format!("{error:#}")),
                }
            }
            say!("removed {removed} images and build stages");
            if !failed.is_empty() {
                bail!("{}\n  Stop the labs that use them: ./lab down", failed.join("\n"));
            }
        }
    }
    Ok(())
}

/// Pushes, and says how a cluster gets to know of it.
async fn push(project: &Project, engine: &Engine, registry: &str, lab: Option<&str>) -> Result<()> {
    let plan = project.plan(lab, Instance::documented())?;
    let images = in_registry(project, &engine.arch, &plan, registry)?;
    let mut missing = Vec::new();
    for InRegistry { image, .. } in &images {
        if engine.image_id(&image.reference).await?.is_none() {
            missing.push(image.name.as_str());
        }
    }
    if !missing.is_empty() {
        let missing = missing.join(" ");
        bail!("images are missing: {missing}\n  Build them: ./lab images build {missing}");
    }
    for InRegistry { image, there, .. } in &images {
        engine.push(&image.reference, there).await?;
        say!("pushed {there}");
    }
    say!("\n./lab kube up --lab {} --registry {registry} takes them from there. Without it,", plan.lab);
    say!("in the folder of an overlay, deploy/kubernetes/{}/overlays/NAME:", plan.lab);
    let set = images
        .iter()
        .flat_map(|image| image.stands_for.iter().map(move |name| format!("  {name}={}", image.there)));
    say!("kustomize edit set image \\\n{}", set.collect::<Vec<_>>().join(" \\\n"));
    Ok(())
}

fn is_current(recipes: &[RecipeImage], image: &BuiltImage) -> bool {
    image.reference.as_ref().is_some_and(|reference| recipes.iter().any(|r| r.reference == *reference))
}

fn megabytes(size: Option<i64>) -> String {
    size.map_or_else(|| "-".to_owned(), |bytes| format!("{} MB", bytes / 1_000_000))
}
