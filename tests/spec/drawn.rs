//! Prometheus and Elasticsearch → the console's dashboards, as they are drawn in a real browser. Whether the queries have data is
//! asked in [`crate::dashboards`].

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use reqwest::StatusCode;
use streamlab::clients::http;
use streamlab::clients::prometheus::Prometheus;
use streamlab::dashboards::{Dashboard, Look, Panel};
use streamlab::probes::{Answer, eventually};

use crate::browser::{Chromium, Opened};
use crate::console::console;
use crate::dashboards::chosen;
use crate::lab::Lab;
use crate::trial::{Chapter, Check, PATIENCE, Trial};

const EVERY: Duration = Duration::from_millis(200);
/// Height of a screen on which a whole dashboard is seen.
const TALL: i64 = 9000;

pub(crate) fn trials(chapter: &Chapter<'_>) -> Vec<Trial> {
    [
        chapter.flow("grafana-dashboards-drawn", Check::plain(|lab| Box::pin(every_dashboard(lab, None)))),
        chapter
            .flow("log-dashboards-drawn", Check::plain(|lab| Box::pin(every_dashboard(lab, Some("logs"))))),
        chapter.flow(
            "event-dashboards-drawn",
            Check::plain(|lab| Box::pin(every_dashboard(lab, Some("events")))),
        ),
    ]
    .into_iter()
    .flatten()
    .collect()
}

async fn every_dashboard(lab: Arc<Lab>, subject: Option<&'static str>) -> Result<String> {
    let url = console(&lab)?;
    let dashboards = chosen(&lab, subject)?;
    let folder = lab.project.root.join("target/spec/pages");
    let runbooks =
        format!("{}/runbooks", lab.endpoints.url("alert-receiver", "web")?.replace("127.0.0.1", "localhost"));
    let chromium = Chromium::start(&lab).await?;
    let page = chromium.open(&format!("{url}/dashboards")).await?;
    let listed =
        page.says("[...document.querySelectorAll('main h2 a')].map((a) => a.textContent).join('|')").await?;
    let (mut panels, mut empty, mut times) = (0, Vec::new(), Vec::new());
    for dashboard in &dashboards {
        if !listed.split('|').any(|title| title == dashboard.title) {
            bail!("the list of dashboards has no {:?}: {listed}", dashboard.title);
        }
        page.screen(1280, TALL).await?;
        page.go(&format!("{url}/dashboards/{}?from=now-5m", dashboard.uid)).await?;
        panels += dashboard.panels().count();
        empty.extend(all_drawn(&page, dashboard).await.with_context(|| dashboard.title.clone())?);
        let took = "performance.getEntriesByName('drawn')[0].duration.toFixed(0)";
        times.push(format!("{} panels {} ms", dashboard.panels().count(), page.says(took).await?));
        page.screen(1280, 900).await?;
        page.keep(&folder, &format!("dashboard-{}", dashboard.uid)).await?;
        let links = "[...document.querySelectorAll('.panel a, form a')].map((a) => a.href).filter((a) => a.includes('/runbooks')).join(' ')";
        let links = page.says(links).await?;
        if let Some(wrong) = links.split(' ').find(|link| !link.is_empty() && !link.starts_with(&runbooks)) {
            bail!("{}: a link leads to {wrong}, the runbooks are at {runbooks}", dashboard.title);
        }
    }
    let number = one_number(&lab, &page, &dashboards, &url).await?;
    if subject.is_none() {
        one_topic_alone(&page, &url).await?;
        keys_tell_the_numbers(&page).await?;
        many_at_once(&url).await?;
    }
    page.is_clean(&url)?;
    Ok(format!("{panels} panels; {number}; drawn {times:?}; empty, as their descriptions say: {empty:?}"))
}

/// Every panel is drawn, or has nothing to show and says in its description that this may be. Gives the titles of those.
async fn all_drawn(page: &Opened, dashboard: &Dashboard) -> Result<Vec<String>> {
    let kinds = "[...document.querySelectorAll('[data-panel]')].map((p) => `${p.dataset.panel} ${p.dataset.kind ?? 'not asked'}`).join()";
    let expected: Vec<(u32, &str, bool, &str)> = dashboard
        .panels()
        .map(|panel| (panel.id, kind(&panel.look), panel.may_be_empty, panel.title.as_str()))
        .collect();
    Ok(eventually("every panel is drawn", PATIENCE, EVERY, || async {
        let drawn = page.says(kinds).await?;
        let drawn: Vec<(&str, &str)> = drawn.split(',').filter_map(|panel| panel.split_once(' ')).collect();
        let mut empty = Vec::new();
        for (id, kind, may_be_empty, title) in &expected {
            match drawn.iter().find(|(drawn, _)| *drawn == id.to_string()) {
                Some((_, found)) if found == kind => {}
                Some((_, "nothing")) if *may_be_empty => empty.push((*title).to_owned()),
                found => return Ok(Answer::NotYet(format!("{title}: {found:?}"))),
            }
        }
        Ok(Answer::Is(empty))
    })
    .await?)
}

