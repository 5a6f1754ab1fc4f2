//! The Kafka cluster itself: who votes, who follows, what is published.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use streamlab::clients::kafka;
use streamlab::probes::{Answer, eventually};

use crate::lab::Lab;
use crate::trial::{Chapter, Check, PATIENCE, Trial};

const CLUSTER_ID: &str = "5L6g3nShT-eMCtK--X86sw";

pub(crate) fn trials(chapter: &Chapter<'_>) -> Vec<Trial> {
    [chapter.flow("kraft-quorum", Check::plain(|lab| Box::pin(kraft_quorum(lab))))]
        .into_iter()
        .flatten()
        .collect()
}

/// Runs one of Kafka's own tools inside the broker number `at`, by the address for commands inside.
pub(crate) async fn kafka_tool(lab: &Lab, at: usize, tool: &str, arguments: &[&str]) -> Result<String> {
    let brokers = lab.names_of("kafka");
    let broker = brokers.get(at).with_context(|| format!("no broker number {at}"))?;
    let path = format!("/opt/kafka/bin/{tool}");
    let server = inside(lab, broker, "local")?;
    let command = [&[path.as_str(), "--bootstrap-server", &server], arguments].concat();
    lab.exec(broker, &command).await
}

/// `localhost:PORT` of a service's port, as commands inside its container use it.
pub(crate) fn inside(lab: &Lab, service: &str, port: &str) -> Result<String> {
    let found = lab.service(service)?.ports.iter().find(|p| p.name == port);
    Ok(format!("localhost:{}", found.with_context(|| format!("{service} has no port {port}"))?.container))
}

/// What `kafka-metadata-quorum describe --status` says (rdkafka cannot ask).
#[derive(Debug)]
pub(crate) struct Quorum {
    pub(crate) cluster_id: String,
    pub(crate) leader: u32,
    pub(crate) voters: String,
    pub(crate) observers: String,
    pub(crate) max_lag: i64,
}

pub(crate) async fn quorum(lab: &Lab) -> Result<Quorum> {
    let text = kafka_tool(lab, 0, "kafka-metadata-quorum.sh", &["describe", "--status"]).await?;
    let field = |name: &str| {
        let line = text.lines().find(|l| l.starts_with(name));
        let value = line.and_then(|l| l.split_once(':')).map(|(_, v)| v.trim().to_owned());
        value.with_context(|| format!("no {name} in:\n{text}"))
    };
    Ok(Quorum {
        cluster_id: field("ClusterId")?,
        leader: field("LeaderId")?.parse()?,
        voters: field("CurrentVoters")?,
        observers: field("CurrentObservers")?,
        max_lag: field("MaxFollowerLag:")?.parse()?,
    })
}

/// Node ids in either form: `[1,2,3]`, or the objects of newer versions.
pub(crate) fn node_ids(text: &str) -> Vec<u32> {
    let mut ids: Vec<u32> = if text.contains("\"id\"") {
        text.split("\"id\":")
            .skip(1)
            .filter_map(|t| t.trim().split(|c: char| !c.is_ascii_digit()).next()?.parse().ok())
            .collect()
    } else {
        text.split(|c: char| !c.is_ascii_digit()).filter_map(|t| t.parse().ok()).collect()
    };
    ids.sort_unstable();
    ids
}

/// Waits until a leader has all three voters close behind it. That the brokers follow too is not read from its list
/// of observers here (after a loss it may lack one that does follow) but shown by what they then do.
pub(crate) async fn voters_follow(lab: &Lab) -> Result<Quorum> {
    let question = "3 voters follow the quorum's leader";
    let quorum = eventually(question, PATIENCE, Duration::from_secs(1), || async {
        let quorum = quorum(lab).await?;
        let whole = node_ids(&quorum.voters) == [1, 2, 3] && (0..100).contains(&quorum.max_lag);
        Ok(if whole { Answer::Is(quorum) } else { Answer::NotYet(format!("{quorum:?}")) })
    })
    .await?;
    Ok(quorum)
}

pub(crate) async fn kraft_quorum(lab: Arc<Lab>) -> Result<String> {
    let question = "3 voters and 3 brokers follow the quorum's leader";
    let quorum = eventually(question, PATIENCE, Duration::from_secs(1), || async {
        let quorum = voters_follow(&lab).await?;
        let whole = node_ids(&quorum.observers) == [4, 5, 6];
        Ok(if whole { Answer::Is(quorum) } else { Answer::NotYet(format!("{quorum:?}")) })
    })
    .await?;
    if quorum.cluster_id != CLUSTER_ID || !(1..=3).contains(&quorum.leader) {
        bail!("wrong cluster id or leader: {quorum:?}");
    }
    let seen_by_client = kafka::cluster_id(&lab.bootstrap()).await?;
    if seen_by_client != CLUSTER_ID {
        bail!("clients see cluster id {seen_by_client}");
    }
    let brokers = kafka::broker_ids(&lab.bootstrap()).await?;
    if brokers != [4, 5, 6] {
        bail!("clients see brokers {brokers:?}");
    }
    // Of the nodes' ports only the one for clients on the host is published.
    let state = lab.engine()?.instance(lab.plan.instance.name()).await?;
    for name in lab.names_of("kafka-quorum").into_iter().chain(lab.names_of("kafka")) {
        let published = &state.of(&name).with_context(|| format!("no container of {name}"))?.ports;
        let clients = lab.service(&name)?.ports.iter().filter(|p| p.name == "host").map(|p| p.container);
        let allowed: Vec<u16> = clients.collect();
        if let Some((host, inside)) = published.iter().find(|(_, inside)| !allowed.contains(inside)) {
            bail!("{name} publishes {inside} on host port {host}");
        }
    }
    Ok(format!("leader is node {}, largest follower lag {}", quorum.leader, quorum.max_lag))
}
