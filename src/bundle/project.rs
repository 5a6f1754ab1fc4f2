//! The checkout in a bundle: its files as one archive, and their unpacking into a folder that may be half there already.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::Read;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, bail};

use super::manifest::is_inside;

/// What belongs to one machine or one person: built files, settings, the address of a Slack webhook.
const LEFT_OUT: [&str; 4] = ["target", "compose/.env", "streamlab", "monitoring/secrets"];

/// Bytes of one file; a project is text and small data.
const LARGEST_FILE: u64 = 64 << 20;
/// Bytes of all files.
const LARGEST_PROJECT: u64 = 512 << 20;

/// Names the files of a project in a folder that came from a bundle, where there is no git.
const LIST: &str = "project-files.txt";

/// The files of a checkout as a compressed archive, the same for the same files.
///
/// # Errors
/// It is not known what belongs to the project, or a file cannot be read.
pub fn pack_project(root: &Path) -> Result<Vec<u8>> {
    let mut archive = tar::Builder::new(zstd::Encoder::new(Vec::new(), 9)?);
    archive.mode(tar::HeaderMode::Deterministic);
    archive.sparse(false);
    let files = files_of(root)?;
    for path in &files {
        let file = root.join(path);
        let size = file.symlink_metadata().with_context(|| format!("{path} cannot be read"))?.len();
        if size > LARGEST_FILE {
            bail!(
                "{path} has more than {LARGEST_FILE} bytes and would go into the bundle: take it out of the project"
            );
        }
        archive.append_path_with_name(&file, path).with_context(|| format!("{path} cannot be read"))?;
    }
    let list = files.iter().map(|path| format!("{path}\n")).collect::<String>();
    let mut header = tar::Header::new_gnu();
    header.set_size(list.len() as u64);
    header.set_mode(0o644);
    header.set_mtime(0);
    archive.append_data(&mut header, LIST, list.as_bytes())?;
    Ok(archive.into_inner()?.finish()?)
}

/// What belongs to a project, and never what only lies in its folder: the files that git tracks, or those that came in a bundle.
fn files_of(root: &Path) -> Result<BTreeSet<String>> {
    let list = root.join(LIST);
    let known: Vec<String> = if root.join(".git").exists() {
        // A checkout of another user is still this project.
        let trusted = format!("safe.directory={}", root.display());
        let git = Command::new("git").arg("-C").arg(root).args(["-c", &trusted, "ls-files", "-z"]).output();
        let git =
            git.context("git cannot be run: it knows what belongs to the project (apt-get install git)")?;
        if !git.status.success() {
            bail!(
                "git does not say what belongs to the project: {}",
                String::from_utf8_lossy(&git.stderr).trim()
            );
        }
        String::from_utf8(git.stdout)?.split_terminator('\0').map(str::to_owned).collect()
    } else if list.exists() {
        let text =
            std::fs::read_to_string(&list).with_context(|| format!("{} cannot be read", list.display()))?;
        text.lines().map(str::to_owned).collect()
    } else {
        bail!(
            "{} is neither a git checkout nor a folder that came from a bundle: it is not known what belongs to the project.\n  Take a checkout: git clone",
            root.display()
        );
    };
    let plain = |path: &String| {
        path != LIST && belongs(path) && root.join(path).symlink_metadata().is_ok_and(|found| found.is_file())
    };
    Ok(known.into_iter().filter(plain).collect())
}

/// Whether a path is part of a project: packed and unpacked by the same rule.
fn belongs(path: &str) -> bool {
    let hidden = |part: &str| {
        part.starts_with('.') && ![".ci", ".github", ".gitignore", ".gitattributes"].contains(&part)
    };
    let left_out = LEFT_OUT.iter().any(|out| path == *out || path.starts_with(&format!("{out}/")));
    // A bundle that was written into the checkout, and its parts while it is written.
    let bundle = |part: &str| part.ends_with(".bundle") || part.ends_with(".parts");
    is_inside(path)
        && !left_out
        && !path.split('/').any(|part| hidden(part) || bundle(part) || part == "__pycache__")
}

/// Unpacks a project into `target`. Files that are there with the same bytes stay: an interrupted unpacking goes on.
///
/// # Errors
/// A file that is there with other bytes (nothing is overwritten), or the disk is full.
pub fn unpack_project(packed: impl Read, target: &Path) -> Result<()> {
    let mut archive = tar::Archive::new(zstd::Decoder::new(packed)?);
    let mut total = 0;
    for entry in archive.entries()? {
        let mut entry = entry.context("the project's archive is damaged")?;
        let path = entry.path()?.into_owned();
        if !path.to_str().is_some_and(belongs) || !entry.header().entry_type().is_file() {
            bail!("the project's archive holds {}, which is no plain file of a project", path.display());
        }
        total += entry.size();
        if entry.size() > LARGEST_FILE || total > LARGEST_PROJECT {
            bail!("the project's archive is larger than any project");
        }
        let mut bytes = Vec::new();
        entry.read_to_end(&mut bytes).context("the project's archive is damaged")?;
        place(&target.join(&path), &bytes, entry.header().mode()? & 0o111 != 0)?;
    }
    Ok(())
}

