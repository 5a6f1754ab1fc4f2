//! What fires, what is pending, what is held back; silences.

use std::sync::Arc;

use axum::extract::State;
use axum::response::Html;
use maud::{Markup, html};

use super::{Console, commands};
use crate::clients::alerts::KnownAlert;
use crate::own_services::console::monitoring::Monitored;

pub(in crate::own_services::console) async fn alerts(State(console): State<Arc<Console>>) -> Html<String> {
    let seen = console.cluster.now().await;
    let Monitored { alerts, problems, .. } = &seen.monitored;
    let body = html! {
        div data-mark=(seen.monitored.mark()) {
            @for problem in problems { p.problem role="alert" { (problem) } }
            @if !console.monitoring.is_there() { p { "This lab has no monitoring." } }
            @else if alerts.is_empty() && problems.is_empty() { p { "Nothing fires and nothing is pending." } }
            @for alert in alerts { (alert_of(alert)) }
        }
        p.problem role="alert" data-failed hidden {}
        (commands(&[format!("./lab alerts{}", console.instance_option())]))
    };
    console.frame("Alerts", "/alerts", Some(&seen), &body)
}

fn alert_of(alert: &KnownAlert) -> Markup {
    let linked = ["http://", "https://"].iter().any(|scheme| alert.runbook.starts_with(scheme));
    html! {
        section.alert {
            h2 { (alert.alert) }
            p {
                span.firing[alert.state.starts_with("firing")] { (alert.state) } ", " (alert.severity) ", since "
                time { (alert.since) }
            }
            p { strong { (alert.summary) } }
            p { (with_commands(&alert.what_to_do)) }
            p {
                @if linked { a href=(alert.runbook) rel="noreferrer" { "Runbook" } " " }
                @for id in &alert.silences {
                    button type="button" data-change={ "/api/silences/" (id) "/end" } data-body="{}" { "End the silence" }
                }
                @if alert.silences.is_empty() {
                    button type="button" data-change="/api/silences"
                        data-body=(serde_json::json!({ "alert": alert.alert, "minutes": 60 })) { "Silence for an hour" }
                }
            }
        }
    }
}

/// What stands between backticks is a command.
fn with_commands(text: &str) -> Markup {
    html! {
        @for (place, part) in text.split('`').enumerate() {
            @if place % 2 == 1 { code { (part) } } @else { (part) }
        }
    }
}
