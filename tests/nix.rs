//! What Nix makes of the topology, by a real Nix without network or nixpkgs: every container as the definition says, and
//! every planted mistake refused by name.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test that cannot go on has failed")]

mod support;

use std::collections::{BTreeMap, BTreeSet};
use std::process::{Command, Output};

use serde_json::{Value, json};
use streamlab::engine::recipe_images;
use streamlab::lock::Digest;
use streamlab::topology::{Instance, Plan};
use support::{engine_with, root, text};

/// Runs a script in the image that holds Nix; the project is at /project, and `cases` at /cases.
async fn in_nix(script: &str, cases: Option<&std::path::Path>) -> Output {
    let (project, engine) = engine_with(&["nix"]).await;
    let images = recipe_images(&project, &engine.arch).unwrap();
    let image = images.into_iter().find(|i| i.name == "nix").unwrap().reference;
    let mut command = Command::new("docker");
    command.args([
        "run",
        "--rm",
        "--network",
        "none",
        "--volume",
        &format!("{}:/project:ro", root().display()),
    ]);
    if let Some(cases) = cases {
        command.args(["--volume", &format!("{}:/cases:ro", cases.display())]);
    }
    command.args([&image, "bash", "-c", script]).output().unwrap()
}

fn documented(project: &streamlab::project::Project, lab: &str) -> Plan {
    project.plan(Some(lab), Instance::documented()).unwrap()
}

#[tokio::test]
async fn the_containers_are_those_of_the_definition() {
    let (project, _) = engine_with(&[]).await;
    let inputs = project.render_inputs().unwrap();
    for lab in project.file.labs.keys() {
        let script = format!(
            "nix-instantiate --eval --strict --json -E '(import /project/nix/containers.nix {{ lab = \"{lab}\"; source = \"/p\"; addons = \"/a\"; address = \"127.0.0.1\"; }})'"
        );
        let output = in_nix(&script, None).await;
        assert!(output.status.success(), "{}", text(&output));
        let found: Value = serde_json::from_slice(&output.stdout).unwrap();
        let plan = documented(&project, lab);
        let containers = found["containers"].as_object().unwrap();
        assert_eq!(containers.len(), plan.services.len());
        for service in &plan.services {
            let container = &containers[&service.name];
            let is = |key: &str, value: Value| assert_eq!(container[key], value, "{} {key}", service.name);
            let image = &project.file.images[&service.image];
            let reference = match &image.upstream {
                Some(upstream) => format!("{upstream}@{}", inputs.digests[upstream]),
                None => format!("{}:nix", service.image),
            };
            is("image", json!(reference));
            is("cmd", json!(service.command));
            is("workdir", json!(service.working_dir));
            is("environment", json!(service.environment));
            is("dependsOn", json!(service.waits_for.iter().map(|w| &w.service).collect::<Vec<_>>()));
            is("networks", json!([plan.network]));
            let ports =
                service.ports.iter().filter_map(|p| Some(format!("127.0.0.1:{}:{}", p.host?, p.container)));
            is("ports", json!(ports.collect::<Vec<_>>()));
            let mut volumes: Vec<String> = service
                .volumes
                .iter()
                .map(|v| format!("{}:{}{}", v.name, v.path, if v.read_only { ":ro" } else { "" }))
                .collect();
            volumes.extend(service.files.iter().map(|f| format!("/p/{}:{}:ro", f.source, f.path)));
            volumes.extend(service.addons.iter().map(|a| format!("/a/{}:{}:ro", a.name, a.path)));
            if service.engine_socket {
                volumes.push("/var/run/docker.sock:/var/run/docker.sock".to_owned());
            }
            is("volumes", json!(volumes));
            let options: Vec<&str> =
                container["extraOptions"].as_array().unwrap().iter().map(|o| o.as_str().unwrap()).collect();
            assert!(options.contains(&format!("--memory={}m", service.memory >> 20).as_str()), "{options:?}");
            let option = |name: &str| options.iter().find_map(|o| o.strip_prefix(&format!("--{name}=")));
            assert_eq!(option("log-opt=max-size"), Some(format!("{}m", service.log.megabytes).as_str()));
            assert_eq!(option("log-opt=max-file"), Some(service.log.files.to_string().as_str()));
            assert_eq!(option("stop-timeout"), Some(service.stop.grace.to_string().as_str()));
            match &service.health {
                None => assert!(options.contains(&"--no-healthcheck"), "{options:?}"),
                Some(health) => {
                    assert_eq!(words(option("health-cmd").unwrap()), health.command, "{}", service.name);
                    assert_eq!(option("health-interval"), Some(format!("{}s", health.interval).as_str()));
                    assert_eq!(option("health-timeout"), Some(format!("{}s", health.timeout).as_str()));
                    assert_eq!(option("health-start-period"), Some(format!("{}s", health.start).as_str()));
                    assert_eq!(option("health-retries"), Some(health.retries.to_string().as_str()));
                }
            }
        }
        let mut ports: Vec<u16> = plan.host_ports().map(|(port, ..)| port).collect();
        ports.sort_unstable();
        assert_eq!(found["hostPorts"], json!(ports));
    }
}

