//! The checkout on disk: its root, its `lab.toml`, and the program that goes into the own image.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Write as _;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

use crate::dashboards::dashboards;
use crate::lock::{self, Lock};
use crate::render::{AddonFiles, Inputs, RENDERED_FOLDER, jars, wheels};
use crate::topology::{Instance, LabFile, Plan};

/// Digests of the upstream images, in the checkout's root.
pub const LOCK_FILE: &str = "images.lock.json";
/// The upstream images' indexes and manifests, each named by its digest.
pub const DOCUMENTS_FOLDER: &str = "nix/images";

/// Where a definition's parts lie, beside it.
const PARTS_FOLDER: &str = "topology";

/// A checkout with its parsed definition.
#[derive(Debug, Clone)]
pub struct Project {
    /// Root of the checkout.
    pub root: PathBuf,
    /// The definition's file.
    pub path: PathBuf,
    /// The definition.
    pub file: LabFile,
    /// The `streamlab` program to put into the own image.
    pub program: PathBuf,
}

impl Project {
    /// Reads the definition at `file`, or the nearest `lab.toml` from the working directory upwards.
    ///
    /// # Errors
    /// No file found or readable, or every mistake in it with its line.
    pub fn open(file: Option<&Path>, program: PathBuf) -> Result<Self> {
        let path = match file {
            Some(path) => path.to_owned(),
            None => nearest()?,
        };
        let parsed = match LabFile::parse_parts(&definition(&path)?) {
            Ok(parsed) => parsed,
            Err(mistakes) => {
                let lines: Vec<_> = mistakes.iter().map(ToString::to_string).collect();
                bail!("{} has {} mistake(s):\n  {}", path.display(), lines.len(), lines.join("\n  "));
            }
        };
        let path = path.canonicalize()?;
        let mut root = path.parent().unwrap_or(Path::new("/")).to_owned();
        // Definitions of the tests stand deeper in the checkout, whose recipes they use.
        while !root.join("compose/images").is_dir() {
            if !root.pop() {
                bail!(
                    "{} is in no checkout of streamlab: compose/images is missing above it",
                    path.display()
                );
            }
        }
        let mut file = parsed;
        for addon in file.addons.values_mut() {
            if let Some(folder) = &addon.files {
                addon.names = names_in(&root.join(folder))?;
            }
        }
        Ok(Self { root, path, file, program })
    }

    /// The plan of a lab (the default one where none is named) in an instance.
    ///
    /// # Errors
    /// Unknown lab, or ports that do not fit.
    pub fn plan(&self, lab: Option<&str>, instance: Instance) -> Result<Plan> {
        Ok(self.file.plan(lab.unwrap_or(self.file.default_lab.get_ref()), instance)?)
    }

    /// Every file that pins downloads or causes them: path → text.
    fn pins(&self) -> Result<BTreeMap<String, String>> {
        let mut texts = BTreeMap::new();
        for path in ["images.lock.json", "flake.lock", "Cargo.lock", "lab", ".ci/run"] {
            let text = std::fs::read_to_string(self.root.join(path))
                .with_context(|| format!("{path} cannot be read"))?;
            texts.insert(path.to_owned(), text);
        }
        for folder in ["compose/images", ".github/workflows"] {
            texts_below(&self.root, folder, |_| true, &mut texts)?;
        }
        Ok(texts)
    }

    /// Markdown pages and dashboards, rendered ones among them. The changelog is history: what it mentions stays.
    fn by_hand(&self) -> Result<BTreeMap<String, String>> {
        let mut texts = BTreeMap::new();
        for path in ["README.md", "CONTRIBUTING.md"] {
            let text = std::fs::read_to_string(self.root.join(path));
            texts.insert(path.to_owned(), text.with_context(|| format!("{path} cannot be read"))?);
        }
        // Pictures are no texts.
        let is_text = |path: &str| path.ends_with(".md") || path.ends_with(".json");
        texts_below(&self.root, "docs", is_text, &mut texts)?;
        texts_below(&self.root, crate::dashboards::FOLDER, is_text, &mut texts)?;
        Ok(texts)
    }

    /// The files that lie in the folder of which every file is rendered, by path.
    ///
    /// # Errors
    /// It cannot be read.
    pub fn rendered_files(&self) -> Result<BTreeSet<String>> {
        let mut texts = BTreeMap::new();
        if self.root.join(RENDERED_FOLDER).is_dir() {
            texts_below(&self.root, RENDERED_FOLDER, |_| true, &mut texts)?;
        }
        Ok(texts.into_keys().collect())
    }

    /// What services mount of the checkout. What a user writes there, and what a program leaves there, is none of it.
    fn mounted(&self) -> Result<BTreeMap<String, String>> {
        let mut sources = BTreeSet::new();
        for lab in self.file.labs.keys() {
            let plan = self.file.plan(lab, Instance::documented())?;
            sources.extend(plan.services.into_iter().flat_map(|s| s.files).map(|mount| mount.source));
        }
        let mut texts = BTreeMap::new();
        for source in sources {
            let is_own = |path: &str| !path.contains("/secrets/") && !path.contains("/__pycache__/");
            if self.root.join(&source).is_dir() {
                texts_below(&self.root, &source, is_own, &mut texts)?;
            } else {
                let text = std::fs::read_to_string(self.root.join(&source));
                texts.insert(source.clone(), text.with_context(|| format!("{source} cannot be read"))?);
            }
        }
        Ok(texts)
    }

