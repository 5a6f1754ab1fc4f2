//! The pages about what is watched: targets and probes, alerts, faults.

use std::fmt::Write as _;

use super::docs::{HEAD, cell};
use crate::topology::{LabFile, Step, Topology};

pub(super) fn metrics(topology: &Topology) -> String {
    let mut page = format!(
        "{HEAD}# Metrics\n\nWhat Prometheus reads every 5 seconds: each row is a test (`cargo test --test spec target::JOB::INSTANCE`). The labels `job` and\n`instance` are the first two columns. A new service is a row by its own `metrics` in `topology/`.\n\n| job | instance | address in the network | path |\n|---|---|---|---|\n"
    );
    for target in topology.targets() {
        let _ = writeln!(
            page,
            "| `{}` | `{}` | {} | {} |",
            target.job, target.instance, target.address, target.path
        );
    }
    page.push_str(
        "\n## Probes\n\nAsked from outside by the blackbox exporter whether they answer: `probe_success{instance=\"…\"}`.\n\n| instance | URL in the network |\n|---|---|\n",
    );
    for probe in topology.probes() {
        let _ = writeln!(page, "| `{}` | {} |", probe.instance, probe.url);
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
