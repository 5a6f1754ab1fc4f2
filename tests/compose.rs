//! Compose, by the real docker compose: every rendered file is valid, and the lab that it brings up proves the same flows.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test that cannot go on has failed")]

mod support;

use std::collections::BTreeSet;
use std::net::TcpListener;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use rstest::rstest;
use serde_json::Value;
use streamlab::engine::recipe_images;
use streamlab::probes::{Answer, eventually};
use streamlab::topology::{DEFAULT_INSTANCE, Flow, Instance, Source};
use support::written::Written;
use support::{engine_with, root, text};

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

/// The commands of docs/compose.md, as they are printed: only the order is this test's, because the page explains where docker compose
/// comes from after it has used it.
#[tokio::test]
async fn the_printed_commands_bring_a_lab_up_that_proves_the_same_flows() {
    let (project, engine) = engine_with(&["docker-compose", "kafka", "spark", "schema-registry"]).await;
    let state = engine.instance(DEFAULT_INSTANCE).await.unwrap();
    assert!(state.is_down(), "a lab is up, and compose uses the same names: ./lab down");
    let whole = project.plan(None, Instance::documented()).unwrap();
    let plan = whole.buildable(&project.file).unwrap();
    let page = std::fs::read_to_string(root().join("docs/compose.md")).unwrap();
    let blocks: Vec<&str> =
        page.split("```sh\n").skip(1).map(|b| b.split("```").next().unwrap().trim()).collect();
    let [local, plugin, attach, public] = blocks[..] else { panic!("other blocks: {blocks:#?}") };
    let [images, up, down] = local.lines().collect::<Vec<_>>()[..] else { panic!("{local}") };
    // For public images the own ones are named one by one: those that such a lab takes from here.
    let named = public.split(" && ").next().unwrap().strip_prefix("./lab images build ").unwrap();
    let named: BTreeSet<String> = named.split(' ').map(str::to_owned).collect();
    assert_eq!(named, engine.recipes_of(&project, &whole, Source::Upstream));

    // The plug-in goes into a home of this test's own.
    let home = tempfile::tempdir().unwrap();
    let shell = |lines: &str| {
        let mut shell = support::sh(lines);
        for folder in ["CARGO_HOME", "RUSTUP_HOME"] {
            let usual =
                format!("{}/.{}", std::env::var("HOME").unwrap(), &folder[..folder.len() - 5].to_lowercase());
            shell.env(folder, std::env::var(folder).unwrap_or(usual));
        }
        let output = shell.env("HOME", home.path()).output().unwrap();
        (output.status.success(), text(&output))
    };
    for lines in [images, plugin, down] {
        let (well, said) = shell(lines);
        assert!(well, "{lines}\n{said}");
    }
    // Docker compose cannot wait until a connection that has one of these ports has ended, as the lab's own start does.
    let every = Duration::from_millis(500);
    eventually("free ports", Duration::from_secs(120), every, || async {
        let taken = plan.host_ports().find(|(port, ..)| TcpListener::bind(("127.0.0.1", *port)).is_err());
        Ok(taken.map_or(Answer::Is(()), |(port, ..)| Answer::NotYet(format!("{port} is taken"))))
    })
    .await
    .unwrap();
    let (is_up, said) = shell(up);
    let (proved, spec) = if is_up { shell(attach) } else { (false, said) };
    let (is_down, said) = shell(down);
    assert!(proved, "{spec}");
    assert!(is_down, "{down}\n{said}");
    // Flows that ask the endpoints alone, and that disturb nothing.
    let there = |flow: &&&Flow| flow.stations().all(|station| !plan.meant(station).is_empty());
    let flows = project.file.flows_of(&plan.lab);
    let proven = flows.iter().filter(|f| !f.engine && !f.disturbs()).filter(there).count();
    assert!(proven > 0 && spec.contains(&format!("{proven} proven, 0 failed")), "{spec}");
}
