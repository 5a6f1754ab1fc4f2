//! A fault from injection to repair, done once, however many trials look at it: nothing is broken before all are prepared,
//! nothing is mended before all have seen enough, and it is mended on every path, a trial's panic included.

use std::sync::Arc;
use std::time::Instant;

use anyhow::{Result, bail};
use streamlab::engine::Breakable;
use streamlab::topology::Fault;
use tokio::sync::watch;

use crate::lab::Lab;

#[derive(Clone, Debug)]
enum Phase {
    Whole,
    Broken(Instant),
    Mended(Instant),
    Failed(String),
}

/// How far each participant is.
#[derive(Clone, Copy, Debug, Default)]
struct Counts {
    prepared: usize,
    seen: usize,
    released: usize,
}

/// What participants of one episode share.
struct Shared {
    phase: watch::Sender<Phase>,
    counts: watch::Sender<Counts>,
}

/// One trial's part in an episode. One that ends early, however, lets the others go on.
pub(crate) struct Participant {
    shared: Arc<Shared>,
    prepared: bool,
    seen: bool,
    released: bool,
}

/// An episode that is to be played.
pub(crate) struct Episode {
    fault: Fault,
    participants: usize,
    shared: Arc<Shared>,
}

impl Episode {
    pub(crate) fn new(fault: &Fault, participants: usize) -> (Self, Vec<Participant>) {
        let shared = Arc::new(Shared {
            phase: watch::channel(Phase::Whole).0,
            counts: watch::channel(Counts::default()).0,
        });
        let one =
            || Participant { shared: Arc::clone(&shared), prepared: false, seen: false, released: false };
        let all = (0..participants).map(|_| one()).collect();
        (Self { fault: fault.clone(), participants, shared: Arc::clone(&shared) }, all)
    }

    async fn until(&self, is: impl Fn(&Counts) -> bool) {
        // The sender is ours: it cannot be gone.
        let _ = self.shared.counts.subscribe().wait_for(|c| is(c)).await;
    }

    /// Breaks, waits, mends. Participants learn what became of it.
    pub(crate) async fn play(&self, lab: &Lab) {
        let all = self.participants;
        self.until(|c| c.prepared == all).await;
        if self.shared.counts.borrow().seen == all {
            return; // Nobody is left who would look.
        }
        let phase = match inject(lab, &self.fault).await {
            Ok(()) => Phase::Broken(Instant::now()),
            Err(error) => Phase::Failed(format!("{error:#}")),
        };
        let broken = matches!(phase, Phase::Broken(_));
        self.shared.phase.send_replace(phase);
        if !broken {
            return;
        }
        self.until(|c| c.seen == all).await;
        let repaired = Instant::now();
        let mended = async {
            breakable(lab)?.undo_one(&self.fault).await?;
            lab.is_whole().await
        };
        let mended = mended.await;
        self.shared.phase.send_replace(match mended {
            Ok(()) => Phase::Mended(repaired),
            Err(error) => Phase::Failed(format!("it could not be mended: {error:#}")),
        });
    }

    /// Waits until no participant needs more than what it watches.
    pub(crate) async fn released(&self) {
        let all = self.participants;
        self.until(|c| c.released == all).await;
    }
}

fn breakable(lab: &Lab) -> Result<Breakable<'_>> {
    Ok(Breakable { engine: lab.engine()?, file: &lab.project.file, plan: &lab.plan })
}

async fn inject(lab: &Lab, fault: &Fault) -> Result<()> {
    let state = lab.engine()?.instance(lab.plan.instance.name()).await?;
    breakable(lab)?.inject(&state, fault).await
}

impl Participant {
    fn count(&mut self, prepared: bool, seen: bool, released: bool) {
        let (was, now) = ([self.prepared, self.seen, self.released], [prepared, seen, released]);
        let new = |at: usize| usize::from(now[at] && !was[at]);
        self.shared.counts.send_modify(|c| {
            c.prepared += new(0);
            c.seen += new(1);
            c.released += new(2);
        });
        self.prepared |= prepared;
        self.seen |= seen;
        self.released |= released;
    }

    /// Says that this trial is prepared, and waits until the fault is in force; gives the moment.
    pub(crate) async fn broken(&mut self) -> Result<Instant> {
        self.count(true, false, false);
        match self.phase(|p| !matches!(p, Phase::Whole)).await? {
            Phase::Broken(at) | Phase::Mended(at) => Ok(at),
            Phase::Failed(why) => bail!(why),
            Phase::Whole => bail!("the fault was never done"),
        }
    }

    /// Says that this trial has seen enough, and waits until all is whole and ready again; gives the moment when the mending began.
    pub(crate) async fn mended(&mut self) -> Result<Instant> {
        self.count(true, true, false);
        match self.phase(|p| matches!(p, Phase::Mended(_) | Phase::Failed(_))).await? {
            Phase::Mended(at) => Ok(at),
            Phase::Failed(why) => bail!(why),
            Phase::Whole | Phase::Broken(_) => bail!("the fault was never undone"),
        }
    }

    /// Says that the rest of this trial needs only what it watches.
    pub(crate) fn only_watches(&mut self) {
        self.count(true, true, true);
    }

    async fn phase(&self, is: impl Fn(&Phase) -> bool) -> Result<Phase> {
        Ok(self.shared.phase.subscribe().wait_for(|p| is(p)).await?.clone())
    }
}

impl Drop for Participant {
    fn drop(&mut self) {
        self.count(true, true, true);
    }
}
