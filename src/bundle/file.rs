//! A bundle on disk: a tar archive whose entries are found by name, each compared with its digest before it is used.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufReader, Read, Write};
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, Result, anyhow, bail};

use super::manifest::{LARGEST_MANIFEST, MANIFEST, Manifest, blob};
use super::{Blobs, Hashing};

/// An opened bundle, whose manifest hangs together; [`BundleFile::verify`] compares the bytes.
#[derive(Debug)]
pub struct BundleFile {
    path: PathBuf,
    /// Opened once: a file that takes this one's name meanwhile is another bundle.
    file: Arc<File>,
    /// What it holds.
    pub manifest: Manifest,
    /// Entry → where its bytes begin, and how many there are.
    places: BTreeMap<String, (u64, u64)>,
}

/// Whether a bundle may be written there: nothing is replaced but an older bundle.
///
/// # Errors
/// Something else is there.
pub fn check_target(path: &Path) -> Result<()> {
    let Ok(there) = path.symlink_metadata() else { return Ok(()) };
    // An entry's name stands first in a tar archive; a bundle of another version is one too.
    let begins = || {
        let mut name = [0; MANIFEST.len() + 1];
        File::open(path)?.read_exact(&mut name)?;
        Ok::<_, std::io::Error>(name.starts_with(MANIFEST.as_bytes()) && name.ends_with(&[0]))
    };
    if !there.is_file() || !begins().unwrap_or(false) {
        bail!("{} is there and is no bundle: it is not replaced. Name another file.", path.display());
    }
    Ok(())
}

/// Writes a bundle; `first` are entries that people take out by hand. The file appears whole or not at all: it is made where the
/// blobs are, which must be on the same file system.
///
/// # Errors
/// It cannot be written.
pub fn pack_file(path: &Path, mut manifest: Manifest, blobs: &Blobs, first: &[&str]) -> Result<Manifest> {
    manifest.entries.clone_from(&blobs.entries);
    let unwritable = || format!("{} cannot be written", path.display());
    check_target(path)?;
    let part = tempfile::NamedTempFile::new_in(blobs.folder()).with_context(unwritable)?;
    write(part.as_file(), &manifest, blobs, first).with_context(unwritable)?;
    readable(part.as_file()).with_context(unwritable)?;
    part.persist(path).map_err(|e| e.error).with_context(unwritable)?;
    Ok(manifest)
}

/// A temporary file is its owner's alone; a bundle is for copying.
fn readable(file: &File) -> std::io::Result<()> {
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt as _;
        file.set_permissions(std::fs::Permissions::from_mode(0o644))?;
    }
    Ok(())
}

fn write(file: &File, manifest: &Manifest, blobs: &Blobs, first: &[&str]) -> Result<()> {
    let mut archive = tar::Builder::new(std::io::BufWriter::new(file));
    let text = manifest.text()?;
    append(&mut archive, MANIFEST, text.len() as u64, text.as_bytes())?;
    let rest = manifest.entries.keys().map(String::as_str).filter(|name| !first.contains(name));
    for name in first.iter().copied().chain(rest) {
        append(&mut archive, name, manifest.entries[name].size, File::open(blobs.path(name))?)?;
    }
    archive.into_inner()?.flush()?;
    Ok(())
}

fn append(archive: &mut tar::Builder<impl Write>, name: &str, size: u64, bytes: impl Read) -> Result<()> {
    // Nothing of the day or the machine: the same content is the same file.
    let mut header = tar::Header::new_gnu();
    header.set_size(size);
    header.set_mode(if name == "streamlab" { 0o755 } else { 0o644 });
    header.set_mtime(0);
    archive.append_data(&mut header, name, bytes)?;
    Ok(())
}

