//! A trial: one row or one flow of one lab, what it needs, what it disturbs, and the function that proves it.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::Result;
use futures::future::BoxFuture;
use streamlab::project::Project;
use streamlab::topology::Plan;

use crate::episode::Participant;
use crate::lab::Lab;

/// A wait this long hangs. What is asked for is that it happens; how long it takes is the report's and `bench`'s to say,
/// and differs threefold between machines.
pub(crate) const PATIENCE: Duration = Duration::from_secs(300);

/// What a passed trial gives is a note for the report.
pub(crate) type Outcome = BoxFuture<'static, Result<String>>;

/// The function that proves something.
#[derive(Clone)]
pub(crate) enum Check {
    /// Of the lab as it is.
    Plain(Arc<dyn Fn(Arc<Lab>) -> Outcome + Send + Sync>),
    /// Of a fault, together with the other trials that look at the same one.
    InEpisode(Arc<dyn Fn(Arc<Lab>, Participant) -> Outcome + Send + Sync>),
}

impl Check {
    pub(crate) fn plain(check: impl Fn(Arc<Lab>) -> Outcome + Send + Sync + 'static) -> Self {
        Self::Plain(Arc::new(check))
    }

    pub(crate) fn in_episode(
        check: impl Fn(Arc<Lab>, Participant) -> Outcome + Send + Sync + 'static,
    ) -> Self {
        Self::InEpisode(Arc::new(check))
    }
}

/// When a trial runs, and beside what.
#[derive(Clone, Debug)]
pub(crate) enum Kind {
    /// First, many at a time.
    Flow,
    /// After the flows, before the first fault.
    Scan,
    /// After the scan, beside other faults that do not meet it.
    Fault(Holds),
}

/// What a fault trial holds while it runs. Names of services and groups.
#[derive(Clone, Debug, Default)]
pub(crate) struct Holds {
    /// The fault of the definition; none where the trial breaks things itself.
    pub(crate) fault: Option<String>,
    /// What it disturbs.
    pub(crate) breaks: Vec<String>,
    /// What nobody else may disturb meanwhile.
    pub(crate) stands_on: Vec<String>,
    /// What nobody else may disturb until its last notice has come, also when all else is whole again.
    pub(crate) watches: Vec<String>,
    /// The alerts that it follows to the last notice, alone: what another raised or silenced would be mistaken for its own.
    pub(crate) follows: Vec<String>,
}

#[derive(Clone)]
pub(crate) struct Trial {
    pub(crate) name: String,
    pub(crate) what: String,
    pub(crate) kind: Kind,
    /// Roles, services and groups that must run; none for the whole lab.
    pub(crate) stations: Option<Vec<String>>,
    /// It asks the engine, not only endpoints.
    pub(crate) engine: bool,
    pub(crate) check: Check,
}

/// A lab of the definition as chapters see it.
pub(crate) struct Chapter<'a> {
    pub(crate) project: &'a Project,
    /// The plan on the documented ports.
    pub(crate) plan: &'a Plan,
    /// Of the labs that have a row, whether this one proves it.
    pub(crate) proves: &'a dyn Fn(&[&str]) -> bool,
    given: Mutex<BTreeSet<&'static str>>,
}

impl<'a> Chapter<'a> {
    pub(crate) fn new(project: &'a Project, plan: &'a Plan, proves: &'a dyn Fn(&[&str]) -> bool) -> Self {
        Self { project, plan, proves, given: Mutex::default() }
    }

    /// The trial of a row of the flows table, where this lab has to prove it.
    pub(crate) fn flow(&self, id: &'static str, check: Check) -> Option<Trial> {
        self.given.lock().unwrap_or_else(PoisonError::into_inner).insert(id);
        let file = &self.project.file;
        let flow = *file.flows_of(&self.plan.lab).iter().find(|f| f.id.get_ref() == id)?;
        if !(self.proves)(&file.labs_with(flow)) {
            return None;
        }
        let mut stations: Vec<String> = flow.stations().map(str::to_owned).collect();
        let kind = if flow.disturbs() {
            let fault = flow.fault.as_ref().and_then(|name| file.fault(name.get_ref()));
            let mut breaks: Vec<String> = flow.breaks.iter().map(|b| b.get_ref().clone()).collect();
            let mut stands_on = stations.clone();
            if let Some(fault) = fault {
                breaks.extend(fault.disturbs().map(str::to_owned));
                stands_on.extend(fault.undisturbed().map(str::to_owned));
                // A run of this trial alone starts what its fault touches too.
                stations.extend(fault.disturbs().chain(fault.undisturbed()).map(str::to_owned));
            }
            let fault = fault.map(|f| f.name.get_ref().clone());
            Kind::Fault(Holds { fault, breaks, stands_on, ..Holds::default() })
        } else {
            Kind::Flow
        };
        let name = format!("{}::{id}", if flow.disturbs() { "fault" } else { "flow" });
        Some(Trial {
            name,
            what: flow.proves.clone(),
            kind,
            stations: Some(stations),
            engine: flow.engine,
            check,
        })
    }

    /// Identifiers of all flows that chapters have a function for.
    pub(crate) fn given(&self) -> BTreeSet<&'static str> {
        self.given.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// A trial of rows that every lab proves for itself.
pub(crate) fn row(name: String, what: String, stations: Vec<String>, engine: bool, check: Check) -> Trial {
    Trial { name, what, kind: Kind::Flow, stations: Some(stations), engine, check }
}
