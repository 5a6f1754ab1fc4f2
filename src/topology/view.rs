//! The lab as its console is told: what there is, and where. The token `{lab}` is this as JSON.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use super::plan::{METRICS, Port};
use super::roster::{Entry, Roster};
use super::rows::{Fault, Flow, stations};
use super::{Instance, Protocol};

/// A lab for people who look at it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LabView {
    /// Name of the lab.
    pub lab: String,
    /// Name of the instance.
    pub instance: String,
    /// What it is about.
    pub scenarios: Vec<String>,
    /// Role → addresses in the lab's network, with commas.
    pub roles: BTreeMap<String, String>,
    /// Role → addresses on the host, with commas.
    pub host_roles: BTreeMap<String, String>,
    /// Services in the order of `lab.toml`.
    pub services: Vec<ServiceView>,
    /// Flow → what a passed test of it has shown; those that break nothing.
    pub flows: BTreeMap<String, String>,
    /// Where data go, from group to group.
    pub ways: Vec<WayView>,
    /// What can be broken.
    pub faults: Vec<FaultView>,
}

/// A way of data from one group of services to another.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct WayView {
    /// From which group.
    pub from: String,
    /// To which.
    pub to: String,
    /// The flows that go it.
    pub flows: BTreeSet<String>,
    /// Their topics.
    pub topics: BTreeSet<String>,
    /// One of both reads everybody's metrics.
    pub metrics: bool,
}

/// Something that can be broken.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FaultView {
    /// What people call it.
    pub name: String,
    /// One line.
    pub about: String,
    /// The services that it disturbs.
    pub disturbs: BTreeSet<String>,
    /// The alerts that it raises.
    pub alerts: BTreeSet<String>,
}

/// A service for people who look at the lab.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ServiceView {
    /// Documented name.
    pub name: String,
    /// The name of the table in `lab.toml` that it comes from, which may hold several alike.
    pub group: String,
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
            group: entry.group.to_owned(),
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
            scenarios: roster.lab.scenarios.iter().map(|scenario| scenario.get_ref().clone()).collect(),
            roles,
            host_roles,
            services: services.collect(),
            flows: flows(roster).map(|flow| (flow.id.get_ref().clone(), flow.proves.clone())).collect(),
            ways: ways(roster, entries),
            faults: faults(roster),
        }
    }
}

/// Those that only look at a lab.
fn flows<'a>(roster: &'a Roster<'_>) -> impl Iterator<Item = &'a Flow> {
    roster.file.flows.iter().filter(|flow| roster.has_flow(flow) && !flow.disturbs())
}

/// From each station of a flow to the next one that is another group. What a program on the host does with both is no way.
fn ways(roster: &Roster<'_>, entries: &[&Entry<'_>]) -> Vec<WayView> {
    let readers: BTreeSet<&str> = roster.players(METRICS).map(|(entry, _)| entry.group).collect();
    let groups = |text: &str| -> BTreeSet<&str> {
        let meant = stations(text).flat_map(|name| roster.meant(name));
        meant
            .filter(|entry| entries.iter().any(|kept| kept.name == entry.name))
            .map(|entry| entry.group)
            .collect()
    };
    let mut ways: BTreeMap<(String, String), WayView> = BTreeMap::new();
    for flow in flows(roster) {
        let path: Vec<BTreeSet<&str>> = flow.path.iter().map(|text| groups(text.get_ref())).collect();
        let pairs = path
            .windows(2)
            .flat_map(|pair| pair[0].iter().flat_map(move |from| pair[1].iter().map(move |to| (*from, *to))));
        for (from, to) in pairs.filter(|(from, to)| from != to) {
            let way = ways.entry((from.to_owned(), to.to_owned())).or_insert_with(|| WayView {
                from: from.to_owned(),
                to: to.to_owned(),
                flows: BTreeSet::new(),
                topics: BTreeSet::new(),
                metrics: readers.contains(from) || readers.contains(to),
            });
            way.flows.insert(flow.id.get_ref().clone());
            way.topics.extend(flow.topics.iter().map(|topic| topic.get_ref().clone()));
        }
    }
    ways.into_values().collect()
}

fn faults(roster: &Roster<'_>) -> Vec<FaultView> {
    let there = roster.file.faults.iter().filter(|fault| roster.has_fault(fault));
    let view = |fault: &Fault| {
        let name = fault.name.get_ref().clone();
        let raised = roster
            .file
            .alerts
            .iter()
            .filter(|alert| alert.fault.as_ref().is_some_and(|f| *f.get_ref() == name));
        let disturbed = fault.disturbs().flat_map(|name| roster.meant(name));
        FaultView {
            about: fault.about.clone(),
            disturbs: disturbed.map(|entry| entry.name.to_owned()).collect(),
            alerts: raised.map(|alert| alert.name.get_ref().clone()).collect(),
            name,
        }
    };
    there.map(view).collect()
}

fn page(port: &Port) -> Option<(String, String)> {
    let host = port.host?;
    let address = match port.protocol {
        Protocol::Http => format!("http://localhost:{host}{}", port.path.as_deref().unwrap_or("/")),
        _ => format!("localhost:{host}"),
    };
    Some((address, port.about.clone()))
}
