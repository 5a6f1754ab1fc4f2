//! What a well-formed `lab.toml` may still get wrong: dangling references, duplicate ports and names, cycles.

use std::collections::{BTreeMap, BTreeSet};

use toml::Spanned;

use super::file::{LabFile, Protocol, Ready, ServiceSpec};
use super::resolve::{expand, parse_bytes};
use super::rows::{Step, station};
use super::targets::{PROBES, TARGETS};
use super::{Instance, TopologyError};

/// Every mistake found, in no particular order of importance.
pub(super) fn mistakes(file: &LabFile, text: &str) -> Vec<TopologyError> {
    let mut check = Check { file, text, found: Vec::new() };
    check.labs();
    check.recipes_and_images();
    check.names();
    for (key, spec) in &file.services {
        check.service(key, spec);
    }
    check.cycles();
    check.host_ports();
    check.flows_and_commands();
    check.faults_and_alerts();
    // A service in two labs is looked at twice.
    let mut seen = BTreeSet::new();
    check.found.retain(|m| seen.insert(m.to_string()));
    check.found
}

struct Check<'a> {
    file: &'a LabFile,
    text: &'a str,
    found: Vec<TopologyError>,
}

impl Check<'_> {
    fn say<T>(&mut self, at: &Spanned<T>, message: String) {
        self.found.push(TopologyError::at(self.text, at.span(), message));
    }

    /// `what` names one of `known`, or the mistake says which there are.
    fn known<'k>(&mut self, at: &Spanned<String>, what: &str, known: impl Iterator<Item = &'k String>) {
        let known: Vec<_> = known.map(String::as_str).collect();
        if !known.contains(&at.get_ref().as_str()) {
            let message = format!("no {what} named {:?}; there are: {}", at.get_ref(), known.join(", "));
            self.say(at, message);
        }
    }

    fn is_service(&self, name: &str) -> bool {
        !self.file.members_of(name).is_empty()
    }

    fn service_exists(&mut self, at: &Spanned<String>, name: &str) {
        if !self.is_service(name) {
            self.say(at, format!("no service or group named {name:?}"));
        }
    }

    fn labs(&mut self) {
        self.known(&self.file.default_lab, "lab", self.file.labs.keys());
        for lab in self.file.labs.values() {
            let mut chosen = BTreeSet::new();
            for service in &lab.services {
                self.known(service, "service table", self.file.services.keys());
                if !chosen.insert(service.get_ref()) {
                    self.say(service, format!("{:?} is chosen twice", service.get_ref()));
                }
            }
            let position = |name: &str| lab.services.iter().position(|s| s.get_ref() == name);
            for service in &lab.services {
                let needs = self.file.services.get(service.get_ref()).map(|s| s.needs.as_slice());
                for need in needs.unwrap_or_default() {
                    let owner = self.owner(need.get_ref());
                    let (name, need) = (service.get_ref(), need.get_ref());
                    if owner.as_ref().is_some_and(|o| !chosen.contains(o)) {
                        self.say(service, format!("{name} needs {need}, which this lab does not choose"));
                    } else if owner.is_some_and(|o| position(&o) > position(name)) {
                        self.say(service, format!("{name} needs {need}: put it after that one"));
                    }
                }
            }
        }
    }

    /// The table that a service or group name belongs to.
    fn owner(&self, name: &str) -> Option<String> {
        let of = |(key, spec): (&String, &ServiceSpec)| {
            (key == name || spec.members.iter().any(|m| m.name.get_ref() == name)).then(|| key.clone())
        };
        self.file.services.iter().find_map(of)
    }

    fn recipes_and_images(&mut self) {
        for recipe in self.file.recipes.values() {
            for base in &recipe.from {
                self.known(base, "recipe", self.file.recipes.keys());
            }
        }
        if let Some(cycle) = find_cycle(self.file.recipes.keys(), |r| {
            let from = self.file.recipes.get(r).map(|r| r.from.as_slice()).unwrap_or_default();
            from.iter().map(|f| f.get_ref().clone()).collect()
        }) {
            self.found
                .push(TopologyError::whole(format!("recipes stand on each other in a circle: {cycle}")));
        }
        let recipes = self.file.images.values().filter_map(|i| i.recipe.as_ref());
        for recipe in recipes.chain(self.file.addons.values().filter_map(|a| a.recipe.as_ref())) {
            self.known(recipe, "recipe", self.file.recipes.keys());
        }
        for (name, image) in &self.file.images {
            if image.upstream.is_none() && image.recipe.is_none() {
                self.found
                    .push(TopologyError::whole(format!("image {name} has neither an upstream nor a recipe")));
            }
        }
        for (name, addon) in &self.file.addons {
            if addon.files.is_some() == addon.recipe.is_some() {
                let message = format!("add-on {name} must have either files or a recipe");
                self.found.push(TopologyError::whole(message));
            }
        }
    }

    /// Service names are unique; a group's name is not also a member's.
    fn names(&mut self) {
        let mut seen: BTreeSet<&str> = self.file.services.keys().map(String::as_str).collect();
        for spec in self.file.services.values() {
            for member in &spec.members {
                if !seen.insert(member.name.get_ref()) {
                    self.say(
                        &member.name,
                        format!("{:?} is already a service or group", member.name.get_ref()),
                    );
                }
            }
        }
    }

    fn service(&mut self, key: &str, spec: &ServiceSpec) {
        self.known(&spec.image, "image", self.file.images.keys());
        for addon in &spec.addons {
            self.known(addon, "add-on", self.file.addons.keys());
        }
        for need in spec.needs.iter().chain(&spec.beside) {
            self.service_exists(need, need.get_ref());
        }
        if parse_bytes(spec.memory.get_ref()).is_none() {
            self.say(&spec.memory, format!("memory {:?}: write 256m or 1g", spec.memory.get_ref()));
        }
        let inside = spec.volumes.iter().map(|v| &v.path).chain(spec.files.values());
        for path in inside.filter(|p| !p.starts_with('/')) {
            self.say(&spec.image, format!("{key}: {path:?} is mounted inside: it must begin with /"));
        }
        for source in
            spec.files.keys().filter(|s| s.starts_with('/') || s.split('/').any(|part| part == ".."))
        {
            self.say(&spec.image, format!("{key}: {source:?} must be a path within the project"));
        }
        for member in &spec.members {
            for (port, at) in &member.host {
                if !spec.ports.contains_key(port) {
                    self.say(at, format!("{} has no port named {port:?}", member.name.get_ref()));
                }
            }
        }
        for port in spec.metrics.iter().map(|m| &m.port).chain(&spec.probe) {
            match spec.ports.get(port.get_ref()) {
                None => self.say(port, format!("{key} has no port named {:?}", port.get_ref())),
                Some(found) if found.protocol != Protocol::Http => {
                    self.say(port, format!("{key}: port {:?} does not speak HTTP", port.get_ref()));
                }
                Some(_) => {}
            }
        }
        match &spec.ready {
            Ready::Tcp { port } | Ready::Kafka { port } | Ready::Http { port, .. } => {
                if !spec.ports.contains_key(port) {
                    self.say(
                        &spec.image,
                        format!("{key}: ready names port {port:?}, which is not among its ports"),
                    );
                }
            }
            Ready::SparkWorker { master } => {
                if !self.is_service(master) {
                    self.say(&spec.image, format!("{key}: ready names {master:?}, which is no service"));
                }
            }
            Ready::Completed => {}
        }
        for (variable, value) in &spec.environment {
            if let Err(token) = expand(value.get_ref(), |t| self.token(spec, t)) {
                self.say(value, format!("{variable}: {{{token}}} stands for nothing here"));
            }
        }
        for argument in &spec.command {
            if let Err(token) = expand(argument, |t| self.token(spec, t)) {
                self.say(&spec.image, format!("{key}: {{{token}}} in its command stands for nothing here"));
            }
        }
    }

    fn token(&self, spec: &ServiceSpec, token: &str) -> Option<String> {
        let known = match token.split_once('.') {
            Some(("value", key)) => self.file.labs.values().any(|l| l.values.contains_key(key)),
            Some(("port", key)) => spec.ports.contains_key(key),
            Some((other, port)) => {
                let port = self.file.services.get(other).and_then(|s| s.ports.get(port));
                port.is_some_and(|p| p.host.is_some())
            }
            None if ["name", "network", "instance", TARGETS, PROBES].contains(&token) => true,
            None if token == "node" => {
                spec.members.iter().all(|m| m.node.is_some()) && !spec.members.is_empty()
            }
            None => self.is_service(token),
        };
        known.then(String::new)
    }

    fn cycles(&mut self) {
        let needs = |key: &str| -> Vec<String> {
            let needs = self.file.services.get(key).map(|s| s.needs.as_slice()).unwrap_or_default();
            needs.iter().filter_map(|n| self.owner(n.get_ref())).collect()
        };
        if let Some(cycle) = find_cycle(self.file.services.keys(), needs) {
            let first = cycle.split(' ').next().unwrap_or_default();
            let at = self.file.services.get(first).and_then(|s| s.needs.first());
            let message = format!("services need each other in a circle: {cycle}");
            match at {
                Some(at) => self.say(at, message),
                None => self.found.push(TopologyError::whole(message)),
            }
        }
    }

    /// Within each lab a host port belongs to one service.
    fn host_ports(&mut self) {
        for lab in self.file.labs.values() {
            let mut owners: BTreeMap<u16, String> = BTreeMap::new();
            for key in &lab.services {
                let Some(spec) = self.file.services.get(key.get_ref()) else { continue };
                let own =
                    spec.ports.values().filter_map(|p| p.host.as_ref()).map(|p| (key.get_ref().clone(), p));
                let of_members = spec
                    .members
                    .iter()
                    .flat_map(|m| m.host.values().map(move |p| (m.name.get_ref().clone(), p)));
                for (name, port) in own.chain(of_members) {
                    if let Some(other) = owners.insert(*port.get_ref(), name.clone()) {
                        self.say(
                            port,
                            format!("host port {} of {name} is already {other}'s", port.get_ref()),
                        );
                    }
                }
            }
        }
    }

    fn flows_and_commands(&mut self) {
        let mut ids = BTreeSet::new();
        for flow in &self.file.flows {
            if !ids.insert(format!("flow {}", flow.id.get_ref())) {
                self.say(&flow.id, format!("flow {:?} is there twice", flow.id.get_ref()));
            }
            for at in &flow.path {
                let name = station(at.get_ref());
                if name != "host" {
                    self.service_exists(at, name);
                }
            }
            for need in &flow.needs {
                self.service_exists(need, need.get_ref());
            }
            if flow.stations().next().is_none() {
                self.say(&flow.id, format!("flow {:?} passes no service", flow.id.get_ref()));
            }
        }
        let documented = self.file.resolve(self.file.default_lab.get_ref(), Instance::documented());
        for command in &self.file.commands {
            if !ids.insert(format!("command {}", command.id.get_ref())) {
                self.say(&command.id, format!("command {:?} is there twice", command.id.get_ref()));
            }
            if self.found.is_empty()
                && let Ok(topology) = &documented
                && let Err(token) = topology.fill(command.run.get_ref())
            {
                self.say(&command.run, format!("{{{token}}} stands for nothing in the default lab"));
            }
        }
    }
}

