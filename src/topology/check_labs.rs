//! What is wrong in one lab: what it chooses, who plays which role, its host ports, its topics, and every token in it.

use std::collections::{BTreeMap, BTreeSet};

use super::check::Check;
use super::file::Lab;
use super::plan::KAFKA;
use super::resolve::plan;
use super::roster::{Entry, Roster};
use super::{Instance, graph};

impl Check<'_> {
    pub(super) fn labs(&mut self) {
        self.known(&self.file.default_lab, "lab", self.file.labs.keys());
        for (name, lab) in &self.file.labs {
            let before_all = self.found.len();
            self.choices(lab);
            let roster = Roster::of(self.file, name, lab);
            self.names(&roster);
            self.roles(&roster);
            // What is missing or circular would be said again by everything that stands on it.
            let before = self.found.len();
            self.needs(&roster);
            self.circles(&roster);
            if self.found.len() == before {
                self.order(&roster);
            }
            self.host_ports(&roster);
            self.topics(&roster);
            self.plan(&roster);
            // Without public images ports may be others. Mistakes that are known already would be said twice.
            if self.found.len() == before_all {
                let buildable = roster.buildable();
                let roster = roster.running(|e| buildable.contains(e.name));
                self.host_ports(&roster);
                self.plan(&roster);
            }
        }
    }

    fn plan(&mut self, roster: &Roster<'_>) {
        let mut mistakes = Vec::new();
        plan(roster, Instance::documented(), &mut mistakes);
        for (span, message) in mistakes {
            self.say_at(span, message);
        }
    }

    fn choices(&mut self, lab: &Lab) {
        let mut chosen = BTreeSet::new();
        for service in &lab.services {
            self.known(service, "service table", self.file.services.keys());
            if !chosen.insert(service.get_ref()) {
                self.say(service, format!("{:?} is chosen twice", service.get_ref()));
            }
        }
        for scenario in &lab.scenarios {
            let known = self.file.topics.iter().filter_map(|t| Some(t.scenario.as_ref()?.get_ref()));
            self.known(scenario, "scenario", known);
        }
    }

    /// Within a lab a name is one service's, and a group's name is not also a service's.
    fn names(&mut self, roster: &Roster<'_>) {
        let mut seen: BTreeMap<&str, &str> = BTreeMap::new();
        let groups = roster.entries.iter().filter(|e| e.member.is_some());
        seen.extend(groups.map(|e| (e.group, e.group)));
        for entry in &roster.entries {
            if let Some(other) = seen.insert(entry.name, entry.group) {
                let at = entry.member.map(|m| &m.name).or(entry.spec.name.as_ref());
                let message = format!(
                    "{:?} is already a service or group of lab {}, by the table {other}",
                    entry.name, roster.name
                );
                self.say(at.unwrap_or(&entry.spec.image), message);
            }
        }
    }

    /// A role is played by one table, so that everybody means the same.
    fn roles(&mut self, roster: &Roster<'_>) {
        for role in roster.roles() {
            let mut tables: Vec<&Entry<'_>> = Vec::new();
            for (entry, _) in roster.players(role) {
                if !tables.iter().any(|t| t.group == entry.group) {
                    tables.push(entry);
                }
            }
            if let [first, second, ..] = tables.as_slice() {
                let message =
                    format!("in lab {} both {} and {} play {role}", roster.name, first.group, second.group);
                self.say(&second.spec.provides[role].port, message);
            }
            let named = roster.entries.iter().find(|e| e.name == role || e.group == role);
            if let Some(other) = named.filter(|e| !e.spec.provides.contains_key(role)) {
                let message = format!(
                    "in lab {} {role} is a role and also the service {}, which does not play it",
                    roster.name, other.name
                );
                self.say(&other.spec.image, message);
            }
        }
    }

    fn needs(&mut self, roster: &Roster<'_>) {
        for chosen in &roster.lab.services {
            let Some(spec) = self.file.services.get(chosen.get_ref()) else { continue };
            for need in spec.needs.iter().chain(&spec.beside) {
                let (name, need) = (chosen.get_ref(), need.get_ref());
                if self.exists(need) && roster.meant(need).is_empty() {
                    self.say(
                        chosen,
                        format!("{name} needs {need}, which lab {} does not choose", roster.name),
                    );
                }
            }
        }
    }

    fn circles(&mut self, roster: &Roster<'_>) {
        let next = |name: &str| -> Vec<String> {
            let entry = roster.service(name);
            entry.map(|e| roster.waits_for(e)).unwrap_or_default().iter().map(|e| e.name.to_owned()).collect()
        };
        if let Some(cycle) = graph::find_cycle(roster.entries.iter().map(|e| e.name), next) {
            let first = cycle.split(' ').next().and_then(|name| roster.service(name));
            let at = first.and_then(|e| e.spec.needs.first().or(e.spec.after.first())).map(|n| n.span());
            self.say_at(at, format!("services wait for each other in a circle: {cycle}"));
        }
    }

    /// People read a lab from top to bottom, and `restart --fresh` starts services in that order.
    fn order(&mut self, roster: &Roster<'_>) {
        let position = |name: &str| roster.entries.iter().position(|e| e.name == name);
        for entry in &roster.entries {
            for other in roster.waits_for(entry) {
                if position(other.name) > position(entry.name)
                    && let Some(at) = roster.lab.services.iter().find(|s| s.get_ref() == entry.group)
                {
                    let message = format!("{} waits for {}: put it after that one", entry.group, other.group);
                    self.say(at, message);
                }
            }
        }
    }

    /// Within a lab a host port belongs to one service.
    fn host_ports(&mut self, roster: &Roster<'_>) {
        let mut owners: BTreeMap<u16, &str> = BTreeMap::new();
        for entry in roster.entries.iter().filter(|e| roster.runs(e.name)) {
            for port in entry.spec.ports.keys() {
                let Some(number) = roster.host_port(entry, port) else { continue };
                if let Some(other) = owners.insert(*number.get_ref(), entry.name) {
                    let (number_, lab) = (number.get_ref(), roster.name);
                    self.say(
                        number,
                        format!("host port {number_} of {} is already {other}'s in lab {lab}", entry.name),
                    );
                }
            }
        }
        for (key, at) in &roster.lab.host {
            let found = key.rsplit_once('.').and_then(|(service, port)| {
                roster.service(service)?.spec.ports.contains_key(port).then_some(())
            });
            if found.is_none() {
                self.say(at, format!("lab {} has no port {key:?}: write SERVICE.PORT", roster.name));
            }
        }
        for replaced in &roster.lab.replaced {
            if let Some(owner) = owners.get(replaced.port.get_ref()) {
                let message = format!("port {} is {owner}'s, so it is not replaced", replaced.port.get_ref());
                self.say(&replaced.port, message);
            }
        }
    }

    fn topics(&mut self, roster: &Roster<'_>) {
        let brokers = roster.players(KAFKA).count();
        for topic in roster.topics() {
            let name = topic.name.get_ref();
            if brokers == 0 {
                // A topic of every lab is made where there is somebody to make it.
                if topic.scenario.is_some() {
                    self.say(&topic.name, format!("topic {name:?}: lab {} has no brokers", roster.name));
                }
                continue;
            }
            if let Some(replicas) = &topic.replicas
                && usize::try_from(*replicas.get_ref()).is_ok_and(|r| r > brokers)
            {
                let message = format!(
                    "topic {name:?} wants {} replicas, lab {} has {brokers} broker(s)",
                    replicas.get_ref(),
                    roster.name
                );
                self.say(replicas, message);
            }
        }
    }
}
