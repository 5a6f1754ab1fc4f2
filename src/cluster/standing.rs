//! How each workload of a lab stands, from what Kubernetes says of objects and events. Pure: nobody is asked here.

use std::collections::BTreeMap;
use std::fmt;

use serde_json::Value;

use crate::render::{MOVE_PARTITIONS, SERVICE};

/// How often a container may end before it is said that it does not stay.
const ENDS: u64 = 3;

/// Reasons of events: a cluster makes a node for a pod.
const NODE_COMES: [&str; 2] = ["TriggeredScaleUp", "Nominated"];
/// Reasons of events: a claim is served once its pod has a node.
const WAITS_FOR_POD: [&str; 2] = ["WaitForFirstConsumer", "WaitForPodScheduled"];

/// A workload and how it stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Standing {
    /// Its name, such as `kafka`.
    pub(crate) workload: String,
    /// How it stands.
    pub(crate) state: State,
}

/// How a workload stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum State {
    /// Every pod is ready, or has done its work.
    Ready,
    /// It comes by itself: what it waits for.
    Waits(String),
    /// It does not go on by itself: the object and what Kubernetes says of it.
    Stuck(String),
}

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ready => f.write_str("ready"),
            Self::Waits(what) | Self::Stuck(what) => f.write_str(what),
        }
    }
}

/// The objects of a namespace, as `kubectl get --output json` lists them.
#[derive(Debug, Default)]
pub(super) struct Seen<'a> {
    workloads: Vec<&'a Value>,
    pods: Vec<&'a Value>,
    claims: Vec<&'a Value>,
    events: Vec<&'a Value>,
}

impl<'a> Seen<'a> {
    pub(super) fn of(list: &'a Value) -> Self {
        let mut seen = Self::default();
        for item in list["items"].as_array().into_iter().flatten() {
            match item["kind"].as_str() {
                // It moves data of a lab that is ready.
                Some("Job") if item["metadata"]["name"] == MOVE_PARTITIONS => {}
                Some("Deployment" | "StatefulSet" | "Job") => seen.workloads.push(item),
                // What was thrown out of a node is replaced.
                Some("Pod") if item["status"]["phase"] == "Failed" => {}
                Some("Pod") => seen.pods.push(item),
                Some("PersistentVolumeClaim") => seen.claims.push(item),
                Some("Event") => seen.events.push(item),
                _ => {}
            }
        }
        seen.events.sort_by_key(|event| happened(event));
        seen
    }

    /// The last warning of an object; a Deployment speaks through its ReplicaSets, `NAME-HASH`.
    fn said(&self, kinds: &[&str], name: &str) -> Option<&'a str> {
        let of = |event: &&&Value| {
            let object = &event["involvedObject"];
            let Some(kind) = object["kind"].as_str().filter(|kind| kinds.contains(kind)) else {
                return false;
            };
            let Some(rest) = object["name"].as_str().and_then(|n| n.strip_prefix(name)) else { return false };
            let is_hash = rest.strip_prefix('-').is_some_and(|hash| !hash.contains('-'));
            rest.is_empty() || kind == "ReplicaSet" && is_hash
        };
        let last = self.events.iter().rev().find(|event| event["type"] == "Warning" && of(event));
        last.and_then(|event| event["message"].as_str())
    }
}

fn happened(event: &Value) -> &str {
    let times = [&event["series"]["lastObservedTime"], &event["lastTimestamp"], &event["eventTime"]];
    times.into_iter().find_map(Value::as_str).unwrap_or_default()
}

/// How every workload stands, in the order of their names.
pub(super) fn standings(seen: &Seen<'_>) -> Vec<Standing> {
    let of = |workload: &&Value| {
        let name = text(&workload["metadata"]["name"]);
        (name.to_owned(), Standing { workload: name.to_owned(), state: state(seen, workload, name) })
    };
    let sorted: BTreeMap<String, Standing> = seen.workloads.iter().map(of).collect();
    sorted.into_values().collect()
}

