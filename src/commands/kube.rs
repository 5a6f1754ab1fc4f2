//! `lab kube`: a lab on Kubernetes, put there, looked at and removed. It asks before it changes a cluster.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{BufRead as _, IsTerminal as _, Write as _};

use anyhow::{Result, bail};
use clap::Subcommand;
use tokio::sync::watch;

use super::context::Context;
use super::progress::progress;
use super::status;
use crate::cluster::{Choice, Cluster, Images, Presence, State, quoted};
use crate::engine::{SourceChoice, in_registry};
use crate::project::Project;
use crate::signals::{Interrupted, watch_signals};
use crate::topology::{DEFAULT_INSTANCE, Endpoints, Instance, Plan, Ready, Service, Source};

#[derive(Debug, Subcommand)]
pub(super) enum Kube {
    /// Put a lab on a cluster, wait until it is ready, and hold its addresses on this machine.
    Up(UpArgs),
    /// Every workload: whether it is ready, and what it waits for; what differs from the definition.
    Status(Which),
    /// The addresses that `up` holds, for other programs: the endpoints file that LAB_ATTACH takes.
    Env(Which),
    /// More pods of a workload, or fewer: brokers (Kafka then spreads its partitions), Spark's workers, consumers.
    Scale(ScaleArgs),
    /// Remove a lab from a cluster, with its data.
    Down(DownArgs),
}

#[derive(Debug, clap::Args)]
pub(super) struct Which {
    /// Which lab; lab.toml's default where absent.
    #[arg(long, value_name = "NAME")]
    lab: Option<String>,
    /// Which cluster of kubectl's settings; the current one where absent.
    #[arg(long, value_name = "NAME")]
    context: Option<String>,
}

#[derive(Debug, clap::Args)]
pub(super) struct UpArgs {
    #[command(flatten)]
    which: Which,
    /// Folder of deploy/kubernetes/LAB/overlays.
    #[arg(long, default_value = "dev")]
    overlay: String,
    /// Where ./lab images push has put the images: `registry.example/team`.
    #[arg(long)]
    registry: String,
    /// Which images come from that registry: all (local), or only those that no public registry has (upstream).
    #[arg(long, value_enum, default_value = "local")]
    images: SourceChoice,
    /// Do not ask.
    #[arg(long)]
    yes: bool,
    /// Return when every workload is ready, without addresses on this machine.
    #[arg(long)]
    detach: bool,
}

#[derive(Debug, clap::Args)]
pub(super) struct ScaleArgs {
    #[command(flatten)]
    which: Which,
    /// Such as kafka-broker, spark-worker, analytics-consumer.
    workload: String,
    /// How many.
    count: u32,
    /// Do not ask.
    #[arg(long)]
    yes: bool,
}

#[derive(Debug, clap::Args)]
pub(super) struct DownArgs {
    #[command(flatten)]
    which: Which,
    /// Do not ask.
    #[arg(long)]
    yes: bool,
}

pub(super) async fn run(context: &Context, command: Kube) -> Result<()> {
    if context.instance != DEFAULT_INSTANCE {
        bail!(
            "--instance is for labs on this machine: a cluster has each lab once, in a namespace of its own"
        );
    }
    let project = context.project()?;
    match command {
        Kube::Up(args) => up(&project, args).await,
        Kube::Status(which) => show(&project, &which).await,
        Kube::Env(which) => env(&project, &which).await,
        Kube::Scale(args) => scale(&project, args).await,
        Kube::Down(args) => down(&project, &args).await,
    }
}

/// The lab as the manifests have it: those are made for public images.
fn plan_of(project: &Project, which: &Which) -> Result<Plan> {
    let plan = project.plan(which.lab.as_deref(), Instance::documented())?;
    Ok(Source::Upstream.part_of(&project.file, &plan)?)
}

