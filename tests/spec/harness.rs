//! One lab for all selected trials: started (or attached to), shared, looked after, removed.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use futures::future::BoxFuture;
use libtest_mimic::{Arguments, Failed, Trial};
use streamlab::engine::{Engine, Resolved, Source, Started, UpOptions, build_images, is_free, recipe_images};
use streamlab::project::Project;
use streamlab::topology::{DEFAULT_INSTANCE, Endpoints, Flow, Instance, Service, Topology};
use tokio::runtime::Runtime;
use tokio::sync::{RwLock, watch};

use crate::report::{Report, Row, Verdict};
use crate::{command_rows, logs, ports};

/// The instance that the spec starts, beside a lab that is up.
const INSTANCE: &str = "test";
/// A trial that hangs is a failed one.
const PATIENCE: Duration = Duration::from_secs(240);

pub(crate) type Body = Arc<dyn Fn(Arc<Lab>) -> BoxFuture<'static, Result<String>> + Send + Sync>;

/// A function that proves a flow; what it gives is a note for the report.
pub(crate) struct FlowTest {
    id: &'static str,
    needs_engine: bool,
    body: Body,
}

pub(crate) fn flow(
    id: &'static str,
    body: impl Fn(Arc<Lab>) -> BoxFuture<'static, Result<String>> + Send + Sync + 'static,
) -> FlowTest {
    FlowTest { id, needs_engine: false, body: Arc::new(body) }
}

pub(crate) fn flow_with_engine(
    id: &'static str,
    body: impl Fn(Arc<Lab>) -> BoxFuture<'static, Result<String>> + Send + Sync + 'static,
) -> FlowTest {
    FlowTest { id, needs_engine: true, body: Arc::new(body) }
}

/// What a trial may know: the endpoints; and the engine, where there is one.
pub(crate) struct Lab {
    pub(crate) project: Project,
    pub(crate) endpoints: Endpoints,
    pub(crate) topology: Topology,
    engine: Option<Engine>,
    resolved: Option<Resolved>,
}

impl Lab {
    pub(crate) fn bootstrap(&self) -> String {
        self.endpoints.bootstrap()
    }

    pub(crate) fn engine(&self) -> Result<&Engine> {
        self.engine.as_ref().context("not without the engine")
    }

    pub(crate) fn service(&self, name: &str) -> Result<&Service> {
        self.topology.service(name).with_context(|| format!("no service {name}"))
    }

    /// Runs a command inside a service; its output, if it ended with 0.
    pub(crate) async fn exec(&self, service: &str, command: &[&str]) -> Result<String> {
        let output = self.engine()?.exec(&self.service(service)?.container, command).await?;
        if output.code != 0 {
            bail!("{command:?} in {service} ended with {}:\n{}", output.code, output.text);
        }
        Ok(output.text)
    }

    pub(crate) async fn kill(&self, service: &str) -> Result<()> {
        self.engine()?.kill(&self.service(service)?.container).await
    }

    /// Starts a killed service again and waits until it is ready.
    pub(crate) async fn start_again(&self, service: &str) -> Result<()> {
        let service = self.service(service)?;
        self.engine()?.start_again(&service.container).await?;
        self.engine()?.until_ready(&self.topology, service).await
    }

    /// Stops the whole lab, data kept, and starts it again.
    pub(crate) async fn down_and_up(&self) -> Result<()> {
        let engine = self.engine()?;
        engine.remove_instance(self.topology.instance.name(), false).await?;
        let started =
            up(engine, &self.project, &self.topology, self.resolved.clone().context("attached")?).await?;
        started.give_away();
        Ok(())
    }
}

async fn up(engine: &Engine, project: &Project, topology: &Topology, resolved: Resolved) -> Result<Started> {
    let (events, mut seen) = tokio::sync::mpsc::unbounded_channel();
    let (_keep, never) = watch::channel(false);
    let options = UpOptions { source: "local".to_owned(), resolved };
    let printer = tokio::spawn(async move {
        while let Some(event) = seen.recv().await {
            if let streamlab::engine::StartEvent::Ready(name, took) = event {
                println!("  {name:<24} ready after {:.1} s", took.as_secs_f64());
            }
        }
    });
    let started = engine.up(project, topology, &options, events, never).await;
    printer.await?;
    started
}

