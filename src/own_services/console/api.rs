//! The API: JSON for programs, and the stream of news for pages. Offsets are texts: a program may read numbers as floats.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use axum::Json;
use axum::extract::rejection::{JsonRejection, QueryRejection};
use axum::extract::{Path, Query, State};
use axum::http::StatusCode;
use axum::response::sse::{Event, KeepAlive, Sse};
use axum::response::{IntoResponse, Response};
use futures::stream;
use serde::{Deserialize, Serialize};
use serde_json::json;
use tokio::time::timeout;

use super::Console;
use super::asked::{Asked, shown};
use super::cluster::Seen;
use crate::clients::browse::{Found, Page, Stopped};
use crate::clients::shown::Part;

/// How long a search may take, with its wait for a place.
const PATIENCE: Duration = Duration::from_secs(10);
/// Letters of a key or value that an answer with many records has.
const SHORT: usize = 8_000;
/// All of them.
pub(super) const WHOLE: usize = 8 << 20;

/// Why a request is not answered as it wanted to be.
#[derive(Debug)]
pub(super) struct Refused(pub(super) StatusCode, pub(super) String);

impl IntoResponse for Refused {
    fn into_response(self) -> Response {
        (self.0, Json(json!({ "error": self.1 }))).into_response()
    }
}

impl From<JsonRejection> for Refused {
    fn from(why: JsonRejection) -> Self {
        Self(why.status(), why.body_text())
    }
}

impl From<QueryRejection> for Refused {
    fn from(why: QueryRejection) -> Self {
        Self(StatusCode::BAD_REQUEST, why.body_text())
    }
}

/// One record.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Message {
    pub(super) partition: i32,
    pub(super) offset: String,
    pub(super) timestamp: Option<String>,
    pub(super) key: Part,
    pub(super) value: Part,
    pub(super) headers: Vec<(String, Part)>,
}

