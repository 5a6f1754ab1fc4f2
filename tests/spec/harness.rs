//! One lab for all selected trials: planned from `lab.toml`, run in phases, reported, removed.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use futures::future::BoxFuture;
use libtest_mimic::{Arguments, Failed, Trial};
use streamlab::project::Project;
use streamlab::topology::{Flow, Instance};
use tokio::runtime::Runtime;
use tokio::sync::{RwLock, watch};

use crate::lab::{INSTANCE, Lab, attached, evidence, prepare, remove_on_signal};
use crate::report::{Report, Row, Verdict};
use crate::{alerts, command_rows, health, logs, metrics, ports};

/// A wait this long hangs. What is asked for is that it happens; how long it takes is the report's and `bench`'s to say,
/// and differs threefold between machines.
pub(crate) const PATIENCE: Duration = Duration::from_secs(300);
/// A trial is a few waits one after the other; one that hangs is a failed one.
const LONGEST: Duration = Duration::from_secs(1200);

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
    let runtime = Runtime::new()?;
    let attached = match &attach {
        Some(attach) => Some(runtime.block_on(attached(project.clone(), attach))?),
        None => None,
    };
    let planned = plan(&project, tests, attached.as_ref(), faults)?;
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
    let chosen: Vec<&Planned> = planned.iter().filter(|p| selected(p) && p.not_run.is_none()).collect();
    // One trial without stations needs the whole lab.
    let stations = chosen.iter().map(|p| p.stations.clone()).collect::<Option<Vec<_>>>().map(|s| s.concat());
    let (lab, started) = match attached {
        Some(lab) => (lab, None),
        None => runtime.block_on(prepare(project, stations))?,
    };
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
    let result = match tokio::time::timeout(LONGEST, work).await {
        Ok(Ok(result)) => result,
        Ok(Err(panic)) => Err(anyhow::anyhow!("{panic}")),
        Err(_) => Err(anyhow::anyhow!("no end after {} s", LONGEST.as_secs())),
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

fn plan(
    project: &Project,
    tests: Vec<FlowTest>,
    attached: Option<&Lab>,
    faults: bool,
) -> Result<Vec<Planned>> {
    let rows: BTreeSet<&str> = project.file.flows.iter().map(|f| f.id.get_ref().as_str()).collect();
    let functions: BTreeSet<&str> = tests.iter().map(|t| t.id).collect();
    if rows != functions {
        let without: Vec<_> = rows.difference(&functions).collect();
        let unknown: Vec<_> = functions.difference(&rows).collect();
        bail!(
            "lab.toml and the spec differ: flows without a test {without:?}, tests without a flow {unknown:?}"
        );
    }
    let not_run = |needs_engine: bool, fault: bool, stations: &[String]| -> Option<String> {
        if needs_engine && attached.is_some_and(|lab| lab.engine().is_err()) {
            return Some("needs the engine".to_owned());
        }
        if fault && attached.is_some() && !faults {
            return Some("an attached lab suffers no fault without --faults".to_owned());
        }
        needs_image(project, attached, stations).map(|image| format!("needs image {image}"))
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
    for (name, target) in metrics::targets(&documented) {
        let stations = vec![target.instance.clone(), "prometheus".to_owned()];
        planned.push(Planned {
            name,
            what: format!("Prometheus reads {} of it", target.path),
            phase: Phase::Flow,
            not_run: not_run(false, false, &stations),
            stations: Some(stations),
            body: metrics::target_body(target),
        });
    }
    for alert in &project.file.alerts {
        let name = format!("alert::{}", alert.name.get_ref());
        let stations: Vec<String> =
            ["prometheus", "alertmanager", "alert-receiver", "mail-sink"].map(str::to_owned).to_vec();
        let Some(fault) = alert.fault.as_ref().map(|f| f.get_ref().clone()) else {
            continue;
        };
        planned.push(Planned {
            name,
            what: format!("{}: from the fault to the notice that it is over", alert.about),
            phase: Phase::Fault,
            not_run: not_run(true, true, &stations),
            stations: Some(stations),
            body: alerts::body(alert.name.get_ref().clone(), fault),
        });
    }
    for service in health::services(&documented) {
        let stations = vec![service.clone()];
        planned.push(Planned {
            name: format!("health::{service}"),
            what: "its health command, inside, agrees with the engine's probe, and can say no".to_owned(),
            phase: Phase::Flow,
            not_run: not_run(true, false, &stations),
            stations: Some(stations),
            body: health::body(service),
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

/// The first image on the path that there is not: the local source's, or that of a service that an attached lab lacks.
fn needs_image(project: &Project, attached: Option<&Lab>, stations: &[String]) -> Option<String> {
    let on_path = |name: &str, members: &[String]| stations.iter().any(|s| s == name || members.contains(s));
    let specs = project.file.services.iter().filter(|(name, spec)| on_path(name, &spec.member_names(name)));
    let missing = |(name, spec): &(&String, &streamlab::topology::ServiceSpec)| match attached {
        Some(lab) => !lab.topology.services.iter().any(|s| &s.group == *name),
        None => project.file.images[spec.image.get_ref()].recipe.is_none(),
    };
    specs.into_iter().find(missing).map(|(_, spec)| spec.image.get_ref().clone())
}
