//! Services: the names by which pods know each other, which are the plan's.

use serde_json::{Value, json};

use super::NAME;
use super::units::Unit;
use crate::topology::Service;

/// It is at a port of every node, as the seed has it; the cluster chooses which, so that labs can be beside each other.
const AT_NODES: &str = "grafana";

/// The services of all units that have ports.
pub(super) fn services(units: &[Unit<'_>]) -> Vec<Value> {
    units.iter().filter(|unit| !unit.ends()).flat_map(of).collect()
}

fn of(unit: &Unit<'_>) -> Vec<Value> {
    let Some(first) = unit.first else {
        let mut spec = json!({ "selector": { NAME: unit.name }, "ports": ports(unit.one()) });
        if unit.one().ports.is_empty() {
            return Vec::new();
        }
        if unit.name == AT_NODES {
            spec["type"] = json!("NodePort");
        } else if unit.keeps() || unit.names_itself() {
            alone(&mut spec);
        }
        return vec![service(unit, &unit.name, spec)];
    };
    let mut of_all = json!({ "selector": { NAME: unit.name }, "ports": ports(unit.one()) });
    alone(&mut of_all);
    let mut all = vec![service(unit, &unit.name, of_all)];
    let most =
        unit.spec.scales_to.unwrap_or_default().max(u32::try_from(unit.services.len()).unwrap_or_default());
    for number in first..first + most {
        let name = format!("{}-{number}", unit.name);
        let selector = json!({ NAME: unit.name, "statefulset.kubernetes.io/pod-name": name });
        let mut spec = json!({ "selector": selector, "ports": ports(unit.one()) });
        alone(&mut spec);
        all.push(service(unit, &name, spec));
    }
    all
}

/// One pod answers, at its own address, where it can take connections and others at ports that no service names; also before it is ready, since the members of a quorum are not until they have found each other.
fn alone(spec: &mut Value) {
    spec["clusterIP"] = json!("None");
    spec["publishNotReadyAddresses"] = json!(true);
}

fn service(unit: &Unit<'_>, name: &str, spec: Value) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Service",
        "metadata": { "name": name, "labels": { NAME: unit.name } },
        "spec": spec,
    })
}

fn ports(service: &Service) -> Vec<Value> {
    let port = |port: &crate::topology::Port| json!({ "name": port.name, "port": port.container });
    service.ports.iter().map(port).collect()
}
