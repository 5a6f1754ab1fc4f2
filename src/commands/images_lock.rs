//! `lab images lock`: pins what `lab.toml` names upstream to the digests that the registries give, with the images'
//! documents. Everything is fetched and checked before anything is written, and the lock is written last.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use anyhow::{Context as _, Result, anyhow, bail};

use super::context::Context;
use crate::clients::oci::Tag;
use crate::lock::{self, Change, Digest, Lock, Pinned};
use crate::project::{DOCUMENTS_FOLDER, LOCK_FILE, Project, lock_entries, write_whole};

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Accept tags that moved, and drop what lab.toml no longer names.
    #[arg(long)]
    update: bool,
}

/// What the registries hold, by reference, and all its documents.
#[derive(Default)]
struct Fetched {
    pinned: BTreeMap<String, Pinned>,
    documents: BTreeMap<Digest, Vec<u8>>,
}

pub(super) async fn run(context: &Context, args: &Args) -> Result<()> {
    let project = context.project()?;
    let before =
        if project.root.join(LOCK_FILE).exists() { lock_entries(&project.root)? } else { Lock::new() };
    let unchanged = |e| anyhow!("{e:#}\n  Nothing was written: {LOCK_FILE} is as it was");
    let (changes, fetched) = ask(&project, &before, args.update).await.map_err(unchanged)?;
    let after = lock::merged(&before, &fetched.pinned, args.update);
    write(&project.root, &after, &fetched.documents)?;
    for (reference, change) in &changes {
        say!("{reference} {}", said(change, before.get(reference), after.get(reference)));
    }
    let (images, documents) = (fetched.pinned.len(), fetched.documents.len());
    say!("{LOCK_FILE}: {images} image(s) confirmed, with {documents} document(s) in {DOCUMENTS_FOLDER}");
    Ok(())
}

/// Asks for every tag first: a moved one is refused before anything of its image is fetched.
async fn ask(project: &Project, before: &Lock, update: bool) -> Result<(BTreeMap<String, Change>, Fetched)> {
    let mut tags = BTreeMap::new();
    let mut found = BTreeMap::new();
    for reference in project.file.upstream_references() {
        if !tags.contains_key(reference) {
            let tag = Tag::open(reference).await?;
            found.insert(reference.to_owned(), tag.digest().await?);
            tags.insert(reference.to_owned(), tag);
        }
    }
    let changes = lock::compare(before, &found);
    let moved: Vec<_> = changes.iter().filter(|(_, c)| matches!(c, Change::Moved { .. })).collect();
    if !moved.is_empty() && !update {
        let lines: Vec<_> = moved.iter().map(|(reference, change)| format!("{reference} {change}")).collect();
        bail!(
            "a pinned tag names another image now:\n  {}\n  Accept it: ./lab images lock --update",
            lines.join("\n  ")
        );
    }
    let mut fetched = Fetched::default();
    for (reference, tag) in tags {
        let index = found[&reference].clone();
        let image = tag.image(&index).await?;
        let host = tag.host().to_owned();
        fetched.pinned.insert(reference, Pinned { host, index, platforms: image.platforms });
        fetched.documents.extend(image.documents);
    }
    Ok((changes, fetched))
}

/// Documents, then the lock that names them, then away with what it no longer names: at every moment each document
/// that the lock on disk names is there.
fn write(root: &Path, lock: &Lock, documents: &BTreeMap<Digest, Vec<u8>>) -> Result<()> {
    let folder = root.join(DOCUMENTS_FOLDER);
    if !documents.is_empty() {
        std::fs::create_dir_all(&folder).with_context(|| format!("{} cannot be made", folder.display()))?;
    }
    for (digest, bytes) in documents {
        write_changed(&folder.join(format!("{}.json", digest.hex())), bytes)?;
    }
    write_changed(&root.join(LOCK_FILE), lock::render(lock)?.as_bytes())?;
    remove_unnamed(&folder, &lock::documents(lock))
}

fn write_changed(path: &Path, bytes: &[u8]) -> Result<()> {
    if std::fs::read(path).is_ok_and(|there| there == bytes) { Ok(()) } else { write_whole(path, bytes) }
}

/// Removes documents, and nothing else that may lie in the folder.
fn remove_unnamed(folder: &Path, named: &BTreeSet<Digest>) -> Result<()> {
    let Ok(entries) = std::fs::read_dir(folder) else { return Ok(()) };
    for entry in entries {
        let path = entry.with_context(|| format!("{} cannot be read", folder.display()))?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        let hex = name.strip_suffix(".json").unwrap_or_default();
        let document = Digest::try_from(format!("sha256:{hex}"));
        if document.is_ok_and(|digest| !named.contains(&digest)) {
            std::fs::remove_file(&path).with_context(|| format!("{} cannot be removed", path.display()))?;
        }
    }
    Ok(())
}

/// One change as a person reads it.
fn said(change: &Change, before: Option<&lock::LockEntry>, after: Option<&lock::LockEntry>) -> String {
    match (change, before, after) {
        (Change::Same, Some(before), Some(after)) if before.platforms != after.platforms => {
            let platforms: Vec<_> = after.platforms.keys().map(ToString::to_string).collect();
            format!("completed: {}", platforms.join(", "))
        }
        (Change::Same, Some(before), Some(after)) if before != after => "confirmed".to_owned(),
        (Change::Gone, _, None) => "removed: lab.toml no longer names it".to_owned(),
        (Change::Gone, ..) => format!("{change}: ./lab images lock --update removes it"),
        _ => change.to_string(),
    }
}
