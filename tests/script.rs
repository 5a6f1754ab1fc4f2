//! The script `lab` around the program: a released program beside it, and what it says where Nix is missing or too old.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test that cannot go on has failed")]

mod support;

use std::collections::BTreeSet;
use std::io::Write as _;
use std::path::Path;
use std::process::{Command, Output, Stdio};

use rstest::rstest;
use support::{root, text};

/// Runs a command with this input. What is executed later is written by a process of its own: a file that this one has open
/// for writing would be open in whatever another test starts at that moment, and then "text file busy".
fn fed(command: &mut Command, input: &str) {
    let mut child = command.stdin(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
    assert!(child.wait().unwrap().success());
}

fn executable(path: &Path, script: &str) {
    fed(Command::new("install").args(["-m", "755", "/dev/stdin"]).arg(path), script);
}

/// The script in a checkout of its own, with no Rust and nothing else of this machine's in PATH but `tools`.
fn script(folder: &Path, tools: &Path, arguments: &[&str]) -> Output {
    fed(Command::new("cp").args(["lab", "Cargo.toml"]).arg(folder).current_dir(root()), "");
    let path = format!("{}:/usr/bin:/bin", tools.display());
    let mut command = Command::new(folder.join("lab"));
    command.args(arguments).env_clear().env("PATH", path).env("HOME", folder).env("CI", "true");
    command.output().unwrap()
}

/// Otherwise compiling the tests would make another program of the same source, and the images that were built of the first would not be
/// its own.
#[test]
fn the_program_is_the_same_whether_tests_are_compiled_or_not() {
    let crates = |edges: &str| -> BTreeSet<String> {
        let mut cargo = Command::new(env!("CARGO"));
        cargo.args([
            "tree",
            "--offline",
            "--locked",
            "--prefix",
            "none",
            "--format",
            "{p} {f}",
            "--edges",
            edges,
        ]);
        let output = cargo.current_dir(root()).output().unwrap();
        assert!(output.status.success(), "{}", text(&output));
        String::from_utf8_lossy(&output.stdout)
            .lines()
            .map(|line| line.trim_end_matches(" (*)").to_owned())
            .collect()
    };
    let (alone, beside_tests) = (crates("normal,build"), crates("normal,build,dev"));
    let others: Vec<&String> = alone.difference(&beside_tests).collect();
    assert!(!alone.is_empty() && others.is_empty(), "with tests these have other features: {others:?}");
}

#[test]
fn a_released_program_of_the_checkouts_version_is_used() {
    let folder = tempfile::tempdir().unwrap();
    let version = env!("CARGO_PKG_VERSION");
    let program = format!(
        "#!/bin/sh\nif [ \"$1\" = --version ]; then echo lab {version}; else echo \"$LAB_ROOT runs $*\"; exit 7; fi\n"
    );
    executable(&folder.path().join("streamlab"), &program);
    let output = script(folder.path(), folder.path(), &["status", "--json"]);
    let there = folder.path().canonicalize().unwrap();
    assert_eq!(output.status.code(), Some(7), "the program's own exit code");
    assert_eq!(text(&output).trim(), format!("{} runs status --json", there.display()));
}

#[test]
fn a_released_program_of_another_version_is_not() {
    let folder = tempfile::tempdir().unwrap();
    executable(&folder.path().join("streamlab"), "#!/bin/sh\necho lab 0.0.1\n");
    let output = script(folder.path(), folder.path(), &["status"]);
    let said = text(&output);
    assert!(!output.status.success());
    assert!(
        said.contains("is version 0.0.1, the checkout is") && said.contains("compiling it instead"),
        "{said}"
    );
    assert!(said.contains("Rust is missing") && said.contains("rustup"), "{said}");
}

#[rstest]
#[case::none(None, "Nix is missing", 1)]
#[case::old(Some("nix (Nix) 2.8.0"), "Nix 2.8.0 is too old: 2.18 or newer is needed", 1)]
#[case::no_number(Some("nix (Nix) unstable"), "is too old", 1)]
#[case::new_enough(Some("nix (Nix) 2.26.3"), "nix-command flakes", 0)]
fn the_virtual_machine_wants_a_nix_that_is_new_enough(
    #[case] version: Option<&str>,
    #[case] said: &str,
    #[case] code: i32,
) {
    if version.is_none() && ["/usr/bin/nix", "/bin/nix"].iter().any(|nix| Path::new(nix).exists()) {
        return; // This machine has one where the script's own tools are.
    }
    let folder = tempfile::tempdir().unwrap();
    let tools = folder.path().join("tools");
    std::fs::create_dir(&tools).unwrap();
    if let Some(version) = version {
        let nix =
            format!("#!/bin/sh\nif [ \"$1\" = --version ]; then echo '{version}'; else echo \"$@\"; fi\n");
        executable(&tools.join("nix"), &nix);
    }
    let output = script(folder.path(), &tools, &["vm", "-nographic"]);
    assert!(text(&output).contains(said), "{}", text(&output));
    assert_eq!(output.status.code(), Some(code));
    if code == 0 {
        assert!(text(&output).trim_end().ends_with("#lab-vm -- -nographic"), "{}", text(&output));
    }
}

/// The table of a run of `cargo test` that printed this, and the exit code.
fn table(printed: &str) -> Output {
    let mut awk = Command::new("awk")
        .args(["-f", "tests/table.awk"])
        .current_dir(root())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    awk.stdin.take().unwrap().write_all(printed.as_bytes()).unwrap();
    awk.wait_with_output().unwrap()
}

const TWO_SUITES: &str = "   Compiling streamlab v0.1.0
     Running unittests src/lib.rs (target/debug/deps/streamlab-4c8d3759645ffe57)

running 0 tests

test result: ok. 5 passed; 0 failed; 0 ignored; 0 measured; 3 filtered out; finished in 4.39s

     Running tests/spec/main.rs (target/debug/deps/spec-65870d406168ae77)
test flow::x ... ok
";

#[test]
fn a_table_says_what_became_of_every_suite() {
    let spec = "test result: FAILED. 226 passed; 1 failed; 5 ignored; 0 measured; 0 filtered out; finished in 443.59s\n";
    let output = table(&format!("{TWO_SUITES}{spec}cargo's exit code: 101\n"));
    let said = text(&output);
    assert_eq!(output.status.code(), Some(101), "{said}");
    insta::assert_snapshot!(said);
}

#[test]
fn a_suite_that_was_killed_is_named() {
    let output = table(&format!("{TWO_SUITES}cargo's exit code: 101\n"));
    let said = text(&output);
    assert!(said.contains("spec                     ended before it had a result  FAILED"), "{said}");
    // Also where another comes after it.
    let output = table(&format!(
        "{TWO_SUITES}   Doc-tests streamlab\ntest result: ok. 1 passed; 0 failed; 0 ignored\n"
    ));
    let said = text(&output);
    assert!(said.contains("spec                     ended before it had a result  FAILED"), "{said}");
    assert!(said.contains("streamlab (docs)               1       0"), "{said}");
    assert_eq!(
        table("error: could not compile `streamlab`\ncargo's exit code: 101\n").status.code(),
        Some(101)
    );
    assert_eq!(table(TWO_SUITES).status.code(), Some(1), "nobody said how it ended");
}

#[test]
fn the_tests_that_failed_and_what_their_suite_said_are_named_below_the_table() {
    let spec = "test full::flow::a   ... FAILED\nerror: lab full was not removed: volume x is in use\nerror: test failed, to rerun\n";
    let said = text(&table(&format!("{TWO_SUITES}{spec}cargo's exit code: 101\n")));
    let end = "\nfailed:\n  full::flow::a\n\nerror: lab full was not removed: volume x is in use\n";
    assert!(said.ends_with(end), "{said}");
    let many: String = (0..30).map(|n| format!("test t{n} ... FAILED\n")).collect();
    let said = text(&table(&format!("{TWO_SUITES}{many}cargo's exit code: 101\n")));
    assert!(said.contains("failed (the first 20 of 30):\n  t0\n") && said.ends_with("  t19\n"), "{said}");
}

/// Nobody's containers end because somebody tidies up.
#[test]
fn an_engine_is_not_stopped_under_containers_that_run() {
    let folder = tempfile::tempdir().unwrap();
    let tools = folder.path().join("tools");
    let state = folder.path().join(".local/state/streamlab");
    std::fs::create_dir_all(&state).unwrap();
    std::fs::create_dir(&tools).unwrap();
    executable(&tools.join("docker"), "#!/bin/sh\nif [ \"$1\" = ps ]; then echo kafka-broker-1; fi\n");
    // The script knows its engine by the name of the process.
    let dockerd = tools.join("dockerd");
    assert!(Command::new("cp").arg("/bin/sleep").arg(&dockerd).status().unwrap().success());
    let mut engine = Command::new(&dockerd).arg("600").spawn().unwrap();
    std::fs::write(state.join("engine.pid"), engine.id().to_string()).unwrap();
    fed(Command::new("cp").args(["lab", "Cargo.toml"]).arg(folder.path()).current_dir(root()), "");
    let mut stop = Command::new(folder.path().join("lab"));
    let path = format!("{}:/usr/bin:/bin", tools.display());
    stop.args(["engine", "stop"]).env_clear().env("PATH", path).env("HOME", folder.path());
    let output = stop.stdin(Stdio::null()).output().unwrap();
    let runs_on = engine.try_wait().unwrap().is_none();
    engine.kill().unwrap();
    engine.wait().unwrap();
    let said = text(&output);
    assert!(!output.status.success() && said.contains("kafka-broker-1") && said.contains("--yes"), "{said}");
    assert!(runs_on, "the engine was stopped");
}

#[test]
fn where_nothing_can_be_compiled_another_folder_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let tools = folder.path().join("tools");
    std::fs::create_dir(&tools).unwrap();
    for tool in ["cargo", "rustc", "cc", "make"] {
        executable(&tools.join(tool), "#!/bin/sh\necho rustc 1.99.0\n");
    }
    // Root may write into every folder, but none where a file is.
    std::fs::write(folder.path().join("target"), "").unwrap();
    let output = script(folder.path(), &tools, &["status"]);
    let said = text(&output);
    assert!(!output.status.success() && said.contains("cannot be written"), "{said}");
    assert!(said.contains("CARGO_TARGET_DIR"), "{said}");
}
