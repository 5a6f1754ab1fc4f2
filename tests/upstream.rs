//! Public images end to end, from a real registry on loopback: locked, pulled by digest, run; and, when the registry is
//! gone, from a bundle, whose images must be those of the lock.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test that cannot go on has failed")]

#[path = "support/registry_images.rs"]
#[allow(dead_code, reason = "its pushes are for the lock's tests")]
mod registry_images;
mod support;

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use registry_images::registry;
use streamlab::engine::recipe_images;
use support::{engine_with, lab, root, text};

/// A checkout whose services run a public image; recipes and health scripts are the real ones.
fn checkout(folder: &Path, reference: &str) -> PathBuf {
    std::fs::create_dir_all(folder.join("compose")).unwrap();
    for part in ["compose/images", "compose/health"] {
        let copied = Command::new("cp").arg("-r").arg(root().join(part)).arg(folder.join("compose")).status();
        assert!(copied.unwrap().success());
    }
    let tiny = std::fs::read_to_string(root().join("tests/tiny/lab.toml")).unwrap();
    let public =
        format!("[images.public]\nupstream = \"{reference}\"\nversion = \"\"\nseed = \"\"\nwhy = \"\"\n\n");
    let text = tiny
        .replace("image = \"streamlab\"", "image = \"public\"")
        .replace(", debian = \"debian:trixie-slim\"", "")
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

#[tokio::test]
async fn public_images_are_locked_pulled_by_digest_bundled_and_run_without_the_registry() {
    let (project, engine) = engine_with(&["base", "docker-registry"]).await;
    assert!(support::run(&["images", "build", "streamlab"]).status.success());
    let images = recipe_images(&project, &engine.arch).unwrap();
    let own = images.into_iter().find(|i| i.name == "streamlab").unwrap().reference;
    let (registry, host) = registry().await;
    let reference = format!("{host}/lab/public:1");
    // An image that no recipe makes: another id than the own image's.
    let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    std::fs::write(folder.path().join("Dockerfile"), format!("FROM {own}\nLABEL public={host}\n")).unwrap();
    docker(&["build", "-q", "-t", &reference, folder.path().to_str().unwrap()]);
    docker(&["push", "-q", &reference]);
    docker(&["image", "rm", &reference]);

    let file = checkout(&folder.path().join("checkout"), &reference);
    let unpinned = run(&file, &["up", "--detach", "--images", "upstream"]);
    assert!(
        !unpinned.status.success() && text(&unpinned).contains("images.lock.json"),
        "{}",
        text(&unpinned)
    );
    let locked = run(&file, &["images", "lock"]);
    assert!(locked.status.success(), "{}", text(&locked));
    let up = run(&file, &["up", "--detach", "--images", "upstream"]);
    let down = run(&file, &["down", "--volumes"]);
    assert!(up.status.success() && text(&up).contains("gamma"), "{}", text(&up));
    assert!(down.status.success(), "{}", text(&down));
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

fn locked_digest(file: &Path) -> String {
    let text = std::fs::read_to_string(file.with_file_name("images.lock.json")).unwrap();
    let line = text.lines().find(|l| l.contains("\"index\"")).unwrap();
    line.split('"').nth(3).unwrap().to_owned()
}
