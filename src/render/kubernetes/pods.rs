//! Pods, and what makes them: a StatefulSet where there are data or members, a Deployment for the rest, a Job for what ends.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Result, bail};
use serde_json::{Map, Value, json};

use super::members::{Text, counting, text};
use super::units::Unit;
use super::{Body, NAME, files, own_image};
use crate::topology::{Health, LabFile, Plan, Ready, Service, VolumeSpec};

/// Seconds between SIGTERM and SIGKILL. On one machine everything stops together and nobody waits; here a broker hands its partitions over.
const GRACE: u32 = 60;
/// What a claim asks for where no overlay says otherwise.
pub(super) const STORAGE: &str = "2Gi";
/// Who runs what has no public image.
const OWN_USER: u32 = 65534;
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
        // Two of one name beside each other would be one too many: a group's member, a port that others know.
        spec["strategy"] = json!({ "type": "Recreate" });
        return Ok(
            json!({ "apiVersion": "apps/v1", "kind": "Deployment", "metadata": metadata, "spec": spec }),
        );
    }
    spec["serviceName"] = json!(unit.name);
    if let Some(first) = unit.first {
        spec["ordinals"] = json!({ "start": first });
        // A quorum stands once all are there: none waits for another to be ready.
        spec["podManagementPolicy"] = json!("Parallel");
    }
    let own = unit.spec.volumes.iter().filter(|volume| !volume.shared);
    let claims: Vec<Value> = own.map(|volume| claim(&volume.name, "ReadWriteOnce")).collect();
    if !claims.is_empty() {
        spec["volumeClaimTemplates"] = json!(claims);
    }
    Ok(json!({ "apiVersion": "apps/v1", "kind": "StatefulSet", "metadata": metadata, "spec": spec }))
}

fn claim(name: &str, mode: &str) -> Value {
    json!({
        "metadata": { "name": name },
        "spec": { "accessModes": [mode], "resources": { "requests": { "storage": STORAGE } } },
    })
}

/// Claims for volumes that several pods have: on more than one node that needs storage that all of them reach.
pub(super) fn shared_claims(body: &Body<'_>, units: &[Unit<'_>]) -> Vec<Value> {
    let mut claims = BTreeMap::new();
    for name in
        units.iter().flat_map(|unit| shared(body.file, body.plan, unit.one())).filter(|(_, within)| !within)
    {
        claims.entry(name.0.clone()).or_insert_with(|| {
            let mut object = claim(&name.0, "ReadWriteMany");
            object["apiVersion"] = json!("v1");
            object["kind"] = json!("PersistentVolumeClaim");
            object
        });
    }
    claims.into_values().collect()
}

/// The shared volumes of a service, and whether only what its own pods run before it writes there.
fn shared(file: &LabFile, plan: &Plan, service: &Service) -> Vec<(String, bool)> {
    // Whoever only opens a volume up puts nothing there.
    let puts = |writer: &&Service| !file.services[&writer.group].files.is_empty();
    let writers: Vec<&Service> = plan.file_writers_for(service).into_iter().filter(puts).collect();
    let within = |name: &str| writers.iter().any(|w| w.volumes.iter().any(|v| v.name == name));
    let names = service.volumes.iter().filter_map(|volume| {
        let named = written(file, service, &volume.path)?;
        named.shared.then(|| (named.name.clone(), within(&volume.name)))
    });
    names.collect()
}

/// A volume as the definition has it: an engine's name does not say whose it is.
fn written<'a>(file: &'a LabFile, service: &Service, path: &str) -> Option<&'a VolumeSpec> {
    file.services[&service.group].volumes.iter().find(|volume| volume.path == path)
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
        "securityContext": security(user(body, unit.one()), group(body, unit.one())?),
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

pub(super) fn user(body: &Body<'_>, service: &Service) -> u32 {
    body.file.images[&service.image].user.unwrap_or(OWN_USER)
}

/// The group that has a pod's volumes. Each pod gives a volume to its own group: those that share one must be of the same, which is that of
/// whoever writes there.
fn group(body: &Body<'_>, service: &Service) -> Result<u32> {
    let mut groups = BTreeSet::new();
    for (name, within) in shared(body.file, body.plan, service) {
        let writes = |other: &&Service| {
            let volumes = &body.file.services[&other.group].volumes;
            let lasts = other.ready != Ready::Completed;
            lasts && volumes.iter().any(|volume| volume.shared && volume.name == name && !volume.read_only)
        };
        if !within {
            groups.extend(body.plan.services.iter().filter(writes).map(|other| user(body, other)));
        }
    }
    match groups.len() {
        0 => Ok(user(body, service)),
        1 => Ok(groups.into_iter().next().unwrap_or_default()),
        _ => bail!("{}: its shared volumes are written by users of several groups, {groups:?}", service.name),
    }
}

/// The volumes of a service in a unit's pods, and what it mounts.
fn mounts(body: &Body<'_>, unit: &Unit<'_>, service: &Service) -> (Vec<Value>, Vec<Value>) {
    let (mut volumes, mut mounts) = files::volumes(body.inputs, service);
    volumes.push(json!({ "name": "tmp", "emptyDir": {} }));
    mounts.push(json!({ "name": "tmp", "mountPath": "/tmp" }));
    for addon in &service.addons {
        mounts.push(
            json!({ "name": format!("addon-{}", addon.name), "mountPath": addon.path, "readOnly": true }),
        );
    }
    let within: BTreeMap<String, bool> = shared(body.file, body.plan, unit.one()).into_iter().collect();
    for volume in &service.volumes {
        let Some(named) = written(body.file, service, &volume.path) else { continue };
        let name = &named.name;
        mounts.push(json!({ "name": name, "mountPath": volume.path, "readOnly": volume.read_only }));
        // A claim of its own is the workload's.
        if named.shared {
            volumes.push(if *within.get(name).unwrap_or(&true) {
                json!({ "name": name, "emptyDir": {} })
            } else {
                json!({ "name": name, "persistentVolumeClaim": { "claimName": name } })
            });
        }
    }
    (volumes, mounts)
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
fn tagged(recipe: &str) -> String {
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
