//! Grafana's dashboards, asked anew for every page that shows them: the questions of the panels that somebody sees, each once for
//! all pages. [`drawn`] says what a page draws of the answers.

pub(super) mod drawn;

use std::collections::{BTreeMap, HashMap};
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::Result;
use futures::future::join_all;
use serde::Serialize;
use tokio::sync::{OnceCell, Semaphore};
use tokio::time::timeout;

use self::drawn::{Answer, Drawn, drawn};
use super::window::{LOOKS, Window};
use crate::clients::elasticsearch::Elasticsearch;
use crate::clients::prometheus::{Prometheus, Series};
use crate::dashboards::{
    Colour, Dashboard, Field, Lines, Look, Panel, Query, Unit, Within, dashboards, named,
};
use crate::topology::{LabView, METRICS, SEARCH};

/// Questions that are asked at once.
const QUESTIONS: usize = 4;
/// How long an answer may be given again; every page asks for the same moments until the next step.
const KEPT: Duration = Duration::from_secs(10);
/// How long a page waits for one of them.
const PATIENCE: Duration = Duration::from_secs(6);
/// Bytes of an answer of Elasticsearch: a few of them are in memory at once.
pub(super) const LARGEST: usize = 4 << 20;
/// Letters of a reason.
const SAID: usize = 500;
/// Annotations that are marked: a chart with more of them shows nothing any more.
const MARKS: usize = 200;

/// The dashboards of a lab.
pub(super) struct Dashboards {
    pub(super) all: Vec<Dashboard>,
    prometheus: Option<Prometheus>,
    elasticsearch: Option<Elasticsearch>,
    known: Mutex<HashMap<Question, (Instant, Kept)>>,
    asking: Semaphore,
}

type Kept = Arc<OnceCell<Result<Arc<Answer>, String>>>;

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
enum Question {
    /// An expression at a moment, in seconds since 1970.
    At(String, i64),
    /// An expression from a moment to another, every so many seconds.
    Over(String, i64, i64, i64),
    /// Indices and the question.
    Search(String, String),
}

/// A panel with what is drawn in it.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct DrawnPanel {
    id: u32,
    #[serde(flatten)]
    drawn: Drawn,
    /// Series or rows for which there is no room.
    left_out: usize,
}

/// A stretch of time in which something was so.
#[derive(Debug, Serialize)]
pub(super) struct Mark {
    start: i64,
    end: i64,
    title: String,
    text: String,
}

impl Dashboards {
    /// Of the files below `root`, those that a lab has the sources for.
    ///
    /// # Errors
    /// A file that cannot be drawn.
    pub(super) fn of(lab: &LabView, root: &Path) -> Result<Self> {
        let url = |role| lab.roles.get(role).map(|address| format!("http://{address}"));
        let prometheus = url(METRICS).map(Prometheus::new);
        let elasticsearch = url(SEARCH).map(Elasticsearch::new);
        let mut all = dashboards(root)?;
        let has = |subject: &str| lab.scenarios.iter().any(|scenario| scenario == subject);
        all.retain(|dashboard| prometheus.is_some() && dashboard.subject().is_none_or(has));
        let (known, asking) = (Mutex::default(), Semaphore::new(QUESTIONS));
        Ok(Self { all, prometheus, elasticsearch, known, asking })
    }

    pub(super) fn one(&self, uid: &str) -> Option<&Dashboard> {
        self.all.iter().find(|dashboard| dashboard.uid == uid)
    }

    /// What the variables of a dashboard can be, each sorted.
    ///
    /// # Errors
    /// Prometheus does not answer.
    pub(super) async fn values(
        &self,
        dashboard: &Dashboard,
    ) -> Result<BTreeMap<String, Vec<String>>, String> {
        let Some(prometheus) = &self.prometheus else { return Ok(BTreeMap::new()) };
        let asked = dashboard.variables.iter().map(async |variable| {
            let found = prometheus.label_values(&variable.label, variable.selector.as_deref()).await;
            Ok((variable.name.clone(), found.map_err(|why| in_words("Prometheus", &why))?))
        });
        join_all(asked).await.into_iter().collect()
    }

