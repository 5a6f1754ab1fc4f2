//! The documentation's tables of ports, flows, commands and images.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use crate::topology::{LabFile, Plan, Port, Protocol, Source, TopologyError};

pub(super) const HEAD: &str =
    "<!-- Rendered from lab.toml by `./lab render`; a test fails if it is out of date. -->\n\n";

pub(super) fn cell(text: &str) -> String {
    text.replace('|', "\\|").replace('\n', " ").replace('\t', "\\t")
}

/// The columns of a table that has one for each lab.
pub(super) fn lab_columns(labs: &[Plan]) -> (String, String) {
    let names: Vec<_> = labs.iter().map(|l| format!("`{}`", l.lab)).collect();
    (names.join(" | "), vec!["---"; labs.len()].join("|"))
}

/// One cell for each lab.
pub(super) fn per_lab<'a>(labs: &'a [Plan], of: impl Fn(&'a Plan) -> String) -> String {
    labs.iter().map(of).collect::<Vec<_>>().join(" | ")
}

/// Every service name of every lab once, in the order of the labs.
pub(super) fn service_names(labs: &[Plan]) -> Vec<&str> {
    let mut names: Vec<&str> = Vec::new();
    for service in labs.iter().flat_map(|l| &l.services) {
        if !names.contains(&service.name.as_str()) {
            names.push(&service.name);
        }
    }
    names
}

fn port_of<'a>(lab: &'a Plan, service: &str, port: &str, inside: u16) -> Option<&'a Port> {
    lab.service(service)?.ports.iter().find(|p| p.name == port && p.container == inside)
}

/// # Errors
/// As [`Source::part_of`].
pub(super) fn ports(file: &LabFile, labs: &[Plan]) -> Result<String, TopologyError> {
    let without_public: Vec<Plan> =
        labs.iter().map(|lab| Source::Local.part_of(file, lab)).collect::<Result<_, _>>()?;
    let (names, dashes) = lab_columns(labs);
    let mut page = format!(
        "{HEAD}# Ports\n\nThe columns of the labs say the port on the host, on 127.0.0.1 only; `inside` is one that is not published, `-` a lab without it. Each\nrow is a test for each lab (`cargo test --test spec port::`): a host port must answer its protocol on the host, an inside-only port\nmust answer inside its container, and nothing else may be published.\n\n| service | port inside | {names} | speaks | what for |\n|---|---|{dashes}|---|---|\n"
    );
    for name in service_names(labs) {
        // A service of one name may have other ports in another lab.
        let mut rows: Vec<(&str, u16)> = Vec::new();
        for port in labs.iter().filter_map(|l| l.service(name)).flat_map(|s| &s.ports) {
            if !rows.contains(&(&port.name, port.container)) {
                rows.push((&port.name, port.container));
            }
        }
        for (port, inside) in rows {
            let of = |lab| port_of(lab, name, port, inside);
            let Some(spec) = labs.iter().find_map(of) else { continue };
            let speaks = match spec.protocol {
                Protocol::Kafka => "Kafka",
                Protocol::Http => "HTTP",
                Protocol::Tcp => "TCP",
            };
            let cells = labs.iter().zip(&without_public).map(|(whole, local)| match (of(whole), of(local)) {
                (None, _) => "-".to_owned(),
                (Some(whole), local) => match (whole.documented, local.and_then(|p| p.documented)) {
                    (None, _) => "inside".to_owned(),
                    (Some(beside), Some(alone)) if beside != alone => {
                        format!("{alone}, or {beside} with public images")
                    }
                    (Some(port), _) => port.to_string(),
                },
            });
            let cells = cells.collect::<Vec<_>>().join(" | ");
            let _ = writeln!(page, "| `{name}` | {inside} | {cells} | {speaks} | {} |", cell(&spec.about));
        }
    }
    let replaced = file.labs.iter().flat_map(|(name, lab)| lab.replaced.iter().map(move |r| (name, r)));
    let mut replaced = replaced.peekable();
    if replaced.peek().is_some() {
        page.push_str("\n## Not needed here\n\nA port of the seed that nothing has: a test shows that no service listens there.\n\n| lab | the seed's service | its port | what does its work |\n|---|---|---|---|\n");
        for (lab, row) in replaced {
            let _ = writeln!(
                page,
                "| `{lab}` | {} | {} | {} |",
                cell(&row.service),
                row.port.get_ref(),
                cell(&row.why)
            );
        }
    }
    Ok(page)
}

pub(super) fn flows(file: &LabFile) -> String {
    let mut page = format!(
        "{HEAD}# Flows\n\nOne row, one test (`cargo test --test spec flow::ID` or `fault::ID`). A fault breaks something and undoes it. A flow belongs to\nevery lab that has all its stations, and is proven in the smallest of them.\n\n| id | labs | path | proves |\n|---|---|---|---|\n"
    );
    for flow in &file.flows {
        let path: Vec<_> = flow.path.iter().map(|s| s.get_ref().as_str()).collect();
        let kind = if flow.disturbs() { " (fault)" } else { "" };
        let labs: Vec<_> = file.labs_with(flow).iter().map(|l| format!("`{l}`")).collect();
        let _ = writeln!(
            page,
            "| `{}`{kind} | {} | {} | {} |",
            flow.id.get_ref(),
            labs.join(", "),
            cell(&path.join(" → ")),
            cell(&flow.proves)
        );
    }
    page
}

pub(super) fn commands(file: &LabFile, labs: &[Plan]) -> String {
    let mut page = format!(
        "{HEAD}# Commands\n\nEvery command line that the seed documents, as it is run here and what it must print. Each row is a test\n(`cargo test --test spec command::`). Where the seed's own line has no place here, the last column says why.\n\n| the seed says | here | must print | why it differs |\n|---|---|---|---|\n"
    );
    for command in &file.commands {
        let id = command.id.get_ref();
        let has = |lab: &&Plan| file.commands_of(&lab.lab).iter().any(|c| c.id.get_ref() == id);
        let Some(lab) = labs.iter().find(has) else { continue };
        let filled = |text: &str| lab.fill(file, text).unwrap_or_else(|_| text.to_owned());
        let seed = command.seed.as_ref().map_or("the same".to_owned(), |s| format!("`{}`", cell(s)));
        let _ = writeln!(
            page,
            "| {seed} | `{}` | `{}` | {} |",
            cell(&filled(command.run.get_ref())),
            cell(&filled(command.prints.get_ref())),
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
