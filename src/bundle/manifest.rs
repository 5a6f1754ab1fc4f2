//! `bundle.json`: what a bundle holds, with the digest of each part. Pure.

use std::collections::BTreeMap;

use anyhow::{Context, Result, bail};
use serde::{Deserialize, Serialize};

use super::sha256;
use crate::lock::Digest;
use crate::topology::Source;

/// Name of the manifest in a bundle.
pub const MANIFEST: &str = "bundle.json";
/// The manifest is a list of names: more bytes than this are no manifest.
pub(super) const LARGEST_MANIFEST: u64 = 16 << 20;
/// The format that this program writes and reads.
const FORMAT: u32 = 1;

/// What a bundle holds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Manifest {
    /// Version of this format.
    pub streamlab_bundle: u32,
    /// Version of the program that wrote it.
    pub version: String,
    /// Lab it was made for.
    pub lab: String,
    /// The definition that has this lab: a path in the project.
    pub definition: String,
    /// Where its images are from.
    pub source: Source,
    /// Architecture of the images and the program, as the engine names it.
    pub architecture: String,
    /// Images by reference.
    pub images: BTreeMap<String, BundleImage>,
    /// Every entry of the file but this one, by name.
    pub entries: BTreeMap<String, Entry>,
}

/// Size and digest of an entry.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Entry {
    /// `sha256:<hex>`.
    pub digest: String,
    /// Bytes.
    pub size: u64,
}

/// An image: its documents and layers are entries `blobs/sha256/<hex>`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BundleImage {
    /// Digest of its OCI manifest.
    pub manifest: String,
    /// Digest of its configuration: the image's id on the engine it came from.
    pub config: String,
    /// Its layers, lowest first.
    pub layers: Vec<Layer>,
}

/// A layer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Layer {
    /// Digest of the stored bytes (zstd).
    pub digest: String,
    /// Digest of the unpacked bytes, which the configuration names.
    pub diff_id: String,
    /// Unpacked bytes.
    pub unpacked: u64,
}

impl Manifest {
    /// An empty bundle.
    pub fn new(lab: &str, definition: &str, source: Source, architecture: &str) -> Self {
        Self {
            streamlab_bundle: FORMAT,
            version: env!("CARGO_PKG_VERSION").to_owned(),
            lab: lab.to_owned(),
            definition: definition.to_owned(),
            source,
            architecture: architecture.to_owned(),
            images: BTreeMap::new(),
            entries: BTreeMap::new(),
        }
    }

    /// Reads a manifest and checks that it hangs together: the format, names that stay inside, a blob for every layer.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn parse(bytes: &[u8]) -> Result<Self> {
        #[derive(Deserialize)]
        struct Format {
            streamlab_bundle: u32,
        }
        let format: Format = serde_json::from_slice(bytes).context("it is not a bundle's manifest")?;
        if format.streamlab_bundle != FORMAT {
            bail!(
                "it has format {}, this program reads {FORMAT}: use the program inside the bundle (tar -xf FILE streamlab)",
                format.streamlab_bundle
            );
        }
        let manifest: Self = serde_json::from_slice(bytes).context("it is malformed")?;
        // These are printed, and one becomes a folder's name: nothing that a terminal or a shell would take otherwise.
        let words = [&manifest.version, &manifest.lab, &manifest.architecture];
        if let Some(word) = words.into_iter().find(|w| !is_word(w)) {
            bail!("{word:?} is no name");
        }
        if !is_inside(&manifest.definition) {
            bail!("its definition {:?} is no plain path", manifest.definition);
        }
        let unpacked = manifest.images.values().flat_map(|i| &i.layers).map(|l| l.unpacked);
        let sizes = manifest.entries.values().map(|e| e.size).chain(unpacked);
        if sizes.fold(0_u64, u64::saturating_add) > LARGEST {
            bail!("it would be larger than {LARGEST} bytes");
        }
        for (name, entry) in &manifest.entries {
            if !is_inside(name) {
                bail!("it names an entry {name:?}, which is no plain path");
            }
            check_digest(&entry.digest).with_context(|| format!("entry {name}"))?;
        }
        for (reference, image) in &manifest.images {
            let valid = reference.split(['/', ':']).all(is_word) && reference.contains(':');
            if !valid {
                bail!("{reference:?} is no image's name and tag");
            }
            let layers = image.layers.iter().map(|l| &l.digest);
            for digest in [&image.manifest, &image.config].into_iter().chain(layers) {
                let entry = manifest.entries.get(&blob(digest));
                if entry.is_none_or(|e| e.digest != *digest) {
                    bail!("{reference} stands on {digest}, which is not among its entries");
                }
            }
        }
        Ok(manifest)
    }

    /// Bytes of a blob.
    pub fn size_of(&self, digest: &str) -> Option<u64> {
        self.entries.get(&blob(digest)).map(|e| e.size)
    }

    /// As it stands in a bundle.
    ///
    /// # Errors
    /// Writing JSON fails, which text and numbers never cause.
    pub fn text(&self) -> Result<String> {
        Ok(serde_json::to_string_pretty(self)? + "\n")
    }

    /// What people compare on two screens: the first digits of the manifest's digest.
    ///
    /// # Errors
    /// As [`Self::text`].
    pub fn fingerprint(&self) -> Result<String> {
        Ok(sha256(self.text()?.as_bytes())["sha256:".len()..][..16].to_owned())
    }
}

