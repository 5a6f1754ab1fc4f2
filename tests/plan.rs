//! The plans of the labs, printed; what holds for every plan; and that the definition writes no port twice.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test that cannot go on has failed")]

mod support;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::path::PathBuf;
use std::sync::LazyLock;

use proptest::prelude::*;
use serde_json::Value;
use streamlab::project::{Project, definition};
use streamlab::scenarios::transactions;
use streamlab::topology::{Endpoints, Instance, LabFile, Plan};

/// Parsed and checked once: property tests ask it some hundred times.
static DEFINITION: LazyLock<LabFile> =
    LazyLock::new(|| Project::open(Some(&support::root().join("lab.toml")), PathBuf::new()).unwrap().file);

fn resolved(instance: &str, offset: u16) -> Plan {
    DEFINITION.plan("transactions", Instance::new(instance, offset).unwrap()).unwrap()
}

/// Every field of the plan, one a line; those that are empty are left out.
fn printed(plan: &Plan) -> String {
    let Value::Object(whole) = serde_json::to_value(plan).unwrap() else { panic!("no object") };
    let mut text = String::new();
    let empty = |value: &Value| match value {
        Value::Null | Value::Bool(false) => true,
        Value::Array(items) => items.is_empty(),
        Value::Object(fields) => fields.is_empty(),
        _ => false,
    };
    for (field, value) in whole.iter().filter(|(field, _)| !["lab", "services"].contains(&field.as_str())) {
        match value {
            Value::Object(entries) => {
                entries.iter().for_each(|(name, value)| writeln!(text, "{field} {name}: {value}").unwrap());
            }
            Value::Array(entries) => {
                entries.iter().for_each(|value| writeln!(text, "{field}: {value}").unwrap())
            }
            value => writeln!(text, "{field}: {value}").unwrap(),
        }
    }
    for service in whole["services"].as_array().unwrap() {
        writeln!(text, "\n{}", service["name"].as_str().unwrap()).unwrap();
        for (field, value) in service.as_object().unwrap().iter().filter(|(f, v)| *f != "name" && !empty(v)) {
            match value {
                Value::Object(entries) if field == "environment" => {
                    entries.iter().for_each(|(name, value)| writeln!(text, "  {name}={value}").unwrap());
                }
                value => writeln!(text, "  {field}: {value}").unwrap(),
            }
        }
    }
    text
}

/// The plan of each lab as it is documented: what every body gets. A difference is reviewed like code.
#[test]
fn the_plans_are_those_that_were_reviewed() {
    let file = &*DEFINITION;
    // Labs with one plan are printed once.
    let mut plans: BTreeMap<String, Vec<&str>> = BTreeMap::new();
    for lab in file.labs.keys() {
        plans.entry(printed(&file.plan(lab, Instance::documented()).unwrap())).or_default().push(lab);
    }
    for (plan, labs) in plans {
        insta::assert_snapshot!(format!("plan_of_{}", labs.join("_and_")), plan);
    }
}

/// Ports that services or documented commands write out where a token belongs. `seed` lines are quotations and not looked at.
fn written_out(file: &LabFile) -> Vec<String> {
    let specs = file.services.values();
    let mut ports: BTreeSet<String> =
        specs.flat_map(|s| s.ports.values()).map(|p| p.port.to_string()).collect();
    for lab in file.labs.keys() {
        let plan = file.plan(lab, Instance::documented()).unwrap();
        ports.extend(plan.host_ports().map(|(port, ..)| port.to_string()));
    }
    let of_services = file.services.iter().flat_map(|(name, service)| {
        // A time in milliseconds is no port.
        let values = service.environment.iter().filter(|(variable, _)| !variable.ends_with("_MS"));
        service.command.iter().chain(values.map(|(_, value)| value)).map(move |text| (name, text))
    });
    let of_commands = file.commands.iter().map(|c| (c.id.get_ref(), &c.run));
    let mut found = Vec::new();
    for (place, text) in of_services.chain(of_commands) {
        // Without its tokens: what is before the first `{`, and after each `}`.
        let literal = text.get_ref().split('{').enumerate().map(|(n, part)| match part.split_once('}') {
            Some((_, after)) if n > 0 => after,
            _ => part,
        });
        let numbers = literal.flat_map(|part| part.split(|c: char| !c.is_ascii_digit()));
        found.extend(
            numbers.filter(|n| ports.contains(*n)).map(|n| format!("{place}: {n} in {}", text.get_ref())),
        );
    }
    found
}