async fn up(project: &Project, args: UpArgs) -> Result<()> {
    if args.images == SourceChoice::Auto {
        bail!("--images auto asks this machine's engine; for a cluster say local or upstream");
    }
    let plan = plan_of(project, &args.which)?;
    let images = if args.images == SourceChoice::Upstream { Source::Upstream } else { Source::Local };
    let cluster = Cluster::reach(args.which.context.as_deref(), &plan.lab).await?;
    let present = cluster.present().await?;
    let is_there = matches!(present, Presence::There(_));
    // What was scaled stays so: brokers have partitions.
    let mut replicas = match present {
        Presence::There(Some(before)) => before.replicas,
        _ => BTreeMap::new(),
    };
    if is_there {
        kept(project, &plan, &cluster, &mut replicas).await?;
    }
    let choice = Choice { overlay: args.overlay, registry: args.registry, images, replicas };
    cluster.allowed(is_there).await?;
    let images = images_of(project, &plan, &choice)?;
    let manifests = cluster.manifests(&project.root, &choice, &images).await?;
    let here = without(plan.clone(), &images.absent);
    if !args.detach {
        Cluster::ports_are_free(&here)?;
    }
    say!("cluster   {}", cluster.name());
    say!("namespace {}", cluster.namespace());
    let differing = if is_there { Some(cluster.differing(&manifests).await?) } else { None };
    match &differing {
        None => ask(&format!("Put lab {} there, overlay {}?", plan.lab, choice.overlay), args.yes)?,
        Some(differing) if differing.is_empty() => say!("lab {} is there as it should be", plan.lab),
        Some(differing) => {
            say!("there already, and not as it should be:\n  {}", differing.join("\n  "));
            ask("Set these to what the definition says?", args.yes)?;
        }
    }
    // From here on something is there to be told of.
    let mut cancel = watch_signals();
    if differing.is_none_or(|differing| !differing.is_empty()) {
        cluster.apply(&manifests).await?;
    }
    let after = after(&plan, &args.which);
    ready(&cluster, &mut cancel, &after).await?;
    if args.detach {
        say!("The lab stays on the cluster.{after}");
        return Ok(());
    }
    let _held = cluster.forward(&here).await?;
    say!("{}", status::endpoint_table(&here));
    say!("Ctrl-C ends these addresses; the lab stays on the cluster.{after}");
    let _ = cancel.wait_for(|c| *c).await;
    Ok(())
}

async fn show(project: &Project, which: &Which) -> Result<()> {
    let plan = plan_of(project, which)?;
    let cluster = Cluster::reach(which.context.as_deref(), &plan.lab).await?;
    say!("cluster   {}", cluster.name());
    let Presence::There(choice) = cluster.present().await? else {
        bail!("lab {} is not on this cluster: it has no namespace {}", plan.lab, cluster.namespace());
    };
    say!("namespace {}", cluster.namespace());
    say!("{:<24} {:<7} STATE", "WORKLOAD", "READY");
    for standing in cluster.standings().await? {
        let ready = standing.state == State::Ready;
        let state = if ready { String::new() } else { standing.state.to_string() };
        say!(
            "{}",
            format!("{:<24} {:<7} {state}", standing.workload, if ready { "yes" } else { "no" }).trim_end()
        );
    }
    let Some(choice) = choice else {
        say!("It was not put there by ./lab kube up: what it should be is not known.");
        return Ok(());
    };
    say!("overlay {}, images from {}", choice.overlay, choice.registry);
    let images = images_of(project, &plan, &choice)?;
    let manifests = cluster.manifests(&project.root, &choice, &images).await?;
    match cluster.differing(&manifests).await {
        Ok(differing) if differing.is_empty() => say!("all that the definition sets is so"),
        Ok(differing) => {
            say!(
                "not as the definition has it (./lab kube up sets it to that):\n  {}",
                differing.join("\n  ")
            );
        }
        // Whoever may only look gets no answer.
        Err(error) => say!("it cannot be compared with the definition: {error:#}"),
    }
    Ok(())
}

async fn env(project: &Project, which: &Which) -> Result<()> {
    let plan = plan_of(project, which)?;
    let cluster = Cluster::reach(which.context.as_deref(), &plan.lab).await?;
    let Presence::There(Some(choice)) = cluster.present().await? else {
        bail!("lab {} is not on this cluster, or was not put there by ./lab kube up", plan.lab);
    };
    let absent = images_of(project, &plan, &choice)?.absent;
    let mut endpoints = Endpoints::of(&plan);
    endpoints.services.retain(|name, _| !absent.contains(name));
    say!("{}", serde_json::to_string_pretty(&endpoints)?);
    Ok(())
}

