//! The objects of a lab as its overlay has them, with the images' own registry: what `kustomize edit` would write into the overlay, in a
//! folder beside, so that the checkout stays as it is rendered.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Component, Path, PathBuf};

use anyhow::{Context as _, Result, bail};
use serde_json::{Value, json};
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

/// What is changed of a folder of objects.
pub(super) struct Changes<'a> {
    /// Annotations of this namespace, which is among the objects.
    pub(super) annotated: Option<(&'a str, BTreeMap<&'a str, String>)>,
    /// Images elsewhere: name in the manifests → name and tag.
    pub(super) moved: &'a BTreeMap<String, String>,
    /// Services that are left out.
    pub(super) absent: &'a BTreeSet<String>,
    /// Workload → how many pods, where it is another number.
    pub(super) replicas: &'a BTreeMap<String, u32>,
}

/// A folder for kustomize: another one, with changes.
pub(super) fn with(folder: &Path, changes: &Changes<'_>) -> Result<TempDir> {
    let made = tempfile::tempdir().context("no folder for temporary files")?;
    let here = made.path().canonicalize()?;
    let images = changes.moved.iter().map(|(name, there)| {
        let (place, tag) = there.rsplit_once(':').unwrap_or((there, "latest"));
        json!({ "name": name, "newName": place, "newTag": tag })
    });
    let mut patches = Vec::new();
    if let Some((namespace, annotations)) = &changes.annotated {
        let annotated = json!({
            "apiVersion": "v1", "kind": "Namespace",
            "metadata": { "name": namespace, "annotations": annotations },
        });
        patches.push(json!({ "patch": annotated.to_string() }));
    }
    for name in changes.absent {
        // Of whatever kind the objects are.
        let gone = json!({ "$patch": "delete", "kind": "Any", "metadata": { "name": name } });
        let target = json!({ "labelSelector": format!("{SERVICE}={name}") });
        patches.push(json!({ "patch": gone.to_string(), "target": target }));
    }
    let replicas = changes.replicas.iter().map(|(name, count)| json!({ "name": name, "count": count }));
    let kustomization = json!({
        "apiVersion": "kustomize.config.k8s.io/v1beta1", "kind": "Kustomization",
        // kustomize takes no path that begins at the root.
        "resources": [relative(&here, folder)],
        "images": images.collect::<Vec<_>>(),
        "replicas": replicas.collect::<Vec<_>>(),
        "patches": patches,
    });
    // JSON is YAML.
    std::fs::write(here.join("kustomization.yaml"), kustomization.to_string())?;
    Ok(made)
}

/// The names of the Jobs in manifests, and all else.
pub(super) fn jobs(manifests: &str) -> Result<(Vec<String>, String)> {
    let is_job = |object: &&str| object.lines().any(|line| line == "kind: Job");
    let (jobs, lasting): (Vec<&str>, Vec<&str>) = manifests.split("\n---\n").partition(is_job);
    let name = |job: &str| -> Result<String> {
        let job: Value = serde_saphyr::from_str(job).context("a Job of the manifests is no YAML")?;
        Ok(job["metadata"]["name"].as_str().unwrap_or_default().to_owned())
    };
    Ok((jobs.into_iter().map(name).collect::<Result<_>>()?, lasting.join("\n---\n")))
}

/// Manifests in which nobody waits for a service that is left out: what is awaited is `NAME:PORT`, an argument and so a line of its own.
pub(super) fn unawaited(manifests: &str, absent: &BTreeSet<String>) -> String {
    let is_awaited = |line: &&str| {
        let address = line.trim_start().strip_prefix("- ").and_then(|argument| argument.rsplit_once(':'));
        !address.is_some_and(|(name, port)| absent.contains(name) && port.parse::<u16>().is_ok())
    };
    manifests.split_inclusive('\n').filter(|line| is_awaited(&line.trim_end())).collect()
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
    fn jobs_are_told_from_what_lasts() {
        let manifests = "kind: Service\nmetadata:\n  name: a\n---\nkind: Job\nmetadata:\n  name: b\n---\nkind: ConfigMap\ndata:\n  x: |\n    kind: Job\n";
        let (jobs, lasting) = jobs(manifests).unwrap();
        assert_eq!(jobs, ["b"]);
        assert!(lasting.contains("name: a") && lasting.contains("ConfigMap") && !lasting.contains("name: b"));
    }

    #[test]
    fn nobody_waits_for_what_is_left_out() {
        let absent = BTreeSet::from(["grafana".to_owned()]);
        let before = "args:\n- bash\n- kafka:9092\n- grafana:3000\n- grafana:web\nname: grafana\n";
        assert_eq!(unawaited(before, &absent), before.replace("- grafana:3000\n", ""));
    }

    #[test]
    fn an_unknown_overlay_is_refused_with_those_that_are_there() {
        let root = Path::new(env!("CARGO_MANIFEST_DIR"));
        let said = overlay(root, "events", "stage").unwrap_err().to_string();
        assert_eq!(said, "lab events has no overlay stage; it has dev, prod");
    }
}
