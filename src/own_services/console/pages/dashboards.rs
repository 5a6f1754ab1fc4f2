//! Grafana's dashboards, drawn here. A page has the places of the panels; its script asks for what stands in those that are seen.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use axum::Json;
use axum::extract::{Path, Query, State};
use axum::http::StatusCode;
use axum::response::{Html, IntoResponse, Response};
use maud::{Markup, html};
use serde::Serialize;
use tokio::time::timeout;

use super::{Console, Failed, commands};
use crate::dashboards::{Dashboard, Link, Look, Panel, Variable};
use crate::own_services::console::DRAWN;
use crate::own_services::console::api::Refused;
use crate::own_services::console::dashboards::{DrawnPanel, Mark};
use crate::own_services::console::window::Window;

/// What can be chosen as the time that is shown.
const TIMES: [(&str, &str); 6] = [
    ("now-5m", "5 minutes"),
    ("now-15m", "15 minutes"),
    ("now-1h", "1 hour"),
    ("now-3h", "3 hours"),
    ("now-6h", "6 hours"),
    ("now-1d", "1 day"),
];

/// How long a page waits until others are drawn.
const PATIENCE: Duration = Duration::from_secs(5);
const REFRESHES: [(u64, &str); 3] = [(5, "every 5 s"), (30, "every 30 s"), (0, "never")];

/// What an address says, by name; a name may come more than once.
type Chosen = Vec<(String, String)>;

pub(in crate::own_services::console) async fn list(State(console): State<Arc<Console>>) -> Html<String> {
    let body = html! {
        p.quiet { "The files that Grafana gets, drawn here." }
        @if console.dashboards.all.is_empty() { p { "This lab has no Prometheus, so there is nothing to draw." } }
        @for dashboard in &console.dashboards.all {
            section.alert {
                h2 { a href={ "/dashboards/" (dashboard.uid) } { (dashboard.title) } }
                p { (dashboard.description) }
            }
        }
    };
    console.frame("Dashboards", "/dashboards", None, &body)
}

pub(in crate::own_services::console) async fn dashboard(
    State(console): State<Arc<Console>>,
    Path(uid): Path<String>,
    Query(chosen): Query<Chosen>,
) -> Result<(StatusCode, Html<String>), Failed> {
    let Some(dashboard) = console.dashboards.one(&uid) else {
        let why = Refused(StatusCode::NOT_FOUND, format!("no dashboard {uid}"));
        return Err(Failed(console, why));
    };
    let (values, unknown) = match console.dashboards.values(dashboard).await {
        Ok(values) => (values, None),
        Err(why) => (BTreeMap::new(), Some(why)),
    };
    let (from, to) = span(dashboard, &chosen);
    let refresh = refresh(one(&chosen, "refresh").unwrap_or_default(), dashboard.refresh);
    let wrong = Window::of(from, to).err();
    let body = html! {
        p.quiet { (dashboard.description) }
        form.search method="get" {
            (times(from, to))
            @for variable in &dashboard.variables { (choice(variable, &values, &chosen)) }
            (refreshes(refresh))
            button { "Show" }
            @for link in &dashboard.links { (link_of(&console, link, dashboard, from, to)) }
        }
        @if let Some(unknown) = unknown { p.problem role="alert" { "What can be chosen is not known: " (unknown) } }
        @if let Some(wrong) = &wrong { p.problem role="alert" { (wrong) } }
        @else {
            p.as-of { "as of " time data-drawn-at {} " " span data-marks role="status" {} }
            div data-dashboard={ "/api/dashboards/" (dashboard.uid) } data-refresh=(refresh) {
                @for row in &dashboard.rows {
                    section aria-label=(row.title) {
                        @if !row.title.is_empty() { h2 { (row.title) } }
                        div.grid { @for panel in &row.panels { (panel_of(&console, panel)) } }
                    }
                }
            }
        }
        p.quiet { "What is drawn, as a file: " a href={ "/api/dashboards/" (dashboard.uid) "?" (query(&chosen)) } download={ (dashboard.uid) ".json" } { "JSON" } }
        (commands(&queries(&console, dashboard)))
    };
    let status = if wrong.is_some() { StatusCode::BAD_REQUEST } else { StatusCode::OK };
    Ok((status, console.frame_with_charts(&dashboard.title, "/dashboards", None, &body)))
}

