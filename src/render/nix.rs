//! `nix/topology.json`: every lab as the virtual machine runs it. Nix reads only this and gives it no meaning of its own.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::Inputs;
use crate::topology::{
    Endpoints, FileMount, Image, Instance, LabFile, Service, Topology, TopologyError, parse_bytes,
};

/// The own image has no upstream: Nix makes it from the program that it built itself.
const OWN_TAG: &str = "nix";

pub(super) fn topology(file: &LabFile, inputs: &Inputs) -> Result<String, TopologyError> {
    let labs = file.labs.iter().map(|(name, lab)| {
        let topology = file.resolve(name, Instance::documented())?;
        let services: BTreeMap<&str, Value> = topology
            .services
            .iter()
            .map(|s| (s.name.as_str(), service(file, inputs, &topology, s)))
            .collect();
        let memory: u64 = topology.services.iter().map(|s| mebibytes(s.memory)).sum();
        let described = json!({
            "about": lab.about,
            "network": topology.network,
            "memoryMiB": memory,
            "endpoints": Endpoints::of(&topology),
            "services": services,
        });
        Ok((name, described))
    });
    let labs: BTreeMap<_, _> = labs.collect::<Result<_, TopologyError>>()?;
    let images: BTreeMap<_, _> = file.images.iter().map(|(name, i)| (name, image(name, i, inputs))).collect();
    let addons: BTreeMap<_, _> = inputs
        .addon_jars
        .iter()
        .filter_map(|(name, jars)| {
            Some((name, json!({ "mount": file.addons.get(name)?.mount, "jars": jars })))
        })
        .collect();
    let size = |text: &str| mebibytes(parse_bytes(text).unwrap_or_default());
    let vm = file.vm.as_ref().map(|vm| {
        json!({
            "memoryMiB": size(vm.memory.get_ref()),
            "cores": vm.cores,
            "diskMiB": size(vm.disk.get_ref()),
        })
    });
    let whole = json!({
        "defaultLab": file.default_lab.get_ref(),
        "vm": vm,
        "addons": addons,
        "images": images,
        "labs": labs,
    });
    Ok(format!("{whole:#}\n"))
}

fn image(name: &str, image: &Image, inputs: &Inputs) -> Value {
    match &image.upstream {
        Some(reference) => {
            json!({ "reference": reference, "index": inputs.digests.get(reference), "own": false })
        }
        None => json!({ "reference": format!("{name}:{OWN_TAG}"), "index": null, "own": true }),
    }
}

fn service(file: &LabFile, inputs: &Inputs, topology: &Topology, service: &Service) -> Value {
    let ports: Vec<_> = service
        .ports
        .iter()
        .filter_map(|p| Some(json!({ "host": p.host?, "container": p.container })))
        .collect();
    let health = topology.health(service);
    json!({
        "image": service.image,
        "command": service.command,
        "workingDir": service.working_dir,
        "environment": topology.environment(service),
        "ports": ports,
        "volumes": service.volumes,
        "mounts": mounts(file, inputs, service),
        "addons": service.addons.iter().filter(|a| inputs.addon_jars.contains_key(*a)).collect::<Vec<_>>(),
        "engineSocket": service.engine_socket,
        "memoryMiB": mebibytes(service.memory),
        "needs": service.needs,
        "completes": health.is_none(),
        "health": health,
        "timeoutSeconds": service.ready.timeout_seconds(),
    })
}

/// Read-only mounts of the project: the service's own, and the files of its add-ons one by one, so that the folder they
/// lie in keeps what the image has there.
pub(super) fn mounts(file: &LabFile, inputs: &Inputs, service: &Service) -> Vec<FileMount> {
    let of_addons = service.addons.iter().filter_map(|name| {
        let (addon, names) = (file.addons.get(name)?, inputs.addon_files.get(name)?);
        let folder = addon.files.as_ref()?;
        Some(names.iter().map(move |file| FileMount {
            source: format!("{folder}/{file}"),
            path: format!("{}/{file}", addon.mount),
        }))
    });
    service.files.iter().cloned().chain(of_addons.flatten()).collect()
}

fn mebibytes(bytes: u64) -> u64 {
    bytes >> 20
}
