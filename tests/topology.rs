//! The definition: what is rendered from it has not drifted, and each kind of mistake is found with its line.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test that cannot go on has failed")]

mod support;

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use proptest::prelude::*;
use rstest::rstest;
use streamlab::project::{Project, definition as definition_of, lock_entries};
use streamlab::render::pages;
use streamlab::topology::{Endpoints, Instance, LabFile, Topology};

fn definition() -> String {
    let parts = definition_of(&support::root().join("lab.toml")).unwrap();
    parts.into_iter().map(|(_, text)| text + "\n").collect()
}

fn parsed() -> LabFile {
    LabFile::parse(&definition()).unwrap()
}

fn resolved(instance: &str, offset: u16) -> Topology {
    parsed().resolve("transactions", Instance::new(instance, offset).unwrap()).unwrap()
}

#[test]
fn rendered_pages_have_not_drifted() {
    let project = Project::open(Some(&support::root().join("lab.toml")), PathBuf::new()).unwrap();
    for (path, text) in pages(&project.file, &project.render_inputs().unwrap()).unwrap() {
        let there = std::fs::read_to_string(support::root().join(&path)).unwrap_or_default();
        assert!(there == text, "{path} differs from lab.toml: run ./lab render and review the difference");
    }
}

#[test]
fn every_upstream_image_is_pinned_and_every_pin_is_used() {
    let pinned: BTreeSet<String> = lock_entries(support::root()).unwrap().into_keys().collect();
    let named: BTreeSet<String> = parsed().upstream_references().map(str::to_owned).collect();
    assert_eq!(pinned, named);
}

#[test]
fn every_recipe_has_a_dockerfile() {
    for name in parsed().recipes.keys() {
        assert!(support::root().join("compose/images").join(name).join("Dockerfile").is_file(), "{name}");
    }
}

