//! `lab bundle`: a lab in one file, made, unpacked, offered; and `lab up --from`, which takes images from one that is offered.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Read;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context as _, Result, bail};
use clap::Subcommand;

use super::context::Context;
use super::progress::bytes_progress;
use super::signals::{Interrupted, watch_signals};
use super::up::prepare;
use crate::bundle::{
    Blobs, BundleFile, BundleImage, Manifest, Teacher, check_target, pack_file, pack_images, pack_project,
    place, serve, unpack_project, write_archive,
};
use crate::engine::{Engine, Source, recipe_images};
use crate::lock::Platform;
use crate::project::{Project, lock_entries};
use crate::topology::{Instance, Topology};

/// Entries of a bundle that are not blobs.
const README: &str = "README.txt";
const PROGRAM: &str = "streamlab";
const PROJECT: &str = "project.tar.zst";

#[derive(Debug, Subcommand)]
pub(super) enum Bundle {
    /// Pack program, images and project into one file.
    Export(ExportArgs),
    /// Unpack such a file on this machine; needs an engine and no network.
    Import(ImportArgs),
    /// Offer such a file to a classroom, as a read-only registry.
    Serve(ServeArgs),
}

#[derive(Debug, clap::Args)]
pub(super) struct ExportArgs {
    /// File to write.
    #[arg(value_name = "FILE")]
    bundle: PathBuf,
    /// Which lab; lab.toml's default where absent.
    #[arg(long, value_name = "NAME")]
    lab: Option<String>,
    /// Where images come from.
    #[arg(long, value_enum, default_value = "local")]
    images: Source,
}

#[derive(Debug, clap::Args)]
pub(super) struct ImportArgs {
    /// A file that `lab bundle export` wrote.
    #[arg(value_name = "FILE")]
    bundle: PathBuf,
    /// Folder for the project; streamlab-LAB where absent.
    #[arg(long, value_name = "FOLDER")]
    into: Option<PathBuf>,
}

#[derive(Debug, clap::Args)]
pub(super) struct ServeArgs {
    /// A file that `lab bundle export` wrote.
    #[arg(value_name = "FILE")]
    bundle: PathBuf,
    /// Address and port that the classroom reaches, such as 192.168.1.10:5000.
    #[arg(long, value_name = "ADDRESS:PORT", value_parser = address)]
    listen: SocketAddr,
}

fn address(text: &str) -> Result<SocketAddr, String> {
    text.parse()
        .map_err(|_| "this takes an address of this machine and a port, such as 192.168.1.10:5000".to_owned())
}

/// The address of somebody who offers a bundle.
pub(super) fn url(text: &str) -> Result<String, String> {
    match text.strip_prefix("http://").or_else(|| text.strip_prefix("https://")) {
        Some(rest) if !rest.is_empty() => Ok(text.to_owned()),
        _ => Err("this takes a URL, such as http://192.168.1.10:5000".to_owned()),
    }
}

pub(super) async fn run(context: &Context, bundle: Bundle) -> Result<()> {
    let mut cancel = watch_signals();
    let half_written = match &bundle {
        Bundle::Export(args) => Some(parts(&args.bundle)),
        _ => None,
    };
    let given_up = match &bundle {
        Bundle::Export(_) => "no bundle was written",
        Bundle::Import(_) => "what is there already is not done twice",
        Bundle::Serve(_) => "nothing is offered any more",
    };
    let work = async {
        match bundle {
            Bundle::Export(args) => export(context, args).await,
            Bundle::Import(args) => import(context, args).await,
            Bundle::Serve(args) => offer(args).await,
        }
    };
    tokio::select! {
        done = work => done,
        _ = cancel.wait_for(|c| *c) => {
            if let Some(folder) = half_written {
                let _ = std::fs::remove_dir_all(folder);
            }
            Err(Interrupted(given_up.to_owned()).into())
        }
    }
}

