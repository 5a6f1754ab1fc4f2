//! Works the plan out: a pure function of the definition, a lab and an instance.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Value, json};
use toml::Spanned;

use super::file::{LabFile, Ready, ServiceSpec};
use super::plan::{
    AddonMount, FileMount, KAFKA, LogLimit, Plan, Player, Port, Restart, Service, Stop, TopicPlan, Volume,
    Wait,
};
use super::roster::{Entry, Roster};
use super::rows::MOST_REPLICAS;
use super::targets::{Probe, Target};
use super::tokens::{Lists, Scope};
use super::view::LabView;
use super::{Instance, TopologyError, health};

const LOG: LogLimit = LogLimit { megabytes: 20, files: 2 };
/// Seconds that a service has between SIGTERM and SIGKILL; one that is stopped last has nobody left to hand over to.
const GRACE: u32 = 2;
const GRACE_OF_LAST: u32 = 1;

/// One mistake: where it stands in the definition's text, where one place is to blame, and what it is.
pub(super) type Mistake = (Option<std::ops::Range<usize>>, String);

impl LabFile {
    /// The plan of a lab in an instance.
    ///
    /// # Errors
    /// An unknown lab, or an offset that moves a port past 65535 or onto a documented port of another service.
    pub fn plan(&self, lab: &str, instance: Instance) -> Result<Plan, TopologyError> {
        self.plan_of(lab, instance, |_| true)
    }

