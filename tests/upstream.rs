//! Public images end to end, from a real registry on loopback: locked, pulled by digest, run; and, when the registry is
//! gone, from a bundle, whose images must be those of the lock.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test that cannot go on has failed")]

#[path = "support/registry_front.rs"]
#[allow(dead_code, reason = "most of its faults are for the lock's tests")]
mod registry_front;

#[path = "support/registry_images.rs"]
#[allow(dead_code, reason = "its pushes are for the lock's tests")]
mod registry_images;
mod support;

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use registry_front::{Fault, Front};
use registry_images::registry_on;
use streamlab::clients::http;
use streamlab::engine::recipe_images;
use streamlab::lock::Digest;
use support::{engine_with, lab, root, text};

/// In place of the public schema registry, which ends where no broker answers.
const REGISTRY: &str = r#"
[services.registry]
about = "ends where alpha does not answer"
image = "public"
command = ["test-service", "--port", "7000", "--peer", "{alpha:web}"]
memory = "64m"
upstream_needs = ["alpha"]
ready = { kind = "http", port = "web", path = "/", contains = ["ready"] }
ports.web = { port = 7000, protocol = "http", about = "answers" }
"#;

/// A checkout whose services run a public image with this record; recipes and health scripts are the real ones.
fn checkout(folder: &Path, reference: &str, record: &str) -> PathBuf {
    std::fs::create_dir_all(folder.join("compose")).unwrap();
    for part in ["compose/images", "compose/health"] {
        let copied = Command::new("cp").arg("-r").arg(root().join(part)).arg(folder.join("compose")).status();
        assert!(copied.unwrap().success());
    }
    let tiny = std::fs::read_to_string(root().join("tests/tiny/lab.toml")).unwrap();
    let words = "version = \"\"\nseed = \"\"\nwhy = \"\"";
    let public = format!(
        "[images.public]\nupstream = \"{reference}\"\nrecipe = \"streamlab\"\n{words}\nrecord = {record}\n\n"
    );
    let text = tiny
        .replace("image = \"streamlab\"", "image = \"public\"")
        .replace(", debian = \"debian:trixie-slim\"", "")
        // It listens late: whoever does not wait for it does not find it.
        .replacen("\"7000\"]", "\"7000\", \"--delay\", \"1000\"]", 1)
        .replacen("\"gamma\"]", "\"gamma\", \"registry\"]", 1)
        .replace(
            "[[faults]]\nname = \"alpha-killed\"",
            &format!("{REGISTRY}\n[[faults]]\nname = \"alpha-killed\""),
        )
        .replace("[services.alpha]", &format!("{public}[services.alpha]"));
    std::fs::write(folder.join("lab.toml"), text).unwrap();
    folder.join("lab.toml")
}

fn run(file: &Path, arguments: &[&str]) -> Output {
    lab(&["--file", file.to_str().unwrap(), "--instance", "public"]).args(arguments).output().unwrap()
}

fn docker(arguments: &[&str]) {
    let output = Command::new("docker").args(arguments).output().unwrap();
    assert!(output.status.success(), "docker {arguments:?}: {}", text(&output));
}

/// How often the engine has started a container again.
fn restarts_of(container: &str) -> String {
    let asked = Command::new("docker").args(["inspect", "--format", "{{.RestartCount}}", container]).output();
    String::from_utf8(asked.unwrap().stdout).unwrap().trim().to_owned()
}

/// Builds an image that no recipe makes, with a layer of its own, and pushes it; the engine does not keep it.
async fn publish(folder: &Path, reference: &str, words: &str) {
    let (project, engine) = engine_with(&["base", "docker-registry"]).await;
    assert!(support::run(&["images", "build", "streamlab"]).status.success());
    let images = recipe_images(&project, &engine.arch).unwrap();
    let own = images.into_iter().find(|i| i.name == "streamlab").unwrap().reference;
    // Bytes that no packing makes smaller, so that half of them is a good deal.
    let mut bytes = words.as_bytes().to_vec();
    let mut next = Digest::of(words.as_bytes());
    while bytes.len() < 4 << 20 {
        bytes.extend_from_slice(next.hex().as_bytes());
        next = Digest::of(next.hex().as_bytes());
    }
    std::fs::write(folder.join("bytes"), bytes).unwrap();
    std::fs::write(folder.join("Dockerfile"), format!("FROM {own}\nCOPY bytes /bytes\n")).unwrap();
    docker(&["build", "-q", "-t", reference, folder.to_str().unwrap()]);
    docker(&["push", "-q", reference]);
    docker(&["image", "rm", reference]);
}

