//! The pages about what is watched: targets and probes, alerts, faults, the dashboards' queries.

use std::fmt::Write as _;

use anyhow::{Context, Result};
use url::Url;

use super::docs::{HEAD, cell, lab_columns, per_lab};
use crate::dashboards::Dashboard;
use crate::topology::{LabFile, Plan, SEARCH, Step};

pub(super) fn metrics(labs: &[Plan]) -> String {
    let (names, dashes) = lab_columns(labs);
    let mut page = format!(
        "{HEAD}# Metrics\n\nWhat Prometheus reads every 5 seconds: each row is a test for each lab (`cargo test --test spec target::JOB::INSTANCE`). The labels `job`\nand `instance` are the first two columns; the columns of the labs say the address in the network. A new service is a row by its own\n`metrics` in `topology/`.\n\n| job | instance | {names} | path |\n|---|---|{dashes}|---|\n"
    );
    let mut rows: Vec<(String, String, String)> = Vec::new();
    for target in labs.iter().flat_map(Plan::targets) {
        let row = (target.job, target.instance, target.path);
        if !rows.contains(&row) {
            rows.push(row);
        }
    }
    for (job, instance, path) in rows {
        let cells = per_lab(labs, |lab| {
            let found =
                lab.targets().into_iter().find(|t| t.job == job && t.instance == instance && t.path == path);
            found.map(|t| t.address).unwrap_or_default()
        });
        let _ = writeln!(page, "| `{job}` | `{instance}` | {cells} | {path} |");
    }
    let _ = write!(
        page,
        "\n## Probes\n\nAsked from outside by the blackbox exporter whether they answer: `probe_success{{instance=\"…\"}}`. The columns say the URL in the network.\n\n| instance | {names} |\n|---|{dashes}|\n"
    );
    let mut instances: Vec<String> = Vec::new();
    for probe in labs.iter().flat_map(Plan::probes) {
        if !instances.contains(&probe.instance) {
            instances.push(probe.instance);
        }
    }
    for instance in instances {
        let cells = per_lab(labs, |lab| {
            lab.probes().into_iter().find(|p| p.instance == instance).map(|p| p.url).unwrap_or_default()
        });
        let _ = writeln!(page, "| `{instance}` | {cells} |");
    }
    page
}

pub(super) fn alerts(file: &LabFile) -> String {
    let mut page = format!(
        "{HEAD}# Alerts and faults\n\nEach alert with a fault is a test (`cargo test --test spec alert::NAME`): the fault is done, the alert becomes pending and firing in\nPrometheus, arrives at Alertmanager and at the receiver, the fault is undone, and the notice that it is over arrives. Which alert\nspeaks for which others is in [alertmanager.yml](../monitoring/alertmanager/alertmanager.yml).\n\n| alert | fires when | try it | runbook |\n|---|---|---|---|\n"
    );
    for alert in &file.alerts {
        let name = alert.name.get_ref();
        let tried = match (&alert.fault, &alert.why) {
            (Some(fault), _) => format!("`./lab fault {}`", fault.get_ref()),
            (None, why) => cell(why.as_deref().unwrap_or_default()),
        };
        let about = cell(&alert.about);
        let _ = writeln!(
            page,
            "| `{name}` | {about} | {tried} | [runbook](runbooks.md#{}) |",
            name.to_lowercase()
        );
    }
    page.push_str(
        "\n## Faults\n\n`./lab fault NAME` breaks, `./lab fault undo` puts everything right and waits until it is (alerts end up to half a minute later), `./lab alerts` says what fires meanwhile.\n\n| fault | what it is | what is done | fires, and is held back |\n|---|---|---|---|\n",
    );
    for fault in &file.faults {
        let steps: Vec<String> = fault.steps.iter().map(Step::to_string).collect();
        let held: Vec<String> = fault.holds_back.iter().map(|a| format!("`{}`", a.get_ref())).collect();
        let _ = writeln!(
            page,
            "| `{}` | {} | {} | {} |",
            fault.name.get_ref(),
            cell(&fault.about),
            cell(&steps.join("; ")),
            held.join(", ")
        );
    }
    page
}

/// Each panel with an address of Prometheus's own page that shows the same: for a lab without Grafana.
pub(super) fn queries(labs: &[Plan], dashboards: &[Dashboard]) -> Result<String> {
    let mut page = format!(
        "{HEAD}# The dashboards' queries\n\nEvery panel of [the dashboards](dashboards.md), for a lab without Grafana: the link shows the last 15 minutes on Prometheus's own\npage (instance `default`), with every value of the dashboard's variables. Under it is what is asked. What is asked of Elasticsearch is a\nlink to its newest documents as JSON.\n"
    );
    if dashboards.is_empty() {
        return Ok(page);
    }
    let port_of = |service: &str| {
        let found = labs.iter().find_map(|plan| plan.service(service));
        found.and_then(|service| service.ports.iter().find_map(|p| p.documented))
    };
    let port = port_of("prometheus").context("dashboards, and no prometheus on the host")?;
    let search_port = labs.iter().find_map(|plan| plan.meant(SEARCH).first().map(|s| s.name.clone()));
    let search_port = search_port.and_then(|name| port_of(&name));
    for dashboard in dashboards {
        let _ = writeln!(page, "\n## {}\n", dashboard.title);
        let all: Vec<_> = dashboard.variables.iter().map(|v| (v.name.clone(), ".+".to_owned())).collect();
        for panel in dashboard.panels() {
            for search in &panel.searches {
                let port =
                    search_port.context("dashboards of Elasticsearch, and no lab has it on the host")?;
                let asked = [("q", search.query.as_str()), ("sort", "@timestamp:desc"), ("size", "20")];
                let base = format!("http://localhost:{port}/{}/_search?pretty", search.indices);
                let link = Url::parse_with_params(&base, asked)?;
                let _ = writeln!(page, "- [{}]({link})\n  ```lucene\n  {}\n  ```", panel.title, search.query);
            }
            if panel.queries.is_empty() {
                continue;
            }
            let queries: Vec<String> = panel.queries.iter().map(|q| q.filled(&all)).collect();
            let asked = queries.iter().enumerate().flat_map(|(n, query)| {
                [
                    (format!("g{n}.expr"), query.as_str()),
                    (format!("g{n}.tab"), "0"),
                    (format!("g{n}.range_input"), "15m"),
                ]
            });
            let link = Url::parse_with_params(&format!("http://localhost:{port}/graph"), asked)?;
            // The page knows a space by its number only.
            let link = link.as_str().replace('+', "%20");
            let _ = writeln!(page, "- [{}]({link})", panel.title);
            for query in queries {
                let _ = writeln!(page, "  ```promql\n  {query}\n  ```");
            }
        }
    }
    Ok(page)
}
