//! Where the services of a running instance answer on the host: all that a flow, or a foreign client, may know.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::plan::{KAFKA, SCHEMA_REGISTRY, SEARCH};
use super::{Plan, TopologyError};

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
    /// Role → host addresses of those that play it: `kafka` → `localhost:29092`, …
    pub roles: BTreeMap<String, Vec<String>>,
    /// Host ports: service → port name → number.
    pub services: BTreeMap<String, BTreeMap<String, u16>>,
}

impl Endpoints {
    /// The endpoints of a plan.
    pub fn of(plan: &Plan) -> Self {
        let host = "localhost";
        let mut services: BTreeMap<String, BTreeMap<String, u16>> = BTreeMap::new();
        for (number, service, port) in plan.host_ports() {
            services.entry(service.name.clone()).or_default().insert(port.name.clone(), number);
        }
        let mut roles = BTreeMap::new();
        for (role, players) in &plan.roles {
            let addresses: Vec<String> =
                players.iter().filter_map(|p| Some(format!("{host}:{}", p.host?))).collect();
            if !addresses.is_empty() {
                roles.insert(role.clone(), addresses);
            }
        }
        Self {
            instance: plan.instance.name().to_owned(),
            lab: plan.lab.clone(),
            host: host.to_owned(),
            roles,
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

    /// The base URL of a service's HTTP port on the host.
    ///
    /// # Errors
    /// It has no such port on the host.
    pub fn url(&self, service: &str, port: &str) -> Result<String, TopologyError> {
        Ok(format!("http://{}:{}", self.host, self.port(service, port)?))
    }

    /// Kafka's bootstrap servers for clients on the host; empty where the lab has no Kafka.
    pub fn bootstrap(&self) -> String {
        self.roles.get(KAFKA).map(|addresses| addresses.join(",")).unwrap_or_default()
    }

    /// Base URL of the schema registry.
    ///
    /// # Errors
    /// The lab has none.
    pub fn registry_url(&self) -> Result<String, TopologyError> {
        self.base_url(SCHEMA_REGISTRY)
    }

    /// Base URL of Elasticsearch.
    ///
    /// # Errors
    /// The lab has none.
    pub fn search_url(&self) -> Result<String, TopologyError> {
        self.base_url(SEARCH)
    }

    fn base_url(&self, role: &str) -> Result<String, TopologyError> {
        let found = self.roles.get(role).and_then(|addresses| addresses.first());
        let address =
            found.ok_or_else(|| TopologyError::whole(format!("nobody plays {role} in lab {}", self.lab)))?;
        Ok(format!("http://{address}"))
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
        if let Ok(url) = self.search_url() {
            variables.push(("ELASTICSEARCH_URL".to_owned(), url));
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
