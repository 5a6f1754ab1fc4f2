//! Breaking a running lab on purpose, and putting it right: the faults of `lab.toml`, for teaching and for the spec.
//!
//! A fault that is in force is known by a container of its own that never runs: what has to be undone outlives the
//! program that did it, and goes with the instance.

use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail};
use futures::TryStreamExt;
use testcontainers::bollard::models::{ContainerCreateBody, HostConfig};
use testcontainers::bollard::query_parameters::{
    CreateContainerOptionsBuilder, InspectNetworkOptions, RemoveContainerOptionsBuilder,
    StartContainerOptions, WaitContainerOptions,
};

use super::{Engine, FAULT_LABEL, INSTANCE_LABEL, InstanceState};
use crate::clients::elasticsearch::Elasticsearch;
use crate::clients::producer::Order;
use crate::clients::scenarios::Scenario;
use crate::probes::{Answer, eventually};
use crate::topology::{Endpoints, Fault, LabFile, Plan, SEARCH, Service, Step};

/// The image of the program itself: it brings `ip` and `tc`.
const OWN_IMAGE: &str = "streamlab";

/// A lab that can be broken.
pub struct Breakable<'a> {
    /// The engine it runs on.
    pub engine: &'a Engine,
    /// The definition it was started from.
    pub file: &'a LabFile,
    /// The lab as it runs.
    pub plan: &'a Plan,
}

