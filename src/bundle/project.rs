//! The checkout in a bundle: its files as one archive, and their unpacking into a folder that may be half there already.

use std::fs::File;
use std::io::Read;
use std::path::Path;

use anyhow::{Context, Result, bail};

use super::manifest::is_inside;

/// What belongs to one machine only, or to one person: where Slack listens for him.
const LEFT_OUT: [&str; 4] = ["target", "compose/.env", "streamlab", "monitoring/secrets"];

/// Bytes of one file; a project is text and small data.
const LARGEST_FILE: u64 = 64 << 20;
/// Bytes of all files.
const LARGEST_PROJECT: u64 = 512 << 20;

/// The files of a checkout as a compressed archive, the same for the same files.
///
/// # Errors
/// A file cannot be read.
pub fn pack_project(root: &Path) -> Result<Vec<u8>> {
    let mut archive = tar::Builder::new(zstd::Encoder::new(Vec::new(), 9)?);
    archive.mode(tar::HeaderMode::Deterministic);
    archive.sparse(false);
    append(&mut archive, root, "")?;
    Ok(archive.into_inner()?.finish()?)
}

fn append(archive: &mut tar::Builder<impl std::io::Write>, root: &Path, folder: &str) -> Result<()> {
    let unreadable = || format!("{} cannot be read", root.join(folder).display());
    let mut names = Vec::new();
    for entry in std::fs::read_dir(root.join(folder)).with_context(unreadable)? {
        names.push(entry.with_context(unreadable)?.file_name().to_string_lossy().into_owned());
    }
    names.sort();
    for name in names {
        let path = if folder.is_empty() { name } else { format!("{folder}/{name}") };
        if !belongs(&path) {
            continue;
        }
        let file = root.join(&path);
        let kind = file.symlink_metadata().with_context(|| format!("{path} cannot be read"))?;
        if kind.is_dir() {
            append(archive, root, &path)?;
        } else if kind.is_file() {
            if kind.len() > LARGEST_FILE {
                bail!(
                    "{path} has more than {LARGEST_FILE} bytes and would go into the bundle: move it out of the checkout"
                );
            }
            archive.append_path_with_name(&file, &path).with_context(|| format!("{path} cannot be read"))?;
        }
    }
    Ok(())
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

    #[test]
    fn a_project_comes_back_without_what_belongs_to_one_machine() {
        let (from, to) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        for (path, text) in [
            ("lab.toml", "a"),
            ("jobs/x.py", "b"),
            ("target/y", "c"),
            (".git/z", "d"),
            (".ci/run", "e"),
            ("compose/.env", "f"),
            ("monitoring/secrets/slack-url", "g"),
        ] {
            place(&from.path().join(path), text.as_bytes(), path == ".ci/run").unwrap();
        }
        let packed = pack_project(from.path()).unwrap();
        assert!(packed == pack_project(from.path()).unwrap());
        unpack_project(packed.as_slice(), to.path()).unwrap();
        let there = |path: &str| to.path().join(path).exists();
        assert!(there("lab.toml") && there("jobs/x.py") && there(".ci/run"));
        assert!(!there("target") && !there(".git") && !there("compose/.env"));
        assert!(!there("monitoring/secrets"), "a secret must not travel");
        // Again: nothing to do. With an edited file: refused, and not overwritten.
        unpack_project(packed.as_slice(), to.path()).unwrap();
        std::fs::write(to.path().join("jobs/x.py"), "mine").unwrap();
        let error = unpack_project(packed.as_slice(), to.path()).unwrap_err().to_string();
        assert!(error.contains("jobs/x.py") && error.contains("--into"), "{error}");
        assert_eq!(std::fs::read(to.path().join("jobs/x.py")).unwrap(), b"mine");
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
