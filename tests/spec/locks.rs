//! Who may disturb which service when: faults that touch different services run at the same time. Of those that wait, the first in
//! the queue goes first; one behind it goes before it only if it would have to wait for others anyway.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::watch;

/// What somebody wants to hold. Names of services.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Want {
    /// Alone.
    pub(crate) breaks: BTreeSet<String>,
    /// Together with others that do not disturb it either.
    pub(crate) stands_on: BTreeSet<String>,
}

impl Want {
    /// Whether one disturbs what the other disturbs or stands on.
    pub(crate) fn meets(&self, other: &Self) -> bool {
        let disturbs =
            |a: &Self, b: &Self| a.breaks.iter().any(|s| b.breaks.contains(s) || b.stands_on.contains(s));
        disturbs(self, other) || disturbs(other, self)
    }
}

#[derive(Debug, Default)]
struct State {
    next: u64,
    waiting: Vec<(u64, Want)>,
    held: Vec<(u64, Want)>,
}

/// All locks of one lab.
#[derive(Debug, Clone)]
pub(crate) struct Locks {
    state: Arc<Mutex<State>>,
    changed: Arc<watch::Sender<()>>,
}

/// A place in the queue. Whoever has one and goes away leaves it.
#[derive(Debug)]
pub(crate) struct Ticket {
    locks: Locks,
    number: u64,
}

/// What is held; given back when this is dropped.
#[derive(Debug)]
pub(crate) struct Held {
    ticket: Ticket,
}

impl Locks {
    pub(crate) fn new() -> Self {
        Self { state: Arc::default(), changed: Arc::new(watch::channel(()).0) }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes a place in the queue, behind all who asked before.
    pub(crate) fn queue(&self, want: Want) -> Ticket {
        let mut state = self.state();
        state.next += 1;
        let number = state.next;
        state.waiting.push((number, want));
        Ticket { locks: self.clone(), number }
    }
}

impl Ticket {
    /// Waits until nobody holds what this wants, and nobody before it in the queue is about to.
    pub(crate) async fn hold(self) -> Held {
        let mut changes = self.locks.changed.subscribe();
        loop {
            if self.try_hold() {
                return Held { ticket: self };
            }
            if changes.changed().await.is_err() {
                // The sender lives in `self.locks`.
                std::future::pending::<()>().await;
            }
        }
    }

    fn try_hold(&self) -> bool {
        let mut state = self.locks.state();
        let Some(at) = state.waiting.iter().position(|(number, _)| *number == self.number) else {
            return true;
        };
        // Those before it that wait for nobody who holds go first.
        let mut taken: Vec<&Want> = state.held.iter().map(|(_, want)| want).collect();
        for (_, want) in &state.waiting[..at] {
            if !taken.iter().any(|other| want.meets(other)) {
                taken.push(want);
            }
        }
        if taken.iter().any(|other| state.waiting[at].1.meets(other)) {
            return false;
        }
        let entry = state.waiting.remove(at);
        state.held.push(entry);
        drop(state);
        // Whoever waited behind this one only because it waited may go now.
        self.locks.changed.send_replace(());
        true
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        let mut state = self.locks.state();
        state.waiting.retain(|(number, _)| *number != self.number);
        state.held.retain(|(number, _)| *number != self.number);
        drop(state);
        self.locks.changed.send_replace(());
    }
}

impl Held {
    /// From now on only this is held: a part of what was held.
    pub(crate) fn keep_only(&self, rest: Want) {
        let mut state = self.ticket.locks.state();
        if let Some((_, want)) = state.held.iter_mut().find(|(number, _)| *number == self.ticket.number) {
            *want = rest;
        }
        drop(state);
        self.ticket.locks.changed.send_replace(());
    }
}

/// Checked before any lab is started: a wrong order here would let two faults meet.
pub(crate) async fn self_check() -> anyhow::Result<()> {
    let want = |breaks: &[&str], stands_on: &[&str]| Want {
        breaks: breaks.iter().map(|s| (*s).to_owned()).collect(),
        stands_on: stands_on.iter().map(|s| (*s).to_owned()).collect(),
    };
    let locks = Locks::new();
    let first = locks.queue(want(&["a"], &["b"])).hold().await;
    let beside = locks.queue(want(&["c"], &["b"])).hold().await;
    let behind = locks.queue(want(&["b"], &["d"]));
    let late = locks.queue(want(&["d"], &[]));
    anyhow::ensure!(!behind.try_hold(), "b is stood on by two");
    anyhow::ensure!(late.try_hold(), "who was before it has to wait for others anyway");
    drop(beside);
    first.keep_only(want(&[], &["c"]));
    let last = locks.queue(want(&["b"], &[]));
    anyhow::ensure!(!behind.try_hold(), "d is disturbed");
    drop(late);
    anyhow::ensure!(!last.try_hold(), "nobody holds b, but the first in the queue is about to");
    anyhow::ensure!(behind.try_hold() && !last.try_hold(), "b goes to the first in the queue");
    drop(behind);
    anyhow::ensure!(last.try_hold(), "the last one's turn");
    Ok(())
}
