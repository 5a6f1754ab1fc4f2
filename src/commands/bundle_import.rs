//! Images and projects that come in a bundle: `lab bundle import` from a file, `lab up --from` from somebody who offers one.
//! Nothing is used that was not compared with its digest and, for public images, with the lock.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context as _, Result, bail};

use super::bundle::{PROGRAM, PROJECT, next_step, references};
use super::context::Context;
use super::progress::bytes_progress;
use crate::bundle::{BundleFile, BundleImage, Manifest, Teacher, place, unpack_project, write_archive};
use crate::engine::{Engine, recipe_images};
use crate::lock::{Digest, Platform};
use crate::project::{Project, lock_entries};
use crate::topology::{Plan, Source};

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// A file that `lab bundle export` wrote.
    #[arg(value_name = "FILE")]
    bundle: PathBuf,
    /// Folder for the project; streamlab-LAB in the working directory where absent.
    #[arg(long, value_name = "FOLDER")]
    into: Option<PathBuf>,
}

/// Without `--into` a folder of its own below the working directory, which may not be in a checkout.
fn no_checkout(here: &Path) -> Result<()> {
    match here.ancestors().find(|folder| folder.join("lab.toml").exists()) {
        Some(checkout) => bail!(
            "{} is a checkout: a project unpacked in it would be part of it.\n  Name another folder: --into FOLDER",
            checkout.display()
        ),
        None => Ok(()),
    }
}

pub(super) async fn run(context: &Context, args: Args) -> Result<()> {
    if args.into.is_none() {
        no_checkout(&std::env::current_dir()?)?;
    }
    let path = args.bundle.clone();
    let bundle = tokio::task::spawn_blocking(move || {
        let bundle = BundleFile::open(&path)?;
        let total = bundle.manifest.entries.values().map(|e| e.size).sum();
        let progress = bytes_progress("checking", total);
        bundle.verify(|bytes| progress.inc(bytes))?;
        progress.finish();
        Ok::<_, anyhow::Error>(bundle)
    })
    .await??;
    let bundle = Arc::new(bundle);
    say!("{} is whole: bundle {}", args.bundle.display(), bundle.manifest.fingerprint()?);
    let engine = Engine::connect().await?;
    same_machine(&bundle.manifest, &engine)?;
    // The project first: what stands in its way is said before gigabytes are loaded, and its lock says which public images
    // may come.
    let into = args.into.unwrap_or_else(|| PathBuf::from(format!("streamlab-{}", bundle.manifest.lab)));
    unpack_project(bundle.entry(PROJECT)?, &into)?;
    let mut program = Vec::new();
    bundle.entry(PROGRAM)?.read_to_end(&mut program)?;
    place(&into.join(PROGRAM), &program, true)?;
    say!("the project is in {}", into.display());
    check_pins(&into, &engine, &bundle.manifest.images)?;
    let blobs = Arc::clone(&bundle);
    load(&engine, bundle.manifest.images.clone(), move |digest| blobs.blob(digest)).await?;
    if !engine.instance(&context.instance).await?.is_down() {
        say!(
            "note: instance {} is up. It goes on as it is; to run the one from this bundle, stop it first: ./lab down{}",
            context.instance,
            context.option()
        );
    }
    say!("next: cd '{}' && {}", into.display(), next_step(&bundle.manifest));
    Ok(())
}

fn same_machine(manifest: &Manifest, engine: &Engine) -> Result<()> {
    if manifest.architecture != engine.arch {
        bail!(
            "this bundle is for {}, and this engine is {}: export one on a machine like this",
            manifest.architecture,
            engine.arch
        );
    }
    Ok(())
}

/// Loads the images that the engine has not; then each must be the one that the bundle means.
async fn load(
    engine: &Engine,
    images: BTreeMap<String, BundleImage>,
    blob: impl Fn(&str) -> Result<Box<dyn Read + Send>> + Send + 'static,
) -> Result<()> {
    let mut missing = BTreeMap::new();
    for (reference, image) in &images {
        if !is_there(engine, reference, image).await? {
            missing.insert(reference.clone(), image.clone());
        }
    }
    say!("{} of {} images are there already", images.len() - missing.len(), images.len());
    if !missing.is_empty() {
        let total = missing.values().flat_map(|i| &i.layers).map(|l| (&l.diff_id, l.unpacked));
        let total = total.collect::<BTreeMap<_, _>>().values().sum();
        let loading = missing.clone();
        engine
            .load_images(move |out| {
                let list: Vec<(&str, &BundleImage)> = loading.iter().map(|(r, i)| (r.as_str(), i)).collect();
                let progress = bytes_progress("loading", total);
                write_archive(&list, &blob, progress.wrap_write(out))?;
                progress.finish();
                Ok(())
            })
            .await?;
    }
    for (reference, image) in &missing {
        if !is_there(engine, reference, image).await? {
            bail!("the engine loaded {reference}, but not as the bundle has it; it is not used");
        }
    }
    for (reference, image) in images.iter().filter(|(r, _)| is_public(r)) {
        engine.mark_loaded(reference, &Digest::try_from(image.config.clone())?).await?;
    }
    Ok(())
}

