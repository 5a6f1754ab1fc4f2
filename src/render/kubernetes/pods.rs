//! Pods, and what makes them: a StatefulSet where there are data or members, a Deployment for the rest, a Job for what ends.

use std::collections::BTreeMap;

use anyhow::{Result, bail};
use serde_json::{Map, Value, json};

use super::members::{Text, counting, text};
use super::units::Unit;
use super::volumes::{claim, group, mounts};
use super::{Body, NAME, own_image};
use crate::topology::{Health, Ready, Service};

/// Seconds between SIGTERM and SIGKILL. On one machine everything stops together and nobody waits; here a broker hands its partitions over.
const GRACE: u32 = 60;
/// Where a set-up or a wait is cut off and begun anew, by Kubernetes.
const TRIES: u32 = 10;

/// What a service that asks an engine is told about it.
const OF_AN_ENGINE: [&str; 2] = ["NETWORK", "CONTAINER_NAME"];

/// Waits until each address, `HOST:PORT`, takes a connection; whoever answers no more, such as a node that is gone, is asked anew, and its
/// name is looked up anew. Only bash asks. A container's first process hears SIGTERM only where it says so.
const WAIT: &str = "trap exit TERM; for at in \"$@\"; do \
    until timeout 2 bash -c ': <>\"/dev/tcp/$0/$1\"' \"${at%:*}\" \"${at##*:}\" 2>/dev/null; do sleep 1; done; done";

/// The object that makes a unit's pods.
pub(super) fn workload(body: &Body<'_>, unit: &Unit<'_>) -> Result<Value> {
    let template = json!({ "metadata": { "labels": body.labels(unit) }, "spec": pod(body, unit)? });
    let metadata = json!({ "name": unit.name, "labels": body.labels(unit) });
    if unit.ends() {
        return Ok(json!({
            "apiVersion": "batch/v1", "kind": "Job", "metadata": metadata,
            "spec": { "backoffLimit": TRIES, "template": template },
        }));
    }
    let mut spec = json!({
        "replicas": unit.services.len(),
        "selector": { "matchLabels": { NAME: unit.name } },
        "template": template,
    });
    if unit.first.is_none() && !unit.keeps() {
        // The old pod ends before the new one starts: two at once would both be members of a group, or write what one writes.
        spec["strategy"] = json!({ "type": "Recreate" });
        return Ok(
            json!({ "apiVersion": "apps/v1", "kind": "Deployment", "metadata": metadata, "spec": spec }),
        );
    }
    spec["serviceName"] = json!(unit.name);
    // A quorum stands once all are there: none waits for another to be ready. And a pod that cannot start is replaced when its set is mended.
    spec["podManagementPolicy"] = json!("Parallel");
    if let Some(first) = unit.first {
        spec["ordinals"] = json!({ "start": first });
    }
    let own = unit.spec.volumes.iter().filter(|volume| !volume.shared);
    let claims: Vec<Value> = own.map(|volume| claim(&volume.name, "ReadWriteOnce")).collect();
    if !claims.is_empty() {
        spec["volumeClaimTemplates"] = json!(claims);
    }
    Ok(json!({ "apiVersion": "apps/v1", "kind": "StatefulSet", "metadata": metadata, "spec": spec }))
}

/// At most one of a quorum's or a log's members may be taken away at a time.
pub(super) fn disruption_budget(body: &Body<'_>, unit: &Unit<'_>) -> Option<Value> {
    (unit.services.len() > 1).then(|| {
        json!({
            "apiVersion": "policy/v1", "kind": "PodDisruptionBudget",
            "metadata": { "name": unit.name, "labels": body.labels(unit) },
            "spec": { "maxUnavailable": 1, "selector": { "matchLabels": { NAME: unit.name } } },
        })
    })
}