    /// The plan of a part of a lab: the services that `keep` takes, by documented name.
    pub(super) fn plan_of(
        &self,
        lab: &str,
        instance: Instance,
        keep: impl Fn(&Entry<'_>) -> bool,
    ) -> Result<Plan, TopologyError> {
        let Some((name, chosen)) = self.labs.get_key_value(lab) else {
            let known: Vec<_> = self.labs.keys().map(String::as_str).collect();
            return Err(TopologyError::whole(format!(
                "no lab named {lab:?}; there are: {}",
                known.join(", ")
            )));
        };
        let roster = Roster::of(self, name, chosen).running(keep);
        let mut mistakes = Vec::new();
        let plan = plan(&roster, instance, &mut mistakes);
        match mistakes.into_iter().next() {
            Some((_, message)) => Err(TopologyError::whole(message)),
            None => Ok(plan),
        }
    }
}

/// The plan of the services that run. What is wrong goes into `mistakes`; the plan is of use only without any.
pub(super) fn plan(roster: &Roster<'_>, instance: Instance, mistakes: &mut Vec<Mistake>) -> Plan {
    let kept: Vec<&Entry<'_>> = roster.entries.iter().filter(|e| roster.runs(e.name)).collect();
    let names: BTreeSet<&str> = kept.iter().map(|e| e.name).collect();
    let ports: Vec<Vec<Port>> = kept.iter().map(|e| ports(roster, e, &instance, mistakes)).collect();
    let topics = topics(roster);
    let mut lists = Lists::default();
    let targets = kept.iter().flat_map(|e| Target::of(e, &instance)).map(|t| t.file_sd());
    lists.targets = Value::from_iter(targets).to_string();
    let probes = kept.iter().filter_map(|e| Probe::of(e, &instance)).map(|p| p.file_sd());
    lists.probes = Value::from_iter(probes).to_string();
    lists.topics = json!(topics).to_string();
    lists.lab = json!(LabView::of(roster, &instance, &kept, &ports)).to_string();
    let mut services = Vec::new();
    for (entry, ports) in kept.iter().zip(ports) {
        let scope = Scope { roster, instance: &instance, own: Some(entry), lists: &lists };
        services.push(service(&scope, entry, ports, &names, mistakes));
    }
    let mut roles = BTreeMap::new();
    for role in roster.roles() {
        let of_role = roster.players(role).filter(|(e, _)| names.contains(e.name)).map(|(e, provided)| {
            let port = provided.host.as_ref().unwrap_or(&provided.port);
            let documented = roster.host_port(e, port.get_ref()).map(|p| *p.get_ref());
            Player {
                service: e.name.to_owned(),
                inside: provided.port.get_ref().clone(),
                host: documented.and_then(|d| instance.host_port(d)),
            }
        });
        let players: Vec<Player> = of_role.collect();
        if !players.is_empty() {
            roles.insert(role.to_owned(), players);
        }
    }
    let plan = Plan {
        lab: roster.name.to_owned(),
        network: instance.network(&roster.lab.network),
        scenarios: roster.lab.scenarios.iter().map(|s| s.get_ref().clone()).collect(),
        instance,
        services,
        roles,
        topics,
    };
    mistakes.extend(plan.moved_onto_another());
    plan
}

fn ports(
    roster: &Roster<'_>,
    entry: &Entry<'_>,
    instance: &Instance,
    mistakes: &mut Vec<Mistake>,
) -> Vec<Port> {
    let mut ports: Vec<Port> = Vec::new();
    for (name, spec) in &entry.spec.ports {
        let documented = roster.host_port(entry, name);
        let host = documented.and_then(|d| instance.host_port(*d.get_ref()));
        if let Some(documented) = documented.filter(|_| host.is_none()) {
            let (port, offset) = (documented.get_ref(), instance.offset());
            let message = format!("{}: port {port} moved by {offset} is past 65535", entry.name);
            mistakes.push((Some(documented.span()), message));
        }
        ports.push(Port {
            name: name.clone(),
            container: spec.port,
            documented: documented.map(|d| *d.get_ref()),
            host,
            protocol: spec.protocol,
            path: spec.path.clone(),
            about: spec.about.clone(),
        });
    }
    ports.sort_by_key(|p| (p.host.is_none(), p.documented, p.container));
    ports
}

fn service(
    scope: &Scope<'_>,
    entry: &Entry<'_>,
    ports: Vec<Port>,
    names: &BTreeSet<&str>,
    mistakes: &mut Vec<Mistake>,
) -> Service {
    let (roster, instance, spec) = (scope.roster, scope.instance, entry.spec);
    let mut fill = |text: &Spanned<String>, what: &str| {
        scope.fill(text.get_ref()).unwrap_or_else(|why| {
            mistakes.push((Some(text.span()), format!("{}: {what}: {why}", entry.name)));
            String::new()
        })
    };
    let command = spec.command.iter().map(|c| fill(c, "its command")).collect();
    let environment = spec.environment.iter().map(|(name, text)| (name.clone(), fill(text, name))).collect();
    let waits = roster.waits_for(entry).into_iter().filter(|e| names.contains(e.name));
    let waits = waits.map(|e| Wait {
        service: e.name.to_owned(),
        completes: e.spec.ready == Ready::Completed,
        upstream_only: roster.waits_upstream_only(entry, e),
    });
    let beside: BTreeSet<&str> =
        spec.beside.iter().flat_map(|b| roster.meant(b.get_ref())).map(|e| e.name).collect();
    let last = spec.stops_last;
    Service {
        name: entry.name.to_owned(),
        group: entry.group.to_owned(),
        container: instance.container(entry.name),
        about: spec.about.clone(),
        image: spec.image.get_ref().clone(),
        command,
        working_dir: spec.working_dir.clone(),
        environment,
        volumes: volumes(roster, entry, instance),
        addons: addons(roster.file, spec),
        files: files(roster.file, spec),
        memory: parse_bytes(spec.memory.get_ref()).unwrap_or_default(),
        waits_for: waits.collect(),
        beside: beside.into_iter().map(str::to_owned).collect(),
        health: health::of(roster, entry, instance, &ports),
        ready: spec.ready.clone(),
        log: LOG,
        restart: if spec.ready == Ready::Completed { Restart::No } else { Restart::OnFailure },
        stop: Stop { grace: if last { GRACE_OF_LAST } else { GRACE }, last },
        metrics: Target::of(entry, instance),
        probe: Probe::of(entry, instance),
        engine_socket: spec.engine_socket,
        ports,
    }
}

fn volumes(roster: &Roster<'_>, entry: &Entry<'_>, instance: &Instance) -> Vec<Volume> {
    let elsewhere = |name: &str| {
        let others = roster.entries.iter().filter(|e| e.name != entry.name);
        others.flat_map(|e| &e.spec.volumes).any(|v| v.shared && !v.optional && v.name == name)
    };
    let there = entry.spec.volumes.iter().filter(|v| !v.optional || elsewhere(&v.name));
    let volume = |v: &super::VolumeSpec| Volume {
        name: instance.volume((!v.shared).then_some(entry.name), &v.name),
        path: v.path.clone(),
        read_only: v.read_only,
    };
    there.map(volume).collect()
}

fn addons(file: &LabFile, spec: &ServiceSpec) -> Vec<AddonMount> {
    let named = spec.addons.iter().filter_map(|a| file.addons.get_key_value(a.get_ref()));
    let of_recipes = named.filter(|(_, addon)| addon.recipe.is_some());
    of_recipes.map(|(name, addon)| AddonMount { name: name.clone(), path: addon.mount.clone() }).collect()
}

/// The service's own files, and those of its add-ons one by one, so that the folder they lie in keeps what the image has there.
fn files(file: &LabFile, spec: &ServiceSpec) -> Vec<FileMount> {
    let health = (health::SOURCE.to_owned(), health::PATH.to_owned());
    let own = spec.files.iter().map(|(source, path)| (source.clone(), path.clone()));
    let addons = spec.addons.iter().filter_map(|a| file.addons.get(a.get_ref()));
    let of_addons = addons.filter_map(|a| Some((a.files.as_ref()?, a))).flat_map(|(folder, addon)| {
        addon.names.iter().map(move |n| (format!("{folder}/{n}"), format!("{}/{n}", addon.mount)))
    });
    let all = std::iter::once(health).chain(own).chain(of_addons);
    all.map(|(source, path)| FileMount { source, path }).collect()
}

fn topics(roster: &Roster<'_>) -> Vec<TopicPlan> {
    let brokers = i32::try_from(roster.players(KAFKA).count()).unwrap_or(MOST_REPLICAS);
    let topic = |t: &super::Topic| TopicPlan {
        name: t.name.get_ref().clone(),
        partitions: t.partitions,
        replicas: t.replicas.as_ref().map_or(brokers.min(MOST_REPLICAS), |r| *r.get_ref()),
        config: t.config.clone(),
    };
    roster.topics().map(topic).collect()
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
