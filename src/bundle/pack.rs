//! From the archive that an engine saves images as to content-addressed blobs: layers unpacked, named, compressed, stored
//! once.

use std::collections::{BTreeMap, HashMap};
use std::fs::File;
use std::io::{BufReader, Read, Write};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use flate2::read::MultiGzDecoder;
use serde::Deserialize;
use serde_json::{Value, json};

use super::manifest::{BundleImage, Entry, Layer, blob};
use super::{Hashing, sha256};
use crate::lock::without_localhost;

/// Most of zstd's gain at a speed that two cores bear.
const LEVEL: i32 = 7;
/// Documents are small; what is larger is a layer.
const DOCUMENT: u64 = 4 << 20;

/// Blobs in a folder, by digest.
#[derive(Debug)]
pub struct Blobs {
    folder: PathBuf,
    /// Entry name → size and digest.
    pub entries: BTreeMap<String, Entry>,
}

impl Blobs {
    /// In an existing folder.
    pub fn new(folder: &Path) -> Self {
        Self { folder: folder.to_owned(), entries: BTreeMap::new() }
    }

    /// Where they are.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// Where an entry's bytes are.
    pub fn path(&self, entry: &str) -> PathBuf {
        self.folder.join(entry.replace('/', "-"))
    }

    /// Adds bytes under their digest.
    ///
    /// # Errors
    /// They cannot be written.
    pub fn add(&mut self, bytes: &[u8]) -> Result<String> {
        let digest = sha256(bytes);
        self.add_as(&blob(&digest), bytes)?;
        Ok(digest)
    }

    /// Adds bytes under a name of their own.
    ///
    /// # Errors
    /// They cannot be written.
    pub fn add_as(&mut self, name: &str, bytes: &[u8]) -> Result<()> {
        let entry = Entry { digest: sha256(bytes), size: bytes.len() as u64 };
        std::fs::write(self.path(name), bytes).with_context(|| format!("{name} cannot be written"))?;
        self.entries.insert(name.to_owned(), entry);
        Ok(())
    }

    /// Unpacks (where gzip) and compresses a layer; gives its digests.
    fn add_layer(&mut self, content: impl Read) -> Result<Layer> {
        let mut content = BufReader::new(content);
        let gzip = std::io::BufRead::fill_buf(&mut content)?.starts_with(&[0x1f, 0x8b]);
        let content: Box<dyn Read> =
            if gzip { Box::new(MultiGzDecoder::new(content)) } else { Box::new(content) };
        let mut content = Hashing::new(content);
        let part = self.folder.join("layer.part");
        let mut encoder = zstd::Encoder::new(Hashing::new(File::create(&part)?), LEVEL)?;
        encoder.multithread(std::thread::available_parallelism().map_or(1, |n| n.get() as u32))?;
        std::io::copy(&mut content, &mut encoder).context("a layer cannot be packed")?;
        let (mut file, digest, size) = encoder.finish()?.finish();
        file.flush()?;
        let (_, diff_id, unpacked) = content.finish();
        std::fs::rename(&part, self.path(&blob(&digest)))?;
        self.entries.insert(blob(&digest), Entry { digest: digest.clone(), size });
        Ok(Layer { digest, diff_id, unpacked })
    }
}

/// An image in the archive's own list.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Saved {
    config: String,
    repo_tags: Option<Vec<String>>,
    layers: Vec<String>,
}

/// Packs every image of an engine's archive into `blobs`; gives them by reference.
///
/// # Errors
/// The archive ends early, or does not hold what it lists, or a layer is not the one that its image names.
pub fn pack_images(archive: impl Read, blobs: &mut Blobs) -> Result<BTreeMap<String, BundleImage>> {
    let mut documents: HashMap<String, Vec<u8>> = HashMap::new();
    let mut layers: HashMap<String, Layer> = HashMap::new();
    let mut links: HashMap<String, String> = HashMap::new();
    let mut archive = tar::Archive::new(archive);
    for entry in archive.entries()? {
        let mut entry = entry.context("the engine's archive ends early")?;
        let path = entry.path()?.to_string_lossy().trim_start_matches("./").to_owned();
        if let Some(target) = entry.link_name()? {
            // `../<id>/layer.tar`: the same layer under another name.
            links.insert(path, target.to_string_lossy().trim_start_matches("../").to_owned());
        } else if path.ends_with(".json") || (path.starts_with("blobs/") && entry.size() < DOCUMENT) {
            let mut bytes = Vec::new();
            entry.read_to_end(&mut bytes)?;
            documents.insert(path, bytes);
        } else if path.ends_with(".tar") || path.starts_with("blobs/") {
            layers.insert(path, blobs.add_layer(entry)?);
        }
    }
    let list = documents.get("manifest.json").context("the engine's archive has no manifest.json")?;
    let list: Vec<Saved> = serde_json::from_slice(list).context("the engine's manifest.json is malformed")?;
    let mut images = BTreeMap::new();
    for saved in list {
        let config = documents.get(&saved.config).context("the engine's archive lacks a configuration")?;
        let mut of_image = Vec::new();
        for path in &saved.layers {
            let path = links.get(path).unwrap_or(path);
            if let Some(small) = documents.get(path).filter(|_| !layers.contains_key(path)) {
                layers.insert(path.clone(), blobs.add_layer(small.as_slice())?);
            }
            of_image.push(layers.get(path).context("the engine's archive lacks a layer")?.clone());
        }
        let image = image(blobs, config, of_image)?;
        for reference in saved.repo_tags.unwrap_or_default() {
            images.insert(without_localhost(&reference).to_owned(), image.clone());
        }
    }
    Ok(images)
}

