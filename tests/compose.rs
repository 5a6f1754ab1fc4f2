//! Compose, by the real docker compose: every rendered file is valid, and the lab that it brings up proves the same flows.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test that cannot go on has failed")]

mod support;

use std::path::Path;
use std::process::{Command, Stdio};

use rstest::rstest;
use serde_json::Value;
use streamlab::engine::{Compose, free_offset, recipe_images};
use streamlab::topology::{Endpoints, Flow, Instance, Source};
use support::written::Written;
use support::{engine_with, root, text};

const INSTANCE: &str = "compose";

/// The files as people run them, beside `compose/.env` as `lab images env` prints it.
#[rstest]
#[case(Source::Local)]
#[case(Source::Upstream)]
#[tokio::test]
async fn a_rendered_file_is_valid(#[case] source: Source) {
    let (project, engine) = engine_with(&["docker-compose"]).await;
    let images = recipe_images(&project, &engine.arch).unwrap();
    let tool = images.iter().find(|i| i.name == "docker-compose").unwrap();
    for lab in project.file.labs.keys() {
        let path = format!("compose/{lab}.{}.yml", source.name());
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
                &format!("/project/{path}"),
                "config",
                "--format",
                "json",
            ]);
            let mut child =
                command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
            std::io::Write::write_all(&mut child.stdin.take().unwrap(), variables.as_bytes()).unwrap();
            child.wait_with_output().unwrap()
        };
        let variables = support::run(&["images", "env"]);
        let valid = with(&String::from_utf8(variables.stdout).unwrap());
        assert!(valid.status.success(), "{path}: {}", text(&valid));
        // What compose understood is the plan, field by field; beside it only what fills the volumes of add-ons.
        let understood: Value = serde_json::from_slice(&valid.stdout).unwrap();
        let whole = project.plan(Some(lab), Instance::documented()).unwrap();
        let plan = source.part_of(&project.file, &whole).unwrap();
        let network = understood["networks"]["default"]["name"].as_str().unwrap();
        let services = understood["services"].as_object().unwrap();
        let prefix = plan.instance.volume(None, "");
        let own = services.keys().filter(|name| !name.starts_with("addon-")).count();
        assert_eq!(own, plan.services.len(), "{path}");
        for service in &plan.services {
            let written = Written::by_compose(&services[&service.name], network, Path::new("/project"));
            let meant = Written::meant_in_order(&plan, service, |name| {
                name.strip_prefix(&prefix).unwrap_or(name).to_owned()
            });
            if let Some(difference) = written.difference(&meant) {
                panic!("{path}: {}: {difference}", service.name);
            }
        }
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
    let whole = project.plan(None, Instance::new(INSTANCE, offset).unwrap()).unwrap();
    let plan = whole.buildable(&project.file).unwrap();
    let compose = Compose::new(&project, &plan, &engine.arch).unwrap();
    compose.down(&engine).await.unwrap();
    let up = compose.run(&["up", "--wait"]).await;
    let spec = up.map(|_| {
        let endpoints = tempfile::NamedTempFile::new().unwrap();
        serde_json::to_writer(&endpoints, &Endpoints::of(&plan)).unwrap();
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
    compose.down(&engine).await.unwrap();
    let spec = spec.unwrap_or_else(|e| panic!("{e:#}"));
    assert!(spec.status.success(), "{}", text(&spec));
    // Flows that ask the endpoints alone, and that disturb nothing.
    let there = |flow: &&&Flow| flow.stations().all(|station| !plan.meant(station).is_empty());
    let flows = project.file.flows_of(&plan.lab);
    let proven = flows.iter().filter(|f| !f.engine && !f.disturbs()).filter(there).count();
    assert!(proven > 0 && text(&spec).contains(&format!("{proven} proven, 0 failed")), "{}", text(&spec));
}
