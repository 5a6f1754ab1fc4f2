//! Every query of every panel returns data: asked of Prometheus and of Elasticsearch as Grafana would ask it, and of Grafana where
//! it runs.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};
use streamlab::clients::http;
use streamlab::dashboards::{Dashboard, Search, Within, dashboards};
use streamlab::probes::{Answer, eventually};

use crate::lab::Lab;
use crate::log_lines::elasticsearch;
use crate::metrics::prometheus;
use crate::trial::{Chapter, Check, PATIENCE, Trial};
use crate::views::known_fields;

/// Grafana's data source of metrics.
const PROMETHEUS: &str = "prometheus";
/// How far back a dashboard of logs looks: a lab's first lines are found too.
const MINUTES: u32 = 60;
const EVERY: Duration = Duration::from_secs(1);

pub(crate) fn trials(chapter: &Chapter<'_>) -> Vec<Trial> {
    [
        chapter.flow("dashboards", Check::plain(|lab| Box::pin(every_panel(lab, None)))),
        chapter.flow("dashboards-logs", Check::plain(|lab| Box::pin(every_panel(lab, Some("logs"))))),
        chapter.flow("dashboards-events", Check::plain(|lab| Box::pin(every_panel(lab, Some("events"))))),
        chapter.flow("grafana", Check::plain(|lab| Box::pin(by_grafana(lab, None)))),
        chapter.flow("grafana-logs", Check::plain(|lab| Box::pin(by_grafana(lab, Some("logs"))))),
    ]
    .into_iter()
    .flatten()
    .collect()
}

/// Of the dashboards about a scenario, or of those about none alone.
async fn every_panel(lab: Arc<Lab>, subject: Option<&'static str>) -> Result<String> {
    let prometheus = prometheus(&lab)?;
    let dashboards = chosen(&lab, subject)?;
    let (mut panels, mut queries, mut empty) = (0, 0, Vec::new());
    for dashboard in &dashboards {
        let values = eventually(
            &format!("{}: its variables have values", dashboard.title),
            PATIENCE,
            EVERY,
            || async {
                let mut values = Vec::new();
                for variable in &dashboard.variables {
                    let found =
                        prometheus.label_values(&variable.label, variable.selector.as_deref()).await?;
                    if found.is_empty() {
                        return Ok(Answer::NotYet(format!("${} has none", variable.name)));
                    }
                    values.push((variable.name.clone(), found.join("|")));
                }
                Ok(Answer::Is(values))
            },
        )
        .await?;
        for panel in dashboard.panels() {
            panels += 1;
            for search in &panel.searches {
                queries += 1;
                let question = format!("{} / {}: {}", dashboard.title, panel.title, search.query);
                if !finds(&lab, search, panel.may_be_empty).await.context(question)? {
                    empty.push(panel.title.clone());
                }
            }
            for query in &panel.queries {
                queries += 1;
                let filled = query.filled(&values);
                let question = format!("{} / {}: {filled}", dashboard.title, panel.title);
                // It must parse even where it may be empty.
                let first = prometheus.query(&filled).await.with_context(|| question.clone())?;
                if panel.may_be_empty {
                    if first.is_empty() {
                        empty.push(panel.title.clone());
                    }
                    continue;
                }
                eventually(&question, PATIENCE, EVERY, || async {
                    let found = prometheus.query(&filled).await?;
                    Ok(match found.iter().find(|s| s.value.is_finite()) {
                        Some(_) => Answer::Is(()),
                        None => Answer::NotYet(format!("{} series, none with a number", found.len())),
                    })
                })
                .await?;
            }
        }
    }
    if queries == 0 {
        bail!("there is no dashboard with a query: nothing would be proven");
    }
    Ok(format!(
        "{} dashboards, {panels} panels, {queries} queries; empty now, as their descriptions say: {empty:?}",
        dashboards.len()
    ))
}

/// Whether a search of Elasticsearch shows something; it waits for that, unless it may be empty. Each field that it names must be in
/// the mapping.
async fn finds(lab: &Lab, search: &Search, may_be_empty: bool) -> Result<bool> {
    let elasticsearch = elasticsearch(lab)?;
    known_fields(lab, &search.indices, search.fields()).await?;
    let asked = async || elasticsearch.search(&search.indices, &search.question(Within::Last(MINUTES))).await;
    if may_be_empty {
        return Ok(search.shows(&asked().await?));
    }
    Ok(eventually("something to show", PATIENCE, EVERY, || async {
        let answer = asked().await?;
        let seen = || format!("{} documents", answer["hits"]["total"]["value"]);
        Ok(if search.shows(&answer) { Answer::Is(true) } else { Answer::NotYet(seen()) })
    })
    .await?)
}

pub(crate) fn chosen(lab: &Lab, subject: Option<&'static str>) -> Result<Vec<Dashboard>> {
    let mut all = dashboards(&lab.project.root)?;
    all.retain(|dashboard| dashboard.subject() == subject);
    Ok(all)
}

async fn by_grafana(lab: Arc<Lab>, subject: Option<&'static str>) -> Result<String> {
    let base = lab.endpoints.url("grafana", "web")?;
    let get = async |path: &str| -> Result<Value> {
        let request = http().get(format!("{base}{path}")).basic_auth("admin", Some("admin"));
        Ok(request.send().await?.error_for_status()?.json().await?)
    };
    let sources = get("/api/datasources").await?;
    let sources: Vec<&str> =
        sources.as_array().into_iter().flatten().filter_map(|s| s["uid"].as_str()).collect();
    if !sources.contains(&PROMETHEUS) {
        bail!("no data source {PROMETHEUS}, but {sources:?}");
    }
    let ours = chosen(&lab, subject)?;
    let mut queries = 0;
    for dashboard in &ours {
        get(&format!("/api/dashboards/uid/{}", dashboard.uid)).await.context(dashboard.title.clone())?;
        let mut values = Vec::new();
        for variable in &dashboard.variables {
            let found = prometheus(&lab)?.label_values(&variable.label, variable.selector.as_deref()).await?;
            values.push((variable.name.clone(), found.join("|")));
        }
        for panel in dashboard.panels().filter(|p| !p.may_be_empty) {
            let of_prometheus = panel.queries.iter().map(|query| {
                let source = json!({ "uid": PROMETHEUS });
                json!({ "refId": "A", "datasource": source, "expr": query.filled(&values), "instant": true })
            });
            for query in of_prometheus.chain(panel.searches.iter().map(|search| search.target.clone())) {
                queries += 1;
                let body = json!({ "from": format!("now-{MINUTES}m"), "to": "now", "queries": [query] });
                let request = http().post(format!("{base}/api/ds/query")).basic_auth("admin", Some("admin"));
                let answer: Value = request.json(&body).send().await?.error_for_status()?.json().await?;
                let frames = answer["results"]["A"]["frames"].as_array().map_or(0, Vec::len);
                if frames == 0 {
                    bail!("{} / {}: no data: {answer}", dashboard.title, panel.title);
                }
            }
        }
    }
    if queries == 0 {
        bail!("there is no dashboard with a query: nothing would be proven");
    }
    Ok(format!("{} dashboards, {queries} queries", ours.len()))
}
