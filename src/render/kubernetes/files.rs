//! The project's files as ConfigMaps: one or more for each folder, and how a container gets them where the plan has them.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Value, json};

use super::units::Unit;
use super::{Inputs, NAME, PART_OF};
use crate::topology::{FileMount, Service};

/// Bytes of a ConfigMap. Kubernetes takes a mebibyte, but `kubectl apply` keeps all of it in an annotation too, and those have a quarter.
const LARGEST: usize = 200 << 10;
/// The only file that is not the project's: whoever runs the lab writes it.
const SLACK_URL: &str = "monitoring/secrets/slack-url";

/// Names of the folders whose files these workloads have, as their ConfigMaps are called.
pub(super) fn folders(inputs: &Inputs, units: &[Unit<'_>]) -> BTreeSet<String> {
    let mounted = units.iter().flat_map(|unit| unit.services.iter().chain(&unit.before));
    let files = mounted.flat_map(|service| &service.files).flat_map(|mount| below(inputs, &mount.source));
    files.map(|path| name_of(folder_of(path))).collect()
}

/// The ConfigMaps of a folder.
pub(super) fn config_maps(inputs: &Inputs, name: &str) -> Vec<Value> {
    let of_folder = inputs.mounted.iter().filter(|(path, _)| name_of(folder_of(path)) == name);
    let mut maps: BTreeMap<String, BTreeMap<&str, &str>> = BTreeMap::new();
    for (path, text) in of_folder {
        maps.entry(map_of(inputs, path)).or_default().insert(file_of(path), text);
    }
    let object = |(name, data): (String, BTreeMap<&str, &str>)| {
        json!({
            "apiVersion": "v1",
            "kind": "ConfigMap",
            "metadata": { "name": name, "labels": { NAME: name, PART_OF: "streamlab" } },
            "data": data,
        })
    };
    maps.into_iter().map(object).collect()
}

/// Volumes for the files of these services, and what each of them mounts. Services of one pod share the volumes.
pub(super) fn volumes(inputs: &Inputs, service: &Service) -> (Vec<Value>, Vec<Value>) {
    let (mut volumes, mut mounts) = (BTreeMap::new(), Vec::new());
    for FileMount { source, path } in &service.files {
        let single = inputs.mounted.contains_key(source);
        let whole = if single { folder_of(source) } else { source.as_str() };
        let name = format!("files-{}", name_of(whole));
        let mut mount = json!({ "name": name, "mountPath": path, "readOnly": true });
        if single {
            mount["subPath"] = json!(file_of(source));
        }
        mounts.push(mount);
        volumes.entry(name).or_insert_with_key(|name| volume(inputs, name, whole));
    }
    (volumes.into_values().collect(), mounts)
}

fn volume(inputs: &Inputs, name: &str, folder: &str) -> Value {
    let mut maps: BTreeMap<String, Vec<Value>> = BTreeMap::new();
    for path in below(inputs, folder) {
        let at = path[folder.len()..].trim_start_matches('/');
        maps.entry(map_of(inputs, path)).or_default().push(json!({ "key": file_of(path), "path": at }));
    }
    let mut sources: Vec<Value> = maps
        .into_iter()
        .map(|(map, items)| json!({ "configMap": { "name": map, "items": items } }))
        .collect();
    if let Some(at) = SLACK_URL.strip_prefix(&format!("{folder}/")) {
        sources.push(json!({ "secret": { "name": "slack-url", "optional": true, "items": [{ "key": "slack-url", "path": at }] } }));
    }
    // Scripts are among them.
    json!({ "name": name, "projected": { "defaultMode": 0o555, "sources": sources } })
}

/// Which ConfigMap has a file: the folder's first, or the next one where that is full.
fn map_of(inputs: &Inputs, path: &str) -> String {
    let folder = folder_of(path);
    let (mut number, mut size) = (1, 0);
    for (other, text) in inputs.mounted.iter().filter(|(other, _)| folder_of(other) == folder) {
        if size > 0 && size + text.len() > LARGEST {
            (number, size) = (number + 1, 0);
        }
        size += text.len();
        if other == path {
            break;
        }
    }
    let name = name_of(folder);
    if number == 1 { name } else { format!("{name}-{number}") }
}

fn below<'a>(inputs: &'a Inputs, source: &str) -> impl Iterator<Item = &'a String> {
    let folder = format!("{source}/");
    inputs
        .mounted
        .keys()
        .filter(move |path| path.starts_with(&folder) || **path == folder[..folder.len() - 1])
}

fn folder_of(path: &str) -> &str {
    path.rsplit_once('/').map_or("", |(folder, _)| folder)
}

fn file_of(path: &str) -> &str {
    path.rsplit_once('/').map_or(path, |(_, file)| file)
}

fn name_of(folder: &str) -> String {
    folder.replace(['/', '_', '.'], "-").to_lowercase()
}