fn pod(body: &Body<'_>, unit: &Unit<'_>) -> Result<Value> {
    let mut volumes: BTreeMap<String, Value> = BTreeMap::new();
    let mut add = |all: Vec<Value>| {
        for volume in all {
            volumes.insert(volume["name"].as_str().unwrap_or_default().to_owned(), volume);
        }
    };
    let mut before = Vec::new();
    if let Some(wait) = waiting(unit) {
        before.push(wait);
    }
    for addon in &unit.one().addons {
        add(vec![json!({ "name": format!("addon-{}", addon.name), "emptyDir": {} })]);
        before.push(addon_copied(body, &addon.name));
    }
    for service in &unit.before {
        let (own, mounts) = mounts(body, unit, service);
        add(own);
        let name = service.name.clone();
        before.push(container(body, service, name, Value::Null, plain(service), mounts));
    }
    let (own, mounts) = mounts(body, unit, unit.one());
    add(own);
    let mut main = container(body, unit.one(), unit.name.clone(), ports(unit.one()), filled(unit)?, mounts);
    if let Some(health) = &unit.one().health {
        let question = probe(unit, health)?;
        let with = |more: Value| {
            let mut probe = question.clone();
            if let (Some(probe), Value::Object(more)) = (probe.as_object_mut(), more) {
                probe.extend(more);
            }
            probe
        };
        main["startupProbe"] = with(json!({ "failureThreshold": health.start.div_ceil(health.interval) }));
        main["readinessProbe"] = with(json!({ "failureThreshold": health.retries }));
    }
    let mut spec = json!({
        "automountServiceAccountToken": false,
        // By itself Kubernetes tells each pod of each service by variables such as KAFKA_PORT, which programs take for their settings.
        "enableServiceLinks": false,
        "terminationGracePeriodSeconds": GRACE,
        "securityContext": security(body.user(unit.one()), group(body, unit.one())?),
        "containers": [main],
        "volumes": volumes.into_values().collect::<Vec<_>>(),
    });
    if unit.first.is_none() && !unit.keeps() && unit.names_itself() {
        // It knows its own address before anybody else does. Of a StatefulSet's pods the name is given.
        spec["hostname"] = json!(unit.name);
    }
    if !before.is_empty() {
        spec["initContainers"] = json!(before);
    }
    if unit.ends() {
        spec["restartPolicy"] = json!("OnFailure");
    }
    if unit.services.len() > 1 {
        spec["affinity"] = json!({ "podAntiAffinity": { "preferredDuringSchedulingIgnoredDuringExecution": [{
            "weight": 100,
            "podAffinityTerm": { "topologyKey": "kubernetes.io/hostname", "labelSelector": { "matchLabels": { NAME: unit.name } } },
        }] } });
    }
    Ok(spec)
}

/// Of a pod: not root, and its volumes are its group's.
pub(super) fn security(user: u32, group: u32) -> Value {
    json!({
        "runAsNonRoot": true, "runAsUser": user, "fsGroup": group, "fsGroupChangePolicy": "OnRootMismatch",
        "seccompProfile": { "type": "RuntimeDefault" },
    })
}

/// What a container runs.
struct Run {
    command: Option<Vec<String>>,
    args: Vec<String>,
    env: Vec<Value>,
}

/// As the plan has it, for a service that is alone.
fn plain(service: &Service) -> Run {
    let literal = |text: &String| text.replace("$(", "$$(");
    let told = |name: &String| !service.engine_socket || !OF_AN_ENGINE.contains(&name.as_str());
    let env = service
        .environment
        .iter()
        .filter(|(name, _)| told(name))
        .map(|(name, value)| json!({ "name": name, "value": literal(value) }));
    Run { command: None, args: service.command.iter().map(literal).collect(), env: env.collect() }
}

/// As the plan has it for each member: what differs is filled in by the pod.
fn filled(unit: &Unit<'_>) -> Result<Run> {
    if unit.first.is_none() {
        return Ok(plain(unit.one()));
    }
    let mut env =
        vec![json!({ "name": "POD_NAME", "valueFrom": { "fieldRef": { "fieldPath": "metadata.name" } } })];
    let names = unit.names();
    let mut counted = String::new();
    for name in unit.one().environment.keys() {
        let values: Vec<&str> = unit
            .services
            .iter()
            .map(|s| s.environment.get(name).map(String::as_str).unwrap_or_default())
            .collect();
        match text(&names, name, &values)? {
            Text::Plain(value) => env.push(json!({ "name": name, "value": value })),
            Text::Counted(value) => counted += &format!("export {name}=\"{value}\"\n"),
        }
    }
    let mut args = Vec::new();
    for place in 0..unit.one().command.len() {
        let values: Vec<&str> = unit
            .services
            .iter()
            .map(|s| s.command.get(place).map(String::as_str).unwrap_or_default())
            .collect();
        match text(&names, "its command", &values)? {
            Text::Plain(value) => args.push(value),
            Text::Counted(_) => bail!("{}: its command differs by more than names: {values:?}", unit.name),
        }
    }
    if counted.is_empty() {
        return Ok(Run { command: None, args, env });
    }
    let script = format!("{}\n{counted}exec \"$@\"\n", counting(unit.first.unwrap_or_default()));
    // Not by way of the image's entry point: what the plan names is there in either source, and each has another one.
    let command = ["bash", "-ec", &script, "bash"].map(str::to_owned).to_vec();
    Ok(Run { command: Some(command), args, env })
}

fn probe(unit: &Unit<'_>, health: &Health) -> Result<Value> {
    let names = unit.names();
    let mut command = Vec::new();
    let mut counted = false;
    for place in 0..health.command.len() {
        let values: Vec<&str> = unit
            .services
            .iter()
            .filter_map(|s| Some(s.health.as_ref()?.command.get(place)?.as_str()))
            .collect();
        command.push(match text(&names, "its health command", &values)? {
            // Kubernetes fills nothing in here, so the shell does.
            Text::Plain(value) if value.contains("$(POD_NAME)") => {
                counted = true;
                format!("\"{}\"", value.replace("$(POD_NAME)", "$POD_NAME"))
            }
            Text::Plain(value) => {
                let value = value.replace("$$(", "$(");
                if unit.first.is_some() { format!("'{}'", value.replace('\'', "'\\''")) } else { value }
            }
            Text::Counted(value) => {
                counted = true;
                format!("\"{value}\"")
            }
        });
    }
    if unit.first.is_some() {
        let before =
            if counted { format!("{}; ", counting(unit.first.unwrap_or_default())) } else { String::new() };
        command = vec!["bash".to_owned(), "-c".to_owned(), format!("{before}exec {}", command.join(" "))];
    }
    Ok(json!({
        "exec": { "command": command },
        "periodSeconds": health.interval,
        "timeoutSeconds": health.timeout,
    }))
}

