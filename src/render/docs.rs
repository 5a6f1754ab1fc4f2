//! The documentation's tables and diagram.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use crate::topology::{LabFile, Protocol, Topology};

pub(super) const HEAD: &str =
    "<!-- Rendered from lab.toml by `./lab render`; a test holds it against drift. -->\n\n";

pub(super) fn cell(text: &str) -> String {
    text.replace('|', "\\|").replace('\n', " ").replace('\t', "\\t")
}

pub(super) fn ports(topology: &Topology) -> String {
    let mut page = format!(
        "{HEAD}# Ports\n\nHost ports are on 127.0.0.1 only. Each row is a test (`cargo test --test spec port::`): a host port must answer its\nprotocol on the host, an inside-only port must answer inside its container, and nothing else may be published.\n\n| service | port on the host | port inside | speaks | what for |\n|---|---|---|---|---|\n"
    );
    for service in &topology.services {
        for port in &service.ports {
            let speaks = match port.protocol {
                Protocol::Kafka => "Kafka",
                Protocol::Http => "HTTP",
                Protocol::Tcp => "TCP",
            };
            let host = port.documented.map_or("inside only".to_owned(), |p| p.to_string());
            let _ = writeln!(
                page,
                "| `{}` | {host} | {} | {speaks} | {} |",
                service.name,
                port.container,
                cell(&port.about)
            );
        }
    }
    page
}

pub(super) fn flows(file: &LabFile) -> String {
    let mut page = format!(
        "{HEAD}# Flows\n\nOne row, one test (`cargo test --test spec flow::ID` or `fault::ID`). A fault breaks something and undoes it.\n\n| id | path | proves |\n|---|---|---|\n"
    );
    for flow in &file.flows {
        let path: Vec<_> = flow.path.iter().map(|s| s.get_ref().as_str()).collect();
        let kind = if flow.fault { " (fault)" } else { "" };
        let _ = writeln!(
            page,
            "| `{}`{kind} | {} | {} |",
            flow.id.get_ref(),
            cell(&path.join(" → ")),
            cell(&flow.proves)
        );
    }
    page
}

pub(super) fn commands(file: &LabFile, topology: &Topology) -> String {
    let mut page = format!(
        "{HEAD}# Commands\n\nEvery command line that the seed documents, as it is run here and what it must print. Each row is a test\n(`cargo test --test spec command::`). Where the seed's own line has no place here, the last column says why.\n\n| the seed says | here | must print | why it differs |\n|---|---|---|---|\n"
    );
    for command in &file.commands {
        let run = topology.fill(command.run.get_ref()).unwrap_or_else(|_| command.run.get_ref().clone());
        let seed = command.seed.as_ref().map_or("the same".to_owned(), |s| format!("`{}`", cell(s)));
        let _ = writeln!(
            page,
            "| {seed} | `{}` | `{}` | {} |",
            cell(&run),
            cell(&command.prints),
            cell(command.why.as_deref().unwrap_or(""))
        );
    }
    page
}

pub(super) fn images(file: &LabFile, digests: &BTreeMap<String, String>) -> String {
    let mut page = format!(
        "{HEAD}# Images\n\nEvery version and every substitute: what the seed asks for, what runs here, and why.\n\n| image | the seed says | we run | upstream, by digest | local recipe | why |\n|---|---|---|---|---|---|\n"
    );
    for (name, image) in &file.images {
        let upstream = image.upstream.as_ref().map_or("none".to_owned(), |reference| {
            let digest = digests.get(reference).map_or("not pinned: never run", String::as_str);
            format!("`{reference}` `{digest}`")
        });
        let recipe = image.recipe.as_ref().map_or("none: upstream only".to_owned(), |r| {
            format!("[{0}](../compose/images/{0}/Dockerfile)", r.get_ref())
        });
        let mut why = cell(&image.why);
        if let Some(substitute) = &image.substitute {
            let _ = write!(why, ". **Substitute**: {}", cell(substitute));
        }
        let _ = writeln!(
            page,
            "| `{name}` | {} | {} | {upstream} | {recipe} | {why} |",
            cell(&image.seed),
            cell(&image.version)
        );
    }
    page.push_str(
        "\n## Add-ons\n\nMounted read-only, the same for either source.\n\n| add-on | from | mounted at | why |\n|---|---|---|---|\n",
    );
    for (name, addon) in &file.addons {
        let from = match (&addon.files, &addon.recipe) {
            (Some(files), _) => format!("`{files}`"),
            (None, Some(recipe)) => format!("recipe `{}`", recipe.get_ref()),
            (None, None) => String::new(),
        };
        let _ = writeln!(page, "| `{name}` | {from} | `{}` | {} |", addon.mount, cell(&addon.why));
    }
    page
}

/// Who reads metrics.
const READER: &str = "prometheus";

pub(super) fn diagram(file: &LabFile, topology: &Topology) -> String {
    let mut page = format!(
        "{HEAD}# Who talks to whom\n\nA solid arrow: named in the other's settings. A dotted one: must be ready before. A thick one: its metrics are read.\n\n```mermaid\nflowchart LR\n"
    );
    let id = |name: &str| name.replace('-', "_");
    let mut groups: Vec<&str> = Vec::new();
    for service in &topology.services {
        if !groups.contains(&service.group.as_str()) {
            groups.push(&service.group);
        }
    }
    for group in &groups {
        let members = topology.services.iter().filter(|s| s.group == *group);
        let hosts: Vec<String> = members
            .clone()
            .flat_map(|s| s.ports.iter().filter_map(|p| p.documented))
            .map(|p| p.to_string())
            .collect();
        let count = members.count();
        let times = if count > 1 { format!(" ×{count}") } else { String::new() };
        let ports = if hosts.is_empty() { String::new() } else { format!("<br/>{}", hosts.join(", ")) };
        let _ = writeln!(page, "  {}[\"{group}{times}{ports}\"]", id(group));
    }
    let group_of = |name: &str| topology.service(name).map(|s| s.group.as_str());
    let mut drawn = Vec::new();
    for group in &groups {
        let Some(service) = topology.services.iter().find(|s| s.group == *group) else { continue };
        let settings: Vec<&str> =
            service.environment.values().chain(&service.command).map(String::as_str).collect();
        for other in &groups {
            let named = file.members_of(other).iter().any(|m| {
                settings.iter().any(|s| {
                    s.split(|c: char| !c.is_ascii_alphanumeric() && c != '-' && c != '_').any(|w| w == m)
                })
            });
            let needed = service.needs.iter().any(|n| group_of(n) == Some(other));
            let arrow = match (named, needed) {
                _ if other == group => continue,
                (true, _) => "-->",
                (false, true) => "-.->",
                _ => continue,
            };
            drawn.push(format!("  {} {arrow} {}\n", id(group), id(other)));
        }
    }
    if groups.contains(&READER) {
        let read = groups
            .iter()
            .filter(|g| topology.services.iter().any(|s| s.group == **g && !s.metrics.is_empty()));
        drawn.extend(read.filter(|g| **g != READER).map(|g| format!("  {READER} ==> {}\n", id(g))));
    }
    page.extend(drawn);
    page.push_str("```\n");
    page
}