/// Writes a file whole or not at all, unless it is there already.
///
/// # Errors
/// It is there with other bytes, or cannot be written.
pub fn place(path: &Path, bytes: &[u8], executable: bool) -> Result<()> {
    let shown = path.display();
    if path.exists() {
        if std::fs::read(path).with_context(|| format!("{shown} cannot be read"))? == bytes {
            return Ok(());
        }
        bail!(
            "{shown} is there and differs from the bundle's.\n  Nothing is overwritten: name another folder with --into, or move this one away."
        );
    }
    let folder = path.parent().unwrap_or(Path::new("."));
    let write = || -> std::io::Result<()> {
        std::fs::create_dir_all(folder)?;
        let mut part = tempfile::NamedTempFile::new_in(folder)?;
        std::io::Write::write_all(&mut part, bytes)?;
        set_mode(part.as_file(), executable)?;
        part.persist(path).map_err(|e| e.error)?;
        Ok(())
    };
    write().with_context(|| format!("{shown} cannot be written"))
}

fn set_mode(file: &File, executable: bool) -> std::io::Result<()> {
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt as _;
        file.set_permissions(std::fs::Permissions::from_mode(if executable { 0o755 } else { 0o644 }))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn git(folder: &Path, arguments: &[&str]) {
        let ended = Command::new("git").arg("-C").arg(folder).args(arguments).output().unwrap();
        assert!(ended.status.success(), "{}", String::from_utf8_lossy(&ended.stderr));
    }

    #[test]
    fn a_project_comes_back_without_what_only_lies_in_its_folder() {
        let (from, to) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let write = |path: &str, text: &str| {
            place(&from.path().join(path), text.as_bytes(), path == ".ci/run").unwrap();
        };
        let tracked = ["lab.toml", "jobs/x.py", "jobs/gone.py", ".ci/run", "monitoring/secrets/slack-url"];
        tracked.iter().for_each(|path| write(path, path));
        git(from.path(), &["init", "--quiet"]);
        git(from.path(), &["add", "--all"]);
        std::fs::remove_file(from.path().join("jobs/gone.py")).unwrap();
        ["id_rsa", "jobs/customers.csv", "target/y", "compose/.env"]
            .iter()
            .for_each(|path| write(path, "mine"));
        let packed = pack_project(from.path()).unwrap();
        assert!(packed == pack_project(from.path()).unwrap());
        unpack_project(packed.as_slice(), to.path()).unwrap();
        let there = |path: &str| to.path().join(path).exists();
        assert!(there("lab.toml") && there("jobs/x.py") && there(".ci/run"));
        for path in ["id_rsa", "jobs/customers.csv", "target", "compose/.env", ".git", "monitoring/secrets"] {
            assert!(!there(path), "{path} must not travel");
        }
        // Once more from there, where a stranger's file lies too, and there is no git.
        std::fs::write(to.path().join("id_rsa"), "mine").unwrap();
        assert!(pack_project(to.path()).unwrap() == packed, "what came in a bundle goes into the next");
        // Again: nothing to do. With an edited file: refused, and not overwritten.
        unpack_project(packed.as_slice(), to.path()).unwrap();
        std::fs::write(to.path().join("jobs/x.py"), "mine").unwrap();
        let error = unpack_project(packed.as_slice(), to.path()).unwrap_err().to_string();
        assert!(error.contains("jobs/x.py") && error.contains("--into"), "{error}");
        assert_eq!(std::fs::read(to.path().join("jobs/x.py")).unwrap(), b"mine");
    }

    #[test]
    fn a_folder_of_which_nothing_is_known_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("lab.toml"), "").unwrap();
        let error = pack_project(folder.path()).unwrap_err().to_string();
        assert!(error.contains("neither a git checkout nor"), "{error}");
    }

    #[test]
    fn a_path_that_leaves_the_folder_is_refused() {
        let to = tempfile::tempdir().unwrap();
        let mut archive = tar::Builder::new(zstd::Encoder::new(Vec::new(), 1).unwrap());
        let mut header = tar::Header::new_gnu();
        header.set_size(1);
        header.as_gnu_mut().unwrap().name[..7].copy_from_slice(b"../evil");
        header.set_cksum();
        archive.append(&header, &b"x"[..]).unwrap();
        let packed = archive.into_inner().unwrap().finish().unwrap();
        let error = unpack_project(packed.as_slice(), to.path()).unwrap_err().to_string();
        assert!(error.contains("evil"), "{error}");
    }
}
