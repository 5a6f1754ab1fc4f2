//! The other engines that people have: Debian 13's Docker, with containerd's image store, the same without root, and Podman. Each runs in
//! a privileged container beside the lab's own engine; the tests of the tiny lab, of bundles and of public images pass against each.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test that cannot go on has failed")]

mod support;

use std::process::{Command, Stdio};

use rstest::rstest;
use streamlab::engine::recipe_images;
use streamlab::probes::{Answer, eventually};
use support::{PRIVILEGED, docker, engine_with, root, text, well};

/// Images that those tests stand on.
const IMAGES: [&str; 3] = ["base", "streamlab", "docker-registry"];
/// Their test binaries, and what of their tests' names is left out: the real lab is not started here.
const SUITES: [&str; 4] = ["faults", "interruptions", "bundle", "upstream"];
/// Without root nothing can be paused unless systemd gives the user cgroups, and the registry of `upstream` is on another loopback.
/// `bundle` passes (2026-11-29), but finds nothing that it has not found with root.
const WITHOUT_ROOT: [&str; 1] = ["interruptions"];
const LEFT_OUT: &str = "real_lab";
/// The machine's own cgroups: an engine is told which part of them it is in.
const CGROUPS: [&str; 3] = ["--volume", "/sys/fs/cgroup:/sys/fs/cgroup", "--cgroupns=host"];
const SOCKET: &str = "unix:///run/engine/engine.sock";

/// A container in which an engine runs. It goes with this, and with it all that the engine had.
struct Inner(String);

impl Drop for Inner {
    fn drop(&mut self) {
        let _ = docker(&["rm", "--force", "--volumes", &self.0]);
    }
}

#[rstest]
#[case::docker_with_containerds_store("docker", &SUITES)]
#[case::docker_without_root("rootless", &WITHOUT_ROOT)]
#[case::podman("podman", &SUITES)]
#[tokio::test(flavor = "multi_thread")]
async fn the_tests_of_the_tiny_lab_of_bundles_and_of_public_images_pass(
    #[case] kind: &str,
    #[case] suites: &[&str],
) {
    let (project, engine) = engine_with(&["base", "docker-registry", "engine"]).await;
    assert!(support::run(&["images", "build", "streamlab"]).status.success());
    // All of them first: what is edited while the tests run is none of theirs.
    let binaries: Vec<_> = suites.iter().map(|suite| (suite, binary(suite))).collect();
    let images = recipe_images(&project, &engine.arch).unwrap();
    let reference = |name: &str| images.iter().find(|i| i.name == name).unwrap().reference.clone();
    let inner = Inner(format!("streamlab-engine-{kind}"));
    let _ = docker(&["rm", "--force", "--volumes", &inner.0]);
    // Each has a folder of its own for what its tests write: the two run at the same time.
    let checkout = format!("{0}:{0}:ro", root().display());
    let written = env!("CARGO_TARGET_TMPDIR");
    let run = ["run", "--detach", "--name", &inner.0, "--volume", &checkout, "--volume", written];
    well(docker(&[&run[..], &PRIVILEGED, &CGROUPS, &[&reference("engine"), kind]].concat()));
    let within = ["exec", "--env", &format!("DOCKER_HOST={SOCKET}"), "--workdir", root().to_str().unwrap()];
    let within = [&within[..], &["--interactive", &inner.0]].concat();
    let every = std::time::Duration::from_millis(200);
    let answers = eventually("the engine", std::time::Duration::from_secs(60), every, || async {
        let asked = docker(&[&within[..], &["docker", "version"]].concat());
        Ok(if asked.status.success() { Answer::Is(()) } else { Answer::NotYet(text(&asked)) })
    });
    if let Err(why) = answers.await {
        panic!("{why}\n{}", text(&docker(&["logs", &inner.0])));
    }
    let mut save = Command::new("docker")
        .arg("save")
        .args(IMAGES.map(reference))
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let saved = save.stdout.take().unwrap();
    well(Command::new("docker").args(&within).args(["docker", "load"]).stdin(saved).output().unwrap());
    assert!(save.wait().unwrap().success());
    let mut failed = Vec::new();
    for (suite, binary) in &binaries {
        let ran = docker(&[&within[..], &[binary, "--skip", LEFT_OUT]].concat());
        if !ran.status.success() {
            failed.push(format!("{suite} against {kind}:\n{}", text(&ran)));
        }
    }
    assert!(failed.is_empty(), "{}", failed.join("\n"));
}

/// Path of a test binary, by cargo.
fn binary(suite: &str) -> String {
    let arguments = ["test", "--no-run", "--message-format", "json", "--test", suite];
    let said = well(support::cargo(&arguments).output().unwrap());
    let of = |line: &str| -> Option<String> {
        let message: serde_json::Value = serde_json::from_str(line).ok()?;
        (message["target"]["name"] == suite).then(|| message["executable"].as_str().map(str::to_owned))?
    };
    said.lines().find_map(of).expect("a test binary")
}
