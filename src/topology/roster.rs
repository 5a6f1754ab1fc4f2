//! Who is in a lab: its services by name, who plays which role, and which host ports it documents.

use std::collections::BTreeSet;

use super::file::{Lab, LabFile, Member, Provided, ServiceSpec};
use super::rows::Topic;
use super::{Command, Fault, Flow};

/// A lab of the definition.
pub(super) struct Roster<'a> {
    pub(super) file: &'a LabFile,
    pub(super) name: &'a str,
    pub(super) lab: &'a Lab,
    /// In the order of the lab's list.
    pub(super) entries: Vec<Entry<'a>>,
    /// Services of the lab that do not run: there is no image for them, or a part was asked for.
    absent: BTreeSet<&'a str>,
}

/// One service of a lab.
#[derive(Clone, Copy)]
pub(super) struct Entry<'a> {
    /// The table that it comes from.
    pub(super) group: &'a str,
    pub(super) spec: &'a ServiceSpec,
    /// Which member of the table it is, where the table is a group.
    pub(super) member: Option<&'a Member>,
    /// Unique in the lab.
    pub(super) name: &'a str,
}

impl<'a> Roster<'a> {
    /// The lab `name`; tables that do not exist are left out, which the check says.
    pub(super) fn of(file: &'a LabFile, name: &'a str, lab: &'a Lab) -> Self {
        let tables = lab.services.iter().filter_map(|key| file.services.get_key_value(key.get_ref()));
        let entries = tables.flat_map(|(group, spec)| {
            let one = move |(name, member)| Entry { group, spec, member, name };
            spec.services(group).into_iter().map(one)
        });
        Self { file, name, lab, entries: entries.collect(), absent: BTreeSet::new() }
    }

    /// The same lab, of which only the services run that `keep` takes.
    pub(super) fn running(mut self, keep: impl Fn(&Entry<'a>) -> bool) -> Self {
        self.absent = self.entries.iter().filter(|e| !keep(e)).map(|e| e.name).collect();
        self
    }

    pub(super) fn runs(&self, name: &str) -> bool {
        !self.absent.contains(name) && self.service(name).is_some()
    }

    pub(super) fn service(&self, name: &str) -> Option<&Entry<'a>> {
        self.entries.iter().find(|e| e.name == name)
    }

