//! Elasticsearch → the console's page of log records, in a real browser.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Result, bail};
use rdkafka::producer::FutureRecord;
use reqwest::StatusCode;
use serde_json::json;
use streamlab::clients::http;

use crate::browser::Chromium;
use crate::console::console;
use crate::lab::Lab;
use crate::log_records::DEV;
use crate::transactions::new_run;
use crate::trial::{Chapter, Check, Trial};

const RECORDS: usize = 3;

pub(crate) fn trials(chapter: &Chapter<'_>) -> Vec<Trial> {
    chapter.flow("console-logs", Check::plain(|lab| Box::pin(page(lab)))).into_iter().collect()
}

async fn page(lab: Arc<Lab>) -> Result<String> {
    let (url, run) = (console(&lab)?, new_run());
    let chromium = Chromium::start(&lab).await?;
    let page = chromium.open(&format!("{url}/logs?q=run:{run}&from=now-5m")).await?;
    page.until("document.querySelector('[data-panel=\"2\"]').dataset.kind", "nothing").await?;
    write(&lab, &run).await?;
    // They come without loading the page again.
    page.until("document.querySelectorAll('[data-panel=\"2\"] a').length", &RECORDS.to_string()).await?;
    let bars = "[...document.querySelectorAll('[data-panel=\"1\"] tbody tr')].map((row) => row.textContent).join()";
    page.until(bars, &format!("ERROR{RECORDS}{RECORDS}")).await?;
    page.keep(&lab.project.root.join("target/spec/pages"), "logs").await?;
    // A value that is followed narrows the query, and all of it is in the address.
    page.says("[...document.querySelectorAll('[data-panel=\"3\"] a')].find((a) => a.textContent === 'shop-2').click()").await?;
    page.until("new URLSearchParams(location.search).get('q')", &format!("(run:{run}) AND service:\"shop-2\"")).await?;
    page.until("document.querySelectorAll('[data-panel=\"2\"] a').length", "1").await?;
    // One, whole: what it says is text.
    page.click("[data-panel=\"2\"] a").await?;
    page.until("document.querySelector('h1').textContent", "A log record").await?;
    page.until("document.querySelectorAll('main img').length", "0").await?;
    let whole = page.says("document.querySelector('dl.record').textContent").await?;
    if !whole.contains(&format!("<img src=x onerror=alert(1)> record 2 of {run}")) {
        bail!("the record is shown as {whole}");
    }
    page.is_clean(&url)?;
    refused(&url).await?;
    Ok(format!("{RECORDS} records of run {run}"))
}

async fn write(lab: &Lab, run: &str) -> Result<()> {
    let producer = lab.producer()?;
    let now = time::OffsetDateTime::now_utc().format(&time::format_description::well_known::Rfc3339)?;
    for number in 0..RECORDS {
        let message = format!("<img src=x onerror=alert(1)> record {number} of {run}");
        let record = json!({ "timestamp": now, "level": "error", "service": format!("shop-{number}"), "message": message, "run": run });
        let record = record.to_string();
        let record = FutureRecord::<str, _>::to(DEV.topic).payload(&record);
        producer.send(record, Duration::from_secs(30)).await.map_err(|(error, _)| error)?;
    }
    Ok(())
}

/// What cannot be asked is refused with its reason, and other indices are not looked into.
async fn refused(url: &str) -> Result<()> {
    for (path, status, why) in [
        ("/api/logs?q=level:(", StatusCode::BAD_REQUEST, "Failed to parse query"),
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
