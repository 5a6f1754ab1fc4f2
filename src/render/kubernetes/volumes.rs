//! Volumes of pods: claims of their own and shared ones, and the group that they belong to.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Result, bail};
use serde_json::{Value, json};

use super::units::Unit;
use super::{Body, files};
use crate::topology::{LabFile, Plan, Ready, Service, VolumeSpec};

/// What a claim asks for where no overlay says otherwise.
const STORAGE: &str = "2Gi";

pub(super) fn claim(name: &str, mode: &str) -> Value {
    json!({
        "metadata": { "name": name },
        "spec": { "accessModes": [mode], "resources": { "requests": { "storage": STORAGE } } },
    })
}

/// Claims for volumes that several pods have: on more than one node that needs storage that all of them reach.
pub(super) fn shared_claims(body: &Body<'_>, units: &[Unit<'_>]) -> Vec<Value> {
    let mut claims = BTreeMap::new();
    for name in
        units.iter().flat_map(|unit| shared(body.file, body.plan, unit.one())).filter(|(_, within)| !within)
    {
        claims.entry(name.0.clone()).or_insert_with(|| {
            let mut object = claim(&name.0, "ReadWriteMany");
            object["apiVersion"] = json!("v1");
            object["kind"] = json!("PersistentVolumeClaim");
            object
        });
    }
    claims.into_values().collect()
}

/// The shared volumes of a service, and whether only what its own pods run before it writes there.
fn shared(file: &LabFile, plan: &Plan, service: &Service) -> Vec<(String, bool)> {
    // Whoever only opens a volume up puts nothing there.
    let puts = |writer: &&Service| !file.services[&writer.group].files.is_empty();
    let writers: Vec<&Service> = plan.file_writers_for(service).into_iter().filter(puts).collect();
    let within = |name: &str| writers.iter().any(|w| w.volumes.iter().any(|v| v.name == name));
    let names = service.volumes.iter().filter_map(|volume| {
        let named = written(file, service, &volume.path)?;
        named.shared.then(|| (named.name.clone(), within(&volume.name)))
    });
    names.collect()
}

/// A volume as the definition has it: an engine's name does not say whose it is.
fn written<'a>(file: &'a LabFile, service: &Service, path: &str) -> Option<&'a VolumeSpec> {
    file.services[&service.group].volumes.iter().find(|volume| volume.path == path)
}

/// The group that has a pod's volumes. Each pod gives a volume to its own group: those that share one must be of the same, which is that of
/// whoever writes there.
pub(super) fn group(body: &Body<'_>, service: &Service) -> Result<u32> {
    let mut groups = BTreeSet::new();
    for (name, within) in shared(body.file, body.plan, service) {
        let writes = |other: &&Service| {
            let volumes = &body.file.services[&other.group].volumes;
            let lasts = other.ready != Ready::Completed;
            lasts && volumes.iter().any(|volume| volume.shared && volume.name == name && !volume.read_only)
        };
        if !within {
            groups.extend(body.plan.services.iter().filter(writes).map(|other| body.user(other)));
        }
    }
    match groups.len() {
        0 => Ok(body.user(service)),
        1 => Ok(groups.into_iter().next().unwrap_or_default()),
        _ => bail!("{}: its shared volumes are written by users of several groups, {groups:?}", service.name),
    }
}

/// The volumes of a service in a unit's pods, and what it mounts.
pub(super) fn mounts(body: &Body<'_>, unit: &Unit<'_>, service: &Service) -> (Vec<Value>, Vec<Value>) {
    let (mut volumes, mut mounts) = files::volumes(body.inputs, service);
    volumes.push(json!({ "name": "tmp", "emptyDir": {} }));
    mounts.push(json!({ "name": "tmp", "mountPath": "/tmp" }));
    for addon in &service.addons {
        mounts.push(
            json!({ "name": format!("addon-{}", addon.name), "mountPath": addon.path, "readOnly": true }),
        );
    }
    let within: BTreeMap<String, bool> = shared(body.file, body.plan, unit.one()).into_iter().collect();
    for volume in &service.volumes {
        let Some(named) = written(body.file, service, &volume.path) else { continue };
        let name = &named.name;
        mounts.push(json!({ "name": name, "mountPath": volume.path, "readOnly": volume.read_only }));
        // A claim of its own is the workload's.
        if named.shared {
            volumes.push(if *within.get(name).unwrap_or(&true) {
                json!({ "name": name, "emptyDir": {} })
            } else {
                json!({ "name": name, "persistentVolumeClaim": { "claimName": name } })
            });
        }
    }
    (volumes, mounts)
}
