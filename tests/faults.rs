//! Faults on a lab of three tiny services: each does what it says, is undone wholly, and bears a second fault, a service that
//! was started by hand, and the death of the program that did it.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test that cannot go on has failed")]

mod support;

use std::process::{Command, Output, Stdio};
use std::time::Duration;

use streamlab::engine::Engine;
use streamlab::probes::{Answer, eventually};
use support::service::PATIENCE;
use support::{engine_with, lab, text};

const TINY: &str = "tests/tiny/lab.toml";

/// A tiny lab of its own; removed with all it has when the test ends.
struct Tiny {
    instance: &'static str,
}

impl Tiny {
    async fn up(instance: &'static str, offset: &str) -> Self {
        engine_with(&["base"]).await;
        let tiny = Self { instance };
        let output = tiny.lab(&["up", "--detach", "--port-offset", offset]);
        assert!(output.status.success(), "{}", text(&output));
        tiny
    }

    fn command(&self, arguments: &[&str]) -> Command {
        lab(&[&["--file", TINY, "--instance", self.instance], arguments].concat())
    }

    fn lab(&self, arguments: &[&str]) -> Output {
        self.command(arguments).output().unwrap()
    }

    /// Runs a command that must end well; what it said.
    fn said(&self, arguments: &[&str]) -> String {
        let output = self.lab(arguments);
        assert!(output.status.success(), "{arguments:?}: {}", text(&output));
        text(&output)
    }

    /// Runs a command that must fail; what it said.
    fn refused(&self, arguments: &[&str]) -> String {
        let output = self.lab(arguments);
        assert!(!output.status.success(), "{arguments:?}: {}", text(&output));
        let said = text(&output);
        assert!(!said.contains("panicked") && said.lines().count() <= 24, "{said}");
        said
    }

    fn container(&self, service: &str) -> String {
        format!("{}-{service}", self.instance)
    }

    async fn state(&self, service: &str) -> String {
        let state = Engine::connect().await.unwrap().instance(self.instance).await.unwrap();
        state.of(service).map_or("not there".to_owned(), |c| c.state.clone())
    }

    /// Whether one service reaches another's port.
    fn reaches(&self, from: &str, to: &str) -> bool {
        let script = format!("exec 3<>/dev/tcp/{}/7000", self.container(to));
        let container = self.container(from);
        let mut command = Command::new("docker");
        command.args(["exec", &container, "timeout", "3", "bash", "-c", &script]).stderr(Stdio::null());
        command.status().unwrap().success()
    }
}

impl Drop for Tiny {
    fn drop(&mut self) {
        let output = self.lab(&["down", "--volumes"]);
        if !std::thread::panicking() {
            assert!(output.status.success(), "{}", text(&output));
        }
    }
}

#[tokio::test]
async fn each_kind_does_what_it_says_and_is_undone() {
    let tiny = Tiny::up("fault-a", "2100").await;
    assert!(tiny.said(&["fault", "undo"]).contains("nothing is broken on purpose"));

    let said = tiny.said(&["fault", "alpha-killed"]);
    assert!(said.contains("done: kill alpha") && said.contains("fault undo --instance fault-a"), "{said}");
    assert_eq!(tiny.state("alpha").await, "exited");
    assert!(tiny.said(&["fault"]).contains("alpha-killed   (in force"));
    assert!(tiny.said(&["status"]).contains("broken on purpose: alpha-killed"));
    assert!(
        tiny.said(&["up", "--detach"]).contains("broken on purpose"),
        "up mends nothing behind anybody's back"
    );
    assert!(tiny.refused(&["fault", "alpha-killed"]).contains("in force already"));
    assert_eq!(tiny.said(&["fault", "undo"]).trim(), "put right: alpha-killed");
    assert_eq!(tiny.state("alpha").await, "running");

    tiny.said(&["fault", "beta-paused"]);
    assert_eq!(tiny.state("beta").await, "paused");
    tiny.said(&["fault", "undo"]);
    assert_eq!(tiny.state("beta").await, "running");

    tiny.said(&["fault", "gamma-cut-from-alpha"]);
    assert!(!tiny.reaches("gamma", "alpha") && tiny.reaches("gamma", "beta"));
    tiny.said(&["fault", "undo"]);
    assert!(tiny.reaches("gamma", "alpha"));

    tiny.said(&["fault", "gamma-cut"]);
    assert!(!tiny.reaches("gamma", "alpha") && !tiny.reaches("gamma", "beta"));
    tiny.said(&["fault", "undo"]);
    assert!(tiny.reaches("gamma", "alpha") && tiny.reaches("gamma", "beta"));

    tiny.said(&["fault", "gamma-slow"]);
    assert!(tiny.reaches("gamma", "alpha"), "slow is not cut");
    tiny.said(&["fault", "undo"]);
    assert!(tiny.said(&["fault"]).lines().all(|l| !l.contains("in force")));
}

