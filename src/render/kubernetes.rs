//! Kubernetes: for each lab a base and overlays that `kubectl apply -k` takes. What a container is comes from the plan; here it becomes
//! pods, services, claims and policies. Which objects there are: docs/kubernetes.md.

mod files;
mod members;
mod moving;
mod network;
mod overlays;
mod pods;
mod services;
mod units;
mod volumes;

use std::collections::BTreeMap;

use anyhow::Result;
use serde_json::{Value, json};

pub use self::moving::MOVE_PARTITIONS;
use self::units::Unit;
use super::Inputs;
use crate::topology::{LabFile, Plan, Service};

/// The folder of all that is rendered here.
pub const FOLDER: &str = "deploy/kubernetes";
/// Whose pods these are.
pub const PART_OF: &str = "app.kubernetes.io/part-of";
/// The label of the service, or of the group of services that are alike.
pub const NAME: &str = "app.kubernetes.io/name";

/// Who runs what has no public image.
const OWN_USER: u32 = 65534;

/// A lab, about to be written for Kubernetes.
struct Body<'a> {
    file: &'a LabFile,
    inputs: &'a Inputs,
    plan: &'a Plan,
}

/// Every file of every lab: path → text.
///
/// # Errors
/// A group whose members are not counted on by one, or whose settings differ in more than numbers and names.
pub(super) fn pages(file: &LabFile, inputs: &Inputs, plans: &[Plan]) -> Result<BTreeMap<String, String>> {
    let mut pages = BTreeMap::new();
    for plan in plans {
        let body = Body { file, inputs, plan };
        let units = units::of(file, plan)?;
        let folder = format!("{FOLDER}/{}", plan.lab);
        let configured = files::folders(inputs, &units);
        let mut base = BTreeMap::from([
            ("namespace.yaml", vec![body.namespace()]),
            ("network-policies.yaml", network::policies(&body, &units)),
            ("services.yaml", services::services(&units)),
            ("workloads.yaml", body.workloads(&units)?),
        ]);
        let claims = volumes::shared_claims(&body, &units);
        if !claims.is_empty() {
            base.insert("shared-volumes.yaml", claims);
        }
        let mut resources: Vec<String> = base.keys().map(|name| (*name).to_owned()).collect();
        resources.extend(configured.iter().map(|name| format!("../../files/{name}")));
        let kustomization = json!({
            "apiVersion": "kustomize.config.k8s.io/v1beta1",
            "kind": "Kustomization",
            "namespace": body.namespace_name(),
            "resources": resources,
        });
        pages.insert(format!("{folder}/base/kustomization.yaml"), yaml(&[kustomization])?);
        for (name, objects) in base {
            pages.insert(format!("{folder}/base/{name}"), yaml(&objects)?);
        }
        if let Some(objects) = moving::objects(&body, &units) {
            let folder = format!("{folder}/{MOVE_PARTITIONS}");
            let kustomization = json!({
                "apiVersion": "kustomize.config.k8s.io/v1beta1",
                "kind": "Kustomization",
                "namespace": body.namespace_name(),
                "resources": ["job.yaml"],
            });
            pages.insert(format!("{folder}/kustomization.yaml"), yaml(&[kustomization])?);
            pages.insert(format!("{folder}/job.yaml"), yaml(&objects)?);
        }
        for (path, text) in overlays::overlays(&body, &units)? {
            pages.insert(format!("{folder}/{path}"), text);
        }
        for name in configured {
            // Labs share them.
            let kustomized = format!("{FOLDER}/files/{name}/kustomization.yaml");
            if pages.contains_key(&kustomized) {
                continue;
            }
            let maps = files::config_maps(inputs, &name);
            let kustomization = json!({
                "apiVersion": "kustomize.config.k8s.io/v1beta1",
                "kind": "Kustomization",
                "resources": ["files.yaml"],
            });
            pages.insert(kustomized, yaml(&[kustomization])?);
            pages.insert(format!("{FOLDER}/files/{name}/files.yaml"), yaml(&maps)?);
        }
    }
    Ok(pages)
}

/// The namespace in which a lab is.
pub fn namespace_of(lab: &str) -> String {
    format!("streamlab-{lab}")
}

/// What the manifests call an image that is built here.
pub fn own_image(recipe: &str) -> String {
    format!("streamlab/{recipe}")
}

impl Body<'_> {
    fn namespace_name(&self) -> String {
        namespace_of(&self.plan.lab)
    }

    /// Pods that may do more than they need are refused by the cluster itself.
    fn namespace(&self) -> Value {
        json!({
            "apiVersion": "v1",
            "kind": "Namespace",
            "metadata": {
                "name": self.namespace_name(),
                "labels": { PART_OF: "streamlab", "pod-security.kubernetes.io/enforce": "restricted" },
            },
        })
    }

    fn workloads(&self, units: &[Unit<'_>]) -> Result<Vec<Value>> {
        let mut objects = Vec::new();
        for unit in units {
            objects.push(pods::workload(self, unit)?);
            objects.extend(pods::disruption_budget(self, unit));
        }
        Ok(objects)
    }

    /// Whom a service runs as.
    fn user(&self, service: &Service) -> u32 {
        self.file.images[&service.image].user.unwrap_or(OWN_USER)
    }

    /// What every object is labelled with.
    fn labels(&self, unit: &Unit<'_>) -> Value {
        json!({ NAME: unit.name, PART_OF: format!("streamlab-{}", self.plan.lab) })
    }
}

fn yaml(objects: &[Value]) -> Result<String> {
    const HEAD: &str = "# Rendered from lab.toml by `./lab render`; a test fails if it is out of date. How to use it: docs/kubernetes.md\n";
    let mut text = HEAD.to_owned();
    for (place, object) in objects.iter().enumerate() {
        if place > 0 {
            text += "---\n";
        }
        text += &serde_saphyr::to_string(object)?;
    }
    Ok(text)
}
