//! The console's pages as people see them, in a real browser.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Result, bail};
use rdkafka::producer::FutureRecord;
use streamlab::clients::schema_registry::{Registered, SchemaRegistry};

use crate::browser::{Chromium, Opened};
use crate::console::{TOPIC, console};
use crate::lab::Lab;
use crate::transactions::new_run;
use crate::trial::{Chapter, Check, Trial};

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
    page.is_clean(&url)?;
    // A picture that says nothing to who cannot see it would have been found.
    page.says("document.querySelector('main').append(new Image())").await?;
    let found = page.keeps_out().await?;
    if !found.contains("image-alt") {
        bail!("axe does not find a picture without a text: {found}");
    }
    Ok("9 pages, light and dark, in target/spec/pages".to_owned())
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
    second.is_clean(url)
}
