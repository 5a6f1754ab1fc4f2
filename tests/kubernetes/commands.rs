//! `lab kube` with pods that run: the lab `events` from images of the lab's own registry, its flows proven from this machine, a pod killed,
//! a node drained, and what a cluster has against a lab said with its own words.

use std::collections::BTreeMap;
use std::io::{BufRead as _, BufReader};
use std::process::{Child, Command, Stdio};

use streamlab::clients::kafka;
use streamlab::probes::{Answer, eventually};

use crate::nodes::Nodes;
use crate::support::{cargo, root, run, text};
use crate::{EVERY, PATIENCE};

const NAMESPACE: &str = "streamlab-events";
const KAFKA: &str = "localhost:9092";
/// A topic of the test's own.
const KEPT: &str = "kept";

/// `lab kube up`, which holds the lab's addresses.
struct Held(Child);

impl Drop for Held {
    fn drop(&mut self) {
        // Not to be killed: it has programs of its own to end.
        let _ = Command::new("kill").args(["-s", "INT", &self.0.id().to_string()]).output();
        let _ = self.0.wait();
    }
}

#[tokio::test]
async fn the_lab_events_runs_on_two_nodes_and_keeps_its_data() {
    assert!(run(&["images", "build", "streamlab"]).status.success());
    let nodes = Nodes::start().await;
    let pushed = nodes.lab(&["images", "push", &nodes.registry, "--lab", "events"]).output().unwrap();
    assert!(
        pushed.status.success() && text(&pushed).contains("kustomize edit set image"),
        "{}",
        text(&pushed)
    );

    what_is_not_allowed_is_refused_before_anything_is_changed(&nodes);
    let held = up(&nodes);
    let failing = from_nowhere(&nodes);
    flows_are_proven();
    only_who_may_reaches_kafka(&nodes);

    kafka::create_topic(KAFKA, KEPT, 3).await.unwrap();
    for number in 0..10 {
        kafka::write(KAFKA, KEPT, format!("record {number}").as_bytes()).await.unwrap();
    }
    let before = offsets().await;
    assert_eq!(before.values().map(|(first, next)| next - first).sum::<i64>(), 10);
    let pod = |field: &str| {
        let path = format!("jsonpath={{{field}}}");
        nodes.does(&["get", "pod", "kafka-0", "--namespace", NAMESPACE, "--output", &path])
    };

    let first = pod(".metadata.uid");
    nodes.does(&["delete", "pod", "kafka-0", "--namespace", NAMESPACE, "--grace-period", "0", "--force"]);
    is_ready_again(&nodes);
    assert_ne!(pod(".metadata.uid"), first);
    assert_eq!(offsets().await, before, "a pod was killed");

    let node = pod(".spec.nodeName");
    let drain = ["drain", &node, "--ignore-daemonsets", "--delete-emptydir-data", "--timeout", "120s"];
    nodes.does(&drain);
    is_ready_again(&nodes);
    assert_ne!(pod(".spec.nodeName"), node);
    assert_eq!(offsets().await, before, "a node was drained");
    nodes.does(&["uncordon", &node]);

    what_was_changed_by_hand_is_said_and_put_right(&nodes);
    consumers_are_scaled(&nodes);
    drop(held);
    what_does_not_start_is_said(&nodes, failing);
    let down = nodes.lab(&["kube", "down", "--lab", "events", "--yes"]).output().unwrap();
    assert!(down.status.success() && text(&down).contains("lab events is gone"), "{}", text(&down));
    assert_eq!(nodes.does(&["get", "namespace", NAMESPACE, "--ignore-not-found"]), "");
}

/// Everything is there, and whoever has put it there holds its addresses.
fn up(nodes: &Nodes) -> Held {
    let arguments = ["kube", "up", "--lab", "events", "--registry", &nodes.registry, "--yes"];
    let mut command = nodes.lab(&arguments);
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let mut said = String::new();
    for line in lines {
        said += &(line.unwrap() + "\n");
        if said.contains("Ctrl-C ends these addresses") {
            return Held(child);
        }
    }
    panic!("{said}{}", text(&child.wait_with_output().unwrap()));
}

