//! What the test binaries share: the program under test, an engine with images, a check that nothing is left.
#![allow(dead_code, reason = "each binary uses its part")]

pub(crate) mod search;
pub(crate) mod service;
pub(crate) mod written;

use std::path::Path;
use std::process::{Command, Output, Stdio};

use streamlab::engine::{Engine, recipe_images};
use streamlab::project::Project;

/// What a container needs in which containers run, beside cgroups that it can write. `--privileged` says nearly the same, and wants more
/// than some machines' root has.
pub(crate) const PRIVILEGED: [&str; 10] = [
    "--cap-add=ALL",
    "--cap-drop=SYS_RESOURCE",
    "--security-opt",
    "seccomp=unconfined",
    "--security-opt",
    "apparmor=unconfined",
    "--security-opt",
    "systempaths=unconfined",
    "--device-cgroup-rule",
    "a *:* rwm",
];

/// The checkout's root.
pub(crate) fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// The program, with its definition and working directory set to the checkout.
pub(crate) fn lab(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_streamlab"));
    command.args(arguments).current_dir(root()).env_remove("LAB_ROOT").env_remove("LAB_INSTANCE");
    command.stdin(Stdio::null());
    command
}

/// Runs the program to its end.
pub(crate) fn run(arguments: &[&str]) -> Output {
    lab(arguments).output().expect("the program runs")
}

/// The cargo that runs these tests, in the checkout.
pub(crate) fn cargo(arguments: &[&str]) -> Command {
    let mut cargo = Command::new(env!("CARGO"));
    cargo.args(arguments).current_dir(root());
    without_cargos_own(&mut cargo);
    cargo
}

/// What this cargo has set for its tests would have build scripts run again, and half the crates built anew.
fn without_cargos_own(command: &mut Command) {
    for (name, _) in std::env::vars().filter(|(name, _)| name.starts_with("CARGO_")) {
        if !["CARGO_HOME", "CARGO_TARGET_DIR"].contains(&name.as_str()) {
            command.env_remove(name);
        }
    }
}

/// Lines for a shell, in the checkout, without what cargo has set for its tests.
pub(crate) fn sh(lines: &str) -> Command {
    let mut shell = Command::new("sh");
    shell.args(["-ec", lines]).current_dir(root()).stdin(Stdio::null());
    without_cargos_own(&mut shell);
    shell
}

pub(crate) fn docker(arguments: &[&str]) -> Output {
    Command::new("docker").args(arguments).stdin(Stdio::null()).output().expect("docker runs")
}

/// What a program printed that must not fail.
pub(crate) fn well(output: Output) -> String {
    assert!(output.status.success(), "{}", text(&output));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// Standard output and error of a run, for messages and assertions.
pub(crate) fn text(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

/// The project, and an engine that has the images of these recipes; otherwise it says what to run.
pub(crate) async fn engine_with(recipes: &[&str]) -> (Project, Engine) {
    let project = Project::open(Some(&root().join("lab.toml")), env!("CARGO_BIN_EXE_streamlab").into())
        .unwrap_or_else(|e| panic!("{e:#}"));
    let engine = Engine::connect().await.unwrap_or_else(|e| panic!("{e}"));
    for image in recipe_images(&project, &engine.arch).unwrap_or_else(|e| panic!("{e:#}")) {
        let wanted = recipes.contains(&image.name.as_str());
        if wanted && engine.image_id(&image.reference).await.unwrap_or_else(|e| panic!("{e:#}")).is_none() {
            panic!(
                "image {} is missing.\n  Build it: ./lab images build   (or run ./lab test, which does)",
                image.name
            );
        }
    }
    (project, engine)
}