impl BundleFile {
    /// Opens a bundle and reads its manifest.
    ///
    /// # Errors
    /// It is no bundle, or half of one, or one of another format.
    pub fn open(path: &Path) -> Result<Self> {
        let shown = path.display();
        let file = Arc::new(File::open(path).with_context(|| format!("{shown} cannot be opened"))?);
        let mut archive = tar::Archive::new(BufReader::new(file.as_ref()));
        let mut manifest = None;
        let mut places = BTreeMap::new();
        let foreign =
            || format!("{shown} is no bundle of streamlab (a tar archive that begins with {MANIFEST})");
        // What a foreign file holds is not repeated: it may be anything.
        for entry in archive.entries_with_seek().map_err(|_| anyhow!(foreign()))? {
            let half = || format!("{shown} ends early or is damaged: copy or export it again");
            let mut entry =
                entry.map_err(|_| anyhow!(if manifest.is_none() { foreign() } else { half() }))?;
            let name = entry.path().with_context(half)?.to_string_lossy().into_owned();
            if manifest.is_none() {
                if name != MANIFEST || entry.size() > LARGEST_MANIFEST {
                    bail!(foreign());
                }
                let mut bytes = Vec::new();
                entry.read_to_end(&mut bytes).with_context(half)?;
                manifest = Some(Manifest::parse(&bytes).with_context(|| format!("{shown}: {MANIFEST}"))?);
            } else {
                places.insert(name, (entry.raw_file_position(), entry.size()));
            }
        }
        let manifest = manifest.with_context(foreign)?;
        Ok(Self { path: path.to_owned(), file, manifest, places })
    }

    /// Compares every entry with its digest; `seen` is told how many bytes were compared.
    ///
    /// # Errors
    /// The first entry that is missing, unknown or not what the manifest says, by name.
    pub fn verify(&self, mut seen: impl FnMut(u64)) -> Result<()> {
        let shown = self.path.display();
        if let Some(name) = self.places.keys().find(|name| !self.manifest.entries.contains_key(*name)) {
            bail!(
                "{shown} holds {name}, which its manifest does not name: it was changed after it was written"
            );
        }
        // Sizes first: a copy that broke off is said at once.
        for (name, entry) in &self.manifest.entries {
            let there = self.place(name).map_or(0, |(_, size)| size);
            if there != entry.size {
                bail!(
                    "{shown} is damaged at {name}: {there} bytes instead of {}.\n  Nothing was used. Copy or export it again.",
                    entry.size
                );
            }
        }
        for (name, entry) in &self.manifest.entries {
            let mut content = Hashing::new(self.entry(name)?);
            std::io::copy(&mut content, &mut std::io::sink())?;
            let (_, digest, size) = content.finish();
            if digest != entry.digest {
                bail!(
                    "{shown} is damaged at {name}: {size} bytes with digest {digest}, it should be {} bytes with {}.\n  Nothing was used. Copy or export it again.",
                    entry.size,
                    entry.digest
                );
            }
            seen(size);
        }
        Ok(())
    }

    /// The bytes of an entry.
    ///
    /// # Errors
    /// There is none of that name.
    pub fn entry(&self, name: &str) -> Result<impl Read + Send + use<>> {
        let shown = self.path.display();
        let (at, size) =
            self.place(name).with_context(|| format!("{shown} is not whole: {name} is missing"))?;
        Ok(BufReader::with_capacity(1 << 20, Part { file: Arc::clone(&self.file), at, left: size }))
    }

    /// Where an entry's bytes begin in the file, and how many there are.
    pub fn place(&self, name: &str) -> Option<(u64, u64)> {
        self.places.get(name).copied()
    }

    /// The bytes of a blob.
    ///
    /// # Errors
    /// There is none of that digest.
    pub fn blob(&self, digest: &str) -> Result<Box<dyn Read + Send>> {
        Ok(Box::new(self.entry(&blob(digest))?))
    }

    /// Bytes of the whole file.
    ///
    /// # Errors
    /// It cannot be asked.
    pub fn size(&self) -> std::io::Result<u64> {
        Ok(self.file.metadata()?.len())
    }