/// An image's id is its configuration's digest; engines that keep images as containerd does have another id for the same
/// layers.
async fn is_there(engine: &Engine, reference: &str, image: &BundleImage) -> Result<bool> {
    match engine.image_id(reference).await? {
        None => Ok(false),
        Some(id) if id == image.config => Ok(true),
        Some(_) => {
            let layers: Vec<&String> = image.layers.iter().map(|l| &l.diff_id).collect();
            Ok(engine.image_layers(reference).await?.iter().collect::<Vec<_>>() == layers)
        }
    }
}

/// It is no image of the lab's own.
fn is_public(reference: &str) -> bool {
    !reference.starts_with("streamlab/")
}

/// Only the lab's own images and those public ones that the lock of the checkout `root` pins: no other tag of the engine's is
/// touched.
fn check_pins(root: &Path, engine: &Engine, images: &BTreeMap<String, BundleImage>) -> Result<()> {
    let lock = lock_entries(root)?;
    let platform = Platform::ALL.into_iter().find(|p| p.architecture() == engine.arch);
    for (reference, image) in images.iter().filter(|(r, _)| is_public(r)) {
        let Some(entry) = lock.get(reference) else {
            bail!("the bundle holds {reference}, which images.lock.json does not pin: it is not used");
        };
        let pinned = platform.and_then(|p| entry.platforms.get(&p)).map(|p| p.config.as_str());
        if pinned != Some(&image.config) {
            bail!(
                "the bundle's {reference} is {}, and images.lock.json pins {}: it is not used",
                image.config,
                pinned.unwrap_or("no configuration for this machine (./lab images lock, with a network)")
            );
        }
    }
    Ok(())
}

/// Takes the images that a plan needs, and the engine does not have, from somebody who offers a bundle.
pub(super) async fn take_from(
    url: &str,
    project: &Project,
    engine: &Engine,
    plan: &Plan,
    source: Source,
) -> Result<()> {
    let teacher = Teacher::new(url, &crate::engine::cache_dir())?;
    let manifest = teacher.manifest().await?;
    same_machine(&manifest, engine)?;
    say!("{url} offers lab {}, bundle {}", manifest.lab, manifest.fingerprint()?);
    let mut wanted = BTreeMap::new();
    let mut lacking = Vec::new();
    let own: BTreeSet<String> = recipe_images(project, &engine.arch)?
        .into_iter()
        .filter(|i| i.has_program)
        .map(|i| i.reference)
        .collect();
    for reference in references(project, engine, plan, source)? {
        match manifest.images.get(&reference) {
            Some(image) => drop(wanted.insert(reference, image.clone())),
            // Another program makes another own image: this machine makes its own from the base.
            None if own.contains(&reference) => {}
            None if engine.image_id(&reference).await?.is_some() => {}
            None => lacking.push(reference),
        }
    }
    check_pins(&project.root, engine, &wanted)?;
    if !lacking.is_empty() {
        bail!(
            "{url} was made from another checkout: it does not hold {}.\n  Take the same checkout as the teacher (git log -1 on both), or the whole bundle: {url}",
            lacking.join(", ")
        );
    }
    let mut blobs: BTreeMap<&str, (&str, u64)> = BTreeMap::new();
    for (reference, image) in &wanted {
        if is_there(engine, reference, image).await? {
            continue;
        }
        let repository = reference.rsplit_once(':').map_or(reference.as_str(), |(name, _)| name);
        for digest in image.layers.iter().map(|l| &l.digest).chain([&image.config]) {
            let size = manifest.size_of(digest).unwrap_or_default();
            blobs.insert(digest, (repository, size));
        }
    }
    let progress = bytes_progress("fetching", blobs.values().map(|(_, size)| size).sum());
    for (digest, (repository, size)) in &blobs {
        teacher.fetch(repository, digest, *size, &|bytes| progress.inc(bytes)).await?;
    }
    progress.finish();
    let source = teacher.clone();
    load(engine, wanted.clone(), move |digest| {
        let path = source.path(digest);
        let file = std::fs::File::open(&path).with_context(|| format!("{} is gone", path.display()))?;
        Ok(Box::new(std::io::BufReader::new(file)) as Box<dyn Read + Send>)
    })
    .await?;
    // They are on the engine now.
    for digest in blobs.keys() {
        let _ = std::fs::remove_file(teacher.path(digest));
    }
    Ok(())
}