async fn export(context: &Context, args: ExportArgs) -> Result<()> {
    let project = context.project()?;
    check_target(&args.bundle)?;
    let definition = project.path.strip_prefix(project.root.canonicalize()?).unwrap_or(&project.path);
    let definition = definition.to_str().context("the definition's path must be UTF-8")?.to_owned();
    let topology = project.topology(args.lab.as_deref(), Instance::documented())?;
    let engine = Engine::connect().await?;
    let (source, resolved) = prepare(&project, &engine, &topology, args.images).await?;
    for (name, taken) in &resolved.taken {
        if let Some(upstream) = &project.file.images[name].upstream
            && source == Source::Upstream
        {
            engine.tag_upstream(taken, upstream).await?;
        }
    }
    let references = references(&project, &engine, &topology, source)?;
    let (spool, _lock) = spool(&args.bundle)?;
    let names: Vec<&str> = references.iter().map(String::as_str).collect();
    say!("packing {} images", names.len());
    let spool_path = spool.clone();
    let (mut blobs, images) = engine
        .save_images(&names, move |archive| {
            let mut blobs = Blobs::new(&spool_path);
            let images = pack_images(archive, &mut blobs)?;
            Ok((blobs, images))
        })
        .await?;
    if let Some(lost) = references.iter().find(|r| !images.contains_key(*r)) {
        bail!("the engine did not save {lost}: was it removed meanwhile? Run it again.");
    }
    let mut manifest = Manifest::new(&topology.lab, &definition, label(source), &engine.arch);
    manifest.images = images;
    let program = std::fs::read(&project.program)
        .with_context(|| format!("{} cannot be read", project.program.display()))?;
    blobs.add_as(PROGRAM, &program)?;
    blobs.add_as(PROJECT, &pack_project(&project.root)?)?;
    blobs.add_as(README, readme(&manifest).as_bytes())?;
    blobs.add_as("oci-layout", br#"{"imageLayoutVersion":"1.0.0"}"#)?;
    let index = index(&manifest, &blobs);
    blobs.add_as("index.json", index.as_bytes())?;
    let packed = pack_file(&args.bundle, manifest, &blobs, &[README, PROGRAM, PROJECT]);
    std::fs::remove_dir_all(&spool).with_context(|| format!("{} cannot be removed", spool.display()))?;
    let manifest = packed?;
    let size = std::fs::metadata(&args.bundle)?.len();
    say!(
        "wrote {}: lab {}, {} images, {} MB, bundle {}",
        args.bundle.display(),
        manifest.lab,
        manifest.images.len(),
        size / 1_000_000,
        manifest.fingerprint()?
    );
    Ok(())
}

fn parts(bundle: &Path) -> PathBuf {
    PathBuf::from(format!("{}.parts", bundle.display()))
}

/// A folder beside the bundle for its parts, which are as large as itself. What a killed export left there goes.
fn spool(bundle: &Path) -> Result<(PathBuf, std::fs::File)> {
    let spool = parts(bundle);
    let unwritable = || format!("{} cannot be written", spool.display());
    std::fs::create_dir_all(&spool).with_context(unwritable)?;
    let lock = std::fs::File::create(spool.join("lock")).with_context(unwritable)?;
    if lock.try_lock().is_err() {
        bail!("another export is writing {}: wait for it, or end it", bundle.display());
    }
    for entry in std::fs::read_dir(&spool).with_context(unwritable)? {
        let path = entry.with_context(unwritable)?.path();
        if !path.ends_with("lock") {
            std::fs::remove_file(&path).with_context(|| format!("{} cannot be removed", path.display()))?;
        }
    }
    Ok((spool, lock))
}

/// What to run in the unpacked project.
fn next_step(manifest: &Manifest) -> String {
    let source = if manifest.source == "upstream" { " --images upstream" } else { "" };
    let file = match manifest.definition.as_str() {
        "lab.toml" => String::new(),
        other => format!(" --file {other}"),
    };
    format!("./lab{file} up --lab {}{source}", manifest.lab)
}

fn label(source: Source) -> &'static str {
    if source == Source::Upstream { "upstream" } else { "local" }
}

