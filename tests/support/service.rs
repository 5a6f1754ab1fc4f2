//! An own service as a process of its own on a loopback port, and what its pages say.

use std::collections::BTreeMap;
use std::io::{BufRead as _, BufReader, Read as _};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use streamlab::clients::http;
use streamlab::probes::{Answer, eventually};

/// A wait this long hangs.
pub(crate) const PATIENCE: Duration = Duration::from_secs(120);
/// What the engine grants between SIGTERM and SIGKILL where nothing else is said: a service that takes longer is cut off.
const GRACE: Duration = Duration::from_secs(10);

/// A running service; killed where a test leaves it behind.
pub(crate) struct Service {
    child: Child,
    /// `http://127.0.0.1:PORT`.
    pub(crate) url: String,
}

impl Drop for Service {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// `streamlab serve WHAT --listen LISTEN`.
pub(crate) fn command(what: &str, listen: &str, environment: &[(&str, &str)]) -> Command {
    let mut command = super::lab(&["serve", what, "--listen", listen]);
    command.envs(environment.iter().copied());
    command
}

impl Service {
    /// Starts it on any free port and waits until it listens.
    pub(crate) fn start(what: &str, environment: &[(&str, &str)]) -> Self {
        Self::run(command(what, "127.0.0.1:0", environment))
    }

    /// Starts a command that says where it listens.
    pub(crate) fn run(mut command: Command) -> Self {
        let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
        let mut out = BufReader::new(child.stdout.take().unwrap());
        let mut line = String::new();
        out.read_line(&mut line).unwrap();
        let address = line.trim().strip_prefix("listening on ").expect("it says where it listens").to_owned();
        // Read on, so that its log never waits for us.
        std::thread::spawn(move || out.read_to_end(&mut Vec::new()));
        Self { child, url: format!("http://{address}") }
    }

    /// GET: status and body.
    pub(crate) async fn get(&self, path: &str) -> (u16, String) {
        let answer = http().get(format!("{}{path}", self.url)).send().await.unwrap();
        (answer.status().as_u16(), answer.text().await.unwrap())
    }

    /// GET of JSON.
    pub(crate) async fn json(&self, path: &str) -> serde_json::Value {
        let (status, body) = self.get(path).await;
        assert_eq!(status, 200, "{path}: {body}");
        serde_json::from_str(&body).unwrap()
    }

    /// Every sample of /metrics: `name{labels}` → value.
    pub(crate) async fn samples(&self) -> BTreeMap<String, f64> {
        let answer = http().get(format!("{}/metrics", self.url)).send().await.unwrap();
        let kind = answer.headers()["content-type"].to_str().unwrap().to_owned();
        assert_eq!(kind, "application/openmetrics-text; version=1.0.0; charset=utf-8");
        let text = answer.text().await.unwrap();
        assert!(text.ends_with("# EOF\n"), "{text}");
        let samples = text.lines().filter(|l| !l.starts_with('#'));
        samples
            .map(|line| {
                let (name, value) = line.rsplit_once(' ').unwrap();
                (name.to_owned(), value.parse().unwrap_or_else(|_| panic!("{line}")))
            })
            .collect()
    }

    /// Waits until a sample has a value.
    pub(crate) async fn until(&self, sample: &str, value: f64) {
        eventually(sample, PATIENCE, Duration::from_millis(100), || async {
            let seen = self.samples().await.get(sample).copied();
            Ok(if seen == Some(value) { Answer::Is(()) } else { Answer::NotYet(format!("{seen:?}")) })
        })
        .await
        .unwrap();
    }

    /// Bytes of memory at its peak.
    pub(crate) fn peak_memory(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id())).unwrap();
        let line = status.lines().find_map(|l| l.strip_prefix("VmHWM:")).unwrap();
        line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() * 1024
    }

    /// Whether it still runs.
    pub(crate) fn runs(&mut self) -> bool {
        self.child.try_wait().unwrap().is_none()
    }

    /// SIGTERM: it ends with 0 before the engine would kill it.
    pub(crate) fn terminate(mut self) {
        let start = Instant::now();
        let id = self.child.id().to_string();
        assert!(Command::new("kill").args(["-TERM", &id]).status().unwrap().success());
        let status = self.child.wait().unwrap();
        let after = start.elapsed();
        assert!(status.success() && after < GRACE, "{status} after {after:?}");
    }
}
