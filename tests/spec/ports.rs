//! The ports table: documented host ports answer their protocol on the host, inside-only ones inside; nothing else
//! is published.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use streamlab::clients::{http, kafka};
use streamlab::probes::{Answer, eventually};
use streamlab::topology::{Protocol, Topology};

use crate::harness::{Body, PATIENCE};
use crate::lab::Lab;

pub(crate) struct PortRow {
    pub(crate) service: String,
    /// As documented: the host's number, or the container's for an inside-only port.
    pub(crate) port: u16,
    pub(crate) inside: bool,
    pub(crate) what: String,
    name: String,
}

pub(crate) fn rows(documented: &Topology) -> Vec<PortRow> {
    let of = |s: &streamlab::topology::Service| {
        let row = |p: &streamlab::topology::Port| PortRow {
            service: s.name.clone(),
            port: p.documented.unwrap_or(p.container),
            inside: p.documented.is_none(),
            what: p.about.clone(),
            name: p.name.clone(),
        };
        s.ports.iter().map(row).collect::<Vec<_>>()
    };
    documented.services.iter().flat_map(of).collect()
}

impl PortRow {
    pub(crate) fn body(&self) -> Body {
        let (service, name, inside) = (self.service.clone(), self.name.clone(), self.inside);
        Arc::new(move |lab| {
            let (service, name) = (service.clone(), name.clone());
            Box::pin(async move {
                if inside {
                    answers_inside(&lab, &service, &name).await
                } else {
                    answers_on_host(&lab, &service, &name).await
                }
            })
        })
    }
}

async fn answers_on_host(lab: &Arc<Lab>, service: &str, name: &str) -> Result<String> {
    let port = lab.endpoints.port(service, name)?;
    let spec = lab.service(service)?.ports.iter().find(|p| p.name == name).context("no such port")?;
    // An endpoints file may come from a body that numbers its ports otherwise.
    if lab.engine().is_ok()
        && let Some(documented) = spec.documented
        && lab.topology.instance.host_port(documented) != Some(port)
    {
        bail!("documented as {documented}, with offset {} it is {port}", lab.topology.instance.offset());
    }
    let every = Duration::from_millis(500);
    eventually(&format!("{service} answers on {port}"), PATIENCE, every, || async {
        match spec.protocol {
            Protocol::Kafka => return kafka::node_serves(port).await,
            Protocol::Http => {
                let url = format!("http://127.0.0.1:{port}{}", spec.path.as_deref().unwrap_or("/"));
                http().get(url).send().await?.error_for_status()?;
            }
            Protocol::Tcp => drop(tokio::net::TcpStream::connect(("127.0.0.1", port)).await?),
        }
        Ok(Answer::Is(()))
    })
    .await?;
    if lab.engine().is_ok() {
        nothing_else_is_published(lab, service).await?;
    }
    Ok(format!("host port {port}"))
}

async fn answers_inside(lab: &Arc<Lab>, service: &str, name: &str) -> Result<String> {
    let spec = lab.service(service)?.ports.iter().find(|p| p.name == name).context("no such port")?;
    let port = spec.container;
    let script = match spec.protocol {
        // A metadata question over this very listener.
        Protocol::Kafka if service.contains("broker") => {
            format!(
                "/opt/kafka/bin/kafka-broker-api-versions.sh --bootstrap-server $HOSTNAME:{port} | grep -q 'id: '"
            )
        }
        Protocol::Http => format!(
            "exec 3<>/dev/tcp/127.0.0.1/{port} && printf 'GET {} HTTP/1.0\\r\\nHost: localhost\\r\\n\\r\\n' >&3 && head -1 <&3 | grep -q ' 200 '",
            spec.path.as_deref().unwrap_or("/")
        ),
        _ => format!("exec 3<>/dev/tcp/127.0.0.1/{port}"),
    };
    // The advertised name, not localhost: that is where brokers listen for each other.
    let script = script.replace("$HOSTNAME", &lab.service(service)?.container);
    lab.exec(service, &["bash", "-c", &script]).await?;
    nothing_else_is_published(lab, service).await?;
    Ok(format!("inside on {port}, not published"))
}

/// What the engine publishes for a service is what `lab.toml` documents, on 127.0.0.1 only.
async fn nothing_else_is_published(lab: &Arc<Lab>, service: &str) -> Result<()> {
    let state = lab.engine()?.instance(lab.topology.instance.name()).await?;
    let container = state.of(service).context("no container")?;
    let mut documented: Vec<(u16, u16)> =
        lab.service(service)?.ports.iter().filter_map(|p| Some((p.host?, p.container))).collect();
    documented.sort_unstable();
    if container.ports != documented {
        bail!("{service} publishes {:?}, documented is {documented:?}", container.ports);
    }
    if container.exposed {
        bail!("{service} is published beyond 127.0.0.1");
    }
    Ok(())
}
