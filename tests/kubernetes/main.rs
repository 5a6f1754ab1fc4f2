//! Kubernetes' body on a real Kubernetes. Here: every manifest of every lab is taken, the controllers make pods that are what the plan
//! says, and mistakes are refused. Pods that run: `nodes`.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test that cannot go on has failed")]

mod cluster;
mod commands;
mod nodes;
#[path = "../support/mod.rs"]
mod support;

use std::collections::{BTreeMap, BTreeSet};
use std::process::Command;
use std::time::Duration;

use cluster::Cluster;
use serde_json::Value;
use streamlab::probes::{Answer, eventually};
use streamlab::topology::{Instance, Plan, Ready, Service};
use support::text;

const PATIENCE: Duration = Duration::from_secs(120);
const EVERY: Duration = Duration::from_millis(200);
const NAME: &str = "app.kubernetes.io/name";

#[tokio::test]
async fn every_lab_is_taken_and_its_pods_are_what_the_plan_says() {
    let cluster = Cluster::start().await;
    for lab in cluster.file.labs_in_order() {
        let (folder, namespace) = (format!("/deploy/kubernetes/{lab}"), format!("streamlab-{lab}"));
        cluster.takes(&["--filename", &format!("{folder}/base/namespace.yaml")], "");
        for overlay in cluster.file.overlays.keys() {
            cluster.takes(&["--dry-run=server", "--kustomize", &format!("{folder}/overlays/{overlay}")], "");
        }
        cluster.takes(&["--kustomize", &format!("{folder}/base")], "");
        let pods = cluster.pods(&namespace).await;
        let plan = cluster.file.plan(lab, Instance::documented()).unwrap();
        let mut seen = 0;
        for service in &plan.services {
            let writes = plan
                .services
                .iter()
                .any(|other| plan.file_writers_for(other).iter().any(|writer| writer.name == service.name));
            let is_of = |pod: &&Value| {
                pod["metadata"]["name"] == service.name.as_str()
                    || pod["metadata"]["labels"][NAME] == service.name.as_str()
            };
            let found = pods.iter().find(is_of);
            assert_eq!(found.is_none(), writes, "{lab}: {}", service.name);
            if let Some(pod) = found {
                is_as_planned(service, pod);
                seen += 1;
            }
        }
        assert_eq!(seen, pods.len(), "{lab}");
        addresses_are_known(&cluster, &namespace, &plan);
        // What is taken once is taken again, and nothing of it is another.
        let again = cluster.kubectl(&["diff", "--kustomize", &format!("{folder}/base")], "");
        assert!(again.status.success(), "{}", text(&again));
    }
}

fn is_as_planned(service: &Service, pod: &Value) {
    let name = &service.name;
    let container = &pod["spec"]["containers"][0];
    let list = |value: &Value| -> Vec<String> {
        value.as_array().into_iter().flatten().map(|text| text.as_str().unwrap().to_owned()).collect()
    };
    let pod_name = pod["metadata"]["name"].as_str().unwrap();
    let filled = |text: &str| text.replace("$(POD_NAME)", pod_name).replace("$$(", "$(");
    let args: Vec<String> = list(&container["args"]).iter().map(|text| filled(text)).collect();
    assert_eq!(args, service.command, "{name}");
    let mut environment: BTreeMap<String, String> = container["env"]
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(|entry| Some((entry["name"].as_str()?.to_owned(), filled(entry["value"].as_str()?))))
        .collect();
    // What a shell sets before it hands over, as it sets it.
    if let Some(script) = list(&container["command"]).get(2) {
        let mut set = Command::new("bash");
        set.args(["-ec", script, "bash", "env"]).env_clear().env("POD_NAME", pod_name);
        let said = set.env("PATH", std::env::var("PATH").unwrap()).output().unwrap();
        let lines = String::from_utf8(said.stdout).unwrap();
        let pairs = lines.lines().filter_map(|line| line.split_once('='));
        environment.extend(
            pairs
                .filter(|(key, _)| service.environment.contains_key(*key))
                .map(|(k, v)| (k.to_owned(), v.to_owned())),
        );
    }
    environment.remove("POD_NAME");
    let mut planned = service.environment.clone();
    if service.engine_socket {
        planned.retain(|variable, _| !["NETWORK", "CONTAINER_NAME"].contains(&variable.as_str()));
    }
    assert_eq!(environment, planned, "{name}");
    let memory = container["resources"]["limits"]["memory"].as_str().unwrap();
    // The API server writes 1024Mi as 1Gi.
    let mebibytes = memory.strip_suffix("Gi").map_or_else(
        || memory.strip_suffix("Mi").unwrap().parse::<u64>().unwrap(),
        |gibibytes| gibibytes.parse::<u64>().unwrap() << 10,
    );
    assert_eq!(mebibytes, service.memory >> 20, "{name}");
    let ports: BTreeSet<i64> = container["ports"]
        .as_array()
        .into_iter()
        .flatten()
        .map(|port| port["containerPort"].as_i64().unwrap())
        .collect();
    assert_eq!(ports, service.ports.iter().map(|port| i64::from(port.container)).collect(), "{name}");
    let mounted: BTreeSet<&str> = container["volumeMounts"]
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(|mount| mount["mountPath"].as_str())
        .collect();
    let files = service.files.iter().map(|mount| mount.path.as_str());
    let volumes = service.volumes.iter().map(|volume| volume.path.as_str());
    let wanted: BTreeSet<&str> = files
        .chain(volumes)
        .chain(service.addons.iter().map(|addon| addon.path.as_str()))
        .chain(["/tmp"])
        .collect();
    assert!(mounted.is_superset(&wanted), "{name}: {mounted:?}");
    let asked = list(&container["readinessProbe"]["exec"]["command"]);
    match &service.health {
        Some(health) if pod_name == service.name => {
            // In a group a shell fills in what differs.
            let script = asked[2].replacen("exec ", "printf '%s\n' ", 1);
            let said =
                Command::new("bash").args(["-ec", &script]).env("POD_NAME", pod_name).output().unwrap();
            let said = String::from_utf8(said.stdout).unwrap();
            if asked[1] == "-c" {
                assert_eq!(said.lines().collect::<Vec<_>>(), health.command, "{name}");
            } else {
                assert_eq!(asked, health.command, "{name}");
            }
        }
        Some(health) => assert_eq!(asked, health.command, "{name}"),
        None => assert!(asked.is_empty() && service.ready == Ready::Completed, "{name}"),
    }
}

