//! The program `kubectl`: how it is run, and what its errors mean. It knows nothing of labs.

use std::process::{Output, Stdio};

use anyhow::{Context as _, Result, bail};
use serde_json::Value;
use tokio::io::AsyncWriteExt as _;
use tokio::process::Command;

/// A cluster that does not answer is said soon.
const TIMEOUT: &str = "--request-timeout=20s";

/// Of what it says when it fails, a screen is passed on: of an object that is refused it says the whole text.
const LONGEST: usize = 400;
const MOST: usize = 12;

/// The first 1.x that lets a StatefulSet count from another number than 0.
const OLDEST: u32 = 27;

/// kubectl with the cluster that it means.
#[derive(Debug, Clone)]
pub(super) struct Kubectl {
    /// The cluster's name in kubectl's settings.
    pub(super) context: String,
    /// The address of its API server.
    pub(super) server: String,
}

impl Kubectl {
    /// The cluster of `context`, or kubectl's current one; it answers.
    pub(super) async fn new(context: Option<&str>) -> Result<Self> {
        let view = output(&["config", "view", "--output", "json"], "").await?;
        let settings: Value = serde_json::from_str(&well(view)?).context("kubectl's settings are no JSON")?;
        let current = settings["current-context"].as_str().filter(|name| !name.is_empty());
        let Some(name) = context.or(current) else {
            bail!(
                "kubectl has no cluster: its settings name no current context.\n  Choose one: kubectl config get-contexts, then --context NAME"
            )
        };
        let named = |list: &str, name: &str| {
            let entries = settings[list].as_array().into_iter().flatten();
            entries.filter(|entry| entry["name"] == name).map(Clone::clone).next()
        };
        let Some(entry) = named("contexts", name) else {
            bail!("kubectl knows no context {name}.\n  Those that it knows: kubectl config get-contexts")
        };
        let cluster = entry["context"]["cluster"].as_str().unwrap_or_default();
        let server = named("clusters", cluster)
            .and_then(|cluster| cluster["cluster"]["server"].as_str().map(str::to_owned))
            .unwrap_or_else(|| "no address".to_owned());
        let kubectl = Self { context: name.to_owned(), server };
        let said = kubectl.run(&["get", "--raw", "/version"], "").await.with_context(|| {
            let asked = format!("the cluster {} ({}) does not answer", kubectl.context, kubectl.server);
            format!("{asked}\n  Ask it yourself: {} cluster-info\n ", kubectl.command())
        })?;
        let version: Value = serde_json::from_str(&said).context("the cluster's version is no JSON")?;
        // Some clouds write 27+.
        let minor = version["minor"].as_str().unwrap_or_default().trim_end_matches('+').parse::<u32>();
        if minor.is_ok_and(|minor| minor < OLDEST) && version["major"] == "1" {
            let (name, is) = (&kubectl.context, &version["gitVersion"]);
            bail!(
                "the cluster {name} is Kubernetes {is}; a lab's members are counted as they are from 1.{OLDEST} on"
            );
        }
        Ok(kubectl)
    }

    /// As a person types it.
    pub(super) fn command(&self) -> String {
        format!("kubectl --context {}", quoted(&self.context))
    }

    fn arguments<'a>(&'a self, arguments: &[&'a str]) -> Vec<&'a str> {
        [&["--context", &self.context, TIMEOUT], arguments].concat()
    }

    /// What it prints.
    ///
    /// # Errors
    /// Its own words.
    pub(super) async fn run(&self, arguments: &[&str], input: &str) -> Result<String> {
        well(output(&self.arguments(arguments), input).await?)
    }

    /// An object of the cluster; none where there is none of that name.
    pub(super) async fn find(&self, kind: &str, name: &str) -> Result<Option<Value>> {
        let said = self.run(&["get", kind, name, "--ignore-not-found", "--output", "json"], "").await?;
        if said.trim().is_empty() {
            return Ok(None);
        }
        serde_json::from_str(&said).map(Some).context("kubectl's answer is no JSON")
    }

    /// Whether it answers yes, where it says no by failing.
    pub(super) async fn says_yes(&self, arguments: &[&str]) -> Result<bool> {
        let said = output(&self.arguments(arguments), "").await?;
        let text = String::from_utf8_lossy(&said.stdout);
        match text.split_whitespace().next() {
            Some("yes") => Ok(true),
            Some("no") => Ok(false),
            _ => bail!("kubectl {}: {}", arguments.join(" "), String::from_utf8_lossy(&said.stderr).trim()),
        }
    }

    /// A way from this machine to a service, by a kubectl that ends when the answer is dropped.
    pub(super) fn forward(
        &self,
        namespace: &str,
        service: &str,
        ports: &[String],
    ) -> Result<tokio::process::Child> {
        let target = format!("service/{service}");
        let mut command = Command::new("kubectl");
        command
            .args(["--context", &self.context, "--namespace", namespace, "port-forward", &target])
            .args(ports);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped()).kill_on_drop(true);
        command.spawn().context("kubectl cannot be run")
    }
}

/// For a shell.
pub(crate) fn quoted(text: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_.:/@".contains(c);
    if text.chars().all(plain) { text.to_owned() } else { format!("'{}'", text.replace('\'', "'\\''")) }
}

async fn output(arguments: &[&str], input: &str) -> Result<Output> {
    let mut command = Command::new("kubectl");
    command.args(arguments).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let spawned = command.kill_on_drop(true).spawn();
    let missing = spawned.as_ref().is_err_and(|error| error.kind() == std::io::ErrorKind::NotFound);
    if missing {
        bail!(
            "kubectl is not on this machine.\n  nix develop has it; it is one program of Kubernetes' own releases."
        );
    }
    let mut child = spawned.context("kubectl cannot be run")?;
    let mut stdin = child.stdin.take().context("kubectl takes no input")?;
    let written = async move {
        // It may have ended before it read everything; then its own words say why.
        let _ = stdin.write_all(input.as_bytes()).await;
    };
    let (output, ()) = tokio::join!(child.wait_with_output(), written);
    output.context("kubectl cannot be run")
}

fn well(output: Output) -> Result<String> {
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    // The same line for each object, where a cluster is away.
    let mut lines: Vec<String> = Vec::new();
    for line in said.lines().map(str::trim).filter(|line| !line.is_empty()) {
        // Go's own log, which says the same before.
        let is_log = line.starts_with(['E', 'W', 'I'])
            && line.as_bytes().get(1..5).is_some_and(|d| d.iter().all(u8::is_ascii_digit));
        let line: String = line.chars().take(LONGEST).collect();
        if !is_log && !lines.contains(&line) && lines.len() < MOST {
            lines.push(line);
        }
    }
    if lines.is_empty() {
        bail!("kubectl ended with {}", output.status);
    }
    bail!("kubectl: {}", lines.join("\n  "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_with_spaces_is_one_word_for_a_shell() {
        assert_eq!(quoted("arn:aws:eks:eu/lab"), "arn:aws:eks:eu/lab");
        assert_eq!(quoted("my lab's"), "'my lab'\\''s'");
    }
}