/// What cannot run from local images: a difference from this list is a change to be reviewed.
#[test]
fn what_does_not_run_with_local_images() {
    let file = parsed();
    let without: Vec<&String> =
        file.images.iter().filter(|(_, i)| i.recipe.is_none()).map(|(n, _)| n).collect();
    insta::assert_debug_snapshot!(without, @r#"
    [
        "grafana",
    ]
    "#);
}

#[test]
fn the_default_instance_has_the_documented_names() {
    let topology = resolved("default", 0);
    assert_eq!(topology.network, "codewithyu");
    assert!(topology.services.iter().all(|s| s.container == s.name));
    assert!(topology.host_ports().all(|(host, _, p)| Some(host) == p.documented));
}

/// On the tiny definition, so that a changed port of the real one changes nothing here.
#[test]
fn a_service_and_its_endpoints_in_another_instance() {
    let text = std::fs::read_to_string(support::root().join("tests/tiny/lab.toml")).unwrap();
    let tiny = LabFile::parse(&text).unwrap().resolve("tiny", Instance::new("test", 100).unwrap()).unwrap();
    insta::assert_json_snapshot!((tiny.service("alpha").unwrap(), Endpoints::of(&tiny)));
}

#[test]
fn a_part_of_the_lab_brings_what_it_needs_and_no_more() {
    let part = resolved("default", 0).only(["lab-setup"]);
    let names: Vec<_> = part.services.iter().map(|s| s.name.as_str()).collect();
    let controllers = ["kafka-controller-1", "kafka-controller-2", "kafka-controller-3"];
    assert_eq!(names[..3], controllers, "brokers do not start without controllers");
    assert_eq!(
        names[3..],
        ["kafka-broker-1", "kafka-broker-2", "kafka-broker-3", "schema-registry", "lab-setup"]
    );
}

/// Each planted mistake: what is replaced by what, and what must be said about which text of the line.
#[rstest]
#[case::unknown_key("stops_last = true", "stops_lst = true", "unknown field `stops_lst`", "stops_lst")]
#[case::wrong_type("port = 9093", "port = \"9093\"", "invalid type", "controller = {")]
#[case::port_too_large("host = { host = 49092 }", "host = { host = 70000 }", "invalid value", "70000")]
#[case::duplicate_port(
    "host = { host = 39092 }",
    "host = { host = 29092 }",
    "host port 29092 of kafka-broker-2 is already kafka-broker-1's",
    "kafka-broker-2"
)]
#[case::dangling_image(
    "image = \"schema-registry\"",
    "image = \"registry\"",
    "no image named \"registry\"",
    "image = \"registry\""
)]
#[case::dangling_need(
    "needs = [\"lab-setup\"]\nready",
    "needs = [\"lab-set\"]\nready",
    "no service or group named \"lab-set\"",
    "lab-set\""
)]
#[case::dangling_beside(
    "beside = [\"kafka-controllers\"]",
    "beside = [\"kafka-controller\"]",
    "no service or group named \"kafka-controller\"",
    "beside"
)]
#[case::dangling_addon(
    "addons = [\"kafka-commands\",",
    "addons = [\"kafka-command\",",
    "no add-on named",
    "kafka-command\""
)]
#[case::dangling_station(
    "\"kafka-controllers\", \"kafka-brokers\"]\nproves",
    "\"kafka-controllers\", \"kafka-broker-9\"]\nproves",
    "no service or group named \"kafka-broker-9\"",
    "kafka-broker-9"
)]
#[case::dangling_reference(
    "{spark-master}:7077\"]",
    "{spark-mister}:7077\"]",
    "{spark-mister} in its command stands for nothing",
    "image = \"spark\""
)]
#[case::dangling_variable(
    "KAFKA_NODE_ID = \"{node}\"",
    "KAFKA_NODE_ID = \"{nod}\"",
    "{nod} stands for nothing",
    "{nod}"
)]
#[case::dangling_command(
    "docker logs {kafka-controller-1}",
    "docker logs {kafka-controller-7}",
    "{kafka-controller-7} stands for nothing",
    "kafka-controller-7"
)]
#[case::dangling_recipe(
    "recipe = \"kafka\"",
    "recipe = \"kafkaesque\"",
    "no recipe named \"kafkaesque\"",
    "kafkaesque"
)]
#[case::unready_port(
    "ready = { kind = \"kafka\", port = \"host\" }",
    "ready = { kind = \"kafka\", port = \"hots\" }",
    "ready names port \"hots\"",
    "image = \"kafka\""
)]
#[case::unknown_readiness(
    "kind = \"completed\"",
    "kind = \"complete\"",
    "unknown variant `complete`",
    "complete"
)]
#[case::bad_memory("memory = \"384m\"", "memory = \"lots\"", "memory \"lots\": write 256m or 1g", "lots")]
#[case::zero_memory("memory = \"384m\"", "memory = \"0m\"", "memory \"0m\"", "\"0m\"")]
#[case::cycle(
    "about = \"the cluster's coordinator\"",
    "about = \"x\"\nneeds = [\"spark-workers\"]",
    "in a circle",
    "spark"
)]
#[case::flow_twice(
    "id = \"transactions-java\"",
    "id = \"transactions-python\"",
    "flow \"transactions-python\" is there twice",
    "transactions-python"
)]
#[case::member_twice(
    "name = \"kafka-controller-3\"",
    "name = \"kafka-controller-2\"",
    "\"kafka-controller-2\" is already a service or group",
    "kafka-controller-2"
)]
#[case::need_outside_the_lab(
    "\"lab-setup\",\n  \"spark-master\"",
    "\"spark-master\"",
    "which this lab does not choose",
    "transaction-producer"
)]
#[case::relative_mount(
    "path = \"/var/lib/schema-registry\"",
    "path = \"data\"",
    "\"data\" is mounted inside: it must begin with /",
    "schema-registry"
)]
#[case::file_outside(
    "files = { \"schemas\"",
    "files = { \"../schemas\"",
    "must be a path within the project",
    "streamlab"
)]
#[case::no_such_default(
    "default_lab = \"transactions\"",
    "default_lab = \"transaction\"",
    "no lab named \"transaction\"",
    "default_lab"
)]
#[case::metrics_of_no_port(
    "metrics = [{ port = \"jmx\" }]",
    "metrics = [{ port = \"jxm\" }]",
    "has no port named \"jxm\"",
    "jxm"
)]
#[case::metrics_of_a_port_without_http(
    "metrics = [{ port = \"jmx\" }]",
    "metrics = [{ port = \"controller\" }]",
    "port \"controller\" does not speak HTTP",
    "controller"
)]
#[case::probe_of_no_port("probe = \"api\"", "probe = \"apu\"", "has no port named \"apu\"", "apu")]
#[case::fault_of_nobody(
    "kill = [\"kafka-broker-3\"]",
    "kill = [\"kafka-broker-8\"]",
    "no service or group named \"kafka-broker-8\"",
    "broker-killed"
)]
#[case::unknown_step(
    "{ kill = [\"kafka-broker-3\"] }",
    "{ shoot = [\"kafka-broker-3\"] }",
    "unknown variant `shoot`",
    "shoot"
)]
#[case::fault_that_does_nothing(
    "steps = [{ kill = [\"kafka-broker-3\"] }]",
    "steps = []",
    "fault \"broker-killed\" does nothing",
    "broker-killed"
)]
#[case::alert_of_no_fault(
    "fault = \"broker-killed\"",
    "fault = \"broker-kissed\"",
    "no fault named \"broker-kissed\"",
    "broker-kissed"
)]
#[case::alert_without_a_reason(
    "fault = \"broker-killed\"",
    "",
    "alert \"KafkaBrokerDown\" must have either a fault or a why",
    "KafkaBrokerDown"
)]
#[case::alert_twice(
    "name = \"KafkaOfflinePartitions\"",
    "name = \"KafkaBrokerDown\"",
    "alert \"KafkaBrokerDown\" is there twice",
    "KafkaBrokerDown"
)]
fn a_planted_mistake_is_found(
    #[case] from: &str,
    #[case] to: &str,
    #[case] expected: &str,
    #[case] on_line: &str,
) {
    let text = definition();
    assert!(text.contains(from), "nothing to replace: {from}");
    let planted = text.replacen(from, to, 1);
    let mistakes = LabFile::parse(&planted).expect_err("the mistake passed");
    let said: Vec<String> = mistakes.iter().map(ToString::to_string).collect();
    let found = mistakes.iter().find(|m| m.message.contains(expected));
    let found = found.unwrap_or_else(|| panic!("expected {expected:?}, got {said:?}"));
    if found.line > 0 {
        let line = planted.lines().nth(found.line - 1).unwrap_or_default();
        assert!(line.contains(on_line), "{found} points at {line:?}");
    }
}

