//! `lab bundle`: a lab in one file, made and offered. What comes in one is `bundle_import`'s business.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};
use clap::Subcommand;

use super::bundle_import;
use super::context::Context;
use super::progress::progress;
use crate::bundle::{Blobs, BundleFile, Manifest, check_target, pack_file, pack_images, pack_project, serve};
use crate::engine::{Engine, Prepared, SourceChoice, prepare, recipe_images};
use crate::project::Project;
use crate::signals::{Interrupted, watch_signals};
use crate::topology::{Instance, Plan, Source};

/// Entries of a bundle that are not blobs.
const README: &str = "README.txt";
pub(super) const PROGRAM: &str = "streamlab";
pub(super) const PROJECT: &str = "project.tar.zst";

#[derive(Debug, Subcommand)]
pub(super) enum Bundle {
    /// Pack program, images and project into one file.
    Export(ExportArgs),
    /// Unpack such a file on this machine; needs an engine and no network.
    Import(bundle_import::Args),
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
    images: SourceChoice,
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
    let given_up = match &bundle {
        Bundle::Export(_) => "no bundle was written",
        Bundle::Import(_) => "what is there already is not done twice",
        Bundle::Serve(_) => "nothing is offered any more",
    };
    let work = async {
        match bundle {
            Bundle::Export(args) => export(context, args).await,
            Bundle::Import(args) => bundle_import::run(context, args).await,
            Bundle::Serve(args) => offer(args).await,
        }
    };
    tokio::select! {
        done = work => done,
        _ = cancel.wait_for(|c| *c) => Err(Interrupted(given_up.to_owned()).into()),
    }
}

async fn export(context: &Context, args: ExportArgs) -> Result<()> {
    let project = context.project()?;
    check_target(&args.bundle)?;
    let definition = project.path.strip_prefix(project.root.canonicalize()?).unwrap_or(&project.path);
    let definition = definition.to_str().context("the definition's path must be UTF-8")?.to_owned();
    let whole = project.plan(args.lab.as_deref(), Instance::documented())?;
    let engine = Engine::connect().await?;
    let (events, lines) = progress();
    let prepared = prepare(&project, &engine, &whole, args.images, &events).await;
    drop(events);
    lines.await?;
    let Prepared { source, resolved, plan } = prepared?;
    for (name, taken) in &resolved.taken {
        if let Some(upstream) = engine.public(&project.file.images[name], source) {
            engine.tag_upstream(taken, upstream).await?;
        }
    }
    let references = references(&project, &engine, &plan, source)?;
    let spool = Spool::beside(&args.bundle)?;
    let names: Vec<&str> = references.iter().map(String::as_str).collect();
    say!("packing {} images", names.len());
    let folder = spool.folder.clone();
    let (mut blobs, images) = engine
        .save_images(&names, move |archive| {
            let mut blobs = Blobs::new(&folder);
            let images = pack_images(archive, &mut blobs)?;
            Ok((blobs, images))
        })
        .await?;
    if let Some(lost) = references.iter().find(|r| !images.contains_key(*r)) {
        bail!("the engine did not save {lost}: was it removed meanwhile? Run it again.");
    }
    let mut manifest = Manifest::new(&plan.lab, &definition, source, &engine.arch);
    manifest.images = images;
    let program = std::fs::read(&project.program)
        .with_context(|| format!("{} cannot be read", project.program.display()))?;
    blobs.add_as(PROGRAM, &program)?;
    blobs.add_as(PROJECT, &pack_project(&project.root)?)?;
    blobs.add_as(README, readme(&manifest).as_bytes())?;
    blobs.add_as("oci-layout", br#"{"imageLayoutVersion":"1.0.0"}"#)?;
    let index = index(&manifest, &blobs);
    blobs.add_as("index.json", index.as_bytes())?;
    let manifest = pack_file(&args.bundle, manifest, &blobs, &[README, PROGRAM, PROJECT])?;
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

/// A folder beside the bundle for its parts, which are as large as itself. It goes with this, however the export ends; what a
/// killed one left is cleared by the next.
struct Spool {
    folder: PathBuf,
    _lock: std::fs::File,
}

impl Spool {
    fn beside(bundle: &Path) -> Result<Self> {
        let folder = PathBuf::from(format!("{}.parts", bundle.display()));
        let unwritable = || format!("{} cannot be written", folder.display());
        std::fs::create_dir_all(&folder).with_context(unwritable)?;
        let lock = std::fs::File::create(folder.join("lock")).with_context(unwritable)?;
        if lock.try_lock().is_err() {
            bail!("another export is writing {}: wait for it, or end it", bundle.display());
        }
        for entry in std::fs::read_dir(&folder).with_context(unwritable)? {
            let path = entry.with_context(unwritable)?.path();
            if !path.ends_with("lock") {
                std::fs::remove_file(&path)
                    .with_context(|| format!("{} cannot be removed", path.display()))?;
            }
        }
        Ok(Self { folder, _lock: lock })
    }
}

impl Drop for Spool {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}

/// What to run in the unpacked project.
pub(super) fn next_step(manifest: &Manifest) -> String {
    let source = if manifest.source == Source::Upstream { " --images upstream" } else { "" };
    let file = match manifest.definition.as_str() {
        "lab.toml" => String::new(),
        other => format!(" --file {other}"),
    };
    format!("./lab{file} up --lab {}{source}", manifest.lab)
}

/// References of all images that a lab stands on. The own image's base is among them: another program makes another own
/// image, on the same base.
pub(super) fn references(
    project: &Project,
    engine: &Engine,
    plan: &Plan,
    source: Source,
) -> Result<BTreeSet<String>> {
    let mut recipes = engine.recipes_of(project, plan, source);
    let own = recipes.iter().filter(|r| project.file.recipes[*r].program);
    let bases: Vec<String> =
        own.flat_map(|r| &project.file.recipes[r].from).map(|base| base.get_ref().clone()).collect();
    recipes.extend(bases);
    let images = recipe_images(project, &engine.arch)?;
    let local = images.into_iter().filter(|i| recipes.contains(&i.name)).map(|i| i.reference);
    let images = plan.services.iter().map(|s| &project.file.images[&s.image]);
    let public = images.filter_map(|image| engine.public(image, source)).map(str::to_owned);
    Ok(local.chain(public).collect())
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
