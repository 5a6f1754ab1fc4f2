//! The objects of a lab as its overlay has them, with the images' own registry: what `kustomize edit` would write into the overlay, in a
//! folder beside, so that the checkout stays as it is rendered.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Component, Path, PathBuf};

use anyhow::{Context as _, Result, bail};
use serde_json::json;
use tempfile::TempDir;

use crate::render::{RENDERED_FOLDER, SERVICE};

/// The folder of an overlay.
pub(super) fn overlay(root: &Path, lab: &str, name: &str) -> Result<PathBuf> {
    let all = root.join(RENDERED_FOLDER).join(lab).join("overlays");
    let entries = std::fs::read_dir(&all)
        .with_context(|| format!("{} is not there\n  Render it: ./lab render", all.display()))?;
    let mut known: Vec<String> =
        entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok()).collect();
    known.sort();
    if !known.iter().any(|other| other == name) {
        bail!("lab {lab} has no overlay {name}; it has {}", known.join(", "));
    }
    all.join(name).canonicalize().context("the overlay cannot be read")
}

/// A folder for kustomize: the overlay, annotations of the namespace, images elsewhere, without the services of `absent`.
pub(super) fn with(
    overlay: &Path,
    namespace: &str,
    annotations: &BTreeMap<&str, String>,
    moved: &BTreeMap<String, String>,
    absent: &BTreeSet<String>,
) -> Result<TempDir> {
    let folder = tempfile::tempdir().context("no folder for temporary files")?;
    let here = folder.path().canonicalize()?;
    let images = moved.iter().map(|(name, there)| {
        let (place, tag) = there.rsplit_once(':').unwrap_or((there, "latest"));
        json!({ "name": name, "newName": place, "newTag": tag })
    });
    let annotated = json!({
        "apiVersion": "v1", "kind": "Namespace",
        "metadata": { "name": namespace, "annotations": annotations },
    });
    let mut patches = vec![json!({ "patch": annotated.to_string() })];
    for name in absent {
        // Of whatever kind the objects are.
        let gone = json!({ "$patch": "delete", "kind": "Any", "metadata": { "name": name } });
        let target = json!({ "labelSelector": format!("{SERVICE}={name}") });
        patches.push(json!({ "patch": gone.to_string(), "target": target }));
    }
    let kustomization = json!({
        "apiVersion": "kustomize.config.k8s.io/v1beta1", "kind": "Kustomization",
        // kustomize takes no path that begins at the root.
        "resources": [relative(&here, overlay)],
        "images": images.collect::<Vec<_>>(),
        "patches": patches,
    });
    // JSON is YAML.
    std::fs::write(here.join("kustomization.yaml"), kustomization.to_string())?;
    Ok(folder)
}

/// The way from one folder to another, both from the root.
fn relative(from: &Path, to: &Path) -> PathBuf {
    let (from, to): (Vec<Component<'_>>, Vec<Component<'_>>) =
        (from.components().collect(), to.components().collect());
    let shared = from.iter().zip(&to).take_while(|(a, b)| a == b).count();
    let up = from[shared..].iter().map(|_| Component::ParentDir);
    up.chain(to[shared..].iter().copied()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_way_goes_up_and_down_again() {
        let way = |from: &str, to: &str| relative(Path::new(from), Path::new(to)).display().to_string();
        assert_eq!(way("/tmp/a", "/work/lab/b"), "../../work/lab/b");
        assert_eq!(way("/work/tmp", "/work/lab"), "../lab");
    }

    #[test]
    fn an_unknown_overlay_is_refused_with_those_that_are_there() {
        let root = Path::new(env!("CARGO_MANIFEST_DIR"));
        let said = overlay(root, "events", "stage").unwrap_err().to_string();
        assert_eq!(said, "lab events has no overlay stage; it has dev, prod");
    }
}