/// A definition in parts is one text for the parser; a mistake is still named by its own file and line.
#[test]
fn a_mistake_in_a_part_names_the_part() {
    let mut parts = definition_of(&support::root().join("lab.toml")).unwrap();
    let (file, text) = parts.iter_mut().find(|(file, _)| file.ends_with("faults.toml")).unwrap();
    assert_eq!(file, "topology/faults.toml");
    *text = text.replacen("kill = [\"kafka-broker-3\"]", "kill = [\"nobody\"]", 1);
    let line = 1 + text.lines().position(|l| l == "name = \"broker-killed\"").unwrap();
    let said = LabFile::parse_parts(&parts).expect_err("the mistake passed")[0].to_string();
    assert_eq!(said, format!("topology/faults.toml:{line}: no service or group named \"nobody\""));
}

#[test]
fn what_prometheus_reads_has_this_instances_addresses_and_the_documented_names() {
    let lab = resolved("default", 0);
    let other = resolved("other", 1000);
    assert_eq!(lab.targets().len(), other.targets().len());
    for (here, there) in lab.targets().into_iter().zip(other.targets()) {
        assert_eq!((&here.job, &here.instance, &here.path), (&there.job, &there.instance, &there.path));
        assert_eq!(there.address, format!("other-{}", here.address));
    }
    // Two pages with the same labels would be one series.
    let labels: BTreeSet<_> = lab.targets().into_iter().map(|t| (t.job, t.instance)).collect();
    assert_eq!(labels.len(), lab.targets().len());
    // A part of the lab reads only what it has.
    let part = lab.only(["alertmanager"]);
    let setup = part.service("monitoring-setup").unwrap();
    let targets: serde_json::Value = serde_json::from_str(&part.environment(setup)["TARGETS"]).unwrap();
    let instances: BTreeSet<_> =
        targets.as_array().unwrap().iter().map(|t| t["labels"]["instance"].as_str().unwrap()).collect();
    assert_eq!(instances, BTreeSet::from(["alert-receiver", "alertmanager"]));
    assert_eq!(part.environment(setup)["PROBES"], "[]");
}

#[rstest]
#[case::empty("")]
#[case::not_toml("{]")]
#[case::binary("\u{0}\u{1}")]
#[case::only_a_table("[services.x]")]
fn rubbish_is_an_error_and_no_panic(#[case] text: &str) {
    assert!(LabFile::parse(text).is_err());
}

proptest! {
    #[test]
    fn any_text_is_an_error_or_a_definition(text in "\\PC{0,200}") {
        let _ = LabFile::parse(&text);
    }

    /// Whatever the offset: host ports are the documented ones moved by it, unique, and never another's documented one.
    #[test]
    fn every_offset_that_resolves_moves_every_port(offset in 1..16_443_u16) {
        let file = parsed();
        let Ok(topology) = file.resolve("transactions", Instance::new("other", offset).unwrap()) else { return Ok(()) };
        let documented: BTreeSet<u16> = resolved("default", 0).host_ports().map(|(p, ..)| p).collect();
        let mut seen = BTreeMap::new();
        for (host, service, port) in topology.host_ports() {
            prop_assert_eq!(host, port.documented.unwrap() + offset);
            prop_assert!(!documented.contains(&host));
            prop_assert!(seen.insert(host, &service.name).is_none());
        }
    }

    /// No name of one instance is a name of another: neither container, network nor volume.
    #[test]
    fn instances_share_no_name(a in "[a-z][a-z0-9]{0,8}", b in "[a-z][a-z0-9]{0,8}") {
        prop_assume!(a != b);
        let names = |name: &str| -> BTreeSet<String> {
            let topology = parsed().resolve("transactions", Instance::new(name, 0).unwrap()).unwrap();
            let volumes = topology.services.iter().flat_map(|s| s.volumes.iter().map(|v| v.name.clone()));
            let containers = topology.services.iter().map(|s| s.container.clone());
            volumes.chain(containers).chain([topology.network.clone()]).collect()
        };
        prop_assert!(names(&a).is_disjoint(&names(&b)));
    }
}