impl Breakable<'_> {
    /// Carries out a fault's steps.
    ///
    /// # Errors
    /// The fault is in force already, a service that it touches is not there or not running, or a step failed: then what
    /// was done is undone.
    pub async fn inject(&self, state: &InstanceState, fault: &Fault) -> Result<()> {
        let name = fault.name.get_ref();
        if state.faults.contains(name) {
            bail!("{name} is in force already.\n  Undo it: ./lab fault undo{}", self.plan.instance.option());
        }
        for wanted in fault.steps.iter().flat_map(Step::services) {
            let services = self.plan.meant(wanted);
            if services.is_empty() {
                bail!("{name} touches {wanted}, which the lab {} does not have", self.plan.lab);
            }
            // Before anything is touched: what is undone afterwards is then this fault's own doing.
            let stands = |s: &&Service| state.of(&s.name).is_none_or(|c| !c.running());
            if let Some(service) = services.into_iter().find(stands) {
                let seen = state.of(&service.name).map_or("not there", |c| c.state.as_str());
                bail!(
                    "{name} touches {}, which is {seen}, not running.\n  See ./lab status{option}; undo other faults: ./lab fault undo{option}",
                    service.name,
                    option = self.plan.instance.option()
                );
            }
        }
        let marker = self.mark(name).await?;
        for step in &fault.steps {
            if let Err(error) = self.perform(step).await {
                let undone = self.undo(&[fault]).await;
                self.remove(&marker).await?;
                let error = error.context(format!("{name} could not be done ({step})"));
                return Err(match undone {
                    Ok(()) => error,
                    Err(also) => anyhow!("{error:#}\n  and undoing it failed: {also:#}"),
                });
            }
        }
        Ok(())
    }

    /// Undoes every fault that is in force and waits until the services are ready; gives their names.
    ///
    /// # Errors
    /// What could not be undone; all that could is, and what could not stays in force.
    pub async fn undo_all(&self, state: &InstanceState) -> Result<Vec<String>> {
        let faults: Vec<&Fault> = state.faults.iter().filter_map(|name| self.file.fault(name)).collect();
        // What an interrupted step has left, or is still doing, must not come after its undoing.
        for left in state.containers.iter().filter(|c| c.container.starts_with(&self.step_prefix())) {
            self.remove(&left.container).await?;
        }
        self.undo(&faults).await?;
        for name in &state.faults {
            self.remove(&self.marker(name)).await?;
        }
        Ok(state.faults.clone())
    }

    /// Undoes one fault and waits until the services that it touched are ready. Others stay in force.
    ///
    /// # Errors
    /// What could not be undone; then it stays in force.
    pub async fn undo_one(&self, fault: &Fault) -> Result<()> {
        self.undo(&[fault]).await?;
        self.remove(&self.marker(fault.name.get_ref())).await
    }

    fn all(&self, names: &[String]) -> Vec<&Service> {
        names.iter().flat_map(|n| self.plan.meant(n)).collect()
    }

    async fn perform(&self, step: &Step) -> Result<()> {
        match step {
            Step::Kill(names) => {
                for service in self.all(names) {
                    self.engine.kill(&service.container).await?;
                }
            }
            Step::Crash(names) => {
                for service in self.all(names) {
                    self.crash(service).await?;
                }
            }
            Step::Pause(names) => {
                for service in self.all(names) {
                    self.engine.pause(&service.container).await?;
                }
            }
            Step::Cut { services, from } => {
                let routes =
                    if from.is_empty() { self.halves().await? } else { self.addresses(from).await? };
                let script =
                    routes.iter().map(|r| format!("ip route replace blackhole {r}\n")).collect::<String>();
                for service in self.all(services) {
                    self.within_network(service, &script).await?;
                }
            }
            Step::Slow { services, kilobits } => {
                let script = format!(
                    "tc qdisc replace dev eth0 root tbf rate {kilobits}kbit burst 16kb latency 400ms"
                );
                for service in self.all(services) {
                    self.within_network(service, &script).await?;
                }
            }
            Step::Search { services, settings, index } => {
                for service in self.all(services) {
                    let elasticsearch = self.elasticsearch(service)?;
                    let set = settings.iter().map(|(name, value)| (name.clone(), Some(value.clone())));
                    elasticsearch.set_cluster(&set.collect()).await?;
                    if let Some(index) = index {
                        elasticsearch.make_index(index).await?;
                    }
                }
            }
            Step::Produce { scenario, records } => self.produce(scenario, *records).await?,
        }
        Ok(())
    }

    /// The Elasticsearch that a service is, by the role it plays.
    fn elasticsearch(&self, service: &Service) -> Result<Elasticsearch> {
        let mut players = self.plan.roles.get(SEARCH).into_iter().flatten();
        let player = players.find(|p| p.service == service.name);
        let player = player.with_context(|| format!("{} does not play {SEARCH}", service.name))?;
        Ok(Elasticsearch::new(Endpoints::of(self.plan).url(&service.name, &player.inside)?))
    }

    /// Undoes the steps of faults, all of them before it waits for any service: one may need another's to be ready.
    async fn undo(&self, faults: &[&Fault]) -> Result<()> {
        let steps: Vec<(&Step, &Service)> = faults
            .iter()
            .flat_map(|f| &f.steps)
            .flat_map(|step| self.all(step.services()).into_iter().map(move |service| (step, service)))
            .collect();
        let mut failed = Vec::new();
        for (step, service) in &steps {
            if let Err(error) = self.undo_step(step, service).await {
                failed.push(format!("{}: {error:#}", service.name));
            }
        }
        for (_, service) in &steps {
            if failed.is_empty() {
                self.engine.until_ready(self.plan, service).await?;
            }
        }
        if !failed.is_empty() {
            bail!("not all could be undone:\n  {}", failed.join("\n  "));
        }
        Ok(())
    }

    async fn undo_step(&self, step: &Step, service: &Service) -> Result<()> {
        let container = &service.container;
        let found = self.engine.look_at(container).await.with_context(|| {
            format!(
                "its container is not there; ./lab restart {}{}, then undo again",
                service.name,
                self.plan.instance.option()
            )
        })?;
        let state = found.state.unwrap_or_default();
        let runs = state.running == Some(true);
        match step {
            Step::Kill(_) if !runs => self.engine.start_again(container).await,
            Step::Pause(_) if state.paused == Some(true) => self.engine.unpause(container).await,
            Step::Cut { .. } if runs => self.within_network(service, "ip route flush type blackhole").await,
            Step::Slow { .. } if runs => {
                let script = "tc qdisc show dev eth0 | grep -q tbf || exit 0; tc qdisc del dev eth0 root";
                self.within_network(service, script).await
            }
            Step::Search { settings, index, .. } if runs => {
                let elasticsearch = self.elasticsearch(service)?;
                let unset = settings.keys().map(|name| (name.clone(), None));
                elasticsearch.set_cluster(&unset.collect()).await?;
                match index {
                    Some(index) => elasticsearch.remove_index(index).await,
                    None => Ok(()),
                }
            }
            // One that was started anew in between has nothing left of it.
            _ => Ok(()),
        }
    }

    /// Ends all processes of a service but the first, which ends with them; waits until the engine has seen it.
    async fn crash(&self, service: &Service) -> Result<()> {
        let container = &service.container;
        let started = async || {
            let found = self.engine.look_at(container).await?;
            anyhow::Ok(found.state.unwrap_or_default().started_at)
        };
        let before = started().await?;
        // Its own end may come before its answer.
        let _ = self.engine.exec(container, &["sh", "-c", "kill -9 -1"]).await;
        let every = Duration::from_millis(100);
        eventually(&format!("the end of {}", service.name), Duration::from_secs(10), every, || async {
            let now = started().await?;
            Ok(if now == before { Answer::NotYet("it still runs".to_owned()) } else { Answer::Is(()) })
        })
        .await?;
        Ok(())
    }

    /// The two halves of the instance's network: more specific than the route to the whole of it.
    async fn halves(&self) -> Result<Vec<String>> {
        let network = &self.plan.network;
        let found = self.engine.docker.inspect_network(network, None::<InspectNetworkOptions>).await?;
        let ranges = found.ipam.and_then(|i| i.config).unwrap_or_default();
        let range =
            ranges.into_iter().find_map(|c| c.subnet).with_context(|| format!("{network} has no range"))?;
        halves_of(&range).with_context(|| format!("{network}'s range {range} cannot be halved"))
    }

    /// Routes to the present addresses of services in the instance's network.
    async fn addresses(&self, names: &[String]) -> Result<Vec<String>> {
        let mut found = Vec::new();
        for service in self.all(names) {
            let address = self.engine.address(&service.container, &self.plan.network).await?;
            found.push(format!("{address}/32"));
        }
        Ok(found)
    }

    /// Runs a script with the right to change the network of a service, in a container beside it.
    async fn within_network(&self, service: &Service, script: &str) -> Result<()> {
        let docker = &self.engine.docker;
        let body = ContainerCreateBody {
            entrypoint: Some(vec!["/bin/sh".to_owned(), "-ec".to_owned()]),
            cmd: Some(vec![script.to_owned()]),
            host_config: Some(HostConfig {
                network_mode: Some(format!("container:{}", service.container)),
                cap_add: Some(vec!["NET_ADMIN".to_owned()]),
                ..HostConfig::default()
            }),
            ..self.own_container().await?
        };
        // A name of its own: one that was interrupted may still be coming into being.
        let name = format!("{}{}-{:08x}", self.step_prefix(), service.name, rand::random::<u32>());
        let options = CreateContainerOptionsBuilder::new().name(&name).build();
        docker
            .create_container(Some(options), body)
            .await
            .with_context(|| format!("{name} cannot be made"))?;
        let ended = async {
            docker.start_container(&name, None::<StartContainerOptions>).await?;
            // The engine answers a non-zero code with an error.
            docker.wait_container(&name, None::<WaitContainerOptions>).try_collect::<Vec<_>>().await
        };
        let ended = ended.await;
        let said = self.engine.last_lines(&name, 5).await;
        self.remove(&name).await?;
        ended.with_context(|| format!("the network of {} could not be changed:\n{said}", service.name))?;
        Ok(())
    }

    /// A container of the own image that this very lab was started from: the program may have been built anew since.
    async fn own_container(&self) -> Result<ContainerCreateBody> {
        let own = self.plan.services.iter().filter(|s| s.image == OWN_IMAGE);
        let mut image = None;
        for service in own {
            // Set-up containers have ended: `docker container prune` may have removed them.
            if let Ok(found) = self.engine.look_at(&service.container).await {
                image = found.image;
                break;
            }
        }
        let image = Some(image.context("the lab has no container of the own image")?);
        let labels = [(INSTANCE_LABEL.to_owned(), self.plan.instance.name().to_owned())];
        Ok(ContainerCreateBody { image, labels: Some(labels.into()), ..Default::default() })
    }

    fn step_prefix(&self) -> String {
        self.plan.instance.container("fault-step-")
    }

    fn marker(&self, fault: &str) -> String {
        self.plan.instance.container(&format!("fault-{fault}"))
    }

    async fn mark(&self, fault: &str) -> Result<String> {
        let mut body = self.own_container().await?;
        body.labels.get_or_insert_default().insert(FAULT_LABEL.to_owned(), fault.to_owned());
        let name = self.marker(fault);
        let options = CreateContainerOptionsBuilder::new().name(&name).build();
        self.engine.docker.create_container(Some(options), body).await?;
        Ok(name)
    }

    async fn remove(&self, container: &str) -> Result<()> {
        let options = RemoveContainerOptionsBuilder::new().force(true).build();
        Ok(self.engine.docker.remove_container(container, Some(options)).await?)
    }

    async fn produce(&self, scenario: &str, records: u64) -> Result<()> {
        let scenario = Scenario::named(scenario).with_context(|| format!("no producer of {scenario}"))?;
        let order = Order {
            bootstrap: Endpoints::of(self.plan).bootstrap(),
            threads: 4,
            count: Some(records),
            seed: rand::random(),
            ..Order::default()
        };
        let written = scenario.write(&order).await?;
        if written.acknowledged < records {
            bail!("of {records} records {} were acknowledged: {:?}", written.acknowledged, written.failed);
        }
        Ok(())
    }
}

/// `172.18.0.0/16` → `172.18.0.0/17`, `172.18.128.0/17`.
fn halves_of(range: &str) -> Option<Vec<String>> {
    let (address, bits) = range.split_once('/')?;
    let bits: u32 = bits.parse().ok().filter(|b| *b < 32)?;
    let low = u32::from(address.parse::<std::net::Ipv4Addr>().ok()?);
    let high = low | (1 << (31 - bits));
    Some([low, high].map(|a| format!("{}/{}", std::net::Ipv4Addr::from(a), bits + 1)).to_vec())
}

#[cfg(test)]
mod tests {
    use super::halves_of;

    #[test]
    fn a_range_is_halved() {
        let halves = |range| halves_of(range).unwrap_or_default().join(" ");
        assert_eq!(halves("172.18.0.0/16"), "172.18.0.0/17 172.18.128.0/17");
        assert_eq!(halves("10.1.2.0/24"), "10.1.2.0/25 10.1.2.128/25");
        assert_eq!(halves("fd00::/64"), "");
        assert_eq!(halves("10.1.2.3/32"), "");
    }
}
