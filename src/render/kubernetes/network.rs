//! Who may reach whom: whoever has a service's address in its settings, at that port, and nobody else.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Value, json};

use super::pods::answers_at;
use super::units::Unit;
use super::{Body, NAME};
use crate::topology::Service;

/// Who asks all that is asked from outside.
const PROBER: &str = "blackbox-exporter";

/// Nobody reaches anybody; then one policy for each unit that somebody reaches.
pub(super) fn policies(body: &Body<'_>, units: &[Unit<'_>]) -> Vec<Value> {
    let mut all = vec![json!({
        "apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy",
        "metadata": { "name": "nobody" },
        "spec": { "podSelector": {}, "policyTypes": ["Ingress"] },
    })];
    for unit in units.iter().filter(|unit| !unit.ends()) {
        // Port → who may; every port where it is none.
        let mut may: BTreeMap<Option<u16>, BTreeSet<&str>> = BTreeMap::new();
        for other in units {
            for port in named(unit, other) {
                let allowed = may.entry(Some(port)).or_default();
                allowed.insert(&other.name);
                // Its work is done there: Spark's executors read what their driver names.
                allowed.extend(units.iter().filter(|at| works_at(other, at)).map(|at| at.name.as_str()));
            }
            if meet(unit, other) {
                may.entry(None).or_default().insert(&other.name);
            }
        }
        if let Some(probe) = &unit.one().probe
            && let Some(port) = port_in(&probe.url)
        {
            may.entry(Some(port)).or_default().insert(PROBER);
        }
        let mut ingress: Vec<Value> = may
            .into_iter()
            .map(|(port, names)| {
                let from: Vec<Value> = names
                    .into_iter()
                    .map(|name| json!({ "podSelector": { "matchLabels": { NAME: name } } }))
                    .collect();
                match port {
                    Some(port) => json!({ "from": from, "ports": [{ "port": port }] }),
                    None => json!({ "from": from }),
                }
            })
            .collect();
        // What is published on one machine is for people: they come through the API server or a node.
        let published: Vec<Value> = unit
            .one()
            .ports
            .iter()
            .filter(|port| port.host.is_some() && unit.name == "grafana")
            .map(|port| json!({ "port": port.container }))
            .collect();
        if !published.is_empty() {
            ingress.push(json!({ "ports": published }));
        }
        if !ingress.is_empty() {
            all.push(json!({
                "apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy",
                "metadata": { "name": unit.name, "labels": body.labels(unit) },
                "spec": {
                    "podSelector": { "matchLabels": { NAME: unit.name } },
                    "policyTypes": ["Ingress"],
                    "ingress": ingress,
                },
            }));
        }
    }
    all
}

/// Ports of `unit` that the settings of `other` name.
fn named(unit: &Unit<'_>, other: &Unit<'_>) -> BTreeSet<u16> {
    let services = other.services.iter().chain(&other.before).copied();
    let waits = other.waits.iter().filter(|w| unit.services.iter().any(|s| s.name == w.name));
    let awaited = waits.filter_map(|service| answers_at(service));
    let texts = services.flat_map(texts);
    let found = texts.flat_map(|text| unit.services.iter().flat_map(move |s| ports_after(text, &s.name)));
    let known: BTreeSet<u16> = unit.one().ports.iter().map(|port| port.container).collect();
    found.chain(awaited).filter(|port| known.contains(port)).collect()
}

fn texts(service: &Service) -> impl Iterator<Item = &str> {
    let health = service.health.iter().flat_map(|health| health.command.iter());
    service.command.iter().chain(service.environment.values()).chain(health).map(String::as_str)
}

/// The numbers after `NAME:` in a text, where the name is not the end of a longer one.
fn ports_after<'t>(text: &'t str, name: &'t str) -> impl Iterator<Item = u16> + 't {
    text.match_indices(name).filter_map(move |(at, _)| {
        let before = text[..at].chars().next_back();
        if before.is_some_and(|c| c.is_ascii_alphanumeric() || c == '-' || c == '.') {
            return None;
        }
        let rest = text[at + name.len()..].strip_prefix(':')?;
        rest[..rest.find(|c: char| !c.is_ascii_digit()).unwrap_or(rest.len())].parse().ok()
    })
}

/// Both reach each other at ports that they agree on while they run.
fn meet(unit: &Unit<'_>, other: &Unit<'_>) -> bool {
    works_at(unit, other) || works_at(other, unit)
}

fn works_at(unit: &Unit<'_>, at: &Unit<'_>) -> bool {
    unit.spec.meets.iter().any(|name| *name.get_ref() == at.one().group || *name.get_ref() == at.name)
}

fn port_in(url: &str) -> Option<u16> {
    let rest = url.strip_prefix("http://")?;
    let host = rest.split('/').next()?;
    host.rsplit_once(':')?.1.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_found_whole_and_with_its_port() {
        let text = "http://kafka:9092,my-kafka:1,kafka-broker:2,x.kafka:3 kafka:29092/a kafka 9093 kafka:";
        assert_eq!(ports_after(text, "kafka").collect::<Vec<_>>(), [9092, 29092]);
    }
}
