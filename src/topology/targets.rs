//! What Prometheus reads, and what is asked from outside whether it answers: from the services' own tables, so that a
//! new service is watched without touching a second file.

use std::collections::BTreeMap;

use serde::Serialize;
use serde_json::{Value, json};

use super::{Service, Topology};

/// In a service's environment: the targets, in the form of Prometheus' file_sd.
pub(super) const TARGETS: &str = "targets";
/// In a service's environment: the probes, in the same form.
pub(super) const PROBES: &str = "probes";

/// An address that Prometheus reads.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Target {
    /// The service's table in `lab.toml`, or what stands for it: label `job`.
    pub job: String,
    /// The service's documented name: label `instance`.
    pub instance: String,
    /// Host and port in the lab's network.
    pub address: String,
    /// What is asked for.
    pub path: String,
}

/// A URL that must answer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Probe {
    /// The service's documented name: label `instance`.
    pub instance: String,
    /// In the lab's network.
    pub url: String,
}

impl Topology {
    /// Everything that Prometheus reads, in the order of `lab.toml`.
    pub fn targets(&self) -> Vec<Target> {
        self.services.iter().flat_map(|s| s.metrics.iter().cloned()).collect()
    }

    /// Everything that is asked from outside whether it answers.
    pub fn probes(&self) -> Vec<Probe> {
        let of = |service: &Service| {
            let port = service.ports.iter().find(|p| Some(&p.name) == service.probe.as_ref())?;
            let path = port.path.as_deref().unwrap_or("/");
            let url = format!("http://{}:{}{path}", service.container, port.container);
            Some(Probe { instance: service.name.clone(), url })
        };
        self.services.iter().filter_map(of).collect()
    }

    /// A service's environment as its container gets it.
    pub fn environment(&self, service: &Service) -> BTreeMap<String, String> {
        let targets = || {
            self.targets().into_iter().map(|t| {
            json!({ "targets": [t.address], "labels": { "job": t.job, "instance": t.instance, "__metrics_path__": t.path } })
        })
        };
        let probes = || {
            self.probes()
                .into_iter()
                .map(|p| json!({ "targets": [p.url], "labels": { "instance": p.instance } }))
        };
        let filled = |text: &String| match text.as_str() {
            "{targets}" => Value::from_iter(targets()).to_string(),
            "{probes}" => Value::from_iter(probes()).to_string(),
            _ => text.clone(),
        };
        service.environment.iter().map(|(name, text)| (name.clone(), filled(text))).collect()
    }
}
