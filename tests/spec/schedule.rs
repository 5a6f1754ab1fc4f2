//! Who runs when in one lab: the flows, many at a time, then the scan of the logs, then the faults; faults that touch different
//! services run at the same time. The trials' own threads only wait for their turn.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use libtest_mimic::Failed;
use tokio::sync::{Semaphore, oneshot};

use crate::episode::{Episode, Participant};
use crate::lab::{Lab, evidence};
use crate::locks::{Locks, Want};
use crate::report::{Report, Row, Verdict};
use crate::trial::{Check, Holds, Kind, Trial};

/// A trial is a few waits one after the other; one that hangs is a failed one.
const LONGEST: Duration = Duration::from_secs(1200);
/// Flows wait, they do not compute: so many at a time.
const AT_ONCE: usize = 16;

/// A trial's turn: the lab, and its part in an episode. Or why there is no lab.
type Turn = Result<(Arc<Lab>, Option<Participant>), String>;

/// The two ends of a trial: its own thread waits for the turn, the schedule for its end.
pub(crate) struct Waiting {
    trial: Trial,
    turn: oneshot::Receiver<Turn>,
    over: oneshot::Sender<()>,
}

/// What the schedule holds of a trial.
pub(crate) struct Seat {
    pub(crate) trial: Trial,
    turn: oneshot::Sender<Turn>,
    over: oneshot::Receiver<()>,
}

pub(crate) fn seat(trial: Trial) -> (Waiting, Seat) {
    let (give, turn) = oneshot::channel();
    let (over, end) = oneshot::channel();
    (Waiting { trial: trial.clone(), turn, over }, Seat { trial, turn: give, over: end })
}

impl Waiting {
    /// Waits for the turn, runs, reports.
    pub(crate) async fn run(self, report: Arc<Report>, folder: PathBuf) -> Result<(), Failed> {
        let Trial { name, what, check, .. } = self.trial;
        let turn = self.turn.await.unwrap_or_else(|_| Err("the schedule ended before its turn".to_owned()));
        let start = Instant::now();
        let (lab, work) = match turn {
            Ok((lab, participant)) => {
                let work = match (check, participant) {
                    (Check::Plain(check), _) => check(Arc::clone(&lab)),
                    (Check::InEpisode(check), Some(participant)) => check(Arc::clone(&lab), participant),
                    (Check::InEpisode(_), None) => Box::pin(async { anyhow::bail!("it has no episode") }),
                };
                (lab, work)
            }
            Err(why) => {
                report.add(Row { name, what, verdict: Verdict::Failed(why.clone()), took: start.elapsed() });
                return Err(Failed::from(why));
            }
        };
        // A task of its own, so that a panic is this trial's failure and nothing else's.
        let work = tokio::spawn(work);
        let abort = work.abort_handle();
        let result = match tokio::time::timeout(LONGEST, work).await {
            Ok(Ok(result)) => result,
            Ok(Err(panic)) => Err(anyhow::anyhow!("{panic}")),
            Err(_) => {
                abort.abort();
                Err(anyhow::anyhow!("no end after {} s", LONGEST.as_secs()))
            }
        };
        let took = start.elapsed();
        let (verdict, outcome) = match result {
            Ok(note) => (Verdict::Proven(note), Ok(())),
            Err(error) => {
                let text = format!("{error:#}");
                let kept = evidence(&lab, &folder, &name, &text).await;
                let message = format!("{text}\n  evidence: {}", kept.display());
                (Verdict::Failed(text), Err(Failed::from(message)))
            }
        };
        report.add(Row { name, what, verdict, took });
        let _ = self.over.send(());
        outcome
    }
}

/// The trials of one lab, by when they run.
#[derive(Default)]
pub(crate) struct Seats {
    flows: Vec<Seat>,
    scans: Vec<Seat>,
    faults: Vec<(Holds, Seat)>,
}

impl Seats {
    pub(crate) fn add(&mut self, seat: Seat) {
        match &seat.trial.kind {
            Kind::Flow => self.flows.push(seat),
            Kind::Scan => self.scans.push(seat),
            Kind::Fault(holds) => self.faults.push((holds.clone(), seat)),
        }
    }

    /// Those that break nothing, and those that do.
    pub(crate) fn split(self) -> (Self, Self) {
        let faults = Self { faults: self.faults, ..Self::default() };
        (Self { flows: self.flows, scans: self.scans, ..Self::default() }, faults)
    }

    /// How many trials disturb the lab.
    pub(crate) fn faults(&self) -> usize {
        self.faults.len()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.all().next().is_none()
    }

    /// What must run for them; none for the whole lab, which one trial without stations needs.
    pub(crate) fn stations(&self) -> Option<Vec<String>> {
        let stations: Option<Vec<_>> = self.all().map(|seat| seat.trial.stations.clone()).collect();
        stations.map(|s| s.concat())
    }

    fn all(&self) -> impl Iterator<Item = &Seat> {
        self.flows.iter().chain(&self.scans).chain(self.faults.iter().map(|(_, seat)| seat))
    }