fn state(seen: &Seen<'_>, workload: &Value, name: &str) -> State {
    let status = &workload["status"];
    let is_job = workload["kind"] == "Job";
    let wanted = if is_job { 1 } else { workload["spec"]["replicas"].as_u64().unwrap_or(1) };
    let current = status["observedGeneration"].as_u64() >= workload["metadata"]["generation"].as_u64();
    let ready = if is_job {
        number(&status["succeeded"])
    } else if current {
        number(&status["readyReplicas"]).min(number(&status["updatedReplicas"]))
    } else {
        0
    };
    // A Deployment counts none where none is wanted.
    if ready >= wanted && (is_job || current) {
        return State::Ready;
    }
    let failed = status["conditions"]
        .as_array()
        .into_iter()
        .flatten()
        .find(|condition| condition["type"] == "Failed" && condition["status"] == "True");
    if let Some(failed) = failed {
        return State::Stuck(format!("job {name} failed: {}", text(&failed["message"])));
    }
    let pods: Vec<&&Value> =
        seen.pods.iter().filter(|pod| pod["metadata"]["labels"][SERVICE] == name).collect();
    let states: Vec<State> = pods.iter().filter_map(|pod| pod_state(seen, pod)).collect();
    if let Some(stuck) = states.iter().find(|state| matches!(state, State::Stuck(_))) {
        return stuck.clone();
    }
    if (pods.len() as u64) < wanted {
        return match seen.said(&["StatefulSet", "ReplicaSet", "Job", "Deployment"], name) {
            Some(why) => State::Stuck(format!("{name} gets no pod: {why}")),
            None => State::Waits(format!("{} of {wanted} pods", pods.len())),
        };
    }
    states.into_iter().next().unwrap_or_else(|| State::Waits(format!("{ready} of {wanted} ready")))
}

/// What a pod waits for; none where it is ready.
fn pod_state(seen: &Seen<'_>, pod: &Value) -> Option<State> {
    let name = text(&pod["metadata"]["name"]);
    let status = &pod["status"];
    if condition(pod, "Ready").is_some_and(|ready| ready["status"] == "True")
        || status["phase"] == "Succeeded"
    {
        return None;
    }
    if !pod["metadata"]["deletionTimestamp"].is_null() {
        return Some(State::Waits(format!("pod {name} ends")));
    }
    if let Some(unplaced) = condition(pod, "PodScheduled").filter(|c| c["status"] == "False") {
        let of_pod = seen.events.iter().filter(|event| event["involvedObject"]["name"] == name);
        if of_pod.into_iter().any(|event| NODE_COMES.contains(&text(&event["reason"]))) {
            return Some(State::Waits(format!("pod {name} waits for a node that is being made")));
        }
        let mut why = format!("pod {name} finds no node: {}", text(&unplaced["message"]));
        for claim in pending_claims(seen, pod) {
            why += &match claim_says(seen, claim) {
                Some(said) => format!("; claim {claim}: {said}"),
                None => format!("; claim {claim} is pending"),
            };
        }
        return Some(State::Stuck(why));
    }
    let containers = ["initContainerStatuses", "containerStatuses"];
    let statuses: Vec<&Value> =
        containers.iter().flat_map(|list| status[*list].as_array().into_iter().flatten()).collect();
    for container in &statuses {
        if let Some(stuck) = container_stuck(seen, pod, container) {
            return Some(State::Stuck(stuck));
        }
    }
    let Some(going) = statuses
        .iter()
        .find(|container| container["state"]["terminated"]["exitCode"] != 0 && container["ready"] != true)
    else {
        return Some(State::Waits(format!("pod {name} starts")));
    };
    let of = text(&going["name"]);
    if going["state"]["running"].is_null() {
        // A mount that fails has no other sign.
        let said = seen.said(&["Pod"], name).filter(|why| why.contains("ount"));
        return Some(State::Waits(match said {
            Some(why) => format!("pod {name}: {why}"),
            None => format!("pod {name} makes its container {of}"),
        }));
    }
    Some(State::Waits(match of {
        "wait" => format!("pod {name} waits until what it stands on answers"),
        _ if going["started"] == false => format!("pod {name} has started, and is not ready yet"),
        _ => format!("pod {name} runs {of}"),
    }))
}

