//! Slack's payload of an incoming webhook, as far as Alertmanager 0.28 writes it; more fields are no mistake.

use serde::de::DeserializeOwned;
use serde::{Deserialize, Deserializer};
use serde_json::{Map, Value};

/// What is posted. The fields that nothing shows are named so that their types are checked.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Payload {
    pub(super) channel: Option<String>,
    pub(super) username: Option<String>,
    pub(super) text: Option<String>,
    icon_emoji: Option<String>,
    icon_url: Option<String>,
    link_names: Option<bool>,
    #[serde(deserialize_with = "objects")]
    pub(super) attachments: Vec<Attachment>,
}

/// One attachment: a group of alerts.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Attachment {
    pub(super) title: Option<String>,
    pub(super) title_link: Option<String>,
    pub(super) pretext: Option<String>,
    pub(super) text: Option<String>,
    pub(super) fallback: Option<String>,
    callback_id: Option<String>,
    pub(super) color: Option<String>,
    #[serde(deserialize_with = "objects")]
    pub(super) fields: Vec<Field>,
    #[serde(deserialize_with = "objects")]
    pub(super) actions: Vec<Action>,
    image_url: Option<String>,
    thumb_url: Option<String>,
    pub(super) footer: Option<String>,
    mrkdwn_in: Option<Vec<String>>,
}

/// A titled value.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Field {
    pub(super) title: String,
    pub(super) value: String,
    short: Option<bool>,
}

/// A button.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Action {
    #[serde(rename = "type")]
    kind: Option<String>,
    pub(super) text: Option<String>,
    pub(super) url: Option<String>,
}

/// A list of JSON objects, or null: a type of named fields would take a list in place of an object too.
fn objects<'de, D: Deserializer<'de>, T: DeserializeOwned>(given: D) -> Result<Vec<T>, D::Error> {
    let list = Option::<Vec<Map<String, Value>>>::deserialize(given)?.unwrap_or_default();
    let read = |object| serde_json::from_value(Value::Object(object)).map_err(serde::de::Error::custom);
    list.into_iter().map(read).collect()
}

/// Whether something is wrong, or no longer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Status {
    Firing,
    Resolved,
}

impl Status {
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Firing => "firing",
            Self::Resolved => "resolved",
        }
    }
}

impl Payload {
    /// Reads a body, or says why it is none; the first word is Slack's own answer.
    pub(super) fn read(body: &[u8]) -> Result<Self, String> {
        let wrong = |error: serde_json::Error| format!("invalid_payload: {error}");
        let object: Map<String, Value> = serde_json::from_slice(body).map_err(wrong)?;
        let payload: Self = serde_json::from_value(Value::Object(object)).map_err(wrong)?;
        let said = |text: &Option<String>| text.as_ref().is_some_and(|t| !t.trim().is_empty());
        let of_attachment = |a: &Attachment| {
            [&a.title, &a.pretext, &a.text, &a.fallback].into_iter().any(said) || !a.fields.is_empty()
        };
        if said(&payload.text) || payload.attachments.iter().any(of_attachment) {
            Ok(payload)
        } else {
            Err("no_text: neither a text nor an attachment with a title, text, fallback or field".to_owned())
        }
    }

    /// Firing as soon as one attachment is; a message that says nothing about it is to be looked at too.
    pub(super) fn status(&self) -> Status {
        let firing = self.attachments.iter().filter_map(Attachment::status).any(|s| s == Status::Firing);
        let resolved = self.attachments.iter().any(|a| a.status() == Some(Status::Resolved));
        if resolved && !firing { Status::Resolved } else { Status::Firing }
    }
}

impl Attachment {
    fn status(&self) -> Option<Status> {
        // The title first: a template may choose any colour.
        let title = self.title.as_deref().or(self.fallback.as_deref()).unwrap_or_default();
        if title.starts_with("[FIRING") {
            return Some(Status::Firing);
        }
        if title.starts_with("[RESOLVED") {
            return Some(Status::Resolved);
        }
        match self.color.as_deref() {
            Some("danger" | "warning") => Some(Status::Firing),
            Some("good") => Some(Status::Resolved),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use rstest::rstest;
    use serde_json::json;

    use super::*;

    fn read(value: &serde_json::Value) -> Result<Payload, String> {
        Payload::read(value.to_string().as_bytes())
    }

    #[rstest]
    #[case::default_title(json!([{"title": "[FIRING:2] X (a b)", "color": "danger"}]), Status::Firing)]
    #[case::default_title_resolved(json!([{"title": "[RESOLVED] X", "color": "good"}]), Status::Resolved)]
    #[case::title_before_colour(json!([{"title": "[RESOLVED] X", "color": "danger"}]), Status::Resolved)]
    #[case::colour_alone(json!([{"title": "X", "color": "good"}]), Status::Resolved)]
    #[case::no_title(json!([{"fallback": "[RESOLVED] X"}]), Status::Resolved)]
    #[case::one_of_two(json!([{"title": "[RESOLVED] X"}, {"title": "[FIRING:1] Y"}]), Status::Firing)]
    #[case::nothing_said(json!([{"title": "X", "color": "#439FE0"}]), Status::Firing)]
    fn the_status_is_read(#[case] attachments: serde_json::Value, #[case] expected: Status) {
        assert_eq!(read(&json!({ "attachments": attachments })).unwrap().status(), expected);
    }

    #[rstest]
    #[case::a_list(json!([]), "invalid_payload")]
    #[case::nothing(json!({}), "no_text")]
    #[case::another_webhook(json!({"version": "4", "groupKey": "x", "alerts": []}), "no_text")]
    #[case::empty(json!({"text": " ", "attachments": [{"text": "", "footer": ""}]}), "no_text")]
    #[case::wrong_type(json!({"text": 1}), "invalid_payload")]
    #[case::a_list_for_an_attachment(json!({"attachments": [["x"]]}), "invalid_payload")]
    #[case::wrong_inside(json!({"attachments": [{"title": "x", "fields": "none"}]}), "invalid_payload")]
    fn what_is_no_payload_is_refused(#[case] value: serde_json::Value, #[case] expected: &str) {
        let why = read(&value).unwrap_err();
        assert!(why.starts_with(expected), "{why}");
    }

    proptest! {
        #[test]
        fn no_bytes_break_it(bytes: Vec<u8>) {
            let _ = Payload::read(&bytes).map(|p| p.status());
        }
    }
}
