//! The definition: what is rendered from it has not drifted, and each kind of mistake is found with its line.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test that cannot go on has failed")]

mod support;

use std::collections::BTreeSet;
use std::path::PathBuf;

use proptest::prelude::*;
use rstest::rstest;
use streamlab::project::{Project, definition as definition_of, lock_entries};
use streamlab::render::pages;
use streamlab::topology::{Instance, LabFile, Source};

fn definition() -> String {
    let parts = definition_of(&support::root().join("lab.toml")).unwrap();
    parts.into_iter().map(|(_, text)| text + "\n").collect()
}

fn parsed() -> LabFile {
    LabFile::parse(&definition()).unwrap()
}

#[test]
fn rendered_pages_have_not_drifted() {
    let project = Project::open(Some(&support::root().join("lab.toml")), PathBuf::new()).unwrap();
    let pages = pages(&project.file, &project.render_inputs().unwrap()).unwrap();
    let strays: Vec<_> =
        project.rendered_files().unwrap().into_iter().filter(|f| !pages.contains_key(f)).collect();
    assert!(strays.is_empty(), "run ./lab render, which removes {strays:?}");
    for (path, text) in pages {
        let there = std::fs::read_to_string(support::root().join(&path)).unwrap_or_default();
        assert!(there == text, "{path} differs from lab.toml: run ./lab render and review the difference");
    }
}