fn container_stuck(seen: &Seen<'_>, pod: &Value, container: &Value) -> Option<String> {
    let (pod, namespace) = (text(&pod["metadata"]["name"]), text(&pod["metadata"]["namespace"]));
    let waiting = &container["state"]["waiting"];
    let image = text(&container["image"]);
    let of = text(&container["name"]);
    match waiting["reason"].as_str()? {
        "ErrImagePull" | "ImagePullBackOff" | "InvalidImageName" | "ErrImageNeverPull" => {
            // The second of the two says only that it waits; the event has the reason.
            let events = seen.events.iter().rev().filter(|event| event["involvedObject"]["name"] == pod);
            let why = events
                .filter_map(|event| event["message"].as_str())
                .find(|message| message.contains("ailed to pull") && message.contains(image))
                .unwrap_or_else(|| text(&waiting["message"]));
            Some(format!("pod {pod}: image {image} cannot be pulled: {why}"))
        }
        "CreateContainerConfigError" | "CreateContainerError" | "RunContainerError" => {
            Some(format!("pod {pod}: container {of} cannot be made: {}", text(&waiting["message"])))
        }
        "CrashLoopBackOff" if number(&container["restartCount"]) >= ENDS => {
            let last = &container["lastState"]["terminated"];
            let code = last["exitCode"].as_i64().unwrap_or_default();
            let reason = last["reason"].as_str().filter(|reason| *reason != "Error");
            let reason = reason.map(|reason| format!(" ({reason})")).unwrap_or_default();
            Some(format!(
                "pod {pod}: container {of} has ended {} times, the last time with {code}{reason}; kubectl -n {namespace} logs {pod} -c {of} --previous",
                number(&container["restartCount"])
            ))
        }
        _ => None,
    }
}

fn pending_claims<'a>(seen: &Seen<'_>, pod: &'a Value) -> Vec<&'a str> {
    let volumes = pod["spec"]["volumes"].as_array().into_iter().flatten();
    let names = volumes.filter_map(|volume| volume["persistentVolumeClaim"]["claimName"].as_str());
    let pending = |name: &&str| {
        let claim = seen.claims.iter().find(|claim| claim["metadata"]["name"] == *name);
        claim.is_none_or(|claim| claim["status"]["phase"] != "Bound")
    };
    names.filter(pending).collect()
}

/// Of a claim the last word counts, whatever its kind; that it waits for its pod is none.
fn claim_says<'a>(seen: &Seen<'a>, claim: &str) -> Option<&'a str> {
    let of = |event: &&&Value| {
        let is_claims = event["involvedObject"]["kind"] == "PersistentVolumeClaim";
        is_claims
            && event["involvedObject"]["name"] == claim
            && !WAITS_FOR_POD.contains(&text(&event["reason"]))
    };
    seen.events.iter().rev().find(of).and_then(|event| event["message"].as_str())
}

fn condition<'a>(pod: &'a Value, name: &str) -> Option<&'a Value> {
    pod["status"]["conditions"].as_array()?.iter().find(|condition| condition["type"] == name)
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