    /// `length` bytes from `at` on.
    ///
    /// # Errors
    /// It ends before.
    pub fn read_at(&self, at: u64, length: usize) -> std::io::Result<Vec<u8>> {
        let mut bytes = vec![0; length];
        self.file.read_exact_at(&mut bytes, at)?;
        Ok(bytes)
    }
}

/// A part of a file, read without a place of its own in it.
struct Part {
    file: Arc<File>,
    at: u64,
    left: u64,
}

impl Read for Part {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let length = buffer.len().min(usize::try_from(self.left).unwrap_or(usize::MAX));
        let read = self.file.read_at(&mut buffer[..length], self.at)?;
        self.at += read as u64;
        self.left -= read as u64;
        Ok(read)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bundle(folder: &Path) -> PathBuf {
        let mut blobs = Blobs::new(folder);
        blobs.add_as("README.txt", b"read me").unwrap();
        blobs.add_as("streamlab", &vec![7; 100_000]).unwrap();
        let path = folder.join("x.bundle");
        pack_file(
            &path,
            Manifest::new("tiny", "lab.toml", crate::topology::Source::Local, "amd64"),
            &blobs,
            &["README.txt"],
        )
        .unwrap();
        path
    }

    #[test]
    fn what_was_packed_is_found_and_the_same_content_is_the_same_file() {
        let (one, two) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let file = BundleFile::open(&bundle(one.path())).unwrap();
        file.verify(|_| ()).unwrap();
        let mut text = String::new();
        file.entry("README.txt").unwrap().read_to_string(&mut text).unwrap();
        assert_eq!(text, "read me");
        let bytes = |folder: &Path| std::fs::read(bundle(folder)).unwrap();
        assert!(bytes(one.path()) == bytes(two.path()));
    }

    #[test]
    fn each_damage_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let whole = std::fs::read(bundle(folder.path())).unwrap();
        let said = |bytes: &[u8]| {
            let path = folder.path().join("damaged.bundle");
            std::fs::write(&path, bytes).unwrap();
            let checked = BundleFile::open(&path).and_then(|f| f.verify(|_| ()));
            checked.map_or_else(|e| format!("{e:#}"), |()| "nothing".to_owned())
        };
        assert_eq!(said(&whole), "nothing");
        assert!(said(b"").contains("is no bundle"), "{}", said(b""));
        assert!(said(b"hello, this is a letter").contains("is no bundle"));
        // Cut within the last entry, within a header, and right after the manifest.
        for length in [whole.len() - 60_000, 1600, 1024] {
            let text = said(&whole[..length]);
            assert!(
                text.contains("ends early") || text.contains("is missing") || text.contains("damaged at"),
                "{text}"
            );
        }
        let mut flipped = whole.clone();
        let at = flipped.windows(7).rposition(|w| w == b"read me").unwrap();
        flipped[at] ^= 1;
        assert!(said(&flipped).contains("damaged at README.txt"), "{}", said(&flipped));
    }

    #[test]
    fn another_archive_is_no_bundle_and_an_added_entry_is_seen() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("other.tar");
        let mut archive = tar::Builder::new(File::create(&path).unwrap());
        append(&mut archive, "manifest.json", 2, &b"[]"[..]).unwrap();
        archive.into_inner().unwrap();
        assert!(format!("{:#}", BundleFile::open(&path).unwrap_err()).contains("is no bundle"));

        let path = bundle(folder.path());
        let mut bytes = std::fs::read(&path).unwrap();
        bytes.truncate(bytes.len() - 1024);
        let mut extra = tar::Builder::new(Vec::new());
        append(&mut extra, "extra", 1, &b"x"[..]).unwrap();
        bytes.extend(extra.into_inner().unwrap());
        std::fs::write(&path, bytes).unwrap();
        let error = BundleFile::open(&path).unwrap().verify(|_| ()).unwrap_err();
        assert!(format!("{error:#}").contains("extra"), "{error:#}");
    }
}
