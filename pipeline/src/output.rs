//! The output elasticsearch: documents in bulk, each until Elasticsearch has answered for it. What it refuses for good is kept in the
//! dead-letter file; everything else is tried again for ever.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result};
use serde::Deserialize;
use serde_json::{Value, json};

use crate::condition::Condition;
use crate::counters::Counters;
use crate::event::Event;
use crate::grammar::{self, Plugin, Statement};
use crate::inputs::pause;
use crate::options::{Options, template};
use crate::template::Template;
use crate::{Checked, mistake};

/// Most bytes of one request. Elasticsearch takes 100 MB, and a small heap much less.
const MOST_BYTES: usize = 4 << 20;
const FIRST_WAIT: Duration = Duration::from_millis(200);
const LONGEST_WAIT: Duration = Duration::from_secs(5);
/// Elasticsearch answers a bulk request within a minute, or not at all.
const PATIENCE: Duration = Duration::from_secs(60);

/// Where events go.
#[derive(Debug)]
pub(crate) struct Output {
    hosts: Vec<String>,
    steps: Vec<Step>,
}

#[derive(Debug)]
enum Step {
    Target(Target),
    Choice(Vec<(Option<Condition>, Vec<Step>)>),
}

#[derive(Debug)]
struct Target {
    index: Template,
    document_id: Option<Template>,
}

/// A document on its way.
#[derive(Debug, Clone)]
pub(crate) struct Document {
    index: String,
    /// None where the file asks for an id of a field that is not there.
    id: Option<String>,
    source: Value,
}

impl Output {
    pub(crate) fn of(block: &[Statement], line: usize) -> Checked<Self> {
        let mut hosts = None;
        let steps = steps(block, &mut hosts)?;
        match hosts {
            Some(hosts) => Ok(Self { hosts, steps }),
            None => mistake(line, "there is no output: elasticsearch is the one that is known here"),
        }
    }

    /// The documents of an event; none where no condition holds.
    pub(crate) fn documents(&self, event: &Event) -> Vec<Document> {
        let mut targets = Vec::new();
        chosen(&self.steps, event, &mut targets);
        let document = |target: &&Target| Document {
            index: target.index.fill(event),
            id: target.document_id.as_ref().map_or(Some(event.id.clone()), |id| id.fill_whole(event)),
            source: event.document(),
        };
        targets.iter().map(document).collect()
    }
}

fn steps(block: &[Statement], hosts: &mut Option<Vec<String>>) -> Checked<Vec<Step>> {
    let mut found = Vec::new();
    for statement in block {
        found.push(match statement {
            Statement::Plugin(plugin) => Step::Target(target(plugin, hosts)?),
            Statement::Choice(branches) => {
                let mut choice = Vec::new();
                for (when, inside) in branches {
                    let when: &Option<grammar::Condition> = when;
                    choice.push((when.as_ref().map(Condition::of).transpose()?, steps(inside, hosts)?));
                }
                Step::Choice(choice)
            }
        });
    }
    Ok(found)
}

fn target(plugin: &Plugin, all_hosts: &mut Option<Vec<String>>) -> Checked<Target> {
    if plugin.name != "elasticsearch" {
        return mistake(plugin.line, format!("no output {} here; known is elasticsearch", plugin.name));
    }
    let mut options = Options::of(plugin)?;
    options.text("id")?;
    let mut hosts = Vec::new();
    for (host, line) in options.texts("hosts")? {
        if !host.starts_with("http://") {
            return mistake(line, format!("hosts: {host:?}; write http://NAME:PORT"));
        }
        hosts.push(host.trim_end_matches('/').to_owned());
    }
    if hosts.is_empty() {
        return options.missing("hosts");
    }
    if all_hosts.as_ref().is_some_and(|others| *others != hosts) {
        return mistake(plugin.line, "every output of a file must name the same hosts");
    }
    *all_hosts = Some(hosts);
    let Some((index, line)) = options.text("index")? else { return options.missing("index") };
    let index = template(&index, line)?;
    let document_id = options.text("document_id")?.map(|(id, line)| template(&id, line)).transpose()?;
    let (action, line) = options.text("action")?.unwrap_or(("index".to_owned(), plugin.line));
    if !["create", "index"].contains(&action.as_str()) {
        return mistake(line, format!("action: {action:?}; known are create and index"));
    }
    if action == "index" && document_id.is_some() {
        // Logstash would put a later document in an earlier one's place.
        return mistake(line, "with document_id only action => \"create\" is known here");
    }
    // Logstash would set up what the lab sets up itself; here they can only be off.
    for name in ["ilm_enabled", "manage_template", "data_stream"] {
        options.only(name, "false")?;
    }
    options.none_left()?;
    Ok(Target { index, document_id })
}

