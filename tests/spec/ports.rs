//! The ports table: documented host ports answer their protocol on the host, inside-only ones inside; nothing else
//! is published.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use streamlab::clients::{http, kafka};
use streamlab::probes::{Answer, eventually};
use streamlab::topology::{Port, Protocol, Service};

use crate::lab::Lab;
use crate::trial::{Chapter, Check, PATIENCE, Trial, row};

pub(crate) fn trials(chapter: &Chapter<'_>) -> Vec<Trial> {
    let plan = chapter.plan;
    let there = plan.services.iter().flat_map(|s| s.ports.iter().map(move |p| trial(s, p)));
    let replaced = chapter.project.file.labs[&plan.lab].replaced.iter().map(|row| {
        let (service, port) = (row.service.clone(), *row.port.get_ref());
        let check = Check::plain(move |lab| Box::pin(nobody_has(lab, port)));
        self::row(
            format!("port::{service}::{port}"),
            format!("replaced: {}", row.why),
            Vec::new(),
            true,
            check,
        )
    });
    there.chain(replaced).collect()
}

/// By the documented number: the host's, or the container's for an inside-only port.
fn trial(service: &Service, port: &Port) -> Trial {
    let number = port.documented.unwrap_or(port.container);
    let inside = port.documented.is_none();
    let (name, of) = (port.name.clone(), service.name.clone());
    let check = Check::plain(move |lab| {
        let (service, name) = (of.clone(), name.clone());
        Box::pin(async move {
            if inside {
                answers_inside(&lab, &service, &name).await
            } else {
                answers_on_host(&lab, &service, &name).await
            }
        })
    });
    let stations = vec![service.name.clone()];
    row(format!("port::{}::{number}", service.name), port.about.clone(), stations, inside, check)
}

/// A port of the seed's that this lab does without: no container of it has it, published or inside.
async fn nobody_has(lab: Arc<Lab>, port: u16) -> Result<String> {
    let state = lab.engine()?.instance(lab.plan.instance.name()).await?;
    for container in &state.containers {
        if container.ports.iter().any(|(host, inside)| *host == port || *inside == port) {
            bail!("{} publishes {port}", container.service);
        }
    }
    let mut asked = 0;
    for service in lab.plan.services.iter().filter(|s| s.health.is_some()) {
        let script =
            "grep -qiE \"^ *[0-9]+: [0-9A-F]+:$1 [0-9A-F:]+ 0A\" /proc/net/tcp /proc/net/tcp6 2>/dev/null";
        let hex = format!("{port:04X}");
        let command = ["sh", "-c", script, "sh", &hex];
        if lab.engine()?.exec(&service.container, &command).await?.code == 0 {
            bail!("{} listens on {port}", service.name);
        }
        asked += 1;
    }
    Ok(format!("none of {asked} running services"))
}

async fn answers_on_host(lab: &Arc<Lab>, service: &str, name: &str) -> Result<String> {
    let port = lab.endpoints.port(service, name)?;
    let spec = lab.service(service)?.ports.iter().find(|p| p.name == name).context("no such port")?;
    // An endpoints file may come from a body that numbers its ports otherwise.
    if lab.engine().is_ok()
        && let Some(documented) = spec.documented
        && lab.plan.instance.host_port(documented) != Some(port)
    {
        bail!("documented as {documented}, with offset {} it is {port}", lab.plan.instance.offset());
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
    // A controller answers no client: its port must only accept.
    let of_controllers = lab.plan.roles.get("kafka-quorum").into_iter().flatten();
    let is_broker_port = !of_controllers.into_iter().any(|p| p.service == service && p.inside == name);
    let script = match spec.protocol {
        // A metadata question over this very listener.
        Protocol::Kafka if is_broker_port => {
            format!(
                "/opt/kafka/bin/kafka-broker-api-versions.sh --bootstrap-server $HOSTNAME:{port} | grep -q 'id: '"
            )
        }
        // The whole answer is read: a service whose answer is cut off writes that it was, and the log must stay clean.
        Protocol::Http => format!(
            "exec 3<>/dev/tcp/127.0.0.1/{port} && printf 'GET {} HTTP/1.0\\r\\nHost: localhost\\r\\n\\r\\n' >&3 && answer=$(tr -d '\\0' <&3) && [[ ${{answer%%$'\\n'*}} == *' 200 '* ]]",
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
    let state = lab.engine()?.instance(lab.plan.instance.name()).await?;
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