/// What kind of trial, in the order in which they run.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Phase {
    Flow,
    /// After the flows, before the first fault.
    Scan,
    Fault,
}

struct Planned {
    name: String,
    what: String,
    phase: Phase,
    /// Services it needs; none for the whole lab.
    stations: Option<Vec<String>>,
    not_run: Option<String>,
    body: Body,
}

/// Plans, starts, runs, reports, removes; the exit code says whether every trial that ran has passed.
pub(crate) fn run(args: &Arguments, tests: Vec<FlowTest>, faults: bool) -> ExitCode {
    match try_run(args, tests, faults) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn try_run(args: &Arguments, tests: Vec<FlowTest>, faults: bool) -> Result<ExitCode> {
    if std::env::var_os("NEXTEST").is_some() && std::env::var_os("LAB_ATTACH").is_none() {
        bail!(
            "nextest starts every trial alone: bring a lab up and give LAB_ATTACH=default, or use cargo test"
        );
    }
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let program = PathBuf::from(env!("CARGO_BIN_EXE_streamlab"));
    let project = Project::open(Some(&root.join("lab.toml")), program)?;
    let attach = std::env::var("LAB_ATTACH").ok();
    let planned = plan(&project, tests, attach.as_deref(), faults)?;
    let shell = |p: &Planned| {
        let trial = Trial::test(p.name.clone(), || Ok(()));
        trial.with_ignored_flag(p.not_run.is_some())
    };
    let selected = |p: &Planned| !args.is_filtered_out(&shell(p));
    if args.list || !planned.iter().any(|p| selected(p) && p.not_run.is_none()) {
        let trials = planned.iter().map(shell).collect();
        return Ok(libtest_mimic::run(args, trials).exit_code());
    }
    let folder = root.join("target/spec");
    let runtime = Runtime::new()?;
    let chosen: Vec<&Planned> = planned.iter().filter(|p| selected(p) && p.not_run.is_none()).collect();
    let (lab, started) = runtime.block_on(prepare(project, &chosen, attach.as_deref()))?;
    let lab = Arc::new(lab);
    let report = Arc::new(Report::default());
    if started.is_some() {
        remove_on_signal(&runtime, &lab);
    }
    let gate = Arc::new(Gate {
        flows: AtomicUsize::new(chosen.iter().filter(|p| p.phase == Phase::Flow).count()),
        scans: AtomicUsize::new(chosen.iter().filter(|p| p.phase == Phase::Scan).count()),
        changed: watch::channel(()).0,
        lab: RwLock::new(()),
    });
    let handle = runtime.handle().clone();
    let mut trials = Vec::new();
    for p in planned {
        if let Some(why) = p.not_run.clone() {
            if !args.is_filtered_out(&shell(&p)) {
                report.add(Row {
                    name: p.name.clone(),
                    what: p.what.clone(),
                    verdict: Verdict::NotRun(why),
                    took: Duration::ZERO,
                });
            }
            trials.push(shell(&p));
            continue;
        }
        let (lab, report, gate, handle) =
            (Arc::clone(&lab), Arc::clone(&report), Arc::clone(&gate), handle.clone());
        let folder = folder.clone();
        let name = p.name.clone();
        trials.push(Trial::test(name, move || handle.block_on(one(p, lab, report, gate, folder))));
    }
    let conclusion = libtest_mimic::run(args, trials);
    let about = format!(
        "Instance `{}`, lab `{}`, images: {}.",
        lab.endpoints.instance,
        lab.endpoints.lab,
        if attach.is_some() { "those of the attached lab" } else { "local" }
    );
    report.write(&folder, &about)?;
    if let Some(started) = started {
        runtime.block_on(async {
            let removed = lab.engine()?.remove_instance(INSTANCE, true).await?;
            println!("removed {} containers and {} volumes", removed.containers, removed.volumes);
            drop(started);
            anyhow::Ok(())
        })?;
    }
    Ok(conclusion.exit_code())
}

/// Flows hold the lab for reading, faults for writing; faults wait for the flows and for the log scan.
struct Gate {
    flows: AtomicUsize,
    scans: AtomicUsize,
    changed: watch::Sender<()>,
    lab: RwLock<()>,
}

impl Gate {
    async fn until(&self, counter: &AtomicUsize) {
        let mut changes = self.changed.subscribe();
        while counter.load(Ordering::SeqCst) > 0 {
            if changes.changed().await.is_err() {
                return;
            }
        }
    }

    fn done(&self, phase: Phase) {
        match phase {
            Phase::Flow => drop(self.flows.fetch_sub(1, Ordering::SeqCst)),
            Phase::Scan => drop(self.scans.fetch_sub(1, Ordering::SeqCst)),
            Phase::Fault => {}
        }
        self.changed.send_replace(());
    }
}

async fn one(
    planned: Planned,
    lab: Arc<Lab>,
    report: Arc<Report>,
    gate: Arc<Gate>,
    folder: PathBuf,
) -> Result<(), Failed> {
    if planned.phase != Phase::Flow {
        gate.until(&gate.flows).await;
    }
    if planned.phase == Phase::Fault {
        gate.until(&gate.scans).await;
    }
    let shared = if planned.phase == Phase::Fault { None } else { Some(gate.lab.read().await) };
    let alone = if planned.phase == Phase::Fault { Some(gate.lab.write().await) } else { None };
    let start = Instant::now();
    // A task of its own, so that a panic is this trial's failure and nothing else's.
    let work = tokio::spawn((planned.body)(Arc::clone(&lab)));
    let result = match tokio::time::timeout(PATIENCE, work).await {
        Ok(Ok(result)) => result,
        Ok(Err(panic)) => Err(anyhow::anyhow!("{panic}")),
        Err(_) => Err(anyhow::anyhow!("no end after {} s", PATIENCE.as_secs())),
    };
    let took = start.elapsed();
    let (verdict, outcome) = match result {
        Ok(note) => (Verdict::Proven(note), Ok(())),
        Err(error) => {
            let text = format!("{error:#}");
            let kept = evidence(&lab, &folder, &planned.name, &text).await;
            let message = format!("{text}\n  evidence: {}", kept.display());
            (Verdict::Failed(text), Err(Failed::from(message)))
        }
    };
    drop((shared, alone));
    gate.done(planned.phase);
    report.add(Row { name: planned.name, what: planned.what, verdict, took });
    outcome
}

/// What a failed trial leaves behind: every service's log and inspect output, and what was seen.
async fn evidence(lab: &Lab, folder: &Path, trial: &str, text: &str) -> PathBuf {
    let safe: String =
        trial.chars().map(|c| if c.is_ascii_alphanumeric() || c == '-' { c } else { '_' }).collect();
    let folder = folder.join("evidence").join(safe);
    let _ = std::fs::create_dir_all(&folder);
    let _ = std::fs::write(folder.join("failure.txt"), text);
    let _ = std::fs::write(folder.join("topology.txt"), format!("{:#?}", lab.topology));
    if let Some(engine) = &lab.engine {
        for service in &lab.topology.services {
            let lines = engine.last_lines(&service.container, 2000).await;
            let _ = std::fs::write(folder.join(format!("{}.log", service.name)), lines);
            let options = None::<testcontainers::bollard::query_parameters::InspectContainerOptions>;
            if let Ok(found) = engine.client().inspect_container(&service.container, options).await {
                let json = serde_json::to_string_pretty(&found).unwrap_or_default();
                let _ = std::fs::write(folder.join(format!("{}.json", service.name)), json);
            }
        }
    }
    folder
}

fn plan(project: &Project, tests: Vec<FlowTest>, attach: Option<&str>, faults: bool) -> Result<Vec<Planned>> {
    let rows: BTreeSet<&str> = project.file.flows.iter().map(|f| f.id.get_ref().as_str()).collect();
    let functions: BTreeSet<&str> = tests.iter().map(|t| t.id).collect();
    if rows != functions {
        let without: Vec<_> = rows.difference(&functions).collect();
        let unknown: Vec<_> = functions.difference(&rows).collect();
        bail!(
            "lab.toml and the spec differ: flows without a test {without:?}, tests without a flow {unknown:?}"
        );
    }
    let attached_file = attach.is_some_and(|a| Path::new(a).is_file());
    let not_run = |needs_engine: bool, fault: bool, stations: &[String]| -> Option<String> {
        if needs_engine && attached_file {
            return Some("needs the engine".to_owned());
        }
        if fault && attach.is_some() && !faults {
            return Some("an attached lab suffers no fault without --faults".to_owned());
        }
        needs_image(project, stations).map(|image| format!("needs image {image}"))
    };
    let mut planned = Vec::new();
    for test in tests {
        let flow: &Flow =
            project.file.flows.iter().find(|f| f.id.get_ref() == test.id).context("compared above")?;
        let needs = flow.needs.iter().map(|n| n.get_ref().as_str());
        let stations: Vec<String> = flow.stations().chain(needs).map(str::to_owned).collect();
        planned.push(Planned {
            name: format!("{}::{}", if flow.fault { "fault" } else { "flow" }, test.id),
            what: flow.proves.clone(),
            phase: if flow.fault { Phase::Fault } else { Phase::Flow },
            not_run: not_run(test.needs_engine, flow.fault, &stations),
            stations: Some(stations),
            body: test.body,
        });
    }
    let documented = project.topology(None, Instance::documented())?;
    for row in ports::rows(&documented) {
        let stations = vec![row.service.clone()];
        planned.push(Planned {
            name: format!("port::{}::{}", row.service, row.port),
            what: row.what.clone(),
            phase: Phase::Flow,
            not_run: not_run(row.inside, false, &stations),
            stations: Some(stations),
            body: row.body(),
        });
    }
    for row in command_rows::rows(&project.file) {
        planned.push(Planned {
            name: format!("command::{}", row.id),
            what: row.what.clone(),
            phase: if row.fault { Phase::Fault } else { Phase::Flow },
            not_run: not_run(true, row.fault, &[]),
            stations: None,
            body: row.body(),
        });
    }
    planned.push(Planned {
        name: "logs::nothing-unexpected".to_owned(),
        what: "no service said ERROR between its start and the first fault, except what is expected by name"
            .to_owned(),
        phase: Phase::Scan,
        not_run: not_run(true, false, &[]),
        stations: Some(Vec::new()),
        body: Arc::new(|lab| Box::pin(logs::nothing_unexpected(lab))),
    });
    // Faults are taken up last: a waiting fault must not hold a thread that a flow needs.
    planned.sort_by_key(|p| match p.phase {
        Phase::Flow => 0,
        Phase::Scan => 1,
        Phase::Fault => 2,
    });
    Ok(planned)
}

/// The first image on the path that the local source does not have.
fn needs_image(project: &Project, stations: &[String]) -> Option<String> {
    let specs =
        project.file.services.iter().filter(|(name, spec)| {
            stations.iter().any(|s| s == *name || spec.member_names(name).contains(s))
        });
    let images = specs.map(|(_, spec)| spec.image.get_ref());
    images.into_iter().find(|i| project.file.images[*i].recipe.is_none()).cloned()
}

async fn prepare(
    project: Project,
    chosen: &[&Planned],
    attach: Option<&str>,
) -> Result<(Lab, Option<Started>)> {
    if let Some(attach) = attach {
        return Ok((attached(project, attach).await?, None));
    }
    let engine = Engine::connect().await?;
    build_own_image(&engine, &project).await?;
    // What a killed run left.
    engine.remove_instance(INSTANCE, true).await?;
    let whole = project.topology(None, Instance::new(INSTANCE, free_offset(&project)?)?)?;
    let topology = if chosen.iter().any(|p| p.stations.is_none()) {
        whole
    } else {
        let stations: Vec<&str> =
            chosen.iter().flat_map(|p| p.stations.iter().flatten().map(String::as_str)).collect();
        whole.only(stations)
    };
    let resolved = engine.resolve(&project, &topology, Source::Local).await?;
    println!("starting instance {INSTANCE}: {} services", topology.services.len());
    let started = up(&engine, &project, &topology, resolved.clone()).await?;
    let endpoints = Endpoints::of(&topology);
    Ok((Lab { project, endpoints, topology, engine: Some(engine), resolved: Some(resolved) }, Some(started)))
}

async fn attached(project: Project, attach: &str) -> Result<Lab> {
    if Path::new(attach).is_file() {
        let text = std::fs::read_to_string(attach)?;
        let endpoints: Endpoints =
            serde_json::from_str(&text).with_context(|| format!("{attach} is no endpoints file"))?;
        let topology = project.topology(Some(&endpoints.lab), Instance::documented())?;
        return Ok(Lab { project, endpoints, topology, engine: None, resolved: None });
    }
    let engine = Engine::connect().await?;
    let state = engine.instance(attach).await?;
    if state.containers.is_empty() {
        bail!("LAB_ATTACH={attach}: no such file, and no instance of that name is up (./lab up)");
    }
    let topology = project.topology(state.lab.as_deref(), Instance::new(attach, state.offset)?)?;
    let resolved = engine.resolve(&project, &topology, Source::Local).await.ok();
    Ok(Lab { project, endpoints: Endpoints::of(&topology), topology, engine: Some(engine), resolved })
}

/// The program changes with every edit and its image takes a second; all others must have been built.
async fn build_own_image(engine: &Engine, project: &Project) -> Result<()> {
    let recipes = recipe_images(project, &engine.arch)?;
    let (own, others): (Vec<_>, Vec<_>) = recipes.into_iter().partition(|r| r.recipe.program);
    let standing: BTreeSet<&String> =
        own.iter().flat_map(|r| r.recipe.from.iter().map(toml::Spanned::get_ref)).collect();
    for recipe in &others {
        if standing.contains(&recipe.name) && engine.image_id(&recipe.reference).await?.is_none() {
            bail!("images are missing.\n  Build them: ./lab images build   (or run ./lab test, which does)");
        }
    }
    let wanted = own.into_iter().map(|r| r.name).collect();
    let (events, _seen) = tokio::sync::mpsc::unbounded_channel();
    build_images(engine, project, &wanted, events).await
}

/// 0 where every documented host port is free; otherwise the first that is, and it is said.
fn free_offset(project: &Project) -> Result<u16> {
    for offset in (0..16_000).step_by(100) {
        let Ok(topology) = project.topology(None, Instance::new(INSTANCE, offset)?) else { continue };
        if topology.host_ports().all(|(port, ..)| is_free(port)) {
            if offset > 0 {
                println!(
                    "documented host ports are taken (a lab `{DEFAULT_INSTANCE}` is up?): this run moves its own by {offset}; \
                     the documented numbers are proven from the definition"
                );
            }
            return Ok(offset);
        }
    }
    bail!("no port offset has every port free")
}

/// Ctrl-C and SIGTERM remove the lab before the process ends; after SIGKILL the next run does.
fn remove_on_signal(runtime: &Runtime, lab: &Arc<Lab>) {
    let lab = Arc::clone(lab);
    runtime.spawn(async move {
        use tokio::signal::unix::{SignalKind, signal};
        let (Ok(mut interrupt), Ok(mut terminate)) =
            (signal(SignalKind::interrupt()), signal(SignalKind::terminate()))
        else {
            return;
        };
        tokio::select! { _ = interrupt.recv() => {}, _ = terminate.recv() => {} }
        eprintln!("interrupted: removing instance {INSTANCE}");
        if let Ok(engine) = lab.engine() {
            let _ = engine.remove_instance(INSTANCE, true).await;
        }
        std::process::exit(130);
    });
}
