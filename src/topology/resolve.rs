//! From `lab.toml`, a lab and an instance to the services as they run: names, addresses and ports filled in.

use std::collections::{BTreeMap, BTreeSet};

use super::file::{LabFile, PortSpec, Protocol, Ready, ServiceSpec};
use super::targets::{PROBES, TARGETS, Target};
use super::{Instance, TopologyError, health};

/// The engine's socket, on the machine that it runs on and inside services that have it.
pub const ENGINE_SOCKET: &str = "/var/run/docker.sock";

/// A lab as one instance runs it.
#[derive(Debug, Clone)]
pub struct Topology {
    /// Name of the lab.
    pub lab: String,
    /// The instance.
    pub instance: Instance,
    /// Network name on the engine.
    pub network: String,
    /// Services in the order of `lab.toml`.
    pub services: Vec<Service>,
}

/// One container as it runs.
#[derive(Debug, Clone, serde::Serialize)]
pub struct Service {
    /// Documented name.
    pub name: String,
    /// The table of `lab.toml` it comes from.
    pub group: String,
    /// Container and DNS name in this instance.
    pub container: String,
    /// One line for people.
    pub about: String,
    /// Table in `images`.
    pub image: String,
    /// Arguments.
    pub command: Vec<String>,
    /// Working directory where it is not the image's own.
    pub working_dir: Option<String>,
    /// Environment, but for what only the whole topology knows: see [`Topology::environment`].
    pub environment: BTreeMap<String, String>,
    /// Ports.
    pub ports: Vec<Port>,
    /// Named volumes.
    pub volumes: Vec<Volume>,
    /// Add-ons by name.
    pub addons: Vec<String>,
    /// Read-only mounts from the project.
    pub files: Vec<FileMount>,
    /// Limit in bytes.
    pub memory: u64,
    /// Services that must be ready first.
    pub needs: Vec<String>,
    /// Services that must run too, in no order.
    pub beside: Vec<String>,
    /// When it counts as ready.
    pub ready: Ready,
    /// It is stopped after the others.
    pub stops_last: bool,
    /// What Prometheus reads of it.
    pub metrics: Vec<Target>,
    /// Port that is asked from outside whether the service answers.
    pub probe: Option<String>,
    /// Has the engine's socket.
    pub engine_socket: bool,
}

/// A port of a service.
#[derive(Debug, Clone, serde::Serialize)]
pub struct Port {
    /// Name in `lab.toml`.
    pub name: String,
    /// Port inside.
    pub container: u16,
    /// Documented host port.
    pub documented: Option<u16>,
    /// Host port of this instance, on 127.0.0.1.
    pub host: Option<u16>,
    /// What it speaks.
    pub protocol: Protocol,
    /// What to ask for over HTTP.
    pub path: Option<String>,
    /// One line for people.
    pub about: String,
}

/// A named volume of a service.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct Volume {
    /// Name on the engine.
    pub name: String,
    /// Path inside.
    pub path: String,
}

/// A folder or file of the project, mounted read-only.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct FileMount {
    /// Path from the project's root.
    pub source: String,
    /// Path inside.
    pub path: String,
}

impl LabFile {
    /// The services of `lab` as `instance` runs them.
    ///
    /// # Errors
    /// An unknown lab, or an offset that moves a port past 65535 or onto a documented port of another service.
    pub fn resolve(&self, lab: &str, instance: Instance) -> Result<Topology, TopologyError> {
        let Some(selection) = self.labs.get(lab) else {
            let known: Vec<_> = self.labs.keys().map(String::as_str).collect();
            return Err(TopologyError::whole(format!(
                "no lab named {lab:?}; there are: {}",
                known.join(", ")
            )));
        };
        let mut services = Vec::new();
        for key in &selection.services {
            let key = key.get_ref();
            let spec = &self.services[key];
            for index in 0..spec.members.len().max(1) {
                services.push(self.service(key, spec, index, &instance, &selection.values)?);
            }
        }
        let topology =
            Topology { lab: lab.to_owned(), network: instance.network(&self.network), instance, services };
        topology.check_ports()?;
        Ok(topology)
    }