/// No lab is larger, in bytes.
const LARGEST: u64 = 1 << 40;

fn is_word(text: &str) -> bool {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
    !text.is_empty() && text.len() <= 128 && !text.starts_with('.') && text.chars().all(plain)
}

/// A relative path of plain names, none of which leads upwards.
pub(super) fn is_inside(path: &str) -> bool {
    !path.is_empty()
        && !path.chars().any(char::is_control)
        && path.split('/').all(|part| !part.is_empty() && part != "." && part != "..")
}

/// The entry that holds a blob.
pub(super) fn blob(digest: &str) -> String {
    format!("blobs/{}", digest.replace(':', "/"))
}

/// `sha256:` and 64 hex digits.
pub(super) fn check_digest(text: &str) -> Result<()> {
    match Digest::try_from(text.to_owned()) {
        Ok(_) => Ok(()),
        Err(_) => bail!("{text:?} is no sha256 digest"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> Manifest {
        let mut manifest = Manifest::new("transactions", "lab.toml", crate::topology::Source::Local, "amd64");
        let digests: Vec<String> = (0..3).map(|n| sha256(&[n])).collect();
        for digest in &digests {
            manifest.entries.insert(blob(digest), Entry { digest: digest.clone(), size: 1 });
        }
        let layer = Layer { digest: digests[2].clone(), diff_id: sha256(b"x"), unpacked: 1 };
        let image =
            BundleImage { manifest: digests[0].clone(), config: digests[1].clone(), layers: vec![layer] };
        manifest.images.insert("streamlab/kafka:1".to_owned(), image);
        manifest
    }

    #[test]
    fn what_is_written_is_read() {
        let manifest = sample();
        assert_eq!(Manifest::parse(manifest.text().unwrap().as_bytes()).unwrap(), manifest);
        assert_eq!(manifest.fingerprint().unwrap().len(), 16);
    }

    #[test]
    fn each_mistake_is_named() {
        type Spoil = fn(&mut Manifest);
        let cases: [(Spoil, &str); 10] = [
            (|m| m.lab = "x/../../evil".to_owned(), "is no name"),
            (|m| m.lab = "x\u{1b}[31m".to_owned(), "is no name"),
            (|m| m.definition = "../lab.toml".to_owned(), "no plain path"),
            (|m| m.entries.values_mut().for_each(|e| e.size = u64::MAX), "larger than"),
            (
                |m| m.images = m.images.values().map(|i| ("a b".to_owned(), i.clone())).collect(),
                "no image's name",
            ),
            (|m| m.streamlab_bundle = 2, "format 2"),
            (|m| drop(m.entries.pop_first()), "not among its entries"),
            (
                |m| drop(m.entries.insert("../x".to_owned(), m.entries.values().next().unwrap().clone())),
                "no plain path",
            ),
            (
                |m| drop(m.entries.insert("/x".to_owned(), m.entries.values().next().unwrap().clone())),
                "no plain path",
            ),
            (|m| m.entries.values_mut().next().unwrap().digest = "sha256:1".to_owned(), "no sha256 digest"),
        ];
        for (spoil, said) in cases {
            let mut manifest = sample();
            spoil(&mut manifest);
            let error = Manifest::parse(manifest.text().unwrap().as_bytes()).unwrap_err();
            assert!(format!("{error:#}").contains(said), "{error:#}");
        }
        assert!(format!("{:#}", Manifest::parse(b"{}").unwrap_err()).contains("not a bundle's manifest"));
    }
}