/// Ports of registries that speak plain HTTP. Docker asks every registry on loopback so; Podman those that
/// compose/images/engine/registries.conf names.
const PLAIN_HTTP: [u16; 3] = [24301, 24302, 24303];

/// What the own image is, and with it the public one of these tests.
const RECORD: &str = r#"{ architectures = ["amd64", "arm64"], entry_point = ["/usr/bin/tini", "--", "/usr/local/bin/streamlab"] }"#;

#[tokio::test]
async fn public_images_are_locked_pulled_by_digest_bundled_and_run_without_the_registry() {
    let (registry, host) = registry_on(PLAIN_HTTP[0]).await;
    let reference = format!("{host}/lab/public:1");
    let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    publish(folder.path(), &reference, &host).await;

    let file = checkout(&folder.path().join("checkout"), &reference, RECORD);
    let unpinned = run(&file, &["up", "--detach", "--images", "upstream"]);
    assert!(
        !unpinned.status.success() && text(&unpinned).contains("images.lock.json"),
        "{}",
        text(&unpinned)
    );
    let locked = run(&file, &["images", "lock"]);
    assert!(locked.status.success(), "{}", text(&locked));
    let up = run(&file, &["up", "--detach", "--images", "upstream"]);
    let restarts = restarts_of("public-registry");
    let down = run(&file, &["down"]);
    assert!(up.status.success() && text(&up).contains("gamma"), "{}", text(&up));
    assert_eq!(restarts, "0", "it was started before alpha answered");
    assert!(
        text(&up).contains("pulled in") && !text(&up).contains("the lab was written for"),
        "{}",
        text(&up)
    );
    assert!(down.status.success(), "{}", text(&down));
    // The row makes the difference: without it the stand-in for the registry is started too early, and ends.
    let definition = std::fs::read_to_string(&file).unwrap();
    std::fs::write(&file, definition.replace("upstream_needs = [\"alpha\"]\n", "")).unwrap();
    let early = run(&file, &["up", "--detach", "--images", "upstream"]);
    let restarts = restarts_of("public-registry");
    assert!(run(&file, &["down"]).status.success());
    assert!(!early.status.success() || restarts != "0", "{}", text(&early));
    std::fs::write(&file, definition).unwrap();
    // The data knows who wrote it.
    let other = run(&file, &["up", "--detach", "--images", "local"]);
    let gone = run(&file, &["down", "--volumes"]);
    assert!(!other.status.success(), "{}", text(&other));
    assert!(text(&other).contains("was written by upstream images"), "{}", text(&other));
    assert!(text(&other).contains("./lab down --volumes --instance public"), "{}", text(&other));
    assert!(gone.status.success(), "{}", text(&gone));
    // A bundle takes what git tracks.
    let root = file.parent().unwrap();
    for arguments in [&["init", "--quiet"][..], &["add", "--all"]] {
        assert!(Command::new("git").arg("-C").arg(root).args(arguments).status().unwrap().success());
    }
    let bundle = folder.path().join("public.bundle");
    let exported = run(&file, &["bundle", "export", bundle.to_str().unwrap(), "--images", "upstream"]);
    assert!(exported.status.success(), "{}", text(&exported));

    // The registry is gone, and so is the image.
    drop(registry);
    docker(&["image", "rm", &reference]);
    let pinned = locked_digest(&file);
    let _ = Command::new("docker").args(["image", "rm", &format!("{host}/lab/public@{pinned}")]).output();
    let without = run(&file, &["up", "--detach", "--images", "upstream"]);
    assert!(!without.status.success() && text(&without).contains("cannot be pulled"), "{}", text(&without));
    let target = folder.path().join("imported");
    let imported =
        run(&file, &["bundle", "import", bundle.to_str().unwrap(), "--into", target.to_str().unwrap()]);
    assert!(imported.status.success(), "{}", text(&imported));
    assert!(text(&imported).contains("./lab up --lab tiny --images upstream"), "{}", text(&imported));
    let there = target.join("lab.toml");
    let up = run(&there, &["up", "--detach", "--images", "upstream"]);
    let down = run(&there, &["down", "--volumes"]);
    assert!(up.status.success(), "{}", text(&up));
    assert!(down.status.success(), "{}", text(&down));

    // A lock that pins another configuration: what was loaded is not taken for it.
    let lock = std::fs::read_to_string(target.join("images.lock.json")).unwrap();
    let config = lock.split("\"config\": \"sha256:").nth(1).unwrap()[..64].to_owned();
    std::fs::write(target.join("images.lock.json"), lock.replace(&config, &"0".repeat(64))).unwrap();
    let refused = run(&there, &["up", "--detach", "--images", "upstream"]);
    assert!(!refused.status.success() && text(&refused).contains("cannot be pulled"), "{}", text(&refused));
    docker(&["image", "rm", &reference]);
}

