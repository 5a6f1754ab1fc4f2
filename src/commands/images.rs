//! `lab images`: what the recipes make, with sizes; build, remove.

use std::collections::BTreeSet;

use anyhow::{Result, bail};
use clap::Subcommand;

use super::context::Context;
use super::progress::build_progress;
use super::signals::{Interrupted, watch_signals};
use crate::engine::{Engine, build_images, recipe_images};

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
    /// Remove images built here.
    Remove {
        /// Only those that the present recipes no longer make.
        #[arg(long)]
        old: bool,
    },
}

pub(super) async fn run(context: &Context, args: Args) -> Result<()> {
    let mut cancel = watch_signals();
    let project = context.project()?;
    let engine = Engine::connect().await?;
    let recipes = recipe_images(&project, &engine.arch)?;
    match args.what.unwrap_or(What::List) {
        What::List => {
            let built = engine.built_images().await?;
            println!("{:<18} {:<36} {:>8}  STATE", "RECIPE", "IMAGE", "SIZE");
            for recipe in &recipes {
                let size = built.iter().find(|(_, tag, _)| *tag == recipe.reference).map(|(.., size)| *size);
                let state = if size.is_some() { "built" } else { "missing: ./lab images build" };
                println!("{:<18} {:<36} {:>8}  {state}", recipe.name, recipe.reference, megabytes(size));
            }
            for (recipe, tag, size) in &built {
                if !recipes.iter().any(|r| r.reference == *tag) {
                    let state = if recipe == "debian" { "root file system" } else { "old" };
                    println!("{recipe:<18} {tag:<36} {:>8}  {state}", megabytes(Some(*size)));
                }
            }
        }
        What::Build { recipes: named } => {
            let wanted: BTreeSet<String> = if named.is_empty() {
                recipes.iter().map(|r| r.name.clone()).collect()
            } else {
                named.into_iter().collect()
            };
            let (events, lines) = build_progress();
            tokio::select! {
                built = build_images(&engine, &project, &wanted, events) => built?,
                _ = cancel.wait_for(|c| *c) => return Err(Interrupted("finished steps are kept".to_owned()).into()),
            }
            lines.await?;
            println!("every image is there");
        }
        What::Remove { old } => {
            let mut failed = Vec::new();
            // Those that stand on others first.
            for (recipe, tag, _) in engine.built_images().await?.into_iter().rev() {
                let current = recipes.iter().any(|r| r.reference == tag);
                if old && (current || recipe == "debian") {
                    continue;
                }
                match engine.remove_image(&tag).await {
                    Ok(()) => println!("removed {tag}"),
                    Err(error) => failed.push(format!("{error:#}")),
                }
            }
            if !failed.is_empty() {
                bail!("{}\n  Stop the labs that use them: ./lab down", failed.join("\n"));
            }
        }
    }
    Ok(())
}

fn megabytes(size: Option<i64>) -> String {
    size.map_or_else(|| "-".to_owned(), |bytes| format!("{} MB", bytes / 1_000_000))
}
