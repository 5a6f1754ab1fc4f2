//! The console's pages as people see them, in a real browser.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use rdkafka::producer::FutureRecord;
use reqwest::StatusCode;
use reqwest::header::{ACCESS_CONTROL_ALLOW_ORIGIN, ORIGIN};
use serde_json::{Value, json};
use streamlab::clients::schema_registry::{Registered, SchemaRegistry};
use streamlab::clients::{http, kafka};

use crate::browser::{Chromium, Opened};
use crate::console::{TOPIC, console};
use crate::lab::Lab;
use crate::transactions::new_run;
use crate::trial::{Chapter, Check, PATIENCE, Trial};

pub(crate) fn trials(chapter: &Chapter<'_>) -> Vec<Trial> {
    chapter.flow("console", Check::plain(|lab| Box::pin(pages(lab)))).into_iter().collect()
}

async fn pages(lab: Arc<Lab>) -> Result<String> {
    let url = console(&lab)?;
    let run = new_run();
    let script = format!("<img src=x onerror=alert(1)><script>alert('{run}')</script>\u{202e}\u{1b}[31m");
    let producer = lab.producer()?;
    let key = format!("'\"<b>{run}");
    let record = FutureRecord::to(TOPIC).key(&key).payload(&script);
    let at = producer.send(record, Duration::from_secs(10)).await.map_err(|(error, _)| error)?;
    let chromium = Chromium::start(&lab).await?;
    let folder = lab.project.root.join("target/spec/pages");
    let page = chromium.open(&url).await?;
    for (path, name) in [
        ("/", "lab"),
        ("/services/event-producer", "service"),
        ("/faults", "faults"),
        ("/dashboards", "dashboards"),
        ("/schemas", "schemas"),
        ("/topics", "topics"),
        ("/topics/user-events", "topic"),
        (&format!("/topics/{TOPIC}/{}/{}", at.partition, at.offset), "record"),
        ("/groups", "groups"),
        ("/alerts", "alerts"),
        (&format!("/schemas/{}", two_versions(&lab, &run).await?), "schema"),
    ] {
        page.go(&format!("{url}{path}")).await?;
        page.until("document.querySelector('h1') !== null", "true").await?;
        if path == "/" {
            the_lab_is_drawn(&page).await?;
        }
        page.keep(&folder, name).await?;
    }
    // The newest version has one field more than the one before it.
    page.until("document.querySelectorAll('td.came').length > 0", "true").await?;
    let came =
        page.says("[...document.querySelectorAll('td.came')].map((e) => e.textContent).join()").await?;
    if !came.contains("\"more\"") || came.contains("\"userId\"") {
        bail!("the page of two versions shows as new: {came}");
    }
    // As it is it could be the next version; with a field that has no value in older records it could not.
    let answer = "document.querySelector('[data-answer]').textContent";
    page.click("form[data-try] button").await?;
    page.until(answer, "Yes: it is compatible.").await?;
    let changed = "document.querySelector('textarea').value = \
        document.querySelector('textarea').value.replace('\"userId\"', '\"other\"')";
    page.says(changed).await?;
    page.click("form[data-try] button").await?;
    page.until(&format!("{answer}.startsWith('No: ')"), "true").await?;
    // What the record says is text: no element came of it.
    page.go(&format!("{url}/topics/{TOPIC}/{}/{}", at.partition, at.offset)).await?;
    page.until("document.querySelectorAll('main img, main script, main b').length", "0").await?;
    let shown = page.says("document.querySelector('dl.record').textContent").await?;
    if !shown.contains(&format!("<script>alert('{run}')</script>\\u202e\\u001b[31m")) {
        bail!("the record is shown as {shown}");
    }
    follows(&lab, &chromium, &url, &run).await?;
    deleted_meanwhile(&lab, &chromium, &url, &run).await?;
    protobuf_as_a_file(&lab, &url, &run).await?;
    products_answer_their_own_pages(&lab, &chromium).await?;
    page.is_clean(&url)?;
    // A picture that says nothing to who cannot see it would have been found.
    page.says("document.querySelector('main').append(new Image())").await?;
    let found = page.keeps_out().await?;
    if !found.contains("image-alt") {
        bail!("axe does not find a picture without a text: {found}");
    }
    Ok("11 pages, light and dark, in target/spec/pages".to_owned())
}