// The front answers while this test waits for the program.
#[tokio::test(flavor = "multi_thread")]
async fn a_pull_brings_the_users_login_and_outlives_a_cut_line() {
    let (registry, behind) = registry_on(PLAIN_HTTP[1]).await;
    let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    publish(folder.path(), &format!("{behind}/lab/kept:1"), &format!("kept {behind}")).await;
    let front = Front::on(PLAIN_HTTP[2], &behind).await;
    let reference = format!("{}/lab/kept:1", front.host());
    // Written for another image: that is said, and the pinned one is run all the same.
    let record = r#"{ architectures = ["amd64", "arm64"], user = "somebody" }"#;
    let file = checkout(&folder.path().join("checkout"), &reference, record);
    let locked = run(&file, &["images", "lock"]);
    assert!(locked.status.success(), "{}", text(&locked));

    front.only_for("bWU6c2VjcmV0"); // me:secret
    let up = |config: &str| {
        let login = folder.path().join("docker");
        std::fs::create_dir_all(&login).unwrap();
        std::fs::write(login.join("config.json"), config).unwrap();
        let mut up = lab(&["--file", file.to_str().unwrap(), "--instance", "public-kept"]);
        // The other test's lab is up at the same time.
        up.args(["up", "--detach", "--images", "upstream", "--port-offset", "1000"])
            .env("DOCKER_CONFIG", login)
            .output()
            .unwrap()
    };
    let stranger = up("{}");
    assert!(
        !stranger.status.success() && text(&stranger).contains("cannot be pulled"),
        "{}",
        text(&stranger)
    );
    let broken = up(&format!(r#"{{"auths": {{"{}": {{"auth": "!"}}}}}}"#, front.host()));
    assert!(!broken.status.success() && text(&broken).contains("docker login"), "{}", text(&broken));

    let layer = last_layer(&behind, &locked_digest(&file)).await;
    front.fail_once(layer.as_str(), Fault::CutOff);
    let known = up(&format!(r#"{{"auths": {{"{}": {{"auth": "bWU6c2VjcmV0"}}}}}}"#, front.host()));
    let mut down = lab(&["--file", file.to_str().unwrap(), "--instance", "public-kept"]);
    let down = down.args(["down", "--volumes"]).output().unwrap();
    assert!(known.status.success(), "{}", text(&known));
    assert!(down.status.success(), "{}", text(&down));
    assert!(
        text(&known).contains("has user \"\", and the lab was written for \"somebody\""),
        "{}",
        text(&known)
    );
    assert!(!text(&known).contains("secret"), "{}", text(&known));
    let asked = front.seen().iter().filter(|s| s.path.ends_with(&layer)).count();
    assert!(asked >= 2, "the layer was asked for {asked} times");
    docker(&["image", "rm", &format!("{}/lab/kept@{}", front.host(), locked_digest(&file))]);
    drop(registry);
}

/// Digest of the topmost layer of what a registry has under a manifest's digest.
async fn last_layer(host: &str, manifest: &str) -> String {
    let url = format!("http://{host}/v2/lab/kept/manifests/{manifest}");
    let kind =
        "application/vnd.docker.distribution.manifest.v2+json, application/vnd.oci.image.manifest.v1+json";
    let answer = http().get(url).header("accept", kind).send().await.unwrap().error_for_status().unwrap();
    let document: serde_json::Value = answer.json().await.unwrap();
    document["layers"].as_array().unwrap().last().unwrap()["digest"].as_str().unwrap().to_owned()
}

fn locked_digest(file: &Path) -> String {
    let text = std::fs::read_to_string(file.with_file_name("images.lock.json")).unwrap();
    let line = text.lines().find(|l| l.contains("\"index\"")).unwrap();
    line.split('"').nth(3).unwrap().to_owned()
}
