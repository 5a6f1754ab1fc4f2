//! From arguments to the exit code: which labs prove what, planned before anything starts; then the schedule, the report, and
//! nothing left. It knows no chapter.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use libtest_mimic::Arguments;
use streamlab::project::Project;
use streamlab::topology::{Instance, Plan, Service, Source};
use tokio::runtime::Runtime;

use crate::lab::{INSTANCE, Lab, attached, hold, remove_all, remove_on_signal, start, vacant};
use crate::report::{Report, Row, Verdict};
use crate::schedule::{Seats, seat};
use crate::trial::{Chapter, Kind, Trial};

pub(crate) type Chapters = [fn(&Chapter<'_>) -> Vec<Trial>];

/// Plans, starts, runs, reports, removes; the exit code says whether every trial that ran has passed.
pub(crate) fn run(args: Arguments, chapters: &Chapters, faults: bool) -> ExitCode {
    match try_run(args, chapters, faults) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// A trial with its full name, and why it is not run.
struct Planned {
    trial: Trial,
    not_run: Option<String>,
}

/// A lab and its trials.
struct LabTrials {
    lab: String,
    trials: Vec<Planned>,
}

fn try_run(mut args: Arguments, chapters: &Chapters, faults: bool) -> Result<ExitCode> {
    if std::env::var_os("NEXTEST").is_some() && std::env::var_os("LAB_ATTACH").is_none() {
        bail!(
            "nextest starts every trial alone: bring a lab up and give LAB_ATTACH=default, or use cargo test"
        );
    }
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let program = PathBuf::from(env!("CARGO_BIN_EXE_streamlab"));
    let project = Project::open(Some(&root.join("lab.toml")), program)?;
    let runtime = Runtime::new()?;
    runtime.block_on(crate::locks::self_check())?;
    let attached = match std::env::var("LAB_ATTACH") {
        Ok(attach) => Some(Arc::new(runtime.block_on(attached(project.clone(), &attach))?)),
        Err(_) => None,
    };
    let planned_labs = planned_labs(&project, chapters, attached.as_deref(), faults)?;
    let shell = |p: &Planned| {
        let trial = libtest_mimic::Trial::test(p.trial.name.clone(), || Ok(()));
        trial.with_ignored_flag(p.not_run.is_some())
    };
    let selected = |p: &Planned| p.not_run.is_none() && !args.is_filtered_out(&shell(p));
    let nothing = !planned_labs.iter().flat_map(|p| &p.trials).any(selected);
    if args.list || nothing {
        let trials = planned_labs.iter().flat_map(|p| &p.trials).map(shell).collect();
        return Ok(libtest_mimic::run(&args, trials).exit_code());
    }
    let folder = root.join("target/spec");
    let report = Arc::new(Report::default());
    let mut trials = Vec::new();
    let mut labs: Vec<LabSeats> = Vec::new();
    for of_lab in planned_labs {
        let mut seats = Seats::default();
        for planned in of_lab.trials {
            if !selected(&planned) {
                if let Some(why) = planned.not_run.clone().filter(|_| !args.is_filtered_out(&shell(&planned)))
                {
                    let Trial { name, what, .. } = planned.trial.clone();
                    report.add(Row { name, what, verdict: Verdict::NotRun(why), took: Duration::ZERO });
                }
                trials.push(shell(&planned));
                continue;
            }
            let name = planned.trial.name.clone();
            let (waiting, seat) = seat(planned.trial);
            seats.add(seat);
            let (handle, report, folder) = (runtime.handle().clone(), Arc::clone(&report), folder.clone());
            trials
                .push(libtest_mimic::Trial::test(name, move || handle.block_on(waiting.run(report, folder))));
        }
        if !seats.is_empty() {
            labs.push(LabSeats { lab: of_lab.lab, seats });
        }
    }
    // Each waits for its turn in a thread of its own; the schedule says how many run at a time.
    args.test_threads = Some(trials.len());
    let about = format!(
        "Lab(s) {}, images: {}.",
        labs.iter().map(|of_lab| format!("`{}`", of_lab.lab)).collect::<Vec<_>>().join(", "),
        if attached.is_some() { "those of the attached lab" } else { "local" }
    );
    let show = runtime.spawn(run_labs(project, labs, attached));
    let conclusion = libtest_mimic::run(&args, trials);
    let left = runtime.block_on(show)?;
    report.write(&folder, &about)?;
    left?;
    Ok(conclusion.exit_code())
}

/// A lab and the trials that run in it.
struct LabSeats {
    lab: String,
    seats: Seats,
}

/// Each lab proves what breaks nothing on the documented ports, one after the other, the one with most faults last. That one stays
/// and suffers them; beside it the others suffer theirs, started anew on other ports.
async fn run_labs(project: Project, mut labs: Vec<LabSeats>, attached: Option<Arc<Lab>>) -> Result<()> {
    if let Some(lab) = attached {
        for of_lab in labs {
            of_lab.seats.play(&lab).await;
        }
        return Ok(());
    }
    remove_on_signal(&project);
    // What a killed run left.
    remove_all(&project).await?;
    labs.sort_by_key(|of_lab| of_lab.seats.faults());
    let Some(last) = labs.pop() else { return Ok(()) };
    let mut breaking = Vec::new();
    let mut left = Ok(());
    for LabSeats { lab, seats, .. } in labs {
        let (harmless, faults) = seats.split();
        // What one lab has left is said at the end; the next one is proven all the same, on other ports where it must.
        let removed = in_lab(&project, &lab, vacant(&project, &lab, INSTANCE)?, harmless).await;
        left = left.and(removed.with_context(|| format!("lab {lab} was not removed")));
        breaking.push((lab, faults));
    }
    let place = vacant(&project, &last.lab, INSTANCE)?;
    let stations = last.seats.stations();
    let (harmless, faults) = last.seats.split();
    let lab = match start(project.clone(), &last.lab, place, stations).await {
        Ok(lab) => Arc::new(lab),
        Err(error) => {
            let why = format!("lab {} did not start: {error:#}", last.lab);
            let others = breaking.into_iter().map(|(_, seats)| seats);
            others.chain([harmless, faults]).for_each(|seats| seats.fail(&why));
            return left;
        }
    };
    harmless.play(&lab).await;
    // Their ports are chosen while all of this lab's are taken.
    let (mut beside, mut held) = (Vec::new(), Vec::new());
    for (other, seats) in breaking {
        let place = vacant(&project, &other, &format!("{INSTANCE}-{other}"))?;
        held.extend(hold(&project, &other, &place)?);
        let project = &project;
        beside.push(async move { in_lab(project, &other, place, seats).await });
    }
    drop(held);
    let ((), others) = tokio::join!(faults.play(&lab), futures::future::try_join_all(beside));
    lab.remove().await?;
    others?;
    left
}

/// Starts a lab, plays trials in it, removes it.
async fn in_lab(project: &Project, lab: &str, place: Instance, seats: Seats) -> Result<()> {
    if seats.is_empty() {
        return Ok(());
    }
    match start(project.clone(), lab, place, seats.stations()).await {
        Ok(lab) => {
            let lab = Arc::new(lab);
            seats.play(&lab).await;
            lab.remove().await
        }
        Err(error) => {
            seats.fail(&format!("lab {lab} did not start: {error:#}"));
            Ok(())
        }
    }
}

/// What each lab has to prove. A row that belongs to several is proven in the smallest; ports, readiness and the like in each.
fn planned_labs(
    project: &Project,
    chapters: &Chapters,
    attached: Option<&Lab>,
    faults: bool,
) -> Result<Vec<LabTrials>> {
    let chosen = std::env::var("LAB").ok();
    let mut names = match (attached, &chosen) {
        (Some(lab), _) => vec![lab.plan.lab.clone()],
        (None, Some(lab)) => vec![lab.clone()],
        (None, None) => project.file.labs_in_order().into_iter().map(str::to_owned).collect(),
    };
    let mut plans: Vec<Plan> = Vec::new();
    for name in &names {
        let plan = project.plan(Some(name), Instance::documented())?;
        // A lab with the same plan as one before it is that lab by another name.
        if !plans.iter().any(|other| same(other, &plan)) {
            plans.push(plan);
        }
    }
    names.retain(|name| plans.iter().any(|p| &p.lab == name));
    let mut planned_labs = Vec::new();
    let mut given = BTreeSet::new();
    for (number, plan) in plans.iter().enumerate() {
        let smallest = |labs: &[&str]| {
            let there = plans.iter().filter(|p| labs.contains(&p.lab.as_str()));
            there.min_by_key(|p| p.services.len()).is_some_and(|p| p.lab == plan.lab)
        };
        let chapter = Chapter::new(project, plan, &smallest);
        let mut trials: Vec<Trial> =
            chapters.iter().flat_map(|chapter_trials| chapter_trials(&chapter)).collect();
        given.extend(chapter.given());
        if number > 0 {
            for trial in &mut trials {
                trial.name = format!("{}::{}", plan.lab, trial.name);
            }
        }
        let planned = trials.into_iter().map(|trial| {
            let not_run = not_run(project, plan, attached, faults, &trial);
            Planned { trial, not_run }
        });
        planned_labs.push(LabTrials { lab: plan.lab.clone(), trials: planned.collect() });
    }
    let rows: BTreeSet<&str> = project.file.flows.iter().map(|f| f.id.get_ref().as_str()).collect();
    if rows != given {
        let without: Vec<_> = rows.difference(&given).collect();
        let unknown: Vec<_> = given.difference(&rows).collect();
        bail!(
            "lab.toml and the spec differ: flows without a test {without:?}, tests without a flow {unknown:?}"
        );
    }
    Ok(planned_labs)
}

fn same(one: &Plan, other: &Plan) -> bool {
    let without_name = |plan: &Plan| {
        let plan = Plan { lab: String::new(), ..plan.clone() };
        serde_json::to_value(plan).unwrap_or_default()
    };
    without_name(one) == without_name(other)
}

fn not_run(
    project: &Project,
    plan: &Plan,
    attached: Option<&Lab>,
    faults: bool,
    trial: &Trial,
) -> Option<String> {
    if trial.engine && attached.is_some_and(|lab| lab.engine().is_err()) {
        return Some("needs the engine".to_owned());
    }
    if matches!(trial.kind, Kind::Fault(_)) && attached.is_some() && !faults {
        return Some("an attached lab suffers no fault without --faults".to_owned());
    }
    // The first missing image on the path: one without a recipe, or that of a service that an attached lab does not have.
    let there = match attached {
        Some(lab) => lab.plan.clone(),
        None => Source::Local.part_of(&project.file, plan).ok()?,
    };
    let stations = trial.stations.as_deref().unwrap_or_default();
    let missing = stations.iter().flat_map(|s| plan.meant(s)).find(|s| there.service(&s.name).is_none())?;
    // A service that has an image of its own is left out with what it needs.
    let has_recipe = |s: &&Service| project.file.images.get(&s.image).is_some_and(|i| i.recipe.is_some());
    let mut needed = missing.waits_for.iter().filter_map(|wait| plan.service(&wait.service));
    let cause = if has_recipe(&missing) { needed.find(|s| !has_recipe(s)) } else { None };
    Some(format!("needs image {}", cause.unwrap_or(missing).image))
}
