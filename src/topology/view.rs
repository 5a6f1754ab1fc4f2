//! The lab as its console is told: what there is, and where. The token `{lab}` is this as JSON.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::plan::Port;
use super::roster::{Entry, Roster};
use super::{Instance, Protocol};

/// A lab for people who look at it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LabView {
    /// Name of the lab.
    pub lab: String,
    /// Name of the instance.
    pub instance: String,
    /// Role → addresses in the lab's network, with commas.
    pub roles: BTreeMap<String, String>,
    /// Role → addresses on the host, with commas.
    pub host_roles: BTreeMap<String, String>,
    /// Services in the order of `lab.toml`.
    pub services: Vec<ServiceView>,
}

/// A service for people who look at the lab.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ServiceView {
    /// Documented name.
    pub name: String,
    /// One line.
    pub about: String,
    /// Where it answers on the host: an address, and what is there.
    pub pages: Vec<(String, String)>,
}

impl LabView {
    pub(super) fn of(
        roster: &Roster<'_>,
        instance: &Instance,
        entries: &[&Entry<'_>],
        ports: &[Vec<Port>],
    ) -> Self {
        let services = entries.iter().zip(ports).map(|(entry, ports)| ServiceView {
            name: entry.name.to_owned(),
            about: entry.spec.about.clone(),
            pages: ports.iter().filter_map(page).collect(),
        });
        let (mut roles, mut host_roles) = (BTreeMap::new(), BTreeMap::new());
        for role in roster.roles() {
            let (mut inside, mut outside) = (Vec::new(), Vec::new());
            for (entry, provided) in roster.players(role) {
                let Some(at) = entries.iter().position(|e| e.name == entry.name) else { continue };
                let port = |name: &str| ports[at].iter().find(|port| port.name == name);
                if let Some(port) = port(provided.port.get_ref()) {
                    inside.push(format!("{}:{}", instance.container(entry.name), port.container));
                }
                let host = provided.host.as_ref().unwrap_or(&provided.port);
                outside.extend(port(host.get_ref()).and_then(|p| p.host).map(|n| format!("localhost:{n}")));
            }
            if !inside.is_empty() {
                roles.insert(role.to_owned(), inside.join(","));
            }
            if !outside.is_empty() {
                host_roles.insert(role.to_owned(), outside.join(","));
            }
        }
        Self {
            lab: roster.name.to_owned(),
            instance: instance.name().to_owned(),
            roles,
            host_roles,
            services: services.collect(),
        }
    }
}

fn page(port: &Port) -> Option<(String, String)> {
    let host = port.host?;
    let address = match port.protocol {
        Protocol::Http => format!("http://localhost:{host}{}", port.path.as_deref().unwrap_or("/")),
        _ => format!("localhost:{host}"),
    };
    Some((address, port.about.clone()))
}
