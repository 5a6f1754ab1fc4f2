//! The pages that show the labs side by side: what each has, and its topics.

use std::fmt::Write as _;

use super::docs::{HEAD, cell, lab_columns, per_lab, service_names};
use crate::topology::{LabFile, Plan};

pub(super) fn page(file: &LabFile, labs: &[Plan]) -> String {
    let mut page = format!(
        "{HEAD}# Labs\n\n`./lab up --lab NAME` starts one; without a name it is the first. A lab is a table in `lab.toml`: which services, and what differs\nbetween labs.\n\n| lab | what it is | network | scenarios |\n|---|---|---|---|\n"
    );
    for lab in labs {
        let about = file.labs.get(&lab.lab).map_or("", |l| l.about.as_str());
        let scenarios = lab.scenarios.join(", ");
        let _ = writeln!(page, "| `{}` | {} | `{}` | {scenarios} |", lab.lab, cell(about), lab.network);
    }
    let (names, dashes) = lab_columns(labs);
    let _ = write!(
        page,
        "\n## Services\n\nA dot: the lab has it.\n\n| service | {names} | what it does |\n|---|{dashes}|---|\n"
    );
    for name in service_names(labs) {
        let Some(service) = labs.iter().find_map(|l| l.service(name)) else { continue };
        let cells = per_lab(labs, |lab| if lab.service(name).is_some() { "●" } else { "" }.to_owned());
        let _ = writeln!(page, "| `{name}` | {cells} | {} |", cell(&service.about));
    }
    let _ = write!(
        page,
        "\n## Roles\n\nServices name roles, and a lab decides who plays them.\n\n| role | {names} |\n|---|{dashes}|\n"
    );
    let mut roles: Vec<&String> = labs.iter().flat_map(|l| l.roles.keys()).collect();
    roles.sort();
    roles.dedup();
    for role in roles {
        let cells = per_lab(labs, |lab| {
            let players = lab.roles.get(role).map(Vec::as_slice).unwrap_or_default();
            players.iter().map(|p| format!("`{}`", p.service)).collect::<Vec<_>>().join(", ")
        });
        let _ = writeln!(page, "| `{role}` | {cells} |");
    }
    page
}

pub(super) fn topics(file: &LabFile, labs: &[Plan]) -> String {
    let (names, dashes) = lab_columns(labs);
    let mut page = format!(
        "{HEAD}# Topics\n\nMade by `lab-setup`. The columns of the labs say partitions × replicas: as many replicas as there are brokers, at most 3, where a topic\ndoes not say how many. Each row is a test for each lab (`cargo test --test spec topic::`).\n\n| topic | {names} | settings | what is in it |\n|---|{dashes}|---|---|\n"
    );
    for topic in &file.topics {
        let name = topic.name.get_ref();
        let cells = per_lab(labs, |lab| {
            let found = lab.topics.iter().find(|t| &t.name == name);
            found.map_or(String::new(), |t| format!("{} × {}", t.partitions, t.replicas))
        });
        let config: Vec<_> = topic.config.iter().map(|(key, value)| format!("`{key}={value}`")).collect();
        let _ = writeln!(page, "| `{name}` | {cells} | {} | {} |", config.join(" "), cell(&topic.about));
    }
    page
}
