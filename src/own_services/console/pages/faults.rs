//! What can be broken, and what is. The console breaks nothing: it has no way to the engine, so each fault is a command to type.

use std::sync::Arc;

use axum::extract::State;
use axum::response::Html;
use maud::html;

use super::{Console, commands};

pub(in crate::own_services::console) async fn faults(State(console): State<Arc<Console>>) -> Html<String> {
    let seen = console.cluster.now().await;
    let down: Vec<&String> =
        seen.monitored.up.iter().filter(|(_, up)| !**up).map(|(service, _)| service).collect();
    let option = console.instance_option();
    let body = html! {
        div data-mark=(seen.monitored.mark()) {
            @for problem in &seen.monitored.problems { p.problem role="alert" { (problem) } }
            p { "Services that do not answer: "
                @if seen.monitored.up.is_empty() { "not known" } @else if down.is_empty() { "none" }
                @for service in &down { span.firing { (service) } " " }
            }
        }
        @if console.lab.faults.is_empty() { p { "Nothing of this lab is broken by a command." } }
        @else {
            div.scroll tabindex="0" role="region" aria-label="Faults" {
                table {
                    caption { "What can be broken" span.note { "A fault is made and undone by a command on this machine; this page only reads." } }
                    thead {
                        tr {
                            th scope="col" { "Fault" } th scope="col" { "What happens" } th scope="col" { "Disturbs" }
                            th scope="col" { "Raises" } th scope="col" { "Command" }
                        }
                    }
                    tbody {
                        @for fault in &console.lab.faults {
                            tr {
                                th scope="row" { (fault.name) }
                                td { (fault.about) }
                                td { @for service in &fault.disturbs { (service) " " } }
                                td { (console.alerts_as_links(&seen, &fault.alerts)) }
                                td { code { "./lab fault " (fault.name) (option) } }
                            }
                        }
                    }
                }
            }
        }
        (commands(&[format!("./lab fault{option}"), format!("./lab fault undo{option}")]))
    };
    console.frame("Faults", "/faults", Some(&seen), &body)
}