/// Writes an image's documents; its layers must be those that its configuration names.
fn image(blobs: &mut Blobs, config: &[u8], layers: Vec<Layer>) -> Result<BundleImage> {
    let parsed: Value = serde_json::from_slice(config).context("a configuration is malformed")?;
    let named: Vec<&str> =
        parsed["rootfs"]["diff_ids"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
    let found: Vec<&str> = layers.iter().map(|l| l.diff_id.as_str()).collect();
    if named != found {
        bail!("the engine's layers are not those that the image names: {found:?} instead of {named:?}");
    }
    let config_digest = blobs.add(config)?;
    let described: Vec<Value> = layers
        .iter()
        .map(|l| {
            let size = blobs.entries[&blob(&l.digest)].size;
            json!({ "mediaType": "application/vnd.oci.image.layer.v1.tar+zstd", "digest": l.digest, "size": size })
        })
        .collect();
    let manifest = json!({
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": { "mediaType": "application/vnd.oci.image.config.v1+json", "digest": config_digest, "size": config.len() },
        "layers": described,
    });
    let manifest = blobs.add(manifest.to_string().as_bytes())?;
    Ok(BundleImage { manifest, config: config_digest, layers })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An archive as Docker 20.10 writes it: a folder a layer, one of them a link to another.
    fn archive(spoil: bool) -> Vec<u8> {
        let layer = b"the layer's own bytes".to_vec();
        let diff_id = if spoil { sha256(b"others") } else { sha256(&layer) };
        let config = json!({ "rootfs": { "diff_ids": [diff_id, diff_id] } }).to_string().into_bytes();
        let list = json!([{ "Config": "c.json", "RepoTags": ["a:1", "b:2"], "Layers": ["1/layer.tar", "2/layer.tar"] }]);
        let mut tar = tar::Builder::new(Vec::new());
        let mut file = |path: &str, bytes: &[u8]| {
            let mut header = tar::Header::new_gnu();
            header.set_size(bytes.len() as u64);
            tar.append_data(&mut header, path, bytes).unwrap();
        };
        file("1/layer.tar", &layer);
        file("c.json", &config);
        file("manifest.json", list.to_string().as_bytes());
        let mut link = tar::Header::new_gnu();
        link.set_entry_type(tar::EntryType::Symlink);
        link.set_size(0);
        tar.append_link(&mut link, "2/layer.tar", "../1/layer.tar").unwrap();
        tar.into_inner().unwrap()
    }

    #[test]
    fn a_layer_that_two_images_share_is_stored_once_and_the_same_bytes_give_the_same_blobs() {
        let pack = || {
            let folder = tempfile::tempdir().unwrap();
            let mut blobs = Blobs::new(folder.path());
            let images = pack_images(archive(false).as_slice(), &mut blobs).unwrap();
            assert_eq!(images["a:1"], images["b:2"]);
            // One layer, one configuration, one manifest.
            assert_eq!(blobs.entries.len(), 3);
            blobs.entries
        };
        assert_eq!(pack(), pack());
    }

    /// Podman names layers by their digests, and an image without a registry after this machine.
    #[test]
    fn what_podman_saves_is_read_too() {
        let layer = b"the layer's own bytes".to_vec();
        let diff_id = sha256(&layer);
        let config = json!({ "rootfs": { "diff_ids": [diff_id] } }).to_string().into_bytes();
        let name = format!("{}.tar", diff_id.trim_start_matches("sha256:"));
        let list = json!([{ "Config": "c.json", "RepoTags": ["localhost/a:1"], "Layers": [name] }]);
        let mut tar = tar::Builder::new(Vec::new());
        for (path, bytes) in
            [(name.as_str(), layer), ("c.json", config), ("manifest.json", list.to_string().into_bytes())]
        {
            let mut header = tar::Header::new_gnu();
            header.set_size(bytes.len() as u64);
            tar.append_data(&mut header, path, bytes.as_slice()).unwrap();
        }
        let folder = tempfile::tempdir().unwrap();
        let images =
            pack_images(tar.into_inner().unwrap().as_slice(), &mut Blobs::new(folder.path())).unwrap();
        assert_eq!(images.keys().collect::<Vec<_>>(), ["a:1"]);
        assert_eq!(images["a:1"].layers[0].diff_id, diff_id);
    }

    #[test]
    fn a_layer_that_its_image_does_not_name_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let error = pack_images(archive(true).as_slice(), &mut Blobs::new(folder.path())).unwrap_err();
        assert!(format!("{error:#}").contains("not those that the image names"), "{error:#}");
        let half = &archive(false)[..700];
        assert!(pack_images(half, &mut Blobs::new(folder.path())).is_err());
    }
}