    /// The panels that are wanted. `chosen`: the values of each variable; one without any has all.
    pub(super) async fn draw(
        &self,
        dashboard: &Dashboard,
        wanted: &[u32],
        window: Window,
        chosen: &BTreeMap<String, Vec<String>>,
    ) -> Vec<DrawnPanel> {
        let values = filling(dashboard, chosen, window);
        let panels = dashboard.panels().filter(|panel| wanted.contains(&panel.id));
        let drawn = panels.map(async |panel| self.panel(panel, window, &values).await);
        join_all(drawn).await
    }

    /// How far a consumer group was behind, by topic, as the only panel of its page.
    pub(super) async fn lag(&self, group: &str, window: Window) -> DrawnPanel {
        let of_group = serde_json::to_string(group).unwrap_or_default();
        let panel = Panel {
            id: 1,
            title: String::new(),
            description: String::new(),
            size: (24, 8),
            links: Vec::new(),
            may_be_empty: true,
            queries: vec![Query {
                expression: format!("sum by (topic) (kafka_consumergroup_lag{{consumergroup={of_group}}})"),
                legend: Some("{{topic}}".to_owned()),
                instant: false,
            }],
            searches: Vec::new(),
            look: Look::Lines(Lines::default()),
            field: Field {
                unit: Unit::Short,
                decimals: None,
                min: Some(0.0),
                max: None,
                colour: Colour::Series,
                thresholds: Vec::new(),
                words: Vec::new(),
            },
        };
        self.panel(&panel, window, &[]).await
    }

    async fn panel(&self, panel: &Panel, window: Window, values: &[(String, String)]) -> DrawnPanel {
        let of_metrics = panel.queries.iter().map(|query| question(query, values, window));
        let of_search = panel.searches.iter().map(|search| {
            let question =
                search.question(Within::Between(window.start, window.until / LOOKS * LOOKS, window.step));
            Question::Search(search.indices.clone(), question.to_string())
        });
        let asked = of_metrics.chain(of_search).map(|question| self.answer(question));
        let answers: Result<Vec<_>, _> = join_all(asked).await.into_iter().collect();
        let (drawn, left_out) = match answers {
            Ok(answers) => drawn(panel, &answers, window),
            Err(why) => (Drawn::Problem { why }, 0),
        };
        DrawnPanel { id: panel.id, drawn, left_out }
    }

    /// An answer, asked once for all who want it at the same time.
    async fn answer(&self, question: Question) -> Result<Arc<Answer>, String> {
        let kept = {
            let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
            known.retain(|_, (at, _)| at.elapsed() < KEPT);
            Arc::clone(&known.entry(question.clone()).or_insert_with(|| (Instant::now(), Kept::default())).1)
        };
        let asked = kept.get_or_init(async || {
            // With its wait for a place: a page that shows thirty panels does not wait thirty times.
            let answer = timeout(PATIENCE, self.ask(&question)).await;
            let who = if matches!(question, Question::Search(..)) { "Elasticsearch" } else { "Prometheus" };
            match answer {
                Ok(Ok(answer)) => Ok(Arc::new(answer)),
                Ok(Err(why)) => Err(in_words(who, &why)),
                Err(_) => Err(format!("{who} does not answer within {} s", PATIENCE.as_secs())),
            }
        });
        let answer = asked.await.clone();
        // Who asks next asks again.
        if answer.is_err() {
            self.known.lock().unwrap_or_else(PoisonError::into_inner).remove(&question);
        }
        answer
    }

    async fn ask(&self, question: &Question) -> Result<Answer> {
        let _place = self.asking.acquire().await?;
        match (question, &self.prometheus, &self.elasticsearch) {
            (Question::At(expression, at), Some(prometheus), _) => {
                Ok(Answer::Samples(prometheus.query_at(expression, *at).await?))
            }
            (Question::Over(expression, start, end, step), Some(prometheus), _) => {
                Ok(Answer::Series(prometheus.over(expression, *start, *end, *step).await?))
            }
            (Question::Search(indices, question), _, Some(elasticsearch)) => {
                let question = serde_json::from_str(question)?;
                Ok(Answer::Search(elasticsearch.search_within(indices, &question, LARGEST).await?))
            }
            _ => anyhow::bail!("this lab has not what the panel asks"),
        }
    }