#[tokio::test]
async fn a_second_fault_is_refused_before_it_touches_anything_and_both_are_undone() {
    let tiny = Tiny::up("fault-b", "2200").await;
    tiny.said(&["fault", "alpha-killed"]);
    let said = tiny.refused(&["fault", "alpha-and-beta-killed"]);
    assert!(said.contains("touches alpha, which is exited, not running"), "{said}");
    assert_eq!(tiny.state("beta").await, "running", "nothing of the refused fault was done");
    assert_eq!(tiny.state("alpha").await, "exited", "nothing of the first was undone");
    tiny.said(&["fault", "gamma-cut"]);
    let said = tiny.said(&["fault", "undo"]);
    assert!(said.contains("alpha-killed") && said.contains("gamma-cut"), "{said}");
    assert_eq!(tiny.state("alpha").await, "running");
    assert!(tiny.reaches("gamma", "alpha"));
    // Started by hand in between: there is nothing left to undo, and it is no error.
    tiny.said(&["fault", "gamma-cut"]);
    let said = tiny.said(&["restart", "gamma"]);
    assert!(said.contains("broken on purpose: gamma-cut   (./lab fault undo --instance fault-b)"), "{said}");
    tiny.said(&["fault", "undo"]);
    assert!(tiny.refused(&["fault", "delta-killed"]).contains("no fault named \"delta-killed\"; there are:"));
}

#[tokio::test]
async fn of_two_at_once_one_is_done_and_down_takes_what_is_broken() {
    let tiny = Tiny::up("fault-d", "2800").await;
    // Each wants alpha as it is.
    let names = ["alpha-killed", "alpha-and-beta-killed"];
    let at_once = names.map(|name| {
        tiny.command(&["fault", name]).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
    });
    let ended = at_once.map(|child| child.wait_with_output().unwrap());
    let known = tiny.said(&["fault"]);
    for (name, output) in names.iter().zip(&ended) {
        let in_force = known.contains(&format!("{name}   (in force: ./lab fault undo --instance fault-d)"));
        assert_eq!(output.status.success(), in_force, "{name}: {}\n{known}", text(output));
        // The other one had the instance, or alpha, first.
        let why = ["another", "touches alpha, which is exited, not running"];
        assert!(in_force || why.iter().any(|why| text(output).contains(why)), "{}", text(output));
    }
    assert_eq!(ended.iter().filter(|output| output.status.success()).count(), 1, "{known}");
    tiny.said(&["down", "--volumes"]);
    let left = Engine::connect().await.unwrap().instance("fault-d").await.unwrap();
    assert!(left.is_down() && left.volumes.is_empty() && left.faults.is_empty(), "left behind: {left:#?}");
}

#[tokio::test]
async fn a_fault_outlives_the_program_that_did_it() {
    let tiny = Tiny::up("fault-c", "2300").await;
    // Killed at once, and later and later: before, while and after the step's container is there.
    for milliseconds in [50, 150, 300, 450, 600, 900] {
        let mut child = tiny
            .command(&["fault", "gamma-cut"])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let patience = std::time::Duration::from_millis(milliseconds);
        let _ = tokio::time::timeout(patience, std::future::pending::<()>()).await;
        child.kill().unwrap();
        child.wait().unwrap();
        tiny.said(&["fault", "undo"]);
        assert!(tiny.reaches("gamma", "alpha"), "killed after {milliseconds} ms");
    }
    // Its container is gone: what to do is said, the rest is undone, and the fault stays known until it is.
    tiny.said(&["fault", "beta-paused"]);
    tiny.said(&["fault", "alpha-killed"]);
    let removed = Command::new("docker").args(["rm", "-f", &tiny.container("alpha")]).output().unwrap();
    assert!(removed.status.success());
    let said = tiny.refused(&["fault", "undo"]);
    assert!(
        said.contains("alpha: its container is not there; ./lab restart alpha --instance fault-c"),
        "{said}"
    );
    assert_eq!(tiny.state("beta").await, "running");
    tiny.said(&["restart", "alpha"]);
    tiny.said(&["fault", "undo"]);
    assert!(tiny.said(&["fault"]).lines().all(|l| !l.contains("in force")));
}

/// tini is the container's first process: what is killed inside is the service alone, as when it dies of itself.
fn die(container: &str) {
    let killed = Command::new("docker").args(["exec", container, "sh", "-c", "kill -9 -1"]).output().unwrap();
    println!("{}", text(&killed));
}

#[tokio::test]
async fn a_service_that_dies_by_itself_comes_back_so_many_times_and_one_that_was_killed_stays_dead() {
    let tiny = Tiny::up("fault-r", "2700").await;
    for time in 1..=4 {
        die(&tiny.container("alpha"));
        let expected =
            if time <= 3 { format!("started again, {time} of 3") } else { "exit code 137".to_owned() };
        let said = || async {
            let status = tiny.said(&["status"]);
            Ok(if status.contains(&expected) { Answer::Is(()) } else { Answer::NotYet(status) })
        };
        eventually("it is said", PATIENCE, Duration::from_millis(200), said).await.unwrap();
    }
    assert_eq!(tiny.state("alpha").await, "exited");
    tiny.said(&["restart", "alpha"]);
    assert!(!tiny.said(&["status"]).contains("died by itself"));
    tiny.said(&["fault", "alpha-killed"]);
    assert_eq!(tiny.state("alpha").await, "exited", "a fault that killed it keeps it dead");
}