#[test]
fn no_port_is_written_twice() {
    let found = written_out(&DEFINITION);
    assert!(found.is_empty(), "write tokens instead (src/topology/tokens.rs): {found:#?}");
    let parts = definition(&support::root().join("lab.toml")).unwrap();
    let text: String = parts.into_iter().map(|(_, text)| text + "\n").collect();
    let plan = resolved("default", 0);
    for token in ["{kafka-broker-1#local}", "{spark-master.ui}", "{schema-registry.api}"] {
        let literal = plan.fill(&DEFINITION, token).unwrap();
        assert!(text.contains(token));
        let planted = LabFile::parse(&text.replacen(token, &literal, 1)).unwrap();
        assert_eq!(written_out(&planted).len(), 1, "{literal} is not seen");
    }
}

/// A lab is a table and no more; rows come to it by what it has.
#[test]
fn a_new_lab_gets_the_rows_that_it_has_all_stations_of() {
    let parts = definition(&support::root().join("lab.toml")).unwrap();
    let mut text: String = parts.into_iter().map(|(_, text)| text + "\n").collect();
    text += r#"
        [labs.small]
        about = "one node and a registry"
        network = "small"
        scenarios = ["events"]
        services = ["kafka-node", "schema-registry", "lab-setup"]
    "#;
    let file = LabFile::parse(&text).unwrap();
    let flows: Vec<&str> = file.flows_of("small").iter().map(|f| f.id.get_ref().as_str()).collect();
    assert_eq!(flows, ["events-record", "events-schema", "events-commands"]);
    assert_eq!(file.faults_of("small").len(), 2, "the registry's");
    assert!(file.alerts_of("small").is_empty(), "nobody sends alerts on");
    assert!(!file.alerts_of("events").is_empty());
    let plan = file.plan("small", Instance::documented()).unwrap();
    assert_eq!(plan.topics.len(), 5);
    assert_eq!(plan.roles.keys().collect::<Vec<_>>(), ["kafka", "kafka-quorum", "schema-registry"]);
}

/// The constants of a scenario's code, and those of the Spark job, are rows of the topics table.
#[test]
fn topics_that_code_names_are_in_the_definition() {
    let job =
        std::fs::read_to_string(support::root().join("jobs/financial_transaction_processor.py")).unwrap();
    let of_job: Vec<&str> = ["INPUT", "AGGREGATES", "HIGH_VALUE", "DEAD_LETTER"]
        .iter()
        .map(|name| {
            let line = job.lines().find_map(|l| l.strip_prefix(&format!("{name} = \"")));
            line.unwrap_or_else(|| panic!("the job has no constant {name}")).trim_end_matches('"')
        })
        .collect();
    use transactions::{AGGREGATES_TOPIC, AVRO_TOPIC, DEAD_LETTER_TOPIC, HIGH_VALUE_TOPIC, TOPIC};
    assert_eq!(of_job, [TOPIC, AGGREGATES_TOPIC, HIGH_VALUE_TOPIC, DEAD_LETTER_TOPIC]);
    let plan = resolved("default", 0);
    let documented: BTreeSet<&str> = plan.topics.iter().map(|t| t.name.as_str()).collect();
    for topic in of_job.into_iter().chain([AVRO_TOPIC]) {
        assert!(documented.contains(topic), "{topic} is no row of topology/topics.toml");
    }
}

