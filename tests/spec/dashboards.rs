//! Every query of every panel returns data: asked of Prometheus as Grafana would ask it, and of Grafana where it runs.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};
use streamlab::clients::http;
use streamlab::dashboards::{Dashboard, OF_LOGS, dashboards};
use streamlab::probes::{Answer, eventually};

use crate::lab::Lab;
use crate::metrics::prometheus;
use crate::trial::{Chapter, Check, PATIENCE, Trial};

const EVERY: Duration = Duration::from_secs(1);

pub(crate) fn trials(chapter: &Chapter<'_>) -> Vec<Trial> {
    [
        chapter.flow("dashboards", Check::plain(|lab| Box::pin(every_panel(lab, false)))),
        chapter.flow("dashboards-logs", Check::plain(|lab| Box::pin(every_panel(lab, true)))),
        chapter.flow("grafana", Check::plain(|lab| Box::pin(by_grafana(lab, false)))),
        chapter.flow("grafana-logs", Check::plain(|lab| Box::pin(by_grafana(lab, true)))),
    ]
    .into_iter()
    .flatten()
    .collect()
}

/// Of the dashboards about logs, or of the others.
async fn every_panel(lab: Arc<Lab>, of_logs: bool) -> Result<String> {
    let prometheus = prometheus(&lab)?;
    let dashboards = chosen(&lab, of_logs)?;
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
        for panel in &dashboard.panels {
            panels += 1;
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

fn chosen(lab: &Lab, of_logs: bool) -> Result<Vec<Dashboard>> {
    let mut all = dashboards(&lab.project.root)?;
    all.retain(|dashboard| dashboard.tags.iter().any(|tag| tag == OF_LOGS) == of_logs);
    Ok(all)
}

async fn by_grafana(lab: Arc<Lab>, of_logs: bool) -> Result<String> {
    let base = lab.endpoints.url("grafana", "web")?;
    let get = async |path: &str| -> Result<Value> {
        let request = http().get(format!("{base}{path}")).basic_auth("admin", Some("admin"));
        Ok(request.send().await?.error_for_status()?.json().await?)
    };
    let sources = get("/api/datasources").await?;
    let source = sources[0]["uid"].as_str().context("no data source")?.to_owned();
    let ours = chosen(&lab, of_logs)?;
    let mut queries = 0;
    for dashboard in &ours {
        get(&format!("/api/dashboards/uid/{}", dashboard.uid)).await.context(dashboard.title.clone())?;
        let mut values = Vec::new();
        for variable in &dashboard.variables {
            let found = prometheus(&lab)?.label_values(&variable.label, variable.selector.as_deref()).await?;
            values.push((variable.name.clone(), found.join("|")));
        }
        for panel in dashboard.panels.iter().filter(|p| !p.may_be_empty) {
            for query in &panel.queries {
                queries += 1;
                let body = json!({ "from": "now-5m", "to": "now", "queries": [{
                    "refId": "A", "datasource": { "uid": source }, "expr": query.filled(&values), "instant": true,
                }]});
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
