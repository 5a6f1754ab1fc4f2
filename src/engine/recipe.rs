//! Recipes on disk: the tag of each image (a hash of its recipe and of what it stands on) and its build context.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use sha2::{Digest, Sha256};

use crate::project::Project;
use crate::topology::Recipe;

/// An image that a recipe makes, built or not.
#[derive(Debug, Clone)]
pub struct RecipeImage {
    /// Name of the recipe.
    pub name: String,
    /// `streamlab/<name>:<hash>`.
    pub reference: String,
    /// The recipe.
    pub recipe: Recipe,
    /// This program is in it: by its own recipe, or by one that it stands on.
    pub has_program: bool,
    dir: PathBuf,
}

/// The images of all recipes, those that others stand on first.
///
/// # Errors
/// A recipe's folder, a folder it trains on, or the program that cannot be read.
pub fn recipe_images(project: &Project, arch: &str) -> Result<Vec<RecipeImage>> {
    let mut hashes: BTreeMap<&str, String> = BTreeMap::new();
    let mut images: Vec<RecipeImage> = Vec::new();
    let mut open: Vec<&String> = project.file.recipes.keys().collect();
    while !open.is_empty() {
        let ready = |name: &&&String| {
            project.file.recipes[**name].from.iter().all(|f| hashes.contains_key(f.get_ref().as_str()))
        };
        // The definition was checked for circles, so one is always ready.
        let name = *open.iter().find(ready).context("recipes stand on each other in a circle")?;
        open.retain(|n| *n != name);
        let recipe = &project.file.recipes[name];
        let dir = project.root.join("compose/images").join(name);
        let mut sum = Sha256::new();
        sum.update(arch);
        for from in &recipe.from {
            sum.update(&hashes[from.get_ref().as_str()]);
        }
        for (path, file) in context_files(project, recipe, &dir)? {
            // A training run only decides which classes start fast: an edited job needs no new image.
            if recipe.trains_on.iter().any(|folder| path.starts_with(&format!("{folder}/"))) {
                continue;
            }
            sum.update(path);
            let mut reader =
                std::fs::File::open(&file).with_context(|| format!("{} cannot be read", file.display()))?;
            std::io::copy(&mut reader, &mut HashWriter(&mut sum))?;
        }
        let hash = sum.finalize().iter().take(6).fold(String::new(), |mut hex, byte| {
            let _ = write!(hex, "{byte:02x}");
            hex
        });
        let reference = format!("streamlab/{name}:{hash}");
        hashes.insert(name, hash);
        let below = images.iter().filter(|i| recipe.from.iter().any(|from| *from.get_ref() == i.name));
        let has_program = recipe.program || below.into_iter().any(|i| i.has_program);
        images.push(RecipeImage { name: name.clone(), reference, recipe: recipe.clone(), has_program, dir });
    }
    Ok(images)
}

struct HashWriter<'a>(&'a mut Sha256);

impl std::io::Write for HashWriter<'_> {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.update(bytes);
        Ok(bytes.len())
    }
    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// Path in the context → file on disk, sorted: the recipe's folder, what it trains on, the program.
fn context_files(project: &Project, recipe: &Recipe, dir: &Path) -> Result<BTreeMap<String, PathBuf>> {
    let mut files = BTreeMap::new();
    walk(dir, "", &mut files)?;
    for folder in &recipe.trains_on {
        walk(&project.root.join(folder), folder, &mut files)?;
    }
    if recipe.program && cfg!(target_os = "linux") {
        files.insert("program/usr/local/bin/streamlab".to_owned(), project.program.clone());
        for library in store_libraries(&project.program)? {
            files.insert(format!("program{}", library.display()), library);
        }
    } else if recipe.program {
        // The host's program would not run in a container: it is compiled inside (never run so far).
        for name in ["Cargo.toml", "Cargo.lock"] {
            files.insert(format!("source/{name}"), project.root.join(name));
        }
        for folder in ["examples", "pipeline", "records", "src", "tests"] {
            walk(&project.root.join(folder), &format!("source/{folder}"), &mut files)?;
        }
    }
    Ok(files)
}

/// What a program that Nix linked needs at the same place in the image: its loader and libraries, which lie in Nix's store.
/// Empty for any other program.
fn store_libraries(program: &Path) -> Result<Vec<PathBuf>> {
    // The loader lists what it would load, and runs nothing; a program without a loader prints its help.
    let listed = std::process::Command::new(program).env("LD_TRACE_LOADED_OBJECTS", "1").output();
    let listed = listed.with_context(|| format!("{} cannot be run", program.display()))?.stdout;
    let listed = String::from_utf8_lossy(&listed).into_owned();
    let paths = listed.split_whitespace().filter(|word| word.starts_with("/nix/store/"));
    Ok(paths.map(PathBuf::from).collect::<BTreeSet<_>>().into_iter().collect())
}

fn walk(dir: &Path, prefix: &str, files: &mut BTreeMap<String, PathBuf>) -> Result<()> {
    let entries = std::fs::read_dir(dir).with_context(|| format!("{} cannot be read", dir.display()))?;
    for entry in entries {
        let entry = entry?;
        let name = entry.file_name().to_string_lossy().into_owned();
        let path = if prefix.is_empty() { name.clone() } else { format!("{prefix}/{name}") };
        if name.starts_with('.') || name == "__pycache__" {
            continue;
        }
        if entry.file_type()?.is_dir() {
            walk(&entry.path(), &path, files)?;
        } else {
            files.insert(path, entry.path());
        }
    }
    Ok(())
}