fn chosen<'a>(steps: &'a [Step], event: &Event, targets: &mut Vec<&'a Target>) {
    for step in steps {
        match step {
            Step::Target(target) => targets.push(target),
            Step::Choice(branches) => {
                let taken =
                    branches.iter().find(|(when, _)| when.as_ref().is_none_or(|when| when.holds(event)));
                if let Some((_, inside)) = taken {
                    chosen(inside, event, targets);
                }
            }
        }
    }
}

/// What became of one document.
enum Outcome {
    Written,
    /// It is there already: it was read a second time.
    There,
    /// Refused for good, and why.
    Dead(String),
    /// To be tried again, and why.
    Again(String),
}

/// Writes documents.
pub(crate) struct Writer {
    pipeline: String,
    client: reqwest::Client,
    hosts: Vec<String>,
    dead_letters: PathBuf,
    counters: Arc<Counters>,
}

#[derive(Deserialize)]
struct Answer {
    errors: bool,
    #[serde(default)]
    items: Vec<Item>,
}

#[derive(Deserialize)]
struct Item {
    create: ItemAnswer,
}

#[derive(Deserialize)]
struct ItemAnswer {
    status: u16,
    #[serde(default)]
    error: Value,
}

impl Writer {
    pub(crate) fn new(
        pipeline: &str,
        output: &Output,
        client: reqwest::Client,
        data: &Path,
        counters: Arc<Counters>,
    ) -> Self {
        let dead_letters = data.join(format!("dead-letters-{pipeline}.ndjson"));
        Self { pipeline: pipeline.to_owned(), client, hosts: output.hosts.clone(), dead_letters, counters }
    }

    /// Writes all, however long it takes.
    ///
    /// # Errors
    /// What is refused for good cannot be kept either.
    pub(crate) async fn write(&self, mut documents: Vec<Document>) -> Result<()> {
        let nameless: Vec<Document> = documents.extract_if(.., |document| document.id.is_none()).collect();
        for document in nameless {
            self.bury(&document, "document_id names a field that the event does not have")?;
        }
        let mut wait = FIRST_WAIT;
        let mut host = 0;
        let mut most = usize::MAX;
        while !documents.is_empty() {
            let (body, count) = body(&documents, most);
            let url = &self.hosts[host % self.hosts.len()];
            let outcomes = self.ask(url, body, count).await;
            let mut left = Vec::new();
            let mut why = None;
            match outcomes {
                Ok(outcomes) => {
                    for (document, outcome) in documents.drain(..count).zip(outcomes) {
                        match outcome {
                            Outcome::Written => Counters::add(&self.counters.written, 1),
                            Outcome::There => Counters::add(&self.counters.there_already, 1),
                            Outcome::Dead(reason) => self.bury(&document, &reason)?,
                            Outcome::Again(reason) => {
                                why = Some(reason);
                                left.push(document);
                            }
                        }
                    }
                }
                // One of them, or all together, are what it never takes: fewer, down to a document alone.
                Err(Trouble::Refused(reason)) if count == 1 => {
                    let document = documents.remove(0);
                    self.bury(&document, &reason)?;
                }
                Err(Trouble::Refused(_)) => {
                    most = count / 2;
                    continue;
                }
                Err(Trouble::Other(reason)) => {
                    why = Some(reason);
                    host += 1;
                }
            }
            left.append(&mut documents);
            documents = left;
            match why {
                None => {
                    wait = FIRST_WAIT;
                    self.counters.trouble(&self.pipeline, None);
                }
                Some(why) => {
                    Counters::add(&self.counters.retried, 1);
                    self.counters
                        .trouble(&self.pipeline, Some(format!("{url} does not take documents: {why}")));
                    pause(wait).await;
                    wait = (wait * 2).min(LONGEST_WAIT);
                }
            }
        }
        Ok(())
    }