    fn service(
        &self,
        group: &str,
        spec: &ServiceSpec,
        index: usize,
        instance: &Instance,
        values: &BTreeMap<String, String>,
    ) -> Result<Service, TopologyError> {
        let member = spec.members.get(index);
        let name = member.map_or(group, |m| m.name.get_ref());
        let documented = |key: &str, port: &PortSpec| {
            let own = member.and_then(|m| m.host.get(key)).or(port.host.as_ref());
            own.map(|p| *p.get_ref())
        };
        let mut ports = Vec::new();
        for (key, port) in &spec.ports {
            let documented = documented(key, port);
            let host = match documented {
                None => None,
                Some(d) => Some(instance.host_port(d).ok_or_else(|| {
                    let offset = instance.offset();
                    TopologyError::whole(format!("{name}: port {d} moved by {offset} is past 65535"))
                })?),
            };
            ports.push(Port {
                name: key.clone(),
                container: port.port,
                documented,
                host,
                protocol: port.protocol,
                path: port.path.clone(),
                about: port.about.clone(),
            });
        }
        ports.sort_by_key(|p| (p.host.is_none(), p.documented, p.container));
        let container = instance.container(name);
        let fill = |text: &str| {
            expand(text, |token| {
                if let Some(key) = token.strip_prefix("value.") {
                    return values.get(key).cloned();
                }
                if let Some(key) = token.strip_prefix("port.") {
                    return ports.iter().find(|p| p.name == key)?.host.map(|p| p.to_string());
                }
                if let Some((other, port)) = token.split_once('.') {
                    let spec = self.services.get(other)?;
                    let documented = spec.ports.get(port)?.host.as_ref()?;
                    return Some(instance.host_port(*documented.get_ref())?.to_string());
                }
                match token {
                    TARGETS | PROBES => Some(format!("{{{token}}}")),
                    "network" => Some(instance.network(&self.network)),
                    "instance" => Some(instance.name().to_owned()),
                    "name" => Some(container.clone()),
                    "node" => member?.node.map(|n| n.to_string()),
                    other => (!self.members_of(other).is_empty()).then(|| instance.container(other)),
                }
            })
            .map_err(|token| TopologyError::whole(format!("{name}: {{{token}}} stands for nothing here")))
        };
        Ok(Service {
            name: name.to_owned(),
            group: group.to_owned(),
            about: spec.about.clone(),
            image: spec.image.get_ref().clone(),
            command: spec.command.iter().map(|c| fill(c)).collect::<Result<_, _>>()?,
            working_dir: spec.working_dir.clone(),
            environment: spec
                .environment
                .iter()
                .map(|(k, v)| Ok((k.clone(), fill(v.get_ref())?)))
                .collect::<Result<_, TopologyError>>()?,
            volumes: spec
                .volumes
                .iter()
                .map(|v| Volume {
                    name: instance.volume((!v.shared).then_some(name), &v.name),
                    path: v.path.clone(),
                })
                .collect(),
            addons: spec.addons.iter().map(|a| a.get_ref().clone()).collect(),
            files: [(health::SOURCE, health::PATH)]
                .into_iter()
                .chain(spec.files.iter().map(|(source, path)| (source.as_str(), path.as_str())))
                .map(|(source, path)| FileMount { source: source.to_owned(), path: path.to_owned() })
                .collect(),
            memory: parse_bytes(spec.memory.get_ref()).unwrap_or_default(),
            needs: spec.needs.iter().flat_map(|n| self.members_of(n.get_ref())).collect(),
            beside: spec.beside.iter().flat_map(|n| self.members_of(n.get_ref())).collect(),
            ready: spec.ready.clone(),
            stops_last: spec.stops_last,
            metrics: spec
                .metrics
                .iter()
                .filter_map(|m| {
                    let port = ports.iter().find(|p| &p.name == m.port.get_ref())?;
                    Some(Target {
                        job: m.job.clone().unwrap_or_else(|| group.to_owned()),
                        instance: name.to_owned(),
                        address: format!("{container}:{}", port.container),
                        path: m.path.clone(),
                    })
                })
                .collect(),
            probe: spec.probe.as_ref().map(|p| p.get_ref().clone()),
            engine_socket: spec.engine_socket,
            container,
            ports,
        })
    }
}

