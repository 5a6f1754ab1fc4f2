//! `restart --fresh` on a lab of tiny services: whose data goes, whose stays, and what is set up again. That a restart takes edited
//! files, and leaves what it cannot start, is in `interruptions`.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test that cannot go on has failed")]

mod support;

use std::process::Command;

use streamlab::engine::{INSTANCE_LABEL, recipe_images};
use support::{engine_with, run, text};

const INSTANCE: &str = "tiny-fresh";

fn docker(arguments: &[&str]) -> String {
    text(&Command::new("docker").args(arguments).output().unwrap())
}

#[tokio::test]
async fn fresh_takes_a_services_own_data_and_not_what_it_only_reads() {
    engine_with(&["base"]).await;
    let tiny = std::fs::read_to_string(support::root().join("tests/tiny/lab.toml")).unwrap();
    // Alpha writes, beta reads it; `setter` makes something of alpha's data once alpha is there.
    let shared = "volumes = [{ name = \"data\", path = \"/data\", shared = true }]";
    let read = shared.replace("shared = true", "shared = true, read_only = true");
    let setter = "[services.setter]\nabout = \"sets alpha's data up\"\nimage = \"streamlab\"\ncommand = [\"setup\", \"volumes\", \"/data\"]\n\
                  memory = \"64m\"\nneeds = [\"alpha\"]\nready = { kind = \"completed\" }\n";
    let tiny = tiny
        .replace(
            "services = [\"alpha\", \"beta\", \"gamma\"]",
            "services = [\"alpha\", \"setter\", \"beta\"]",
        )
        .replace("volumes = [{ name = \"data\", path = \"/data\" }]", shared)
        .replace("needs = [\"alpha\"]\n", &format!("needs = [\"alpha\"]\n{read}\n"));
    let tiny = format!("{}\n{setter}{shared}\n", tiny.split("[[faults]]").next().unwrap());
    let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let definition = folder.path().join("lab.toml");
    std::fs::write(&definition, tiny).unwrap();
    let lab = |arguments: &[&str]| {
        run(&[&["--file", definition.to_str().unwrap(), "--instance", INSTANCE], arguments].concat())
    };
    let exec =
        |service: &str, script: &str| docker(&["exec", &format!("{INSTANCE}-{service}"), "sh", "-c", script]);
    let id = |service: &str| docker(&["inspect", "--format", "{{.Id}}", &format!("{INSTANCE}-{service}")]);

    let up = lab(&["up", "--detach", "--port-offset", "3100"]);
    exec("alpha", "echo kept >/data/file");
    let refused = exec("beta", "echo more >>/data/file");
    let before = id("alpha");
    let of_beta = lab(&["restart", "beta", "--fresh"]);
    let (after, seen) = (id("alpha"), exec("beta", "cat /data/file"));
    let of_alpha = lab(&["restart", "alpha", "--fresh"]);
    let (gone, open) = (exec("alpha", "ls /data"), exec("alpha", "stat -c %a /data"));
    let down = lab(&["down", "--volumes"]);

    assert!(up.status.success(), "{}", text(&up));
    assert!(refused.contains("Read-only file system"), "{refused}");
    assert!(of_beta.status.success() && before.len() > 60 && before == after, "{}", text(&of_beta));
    assert_eq!(seen, "kept\n");
    assert!(of_alpha.status.success(), "{}", text(&of_alpha));
    assert_eq!((gone.as_str(), open.as_str()), ("", "1777\n"), "the data is gone, and is set up again");
    assert!(down.status.success(), "{}", text(&down));
}

/// A container that ends by itself holds its volume until it has gone: what is removed meanwhile waits for that.
#[tokio::test]
async fn what_somebody_still_has_is_removed_once_he_has_gone() {
    let (project, engine) = engine_with(&["base"]).await;
    let images = recipe_images(&project, &engine.arch).unwrap();
    let image = &images.iter().find(|image| image.name == "base").unwrap().reference;
    let (instance, volume) = ("tiny-held", "tiny-held-data");
    let label = format!("{INSTANCE_LABEL}={instance}");
    docker(&["volume", "create", "--label", &label, volume]);
    let mounted = format!("{volume}:/data");
    let holder = docker(&["run", "--detach", "--rm", "--volume", &mounted, image, "sleep", "2"]);
    let removed = engine.remove_instance(instance, true).await;
    let left = docker(&["volume", "ls", "--quiet", "--filter", &format!("name={volume}")]);
    docker(&["rm", "--force", holder.trim()]);
    docker(&["volume", "rm", volume]);
    assert_eq!(removed.map(|removed| removed.volumes).map_err(|e| format!("{e:#}")), Ok(1));
    assert_eq!(left, "");
}
