//! Questions with patience: ask a real service until it answers, and say what it said last when it does not. And what a
//! container uses, as a value that engine and own services share.

use std::fmt;
use std::future::Future;
use std::time::{Duration, Instant};

/// What a container uses.
#[derive(Debug, Clone, Copy, Default, serde::Serialize)]
pub struct Usage {
    /// Bytes now, without the page cache.
    pub memory: u64,
    /// The most it may have, in bytes.
    pub memory_limit: u64,
    /// CPU-seconds since it was started.
    pub cpu_seconds: f64,
    /// Bytes received over the network since it was started.
    pub received: u64,
    /// Bytes sent over the network since it was started.
    pub sent: u64,
    /// How often the engine has started it again after it had died by itself.
    pub restarts: u64,
}

/// One answer to a question.
#[derive(Debug)]
pub enum Answer<T> {
    /// The value that was waited for.
    Is(T),
    /// Not there yet, and what was seen instead.
    NotYet(String),
    /// It will never come: waiting on would hide the reason.
    Never(anyhow::Error),
}

/// Why a question was given up.
#[derive(Debug)]
pub struct GaveUp {
    /// What was waited for.
    pub question: String,
    /// How long.
    pub waited: Duration,
    /// The last answer, or the reason why none can come.
    pub last: String,
    /// No answer could come any more.
    pub never: bool,
}

impl fmt::Display for GaveUp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { question, waited, last, never } = self;
        if *never {
            write!(f, "{question}: {last}")
        } else {
            write!(f, "{question}: not within {} s; last seen: {last}", waited.as_secs())
        }
    }
}

impl std::error::Error for GaveUp {}

/// Asks `ask` every `every` until it answers or `patience` is over. An `Err` of `ask` counts as "not yet" and its
/// text as what was seen: services that are starting refuse, reset and time out.
///
/// # Errors
/// [`GaveUp`] with the last answer.
pub async fn eventually<T, F, A>(
    question: &str,
    patience: Duration,
    every: Duration,
    mut ask: A,
) -> Result<T, GaveUp>
where
    A: FnMut() -> F,
    F: Future<Output = anyhow::Result<Answer<T>>>,
{
    let start = Instant::now();
    let mut ticks = tokio::time::interval(every);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut last = String::from("never asked");
    while start.elapsed() < patience {
        ticks.tick().await;
        let left = patience.saturating_sub(start.elapsed());
        match tokio::time::timeout(left, ask()).await {
            Ok(Ok(Answer::Is(value))) => return Ok(value),
            Ok(Ok(Answer::NotYet(seen))) => last = seen,
            Ok(Ok(Answer::Never(why))) => {
                let (question, waited) = (question.to_owned(), start.elapsed());
                return Err(GaveUp { question, waited, last: format!("{why:#}"), never: true });
            }
            Ok(Err(error)) => last = format!("{error:#}"),
            Err(_) if last == "never asked" => last = "no answer to the first question".to_owned(),
            Err(_) => {}
        }
    }
    Err(GaveUp { question: question.to_owned(), waited: start.elapsed(), last, never: false })
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn ask(answers: Vec<anyhow::Result<Answer<u8>>>) -> Result<u8, GaveUp> {
        let mut answers = answers.into_iter();
        eventually("an answer", Duration::from_millis(50), Duration::from_millis(1), move || {
            let next = answers.next().unwrap_or_else(|| Ok(Answer::NotYet("still nothing".into())));
            async move { next }
        })
        .await
    }

    #[tokio::test]
    async fn errors_count_as_not_yet() {
        let answers =
            vec![Err(anyhow::anyhow!("refused")), Ok(Answer::NotYet("1 of 3".into())), Ok(Answer::Is(7))];
        assert_eq!(ask(answers).await.unwrap(), 7);
    }

    #[tokio::test]
    async fn a_timeout_says_what_was_seen_last() {
        let gave_up = ask(vec![]).await.unwrap_err();
        assert!(!gave_up.never);
        assert!(gave_up.to_string().contains("last seen: still nothing"), "{gave_up}");
    }

    #[tokio::test]
    async fn never_ends_the_waiting_at_once() {
        let gave_up = ask(vec![Ok(Answer::Never(anyhow::anyhow!("it died")))]).await.unwrap_err();
        assert!(gave_up.never);
        assert_eq!(gave_up.to_string(), "an answer: it died");
    }
}