    /// Nobody's turn comes: the lab did not start.
    pub(crate) fn fail(self, why: &str) {
        for seat in self.flows.into_iter().chain(self.scans).chain(self.faults.into_iter().map(|(_, s)| s)) {
            let _ = seat.turn.send(Err(why.to_owned()));
        }
    }

    /// Gives every trial its turn, and waits for the last.
    pub(crate) async fn play(self, lab: &Arc<Lab>) {
        at_once(lab, self.flows).await;
        at_once(lab, self.scans).await;
        let locks = Locks::new();
        let wants = jobs(self.faults).into_iter().map(|job| (job.want(lab), job));
        // Every job takes its place in the queue before the first begins.
        let jobs: Vec<_> = in_order(wants.collect())
            .into_iter()
            .map(|(want, job)| {
                let ticket = locks.queue(want);
                async move { job.play(lab, ticket).await }
            })
            .collect();
        futures::future::join_all(jobs).await;
    }
}

async fn at_once(lab: &Arc<Lab>, seats: Vec<Seat>) {
    let places = Arc::new(Semaphore::new(AT_ONCE));
    let turns = seats.into_iter().map(|seat| {
        let places = Arc::clone(&places);
        async move {
            let _place = places.acquire().await;
            let _ = seat.turn.send(Ok((Arc::clone(lab), None)));
            let _ = seat.over.await;
        }
    });
    futures::future::join_all(turns).await;
}

/// Those that meet most others first: the rest finds room beside them. Last who meets all, since nothing has room beside it.
fn in_order(jobs: Vec<(Want, Job)>) -> Vec<(Want, Job)> {
    let all = jobs.len();
    let met: Vec<usize> =
        jobs.iter().map(|(want, _)| jobs.iter().filter(|(other, _)| want.meets(other)).count()).collect();
    let mut ordered: Vec<(usize, (Want, Job))> = met.into_iter().zip(jobs).collect();
    ordered.sort_by_key(|(met, _)| (*met == all, std::cmp::Reverse(*met)));
    ordered.into_iter().map(|(_, job)| job).collect()
}

/// Fault trials that are played together: those of one fault, or a single one that breaks things itself.
struct Job {
    holds: Holds,
    /// The alerts of all its trials.
    follows: BTreeSet<String>,
    seats: Vec<Seat>,
}

fn jobs(faults: Vec<(Holds, Seat)>) -> Vec<Job> {
    let mut jobs: Vec<Job> = Vec::new();
    for (holds, seat) in faults {
        let same = jobs.iter_mut().find(|job| holds.fault.is_some() && job.holds.fault == holds.fault);
        match same {
            Some(job) => {
                job.holds.breaks.extend(holds.breaks);
                job.holds.stands_on.extend(holds.stands_on);
                job.holds.watches.extend(holds.watches);
                job.follows.extend(holds.follows);
                job.seats.push(seat);
            }
            None => {
                let follows = holds.follows.iter().cloned().collect();
                jobs.push(Job { holds, follows, seats: vec![seat] });
            }
        }
    }
    jobs
}

impl Job {
    fn services(lab: &Lab, names: &[String]) -> BTreeSet<String> {
        names.iter().flat_map(|n| lab.plan.meant(n)).map(|s| s.name.clone()).collect()
    }

    fn watched(&self, lab: &Lab) -> BTreeSet<String> {
        Self::services(lab, &self.holds.watches)
    }

    /// Alerts that are followed; no service has such a name.
    fn followed(&self) -> BTreeSet<String> {
        self.follows.iter().map(|alert| format!("alert {alert}")).collect()
    }

    fn want(&self, lab: &Lab) -> Want {
        let mut breaks = Self::services(lab, &self.holds.breaks);
        let mut stands_on = Self::services(lab, &self.holds.stands_on);
        stands_on.extend(self.watched(lab));
        stands_on.retain(|s| !breaks.contains(s));
        breaks.extend(self.followed());
        Want { breaks, stands_on }
    }

    async fn play(self, lab: &Arc<Lab>, ticket: crate::locks::Ticket) {
        let held = ticket.hold().await;
        let watched = Want { breaks: self.followed(), stands_on: self.watched(lab) };
        let fault = self.holds.fault.as_ref().and_then(|name| lab.project.file.fault(name));
        let (episode, mut participants) = match fault {
            Some(fault) => {
                let (episode, participants) = Episode::new(fault, self.seats.len());
                (Some(episode), participants)
            }
            None => (None, Vec::new()),
        };
        let mut ends = Vec::new();
        for seat in self.seats {
            let _ = seat.turn.send(Ok((Arc::clone(lab), participants.pop())));
            ends.push(seat.over);
        }
        let all_over = futures::future::join_all(ends);
        match episode {
            Some(episode) => {
                let course = async {
                    episode.play(lab).await;
                    episode.released().await;
                    held.keep_only(watched);
                };
                tokio::join!(course, all_over);
            }
            None => drop(all_over.await),
        }
    }
}
