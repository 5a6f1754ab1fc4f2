//! From blobs back to the archive that an engine loads: layers are unpacked on the way and compared with what their image
//! names.

use std::collections::BTreeSet;
use std::io::{Read, Write};

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};

use super::manifest::BundleImage;
use super::{Hashing, sha256};

/// Writes images to `out`; a layer that several share is written once. `blob` gives the bytes of a digest.
///
/// # Errors
/// A blob is missing or not what its digest says, or `out` takes no more.
pub fn write_archive(
    images: &[(&str, &BundleImage)],
    blob: &dyn Fn(&str) -> Result<Box<dyn Read + Send>>,
    out: impl Write,
) -> Result<()> {
    let mut archive = tar::Builder::new(out);
    let mut written = BTreeSet::new();
    let mut list: Vec<Value> = Vec::new();
    for (reference, image) in images {
        let mut config = Vec::new();
        blob(&image.config)?.read_to_end(&mut config)?;
        if sha256(&config) != image.config {
            bail!("{reference}: its configuration is not {}", image.config);
        }
        let name = format!("{}.json", hex(&image.config));
        if written.insert(image.config.clone()) {
            append(&mut archive, &name, config.len() as u64, config.as_slice())?;
        }
        for layer in &image.layers {
            if !written.insert(layer.diff_id.clone()) {
                continue;
            }
            let unpacked = zstd::Decoder::new(blob(&layer.digest)?)?;
            let mut content = Hashing::new(unpacked.take(layer.unpacked));
            append(&mut archive, &format!("{}.tar", hex(&layer.diff_id)), layer.unpacked, &mut content)
                .with_context(|| format!("layer {}", layer.digest))?;
            let (_, diff_id, bytes) = content.finish();
            if diff_id != layer.diff_id || bytes != layer.unpacked {
                bail!("{reference}: layer {} does not unpack to {}", layer.digest, layer.diff_id);
            }
        }
        let layers: Vec<String> = image.layers.iter().map(|l| format!("{}.tar", hex(&l.diff_id))).collect();
        list.push(json!({ "Config": name, "RepoTags": [reference], "Layers": layers }));
    }
    let list = Value::from(list).to_string();
    append(&mut archive, "manifest.json", list.len() as u64, list.as_bytes())?;
    archive.into_inner()?.flush()?;
    Ok(())
}

fn append(archive: &mut tar::Builder<impl Write>, name: &str, size: u64, bytes: impl Read) -> Result<()> {
    let mut header = tar::Header::new_gnu();
    header.set_size(size);
    header.set_mode(0o644);
    archive.append_data(&mut header, name, bytes)?;
    Ok(())
}

fn hex(digest: &str) -> &str {
    digest.strip_prefix("sha256:").unwrap_or(digest)
}