fn kind(look: &Look) -> &'static str {
    match look {
        Look::Lines(_) => "lines",
        Look::Stat { .. } => "stat",
        Look::States { .. } => "states",
        Look::Table(_) => "table",
        Look::Documents => "documents",
    }
}

/// A tile has the number that Prometheus gives for its query.
async fn one_number(lab: &Lab, page: &Opened, dashboards: &[Dashboard], url: &str) -> Result<String> {
    let prometheus = Prometheus::new(lab.endpoints.url("prometheus", "web")?);
    // One series, without anything chosen at the head of its page.
    let plain = |p: &&Panel| {
        matches!(p.look, Look::Stat { named: false, .. })
            && !p.may_be_empty
            && !p.queries[0].expression.contains('$')
    };
    let stat = |dashboard: &Dashboard| {
        let panel = dashboard.panels().find(plain)?;
        Some((dashboard.uid.clone(), panel.clone()))
    };
    let (uid, panel) = dashboards.iter().find_map(stat).context("no dashboard has a tile")?;
    page.go(&format!("{url}/dashboards/{uid}")).await?;
    let tile = format!("document.querySelector('[data-panel=\"{}\"] dd')?.title ?? ''", panel.id);
    let query = panel.queries[0].filled(&[]);
    eventually(&format!("{}: the tile has the number of {query}", panel.title), PATIENCE, EVERY, || async {
        // The console asks at every fifth second; the page has asked within the last of them.
        let now = time::OffsetDateTime::now_utc().unix_timestamp() / 5 * 5;
        let series = prometheus.over(&query, now - 40, now, 5).await?;
        let values: Vec<f64> = series.iter().flat_map(|one| &one.points).map(|(_, value)| *value).collect();
        let shown = page.says(&tile).await?;
        let equal =
            shown.parse().is_ok_and(|shown: f64| values.iter().any(|value| (value - shown).abs() < 1e-9));
        Ok(if equal { Answer::Is(()) } else { Answer::NotYet(format!("{shown}, Prometheus: {values:?}")) })
    })
    .await?;
    Ok(format!("{:?} has Prometheus' number", panel.title))
}

/// What is chosen at the head of a page is in its address, and the panels show nothing else.
async fn one_topic_alone(page: &Opened, url: &str) -> Result<()> {
    page.go(&format!("{url}/dashboards/kafka-topics?from=now-5m")).await?;
    let shown = "[...new Set([...document.querySelectorAll('[data-panel] .legend th[scope=row]')].map((e) => e.textContent.split(' ')[0]))].join()";
    page.until(&format!("{shown}.split(',').length > 1"), "true").await?;
    let choose = "for (const o of document.querySelector('select[multiple]').options) o.selected = o.value === 'financial_transactions'";
    page.says(choose).await?;
    page.click("form button").await?;
    page.until("new URLSearchParams(location.search).get('var-topic')", "financial_transactions").await?;
    page.until(shown, "financial_transactions").await
}

/// Who has no mouse reads a chart's numbers by the arrow keys.
async fn keys_tell_the_numbers(page: &Opened) -> Result<()> {
    page.says("document.querySelector('.plot').focus()").await?;
    page.press("ArrowLeft", ".plot").await?;
    let told = "(document.querySelector('.tip:not([hidden])')?.textContent ?? '')";
    page.until(&format!("{told}.includes('UTC') && {told}.includes('financial_transactions')"), "true").await
}

/// More pages than anybody opens ask for the largest dashboard at the same moment: each is answered or told to wait, and the console
/// goes on.
async fn many_at_once(url: &str) -> Result<()> {
    let before = token(url).await?;
    let asked = (0..250).map(|_| async {
        let answer =
            http().get(format!("{url}/api/dashboards/lab?from=now-15m")).timeout(PATIENCE).send().await?;
        let status = answer.status();
        let text = answer.text().await?;
        if ![StatusCode::OK, StatusCode::TOO_MANY_REQUESTS].contains(&status) {
            bail!("{status}: {text}");
        }
        Ok(status == StatusCode::OK && text.contains("\"kind\":\"lines\""))
    });
    let drawn = futures::future::try_join_all(asked).await?.into_iter().filter(|drawn| *drawn).count();
    // As many as are drawn at once, at least.
    if drawn < 8 {
        bail!("{drawn} of 250 were drawn");
    }
    let after = token(url).await?;
    if before != after {
        bail!("the console was started anew");
    }
    Ok(())
}

/// What a console has drawn by lot when it was started.
pub(crate) async fn token(url: &str) -> Result<String> {
    let page = http().get(format!("{url}/faults")).send().await?.text().await?;
    let (_, from) = page.split_once("name=\"token\" content=\"").context("a page without a token")?;
    Ok(from.split('"').next().unwrap_or_default().to_owned())
}
