//! `lab kube`: a lab on Kubernetes, put there, looked at and removed. It asks before it changes a cluster.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{BufRead as _, IsTerminal as _, Write as _};

use anyhow::{Result, bail};
use clap::Subcommand;

use super::context::Context;
use super::progress::progress;
use super::status;
use crate::cluster::{Choice, Cluster, Presence, State};
use crate::engine::{SourceChoice, in_registry};
use crate::project::Project;
use crate::signals::{Interrupted, watch_signals};
use crate::topology::{DEFAULT_INSTANCE, Instance, Plan, Source};

#[derive(Debug, Subcommand)]
pub(super) enum Kube {
    /// Put a lab on a cluster, wait until it is ready, and hold its addresses on this machine.
    Up(UpArgs),
    /// Every workload: whether it is ready, and what it waits for; what differs from the definition.
    Status(Which),
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
        Kube::Down(args) => down(&project, &args).await,
    }
}

/// The lab as the manifests have it: those are made for public images.
fn plan_of(project: &Project, which: &Which) -> Result<Plan> {
    let plan = project.plan(which.lab.as_deref(), Instance::documented())?;
    Ok(Source::Upstream.part_of(&project.file, &plan)?)
}

async fn up(project: &Project, args: UpArgs) -> Result<()> {
    let mut cancel = watch_signals();
    if args.images == SourceChoice::Auto {
        bail!("--images auto asks this machine's engine; for a cluster say local or upstream");
    }
    let plan = plan_of(project, &args.which)?;
    let images = if args.images == SourceChoice::Upstream { Source::Upstream } else { Source::Local };
    let choice = Choice { overlay: args.overlay, registry: args.registry, images };
    let cluster = Cluster::reach(args.which.context.as_deref(), &plan.lab).await?;
    let is_there = matches!(cluster.present().await?, Presence::There(_));
    cluster.allowed(is_there).await?;
    let manifests = manifests(project, &plan, &cluster, &choice).await?;
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
    if differing.is_none_or(|differing| !differing.is_empty()) {
        cluster.apply(&manifests).await?;
    }
    let after = after(&plan, &args.which);
    let (events, lines) = progress();
    let ready = tokio::select! {
        ready = cluster.ready(|event| { let _ = events.send(event); }) => ready,
        _ = cancel.wait_for(|c| *c) => Err(Interrupted(format!("what was put there stays.{after}")).into()),
    };
    drop(events);
    lines.await?;
    if let Err(error) = ready {
        bail!("{error:#}\n  What was put there stays.{after}");
    }
    if args.detach {
        say!("The lab stays on the cluster.{after}");
        return Ok(());
    }
    let _held = cluster.forward(&plan).await?;
    say!("{}", status::endpoint_table(&plan));
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
    let manifests = manifests(project, &plan, &cluster, &choice).await?;
    for object in cluster.differing(&manifests).await? {
        say!("{object} is not as the definition has it   (./lab kube up sets it to that)");
    }
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

/// The objects that the cluster should have.
async fn manifests(project: &Project, plan: &Plan, cluster: &Cluster, choice: &Choice) -> Result<String> {
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
    cluster.manifests(&project.root, choice, &moved, &absent).await
}

fn after(plan: &Plan, which: &Which) -> String {
    let mut option = format!(" --lab {}", plan.lab);
    if let Some(context) = &which.context {
        option += &format!(" --context {context}");
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
