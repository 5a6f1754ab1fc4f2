//! `nix/topology.json`: every lab as the virtual machine runs it. Nix reads only this and gives it no meaning of its own.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::Inputs;
use crate::topology::{Endpoints, Image, Instance, LabFile, Service, TopologyError, parse_bytes};

/// The own image has no upstream: Nix makes it from the program that it built itself.
const OWN_TAG: &str = "nix";

pub(super) fn topology(file: &LabFile, inputs: &Inputs) -> Result<String, TopologyError> {
    let labs = file.labs.iter().map(|(name, lab)| {
        let plan = file.plan(name, Instance::documented())?;
        let services: BTreeMap<&str, Value> =
            plan.services.iter().map(|s| (s.name.as_str(), service(s))).collect();
        let memory: u64 = plan.services.iter().map(|s| mebibytes(s.memory)).sum();
        let described = json!({
            "about": lab.about,
            "network": plan.network,
            "memoryMiB": memory,
            "endpoints": Endpoints::of(&plan),
            "services": services,
        });
        Ok((name, described))
    });
    let labs: BTreeMap<_, _> = labs.collect::<Result<_, TopologyError>>()?;
    let images: BTreeMap<_, _> = file.images.iter().map(|(name, i)| (name, image(name, i, inputs))).collect();
    let addons: BTreeMap<_, _> = inputs
        .addons
        .iter()
        .filter_map(|(name, files)| {
            let mount = &file.addons.get(name)?.mount;
            Some((name, json!({ "mount": mount, "jars": files.jars, "wheels": files.wheels })))
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

fn service(service: &Service) -> Value {
    let ports: Vec<_> = service
        .ports
        .iter()
        .filter_map(|p| Some(json!({ "host": p.host?, "container": p.container })))
        .collect();
    let health = service.health.as_ref().map(|health| {
        json!({
            "command": health.command,
            "intervalSeconds": health.interval,
            "timeoutSeconds": health.timeout,
            "startSeconds": health.start,
            "retries": health.retries,
        })
    });
    json!({
        "image": service.image,
        "command": service.command,
        "workingDir": service.working_dir,
        "environment": service.environment,
        "ports": ports,
        "volumes": service.volumes,
        "mounts": service.files,
        "addons": service.addons.iter().map(|a| &a.name).collect::<Vec<_>>(),
        "engineSocket": service.engine_socket,
        "memoryMiB": mebibytes(service.memory),
        "needs": service.waits_for.iter().map(|w| &w.service).collect::<Vec<_>>(),
        "completes": health.is_none(),
        "health": health,
        "readySeconds": service.ready.timeout_seconds(),
        "log": { "megabytes": service.log.megabytes, "files": service.log.files },
        "restart": service.restart.name(),
        "stopSeconds": service.stop.grace,
    })
}

fn mebibytes(bytes: u64) -> u64 {
    bytes >> 20
}
