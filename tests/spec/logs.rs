//! After a pass the logs are read too: an ERROR that nobody expects fails the run.

use std::sync::Arc;

use anyhow::{Result, bail};

use crate::lab::Lab;
use crate::trial::{Chapter, Check, Kind, Trial};

pub(crate) fn trials(_: &Chapter<'_>) -> Vec<Trial> {
    vec![Trial {
        name: "logs::nothing-unexpected".to_owned(),
        what: "no service said ERROR between its start and the first fault, except what is expected by name"
            .to_owned(),
        kind: Kind::Scan,
        stations: Some(Vec::new()),
        engine: true,
        check: Check::plain(|lab| Box::pin(nothing_unexpected(lab))),
    }]
}

/// Lines that may say ERROR, each with the reason.
const EXPECTED: [(&str, &str); 4] = [
    (
        "controller event queue overloaded. Timed out heartbeat",
        "a machine that is short of CPU for a moment: the broker repeats its heartbeat, and the counts show that nothing was lost",
    ),
    ("-XX:+ExitOnOutOfMemoryError", "Elasticsearch says with which options it was started"),
    (
        "disabling udev device properties",
        "the node exporter sees the machine's disks, not what udev knows of them: the figures are there",
    ),
    (
        "Unexpected error handling request RequestHeader(apiKey=CONTROLLER_REGISTRATION",
        "the first leader of the quorum changed while a controller registered with it: it registers with the next one, and kraft-quorum shows all three",
    ),
];

async fn nothing_unexpected(lab: Arc<Lab>) -> Result<String> {
    let mut found = Vec::new();
    let mut lines = 0;
    for service in &lab.plan.services {
        for line in lab.engine()?.whole_log(&service.container).await?.lines() {
            lines += 1;
            let says_error = [
                " ERROR ",
                "[ERROR]",
                " FATAL ",
                "level=ERROR",
                "level=error",
                "panicked at",
                "OutOfMemoryError",
            ]
            .iter()
            .any(|s| line.contains(s))
                || line.starts_with("ERROR");
            if says_error && !EXPECTED.iter().any(|(text, _)| line.contains(text)) {
                found.push(format!("{}: {}", service.name, line.chars().take(220).collect::<String>()));
            }
        }
    }
    if lines == 0 {
        bail!("no service has logged anything: nothing would be proven");
    }
    if !found.is_empty() {
        let all = found.len();
        found.truncate(10);
        bail!("{all} unexpected lines:\n  {}", found.join("\n  "));
    }
    Ok(format!("{lines} lines of {} services", lab.plan.services.len()))
}
