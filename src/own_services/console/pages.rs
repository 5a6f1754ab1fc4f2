//! The pages, a file each, and the frame around them. Everything that comes from a record, a topic or a group is text; the template library escapes it.

pub(super) mod alerts;
pub(super) mod dashboards;
pub(super) mod faults;
pub(super) mod groups;
pub(super) mod lab;
pub(super) mod logs;
pub(super) mod schemas;
pub(super) mod topics;

use std::sync::Arc;

use axum::extract::State;
use axum::http::{StatusCode, Uri};
use axum::response::{Html, IntoResponse, Response};
use maud::{DOCTYPE, Markup, html};

use super::Console;
use super::api::Refused;
use super::asked::shown;
use super::cluster::Seen;
use crate::clients::schema_registry::percent;
use crate::dashboards::RUNBOOKS;
use crate::topology::KAFKA;

/// Address and name.
const PAGES: [(&str, &str); 8] = [
    ("/", "Lab"),
    ("/dashboards", "Dashboards"),
    ("/topics", "Topics"),
    ("/groups", "Groups"),
    ("/schemas", "Schemas"),
    ("/logs", "Logs"),
    ("/alerts", "Alerts"),
    ("/faults", "Faults"),
];

/// A page that could not be made, in the same frame.
pub(super) struct Failed(Arc<Console>, Refused);

impl IntoResponse for Failed {
    fn into_response(self) -> Response {
        let Self(console, Refused(status, why)) = self;
        let body = html! { p.problem role="alert" { (why) } p { a href="/" { "The lab" } } };
        (status, console.frame("Not shown", "", None, &body)).into_response()
    }
}

impl Console {
    fn frame(&self, title: &str, current: &str, seen: Option<&Seen>, body: &Markup) -> Html<String> {
        self.framed(title, current, seen, body, false)
    }

    /// A page with charts.
    fn frame_with_charts(
        &self,
        title: &str,
        current: &str,
        seen: Option<&Seen>,
        body: &Markup,
    ) -> Html<String> {
        self.framed(title, current, seen, body, true)
    }

    fn framed(
        &self,
        title: &str,
        current: &str,
        seen: Option<&Seen>,
        body: &Markup,
        charts: bool,
    ) -> Html<String> {
        let page = html! {
            (DOCTYPE)
            html lang="en" {
                head {
                    meta charset="utf-8";
                    meta name="viewport" content="width=device-width, initial-scale=1";
                    meta name="color-scheme" content="light dark";
                    meta name="token" content=(self.token);
                    title { (title) " · " (self.lab.lab) }
                    link rel="stylesheet" href="/console.css";
                    link rel="icon" href="/icon.svg";
                    script src="/console.js" defer {}
                    @if charts {
                        link rel="stylesheet" href="/uplot.css";
                        script src="/uplot.js" defer {}
                        script src="/charts.js" defer {}
                    }
                }
                body {
                    a.skip href="#main" { "To the content" }
                    header {
                        strong { "Streamlab" }
                        span { "lab " (self.lab.lab) @if self.lab.instance != "default" { " · " (self.lab.instance) } }
                        nav aria-label="Pages" {
                            @for (href, name) in PAGES.into_iter().filter(|(href, _)| *href != "/logs" || self.logs.is_some()) {
                                a href=(href) aria-current=[(href == current).then_some("page")] {
                                    (name)
                                    @if href == "/alerts" {
                                        @let firing = seen.map_or(0, |seen| seen.monitored.firing());
                                        " " span.firing data-live="firing" hidden[firing == 0] { (firing) }
                                    }
                                }
                            }
                        }
                    }
                    main id="main" tabindex="-1" {
                        h1 { (title) }
                        @if let Some(seen) = seen {
                            p.as-of { "as of " time data-live="at" { (time_of(seen)) } }
                            p.problem role="status" data-live="problem" hidden[seen.problem.is_none()] {
                                @if let Some(problem) = &seen.problem { "Kafka does not answer: " (problem) }
                            }
                            p.changed role="status" data-live="changed" hidden {
                                "Services or alerts have changed since. " a href="" { "Show them" }
                            }
                        }
                        (body)
                    }
                }
            }
        };
        Html(page.into_string())
    }

    /// Where a runbook is in this instance: Grafana's files name the documented place.
    fn runbook(&self, address: &str) -> String {
        match (address.strip_prefix(RUNBOOKS), &self.runbooks) {
            (Some(rest), Some(own)) => format!("{own}{rest}"),
            _ => address.to_owned(),
        }
    }

    /// The alerts that have a runbook, as links, each with its state where it fires or is pending.
    fn alerts_as_links<'a>(&self, seen: &Seen, names: impl IntoIterator<Item = &'a String>) -> Markup {
        let state = |name: &str| {
            seen.monitored.alerts.iter().find(|known| known.alert == name).map(|known| &known.state)
        };
        html! {
            @for name in names {
                a href=(self.runbook(&format!("{RUNBOOKS}#{}", name.to_lowercase()))) rel="noreferrer" { (name) }
                @if let Some(state) = state(name) { " " span.firing[state.starts_with("firing")] { (state) } }
                " "
            }
        }
    }

    fn kafka(&self) -> &str {
        self.lab.host_roles.get(KAFKA).map_or("localhost", String::as_str)
    }

    fn instance_option(&self) -> String {
        crate::topology::instance_option(&self.lab.instance)
    }
}

fn time_of(seen: &Seen) -> String {
    shown((seen.at.unix_timestamp_nanos() / 1_000_000).try_into().unwrap_or_default())
}

fn rate(rate: Option<f64>) -> String {
    rate.map_or("–".to_owned(), |rate| format!("{rate:.1}"))
}

fn commands(commands: &[String]) -> Markup {
    html! {
        details.commands {
            summary { "The same as a command" }
            @for command in commands { pre { code { (command) } } }
        }
    }
}

pub(super) async fn not_found(State(console): State<Arc<Console>>, uri: Uri) -> Failed {
    Failed(console, Refused(StatusCode::NOT_FOUND, format!("no page {}", uri.path())))
}

/// A text as one word of a shell.
fn quoted(text: &str) -> String {
    format!("'{}'", text.replace('\'', r"'\''"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_one_word_and_one_step() {
        assert_eq!(quoted("a'b; rm"), r"'a'\''b; rm'");
        assert_eq!(percent("../a b?c"), "..%2Fa%20b%3Fc");
    }
}