async fn down(project: &Project, args: &DownArgs) -> Result<()> {
    let plan = plan_of(project, &args.which)?;
    let cluster = Cluster::reach(args.which.context.as_deref(), &plan.lab).await?;
    say!("cluster   {}", cluster.name());
    if matches!(cluster.present().await?, Presence::Absent) {
        say!("lab {} is not on this cluster", plan.lab);
        return Ok(());
    }
    say!("namespace {}", cluster.namespace());
    ask(&format!("Remove lab {} with all its data?", plan.lab), args.yes)?;
    cluster.remove().await?;
    say!("lab {} is gone", plan.lab);
    Ok(())
}

/// A plan without services that are not there.
fn without(mut plan: Plan, absent: &BTreeSet<String>) -> Plan {
    plan.services.retain(|service| !absent.contains(&service.name));
    plan
}

async fn ready(cluster: &Cluster, cancel: &mut watch::Receiver<bool>, after: &str) -> Result<()> {
    let (events, lines) = progress();
    let ready = tokio::select! {
        ready = cluster.ready(|event| { let _ = events.send(event); }) => ready,
        _ = cancel.wait_for(|c| *c) => Err(Interrupted(format!("what was put there stays.{after}")).into()),
    };
    drop(events);
    lines.await?;
    match ready {
        Err(error) if error.downcast_ref::<Interrupted>().is_none() => {
            bail!("{error:#}\n  What was put there stays.{after}")
        }
        other => other,
    }
}

async fn scale(project: &Project, args: ScaleArgs) -> Result<()> {
    let plan = plan_of(project, &args.which)?;
    let scaled = scaled(project, &plan, &args.workload, args.count)?;
    let cluster = Cluster::reach(args.which.context.as_deref(), &plan.lab).await?;
    say!("cluster   {}", cluster.name());
    say!("namespace {}", cluster.namespace());
    let Presence::There(Some(mut choice)) = cluster.present().await? else {
        bail!("lab {} is not on this cluster, or was not put there by ./lab kube up", plan.lab);
    };
    kept(project, &plan, &cluster, &mut choice.replicas).await?;
    let before = choice.replicas.get(&args.workload).copied().unwrap_or(scaled.defined);
    if scaled.has_partitions && args.count < before {
        bail!(
            "{} has {before}, and those that would go have partitions; fewer brokers are not a matter of a number.\n  Move their partitions away \
             first, by Kafka's own kafka-reassign-partitions, then: {} scale statefulset {} --replicas {}",
            args.workload,
            cluster.command(),
            args.workload,
            args.count
        );
    }
    choice.replicas.insert(args.workload.clone(), args.count);
    let images = images_of(project, &plan, &choice)?;
    let manifests = cluster.manifests(&project.root, &choice, &images).await?;
    let mut differing = cluster.differing(&manifests).await?;
    let asked_for = [format!("/{}: spec.replicas is", args.workload), "streamlab.lab/replicas".to_owned()];
    differing.retain(|line| !asked_for.iter().any(|part| line.contains(part)));
    if !differing.is_empty() {
        say!("not as the definition has it, and would be set to that:\n  {}", differing.join("\n  "));
    }
    ask(&format!("{}: {before} → {}?", args.workload, args.count), args.yes)?;
    let mut cancel = watch_signals();
    cluster.apply(&manifests).await?;
    ready(&cluster, &mut cancel, &after(&plan, &args.which)).await?;
    if scaled.has_partitions {
        let said = tokio::select! {
            said = cluster.move_partitions(&project.root, &images) => said?,
            _ = cancel.wait_for(|c| *c) => {
                return Err(Interrupted("Kafka goes on moving partitions by itself".to_owned()).into());
            }
        };
        // Lines that begin with [ are the tools' own log.
        said.lines().filter(|line| !line.starts_with('[')).for_each(|line| say!("{line}"));
    }
    Ok(())
}

/// Brokers are as many as there are, whoever has made them: a number that the definition has would take partitions away.
async fn kept(
    project: &Project,
    plan: &Plan,
    cluster: &Cluster,
    replicas: &mut BTreeMap<String, u32>,
) -> Result<()> {
    let grows = |service: &&Service| {
        matches!(service.ready, Ready::Kafka { .. })
            && project.file.services[&service.group].scales_to.is_some()
    };
    let sets: BTreeSet<&str> = plan
        .services
        .iter()
        .filter(grows)
        .filter_map(|service| Some(service.name.rsplit_once('-')?.0))
        .collect();
    for set in sets {
        if let Some(live) = cluster.replicas(set).await? {
            replicas.insert(set.to_owned(), live);
        }
    }
    Ok(())
}