/// Kubernetes counts the members of a group, so their names and settings must be countable.
#[rstest]
#[case::names(
    "name = \"kafka-broker-3\", node = 6",
    "name = \"kafka-broker-7\", node = 6",
    "kafka-broker-3 was expected next"
)]
#[case::no_numbers(
    "name = \"kafka-broker-1\", node = 4",
    "name = \"kafka-broker\", node = 4",
    "must end with its number"
)]
#[case::settings(
    "node = 6, host = { host = 49092 }",
    "node = 6, host = { host = 49093 }",
    "is not evenly spaced"
)]
fn a_group_that_cannot_be_counted_is_refused(#[case] from: &str, #[case] to: &str, #[case] why: &str) {
    let mut project = Project::open(Some(&support::root().join("lab.toml")), PathBuf::new()).unwrap();
    let inputs = project.render_inputs().unwrap();
    let text = definition();
    assert!(text.contains(from), "nothing to replace: {from}");
    // Commands, faults and pages name the old name: what is asked here is what the group itself is worth.
    let new = to.split('"').nth(1).filter(|_| to.starts_with("name"));
    let old = from.split('"').nth(1).filter(|_| from.starts_with("name"));
    let text = text.replacen(from, to, 1);
    let text = old.zip(new).map_or(text.clone(), |(old, new)| text.replace(old, new));
    project.file = LabFile::parse(&text).unwrap_or_else(|e| panic!("{e:?}"));
    let error = pages(&project.file, &inputs).unwrap_err().to_string();
    assert!(error.contains(why), "{error}");
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
    let mut without = Vec::new();
    for lab in file.labs_in_order() {
        let whole = file.plan(lab, Instance::documented()).unwrap();
        let part = Source::Local.part_of(&file, &whole).unwrap();
        let left = whole.services.iter().filter(|s| part.service(&s.name).is_none());
        without.push(format!("{lab}: {}", left.map(|s| s.name.as_str()).collect::<Vec<_>>().join(", ")));
    }
    insta::assert_debug_snapshot!(without, @r#"
    [
        "transactions: redpanda-console, grafana",
        "events: ",
        "full: redpanda-console, kb-container, kibana-setup, grafana",
        "logs: kb-container, kibana-setup, grafana",
        "logs-prod: kb-container, kibana-setup, grafana",
    ]
    "#);
}

/// Each planted mistake: what is replaced by what, and what must be said about which text of the line.
#[rstest]
#[case::unknown_key("stops_last = true", "stops_lst = true", "unknown field `stops_lst`", "stops_lst")]
#[case::wrong_type("port = 9093", "port = \"9093\"", "invalid type", "controller = {")]
#[case::port_too_large("host = { host = 49092 }", "host = { host = 70000 }", "invalid value", "70000")]
#[case::host_port_twice_in_one_lab(
    "host = { host = 39092 }",
    "host = { host = 29092 }",
    "host port 29092 of kafka-broker-2 is already kafka-broker-1's in lab",
    "kafka-broker-2"
)]
#[case::host_port_twice_by_the_lab(
    "\"schema-registry.api\" = 8081",
    "\"schema-registry.api\" = 8095",
    "host port 8095 of alert-receiver is already schema-registry's in lab events",
    "8095"
)]
#[case::host_port_that_gives_way_onto_another(
    "gives_way = { to = \"redpanda-console\", host = 8079 }",
    "gives_way = { to = \"redpanda-console\", host = 9090 }",
    "host port 9090 of prometheus is already console's in lab",
    "about = \"Prometheus\""
)]
#[case::host_port_twice_without_public_images(
    "ui = { port = 8025, host = 8025",
    "ui = { port = 8025, gives_way = { to = \"redpanda-console\", host = 8078 }, host = 8080",
    "host port 8080 of mail-sink is already console's in lab transactions",
    "8078"
)]
#[case::gives_way_to_nobody(
    "gives_way = { to = \"redpanda-console\"",
    "gives_way = { to = \"redpanda-consol\"",
    "no role, service or group named \"redpanda-consol\"",
    "redpanda-consol"
)]
#[case::gives_way_without_a_host_port(
    "host = 8080, gives_way",
    "gives_way",
    "port \"web\" has no host port that it could give away",
    "redpanda-console"
)]
#[case::host_port_of_nothing(
    "\"schema-registry.api\" = 8081",
    "\"schema-registry.apu\" = 8081",
    "lab events has no port \"schema-registry.apu\": write SERVICE.PORT",
    "schema-registry.apu"
)]
#[case::replaced_port_that_is_there(
    "port = 2181",
    "port = 9092",
    "port 9092 is kafka's, so it is not replaced",
    "zookeeper"
)]
#[case::role_that_nobody_plays(
    "provides = { kafka-quorum = { port",
    "provides = { kafka-quorom = { port",
    "nobody plays kafka-quorum in lab",
    "KAFKA_CONTROLLER_QUORUM_VOTERS"
)]
#[case::role_of_nobody_at_all(
    "needs = [\"kafka\", \"schema-registry\"]",
    "needs = [\"kafkas\", \"schema-registry\"]",
    "no role, service or group named \"kafkas\"",
    "kafkas"
)]
#[case::role_that_two_play(
    "provides = { schema-registry = { port = \"api\" } }",
    "provides = { schema-registry = { port = \"api\" }, kafka = { port = \"api\" } }",
    "both kafka-node and schema-registry play kafka",
    "provides"
)]
#[case::role_by_no_port(
    "provides = { schema-registry = { port = \"api\" } }",
    "provides = { schema-registry = { port = \"apu\" } }",
    "schema-registry has no port named \"apu\"",
    "apu"
)]
#[case::after_nobody(
    "after_probes = true",
    "after = [\"nobody\"]",
    "no role, service or group named \"nobody\"",
    "nobody"
)]
#[case::token_of_another_lab(
    "HOST://localhost:{.host}\"\nKAFKA_CONTROLLER_LISTENER_NAMES = \"CONTROLLER\"\nKAFKA_LISTENER_SECURITY_PROTOCOL_MAP = \"CONTROLLER:PLAINTEXT,PLAINTEXT:PLAINTEXT,HOST:PLAINTEXT\"",
    "HOST://localhost:{spark-master.ui}\"",
    "{spark-master.ui} stands for nothing: lab events has no spark-master",
    "KAFKA_ADVERTISED_LISTENERS"
)]
#[case::token_of_no_port(
    "{alertmanager:web}",
    "{alertmanager:wep}",
    "{alertmanager:wep} stands for nothing: alertmanager has no port named \"wep\"",
    "ALERTMANAGER"
)]
#[case::token_of_a_value_of_another_lab(
    "values = { worker_memory = \"1g\", driver_memory",
    "values = { driver_memory",
    "{value.worker_memory} stands for nothing: lab",
    "worker_memory"
)]
#[case::more_replicas_than_brokers(
    "name = \"system-metrics\"",
    "name = \"system-metrics\"\nreplicas = 3",
    "topic \"system-metrics\" wants 3 replicas, lab events has 1 broker(s)",
    "replicas = 3"
)]
#[case::topic_twice(
    "name = \"application-logs\"",
    "name = \"user-events\"",
    "topic \"user-events\" is there twice",
    "user-events"
)]
#[case::scenario_of_no_lab(
    "about = \"figures of hosts, key host\"\nscenario = \"events\"",
    "about = \"figures of hosts, key host\"\nscenario = \"event\"",
    "no lab has the scenario \"event\"",
    "scenario"
)]
#[case::row_without_a_lab(
    "\"kafka-controllers\", \"kafka-brokers\"]\nproves",
    "\"kafka-controllers\", \"kafka-node\"]\nproves",
    "flow \"kraft-quorum\" belongs to no lab: none has all that it names",
    "kraft-quorum"
)]
#[case::flow_of_no_topic(
    "topics = [\"user-events\", \"application-logs\"",
    "topics = [\"user-event\", \"application-logs\"",
    "no topic named \"user-event\"",
    "user-event"
)]
#[case::flow_of_no_fault(
    "engine = true\nfault = \"quorum-lost\"",
    "engine = true\nfault = \"quorum-lots\"",
    "no fault named \"quorum-lots\"",
    "quorum-lots"
)]
#[case::name_twice_in_one_lab(
    "members = [{ name = \"kafka\", node = 1 }]",
    "members = [{ name = \"schema-registry\", node = 1 }]",
    "\"schema-registry\" is already a service or group of lab events",
    "image = \"schema-registry\""
)]
#[case::reserved_name(
    "members = [{ name = \"kafka\", node = 1 }]",
    "members = [{ name = \"role\", node = 1 }]",
    "no service may be called \"role\"",
    "image = \"kafka\""
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
    "no role, service or group named \"lab-set\"",
    "lab-set\""
)]
#[case::dangling_beside(
    "beside = [\"kafka-quorum\"]",
    "beside = [\"kafka-controller\"]",
    "no role, service or group named \"kafka-controller\"",
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
    "no role, service or group named \"kafka-broker-9\"",
    "kafka-broker-9"
)]
#[case::dangling_reference(
    "\"spark://{spark-master:cluster}\"]",
    "\"spark://{spark-mister:cluster}\"]",
    "its command: {spark-mister:cluster} stands for nothing: no service is named \"spark-mister\"",
    "spark-mister"
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
    "no role, service or group named \"kafka-controller-7\"",
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
    "\"kafka-controller-2\" is already a service or group of lab",
    "kafka-controller-2"
)]
#[case::need_outside_the_lab(
    "\"lab-setup\",\n  \"spark-master\"",
    "\"spark-master\"",
    "which lab transactions does not choose",
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
    "no role, service or group named \"kafka-broker-8\"",
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
    assert_eq!(said, format!("topology/faults.toml:{line}: no role, service or group named \"nobody\""));
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
}