/// As a shell reads the text that Docker hands it.
fn words(command: &str) -> Vec<String> {
    let output = Command::new("sh").args(["-c", &format!("printf '%s\\n' {command}")]).output().unwrap();
    String::from_utf8(output.stdout).unwrap().lines().map(str::to_owned).collect()
}

#[derive(serde::Deserialize)]
#[serde(deny_unknown_fields)]
struct Mistake {
    name: String,
    path: Vec<Value>,
    value: Option<Value>,
    #[serde(default)]
    remove: bool,
    says: String,
}

#[tokio::test]
async fn every_planted_mistake_is_refused_by_name() {
    let read = |path: &str| std::fs::read_to_string(root().join(path)).unwrap();
    let mistakes: Vec<Mistake> = serde_json::from_str(&read("nix/checks/mistakes.json")).unwrap();
    let plan: Value = serde_json::from_str(&read("nix/topology.json")).unwrap();
    let cases = tempfile::tempdir().unwrap();
    for (number, mistake) in mistakes.iter().enumerate() {
        let mut spoiled = plan.clone();
        plant(&mut spoiled, mistake);
        assert!(spoiled != plan, "{}: changes nothing", mistake.name);
        std::fs::write(cases.path().join(format!("{number:02}.json")), spoiled.to_string()).unwrap();
    }
    let script = "for file in /cases/*.json; do
        echo \"== $file $(nix-instantiate --eval --strict --json -E \"(import /project/nix/containers.nix { file = $file; }).containers\" 2>&1 >/dev/null && echo accepted)\"
    done";
    let output = in_nix(script, Some(cases.path())).await;
    let said = text(&output);
    let answers: Vec<&str> = said.split("== /cases/").skip(1).collect();
    assert_eq!(answers.len(), mistakes.len(), "{said}");
    for (mistake, answer) in mistakes.iter().zip(answers) {
        assert!(answer.contains(&mistake.says), "{}: {answer}", mistake.name);
    }
}

#[tokio::test]
async fn an_image_comes_out_of_the_store_whether_its_tag_names_an_index_or_one_manifest() {
    let cases = tempfile::tempdir().unwrap();
    let write = |document: Value| {
        let bytes = document.to_string().into_bytes();
        let digest = Digest::of(&bytes);
        std::fs::write(cases.path().join(format!("{}.json", digest.hex())), bytes).unwrap();
        digest
    };
    let config = Digest::of(b"a configuration");
    let layer = Digest::of(b"a layer");
    // OCI lets a document leave its type out.
    let manifest = write(json!({
        "schemaVersion": 2, "config": { "digest": config, "size": 1 }, "layers": [{ "digest": layer, "size": 1 }],
    }));
    let platform = json!({ "os": "linux", "architecture": "amd64" });
    let index = write(json!({
        "schemaVersion": 2, "manifests": [{ "digest": manifest, "size": 1, "platform": platform }],
    }));
    let of = |top: &Digest| {
        format!(
            "nix-instantiate --eval --strict --json -E 'import /project/nix/checks/image.nix {{ documents = /cases; reference = \"r.example/x:1\"; index = \"{top}\"; }}'"
        )
    };
    for (top, kind) in [(&manifest, "manifest"), (&index, "index")] {
        let output = in_nix(&of(top), Some(cases.path())).await;
        assert!(output.status.success(), "{}", text(&output));
        let entries: BTreeMap<String, Value> = serde_json::from_slice(&output.stdout).unwrap();
        let blob = |digest: &Digest| format!("blobs/sha256/{}", digest.hex());
        let mut paths = BTreeSet::from(["index.json", "manifest.json", "oci-layout"].map(str::to_owned));
        paths.extend([&config, &layer, &manifest, top].map(blob));
        assert_eq!(entries.keys().cloned().collect::<BTreeSet<_>>(), paths);
        let described: Value = serde_json::from_str(entries["index.json"].as_str().unwrap()).unwrap();
        let described = &described["manifests"][0];
        assert_eq!(described["digest"], top.as_str());
        assert_eq!(described["mediaType"], format!("application/vnd.oci.image.{kind}.v1+json"));
    }
    let missing = in_nix(&of(&Digest::of(b"nobody has it")), Some(cases.path())).await;
    assert!(!missing.status.success() && text(&missing).contains("git add nix/images"), "{}", text(&missing));
}

fn plant(document: &mut Value, mistake: &Mistake) {
    let (last, path) = mistake.path.split_last().expect("a path");
    let place = path.iter().fold(document, |at, step| match step {
        Value::Number(n) => &mut at[usize::try_from(n.as_u64().unwrap()).unwrap()],
        step => &mut at[step.as_str().unwrap()],
    });
    match last {
        Value::Number(n) => {
            place[usize::try_from(n.as_u64().unwrap()).unwrap()] = mistake.value.clone().unwrap_or_default()
        }
        last if mistake.remove => drop(place.as_object_mut().unwrap().remove(last.as_str().unwrap())),
        last => place[last.as_str().unwrap()] = mistake.value.clone().unwrap_or_default(),
    }
}