impl RecipeImage {
    /// The build context as a tar archive.
    ///
    /// # Errors
    /// A file of the context that cannot be read.
    pub fn context(&self, project: &Project) -> Result<Vec<u8>> {
        let mut archive = tar::Builder::new(Vec::new());
        archive.mode(tar::HeaderMode::Deterministic);
        // The engine does not read sparse entries, and linkers leave holes in programs.
        archive.sparse(false);
        for (path, file) in context_files(project, &self.recipe, &self.dir)? {
            archive.append_path_with_name(&file, &path).with_context(|| format!("{}", file.display()))?;
        }
        if self.recipe.host_settings {
            for (path, bytes) in host_settings() {
                let mut header = tar::Header::new_gnu();
                header.set_size(bytes.len() as u64);
                header.set_mode(0o644);
                archive.append_data(&mut header, path, bytes.as_slice())?;
            }
        }
        Ok(archive.into_inner()?)
    }

    /// Debian packages as they were when the recipe was last reviewed: `name version sha256` a line. None where none
    /// were recorded for this architecture.
    pub fn recorded_packages(&self, arch: &str) -> Option<String> {
        std::fs::read_to_string(self.dir.join(format!("debian-packages.{arch}.lock"))).ok()
    }
}

/// What company networks need inside a builder: extra certificates, pip's and Maven's settings.
fn host_settings() -> Vec<(String, Vec<u8>)> {
    let mut settings = vec![("host/README".to_owned(), b"The host's certificates and mirrors.\n".to_vec())];
    let certificates = std::fs::read_dir("/usr/local/share/ca-certificates").into_iter().flatten().flatten();
    for file in certificates.filter(|f| f.path().extension().is_some_and(|e| e == "crt")) {
        if let Ok(bytes) = std::fs::read(file.path()) {
            let name = file.file_name().to_string_lossy().into_owned();
            settings.push((format!("host/ca-certificates/{name}"), bytes));
        }
    }
    let home = std::env::var_os("HOME").map(PathBuf::from).unwrap_or_default();
    let maven = home.join(".m2/settings.xml");
    if let Ok(bytes) = std::fs::read(&maven) {
        settings.push(("host/settings.xml".to_owned(), bytes));
    }
    settings
}

/// The user's proxies, as build arguments of every image. Docker keeps them out of the image by itself.
pub(super) fn host_arguments() -> BTreeMap<String, String> {
    let names = ["HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "http_proxy", "https_proxy", "no_proxy"];
    names.iter().filter_map(|n| Some(((*n).to_owned(), std::env::var(n).ok()?))).collect()
}

/// pip's mirror, for the one stage that takes it.
pub(super) fn pip_index() -> Option<(String, String)> {
    Some(("PIP_INDEX_URL".to_owned(), std::env::var("PIP_INDEX_URL").ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::topology::LabFile;

    const RECIPES: &str = r#"
        default_lab = "l"
        labs.l = { about = "", network = "n", services = [] }
        services = {}
        images = {}
        [recipes]
        base = { from = [] }
        left = { from = ["base"], trains_on = ["jobs"] }
        right = { from = ["base"] }
        top = { from = ["left"] }
    "#;

    struct Checkout(PathBuf);

    impl Checkout {
        fn new(name: &str) -> Self {
            let root = std::env::temp_dir().join(format!("streamlab-recipe-{name}-{}", std::process::id()));
            for recipe in ["base", "left", "right", "top"] {
                std::fs::create_dir_all(root.join("compose/images").join(recipe)).unwrap();
                std::fs::write(root.join("compose/images").join(recipe).join("Dockerfile"), "FROM x")
                    .unwrap();
            }
            std::fs::create_dir_all(root.join("jobs")).unwrap();
            std::fs::write(root.join("jobs/job.py"), "1").unwrap();
            Self(root)
        }

        fn references(&self) -> BTreeMap<String, String> {
            let file = LabFile::parse(RECIPES).unwrap();
            let project =
                Project { root: self.0.clone(), path: PathBuf::new(), file, program: PathBuf::new() };
            let images = recipe_images(&project, "amd64").unwrap();
            images.into_iter().map(|i| (i.name, i.reference)).collect()
        }

        fn changed_by(&self, path: &str) -> Vec<String> {
            let before = self.references();
            std::fs::write(self.0.join(path), "changed").unwrap();
            self.references().into_iter().filter(|(n, r)| before[n] != *r).map(|(n, _)| n).collect()
        }
    }

    impl Drop for Checkout {
        fn drop(&mut self) {
            let _ = std::fs::remove_dir_all(&self.0);
        }
    }

    #[test]
    fn a_changed_recipe_changes_itself_and_what_stands_on_it() {
        let checkout = Checkout::new("changed");
        assert_eq!(checkout.references(), checkout.references());
        assert_eq!(checkout.changed_by("compose/images/left/Dockerfile"), ["left", "top"]);
        assert_eq!(checkout.changed_by("compose/images/top/new-file"), ["top"]);
        assert_eq!(checkout.changed_by("compose/images/base/Dockerfile"), ["base", "left", "right", "top"]);
    }

    #[test]
    fn an_edited_job_needs_no_new_image() {
        assert!(Checkout::new("job").changed_by("jobs/job.py").is_empty());
    }
}