    /// Services of a role, or else by their own or their table's name.
    pub(super) fn meant(&self, name: &str) -> Vec<&Entry<'a>> {
        let players: Vec<_> = self.players(name).map(|(entry, _)| entry).collect();
        if players.is_empty() {
            self.entries.iter().filter(|e| e.name == name || e.group == name).collect()
        } else {
            players
        }
    }

    /// Who plays a role, and by which ports.
    pub(super) fn players(&self, role: &str) -> impl Iterator<Item = (&Entry<'a>, &'a Provided)> {
        self.entries.iter().filter_map(move |e| Some((e, e.spec.provides.get(role)?)))
    }

    pub(super) fn roles(&self) -> BTreeSet<&'a str> {
        self.entries.iter().flat_map(|e| e.spec.provides.keys().map(String::as_str)).collect()
    }

    /// The documented host port: the lab's own, or the member's, or the table's, which may give way to another service.
    pub(super) fn host_port(&self, entry: &Entry<'a>, port: &str) -> Option<&'a toml::Spanned<u16>> {
        let here = self.lab.host.get(&format!("{}.{port}", entry.name));
        let of_member = || entry.member.and_then(|m| m.host.get(port));
        let of_table = || {
            let spec = entry.spec.ports.get(port)?;
            let aside = spec.gives_way.as_ref().filter(|aside| self.runs(aside.to.get_ref()));
            aside.map(|aside| &aside.host).or(spec.host.as_ref())
        };
        here.or_else(of_member).or_else(of_table)
    }

    /// Services that are ready before this one starts.
    pub(super) fn waits_for(&self, entry: &Entry<'a>) -> Vec<&Entry<'a>> {
        let spec = entry.spec;
        let mut found: Vec<&Entry<'a>> = Vec::new();
        let mut add = |other: &Entry<'a>| {
            if !found.iter().any(|f| f.name == other.name)
                && let Some(other) = self.service(other.name)
            {
                found.push(other);
            }
        };
        for name in spec.needs.iter().chain(&spec.after).chain(&spec.upstream_needs) {
            self.meant(name.get_ref()).into_iter().for_each(&mut add);
        }
        if spec.after_probes {
            let asked = |e: &&Entry<'a>| e.spec.probe.is_some();
            let waits = |e: &&Entry<'a>| e.name == entry.name || self.stands_behind(e, entry.name);
            self.entries.iter().filter(asked).filter(|e| !waits(e)).for_each(&mut add);
        }
        found
    }

    /// Services that can run without public images: their own image has a recipe, and so have those of all that they need.
    pub(super) fn buildable(&self) -> BTreeSet<&'a str> {
        let has_recipe = |e: &&Entry<'a>| {
            self.file.images.get(e.spec.image.get_ref()).is_some_and(|image| image.recipe.is_some())
        };
        let mut names: BTreeSet<&str> = self.entries.iter().filter(has_recipe).map(|e| e.name).collect();
        loop {
            let stands = |e: &&Entry<'a>| {
                let needs = e.spec.needs.iter().flat_map(|name| self.meant(name.get_ref()));
                names.contains(e.name) && needs.into_iter().all(|other| names.contains(other.name))
            };
            let left: BTreeSet<&str> = self.entries.iter().filter(stands).map(|e| e.name).collect();
            if left.len() == names.len() {
                return left;
            }
            names = left;
        }
    }

    /// Whether a service waits for another only where it runs from its public image.
    pub(super) fn waits_upstream_only(&self, entry: &Entry<'a>, other: &Entry<'a>) -> bool {
        let named = |names: &[toml::Spanned<String>]| {
            names.iter().flat_map(|n| self.meant(n.get_ref())).any(|e| e.name == other.name)
        };
        let spec = entry.spec;
        named(&spec.upstream_needs) && !named(&spec.needs) && !named(&spec.after)
    }

    /// Whether a service waits for `name`, itself or through others.
    fn stands_behind(&self, entry: &Entry<'a>, name: &str) -> bool {
        let mut open = vec![entry.name];
        let mut seen = BTreeSet::new();
        while let Some(next) = open.pop().and_then(|n| self.service(n)) {
            if !seen.insert(next.name) {
                continue;
            }
            let direct = next.spec.needs.iter().chain(&next.spec.after).chain(&next.spec.upstream_needs);
            for other in direct.flat_map(|n| self.meant(n.get_ref())) {
                if other.name == name {
                    return true;
                }
                open.push(other.name);
            }
        }
        false
    }

    pub(super) fn topics(&self) -> impl Iterator<Item = &'a Topic> {
        self.file.topics.iter().filter(|topic| self.has_topic(topic))
    }

    pub(super) fn has_topic(&self, topic: &Topic) -> bool {
        let chosen = |s: &str| self.lab.scenarios.iter().any(|o| o.get_ref() == s);
        topic.scenario.as_ref().is_none_or(|s| chosen(s.get_ref()))
    }

    pub(super) fn has_all<'n>(&self, names: impl IntoIterator<Item = &'n str>) -> bool {
        names.into_iter().all(|name| !self.meant(name).is_empty())
    }

    pub(super) fn has_flow(&self, flow: &Flow) -> bool {
        let topics: BTreeSet<&str> = self.topics().map(|t| t.name.get_ref().as_str()).collect();
        let fault = flow.fault.as_ref().map(|name| self.file.fault(name.get_ref()));
        self.has_all(flow.stations())
            && self.has_all(flow.breaks.iter().map(|b| b.get_ref().as_str()))
            && flow.topics.iter().all(|t| topics.contains(t.get_ref().as_str()))
            && fault.is_none_or(|fault| fault.is_some_and(|fault| self.has_fault(fault)))
    }

    pub(super) fn has_fault(&self, fault: &Fault) -> bool {
        let scenario = |step: &super::Step| match step {
            super::Step::Produce { scenario, .. } => {
                self.lab.scenarios.iter().any(|s| s.get_ref() == scenario)
            }
            _ => true,
        };
        self.has_all(fault.disturbs())
            && self.has_all(fault.undisturbed())
            && fault.steps.iter().all(scenario)
    }

    /// A command's stations are those of the tokens in its line.
    pub(super) fn has_command(&self, command: &Command) -> bool {
        let mut named = super::tokens::services_in(command.run.get_ref());
        named.extend(super::tokens::services_in(command.prints.get_ref()));
        let others = command.breaks.iter().chain(&command.needs).map(|s| s.get_ref().as_str());
        self.has_all(named.iter().map(String::as_str).chain(others))
    }
}