/// Every name and port that settings speak of is a service of the cluster.
fn addresses_are_known(cluster: &Cluster, namespace: &str, plan: &Plan) {
    let services = cluster.get("services", namespace);
    let known: BTreeMap<&str, BTreeSet<i64>> = services
        .iter()
        .map(|service| {
            let ports = service["spec"]["ports"]
                .as_array()
                .unwrap()
                .iter()
                .map(|port| port["port"].as_i64().unwrap());
            (service["metadata"]["name"].as_str().unwrap(), ports.collect())
        })
        .collect();
    for service in plan.services.iter().filter(|s| !s.ports.is_empty()) {
        let ports = known.get(service.name.as_str()).unwrap_or_else(|| panic!("no service {}", service.name));
        assert!(
            service.ports.iter().all(|port| ports.contains(&i64::from(port.container))),
            "{}",
            service.name
        );
    }
}

#[tokio::test]
async fn mistakes_are_refused() {
    let cluster = Cluster::start().await;
    let folder = "/deploy/kubernetes/events/base";
    let whole = text(&cluster.kubectl(&["kustomize", folder], ""));
    cluster.takes(&["--filename", &format!("{folder}/namespace.yaml")], "");
    for (from, to, why) in [
        ("  replicas: 1\n", "  replica: 1\n", "unknown field \"spec.replica\""),
        ("containerPort: 9092\n", "containerPort: 99092\n", "must be between 1 and 65535"),
        ("  replicas: 1\n", "  replicas: one\n", "replicas"),
        ("restartPolicy: OnFailure\n", "restartPolicy: Always\n", "valid values: \"OnFailure\", \"Never\""),
        ("storage: 2Gi\n", "storage: two\n", "quantities must match"),
    ] {
        assert!(whole.contains(from), "nothing to replace: {from}");
        let refused = cluster.kubectl(
            &["apply", "--validate=strict", "--dry-run=server", "--filename", "-"],
            &whole.replacen(from, to, 1),
        );
        assert!(!refused.status.success() && text(&refused).contains(why), "{to}: {}", text(&refused));
    }
    // A pod that wants more than it needs is made by nobody: the namespace forbids it.
    let planted = whole.replace("allowPrivilegeEscalation: false", "allowPrivilegeEscalation: true");
    let warned = cluster.kubectl(&["apply", "--filename", "-"], &planted);
    assert!(text(&warned).contains("would violate PodSecurity \"restricted"), "{}", text(&warned));
    let said = eventually("the controllers say why there are no pods", PATIENCE, EVERY, || async {
        let events = cluster.get("events", "streamlab-events");
        let forbidden =
            |event: &&Value| event["message"].as_str().is_some_and(|m| m.contains("violates PodSecurity"));
        let kinds: BTreeSet<String> =
            events.iter().filter(forbidden).map(|e| e["involvedObject"]["kind"].to_string()).collect();
        Ok(if kinds.len() == 3 { Answer::Is(()) } else { Answer::NotYet(format!("{kinds:?}")) })
    });
    said.await.unwrap();
    assert_eq!(cluster.get("pods", "streamlab-events").len(), 0);
}