/// References of all images that a lab stands on. The own image's base is among them: another program makes another own
/// image, on the same base.
fn references(
    project: &Project,
    engine: &Engine,
    topology: &Topology,
    source: Source,
) -> Result<BTreeSet<String>> {
    let mut recipes = Engine::recipes_of(project, topology, source);
    let own = recipes.iter().filter(|r| project.file.recipes[*r].program);
    let bases: Vec<String> =
        own.flat_map(|r| &project.file.recipes[r].from).map(|base| base.get_ref().clone()).collect();
    recipes.extend(bases);
    let images = recipe_images(project, &engine.arch)?;
    let local = images.into_iter().filter(|i| recipes.contains(&i.name)).map(|i| i.reference);
    let upstream = topology.services.iter().filter_map(|s| {
        project.file.images[&s.image].upstream.clone().filter(|_| source == Source::Upstream)
    });
    Ok(local.chain(upstream).collect())
}

fn readme(manifest: &Manifest) -> String {
    format!(
        "Streamlab {}: the lab {} for {}, with everything it needs but a Docker engine.\n\n\
         \x20 tar -xf THIS-FILE streamlab\n\
         \x20 ./streamlab bundle import THIS-FILE\n\
         \x20 cd streamlab-{} && {}\n",
        manifest.version,
        manifest.lab,
        manifest.architecture,
        manifest.lab,
        next_step(manifest)
    )
}

/// The OCI layout's index: other tools find the images by it.
fn index(manifest: &Manifest, blobs: &Blobs) -> String {
    let described: Vec<_> = manifest
        .images
        .iter()
        .map(|(reference, image)| {
            let entry = format!("blobs/{}", image.manifest.replace(':', "/"));
            serde_json::json!({
                "mediaType": "application/vnd.oci.image.manifest.v1+json",
                "digest": image.manifest,
                "size": blobs.entries.get(&entry).map(|e| e.size),
                "annotations": { "org.opencontainers.image.ref.name": reference },
            })
        })
        .collect();
    serde_json::json!({ "schemaVersion": 2, "manifests": described }).to_string()
}

async fn import(context: &Context, args: ImportArgs) -> Result<()> {
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
            "note: instance {} is up. It goes on as it is; to run the one from this bundle, stop it first: ./lab down",
            context.instance
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

/// Only the lab's own images and those public ones that the lock of the checkout `root` pins: no other tag of the engine's is
/// touched.
fn check_pins(root: &Path, engine: &Engine, images: &BTreeMap<String, BundleImage>) -> Result<()> {
    let lock = lock_entries(root)?;
    let platform = Platform::ALL.into_iter().find(|p| p.architecture() == engine.arch);
    for (reference, image) in images {
        if reference.starts_with("streamlab/") {
            continue;
        }
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

async fn offer(args: ServeArgs) -> Result<()> {
    let path = args.bundle.clone();
    let bundle = tokio::task::spawn_blocking(move || {
        let bundle = BundleFile::open(&path)?;
        bundle.verify(|_| ())?;
        Ok::<_, anyhow::Error>(bundle)
    })
    .await??;
    let listener = tokio::net::TcpListener::bind(args.listen).await.with_context(|| {
        format!("{} cannot be listened on: is it an address of this machine, and free?", args.listen)
    })?;
    let address = listener.local_addr()?;
    say!(
        "offering lab {} (bundle {}) on http://{address} until Ctrl-C",
        bundle.manifest.lab,
        bundle.manifest.fingerprint()?
    );
    say!("in a checkout: ./lab up --from http://{address}   without one: open http://{address}");
    serve(bundle, listener, std::future::pending()).await
}

/// Takes the images that a topology needs, and the engine has not, from somebody who offers a bundle.
pub(super) async fn take_from(
    url: &str,
    project: &Project,
    engine: &Engine,
    topology: &Topology,
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
        .filter(|i| i.recipe.program)
        .map(|i| i.reference)
        .collect();
    for reference in references(project, engine, topology, source)? {
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
