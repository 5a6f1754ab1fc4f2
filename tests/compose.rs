//! Compose, by the real docker compose: every rendered file is valid, and the lab that it brings up proves the same flows.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test that cannot go on has failed")]

mod support;

use std::process::{Command, Stdio};

use rstest::rstest;
use streamlab::engine::{Compose, free_offset, recipe_images};
use streamlab::topology::{Endpoints, Instance};
use support::{engine_with, root, text};

const INSTANCE: &str = "compose";

/// The files as people run them, beside `compose/.env` as `lab images env` prints it.
#[rstest]
#[case("local")]
#[case("upstream")]
#[tokio::test]
async fn a_rendered_file_is_valid(#[case] source: &str) {
    let (project, engine) = engine_with(&["docker-compose"]).await;
    let images = recipe_images(&project, &engine.arch).unwrap();
    let tool = images.iter().find(|i| i.name == "docker-compose").unwrap();
    for lab in project.file.labs.keys() {
        let file = root().join(format!("compose/{lab}.{source}.yml"));
        let with = |variables: &str| {
            let mut command = Command::new("docker");
            command.args(["run", "--rm", "--network", "none", "--env-file", "/dev/stdin", "--volume"]);
            command.arg(format!("{}:/project:ro", root().display())).arg(&tool.reference);
            command.args([
                "docker-compose",
                // Not what lies beside the file on this machine.
                "--env-file",
                "/dev/null",
                "--file",
                &format!("/project/compose/{lab}.{source}.yml"),
                "config",
            ]);
            let mut child =
                command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
            std::io::Write::write_all(&mut child.stdin.take().unwrap(), variables.as_bytes()).unwrap();
            child.wait_with_output().unwrap()
        };
        let variables = support::run(&["images", "env"]);
        let valid = with(&String::from_utf8(variables.stdout).unwrap());
        assert!(valid.status.success(), "{}: {}", file.display(), text(&valid));
        // What compose understood: every service, every published port on loopback only.
        let understood = text(&valid);
        let whole = project.topology(Some(lab), Instance::documented()).unwrap();
        let topology = if source == "local" { whole.buildable(&project.file) } else { whole };
        for service in &topology.services {
            assert!(understood.contains(&format!("container_name: {}", service.container)), "{understood}");
        }
        for (port, ..) in topology.host_ports() {
            assert!(understood.contains(&format!("published: \"{port}\"")), "{port}: {understood}");
        }
        assert_eq!(
            understood.matches("published:").count(),
            understood.matches("host_ip: 127.0.0.1").count()
        );
        // Without the variables it says what to run.
        let without = with("");
        assert!(
            !without.status.success() && text(&without).contains("./lab images env"),
            "{}",
            text(&without)
        );
    }
}

#[tokio::test]
async fn a_lab_that_compose_brings_up_proves_the_same_flows() {
    let (project, engine) = engine_with(&["docker-compose", "kafka", "spark", "schema-registry"]).await;
    // The own image holds the program under test.
    let own = support::run(&["images", "build", "streamlab"]);
    assert!(own.status.success(), "{}", text(&own));
    let offset = free_offset(&project, None, INSTANCE).unwrap();
    let whole = project.topology(None, Instance::new(INSTANCE, offset).unwrap()).unwrap();
    let topology = whole.buildable(&project.file);
    let compose = Compose::new(&project, &topology, &engine.arch).unwrap();
    let down = || compose.run(&["down", "--volumes", "--remove-orphans"]);
    down().await.unwrap();
    let up = compose.run(&["up", "--wait"]).await;
    let spec = up.map(|_| {
        let endpoints = tempfile::NamedTempFile::new().unwrap();
        serde_json::to_writer(&endpoints, &Endpoints::of(&topology)).unwrap();
        let mut cargo = Command::new(env!("CARGO"));
        // What this cargo has set for its tests would have build scripts run again, and half the crates built anew.
        for (name, _) in std::env::vars().filter(|(name, _)| name.starts_with("CARGO_")) {
            if !["CARGO_HOME", "CARGO_TARGET_DIR"].contains(&name.as_str()) {
                cargo.env_remove(name);
            }
        }
        cargo.args(["test", "--quiet", "--test", "spec", "flow::"]).current_dir(root());
        cargo.env("LAB_ATTACH", endpoints.path()).output().unwrap()
    });
    down().await.unwrap();
    let spec = spec.unwrap_or_else(|e| panic!("{e:#}"));
    assert!(spec.status.success(), "{}", text(&spec));
    assert!(text(&spec).contains("10 proven, 0 failed"), "{}", text(&spec));
}
