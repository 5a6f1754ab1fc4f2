//! Breaking a running lab on purpose, and putting it right: the faults of `lab.toml`, for teaching and for the spec.
//!
//! A fault that is in force is known by a container of its own that never runs: what has to be undone outlives the
//! program that did it, and goes with the instance.

use anyhow::{Context, Result, bail};
use futures::TryStreamExt;
use testcontainers::bollard::models::{ContainerCreateBody, HostConfig};
use testcontainers::bollard::query_parameters::{
    CreateContainerOptionsBuilder, InspectContainerOptions, InspectNetworkOptions,
    RemoveContainerOptionsBuilder, StartContainerOptions, WaitContainerOptions,
};
use tokio::sync::watch;

use super::{Engine, FAULT_LABEL, INSTANCE_LABEL, InstanceState};
use crate::clients::producer::{Acks, Format, Order, Profile, produce};
use crate::topology::{Endpoints, Fault, LabFile, Service, Step, Topology};

/// The image of the program itself: it brings `ip` and `tc`.
const OWN_IMAGE: &str = "streamlab";

/// A lab that can be broken.
pub struct Breakable<'a> {
    /// The engine it runs on.
    pub engine: &'a Engine,
    /// The definition it was started from.
    pub file: &'a LabFile,
    /// The lab as it runs.
    pub topology: &'a Topology,
}

impl Breakable<'_> {
    /// Carries out a fault's steps.
    ///
    /// # Errors
    /// The fault is in force already, it needs a service that this lab does not have, or a step failed: then what was
    /// done is undone.
    pub async fn inject(&self, state: &InstanceState, fault: &Fault) -> Result<()> {
        let name = fault.name.get_ref();
        if state.faults.contains(name) {
            bail!("{name} is in force already.\n  Undo it: ./lab fault undo");
        }
        for wanted in fault.steps.iter().flat_map(Step::services) {
            if self.members(wanted).is_empty() {
                bail!("{name} touches {wanted}, which the lab {} does not have", self.topology.lab);
            }
        }
        let marker = self.mark(name).await?;
        for step in &fault.steps {
            if let Err(error) = self.perform(step).await {
                let undone = self.undo(fault).await;
                self.remove(&marker).await?;
                return Err(undone.err().unwrap_or(error).context(format!("{name} could not be done")));
            }
        }
        Ok(())
    }

    /// Undoes every fault that is in force and waits until the services are ready; gives their names.
    ///
    /// # Errors
    /// A step cannot be undone, or a service does not become ready.
    pub async fn undo_all(&self, state: &InstanceState) -> Result<Vec<String>> {
        let mut undone = Vec::new();
        for name in &state.faults {
            if let Some(fault) = self.file.faults.iter().find(|f| f.name.get_ref() == name) {
                self.undo(fault).await.with_context(|| format!("{name} cannot be undone"))?;
            }
            self.remove(&self.marker(name)).await?;
            undone.push(name.clone());
        }
        Ok(undone)
    }

    fn members(&self, name: &str) -> Vec<&Service> {
        self.topology.services.iter().filter(|s| s.name == name || s.group == name).collect()
    }

    fn all(&self, names: &[String]) -> Vec<&Service> {
        names.iter().flat_map(|n| self.members(n)).collect()
    }

    async fn perform(&self, step: &Step) -> Result<()> {
        match step {
            Step::Kill(names) => {
                for service in self.all(names) {
                    self.engine.kill(&service.container).await?;
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
            Step::Produce(records) => self.produce(*records).await?,
        }
        Ok(())
    }

    async fn undo(&self, fault: &Fault) -> Result<()> {
        let mut touched = Vec::new();
        for step in &fault.steps {
            for service in self.all(step.services()) {
                let container = &service.container;
                let state = self
                    .engine
                    .docker
                    .inspect_container(container, None::<InspectContainerOptions>)
                    .await?
                    .state;
                let state = state.unwrap_or_default();
                let runs = state.running == Some(true);
                match step {
                    Step::Kill(_) if !runs => self.engine.start_again(container).await?,
                    Step::Pause(_) if state.paused == Some(true) => self.engine.unpause(container).await?,
                    Step::Cut { .. } if runs => {
                        self.within_network(service, "ip route flush type blackhole").await?
                    }
                    Step::Slow { .. } if runs => {
                        self.within_network(
                            service,
                            "tc qdisc show dev eth0 | grep -q tbf || exit 0; tc qdisc del dev eth0 root",
                        )
                        .await?;
                    }
                    // One that was started anew in between has nothing left of it.
                    _ => {}
                }
                touched.push(service);
            }
        }
        for service in touched {
            self.engine.until_ready(self.topology, service).await?;
        }
        Ok(())
    }

    /// The two halves of the instance's network: more specific than the route to the whole of it.
    async fn halves(&self) -> Result<Vec<String>> {
        let network = &self.topology.network;
        let found = self.engine.docker.inspect_network(network, None::<InspectNetworkOptions>).await?;
        let ranges = found.ipam.and_then(|i| i.config).unwrap_or_default();
        let range =
            ranges.into_iter().find_map(|c| c.subnet).with_context(|| format!("{network} has no range"))?;
        halves_of(&range).with_context(|| format!("{network}'s range {range} cannot be halved"))
    }

    /// The present addresses of services in the instance's network.
    async fn addresses(&self, names: &[String]) -> Result<Vec<String>> {
        let mut found = Vec::new();
        for service in self.all(names) {
            let inspected = self
                .engine
                .docker
                .inspect_container(&service.container, None::<InspectContainerOptions>)
                .await?;
            let networks = inspected.network_settings.and_then(|n| n.networks).unwrap_or_default();
            let address = networks.get(&self.topology.network).and_then(|n| n.ip_address.clone());
            let address = address.filter(|a| !a.is_empty());
            found
                .push(format!("{}/32", address.with_context(|| format!("{} has no address", service.name))?));
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
        let name = self.topology.instance.container(&format!("fault-step-{}", service.name));
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
        let own = self.topology.services.iter().find(|s| s.image == OWN_IMAGE);
        let own = own.context("the lab has no service of the own image")?;
        let found = self.engine.docker.inspect_container(&own.container, None::<InspectContainerOptions>);
        let found = found.await.with_context(|| format!("{} is not there", own.name))?;
        let labels = [(INSTANCE_LABEL.to_owned(), self.topology.instance.name().to_owned())];
        Ok(ContainerCreateBody { image: found.image, labels: Some(labels.into()), ..Default::default() })
    }

    fn marker(&self, fault: &str) -> String {
        self.topology.instance.container(&format!("fault-{fault}"))
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

    async fn produce(&self, records: u64) -> Result<()> {
        let endpoints = Endpoints::of(self.topology);
        let order = Order {
            bootstrap: endpoints.bootstrap(),
            registry_url: String::new(),
            profile: Profile::Python,
            format: Format::Json,
            acks: Acks::Leader,
            threads: 4,
            rate: None,
            count: Some(records),
            seed: rand::random(),
            run: None,
        };
        let ledger = produce(&order, Default::default(), watch::channel(false).1).await?;
        if ledger.acknowledged < records {
            bail!("of {records} records {} were acknowledged: {:?}", ledger.acknowledged, ledger.failed);
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
