//! What a well-formed `lab.toml` may still get wrong, whatever the lab: dangling references, malformed values, names twice.
//! What is wrong in one lab is in `check_labs`, what is wrong with a row in `check_rows`.

use std::collections::BTreeSet;

use toml::Spanned;

use super::file::{LabFile, Protocol, Ready, ServiceSpec};
use super::resolve::parse_bytes;
use super::tokens::RESERVED;
use super::{TopologyError, graph};

/// Every mistake found, in no particular order of importance.
pub(super) fn mistakes(file: &LabFile, text: &str) -> Vec<TopologyError> {
    let mut check = Check { file, text, found: Vec::new() };
    check.recipes_and_images();
    for (key, spec) in &file.services {
        check.service(key, spec);
    }
    check.labs();
    check.rows();
    // A service in two labs is looked at twice.
    let mut seen = BTreeSet::new();
    check.found.retain(|m| seen.insert(m.to_string()));
    check.found
}

pub(super) struct Check<'a> {
    pub(super) file: &'a LabFile,
    text: &'a str,
    pub(super) found: Vec<TopologyError>,
}

impl Check<'_> {
    pub(super) fn say<T>(&mut self, at: &Spanned<T>, message: String) {
        self.say_at(Some(at.span()), message);
    }

    pub(super) fn say_at(&mut self, span: Option<std::ops::Range<usize>>, message: String) {
        self.found.push(match span {
            Some(span) => TopologyError::at(self.text, span, message),
            None => TopologyError::whole(message),
        });
    }

    /// `what` names one of `known`, or the mistake says which there are.
    pub(super) fn known<'k>(
        &mut self,
        at: &Spanned<String>,
        what: &str,
        known: impl Iterator<Item = &'k String>,
    ) {
        let known: BTreeSet<_> = known.map(String::as_str).collect();
        if !known.contains(&at.get_ref().as_str()) {
            let list = known.into_iter().collect::<Vec<_>>().join(", ");
            self.say(at, format!("no {what} named {:?}; there are: {list}", at.get_ref()));
        }
    }

    /// A role, service or group of that name is somewhere in the file.
    pub(super) fn exists(&self, name: &str) -> bool {
        self.file.services.iter().any(|(key, spec)| {
            key == name
                || spec.provides.contains_key(name)
                || spec.services(key).iter().any(|(service, _)| *service == name)
        })
    }

    pub(super) fn must_exist(&mut self, at: &Spanned<String>, name: &str) {
        if !self.exists(name) {
            self.say(at, format!("no role, service or group named {name:?}"));
        }
    }

    fn recipes_and_images(&mut self) {
        for recipe in self.file.recipes.values() {
            for base in &recipe.from {
                self.known(base, "recipe", self.file.recipes.keys());
            }
        }
        if let Some(cycle) = graph::find_cycle(self.file.recipes.keys().map(String::as_str), |r| {
            let from = self.file.recipes.get(r).map(|r| r.from.as_slice()).unwrap_or_default();
            from.iter().map(|f| f.get_ref().clone()).collect()
        }) {
            self.say_at(None, format!("recipes stand on each other in a circle: {cycle}"));
        }
        let recipes = self.file.images.values().filter_map(|i| i.recipe.as_ref());
        for recipe in recipes.chain(self.file.addons.values().filter_map(|a| a.recipe.as_ref())) {
            self.known(recipe, "recipe", self.file.recipes.keys());
        }
        for (name, image) in &self.file.images {
            if image.upstream.is_none() && image.recipe.is_none() {
                self.say_at(None, format!("image {name} has neither an upstream nor a recipe"));
            }
        }
        for (name, addon) in &self.file.addons {
            if addon.files.is_some() == addon.recipe.is_some() {
                self.say_at(None, format!("add-on {name} must have either files or a recipe"));
            }
        }
    }

    fn service(&mut self, key: &str, spec: &ServiceSpec) {
        self.known(&spec.image, "image", self.file.images.keys());
        for addon in &spec.addons {
            self.known(addon, "add-on", self.file.addons.keys());
        }
        for other in spec.needs.iter().chain(&spec.after).chain(&spec.beside).chain(&spec.upstream_needs) {
            self.must_exist(other, other.get_ref());
        }
        if let Some(name) = &spec.name
            && !spec.members.is_empty()
        {
            self.say(name, format!("{key} has members: each has its own name"));
        }
        for (name, _) in spec.services(key) {
            if RESERVED.contains(&name) {
                self.say(&spec.image, format!("no service may be called {name:?}: tokens begin with it"));
            }
        }
        if parse_bytes(spec.memory.get_ref()).is_none() {
            self.say(&spec.memory, format!("memory {:?}: write 256m or 1g", spec.memory.get_ref()));
        }
        self.mounts(key, spec);
        self.ports(key, spec);
    }

    fn mounts(&mut self, key: &str, spec: &ServiceSpec) {
        let inside = spec.volumes.iter().map(|v| &v.path).chain(spec.files.values());
        for path in inside.filter(|p| !p.starts_with('/')) {
            self.say(&spec.image, format!("{key}: {path:?} is mounted inside: it must begin with /"));
        }
        let leaves = |s: &&String| s.starts_with('/') || s.split('/').any(|part| part == "..");
        for source in spec.files.keys().filter(leaves) {
            self.say(&spec.image, format!("{key}: {source:?} must be a path within the project"));
        }
        for volume in spec.volumes.iter().filter(|v| v.optional && !v.shared) {
            let name = &volume.name;
            self.say(&spec.image, format!("{key}: volume {name:?} is optional, so it must be shared"));
        }
    }

    /// Every port that the service's own table names is one of its ports.
    fn ports(&mut self, key: &str, spec: &ServiceSpec) {
        for member in &spec.members {
            for (port, at) in &member.host {
                if !spec.ports.contains_key(port) {
                    self.say(at, format!("{} has no port named {port:?}", member.name.get_ref()));
                }
            }
        }
        for (name, aside) in spec.ports.iter().filter_map(|(n, port)| Some((n, port.gives_way.as_ref()?))) {
            self.must_exist(&aside.to, aside.to.get_ref());
            if spec.ports.get(name).is_some_and(|port| port.host.is_none()) {
                self.say(&aside.to, format!("{key}: port {name:?} has no host port that it could give away"));
            }
        }
        for provided in spec.provides.values() {
            for port in std::iter::once(&provided.port).chain(&provided.host) {
                if !spec.ports.contains_key(port.get_ref()) {
                    self.say(port, format!("{key} has no port named {:?}", port.get_ref()));
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
            Ready::SparkWorker { master, port } => {
                let found = self.file.services.get(master).is_some_and(|s| s.ports.contains_key(port));
                if !found {
                    self.say(
                        &spec.image,
                        format!("{key}: ready names port {port:?} of {master:?}, which is not there"),
                    );
                }
            }
            Ready::Completed => {}
        }
    }
}