#[test]
fn the_default_instance_has_the_documented_names() {
    let plan = resolved("default", 0);
    assert_eq!(plan.network, "codewithyu");
    assert!(plan.services.iter().all(|s| s.container == s.name));
    assert!(plan.host_ports().all(|(host, _, p)| Some(host) == p.documented));
}

/// On the tiny definition, so that a changed port of the real one changes nothing here.
#[test]
fn a_service_and_its_endpoints_in_another_instance() {
    let text = std::fs::read_to_string(support::root().join("tests/tiny/lab.toml")).unwrap();
    let tiny = LabFile::parse(&text).unwrap().plan("tiny", Instance::new("test", 100).unwrap()).unwrap();
    insta::assert_json_snapshot!((tiny.service("alpha").unwrap(), Endpoints::of(&tiny)));
}

#[test]
fn a_part_of_the_lab_brings_what_it_needs_and_no_more() {
    let part = resolved("default", 0).only(&DEFINITION, ["lab-setup"]).unwrap();
    let names: Vec<_> = part.services.iter().map(|s| s.name.as_str()).collect();
    let controllers = ["kafka-controller-1", "kafka-controller-2", "kafka-controller-3"];
    assert_eq!(names[..3], controllers, "brokers do not start without controllers");
    assert_eq!(
        names[3..],
        ["kafka-broker-1", "kafka-broker-2", "kafka-broker-3", "schema-registry", "lab-setup"]
    );
}

#[test]
fn what_prometheus_reads_has_this_instances_addresses_and_the_documented_names() {
    let lab = resolved("default", 0);
    // The smallest move that puts no port on a documented one.
    let moved = |offset| DEFINITION.plan("transactions", Instance::new("other", offset).unwrap());
    let other = (1..1000).find_map(|offset| moved(offset).ok()).unwrap();
    assert_eq!(lab.targets().len(), other.targets().len());
    for (here, there) in lab.targets().into_iter().zip(other.targets()) {
        assert_eq!((&here.job, &here.instance, &here.path), (&there.job, &there.instance, &there.path));
        assert_eq!(there.address, format!("other-{}", here.address));
    }
    // Two pages with the same labels would be one series.
    let labels: BTreeSet<_> = lab.targets().into_iter().map(|t| (t.job, t.instance)).collect();
    assert_eq!(labels.len(), lab.targets().len());
    // A part of the lab reads only what it has.
    let part = lab.only(&DEFINITION, ["alertmanager"]).unwrap();
    let setup = part.service("monitoring-setup").unwrap();
    let targets: serde_json::Value = serde_json::from_str(&setup.environment["TARGETS"]).unwrap();
    let instances: BTreeSet<_> =
        targets.as_array().unwrap().iter().map(|t| t["labels"]["instance"].as_str().unwrap()).collect();
    assert_eq!(instances, BTreeSet::from(["alert-receiver", "alertmanager"]));
    assert_eq!(setup.environment["PROBES"], "[]");
}

proptest! {
    /// Whatever the offset: host ports are the documented ones moved by it, unique, and never another's documented one.
    #[test]
    fn every_offset_that_resolves_moves_every_port(offset in 1..16_443_u16) {
        let file = &*DEFINITION;
        let Ok(plan) = file.plan("transactions", Instance::new("other", offset).unwrap()) else { return Ok(()) };
        let documented: BTreeSet<u16> = resolved("default", 0).host_ports().map(|(p, ..)| p).collect();
        let mut seen = BTreeMap::new();
        for (host, service, port) in plan.host_ports() {
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
            let plan = DEFINITION.plan("transactions", Instance::new(name, 0).unwrap()).unwrap();
            let volumes = plan.services.iter().flat_map(|s| s.volumes.iter().map(|v| v.name.clone()));
            let containers = plan.services.iter().map(|s| s.container.clone());
            volumes.chain(containers).chain([plan.network.clone()]).collect()
        };
        prop_assert!(names(&a).is_disjoint(&names(&b)));
    }
}