impl Check<'_> {
    fn faults_and_alerts(&mut self) {
        let mut names = BTreeSet::new();
        for fault in &self.file.faults {
            if !names.insert(format!("fault {}", fault.name.get_ref())) {
                self.say(&fault.name, format!("fault {:?} is there twice", fault.name.get_ref()));
            }
            if fault.steps.is_empty() {
                self.say(&fault.name, format!("fault {:?} does nothing", fault.name.get_ref()));
            }
            for step in &fault.steps {
                let others = if let Step::Cut { from, .. } = step { from.as_slice() } else { &[] };
                for name in step.services().iter().chain(others) {
                    self.service_exists(&fault.name, name);
                }
            }
        }
        let alerts: Vec<&String> = self.file.alerts.iter().map(|a| a.name.get_ref()).collect();
        for held in self.file.faults.iter().flat_map(|f| &f.holds_back) {
            self.known(held, "alert", alerts.iter().copied());
        }
        let faults: Vec<&String> = self.file.faults.iter().map(|f| f.name.get_ref()).collect();
        for alert in &self.file.alerts {
            let name = alert.name.get_ref();
            if !names.insert(format!("alert {name}")) {
                self.say(&alert.name, format!("alert {name:?} is there twice"));
            }
            if let Some(fault) = &alert.fault {
                self.known(fault, "fault", faults.iter().copied());
            }
            if alert.fault.is_some() == alert.why.is_some() {
                self.say(&alert.name, format!("alert {name:?} must have either a fault or a why"));
            }
        }
    }
}

/// The first circle in a graph, as `a → b → a`.
fn find_cycle<'a>(
    keys: impl Iterator<Item = &'a String>,
    next: impl Fn(&str) -> Vec<String>,
) -> Option<String> {
    let mut done = BTreeSet::new();
    for key in keys {
        let mut path = Vec::new();
        if let Some(cycle) = walk(key, &next, &mut path, &mut done) {
            return Some(cycle);
        }
    }
    None
}

fn walk(
    key: &str,
    next: &impl Fn(&str) -> Vec<String>,
    path: &mut Vec<String>,
    done: &mut BTreeSet<String>,
) -> Option<String> {
    if let Some(start) = path.iter().position(|p| p == key) {
        let mut circle: Vec<_> = path[start..].to_vec();
        circle.push(key.to_owned());
        return Some(circle.join(" → "));
    }
    if done.contains(key) {
        return None;
    }
    path.push(key.to_owned());
    for other in next(key) {
        if let Some(cycle) = walk(&other, next, path, done) {
            return Some(cycle);
        }
    }
    path.pop();
    done.insert(key.to_owned());
    None
}