/// What is known of a workload that is to be scaled.
struct Scaled {
    /// How many the definition has.
    defined: u32,
    /// It has partitions: more of it are of no use until some are moved.
    has_partitions: bool,
}

/// # Errors
/// Nothing of that name can be scaled, or not so far.
fn scaled(project: &Project, plan: &Plan, workload: &str, count: u32) -> Result<Scaled> {
    let spec = |service: &Service| &project.file.services[&service.group];
    let member = |service: &&Service| {
        let number = service.name.strip_prefix(workload).and_then(|rest| rest.strip_prefix('-'));
        number.is_some_and(|number| number.parse::<u32>().is_ok()) && spec(service).scales_to.is_some()
    };
    let members: Vec<&Service> = plan.services.iter().filter(member).collect();
    if let Some(first) = members.first() {
        let (defined, most) = (u32::try_from(members.len())?, spec(first).scales_to.unwrap_or_default());
        if !(defined..=most).contains(&count) {
            bail!(
                "{workload}: from {defined}, which the definition has, to {most}, for which names are there"
            );
        }
        return Ok(Scaled { defined, has_partitions: matches!(first.ready, Ready::Kafka { .. }) });
    }
    let alone = |service: &&Service| spec(service).members.len() < 2 && spec(service).scales_to.is_some();
    if let Some(service) = plan.services.iter().filter(alone).find(|service| service.name == workload) {
        let most = spec(service).scales_to.unwrap_or_default();
        if count > most {
            bail!("{workload}: at most {most}; more of them would have nothing to do");
        }
        return Ok(Scaled { defined: 1, has_partitions: false });
    }
    let known = plan.services.iter().filter(|service| spec(service).scales_to.is_some());
    let name = |service: &Service| match service.name.rsplit_once('-') {
        Some((group, _)) if spec(service).members.len() > 1 => group.to_owned(),
        _ => service.name.clone(),
    };
    let known: BTreeSet<String> = known.map(name).collect();
    let known = known.into_iter().collect::<Vec<_>>().join(", ");
    let none = if known.is_empty() { "none" } else { &known };
    bail!("{workload} cannot be scaled in lab {}; what can: {none}", plan.lab)
}

/// Where a cluster finds the images.
fn images_of(project: &Project, plan: &Plan, choice: &Choice) -> Result<Images> {
    let arch = match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    };
    let own_only = choice.images == Source::Upstream;
    let mut moved = BTreeMap::new();
    for image in in_registry(project, arch, plan, &choice.registry)? {
        let own = crate::render::own_image(&image.image.name);
        let names = image.stands_for.into_iter().filter(|name| !own_only || *name == own);
        moved.extend(names.map(|name| (name, image.there.clone())));
    }
    // What only a public registry has is not there without it.
    let absent: BTreeSet<String> = if own_only {
        BTreeSet::new()
    } else {
        let local = Source::Local.part_of(&project.file, plan)?;
        let names = plan.services.iter().map(|service| service.name.clone());
        names.filter(|name| local.service(name).is_none()).collect()
    };
    Ok(Images { moved, absent })
}

fn after(plan: &Plan, which: &Which) -> String {
    let mut option = format!(" --lab {}", plan.lab);
    if let Some(context) = &which.context {
        option += &format!(" --context {}", quoted(context));
    }
    format!("\n  How it stands: ./lab kube status{option}\n  Remove it: ./lab kube down{option}")
}

/// # Errors
/// The answer is no, or nobody can be asked.
fn ask(question: &str, yes: bool) -> Result<()> {
    if yes {
        return Ok(());
    }
    if !std::io::stdin().is_terminal() {
        bail!("{question} Nobody can be asked here.\n  Nothing was changed. Answer beforehand: --yes");
    }
    let mut out = std::io::stdout();
    write!(out, "{question} [y/N] ")?;
    out.flush()?;
    let mut answer = String::new();
    std::io::stdin().lock().read_line(&mut answer)?;
    match answer.trim() {
        "y" | "Y" | "yes" => Ok(()),
        _ => bail!("nothing was changed"),
    }
}
