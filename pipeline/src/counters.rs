//! What a pipeline has done since it was started, for those who ask while it runs.

use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

/// Counters of one pipeline.
#[derive(Debug, Default)]
pub struct Counters {
    pub(crate) read: AtomicU64,
    pub(crate) dropped: AtomicU64,
    pub(crate) written: AtomicU64,
    pub(crate) there_already: AtomicU64,
    pub(crate) dead: AtomicU64,
    pub(crate) retried: AtomicU64,
    trouble: Mutex<Option<String>>,
}

/// The counters at one moment.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct Snapshot {
    /// Events read.
    pub read: u64,
    /// Of those, dropped by a filter.
    pub dropped: u64,
    /// Of those, new documents.
    pub written: u64,
    /// Of those, documents that were there already: read a second time.
    pub there_already: u64,
    /// Of those, refused by Elasticsearch for good, and kept in the dead-letter file.
    pub dead: u64,
    /// Attempts to write that were repeated.
    pub retried: u64,
    /// What keeps it from writing just now.
    pub trouble: Option<String>,
}

impl Counters {
    /// The counters now.
    pub fn snapshot(&self) -> Snapshot {
        let of = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        Snapshot {
            read: of(&self.read),
            dropped: of(&self.dropped),
            written: of(&self.written),
            there_already: of(&self.there_already),
            dead: of(&self.dead),
            retried: of(&self.retried),
            trouble: self.trouble.lock().unwrap_or_else(std::sync::PoisonError::into_inner).clone(),
        }
    }

    pub(crate) fn add(counter: &AtomicU64, number: usize) {
        counter.fetch_add(number as u64, Ordering::Relaxed);
    }

    /// Says what is wrong; says so on standard error too, when it is another thing than before.
    pub(crate) fn trouble(&self, pipeline: &str, now: Option<String>) {
        let mut trouble = self.trouble.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        if *trouble != now {
            match &now {
                Some(text) => eprintln!("[WARN] {pipeline}: {text}"),
                None => eprintln!("[INFO] {pipeline}: writes again"),
            }
            *trouble = now;
        }
    }
}
