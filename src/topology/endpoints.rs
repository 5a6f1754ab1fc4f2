//! Where the services of a running instance answer on the host: all that a flow, or a foreign client, may know.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::{Topology, TopologyError};

/// Host addresses of one instance.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Endpoints {
    /// Instance name.
    pub instance: String,
    /// Lab name.
    pub lab: String,
    /// Host the ports are on.
    pub host: String,
    /// Host ports: service → port name → number.
    pub services: BTreeMap<String, BTreeMap<String, u16>>,
}

impl Endpoints {
    /// The endpoints of a resolved lab.
    pub fn of(topology: &Topology) -> Self {
        let mut services: BTreeMap<String, BTreeMap<String, u16>> = BTreeMap::new();
        for (host, service, port) in topology.host_ports() {
            services.entry(service.name.clone()).or_default().insert(port.name.clone(), host);
        }
        Self {
            instance: topology.instance.name().to_owned(),
            lab: topology.lab.clone(),
            host: "localhost".to_owned(),
            services,
        }
    }

    /// The host port of a service.
    ///
    /// # Errors
    /// It has no such port on the host.
    pub fn port(&self, service: &str, port: &str) -> Result<u16, TopologyError> {
        let found = self.services.get(service).and_then(|ports| ports.get(port));
        found.copied().ok_or_else(|| {
            TopologyError::whole(format!(
                "{service} publishes no port {port:?} in instance {}",
                self.instance
            ))
        })
    }

    /// Kafka's bootstrap servers for clients on the host.
    pub fn bootstrap(&self) -> String {
        let brokers = self.services.iter().filter(|(name, _)| name.starts_with("kafka-broker-"));
        let hosts = brokers.filter_map(|(_, ports)| ports.get("host"));
        hosts.map(|port| format!("{}:{port}", self.host)).collect::<Vec<_>>().join(",")
    }

    /// Base URL of the schema registry.
    ///
    /// # Errors
    /// The lab has none.
    pub fn registry_url(&self) -> Result<String, TopologyError> {
        Ok(format!("http://{}:{}", self.host, self.port("schema-registry", "api")?))
    }

    /// As variables that other people's clients know.
    pub fn variables(&self) -> Vec<(String, String)> {
        let mut variables = vec![
            ("LAB_INSTANCE".to_owned(), self.instance.clone()),
            ("BOOTSTRAP_SERVERS".to_owned(), self.bootstrap()),
        ];
        if let Ok(url) = self.registry_url() {
            variables.push(("SCHEMA_REGISTRY_URL".to_owned(), url));
        }
        for (service, ports) in &self.services {
            for (port, number) in ports {
                let name = format!("LAB_{service}_{port}").to_uppercase().replace('-', "_");
                variables.push((name, format!("{}:{number}", self.host)));
            }
        }
        variables.retain(|(_, value)| !value.is_empty());
        variables
    }
}
