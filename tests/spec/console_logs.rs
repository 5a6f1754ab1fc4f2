//! Elasticsearch → the console's page of log records, in a real browser.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Result, bail};
use rdkafka::producer::{FutureProducer, FutureRecord};
use reqwest::StatusCode;
use serde_json::{Value, json};
use streamlab::clients::http;
use streamlab::probes::{Answer, eventually};

use crate::browser::Chromium;
use crate::console::console;
use crate::drawn::token;
use crate::lab::Lab;
use crate::log_records::DEV;
use crate::transactions::new_run;
use crate::trial::{Chapter, Check, PATIENCE, Trial};

const RECORDS: usize = 3;
/// Large records, and the letters that each has more than others.
const MANY: usize = 60;
const LARGE: usize = 300_000;
const EVERY: Duration = Duration::from_millis(500);

pub(crate) fn trials(chapter: &Chapter<'_>) -> Vec<Trial> {
    chapter.flow("console-logs", Check::plain(|lab| Box::pin(page(lab)))).into_iter().collect()
}

async fn page(lab: Arc<Lab>) -> Result<String> {
    let (url, run) = (console(&lab)?, new_run());
    let chromium = Chromium::start(&lab).await?;
    let page = chromium.open(&format!("{url}/logs?q=run:{run}&from=now-5m")).await?;
    page.until("document.querySelector('[data-panel=\"2\"]').dataset.kind", "nothing").await?;
    let producer = lab.producer()?;
    for number in 0..RECORDS {
        write(&producer, &run, number, "").await?;
    }
    // They come without loading the page again.
    page.until("document.querySelectorAll('[data-panel=\"2\"] a').length", &RECORDS.to_string()).await?;
    // Counted over time: in all so many, of one level.
    let bars = "[...document.querySelectorAll('[data-panel=\"1\"] tbody tr')].map((row) => `${row.cells[0].textContent} ${row.cells[1].textContent}`).join()";
    page.until(bars, &format!("ERROR {RECORDS}")).await?;
    page.keep(&lab.project.root.join("target/spec/pages"), "logs").await?;
    // A value that is followed narrows the query, and all of it is in the address.
    page.says("[...document.querySelectorAll('[data-panel=\"3\"] a')].find((a) => a.textContent === 'shop-2').click()").await?;
    page.until(
        "new URLSearchParams(location.search).get('q')",
        &format!("(run:{run}) AND service:\"shop-2\""),
    )
    .await?;
    page.until("document.querySelectorAll('[data-panel=\"2\"] a').length", "1").await?;
    // One, whole: what it says is text.
    page.click("[data-panel=\"2\"] a").await?;
    page.until("document.querySelector('h1').textContent", "A log record").await?;
    page.keep(&lab.project.root.join("target/spec/pages"), "log-record").await?;
    page.until("document.querySelectorAll('main img').length", "0").await?;
    let whole = page.says("document.querySelector('dl.record').textContent").await?;
    if !whole.contains(&format!("<img src=x onerror=alert(1)> record 2 of {run}")) {
        bail!("the record is shown as {whole}");
    }
    page.is_clean(&url)?;
    refused(&url).await?;
    large(&producer, &url).await?;
    Ok(format!("{RECORDS} records of run {run}"))
}

async fn write(producer: &FutureProducer, run: &str, number: usize, more: &str) -> Result<()> {
    let now = time::OffsetDateTime::now_utc().format(&time::format_description::well_known::Rfc3339)?;
    let message = format!("<img src=x onerror=alert(1)> record {number} of {run}{more}");
    let service = format!("shop-{number}");
    let record =
        json!({ "timestamp": now, "level": "error", "service": service, "message": message, "run": run });
    let record = record.to_string();
    let record = FutureRecord::<str, _>::to(DEV.topic).payload(&record);
    producer.send(record, Duration::from_secs(30)).await.map_err(|(error, _)| error)?;
    Ok(())
}

/// More than the console has memory for: its lines show a part of each message, and it goes on.
async fn large(producer: &FutureProducer, url: &str) -> Result<()> {
    let (run, more, before) = (new_run(), "x".repeat(LARGE), token(url).await?);
    for number in 0..MANY {
        write(producer, &run, number, &more).await?;
    }
    let address = format!("{url}/api/logs?q=run:{run}");
    eventually(&format!("{MANY} large records are found"), PATIENCE, EVERY, || async {
        let answer: Value = http().get(&address).timeout(PATIENCE).send().await?.json().await?;
        let lines = answer["panels"][1]["lines"].as_array().cloned().unwrap_or_default();
        if let Some(line) =
            lines.iter().find(|line| line["message"].as_str().is_none_or(|m| m.chars().count() > 2001))
        {
            return Ok(Answer::Never(anyhow::anyhow!("a line has {} bytes", line.to_string().len())));
        }
        // All are counted, and the newest of them shown.
        let found = answer["panels"][1]["found"].as_str().unwrap_or("none").to_owned();
        let shown = (1..MANY).contains(&lines.len());
        Ok(if found == MANY.to_string() && shown { Answer::Is(()) } else { Answer::NotYet(found) })
    })
    .await?;
    if before != token(url).await? {
        bail!("the console was started anew");
    }
    Ok(())
}

/// What cannot be asked is refused with its reason, and other indices are not looked into.
async fn refused(url: &str) -> Result<()> {
    // Elasticsearch itself ends of one that is deep.
    let (deep, long) =
        (format!("/api/logs?q={}", "(".repeat(101)), format!("/api/logs?q={}", "x".repeat(2001)));
    for (path, status, why) in [
        ("/api/logs?q=level:(", StatusCode::BAD_REQUEST, "Failed to parse query"),
        (&deep, StatusCode::BAD_REQUEST, "too long"),
        (&long, StatusCode::BAD_REQUEST, "too long"),
        ("/logs?from=x", StatusCode::BAD_REQUEST, "now-15m"),
        ("/logs/dev-logs-index/..", StatusCode::NOT_FOUND, "no"),
        ("/api/logs?in=*", StatusCode::BAD_REQUEST, "no place to look at"),
        ("/api/logs?from=yesterday", StatusCode::BAD_REQUEST, "no time"),
        ("/logs/.kibana/1", StatusCode::NOT_FOUND, "has no log records"),
        ("/logs/dev-logs-index/none", StatusCode::NOT_FOUND, "has no record none"),
    ] {
        let answer = http().get(format!("{url}{path}")).send().await?;
        let (found, text) = (answer.status(), answer.text().await?);
        if found != status || !text.contains(why) || text.contains("http://es-") {
            bail!("{path} is answered {found}: {text}");
        }
    }
    Ok(())
}
