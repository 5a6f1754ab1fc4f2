//! After a pass the logs are read too: an ERROR that nobody expects fails the run.

use std::sync::Arc;

use anyhow::{Result, bail};
use futures::TryStreamExt;

use crate::lab::Lab;

/// Lines that may say ERROR, each with the reason.
const EXPECTED: [(&str, &str); 3] = [
    (
        "controller event queue overloaded. Timed out heartbeat",
        "a machine that is short of CPU for a moment: the broker repeats its heartbeat, and the counts show that nothing was lost",
    ),
    (
        "disabling udev device properties",
        "the node exporter sees the machine's disks, not what udev knows of them: the figures are there",
    ),
    (
        "Unexpected error handling request RequestHeader(apiKey=CONTROLLER_REGISTRATION",
        "the first leader of the quorum changed while a controller registered with it: it registers with the next one, and kraft-quorum shows all three",
    ),
];

pub(crate) async fn nothing_unexpected(lab: Arc<Lab>) -> Result<String> {
    let mut found = Vec::new();
    let mut lines = 0;
    for service in &lab.topology.services {
        let log: Vec<String> = lab.engine()?.log(&service.container, None, false).try_collect().await?;
        for line in log.concat().lines() {
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
    Ok(format!("{lines} lines of {} services", lab.topology.services.len()))
}