fn number(value: &Value) -> u64 {
    value.as_u64().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn set(replicas: u64, ready: u64) -> Value {
        json!({ "kind": "StatefulSet", "metadata": { "name": "kafka", "generation": 1 }, "spec": { "replicas": replicas },
            "status": { "observedGeneration": 1, "readyReplicas": ready, "updatedReplicas": ready } })
    }

    fn pod(status: Value) -> Value {
        json!({ "kind": "Pod", "metadata": { "name": "kafka-0", "labels": { SERVICE: "kafka" } },
            "spec": { "volumes": [{ "persistentVolumeClaim": { "claimName": "data-kafka-0" } }] }, "status": status })
    }

    fn event(kind: &str, name: &str, message: &str) -> Value {
        json!({ "kind": "Event", "type": "Warning", "lastTimestamp": "2026-12-01T00:00:00Z", "message": message,
            "involvedObject": { "kind": kind, "name": name } })
    }

    fn of(items: Vec<Value>) -> State {
        let list = json!({ "items": items });
        standings(&Seen::of(&list)).remove(0).state
    }

    #[test]
    fn all_pods_ready_is_ready() {
        assert_eq!(of(vec![set(1, 1)]), State::Ready);
        assert_eq!(of(vec![set(3, 2)]), State::Waits("0 of 3 pods".to_owned()));
    }

    #[test]
    fn what_was_ready_before_a_change_is_not_ready_after_it() {
        let mut changed = set(1, 1);
        changed["metadata"]["generation"] = json!(2);
        assert_ne!(of(vec![changed]), State::Ready);
    }

    #[test]
    fn a_claim_that_stays_pending_is_said_with_the_claims_own_words() {
        let unplaced =
            pod(json!({ "phase": "Pending", "conditions": [{ "type": "PodScheduled", "status": "False",
            "message": "pod has unbound immediate PersistentVolumeClaims" }] }));
        let claim = json!({ "kind": "PersistentVolumeClaim", "metadata": { "name": "data-kafka-0" }, "status": { "phase": "Pending" } });
        let why = event("PersistentVolumeClaim", "data-kafka-0", "storageclass \"fast\" not found");
        let State::Stuck(said) = of(vec![set(1, 0), unplaced, claim, why]) else { panic!("not stuck") };
        assert!(said.starts_with("pod kafka-0 finds no node: pod has unbound"), "{said}");
        assert!(said.ends_with("claim data-kafka-0: storageclass \"fast\" not found"), "{said}");
    }

    #[test]
    fn an_image_that_cannot_be_pulled_is_said_with_the_reason() {
        let waiting = pod(
            json!({ "phase": "Pending", "containerStatuses": [{ "name": "kafka", "image": "x/kafka:1",
            "state": { "waiting": { "reason": "ImagePullBackOff", "message": "Back-off pulling image" } } }] }),
        );
        let why = event("Pod", "kafka-0", "Failed to pull image \"x/kafka:1\": connection refused");
        let State::Stuck(said) = of(vec![set(1, 0), waiting, why]) else { panic!("not stuck") };
        assert_eq!(
            said,
            "pod kafka-0: image x/kafka:1 cannot be pulled: Failed to pull image \"x/kafka:1\": connection refused"
        );
    }

    #[test]
    fn a_container_that_ends_again_and_again_is_said_and_one_that_ended_once_is_not() {
        let ended = |times: u64| {
            pod(
                json!({ "phase": "Running", "containerStatuses": [{ "name": "kafka", "image": "k", "restartCount": times,
                "state": { "waiting": { "reason": "CrashLoopBackOff" } },
                "lastState": { "terminated": { "exitCode": 137, "reason": "OOMKilled" } } }] }),
            )
        };
        assert!(matches!(of(vec![set(1, 0), ended(1)]), State::Waits(_)));
        let State::Stuck(said) = of(vec![set(1, 0), ended(3)]) else { panic!("not stuck") };
        assert!(said.contains("has ended 3 times, the last time with 137 (OOMKilled)"), "{said}");
    }

    #[test]
    fn pods_that_are_refused_are_said() {
        let why = event("StatefulSet", "kafka", "exceeded quota: small");
        let State::Stuck(said) = of(vec![set(1, 0), why]) else { panic!("not stuck") };
        assert_eq!(said, "kafka gets no pod: exceeded quota: small");
        // Another's trouble is not its own.
        for (kind, other) in [("StatefulSet", "kafka-connect"), ("ReplicaSet", "kafka-ui-5d8f")] {
            let other = event(kind, other, "exceeded quota: small");
            assert!(matches!(of(vec![set(1, 0), other]), State::Waits(_)));
        }
    }

    #[test]
    fn a_node_that_is_being_made_is_waited_for() {
        let unplaced =
            pod(json!({ "phase": "Pending", "conditions": [{ "type": "PodScheduled", "status": "False",
            "message": "Insufficient memory" }] }));
        assert!(matches!(of(vec![set(1, 0), unplaced.clone()]), State::Stuck(_)));
        let mut made = event("Pod", "kafka-0", "pod triggered scale-up");
        made["reason"] = json!("TriggeredScaleUp");
        assert!(matches!(of(vec![set(1, 0), unplaced, made]), State::Waits(_)));
    }

    #[test]
    fn an_answer_without_what_is_looked_for_is_no_panic() {
        for odd in [
            json!({}),
            json!({ "items": [{}] }),
            json!({ "items": [{ "kind": "Pod" }, { "kind": "Event" }] }),
        ] {
            assert_eq!(standings(&Seen::of(&odd)), []);
        }
    }
}