fn flows_are_proven() {
    let endpoints = root().join("compose/events.upstream.endpoints.json");
    let mut spec = cargo(&["test", "--test", "spec", "flow::"]);
    let ran = spec.env("LAB", "events").env("LAB_ATTACH", endpoints).output().unwrap();
    let said = text(&ran);
    let proven =
        said.lines().filter(|line| line.starts_with("test flow::") && line.ends_with("... ok")).count();
    assert!(ran.status.success() && proven >= 9, "{proven} flows proven\n{said}");
}

/// The nodes hold the policies: the flows have passed them.
fn only_who_may_reaches_kafka(nodes: &Nodes) {
    for (pod, may) in [("deployment/event-producer", true), ("deployment/mail-sink", false)] {
        let asks = ["timeout", "5", "bash", "-c", ": <>/dev/tcp/kafka/29092"];
        let exec = ["exec", pod, "--namespace", NAMESPACE, "--"];
        let asked = nodes.kubectl(&[&exec[..], &asks].concat());
        let said = text(&asked);
        assert_eq!(asked.status.success(), may, "{pod}: {said}");
        assert!(may || said.contains("Connection refused") || said.contains("124"), "{pod}: {said}");
    }
}

/// First and next offset of each partition. The way to the broker is made anew where its pod is another.
async fn offsets() -> BTreeMap<i32, (i64, i64)> {
    let asked = eventually("the topic's offsets", PATIENCE, EVERY, || async {
        Ok(Answer::Is(kafka::offsets(KAFKA, KEPT).await?))
    });
    asked.await.unwrap()
}

/// As anybody would see it: the same command again changes nothing and waits.
fn is_ready_again(nodes: &Nodes) {
    let arguments = ["kube", "up", "--lab", "events", "--registry", &nodes.registry, "--detach"];
    let again = nodes.lab(&arguments).output().unwrap();
    assert!(again.status.success(), "{}", text(&again));
    assert!(text(&again).contains("lab events is there as it should be"), "{}", text(&again));
}

/// Runs a command of `lab kube` that fails; its words.
fn fails(nodes: &Nodes, arguments: &[&str]) -> String {
    let failed = nodes.lab(&[&["kube"], arguments].concat()).output().unwrap();
    assert_eq!(failed.status.code(), Some(1), "{}", text(&failed));
    text(&failed)
}

fn what_is_not_allowed_is_refused_before_anything_is_changed(nodes: &Nodes) {
    let up = ["up", "--lab", "events", "--registry", nodes.registry.as_str()];
    let with = |more: &[&str]| fails(nodes, &[&up[..], more].concat());
    let said = with(&[]);
    assert!(
        said.contains("Nobody can be asked here") && said.contains("cluster   lab (https://127"),
        "{said}"
    );
    assert!(with(&["--context", "nowhere"]).contains("kubectl knows no context nowhere"));
    assert!(with(&["--overlay", "stage"]).contains("lab events has no overlay stage; it has dev, prod"));
    // Somebody who may only look.
    nodes.does(&["create", "serviceaccount", "guest"]);
    let token = nodes.does(&["create", "token", "guest"]);
    nodes.does(&["config", "set-credentials", "guest", "--token", token.trim()]);
    nodes.does(&["config", "set-context", "guest", "--cluster", "lab", "--user", "guest"]);
    nodes.does(&["create", "clusterrole", "look", "--verb", "get,list", "--resource", "namespaces"]);
    nodes.does(&[
        "create",
        "clusterrolebinding",
        "look",
        "--clusterrole",
        "look",
        "--serviceaccount",
        "default:guest",
    ]);
    let said = with(&["--context", "guest", "--yes"]);
    assert!(
        said.contains("may not create services, configmaps") && said.contains("namespaces for namespace"),
        "{said}"
    );
    // Nobody is there.
    nodes.does(&["config", "set-cluster", "gone", "--server", "https://127.0.0.1:9"]);
    nodes.does(&["config", "set-context", "gone", "--cluster", "gone", "--user", "admin"]);
    let said = with(&["--context", "gone", "--yes"]);
    assert!(said.contains("the cluster gone (https://127.0.0.1:9) does not answer"), "{said}");
    // Somebody else's.
    nodes.does(&["create", "namespace", "streamlab-logs"]);
    let logs = ["--lab", "logs"];
    for command in [&["up", "--registry", "x", "--yes"][..], &["status"], &["down", "--yes"]] {
        let said = fails(nodes, &[command, &logs].concat());
        assert!(said.contains("namespace streamlab-logs on lab"), "{said}");
        assert!(said.contains("is somebody else's"), "{said}");
    }
    nodes.does(&["delete", "namespace", "streamlab-logs"]);
    assert_eq!(nodes.does(&["get", "namespace", NAMESPACE, "--ignore-not-found"]), "");
    assert!(fails(nodes, &["status", "--lab", "events"]).contains("lab events is not on this cluster"));
}

