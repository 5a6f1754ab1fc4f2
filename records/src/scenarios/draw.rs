//! What the generators draw with: a random stream for a run, choices by weight, times as text.

use rand::{Rng, RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use sha2::{Digest, Sha256};
use time::OffsetDateTime;
use time::macros::format_description;

/// The generator of a seed and a run. A record takes the stream of its index: it does not depend on those before it.
pub(super) fn generator(seed: u64, run: &str) -> ChaCha8Rng {
    let sum = Sha256::new().chain_update(seed.to_le_bytes()).chain_update(run).finalize();
    ChaCha8Rng::from_seed(sum.into())
}

/// One of the choices, each as often as its weight says. The last stands for an empty or weightless rest.
pub(super) fn weighted<T: Copy, const N: usize>(random: &mut impl Rng, choices: &[(T, u32); N]) -> T {
    const { assert!(N > 0) };
    let mut left = random.random_range(0..choices.iter().map(|(_, weight)| weight).sum::<u32>());
    for (choice, weight) in choices {
        match left.checked_sub(*weight) {
            None => return *choice,
            Some(rest) => left = rest,
        }
    }
    choices[N - 1].0
}

/// An id that no other draw gives.
pub(super) fn uuid(random: &mut impl Rng) -> uuid::Uuid {
    uuid::Builder::from_random_bytes(random.random()).into_uuid()
}

/// Milliseconds since the epoch as ISO 8601 in UTC; empty where no calendar has the time.
pub(super) fn timestamp(time_ms: i64) -> String {
    let form = format_description!("[year]-[month]-[day]T[hour]:[minute]:[second].[subsecond digits:3]Z");
    let at = OffsetDateTime::from_unix_timestamp_nanos(i128::from(time_ms) * 1_000_000);
    at.ok().and_then(|at| at.format(form).ok()).unwrap_or_default()
}

/// The random numbers and the names of one run of a generator.
#[derive(Debug, Clone)]
pub(super) struct Run {
    random: ChaCha8Rng,
    name: Option<String>,
}

impl Run {
    /// That of a seed; with a name, its draws and names are its own.
    pub(super) fn new(seed: u64, name: Option<&str>) -> Self {
        Self { random: generator(seed, name.unwrap_or_default()), name: name.map(str::to_owned) }
    }

    /// What the record with an index draws from.
    pub(super) fn at(&self, index: u64) -> ChaCha8Rng {
        let mut random = self.random.clone();
        random.set_stream(index);
        random
    }

    /// A name as this run has it: with the run's own name behind it, where it has one.
    pub(super) fn own(&self, name: &str) -> String {
        match &self.name {
            None => name.to_owned(),
            Some(run) => format!("{name}-{run}"),
        }
    }
}