    async fn ask(&self, url: &str, body: String, count: usize) -> Result<Vec<Outcome>, Trouble> {
        let other = |why: reqwest::Error| {
            // The innermost reason says most, and the address is said already.
            let mut reason: &dyn std::error::Error = &why;
            while let Some(inner) = reason.source() {
                reason = inner;
            }
            Trouble::Other(reason.to_string())
        };
        let shortly = "filter_path=errors,items.create.status,items.create.error.type,items.create.error.reason,items.create.error.caused_by.reason";
        let request = self.client.post(format!("{url}/_bulk?{shortly}")).timeout(PATIENCE);
        let request = request.header("content-type", "application/x-ndjson").body(body);
        let answer = request.send().await.map_err(other)?;
        let status = answer.status();
        let text = answer.text().await.map_err(other)?;
        let shown = |text: &str| text.chars().take(300).collect::<String>();
        if [400, 413].contains(&status.as_u16()) {
            return Err(Trouble::Refused(format!("{status}: {}", shown(&text))));
        }
        if !status.is_success() {
            return Err(Trouble::Other(format!("{status}: {}", shown(&text))));
        }
        let answer: Answer = serde_json::from_str(&text)
            .map_err(|why| Trouble::Other(format!("an answer that is none: {why}: {}", shown(&text))))?;
        if answer.errors && answer.items.len() != count {
            let items = answer.items.len();
            return Err(Trouble::Other(format!("{items} answers for {count} documents")));
        }
        if !answer.errors {
            return Ok((0..count).map(|_| Outcome::Written).collect());
        }
        Ok(answer.items.into_iter().map(|item| item.create.outcome()).collect())
    }

    /// Keeps a document that Elasticsearch will never take, before it counts as done.
    fn bury(&self, document: &Document, reason: &str) -> Result<()> {
        Counters::add(&self.counters.dead, 1);
        let letter = json!({
            "reason": reason, "index": document.index, "id": document.id, "document": document.source,
        });
        let kept = || format!("{} cannot be written", self.dead_letters.display());
        let file = std::fs::OpenOptions::new().create(true).append(true).open(&self.dead_letters);
        let mut file = file.with_context(kept)?;
        file.write_all(format!("{letter}\n").as_bytes()).with_context(kept)?;
        file.sync_data().with_context(kept)?;
        eprintln!(
            "[WARN] {}: a document for {} is in {}: {reason}",
            self.pipeline,
            document.index,
            self.dead_letters.display()
        );
        Ok(())
    }
}

enum Trouble {
    /// The whole request, for good.
    Refused(String),
    Other(String),
}

impl ItemAnswer {
    fn outcome(self) -> Outcome {
        let reason = || {
            let of = |value: &Value| {
                value["reason"].as_str().unwrap_or_default().chars().take(300).collect::<String>()
            };
            let kind = self.error["type"].as_str().unwrap_or("no reason given");
            let cause = of(&self.error["caused_by"]);
            let cause = if cause.is_empty() { cause } else { format!("; {cause}") };
            format!("{kind}: {}{cause} ({})", of(&self.error), self.status)
        };
        match self.status {
            200 | 201 => Outcome::Written,
            409 => Outcome::There,
            400 | 404 => Outcome::Dead(reason()),
            _ => Outcome::Again(reason()),
        }
    }
}

/// A request of the first documents, at most so many, and how many they are: one at the least.
fn body(documents: &[Document], most: usize) -> (String, usize) {
    let (mut body, mut count) = (String::new(), 0);
    for document in documents {
        let action = json!({ "create": { "_index": document.index, "_id": document.id } });
        let source = document.source.to_string();
        if count > 0 && (count >= most || body.len() + source.len() > MOST_BYTES) {
            break;
        }
        body.push_str(&action.to_string());
        body.push('\n');
        body.push_str(&source);
        body.push('\n');
        count += 1;
    }
    (body, count)
}
