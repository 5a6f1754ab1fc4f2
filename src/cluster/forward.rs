//! Ways from this machine to a lab's services, at the ports that the plan documents. They are there as long as they are held: where a pod
//! was replaced, the way is made anew.

use std::collections::BTreeMap;
use std::net::TcpListener;
use std::time::Duration;

use anyhow::{Context as _, Result};
use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::net::TcpStream;
use tokio::task::JoinSet;

use super::kubectl::Kubectl;
use crate::probes::{Answer, eventually};
use crate::topology::Plan;

/// How long a way may take to be there.
const OPEN: Duration = Duration::from_secs(30);
/// Between two tries, where a pod is not there.
const EVERY: Duration = Duration::from_secs(1);

/// The ways that are held.
#[derive(Debug)]
pub(crate) struct Forwards(#[expect(dead_code, reason = "its tasks end when it is dropped")] JoinSet<()>);

impl Forwards {
    /// One kubectl a service.
    pub(super) async fn open(kubectl: &Kubectl, namespace: &str, plan: &Plan) -> Result<Self> {
        ports_are_free(plan)?;
        let mut services: BTreeMap<&str, Vec<String>> = BTreeMap::new();
        for (port, service, spec) in plan.host_ports() {
            services.entry(&service.name).or_default().push(format!("{port}:{}", spec.container));
        }
        let mut ways = JoinSet::new();
        for (service, ports) in services {
            ways.spawn(hold(kubectl.clone(), namespace.to_owned(), service.to_owned(), ports));
        }
        for (port, service, spec) in plan.host_ports() {
            let question = format!("the way to {}, port {port} of this machine", service.name);
            let answers = eventually(&question, OPEN, EVERY, || async {
                TcpStream::connect(("127.0.0.1", port)).await?;
                Ok(Answer::Is(()))
            });
            answers.await.with_context(|| {
                let (name, inside) = (&service.name, spec.container);
                format!(
                    "Try it: {} -n {namespace} port-forward service/{name} {port}:{inside}\n ",
                    kubectl.command()
                )
            })?;
        }
        Ok(Self(ways))
    }
}

/// # Errors
/// A port of the plan that somebody has.
pub(super) fn ports_are_free(plan: &Plan) -> Result<()> {
    for (port, service, _) in plan.host_ports() {
        TcpListener::bind(("127.0.0.1", port)).with_context(|| {
            let name = &service.name;
            format!(
                "port {port} of this machine, where {name} would answer, is taken\n  See who has it: ss -ltnp 'sport = :{port}'. Or \
                 without addresses: --detach\n "
            )
        })?;
    }
    Ok(())
}

/// Ends only with the task. kubectl ends when the pod that it has chosen goes away.
async fn hold(kubectl: Kubectl, namespace: String, service: String, ports: Vec<String>) {
    let mut ticks = tokio::time::interval(EVERY);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        let Ok(mut child) = kubectl.forward(&namespace, &service, &ports) else { continue };
        let Some(stderr) = child.stderr.take() else { continue };
        let mut lines = BufReader::new(stderr).lines();
        // A single connection that breaks is said there as well; this one means that the pod is gone.
        while let Ok(Some(line)) = lines.next_line().await {
            if line.contains("lost connection to pod") {
                break;
            }
        }
        let _ = child.kill().await;
    }
}