/// Records of a topic, and where to go on.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Messages {
    pub(super) topic: String,
    pub(super) messages: Vec<Message>,
    /// Records that were looked at.
    pub(super) scanned: u64,
    pub(super) stopped: Stopped,
    /// `from` of the next page.
    pub(super) next: String,
    /// `from` of what comes later.
    pub(super) end: String,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Topic {
    name: String,
    partitions: Vec<Partition>,
    offsets: String,
    records_per_second: Option<f64>,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Partition {
    partition: i32,
    leader: i32,
    replicas: Vec<i32>,
    in_sync: Vec<i32>,
    first: Option<String>,
    next: Option<String>,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct GroupOf {
    name: String,
    state: String,
    members: usize,
    lag: String,
}

impl Console {
    /// A page of a topic's records.
    async fn page(&self, topic: &str, asked: &Asked, letters: usize) -> Result<Page, Refused> {
        let wanted = asked.wanted(topic, letters).map_err(|why| Refused(StatusCode::BAD_REQUEST, why))?;
        let seen = self.cluster.now_with(|known| known.topics.contains_key(topic)).await;
        if let Some(problem) = &seen.problem {
            return Err(Refused(StatusCode::SERVICE_UNAVAILABLE, problem.clone()));
        }
        let Some(shape) = seen.groups.topics.get(topic) else {
            return Err(Refused(StatusCode::NOT_FOUND, format!("no topic {topic}")));
        };
        if let Some(partition) = wanted.partition.filter(|p| !shape.partitions.contains_key(p)) {
            let why = format!("{topic} has no partition {partition}: it has {}", shape.partitions.len());
            return Err(Refused(StatusCode::NOT_FOUND, why));
        }
        match timeout(PATIENCE, self.browser.page(wanted)).await {
            Ok(Ok(page)) => Ok(page),
            Ok(Err(error)) => Err(Refused(StatusCode::SERVICE_UNAVAILABLE, format!("{error:#}"))),
            Err(_) if self.browser.is_busy() => Err(Refused(
                StatusCode::TOO_MANY_REQUESTS,
                format!("{} topics are being searched: try again in a moment", super::SEARCHES),
            )),
            Err(_) => {
                let why = format!("{topic} gave nothing for {} s", PATIENCE.as_secs());
                Err(Refused(StatusCode::GATEWAY_TIMEOUT, why))
            }
        }
    }

    /// The same for an answer, with at most so many letters of each key and value.
    pub(super) async fn messages(
        &self,
        topic: &str,
        asked: &Asked,
        letters: usize,
    ) -> Result<Messages, Refused> {
        let page = self.page(topic, asked, letters).await?;
        Ok(Messages {
            topic: topic.to_owned(),
            messages: page.records.into_iter().map(Message::of).collect(),
            scanned: page.scanned,
            stopped: page.stopped,
            next: page.next.to_string(),
            end: page.end.to_string(),
        })
    }
}

impl Message {
    fn of(found: Found) -> Self {
        Self {
            partition: found.partition,
            offset: found.offset.to_string(),
            timestamp: found.timestamp.map(shown),
            key: found.key,
            value: found.value,
            headers: found.headers,
        }
    }
}

/// What is known, or why nothing is.
async fn known(console: &Console) -> Result<Arc<Seen>, Refused> {
    let seen = console.cluster.now().await;
    match &seen.problem {
        Some(problem) => Err(Refused(StatusCode::SERVICE_UNAVAILABLE, problem.clone())),
        None => Ok(seen),
    }
}

pub(super) async fn topics(State(console): State<Arc<Console>>) -> Result<Response, Refused> {
    let seen = known(&console).await?;
    let topics: Vec<Topic> =
        seen.groups.topics.iter().map(|(name, shape)| topic(&seen, name, shape)).collect();
    Ok(Json(json!({ "topics": topics })).into_response())
}

fn topic(seen: &Seen, name: &str, shape: &crate::clients::kafka::TopicShape) -> Topic {
    let partitions = shape.partitions.iter().map(|(partition, (leader, replicas, in_sync))| {
        let ends = seen.groups.offsets.get(&(name.to_owned(), *partition));
        Partition {
            partition: *partition,
            leader: *leader,
            replicas: replicas.clone(),
            in_sync: in_sync.clone(),
            first: ends.map(|(first, _)| first.to_string()),
            next: ends.map(|(_, next)| next.to_string()),
        }
    });
    Topic {
        name: name.to_owned(),
        partitions: partitions.collect(),
        offsets: seen.offsets(name).to_string(),
        records_per_second: seen.rates.get(name).copied(),
    }
}

pub(super) async fn messages(
    State(console): State<Arc<Console>>,
    Path(topic): Path<String>,
    asked: Result<Query<Asked>, QueryRejection>,
) -> Result<Response, Refused> {
    Ok(Json(console.messages(&topic, &asked?.0, SHORT).await?).into_response())
}

/// The newest record, whole; null where the topic has none.
pub(super) async fn latest(
    State(console): State<Arc<Console>>,
    Path(topic): Path<String>,
) -> Result<Response, Refused> {
    let asked = Asked { limit: "1".to_owned(), ..Asked::default() };
    let mut found = console.messages(&topic, &asked, WHOLE).await?;
    Ok(Json(json!({ "topic": found.topic, "message": found.messages.pop() })).into_response())
}

pub(super) async fn stats(State(console): State<Arc<Console>>) -> Result<Response, Refused> {
    let seen = known(&console).await?;
    let offsets: i64 = seen.groups.topics.keys().map(|topic| seen.offsets(topic)).sum();
    let partitions: usize = seen.groups.topics.values().map(|shape| shape.partitions.len()).sum();
    Ok(Json(json!({
        "lab": console.lab.lab,
        "at": shown((seen.at.unix_timestamp_nanos() / 1_000_000).try_into().unwrap_or_default()),
        "brokers": seen.groups.brokers.len(),
        "topics": seen.groups.topics.len(),
        "partitions": partitions,
        "offsets": offsets.to_string(),
        "recordsPerSecond": seen.rate(),
        "consumerGroups": groups_of(&seen),
    }))
    .into_response())
}

pub(super) async fn groups(State(console): State<Arc<Console>>) -> Result<Response, Refused> {
    let seen = known(&console).await?;
    Ok(Json(json!({ "groups": groups_of(&seen) })).into_response())
}

fn groups_of(seen: &Seen) -> Vec<GroupOf> {
    let of = |(name, group): (&String, &crate::clients::groups::Group)| GroupOf {
        name: name.clone(),
        state: group.state.clone(),
        members: group.members.len(),
        lag: lag(seen, name).to_string(),
    };
    seen.groups.groups.iter().map(of).collect()
}

/// Records that a group has not committed, of all partitions where it has committed anything.
pub(super) fn lag(seen: &Seen, group: &str) -> i64 {
    let committed = seen.groups.groups.get(group).into_iter().flat_map(|group| group.committed.keys());
    committed.filter_map(|at| seen.groups.lag(group, at)).sum()
}

/// What a page needs to know to ask for more: how far each topic is, how fast it grows, how far each group is behind.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct News<'a> {
    at: String,
    problem: Option<&'a str>,
    topics: BTreeMap<&'a str, (String, String, Option<f64>)>,
    groups: BTreeMap<&'a str, String>,
    /// How many alerts fire, and what changes when something about them or about services changes.
    firing: usize,
    mark: String,
}

fn news(seen: &Seen) -> Event {
    let topics = seen.groups.topics.keys().map(|topic| {
        let (written, offsets) = (seen.written(topic).to_string(), seen.offsets(topic).to_string());
        (topic.as_str(), (written, offsets, seen.rates.get(topic).copied()))
    });
    let groups = seen.groups.groups.keys().map(|group| (group.as_str(), lag(seen, group).to_string()));
    let news = News {
        at: shown((seen.at.unix_timestamp_nanos() / 1_000_000).try_into().unwrap_or_default()),
        problem: seen.problem.as_deref(),
        topics: topics.collect(),
        groups: groups.collect(),
        firing: seen.monitored.firing(),
        mark: seen.monitored.mark(),
    };
    Event::default().json_data(&news).unwrap_or_default()
}

/// News every two seconds, as server-sent events.
pub(super) async fn stream(State(console): State<Arc<Console>>) -> Result<Response, Refused> {
    let Ok(place) = Arc::clone(&console.streams).try_acquire_owned() else {
        let why = format!("{} streams are open: close some of them", super::STREAMS);
        return Err(Refused(StatusCode::TOO_MANY_REQUESTS, why));
    };
    let first = console.cluster.now().await;
    let listening = (console.cluster.news(), place, Some(first));
    let events = stream::unfold(listening, |(mut news_of, place, first)| async move {
        let seen = match first {
            Some(first) => first,
            None => {
                news_of.changed().await.ok()?;
                Arc::clone(&news_of.borrow_and_update())
            }
        };
        Some((Ok::<_, Infallible>(news(&seen)), (news_of, place, None)))
    });
    Ok(Sse::new(events).keep_alive(KeepAlive::new().interval(Duration::from_secs(15))).into_response())
}

/// What fires, what is pending, what is held back.
pub(super) async fn alerts(State(console): State<Arc<Console>>) -> Response {
    let seen = console.cluster.now().await;
    let (alerts, problems) = (&seen.monitored.alerts, &seen.monitored.problems);
    Json(json!({ "alerts": alerts, "problems": problems })).into_response()
}

/// A silence that somebody wants.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Silence {
    alert: String,
    minutes: i64,
}