/// The fields of a form that say which time is shown.
pub(super) fn times(from: &str, to: &str) -> Markup {
    html! {
        label { "Time shown"
            select name="from" {
                @if !TIMES.iter().any(|(value, _)| *value == from) { option value=(from) selected { "from " (from) } }
                @for (value, name) in TIMES { option value=(value) selected[value == from] { (name) } }
            }
        }
        @if to != "now" { label { "To" input name="to" value=(to); } }
    }
}

/// Every how many seconds a page asks again, of those that can be chosen.
pub(super) fn refresh(text: &str, otherwise: u64) -> u64 {
    let known = REFRESHES.iter().map(|(seconds, _)| *seconds);
    text.parse().ok().filter(|seconds| known.clone().any(|known| known == *seconds)).unwrap_or(otherwise)
}

/// The field of a form that says every how many seconds the page asks.
pub(super) fn refreshes(seconds: u64) -> Markup {
    html! {
        label { "Asked again"
            select name="refresh" {
                @for (value, name) in REFRESHES {
                    option value=(value) selected[value == seconds] { (name) }
                }
            }
        }
    }
}

fn choice(variable: &Variable, values: &BTreeMap<String, Vec<String>>, chosen: &Chosen) -> Markup {
    let name = format!("var-{}", variable.name);
    let picked: Vec<&str> =
        chosen.iter().filter(|(key, _)| *key == name).map(|(_, value)| value.as_str()).collect();
    let known = values.get(&variable.name).map(Vec::as_slice).unwrap_or_default();
    html! {
        label title=(variable.description) { (variable.title)
            select name=(name) multiple size="3" {
                option value="" selected[picked.iter().all(|value| value.is_empty())] { "All" }
                // Also one that is gone, or not known now: the panels show it.
                @for value in picked.iter().filter(|value| !value.is_empty() && !known.iter().any(|known| known == *value)) {
                    option value=(value) selected { (value) }
                }
                @for value in known { option value=(value) selected[picked.contains(&value.as_str())] { (value) } }
            }
        }
    }
}

fn link_of(console: &Console, link: &Link, of: &Dashboard, from: &str, to: &str) -> Markup {
    match link {
        Link::Page(name, address) => html! { a href=(console.runbook(address)) rel="noreferrer" { (name) } },
        Link::Tag(tag) => {
            let others =
                console.dashboards.all.iter().filter(|other| other.uid != of.uid && other.tags.contains(tag));
            let query = url::form_urlencoded::Serializer::new(String::new())
                .append_pair("from", from)
                .append_pair("to", to)
                .finish();
            html! {
                details {
                    summary { "Other dashboards" }
                    ul { @for other in others { li { a href={ "/dashboards/" (other.uid) "?" (query) } { (other.title) } } } }
                }
            }
        }
    }
}

/// A panel without what it shows.
fn panel_of(console: &Console, panel: &Panel) -> Markup {
    let (width, height) = panel.size;
    let beside = matches!(&panel.look, Look::Lines(lines) if lines.legend_beside);
    let name = format!("panel-{}", panel.id);
    html! {
        section class={ "panel w" (width) " h" (height) @if beside { " beside" } } aria-labelledby=(name) {
            header {
                h3 id=(name) { (panel.title) }
                details.about {
                    summary aria-label={ "About " (panel.title) } { "?" }
                    div {
                        (paragraphs(&panel.description))
                        ul { @for link in &panel.links { li { (link_of_panel(console, link)) } } }
                        @for query in &panel.queries { pre { code { (query.expression) } } }
                        @for search in &panel.searches { pre { code { (search.query) } } }
                    }
                }
            }
            div.shown data-panel=(panel.id) { p.quiet { "Not asked yet." } }
        }
    }
}

fn link_of_panel(console: &Console, link: &Link) -> Markup {
    html! { @if let Link::Page(name, address) = link { a href=(console.runbook(address)) rel="noreferrer" { (name) } } }
}

/// Paragraphs with `**strong**` words and `` `code` ``: what the files use of Markdown.
fn paragraphs(text: &str) -> Markup {
    html! { @for paragraph in text.split("\n\n").filter(|text| !text.is_empty()) { p { (marked(paragraph)) } } }
}