/// Boxes for who gives and takes data, all up, and what flows on the arrows between them.
async fn the_lab_is_drawn(page: &Opened) -> Result<()> {
    let boxes = "[...document.querySelectorAll('.diagram a')].map((a) => a.getAttribute('href')).join(' ')";
    let boxes = page.says(boxes).await?;
    for group in ["event-producer", "kafka-node", "analytics-consumer", "prometheus"] {
        if !boxes.split(' ').any(|href| href == format!("/services/{group}")) {
            bail!("the picture of the lab has no {group}: {boxes}");
        }
    }
    page.until("document.querySelectorAll('.node.down').length", "0").await?;
    let rate = "[...document.querySelectorAll('.diagram .rate')].filter((e) => parseFloat(e.textContent) > 0).length > 2";
    page.until(rate, "true").await
}

/// A subject of this run with two versions, the second with one field more.
async fn two_versions(lab: &Lab, run: &str) -> Result<String> {
    let registry = SchemaRegistry::new(lab.endpoints.registry_url()?);
    let subject = format!("console-{run}-value");
    let schema = |more: &str| {
        format!(r#"{{"type":"record","name":"Seen","fields":[{{"name":"userId","type":"string"}}{more}]}}"#)
    };
    for more in ["", r#",{"name":"more","type":"long","default":0}"#] {
        match registry.register(&subject, &schema(more)).await? {
            Registered::Id(_) => {}
            Registered::Incompatible(why) => bail!("{subject}: {why}"),
        }
    }
    Ok(subject)
}

/// A record of Protobuf is decoded with the registry's schema, and is a line of the file that the page leads to; no cell of it is a
/// formula.
async fn protobuf_as_a_file(lab: &Lab, url: &str, run: &str) -> Result<()> {
    let schema = r#"syntax = "proto3"; message Seen { int64 id = 1; string user_id = 2; }"#;
    let registered = http()
        .post(format!("{}/subjects/proto-{run}-value/versions", lab.endpoints.registry_url()?))
        .json(&json!({ "schemaType": "PROTOBUF", "schema": schema }));
    let answer: Value = registered.send().await?.error_for_status()?.json().await?;
    let id = u32::try_from(answer["id"].as_u64().context("no id")?)?;
    // A zero, the schema's id, the first message, and 2^63 - 1 with a name.
    let message = [&[0][..], &id.to_be_bytes(), &[0, 8], &[0xff; 8], &[0x7f, 18, 1, b'a']].concat();
    let key = format!("=proto-{run}");
    let record = FutureRecord::to(TOPIC).key(&key).payload(&message);
    lab.producer()?.send(record, Duration::from_secs(10)).await.map_err(|(error, _)| error)?;
    let address = format!("{url}/api/messages/{TOPIC}");
    let query = format!("key=proto-{run}&field=user_id&is=a");
    let found: Value = http().get(format!("{address}?{query}")).send().await?.json().await?;
    let value = &found["messages"][0]["value"];
    if value["text"] != r#"{"id":"9223372036854775807","user_id":"a"}"# || value["kind"] != "decoded" {
        bail!("a record of Protobuf is shown as {found}");
    }
    let file = http().get(format!("{address}/csv?{query}")).send().await?.error_for_status()?.text().await?;
    let cells = format!(r#",'={},"{{""id"":""9223372036854775807"",""user_id"":""a""}}","#, &key[1..]);
    if !file.starts_with("partition,offset,time,key,value,headers\n") || !file.contains(&cells) {
        bail!("the file has no line with {cells}:\n{file}");
    }
    Ok(())
}

/// A script of another page that is open in the same browser reads nothing of Prometheus, and nothing of Alertmanager, which it cannot
/// change either. Alertmanager's own page works.
async fn products_answer_their_own_pages(lab: &Lab, chromium: &Chromium) -> Result<()> {
    let prometheus = lab.endpoints.url("prometheus", "web")?;
    let alertmanager = lab.endpoints.url("alertmanager-front", "web")?;
    for origin in ["http://evil.example", "http://localhost:8000", "null"] {
        let silences = format!("{alertmanager}/api/v2/silences");
        for request in [http().get(&silences), http().post(&silences).json(&json!({}))] {
            let answer = request.header(ORIGIN, origin).send().await?;
            if answer.status() != StatusCode::FORBIDDEN {
                bail!("Alertmanager answers {origin}: {}", answer.status());
            }
        }
        let asked = http().get(format!("{prometheus}/api/v1/query?query=up")).header(ORIGIN, origin);
        let answer = asked.send().await?.error_for_status()?;
        if let Some(allowed) = answer.headers().get(ACCESS_CONTROL_ALLOW_ORIGIN) {
            bail!("Prometheus lets {origin} read: {allowed:?}");
        }
    }
    let page = chromium.open(&alertmanager).await?;
    page.until("[...document.querySelectorAll('a')].some((e) => e.textContent === 'Silences')", "true")
        .await?;
    page.is_clean(&alertmanager)
}

/// A filter narrows; a record that comes is there without loading the page again; a second page hears of it by the first one's stream.
async fn follows(lab: &Lab, chromium: &Chromium, url: &str, run: &str) -> Result<()> {
    let page = chromium.open(&format!("{url}/topics/{TOPIC}")).await?;
    page.write("input[name=key]", &format!("mine-{run}")).await?;
    page.click("form button").await?;
    page.until("location.search.includes('key=mine-')", "true").await?;
    page.until("document.querySelectorAll('[data-records] tr').length", "0").await?;
    page.click("[data-follow]").await?;
    let second = chromium.open(&format!("{url}/topics")).await?;
    let cell = format!("document.querySelector('[data-live=offsets][data-of={TOPIC}]').textContent");
    let before: i64 = second.says(&cell).await?.parse()?;
    let producer = lab.producer()?;
    for number in 0..3 {
        let (key, value) = (format!("mine-{run}"), format!("number {number}"));
        let record = FutureRecord::to(TOPIC).key(&key).payload(&value);
        producer.send(record, Duration::from_secs(10)).await.map_err(|(error, _)| error)?;
    }
    page.until("document.querySelectorAll('[data-records] tr').length", "3").await?;
    let first = "document.querySelector('[data-records] tr td:last-child').textContent";
    page.until(first, "number 2").await?;
    second.until(&format!("Number({cell}) >= {}", before + 3), "true").await?;
    // The page that has the lock listens; the others wait for it, and hear what it passes on.
    let holders = second
        .says("navigator.locks.query().then((l) => `${l.held.length} ${l.pending.length > 0}`)")
        .await?;
    if holders != "1 true" {
        bail!("locks that are held, and whether others wait: {holders}");
    }
    page.is_clean(url)?;
    second.is_clean(url)?;
    fifty(lab, chromium, url).await
}

/// With fifty pages open there is one stream, and each page has the news.
async fn fifty(lab: &Lab, chromium: &Chromium, url: &str) -> Result<()> {
    let mut pages = Vec::new();
    for _ in 0..50 {
        pages.push(chromium.open(&format!("{url}/topics")).await?);
    }
    let locks =
        "navigator.locks.query().then((l) => `${l.held.length} of ${l.held.length + l.pending.length}`)";
    let open = pages[0].says(locks).await?;
    let (held, all) = open.split_once(" of ").context("no locks")?;
    if held != "1" || all.parse::<usize>()? < pages.len() {
        bail!("pages that listen to a stream: {open}");
    }
    let at = format!("Number(document.querySelector('[data-live=offsets][data-of={TOPIC}]').textContent)");
    let known = pages[0].says(&at).await?;
    kafka::write(&lab.bootstrap(), TOPIC, b"one more").await?;
    for page in &pages {
        page.until(&format!("{at} > {known}"), "true").await?;
        page.is_clean(url)?;
    }
    Ok(())
}

/// A topic is deleted while somebody reads what comes in it: the page says so, and says it again when it is loaded again.
async fn deleted_meanwhile(lab: &Lab, chromium: &Chromium, url: &str, run: &str) -> Result<()> {
    let topic = format!("console-open-{run}");
    kafka::create_topic(&lab.bootstrap(), &topic, 1).await?;
    let page = chromium.open(&format!("{url}/topics/{topic}")).await?;
    page.click("[data-follow]").await?;
    kafka::write(&lab.bootstrap(), &topic, b"seen").await?;
    page.until("document.querySelectorAll('[data-records] tr').length", "1").await?;
    kafka::delete_topic(&lab.bootstrap(), &topic).await?;
    page.until("document.querySelector('[data-news]').textContent", "The topic is not there any more.")
        .await?;
    page.is_clean(url)?;
    let again = http().get(format!("{url}/topics/{topic}")).timeout(PATIENCE).send().await?;
    let (status, text) = (again.status(), again.text().await?);
    if status != StatusCode::NOT_FOUND || !text.contains(&topic) {
        bail!("the page of a deleted topic: {status} {text}");
    }
    Ok(())
}
