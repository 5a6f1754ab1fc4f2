//! A pipeline while it runs: portions of its inputs through its filters into its output, one after the other.

use std::path::Path;
use std::sync::Arc;

use anyhow::{Context as _, Result};
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use crate::counters::Counters;
use crate::event::Event;
use crate::filters::Filters;
use crate::inputs::{Exit, Input, Portion};
use crate::output::{Document, Output, Writer};

/// Events that are filtered and written together, if so many wait.
const TOGETHER: usize = 4000;

/// The parts of a pipeline, checked.
#[derive(Debug)]
pub(crate) struct Parts {
    pub(crate) inputs: Vec<Input>,
    pub(crate) filters: Filters,
    pub(crate) output: Output,
}

impl Parts {
    /// Reads, filters and writes until it is dropped. What is not written then is read again.
    ///
    /// # Errors
    /// An input that cannot go on, or a file that cannot be written.
    pub(crate) async fn run(
        self,
        id: &str,
        client: reqwest::Client,
        data: &Path,
        counters: Arc<Counters>,
    ) -> Result<()> {
        let (sender, mut portions) = mpsc::channel::<Portion>(16);
        let mut inputs = JoinSet::new();
        for input in self.inputs {
            let (exit, data) = (Exit::new(sender.clone()), data.to_owned());
            inputs.spawn(async move { input.run(exit, &data).await });
        }
        drop(sender);
        let writer = Writer::new(id, &self.output, client, data, Arc::clone(&counters));
        let rules = Arc::new((self.filters, self.output));
        loop {
            let first = tokio::select! {
                first = portions.recv() => first.context("no input is left")?,
                Some(ended) = inputs.join_next() => {
                    ended??;
                    continue;
                }
            };
            let mut together = vec![first];
            let mut events: usize = together.iter().map(|portion| portion.events.len()).sum();
            while events < TOGETHER {
                let Ok(next) = portions.try_recv() else { break };
                events += next.events.len();
                together.push(next);
            }
            Counters::add(&counters.read, events);
            let (events, waiting): (Vec<_>, Vec<_>) =
                together.into_iter().map(|portion| (portion.events, portion.done)).unzip();
            let (used, counted) = (Arc::clone(&rules), Arc::clone(&counters));
            let documents = tokio::task::spawn_blocking(move || {
                filtered(events.into_iter().flatten(), &used.0, &used.1, &counted)
            });
            writer.write(documents.await?).await?;
            // An input that has ended hears nothing, and needs nothing.
            for done in waiting {
                let _ = done.send(());
            }
        }
    }
}

fn filtered(
    events: impl Iterator<Item = Event>,
    filters: &Filters,
    output: &Output,
    counters: &Counters,
) -> Vec<Document> {
    let mut documents = Vec::new();
    for mut event in events {
        filters.apply(&mut event);
        let of_event = if event.dropped { Vec::new() } else { output.documents(&event) };
        if of_event.is_empty() {
            Counters::add(&counters.dropped, 1);
        }
        documents.extend(of_event);
    }
    documents
}
