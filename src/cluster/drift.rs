//! What of a lab's objects is not on the cluster as the definition has it: the objects as they are beside what they would be after
//! an `apply`, both with every default filled in by the cluster. Pure.

use std::collections::BTreeMap;

use serde_json::Value;

/// What each write changes by itself.
const OF_THE_CLUSTER: [&str; 5] =
    ["managedFields", "resourceVersion", "uid", "generation", "creationTimestamp"];
/// What kubectl keeps of the last `apply`.
const LAST_APPLIED: &str = "kubectl.kubernetes.io/last-applied-configuration";

/// A line for each object that is missing or another: `statefulset/kafka: spec.replicas is 2, not 1`. Both are lists of kubectl's.
pub(super) fn differing(live: &Value, wanted: &Value) -> Vec<String> {
    let live: BTreeMap<String, Value> = objects(live).collect();
    let line = |(name, wanted): (String, Value)| match live.get(&name) {
        None => Some(format!("{name}: is not there")),
        Some(live) => first(live, &wanted, "").map(|what| format!("{name}: {what}")),
    };
    objects(wanted).filter_map(line).collect()
}

fn objects(list: &Value) -> impl Iterator<Item = (String, Value)> {
    list["items"].as_array().into_iter().flatten().map(|object| {
        let kind = object["kind"].as_str().unwrap_or_default().to_lowercase();
        let name = object["metadata"]["name"].as_str().unwrap_or_default();
        let mut compared = object.clone();
        if let Some(object) = compared.as_object_mut() {
            object.remove("status");
        }
        if let Some(metadata) = compared["metadata"].as_object_mut() {
            metadata.retain(|key, _| !OF_THE_CLUSTER.contains(&key.as_str()));
            if let Some(annotations) = metadata.get_mut("annotations").and_then(Value::as_object_mut) {
                annotations.remove(LAST_APPLIED);
                // Those of the cluster's own controllers.
                annotations.retain(|key, _| !key.contains("kubernetes.io/"));
                if annotations.is_empty() {
                    metadata.remove("annotations");
                }
            }
        }
        (format!("{kind}/{name}"), compared)
    })
}

/// The first place at which two values differ.
fn first(live: &Value, wanted: &Value, path: &str) -> Option<String> {
    let here = |key: &str| if path.is_empty() { key.to_owned() } else { format!("{path}.{key}") };
    match (live, wanted) {
        (Value::Object(live), Value::Object(wanted)) => {
            let mut keys: Vec<&String> = live.keys().chain(wanted.keys()).collect();
            keys.sort();
            keys.dedup();
            let of = |key: &String| {
                let (live, wanted) = (live.get(key), wanted.get(key));
                first(live.unwrap_or(&Value::Null), wanted.unwrap_or(&Value::Null), &here(key))
            };
            keys.into_iter().find_map(of)
        }
        (Value::Array(live), Value::Array(wanted)) if live.len() == wanted.len() => {
            let mut both = live.iter().zip(wanted).enumerate();
            both.find_map(|(place, (live, wanted))| first(live, wanted, &format!("{path}[{place}]")))
        }
        _ if live == wanted => None,
        _ => Some(format!("{path} is {}, not {}", short(live), short(wanted))),
    }
}

fn short(value: &Value) -> String {
    const MOST: usize = 60;
    let text = value.to_string();
    if text.chars().count() > MOST { text.chars().take(MOST).collect::<String>() + "…" } else { text }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn list(replicas: u64, generation: u64) -> Value {
        json!({ "items": [{ "kind": "StatefulSet", "spec": { "replicas": replicas, "args": ["a", "b"] },
            "metadata": { "name": "kafka", "generation": generation, "annotations": { LAST_APPLIED: generation.to_string() } } }] })
    }

    #[test]
    fn what_a_write_changes_by_itself_is_no_difference() {
        assert_eq!(differing(&list(1, 1), &list(1, 2)), [""; 0]);
    }

    #[test]
    fn the_first_field_that_differs_is_named() {
        assert_eq!(differing(&list(2, 1), &list(1, 2)), ["statefulset/kafka: spec.replicas is 2, not 1"]);
        let mut other = list(1, 1);
        other["items"][0]["spec"]["args"][1] = json!("c");
        assert_eq!(differing(&other, &list(1, 1)), ["statefulset/kafka: spec.args[1] is \"c\", not \"b\""]);
        other["items"][0]["spec"]["args"] = json!([]);
        assert_eq!(differing(&other, &list(1, 1)), ["statefulset/kafka: spec.args is [], not [\"a\",\"b\"]"]);
    }

    #[test]
    fn what_is_missing_is_named() {
        assert_eq!(differing(&json!({ "items": [] }), &list(1, 1)), ["statefulset/kafka: is not there"]);
    }
}