fn ports(service: &Service) -> Value {
    service.ports.iter().map(|port| json!({ "name": port.name, "containerPort": port.container })).collect()
}

fn container(
    body: &Body<'_>,
    service: &Service,
    name: String,
    ports: Value,
    run: Run,
    mounts: Vec<Value>,
) -> Value {
    let image = &body.file.images[&service.image];
    let mut container = Map::from_iter([
        ("name".to_owned(), json!(name)),
        ("image".to_owned(), json!(body.image(&service.image))),
        ("resources".to_owned(), memory(service.memory)),
        ("securityContext".to_owned(), confined(image.read_only)),
        ("volumeMounts".to_owned(), json!(mounts)),
    ]);
    let mut put = |key: &str, value: Value| {
        container.insert(key.to_owned(), value);
    };
    if let Some(command) = run.command {
        put("command", json!(command));
    }
    if !run.args.is_empty() {
        put("args", json!(run.args));
    }
    if !run.env.is_empty() {
        put("env", json!(run.env));
    }
    if ports.as_array().is_some_and(|ports| !ports.is_empty()) {
        put("ports", ports);
    }
    if let Some(folder) = &service.working_dir {
        put("workingDir", json!(folder));
    }
    Value::Object(container)
}

pub(super) fn memory(bytes: u64) -> Value {
    let memory = format!("{}Mi", bytes >> 20);
    json!({ "requests": { "memory": memory }, "limits": { "memory": memory } })
}

pub(super) fn confined(read_only: bool) -> Value {
    json!({
        "allowPrivilegeEscalation": false,
        "capabilities": { "drop": ["ALL"] },
        "readOnlyRootFilesystem": read_only,
    })
}

/// An add-on lies in an image of its own: it is copied to where the container looks for it.
fn addon_copied(body: &Body<'_>, name: &str) -> Value {
    let recipe = body.file.addons[name].recipe.as_ref().map_or(name, |recipe| recipe.get_ref());
    let volume = format!("addon-{name}");
    json!({
        "name": volume,
        "image": tagged(recipe),
        // With their times: an archive of classes is of no use where a jar is younger. The volume's own are not the user's to set.
        "command": ["sh", "-c", format!("cp -r --preserve=timestamps /addons/{name}/* /addon")],
        "resources": memory(64 << 20),
        "securityContext": confined(true),
        "volumeMounts": [{ "name": volume, "mountPath": "/addon" }],
    })
}

/// Waits for what must answer first: without it a pod would fail, and Kubernetes try again ever more seldom.
fn waiting(unit: &Unit<'_>) -> Option<Value> {
    let addresses = unit.waits.iter().filter_map(|s| Some(format!("{}:{}", s.name, answers_at(s)?)));
    let addresses: Vec<String> = addresses.collect();
    if addresses.is_empty() {
        return None;
    }
    let mut args = vec!["-c".to_owned(), WAIT.to_owned(), "bash".to_owned()];
    args.extend(addresses);
    Some(json!({
        "name": "wait",
        "image": tagged("streamlab"),
        "command": ["bash"],
        "args": args,
        "resources": memory(32 << 20),
        "securityContext": confined(true),
    }))
}

/// The port at which a service answers when it is ready.
pub(super) fn answers_at(service: &Service) -> Option<u16> {
    let name = match &service.ready {
        Ready::Tcp { port } | Ready::Kafka { port } | Ready::Http { port, .. } => port.as_str(),
        Ready::SparkWorker { .. } => "ui",
        Ready::Completed => return None,
    };
    service.ports.iter().find(|port| port.name == name).map(|port| port.container)
}

/// `kustomize edit set image streamlab/NAME=…` says in which registry it is.
pub(super) fn tagged(recipe: &str) -> String {
    format!("{}:{}", own_image(recipe), env!("CARGO_PKG_VERSION"))
}

impl Body<'_> {
    /// The public image by digest, or one that is built here.
    pub(super) fn image(&self, name: &str) -> String {
        let image = &self.file.images[name];
        let pinned =
            image.upstream.as_ref().and_then(|r| Some(format!("{r}@{}", self.inputs.digests.get(r)?)));
        pinned.unwrap_or_else(|| tagged(image.recipe.as_ref().map_or(name, |recipe| recipe.get_ref())))
    }
}