    /// What pages are rendered from besides `lab.toml`.
    ///
    /// # Errors
    /// A file of the checkout that cannot be read, or a malformed lock.
    pub fn render_inputs(&self) -> Result<Inputs> {
        let lock = lock_entries(&self.root)?;
        let mut inputs = Inputs {
            digests: lock
                .into_iter()
                .map(|(reference, entry)| (reference, entry.index.to_string()))
                .collect(),
            pins: self.pins()?,
            dashboards: dashboards(&self.root)?,
            by_hand: self.by_hand()?,
            mounted: self.mounted()?,
            ..Inputs::default()
        };
        for (name, addon) in &self.file.addons {
            if let Some(recipe) = &addon.recipe {
                let folder = self.root.join("compose/images").join(recipe.get_ref());
                let read = |name: &str| match std::fs::read_to_string(folder.join(name)) {
                    Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(String::new()),
                    read => read.with_context(|| format!("{}/{name} cannot be read", folder.display())),
                };
                let files = AddonFiles {
                    jars: jars(&read("jars.sha256")?),
                    wheels: wheels(&read("requirements.txt")?),
                };
                if files == AddonFiles::default() {
                    bail!("{} pins nothing: jars.sha256 or requirements.txt is expected", folder.display());
                }
                inputs.addons.insert(name.clone(), files);
            }
        }
        Ok(inputs)
    }
}

/// A definition's file and, where it has them, its parts in `topology/` beside it, in the order of their names: name and
/// text of each.
///
/// # Errors
/// One cannot be read.
pub fn definition(path: &Path) -> Result<Vec<(String, String)>> {
    let text = std::fs::read_to_string(path)
        .with_context(|| format!("{} cannot be read; --file names another definition", path.display()))?;
    let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let mut parts = vec![(name, text)];
    let folder = path.with_file_name(PARTS_FOLDER);
    if folder.is_dir() {
        for name in names_in(&folder)?.into_iter().filter(|n| n.ends_with(".toml")) {
            let file = folder.join(&name);
            let text = std::fs::read_to_string(&file)
                .with_context(|| format!("{} cannot be read", file.display()))?;
            parts.push((format!("{PARTS_FOLDER}/{name}"), text));
        }
    }
    Ok(parts)
}

/// Paths of the files below a folder of `root` that `is_wanted` takes, with their texts.
fn texts_below(
    root: &Path,
    folder: &str,
    is_wanted: impl Fn(&str) -> bool + Copy,
    texts: &mut BTreeMap<String, String>,
) -> Result<()> {
    for name in names_in(&root.join(folder))? {
        let path = format!("{folder}/{name}");
        if root.join(&path).is_dir() {
            texts_below(root, &path, is_wanted, texts)?;
        } else if is_wanted(&path) {
            let text = std::fs::read_to_string(root.join(&path))
                .with_context(|| format!("{path} cannot be read"))?;
            texts.insert(path, text);
        }
    }
    Ok(())
}

/// File names in a folder, sorted.
fn names_in(folder: &Path) -> Result<Vec<String>> {
    let unreadable = || format!("{} cannot be read", folder.display());
    let entries = std::fs::read_dir(folder).with_context(unreadable)?;
    let mut names = Vec::new();
    for entry in entries {
        names.push(entry.with_context(unreadable)?.file_name().to_string_lossy().into_owned());
    }
    names.sort();
    Ok(names)
}

/// Reads `images.lock.json`.
///
/// # Errors
/// The file is missing or malformed.
pub fn lock_entries(root: &Path) -> Result<Lock> {
    let path = root.join(LOCK_FILE);
    let text =
        std::fs::read_to_string(&path).with_context(|| format!("{} cannot be read", path.display()))?;
    lock::parse(&text).with_context(|| format!("{} is malformed", path.display()))
}

/// Writes a file so that whoever reads it finds the old bytes or the new ones, never a part.
///
/// # Errors
/// The folder or the file cannot be written; the old file is as it was.
pub fn write_whole(path: &Path, bytes: &[u8]) -> Result<()> {
    let folder = path.parent().filter(|f| !f.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let written = tempfile::NamedTempFile::new_in(folder).and_then(|mut part| {
        part.write_all(bytes)?;
        part.as_file().sync_all()?;
        Ok(part.persist(path)?)
    });
    // A temporary file is its owner's alone; what is written here is a file of the checkout.
    let readable = written.and_then(|file| readable(&file));
    readable.with_context(|| format!("{} cannot be written", path.display()))
}

#[cfg(unix)]
fn readable(file: &std::fs::File) -> std::io::Result<()> {
    use std::os::unix::fs::PermissionsExt as _;
    file.set_permissions(std::fs::Permissions::from_mode(0o644))
}

#[cfg(not(unix))]
fn readable(_: &std::fs::File) -> std::io::Result<()> {
    Ok(())
}

fn nearest() -> Result<PathBuf> {
    // Set by the `lab` script, which may be called from anywhere.
    if let Some(root) = std::env::var_os("LAB_ROOT") {
        return Ok(PathBuf::from(root).join("lab.toml"));
    }
    let start = std::env::current_dir()?;
    let found = start.ancestors().map(|dir| dir.join("lab.toml")).find(|path| path.is_file());
    found.with_context(|| {
        format!(
            "no lab.toml in {} or above it: run this inside the checkout, or give --file",
            start.display()
        )
    })
}
