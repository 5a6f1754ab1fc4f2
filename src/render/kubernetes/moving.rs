//! The Job that spreads partitions over all brokers, after some have come: Kafka's own reassignment. It is beside the base: whoever
//! scales runs it.

use serde_json::{Value, json};

use super::pods;
use super::units::Unit;
use super::{Body, NAME};
use crate::topology::Ready;

/// Its name, and its folder's.
pub const MOVE_PARTITIONS: &str = "move-partitions";

/// For bash, in Kafka's image. Where partitions are being moved already, it waits for that alone.
const SCRIPT: &str = r#"kafka() { tool=$1; shift; "/opt/kafka/bin/kafka-$tool.sh" --bootstrap-server "$BOOTSTRAP_SERVERS" "$@"; }
nothing_moves() {
  kafka reassign-partitions --list >/tmp/moving
  grep -q '^No partition reassignments found' /tmp/moving
}
if nothing_moves; then
  brokers=$(kafka broker-api-versions | sed -n 's/.*(id: \([0-9]*\) rack.*/\1/p' | sort -nu | paste -sd,)
  topics=$(kafka topics --list | sed 's/.*/{"topic":"&"}/' | paste -sd,)
  echo "{\"version\":1,\"topics\":[$topics]}" >/tmp/topics.json
  echo "spreading the partitions of $(echo "$topics" | tr , '\n' | wc -l) topics over brokers $brokers"
  kafka reassign-partitions --topics-to-move-json-file /tmp/topics.json --broker-list "$brokers" --generate |
    sed -n '/^Proposed/{n;p}' >/tmp/moves.json
  kafka reassign-partitions --reassignment-json-file /tmp/moves.json --execute >/tmp/begun || { cat /tmp/begun; exit 1; }
fi
until nothing_moves; do sleep 2; done
kafka leader-election --election-type preferred --all-topic-partitions >/tmp/elected || { cat /tmp/elected; exit 1; }
echo "every partition is where it should be"
"#;

/// Kafka's tools hold a client and a plan.
const MEMORY: u64 = 512 << 20;

/// The Job and who lets it in, where the lab has brokers that may become more.
pub(super) fn objects(body: &Body<'_>, units: &[Unit<'_>]) -> Option<Vec<Value>> {
    let brokers = units.iter().find(|unit| moves(unit))?;
    let Ready::Kafka { .. } = &brokers.one().ready else { return None };
    let setup = body.plan.services.iter().find(|service| service.environment.contains_key("TOPICS"))?;
    let bootstrap = setup.environment.get("BOOTSTRAP_SERVERS")?;
    let port: u16 = bootstrap.rsplit_once(':')?.1.parse().ok()?;
    let labels = json!({ NAME: MOVE_PARTITIONS });
    let image = &brokers.one().image;
    let user = body.user(brokers.one());
    let job = json!({
        "apiVersion": "batch/v1", "kind": "Job",
        "metadata": { "name": MOVE_PARTITIONS, "labels": labels },
        "spec": { "backoffLimit": 3, "template": { "metadata": { "labels": labels }, "spec": {
            "automountServiceAccountToken": false,
            "enableServiceLinks": false,
            "restartPolicy": "Never",
            "securityContext": pods::security(user, user),
            "containers": [{
                "name": MOVE_PARTITIONS,
                "image": body.image(image),
                "command": ["bash", "-euo", "pipefail", "-c", SCRIPT],
                "env": [
                    { "name": "BOOTSTRAP_SERVERS", "value": bootstrap },
                    { "name": "KAFKA_HEAP_OPTS", "value": "-Xmx192m" },
                    { "name": "LOG_DIR", "value": "/tmp" },
                ],
                "resources": pods::memory(MEMORY),
                "securityContext": pods::confined(body.file.images[image].read_only),
                "volumeMounts": [{ "name": "tmp", "mountPath": "/tmp" }],
            }],
            "volumes": [{ "name": "tmp", "emptyDir": {} }],
        } } },
    });
    let policy = json!({
        "apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy",
        "metadata": { "name": MOVE_PARTITIONS, "labels": labels },
        "spec": {
            "podSelector": { "matchLabels": { NAME: brokers.name } },
            "policyTypes": ["Ingress"],
            "ingress": [{ "from": [{ "podSelector": { "matchLabels": labels } }], "ports": [{ "port": port }] }],
        },
    });
    Some(vec![job, policy])
}

fn moves(unit: &Unit<'_>) -> bool {
    unit.spec.scales_to.is_some() && matches!(unit.one().ready, Ready::Kafka { .. })
}