    /// What a dashboard marks on its charts.
    ///
    /// # Errors
    /// Prometheus does not answer.
    pub(super) async fn marks(&self, dashboard: &Dashboard, window: Window) -> Result<Vec<Mark>, String> {
        let mut marks = Vec::new();
        for annotation in &dashboard.annotations {
            let question =
                Question::Over(annotation.expression.clone(), window.start, window.end, window.step);
            let Answer::Series(series) = &*self.answer(question).await? else { continue };
            for one in series {
                let title = named(&annotation.title, &one.labels);
                let text = named(&annotation.text, &one.labels);
                let stretches = stretches(one, window.step).into_iter();
                marks.extend(stretches.map(|(start, end)| Mark {
                    start,
                    end,
                    title: title.clone(),
                    text: text.clone(),
                }));
            }
        }
        marks.sort_by_key(|mark| mark.start);
        marks.truncate(MARKS);
        Ok(marks)
    }
}

fn question(query: &Query, values: &[(String, String)], window: Window) -> Question {
    let expression = query.filled(values);
    // Pages that ask within some seconds ask the same.
    match query.instant {
        true => Question::At(expression, window.until / LOOKS * LOOKS),
        false => Question::Over(expression, window.start, window.end, window.step),
    }
}

/// Why a product has not answered, for who looks at a page: the address of a service inside the lab says nothing to him.
pub(super) fn in_words(who: &str, why: &anyhow::Error) -> String {
    match why.downcast_ref::<reqwest::Error>() {
        Some(_) => format!("{who} does not answer; ./lab status says more"),
        None => format!("{why:#}").chars().take(SAID).collect(),
    }
}

/// What stands for the variables in queries.
fn filling(
    dashboard: &Dashboard,
    chosen: &BTreeMap<String, Vec<String>>,
    window: Window,
) -> Vec<(String, String)> {
    let of_variables = dashboard.variables.iter().map(|variable| {
        let values = chosen.get(&variable.name).filter(|values| !values.is_empty());
        let values =
            values.map(|values| values.iter().map(|value| escaped(value)).collect::<Vec<_>>().join("|"));
        (variable.name.clone(), values.map_or_else(|| ".+".to_owned(), |values| format!("({values})")))
    });
    let interval = ("__rate_interval".to_owned(), format!("{}s", window.rate_interval()));
    of_variables.chain([interval]).collect()
}

/// A text as part of a regular expression, which is itself within a text of PromQL. Nothing in it means anything, and no variable of
/// Grafana's begins in it.
fn escaped(text: &str) -> String {
    let mut out = String::new();
    for c in text.chars() {
        match c {
            '\\' => out += r"\\\\",
            '"' => out += "\\\"",
            '\n' => out += r"\n",
            // Not `\$`: it would begin a variable that is filled later.
            '$' => out += "[$]",
            '.' | '+' | '*' | '?' | '(' | ')' | '[' | ']' | '{' | '}' | '|' | '^' => {
                out += r"\\";
                out.push(c);
            }
            c => out.push(c),
        }
    }
    out
}

/// The stretches of time in which a series was there.
fn stretches(series: &Series, step: i64) -> Vec<(i64, i64)> {
    let mut all: Vec<(i64, i64)> = Vec::new();
    for (at, _) in &series.points {
        match all.last_mut() {
            Some((_, end)) if at - *end <= step => *end = *at,
            _ => all.push((*at, *at)),
        }
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whatever_a_value_is_it_means_itself() {
        assert_eq!(escaped(r#"a.b|c"d\e"#), r#"a\\.b\\|c\"d\\\\e"#);
        assert_eq!(escaped("$topic\n"), r"[$]topic\n");
    }

    #[test]
    fn a_series_that_went_and_came_is_there_twice() {
        let points = [10, 15, 20, 40, 45].map(|at| (at, 1.0)).to_vec();
        let series = Series { labels: BTreeMap::new(), points };
        assert_eq!(stretches(&series, 5), [(10, 20), (40, 45)]);
    }
}