fn what_was_changed_by_hand_is_said_and_put_right(nodes: &Nodes) {
    nodes.does(&["scale", "deployment", "log-producer", "--replicas", "0", "--namespace", NAMESPACE]);
    let differs = "deployment/log-producer: spec.replicas is 0, not 1";
    let status = text(&nodes.lab(&["kube", "status", "--lab", "events"]).output().unwrap());
    assert!(status.contains(differs), "{status}");
    assert!(status.lines().filter(|line| line.ends_with(" yes")).count() >= 17, "{status}");
    let up = ["kube", "up", "--lab", "events", "--registry", &nodes.registry, "--detach", "--yes"];
    let put_right = nodes.lab(&up).output().unwrap();
    assert!(put_right.status.success() && text(&put_right).contains(differs), "{}", text(&put_right));
    let replicas = ["get", "deployment", "log-producer", "--namespace", NAMESPACE, "--output"];
    assert_eq!(nodes.does(&[&replicas[..], &["jsonpath={.status.readyReplicas}"]].concat()), "1");
}

fn consumers_are_scaled(nodes: &Nodes) {
    let refused = |workload, count| fails(nodes, &["scale", "--lab", "events", workload, count, "--yes"]);
    assert!(refused("analytics-consumer", "4").contains("analytics-consumer: at most 3"));
    let said = refused("kafka", "2");
    assert!(said.contains("what can: alert-consumer, analytics-consumer, logger-consumer"), "{said}");
    let scale = ["kube", "scale", "--lab", "events", "analytics-consumer", "3", "--yes"];
    let scaled = nodes.lab(&scale).output().unwrap();
    assert!(scaled.status.success(), "{}", text(&scaled));
    let ready = ["get", "deployment", "analytics-consumer", "--namespace", NAMESPACE, "--output"];
    assert_eq!(nodes.does(&[&ready[..], &["jsonpath={.status.readyReplicas}"]].concat()), "3");
    // It stays so.
    is_ready_again(nodes);
}

/// Images from nowhere, and classes of storage that this cluster has not. It takes a while to be sure of that.
fn from_nowhere(nodes: &Nodes) -> Child {
    let up = [
        "kube",
        "up",
        "--lab",
        "logs",
        "--overlay",
        "prod",
        "--registry",
        "127.0.0.1:9/nowhere",
        "--yes",
        "--detach",
    ];
    nodes.lab(&up).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
}

fn what_does_not_start_is_said(nodes: &Nodes, up: Child) {
    let failed = up.wait_with_output().unwrap();
    let said = text(&failed);
    assert_eq!(failed.status.code(), Some(1), "{said}");
    for part in [
        "the lab logs on lab",
        "does not become ready",
        "image 127.0.0.1:9/nowhere/streamlab:",
        "cannot be pulled",
        "connection refused",
        "pod kafka-0 finds no node",
        "storageclass.storage.k8s.io \"streamlab\" not found",
        "./lab kube down --lab logs",
    ] {
        assert!(said.contains(part), "{part}: {said}");
    }
    let down = nodes.lab(&["kube", "down", "--lab", "logs", "--yes"]).output().unwrap();
    assert!(down.status.success(), "{}", text(&down));
}