/// Holds back every alert of a name for some minutes.
pub(super) async fn silence(
    State(console): State<Arc<Console>>,
    wanted: Result<Json<Silence>, JsonRejection>,
) -> Result<Response, Refused> {
    let Json(Silence { alert, minutes }) = wanted?;
    if !(1..=1440).contains(&minutes) {
        return Err(Refused(StatusCode::BAD_REQUEST, format!("{minutes} minutes: 1 to 1440 are possible")));
    }
    let seen = console.cluster.now().await;
    if !seen.monitored.alerts.iter().any(|known| known.alert == alert) {
        return Err(Refused(StatusCode::NOT_FOUND, format!("no alert {alert} fires or is pending")));
    }
    let made = console.monitoring.silence(&alert, minutes, "from the console").await;
    let id = made.map_err(|error| Refused(StatusCode::SERVICE_UNAVAILABLE, format!("{error:#}")))?;
    console.cluster.after_now().await;
    Ok(Json(json!({ "silence": id })).into_response())
}

/// Ends a silence.
pub(super) async fn end_silence(
    State(console): State<Arc<Console>>,
    Path(id): Path<String>,
) -> Result<Response, Refused> {
    if uuid::Uuid::try_parse(&id).is_err() {
        return Err(Refused(StatusCode::BAD_REQUEST, format!("{id:?} is no silence's id")));
    }
    console.monitoring.end_silence(&id).await.map_err(|error| {
        let status = error.downcast_ref::<reqwest::Error>().and_then(reqwest::Error::status);
        match status {
            Some(StatusCode::NOT_FOUND) => Refused(StatusCode::NOT_FOUND, format!("no silence {id}")),
            _ => Refused(StatusCode::SERVICE_UNAVAILABLE, format!("{error:#}")),
        }
    })?;
    console.cluster.after_now().await;
    Ok(Json(json!({})).into_response())
}

/// A schema that somebody would like to register.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Candidate {
    schema: String,
}

/// Whether a schema could be a subject's next version; it is not registered.
pub(super) async fn try_schema(
    State(console): State<Arc<Console>>,
    Path(subject): Path<String>,
    candidate: Result<Json<Candidate>, JsonRejection>,
) -> Result<Response, Refused> {
    let Json(Candidate { schema }) = candidate?;
    let none = || Refused(StatusCode::NOT_FOUND, "this lab has no schema registry".to_owned());
    let registry = console.schemas.as_ref().ok_or_else(none)?;
    let found = registry.incompatibilities(&subject, &schema).await;
    let messages = found.map_err(|error| Refused(StatusCode::BAD_REQUEST, format!("{error:#}")))?;
    Ok(Json(json!({ "compatible": messages.is_empty(), "messages": messages })).into_response())
}
