//! `streamlab setup …`: what the lab's one-shot services do. The engine knows no topics: the VM and compose have none.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use clap::Subcommand;

use super::setup_monitoring;
use crate::clients::kafka::{self, TopicSpec};
use crate::clients::schema_registry::{Registered, SchemaRegistry};
use crate::probes::{Answer, eventually};
use crate::scenarios::transactions::{
    AGGREGATES_TOPIC, AVRO_TOPIC, DEAD_LETTER_TOPIC, HIGH_VALUE_TOPIC, TOPIC,
};

/// Topic that only proves that the cluster takes and gives a record.
const READINESS_TOPIC: &str = "lab_readiness";

#[derive(Debug, Subcommand)]
pub(super) enum Step {
    /// Makes folders writable for every user.
    Volumes {
        /// The folders.
        folders: Vec<PathBuf>,
    },
    /// Topics, one written and read record, schemas.
    Lab,
    /// Configuration of Prometheus and Alertmanager, filled in from the environment.
    Monitoring(setup_monitoring::Args),
}

pub(super) async fn run(step: Step) -> Result<()> {
    match step {
        Step::Volumes { folders } => open_up(&folders),
        Step::Lab => lab().await,
        Step::Monitoring(args) => setup_monitoring::run(&args),
    }
}

#[cfg(unix)]
fn open_up(folders: &[PathBuf]) -> Result<()> {
    use std::os::unix::fs::PermissionsExt as _;
    for folder in folders {
        // Sticky, as /tmp: upstream's user and ours write there, and neither removes the other's files.
        std::fs::set_permissions(folder, std::fs::Permissions::from_mode(0o1777))
            .with_context(|| format!("{} cannot be made writable", folder.display()))?;
        println!("{} is writable for every user", folder.display());
    }
    Ok(())
}

#[cfg(not(unix))]
fn open_up(_: &[PathBuf]) -> Result<()> {
    bail!("runs in the own image only")
}

fn variable(name: &str) -> Result<String> {
    std::env::var(name).with_context(|| format!("the variable {name} is missing"))
}

fn topics() -> Vec<TopicSpec> {
    let data =
        |name| TopicSpec { name, partitions: 5, replication: 3, settings: &[("min.insync.replicas", "2")] };
    let small = |name| TopicSpec { partitions: 3, ..data(name) };
    vec![
        data(TOPIC),
        data(AVRO_TOPIC),
        small(AGGREGATES_TOPIC),
        small(HIGH_VALUE_TOPIC),
        TopicSpec { partitions: 1, ..data(DEAD_LETTER_TOPIC) },
        TopicSpec {
            partitions: 1,
            settings: &[("min.insync.replicas", "2"), ("retention.ms", "600000")],
            ..data(READINESS_TOPIC)
        },
    ]
}

async fn lab() -> Result<()> {
    let bootstrap = variable("BOOTSTRAP_SERVERS")?;
    let patience = Duration::from_secs(60);
    let every = Duration::from_millis(300);
    eventually("three brokers take topics", patience, every, || async {
        let ids = kafka::broker_ids(&bootstrap).await?;
        if ids.len() < 3 {
            return Ok(Answer::NotYet(format!("brokers {ids:?} answer")));
        }
        kafka::create_topics(&bootstrap, &topics()).await?;
        Ok(Answer::Is(()))
    })
    .await?;
    println!("topics: {}", topics().iter().map(|t| t.name).collect::<Vec<_>>().join(", "));
    eventually("a record is written and read", patience, every, || async {
        kafka::write_and_read(&bootstrap, READINESS_TOPIC).await.map(Answer::Is)
    })
    .await?;
    println!("a record was written and read");
    register(&SchemaRegistry::new(variable("SCHEMA_REGISTRY_URL")?), &variable("SCHEMAS_DIR")?).await
}

/// Registers every `<subject>/v<n>.avsc`, in the order of the versions, under compatibility BACKWARD.
async fn register(registry: &SchemaRegistry, folder: &str) -> Result<()> {
    registry.set_compatibility("BACKWARD").await.context("the global compatibility")?;
    for subject in std::fs::read_dir(folder).with_context(|| folder.to_owned())? {
        let subject = subject?;
        let name = subject.file_name().to_string_lossy().into_owned();
        let mut versions: Vec<PathBuf> =
            std::fs::read_dir(subject.path())?.map(|f| Ok(f?.path())).collect::<Result<_>>()?;
        versions.sort();
        for version in versions {
            match registry.register(&name, &std::fs::read_to_string(&version)?).await? {
                Registered::Id(id) => println!("schema {name} {}: id {id}", version.display()),
                Registered::Incompatible(why) => bail!("schema {} is incompatible: {why}", version.display()),
            }
        }
        // Apicurio answers NONE for a subject that only inherits the global level: say it for each.
        registry.set_subject_compatibility(&name, "BACKWARD").await?;
    }
    Ok(())
}
