//! `streamlab setup …`: what the lab's one-shot services do. The engine knows no topics: the VM and compose have none.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use clap::Subcommand;

use super::{setup_monitoring, variable};
use crate::clients::elasticsearch::Elasticsearch;
use crate::clients::kafka;
use crate::clients::kibana::Kibana;
use crate::clients::schema_registry::{Registered, SchemaRegistry};
use crate::probes::{Answer, eventually};
use crate::topology::TopicPlan;

/// Topic whose records only show that the cluster takes and gives them.
const READINESS_TOPIC: &str = "lab_readiness";
/// How long brokers may take to answer, and a record to come back.
const PATIENCE: Duration = Duration::from_secs(60);
const EVERY: Duration = Duration::from_millis(300);

#[derive(Debug, Subcommand)]
pub(crate) enum Step {
    /// Makes folders, writable for every user.
    Volumes {
        /// The folders.
        folders: Vec<PathBuf>,
    },
    /// Topics, one written and read record; schemas, where a registry is named.
    Lab,
    /// Index templates, from a folder of them.
    Search,
    /// Data views, saved searches and dashboards of Kibana, from a file of them.
    Kibana,
    /// Configuration of Prometheus and Alertmanager, filled in from the environment.
    Monitoring(setup_monitoring::Args),
}

pub(super) async fn run(step: Step) -> Result<()> {
    match step {
        Step::Volumes { folders } => open_up(&folders),
        Step::Lab => lab().await,
        Step::Search => search().await,
        Step::Kibana => kibana().await,
        Step::Monitoring(args) => setup_monitoring::run(&args),
    }
}

#[cfg(unix)]
fn open_up(folders: &[PathBuf]) -> Result<()> {
    use std::os::unix::fs::PermissionsExt as _;
    for folder in folders {
        std::fs::create_dir_all(folder).with_context(|| format!("{} cannot be made", folder.display()))?;
        // Sticky, as /tmp: upstream's user and ours write there, and neither removes the other's files.
        match std::fs::set_permissions(folder, std::fs::Permissions::from_mode(0o1777)) {
            // Kubernetes has given it to the group of all that have it.
            Err(_) if std::fs::metadata(folder)?.permissions().mode() & 0o020 != 0 => {
                println!("{} is writable for its group", folder.display());
            }
            other => {
                other.with_context(|| format!("{} cannot be made writable", folder.display()))?;
                println!("{} is writable for every user", folder.display());
            }
        }
    }
    Ok(())
}

#[cfg(not(unix))]
fn open_up(_: &[PathBuf]) -> Result<()> {
    bail!("runs in the own image only")
}

async fn lab() -> Result<()> {
    let bootstrap = variable("BOOTSTRAP_SERVERS")?;
    let topics: Vec<TopicPlan> =
        serde_json::from_str(&variable("TOPICS")?).context("the variable TOPICS holds no list of topics")?;
    let brokers = bootstrap.split(',').count();
    eventually("every broker takes topics", PATIENCE, EVERY, || async {
        let ids = kafka::broker_ids(&bootstrap).await?;
        if ids.len() < brokers {
            return Ok(Answer::NotYet(format!("of {brokers} brokers {ids:?} answer")));
        }
        kafka::create_topics(&bootstrap, &topics).await?;
        Ok(Answer::Is(()))
    })
    .await?;
    println!("topics: {}", topics.iter().map(|t| t.name.as_str()).collect::<Vec<_>>().join(", "));
    eventually("a record is written and read", PATIENCE, EVERY, || async {
        kafka::write_and_read(&bootstrap, READINESS_TOPIC).await.map(Answer::Is)
    })
    .await?;
    println!("a record was written and read");
    match std::env::var("SCHEMA_REGISTRY_URL") {
        Ok(url) => schemas(SchemaRegistry::new(url)).await,
        Err(_) => Ok(()),
    }
}

async fn schemas(registry: SchemaRegistry) -> Result<()> {
    registry.set_compatibility(COMPATIBILITY).await.context("the global compatibility")?;
    let schemas = PathBuf::from(variable("SCHEMAS_DIR")?);
    for scenario in variable("SCENARIOS")?.split(',') {
        register(&registry, &schemas.join(scenario)).await?;
    }
    Ok(())
}

/// Puts every `NAME.json` of a folder as the index template NAME.
async fn search() -> Result<()> {
    let elasticsearch = Elasticsearch::new(variable("ELASTICSEARCH_URL")?);
    let folder = PathBuf::from(variable("TEMPLATES")?);
    let unreadable = || format!("{} cannot be read", folder.display());
    let files = std::fs::read_dir(&folder).with_context(unreadable)?;
    let mut files: Vec<PathBuf> = files.map(|f| Ok(f?.path())).collect::<Result<_>>()?;
    files.retain(|f| f.extension().is_some_and(|e| e == "json"));
    files.sort();
    if files.is_empty() {
        bail!("{} holds no template: NAME.json is expected", folder.display());
    }
    for file in files {
        let name = file.file_stem().unwrap_or_default().to_string_lossy().into_owned();
        let refused = || format!("index template {}", file.display());
        let template = serde_json::from_slice(&std::fs::read(&file).with_context(refused)?);
        elasticsearch.put_template(&name, &template.with_context(refused)?).await.with_context(refused)?;
        println!("index template {name}");
    }
    Ok(())
}

async fn kibana() -> Result<()> {
    let file = PathBuf::from(variable("SAVED_OBJECTS")?);
    let objects = std::fs::read(&file).with_context(|| format!("{} cannot be read", file.display()))?;
    let count = Kibana::new(variable("KIBANA_URL")?)
        .import(objects)
        .await
        .with_context(|| file.display().to_string())?;
    println!("{count} saved objects");
    Ok(())
}

/// A new version can read what was written with the one before.
const COMPATIBILITY: &str = "BACKWARD";

/// Registers every `<subject>/v<n>.avsc` of a scenario, in the order of the versions. A scenario may have none.
async fn register(registry: &SchemaRegistry, folder: &Path) -> Result<()> {
    if !folder.is_dir() {
        return Ok(());
    }
    let unreadable = || format!("{} cannot be read", folder.display());
    for subject in std::fs::read_dir(folder).with_context(unreadable)? {
        let subject = subject.with_context(unreadable)?;
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
        registry.set_subject_compatibility(&name, COMPATIBILITY).await?;
    }
    Ok(())
}
