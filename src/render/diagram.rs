//! The diagram of each lab: who talks to whom.

use std::fmt::Write as _;

use super::docs::HEAD;
use crate::topology::{LabFile, Plan, Service};

/// Who reads metrics.
const READER: &str = "prometheus";

/// One diagram for each lab that differs from those before it.
pub(super) fn page(file: &LabFile, labs: &[Plan]) -> String {
    let mut page = format!(
        "{HEAD}# Who talks to whom\n\nA solid arrow: named in the other's settings. A dotted one: must be ready before. A thick one: its metrics are read.\n"
    );
    let mut drawn: Vec<(String, Vec<&str>)> = Vec::new();
    for lab in labs {
        let diagram = diagram(lab);
        match drawn.iter_mut().find(|(other, _)| *other == diagram) {
            Some((_, names)) => names.push(&lab.lab),
            None => drawn.push((diagram, vec![&lab.lab])),
        }
    }
    for (diagram, names) in drawn {
        let about = names.first().and_then(|n| file.labs.get(*n)).map_or("", |lab| lab.about.as_str());
        let _ = write!(page, "\n## {}\n\n{about}.\n\n{diagram}", names.join(", "));
    }
    page
}

fn diagram(plan: &Plan) -> String {
    let mut text = "```mermaid\nflowchart LR\n".to_owned();
    let id = |name: &str| name.replace('-', "_");
    let mut groups: Vec<&str> = Vec::new();
    for service in &plan.services {
        if !groups.contains(&service.group.as_str()) {
            groups.push(&service.group);
        }
    }
    for group in &groups {
        let hosts: Vec<String> = members(plan, group)
            .flat_map(|s| s.ports.iter().filter_map(|p| p.documented))
            .map(|p| p.to_string())
            .collect();
        let own: Vec<&str> = members(plan, group).map(|s| s.name.as_str()).collect();
        let label = match own.as_slice() {
            [only] => (*only).to_owned(),
            many => format!("{group} ×{}", many.len()),
        };
        let ports = if hosts.is_empty() { String::new() } else { format!("<br/>{}", hosts.join(", ")) };
        let _ = writeln!(text, "  {}[\"{label}{ports}\"]", id(group));
    }
    for group in &groups {
        let Some(service) = members(plan, group).next() else { continue };
        let settings: Vec<&str> =
            service.environment.values().chain(&service.command).map(String::as_str).collect();
        for other in groups.iter().filter(|o| *o != group) {
            let named = members(plan, other).any(|m| settings.iter().any(|s| names(s, &m.name)));
            let waited = service.waits_for.iter().any(|w| members(plan, other).any(|s| s.name == w.service));
            let arrow = match (named, waited) {
                (true, _) => "-->",
                (false, true) => "-.->",
                _ => continue,
            };
            // What Prometheus waits for only so that no probe fails is not drawn.
            if *group != READER || named {
                let _ = writeln!(text, "  {} {arrow} {}", id(group), id(other));
            }
        }
    }
    if groups.contains(&READER) {
        for group in
            groups.iter().filter(|g| **g != READER && members(plan, g).any(|s| !s.metrics.is_empty()))
        {
            let _ = writeln!(text, "  {READER} ==> {}", id(group));
        }
    }
    text.push_str("```\n");
    text
}

fn members<'p>(plan: &'p Plan, group: &'p str) -> impl Iterator<Item = &'p Service> {
    plan.services.iter().filter(move |s| s.group == group)
}

/// A setting names a service by its address, or as a word between commas and slashes; lists of targets are not settings.
fn names(setting: &str, service: &str) -> bool {
    !setting.starts_with('[')
        && setting
            .split(|c: char| !c.is_ascii_alphanumeric() && c != '-' && c != '_')
            .any(|word| word == service)
}