impl Topology {
    /// A service by its documented name.
    pub fn service(&self, name: &str) -> Option<&Service> {
        self.services.iter().find(|s| s.name == name)
    }

    /// Every host port, with the service that owns it.
    pub fn host_ports(&self) -> impl Iterator<Item = (u16, &Service, &Port)> {
        self.services.iter().flat_map(|s| s.ports.iter().filter_map(move |p| Some((p.host?, s, p))))
    }

    /// The same lab with only the named services or groups and what they need.
    pub fn only<'a>(&self, names: impl IntoIterator<Item = &'a str>) -> Self {
        let mut wanted = BTreeSet::new();
        let mut open: Vec<&str> = names.into_iter().collect();
        while let Some(name) = open.pop() {
            for service in self.services.iter().filter(|s| s.name == name || s.group == name) {
                if wanted.insert(service.name.clone()) {
                    open.extend(service.needs.iter().chain(&service.beside).map(String::as_str));
                }
            }
        }
        let mut part = self.clone();
        part.services.retain(|s| wanted.contains(&s.name));
        part
    }

    /// The same lab without the services whose image no recipe builds: what runs where there are no public images.
    pub fn buildable(&self, file: &LabFile) -> Self {
        let mut part = self.clone();
        part.services.retain(|s| file.images.get(&s.image).is_some_and(|i| i.recipe.is_some()));
        part
    }

    /// Fills `{service}`, `{service.port}` and `{network}` in a documented command line.
    ///
    /// # Errors
    /// The first token that stands for nothing.
    pub fn fill(&self, text: &str) -> Result<String, String> {
        expand(text, |token| match token.split_once('.') {
            Some((service, port)) => {
                let port = self.service(service)?.ports.iter().find(|p| p.name == port)?;
                port.host.map(|p| p.to_string())
            }
            None if token == "network" => Some(self.network.clone()),
            None => self.service(token).map(|s| s.container.clone()),
        })
    }

    /// No two services on one host port, and no moved port on a documented one of another service.
    fn check_ports(&self) -> Result<(), TopologyError> {
        let documented: BTreeSet<u16> =
            self.services.iter().flat_map(|s| &s.ports).filter_map(|p| p.documented).collect();
        for (host, service, port) in self.host_ports() {
            if Some(host) != port.documented && documented.contains(&host) {
                let offset = self.instance.offset();
                return Err(TopologyError::whole(format!(
                    "{}: port offset {offset} puts {} on {host}, a documented port of another service",
                    service.name, port.name
                )));
            }
        }
        Ok(())
    }
}

/// Replaces each `{token}`; `Err` names the first token that `value` does not know. Braces around anything that
/// is not a name (JSON in a command line) stay as they are.
pub(super) fn expand(text: &str, value: impl Fn(&str) -> Option<String>) -> Result<String, String> {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(open) = rest.find('{') {
        out.push_str(&rest[..open]);
        rest = &rest[open..];
        let token = rest[1..].split('}').next().unwrap_or_default();
        let is_name =
            !token.is_empty() && token.chars().all(|c| c.is_ascii_alphanumeric() || "-._".contains(c));
        if is_name && rest[1 + token.len()..].starts_with('}') {
            out.push_str(&value(token).ok_or_else(|| token.to_owned())?);
            rest = &rest[token.len() + 2..];
        } else {
            out.push('{');
            rest = &rest[1..];
        }
    }
    out.push_str(rest);
    Ok(out)
}

/// `256m`, `1g` → bytes.
pub fn parse_bytes(text: &str) -> Option<u64> {
    let unit = match text.chars().last()? {
        'm' => 1 << 20,
        'g' => 1 << 30,
        _ => return None,
    };
    text[..text.len() - 1].parse::<u64>().ok()?.checked_mul(unit).filter(|b| *b > 0)
}
