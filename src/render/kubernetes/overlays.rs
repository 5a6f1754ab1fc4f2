//! Overlays: what differs between a laptop's cluster and a company's, as patches of the base.

use std::collections::BTreeMap;

use anyhow::Result;
use serde_json::{Value, json};

use super::units::Unit;
use super::{Body, yaml};
use crate::topology::Overlay;

/// The overlays of a lab: path below its folder → text.
pub(super) fn overlays(body: &Body<'_>, units: &[Unit<'_>]) -> Result<BTreeMap<String, String>> {
    let mut pages = BTreeMap::new();
    for (name, overlay) in &body.file.overlays {
        let mut patches = Vec::new();
        for unit in units {
            let patch = patch(overlay, unit);
            if !patch.is_empty() {
                let kind = if unit.first.is_some() || unit.keeps() { "StatefulSet" } else { "Deployment" };
                let text = serde_saphyr::to_string(&patch)?;
                patches.push(json!({ "target": { "kind": kind, "name": unit.name }, "patch": text }));
            }
            patches.extend(log_retention(overlay, unit)?);
        }
        patches.extend(shared_claims(overlay)?);
        let kustomization = json!({
            "apiVersion": "kustomize.config.k8s.io/v1beta1",
            "kind": "Kustomization",
            "resources": ["../../base"],
            "patches": patches,
        });
        pages.insert(format!("overlays/{name}/kustomization.yaml"), yaml(&[kustomization])?);
    }
    Ok(pages)
}

fn patch(overlay: &Overlay, unit: &Unit<'_>) -> Vec<Value> {
    let mut patch = Vec::new();
    if unit.ends() {
        return patch;
    }
    let own = unit.spec.volumes.iter().filter(|volume| !volume.shared).count();
    for place in 0..own {
        let spec = format!("/spec/volumeClaimTemplates/{place}/spec");
        patch.push(json!({ "op": "replace", "path": format!("{spec}/resources/requests/storage"), "value": overlay.storage }));
        if let Some(class) = &overlay.storage_class {
            patch.push(json!({ "op": "add", "path": format!("{spec}/storageClassName"), "value": class }));
        }
    }
    let container = "/spec/template/spec/containers/0";
    let mebibytes = (unit.one().memory >> 20) * u64::from(overlay.memory_percent) / 100;
    let request = format!("{container}/resources/requests/memory");
    patch.push(json!({ "op": "replace", "path": request, "value": format!("{mebibytes}Mi") }));
    if mebibytes > unit.one().memory >> 20 {
        let limit = format!("{container}/resources/limits/memory");
        patch.push(json!({ "op": "replace", "path": limit, "value": format!("{mebibytes}Mi") }));
    }
    let option = "--storage.tsdb.retention.time=";
    if let Some(place) = unit.one().command.iter().position(|argument| argument.starts_with(option)) {
        let value = format!("{option}{}h", overlay.retention_hours);
        patch.push(json!({ "op": "replace", "path": format!("{container}/args/{place}"), "value": value }));
    }
    if unit.services.len() > 1 && overlay.spread {
        let affinity = "/spec/template/spec/affinity/podAntiAffinity";
        let term = json!([{
            "topologyKey": "kubernetes.io/hostname",
            "labelSelector": { "matchLabels": { super::NAME: unit.name } },
        }]);
        patch.push(json!({ "op": "remove", "path": format!("{affinity}/preferredDuringSchedulingIgnoredDuringExecution") }));
        patch.push(json!({ "op": "add", "path": format!("{affinity}/requiredDuringSchedulingIgnoredDuringExecution"), "value": term }));
    }
    patch
}

/// How long Kafka keeps records is a variable; these are known by their names, not by their places.
fn log_retention(overlay: &Overlay, unit: &Unit<'_>) -> Result<Option<Value>> {
    const RETENTION: &str = "KAFKA_LOG_RETENTION_HOURS";
    if !unit.one().environment.contains_key(RETENTION) {
        return Ok(None);
    }
    let env = [json!({ "name": RETENTION, "value": overlay.retention_hours.to_string() })];
    let text = serde_saphyr::to_string(&json!({
        "apiVersion": "apps/v1", "kind": "StatefulSet", "metadata": { "name": unit.name },
        "spec": { "template": { "spec": { "containers": [{ "name": unit.name, "env": env }] } } },
    }))?;
    Ok(Some(json!({ "patch": text })))
}

/// Storage that several nodes reach has a class of its own.
fn shared_claims(overlay: &Overlay) -> Result<Vec<Value>> {
    let Some(class) = &overlay.shared_storage_class else { return Ok(Vec::new()) };
    let patch = [
        json!({ "op": "replace", "path": "/spec/resources/requests/storage", "value": overlay.storage }),
        json!({ "op": "add", "path": "/spec/storageClassName", "value": class }),
    ];
    let text = serde_saphyr::to_string(&patch)?;
    Ok(vec![json!({ "target": { "kind": "PersistentVolumeClaim" }, "patch": text })])
}
