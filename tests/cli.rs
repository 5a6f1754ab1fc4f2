//! The command line as a person meets it: bad input gets one clear screen and a failing exit code, before anything
//! starts. Needs no engine.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test that cannot go on has failed")]

mod support;

use rstest::rstest;
use support::{lab, run, text};

#[rstest]
#[case::count_zero(&["produce", "transactions", "--count", "0"], "0 is not in 1..=100000000")]
#[case::negative_rate(&["produce", "transactions", "--rate", "-5"], "from 0.001 to 100000")]
#[case::rate_zero(&["produce", "transactions", "--rate", "0"], "from 0.001 to 100000")]
#[case::rate_infinite(&["produce", "transactions", "--rate", "inf"], "from 0.001 to 100000")]
#[case::rate_text(&["produce", "transactions", "--rate", "fast"], "from 0.001 to 100000")]
#[case::no_threads(&["produce", "transactions", "--threads", "0"], "0 is not in 1..=256")]
#[case::unknown_profile(&["produce", "transactions", "--profile", "cobol"], "possible values: python, java")]
#[case::unknown_format(&["produce", "transactions", "--format", "xml"], "possible values: json, avro")]
#[case::an_unknown_environment(&["produce", "logs", "--env", "staging"], "possible values: dev, prod")]
#[case::an_empty_run(&["produce", "logs", "--run", ""], "1 to 64 letters")]
#[case::unknown_scenario(&["produce", "weather"], "unrecognized subcommand 'weather'")]
#[case::ledger_without_count(&["produce", "transactions", "--ledger", "x.json"], "--count")]
#[case::unknown_source(&["up", "--images", "cloud"], "possible values: local, upstream, auto")]
#[case::unknown_lab(&["up", "--lab", "nope", "--instance", "nope"], "no lab named \"nope\"; there are: ")]
#[case::bad_instance(&["up", "--instance", "No Such"], "instance name")]
#[case::offset_too_far(&["up", "--instance", "far", "--port-offset", "20000"], "past 65535")]
#[case::offset_on_a_documented_port(&["--file", "tests/tiny/lab.toml", "up", "--instance", "on", "--port-offset", "1"], "a documented port of another service")]
#[case::unknown_command(&["fly"], "unrecognized subcommand 'fly'")]
#[case::no_such_file(&["--file", "nowhere/lab.toml", "status"], "nowhere/lab.toml cannot be read")]
fn bad_input_gets_a_clear_error(#[case] arguments: &[&str], #[case] expected: &str) {
    // With no engine to be had: a mistake that passes starts nothing.
    let output = lab(arguments).env("DOCKER_HOST", "unix:///nonexistent/docker.sock").output().unwrap();
    let said = text(&output);
    assert!(!output.status.success(), "{said}");
    assert!(said.contains(expected), "{said}");
    assert!(said.lines().count() <= 24, "more than one screen:\n{said}");
    assert!(!said.contains("panicked"), "{said}");
}

#[test]
fn without_an_engine_it_says_what_to_do() {
    for command in [&["status"][..], &["up", "--detach"], &["down"], &["images"]] {
        let output = lab(command).env("DOCKER_HOST", "unix:///nonexistent/docker.sock").output().unwrap();
        let said = text(&output);
        assert_eq!(output.status.code(), Some(1), "{said}");
        assert!(said.contains("no Docker engine answers") && said.contains("./lab engine start"), "{said}");
    }
}

#[test]
fn a_malformed_definition_is_refused_with_every_line() {
    let folder = std::env::temp_dir().join(format!("streamlab-cli-{}", std::process::id()));
    std::fs::create_dir_all(folder.join("topology")).unwrap();
    let path = folder.join("lab.toml");
    let mut mistakes = 0;
    for (part, text) in streamlab::project::definition(&support::root().join("lab.toml")).unwrap() {
        let needs = "needs = [\"spark-master\", \"volume-setup\"]";
        mistakes += text.matches(needs).count();
        let planted = text.replace(needs, "needs = [\"spark-mister\"]");
        std::fs::write(folder.join(part), planted).unwrap();
    }
    let output = run(&["--file", path.to_str().unwrap(), "up"]);
    std::fs::remove_dir_all(&folder).unwrap();
    let said = text(&output);
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(
        mistakes > 1
            && said.contains(&format!("{mistakes} mistake(s)"))
            && said.contains("no role, service or group named \"spark-mister\""),
        "{said}"
    );
}

#[test]
fn a_ledger_that_cannot_be_written_is_said_before_anything_is_produced() {
    let to = ["produce", "transactions", "--count", "5", "--bootstrap-servers", "127.0.0.1:1"];
    let output = run(&[&to[..], &["--ledger", "/nonexistent/ledger.json"]].concat());
    let said = text(&output);
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains("/nonexistent/ledger.json cannot be written"), "{said}");
}

/// `eval "$(./lab env)"` of one lab in the shell, and another lab named on the command line.
#[test]
fn an_option_beats_the_environment_and_no_variable_is_a_cluster() {
    for arguments in [&["produce", "transactions", "--count", "1"][..], &["tail", "financial_transactions"]] {
        let stranger = [("LAB_INSTANCE", "one"), ("BOOTSTRAP_SERVERS", "127.0.0.1:1")];
        let said = |more: &[&str]| text(&lab(&[arguments, more].concat()).envs(stranger).output().unwrap());
        let (by_shell, by_option) = (said(&[]), said(&["--instance", "two"]));
        assert!(by_shell.contains("instance one is not up"), "{by_shell}");
        assert!(by_option.contains("instance two is not up"), "{by_option}");
    }
}

#[test]
fn completions_are_printed_for_a_shell() {
    let output = run(&["completions", "bash"]);
    assert!(output.status.success());
    assert!(text(&output).contains("_lab"), "{}", text(&output));
}

#[test]
fn doctor_gives_each_finding_as_json() {
    let output =
        lab(&["doctor", "--json"]).env("DOCKER_HOST", "unix:///nonexistent/docker.sock").output().unwrap();
    let findings: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    let engine = findings.as_array().unwrap().iter().find(|f| f["what"] == "engine").unwrap();
    assert_eq!(engine["verdict"], "bad");
    assert!(engine["fix"].as_str().unwrap().contains("./lab engine start"));
    assert_eq!(output.status.code(), Some(1));
}

#[test]
fn help_names_every_command() {
    insta::assert_snapshot!(String::from_utf8(run(&["--help"]).stdout).unwrap());
}
