//! What Prometheus reads, and what is asked from outside whether it answers: from the services' own tables, so that a
//! new service is watched without touching a second file.

use serde::Serialize;
use serde_json::{Value, json};

use super::roster::Entry;
use super::{Instance, Plan};

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

impl Target {
    /// The targets of one service.
    pub(super) fn of(entry: &Entry<'_>, instance: &Instance) -> Vec<Self> {
        let target = |scrape: &super::Scrape| {
            let port = entry.spec.ports.get(scrape.port.get_ref())?;
            Some(Self {
                job: scrape.job.clone().unwrap_or_else(|| entry.group.to_owned()),
                instance: entry.name.to_owned(),
                address: format!("{}:{}", instance.container(entry.name), port.port),
                path: scrape.path.clone(),
            })
        };
        entry.spec.metrics.iter().filter_map(target).collect()
    }

    /// In the form of Prometheus' file_sd.
    pub(super) fn file_sd(&self) -> Value {
        let labels = json!({ "job": self.job, "instance": self.instance, "__metrics_path__": self.path });
        json!({ "targets": [self.address], "labels": labels })
    }
}

impl Probe {
    /// The probe of one service.
    pub(super) fn of(entry: &Entry<'_>, instance: &Instance) -> Option<Self> {
        let port = entry.spec.ports.get(entry.spec.probe.as_ref()?.get_ref())?;
        let path = port.path.as_deref().unwrap_or("/");
        let url = format!("http://{}:{}{path}", instance.container(entry.name), port.port);
        Some(Self { instance: entry.name.to_owned(), url })
    }

    /// In the form of Prometheus' file_sd.
    pub(super) fn file_sd(&self) -> Value {
        json!({ "targets": [self.url], "labels": { "instance": self.instance } })
    }
}

impl Plan {
    /// Everything that Prometheus reads, in the order of `lab.toml`.
    pub fn targets(&self) -> Vec<Target> {
        self.services.iter().flat_map(|s| s.metrics.iter().cloned()).collect()
    }

    /// Everything that is asked from outside whether it answers.
    pub fn probes(&self) -> Vec<Probe> {
        self.services.iter().filter_map(|s| s.probe.clone()).collect()
    }
}