fn marked(text: &str) -> Markup {
    html! {
        @for (number, part) in text.split("**").enumerate() {
            @if number % 2 == 1 { strong { (coded(part)) } } @else { (coded(part)) }
        }
    }
}

/// A text with `` `code` `` in it.
pub(super) fn coded(text: &str) -> Markup {
    html! {
        @for (number, part) in text.split('`').enumerate() {
            @if number % 2 == 1 { code { (part) } } @else { (part) }
        }
    }
}

fn queries(console: &Console, dashboard: &Dashboard) -> Vec<String> {
    let prometheus = console.lab.host_roles.get(crate::topology::METRICS);
    let first = dashboard.panels().find_map(|panel| panel.queries.first());
    let (Some(prometheus), Some(query)) = (prometheus, first) else { return Vec::new() };
    let expression = super::quoted(&format!("query={}", query.filled(&all_of(dashboard))));
    vec![format!("curl -sG http://{prometheus}/api/v1/query --data-urlencode {expression}")]
}

fn all_of(dashboard: &Dashboard) -> Vec<(String, String)> {
    dashboard.variables.iter().map(|variable| (variable.name.clone(), ".+".to_owned())).collect()
}

fn query(chosen: &Chosen) -> String {
    url::form_urlencoded::Serializer::new(String::new()).extend_pairs(chosen).finish()
}

fn one<'a>(chosen: &'a Chosen, name: &str) -> Option<&'a str> {
    chosen.iter().find(|(key, value)| key == name && !value.is_empty()).map(|(_, value)| value.as_str())
}

fn span<'a>(dashboard: &'a Dashboard, chosen: &'a Chosen) -> (&'a str, &'a str) {
    let (from, to) = &dashboard.time;
    (one(chosen, "from").unwrap_or(from), one(chosen, "to").unwrap_or(to))
}

/// What stands in the panels that are wanted: `panels` has their numbers with commas, all where it is absent.
pub(in crate::own_services::console) async fn data(
    State(console): State<Arc<Console>>,
    Path(uid): Path<String>,
    Query(chosen): Query<Chosen>,
) -> Result<Response, Refused> {
    let dashboard = console.dashboards.one(&uid);
    let dashboard = dashboard.ok_or_else(|| Refused(StatusCode::NOT_FOUND, format!("no dashboard {uid}")))?;
    let (from, to) = span(dashboard, &chosen);
    let window = Window::of(from, to).map_err(|why| Refused(StatusCode::BAD_REQUEST, why))?;
    let wanted: Vec<u32> = match one(&chosen, "panels") {
        None => dashboard.panels().map(|panel| panel.id).collect(),
        Some(numbers) => {
            let wrong =
                |_| Refused(StatusCode::BAD_REQUEST, format!("{numbers:?} are no panels: they are numbers"));
            numbers.split(',').map(str::parse).collect::<Result<_, _>>().map_err(wrong)?
        }
    };
    let mut values: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for (key, value) in chosen.into_iter().filter(|(_, value)| !value.is_empty()) {
        if let Some(name) = key.strip_prefix("var-") {
            values.entry(name.to_owned()).or_default().push(value);
        }
    }
    // Answers are large: a few are made at once.
    let place = timeout(PATIENCE, console.drawing.acquire()).await;
    let Ok(Ok(_place)) = place else {
        let why = format!("{DRAWN} dashboards are being drawn: try again in a moment");
        return Err(Refused(StatusCode::TOO_MANY_REQUESTS, why));
    };
    let (panels, marks) = tokio::join!(
        console.dashboards.draw(dashboard, &wanted, window, &values),
        console.dashboards.marks(dashboard, window),
    );
    let (marks, problem) = match marks {
        Ok(marks) => (marks, None),
        Err(why) => (Vec::new(), Some(why)),
    };
    Ok(Json(Shown { window, panels, marks, problem }).into_response())
}

/// What a page's script gets.
#[derive(Serialize)]
struct Shown {
    window: Window,
    panels: Vec<DrawnPanel>,
    marks: Vec<Mark>,
    problem: Option<String>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_description_is_paragraphs_with_strong_words_and_code() {
        let text = "Is <b>.\n\n**Normal:** `up` is 1.";
        let expected = "<p>Is &lt;b&gt;.</p><p><strong>Normal:</strong> <code>up</code> is 1.</p>";
        assert_eq!(paragraphs(text).into_string(), expected);
    }
}
