//! Kafka → Spark → Elasticsearch: what is in the indices is exactly what the generator says must, also when a batch is done again.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, bail};
use rdkafka::producer::{FutureProducer, FutureRecord};
use serde_json::{Value, json};
use streamlab::clients::elasticsearch::Document;
use streamlab::clients::http;
use streamlab::probes::{Answer, eventually};
use streamlab::scenarios::Sequence as _;
use streamlab::scenarios::transactions::{Cents, MerchantTotal, TOPIC, Totals, Transaction, Transactions};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use crate::exact::exactly_once;
use crate::lab::Lab;
use crate::log_lines::{EVERY, elasticsearch};
use crate::transactions::{new_run, order, produced};
use crate::trial::{Chapter, Check, PATIENCE, Trial};

const AGGREGATES: &str = "transaction-aggregates";
const HIGH_VALUE: &str = "high-value-transactions";
const SUSPICIOUS: &str = "suspicious-users";
/// The service that writes them.
const JOBS: &str = "search-jobs";
/// Length of a window in milliseconds, and from how many transactions in one on a user is suspicious.
const WINDOW_MS: i64 = 10_000;
const FROM: i64 = 10;

pub(crate) fn trials(chapter: &Chapter<'_>) -> Vec<Trial> {
    [
        chapter.flow("spark-elasticsearch", Check::plain(|lab| Box::pin(written(lab)))),
        chapter.flow("spark-elasticsearch-again", Check::plain(|lab| Box::pin(done_again(lab)))),
        chapter.flow("spark-history", Check::plain(|lab| Box::pin(history(lab)))),
        chapter.flow("log-counts", Check::plain(|lab| Box::pin(log_counts(lab)))),
        chapter.flow("suspicious-users", Check::plain(|lab| Box::pin(suspicious(lab)))),
    ]
    .into_iter()
    .flatten()
    .collect()
}

async fn of_run(lab: &Lab, index: &str, run: &str) -> Result<Vec<Document>> {
    let query = json!({ "wildcard": { "merchantId": format!("*-{run}") } });
    elasticsearch(lab)?.documents(index, &query).await
}

/// A run's totals by merchant, as the documents say.
async fn totals_of(lab: &Lab, run: &str) -> Result<BTreeMap<String, MerchantTotal>> {
    let documents = of_run(lab, AGGREGATES, run).await?.into_iter();
    let totals = documents.map(|document| {
        let total: MerchantTotal = serde_json::from_value(json!({
            "transactionCount": document.source["transactionCount"], "totalAmount": document.source["totalAmount"],
        }))?;
        if document.source["merchantId"] != document.id {
            bail!("{} is of another merchant: {}", document.id, document.source);
        }
        Ok((document.id, total))
    });
    totals.collect()
}

/// Waits until the indices have what is expected of a run; then each document is there once.
async fn come_out(lab: &Lab, run: &str, expected: &Totals) -> Result<()> {
    eventually(&format!("totals of run {run} in {AGGREGATES}"), PATIENCE, EVERY, || async {
        let found = totals_of(lab, run).await?;
        let counted = |totals: &BTreeMap<String, MerchantTotal>| {
            totals.values().map(|t| t.transaction_count).sum::<u64>()
        };
        let seen = format!("{} of {} records counted", counted(&found), counted(&expected.merchants));
        Ok(match () {
            () if found == expected.merchants => Answer::Is(()),
            () if counted(&found) > counted(&expected.merchants) => Answer::Never(anyhow::anyhow!("{seen}")),
            () => Answer::NotYet(seen),
        })
    })
    .await?;
    let wanted = expected.high_value.len();
    let found =
        eventually(&format!("{wanted} documents of run {run} in {HIGH_VALUE}"), PATIENCE, EVERY, || async {
            let found = of_run(lab, HIGH_VALUE, run).await?;
            Ok(if found.len() >= wanted {
                Answer::Is(found)
            } else {
                Answer::NotYet(found.len().to_string())
            })
        })
        .await?;
    exactly_once(HIGH_VALUE, expected.high_value.iter().cloned(), found.iter().map(|d| d.id.clone()))?;
    for document in &found {
        let source = &document.source;
        if source["transactionId"] != document.id || !source["merchantName"].is_string() {
            bail!("{}: {source}", document.id);
        }
    }
    Ok(())
}

async fn written(lab: Arc<Lab>) -> Result<String> {
    let run = new_run();
    let ledger = produced(&order(&lab, &run, 600)).await?;
    come_out(&lab, &run, &ledger.totals).await?;
    // By the time that a later run is through, a record counted twice would show.
    let marker = new_run();
    let after = produced(&order(&lab, &marker, 30)).await?;
    come_out(&lab, &marker, &after.totals).await?;
    come_out(&lab, &run, &ledger.totals).await?;
    long_id(&lab).await?;
    Ok(format!("{} records, {} of high value", ledger.acknowledged, ledger.totals.high_value.len()))
}

/// Elasticsearch takes ids of 512 bytes, and the job texts of 1000 characters: the document is there, under another id.
async fn long_id(lab: &Lab) -> Result<()> {
    let run = new_run();
    let record = Transaction {
        transaction_id: format!("{}-{run}", "long".repeat(200)),
        amount: Cents(14_000_000),
        ..Transactions::new(1, Some(&run)).record(0, 1_700_000_000_000)
    };
    let value = serde_json::to_string(&record)?;
    let sent = FutureRecord::to(TOPIC).key(&record.user_id).payload(&value);
    lab.producer()?.send(sent, Duration::from_secs(30)).await.map_err(|(error, _)| error)?;
    let found = eventually("a document with a long id", PATIENCE, EVERY, || async {
        let found = of_run(lab, HIGH_VALUE, &run).await?.pop();
        Ok(found.map_or(Answer::NotYet("none".to_owned()), Answer::Is))
    })
    .await?;
    if found.source["transactionId"] != record.transaction_id || found.id.len() != 64 {
        bail!("{}: {}", found.id, found.source);
    }
    Ok(())
}

/// The state that a kill between a batch's write and its commit leaves: the documents are there, the commit is not.
async fn done_again(lab: Arc<Lab>) -> Result<String> {
    const FORGET: &str = "for query in search_aggregates search_high_value; do \
         last=$(ls /mnt/spark-checkpoints/$query/commits | sort -n | tail -n 1); \
         rm /mnt/spark-checkpoints/$query/commits/$last; echo $query $last; done";
    let run = new_run();
    let first = produced(&order(&lab, &run, 300)).await?;
    come_out(&lab, &run, &first.totals).await?;
    let worker = lab.names_of("spark-workers").into_iter().next().context("no worker")?;
    let mut second = order(&lab, &new_run(), 200);
    second.seed = 43;
    let (ledger, forgotten) = lab
        .while_killed(&[JOBS], async {
            let forgotten = lab.exec(&worker, &["sh", "-ec", FORGET]).await?;
            Ok((produced(&second).await?, forgotten))
        })
        .await?;
    let run_of_second = second.run.clone().unwrap_or_default();
    come_out(&lab, &run_of_second, &ledger.totals).await?;
    come_out(&lab, &run, &first.totals).await?;
    let batches: Vec<&str> = forgotten.lines().collect();
    if batches.len() != 2 {
        bail!("no commit was there to be forgotten: {forgotten:?}");
    }
    for batch in &batches {
        let (query, number) = batch.split_once(' ').with_context(|| batch.to_string())?;
        let file = format!("/mnt/spark-checkpoints/{query}/commits/{number}");
        // The batch was done again under its number.
        lab.exec(&worker, &["test", "-s", &file]).await?;
    }
    Ok(format!("done again: {}", batches.join(", ")))
}

async fn history(lab: Arc<Lab>) -> Result<String> {
    let base = lab.endpoints.url("spark-history", "ui")?;
    let get = async |path: &str| -> Result<Vec<Value>> {
        let answer =
            http().get(format!("{base}/api/v1/applications{path}")).send().await?.error_for_status()?;
        Ok(answer.json().await?)
    };
    let mut notes = Vec::new();
    for name in ["FinancialTransactionProcessor", "SearchJobs"] {
        let (jobs, executors) = eventually(&format!("jobs of {name}"), PATIENCE, EVERY, || async {
            let applications = get("").await?;
            let Some(found) = applications.iter().find(|a| a["name"] == name) else {
                return Ok(Answer::NotYet(format!("{} applications", applications.len())));
            };
            let id = found["id"].as_str().context("an application without an id")?;
            let done = get(&format!("/{id}/jobs?status=succeeded")).await?.len();
            let executors = get(&format!("/{id}/executors")).await?;
            let executors = executors.iter().filter(|e| e["id"] != "driver").count();
            let seen = format!("{done} jobs, {executors} executors");
            Ok(if done > 0 && executors > 0 { Answer::Is((done, executors)) } else { Answer::NotYet(seen) })
        })
        .await?;
        notes.push(format!("{name}: {jobs} jobs, {executors} executors"));
    }
    Ok(notes.join("; "))
}

/// Transactions of one user at given times.
struct Burst {
    user: String,
    run: String,
    sequence: Transactions,
    made: u64,
}

impl Burst {
    fn new(name: &str, run: &str) -> Self {
        let user = format!("{name}-{run}");
        let sequence = Transactions::new(11, Some(&user));
        Self { user, run: run.to_owned(), sequence, made: 0 }
    }

    async fn write(&mut self, producer: &FutureProducer, times: impl IntoIterator<Item = i64>) -> Result<()> {
        for time in times {
            let record = Transaction {
                user_id: self.user.clone(),
                merchant_id: format!("merchant_1-{}", self.run),
                amount: Cents(6_000_000),
                ..self.sequence.record(self.made, time)
            };
            self.made += 1;
            let value = serde_json::to_string(&record)?;
            let record = FutureRecord::to(TOPIC).key(&self.user).payload(&value);
            producer.send(record, Duration::from_secs(30)).await.map_err(|(error, _)| error)?;
        }
        Ok(())
    }
}

/// So many times within a window.
fn within(window: i64, count: i64) -> impl Iterator<Item = i64> {
    (0..count).map(move |number| window + number * WINDOW_MS / count)
}

async fn suspicious(lab: Arc<Lab>) -> Result<String> {
    let producer = lab.producer()?;
    let run = new_run();
    let now = i64::try_from(SystemTime::now().duration_since(UNIX_EPOCH)?.as_millis())?;
    let window = (now - 120_000) / WINDOW_MS * WINDOW_MS;
    let (mut many, mut few, mut too_late) =
        (Burst::new("many", &run), Burst::new("few", &run), Burst::new("late", &run));
    let (mut ahead, mut marker) = (Burst::new("ahead", &run), Burst::new("marker", &run));
    // One less than it takes, in two windows; and many, all in good time.
    few.write(&producer, within(window, FROM - 1)).await?;
    few.write(&producer, within(window + WINDOW_MS, FROM - 1)).await?;
    many.write(&producer, within(window, FROM - 2)).await?;
    // An hour ahead of the clock: counted by nobody, and the watermark stays where it is.
    ahead.write(&producer, within(window + 3_600_000, FROM + 5)).await?;
    // No calendar has these, and the query goes on.
    ahead.write(&producer, [i64::MAX, i64::MIN]).await?;
    // Of now: the watermark is at ten minutes ago.
    marker.write(&producer, within(window + 6 * WINDOW_MS, FROM)).await?;
    await_windows(&lab, &marker.user, &[(window + 6 * WINDOW_MS, FROM)]).await?;
    // Late, but within ten minutes; and an hour late.
    many.write(&producer, within(window, 5)).await?;
    too_late.write(&producer, within(window - 3_600_000, FROM + 5)).await?;
    await_windows(&lab, &many.user, &[(window, FROM + 3)]).await?;
    // By the time that a later window is there, a document too many would show.
    let mut last = Burst::new("last", &run);
    last.write(&producer, within(window + 7 * WINDOW_MS, FROM + 1)).await?;
    await_windows(&lab, &last.user, &[(window + 7 * WINDOW_MS, FROM + 1)]).await?;
    for (burst, expected) in [(&many, 1), (&few, 0), (&too_late, 0), (&ahead, 0)] {
        let found = windows_of(&lab, &burst.user).await?;
        if found.len() != expected {
            bail!("{}: {} suspicious windows, not {expected}: {found:?}", burst.user, found.len());
        }
    }
    Ok(format!(
        "{} of one user in 10 s, 5 of them late; none of {} and {}",
        FROM + 3,
        few.user,
        too_late.user
    ))
}

/// Begin → count, sum of a user's suspicious windows.
async fn windows_of(lab: &Lab, user: &str) -> Result<BTreeMap<i64, (i64, Value)>> {
    let documents = elasticsearch(lab)?.documents(SUSPICIOUS, &json!({ "term": { "userId": user } })).await?;
    let windows = documents.into_iter().map(|document| {
        let number = |field: &str| document.source[field].as_i64().with_context(|| format!("no {field}"));
        let (begin, end) = (number("windowStart")?, number("windowEnd")?);
        if document.id != format!("{user}@{begin}") || end - begin != WINDOW_MS {
            bail!("{}: {}", document.id, document.source);
        }
        Ok((begin, (number("transactionCount")?, document.source["totalAmount"].clone())))
    });
    windows.collect()
}

async fn await_windows(lab: &Lab, user: &str, expected: &[(i64, i64)]) -> Result<()> {
    let expected: BTreeMap<i64, (i64, Value)> =
        expected.iter().map(|(begin, count)| (*begin, (*count, json!(60_000.0 * *count as f64)))).collect();
    eventually(&format!("suspicious windows of {user}"), PATIENCE, EVERY, || async {
        let found = windows_of(lab, user).await?;
        Ok(if found == expected { Answer::Is(()) } else { Answer::NotYet(format!("{found:?}")) })
    })
    .await?;
    Ok(())
}

/// Environment, service, level and begin of the window → how many.
type LogCounts = BTreeMap<(String, String, String, i64), i64>;

async fn log_counts(lab: Arc<Lab>) -> Result<String> {
    let producer = lab.producer()?;
    let run = new_run();
    let now = i64::try_from(SystemTime::now().duration_since(UNIX_EPOCH)?.as_millis())?;
    let window = (now - 120_000) / WINDOW_MS * WINDOW_MS;
    let mut expected = LogCounts::new();
    // In two windows; then a third of them again, late, into the first.
    let times =
        (0..300).map(|number| window + number % 20 * 1000).chain((0..100).map(|number| window + number * 90));
    for (number, time) in times.enumerate() {
        let (environment, topic) =
            if number % 3 == 0 { ("prod", "prod-logs-topic") } else { ("dev", "logs-topic") };
        let level = ["info", "ERROR", "Warn"][number % 7 % 3];
        let service = format!("service-{}-{run}", number % 4);
        let at = OffsetDateTime::from_unix_timestamp_nanos(i128::from(time) * 1_000_000)?.format(&Rfc3339)?;
        let record =
            json!({ "timestamp": at, "level": level, "service": service, "message": "counted" }).to_string();
        let sent = FutureRecord::to(topic).key(&service).payload(&record);
        producer.send(sent, Duration::from_secs(30)).await.map_err(|(error, _)| error)?;
        let key = (environment.to_owned(), service, level.to_uppercase(), time / WINDOW_MS * WINDOW_MS);
        *expected.entry(key).or_default() += 1;
    }
    // Names that are the same text when they are joined by a sign, whatever sign that is.
    for (service, level, count) in [(format!("x-{run}"), "A", 3), (format!("x\",\"A-{run}"), "A", 2)] {
        for _ in 0..count {
            let at = OffsetDateTime::from_unix_timestamp_nanos(i128::from(window) * 1_000_000)?
                .format(&Rfc3339)?;
            let record = json!({ "timestamp": at, "level": level, "service": service }).to_string();
            let sent = FutureRecord::to("logs-topic").key(&service).payload(&record);
            producer.send(sent, Duration::from_secs(30)).await.map_err(|(error, _)| error)?;
        }
        expected.insert(("dev".to_owned(), service, level.to_owned(), window), count);
    }
    // What says no time, or no service or level that could be one, is not counted, and ends nothing.
    let at = OffsetDateTime::now_utc().format(&Rfc3339)?;
    let too_long =
        json!({ "timestamp": at, "level": "INFO", "service": format!("{}-{run}", "L".repeat(600)) });
    let no_word = json!({ "timestamp": at, "level": { "a": 1 }, "service": format!("odd-{run}") });
    for odd in [
        &too_long.to_string(),
        &no_word.to_string(),
        "no JSON",
        "{\"level\":\"INFO\",\"service\":\"x\"}",
        "{\"timestamp\":\"soon\",\"level\":\"INFO\",\"service\":\"x\"}",
    ] {
        let sent = FutureRecord::<str, str>::to("logs-topic").payload(odd);
        producer.send(sent, Duration::from_secs(30)).await.map_err(|(error, _)| error)?;
    }
    let query = json!({ "wildcard": { "service": format!("*-{run}") } });
    eventually(&format!("counts of run {run}"), PATIENCE, EVERY, || async {
        let documents = elasticsearch(&lab)?.documents("log-counts", &query).await?;
        let found = documents.iter().map(|document| {
            let text = |field: &str| document.source[field].as_str().unwrap_or_default().to_owned();
            let number = |field: &str| document.source[field].as_i64().context("no number");
            let key = (text("environment"), text("service"), text("level"), number("windowStart")?);
            let id = json!([key.0, key.1, key.2, key.3.to_string()]).to_string();
            if document.id != id {
                bail!("{}: {}", document.id, document.source);
            }
            Ok((key, number("records")?))
        });
        let found: LogCounts = found.collect::<Result<_>>()?;
        let too_many =
            found.iter().find(|(key, count)| expected.get(*key).is_none_or(|wanted| *count > wanted));
        Ok(match too_many {
            Some(of) => Answer::Never(anyhow::anyhow!("counted too often: {of:?}")),
            None if found == expected => Answer::Is(()),
            None => Answer::NotYet(format!(
                "{} of {} records",
                found.values().sum::<i64>(),
                expected.values().sum::<i64>()
            )),
        })
    })
    .await?;
    Ok(format!("{} records in {} counts", expected.values().sum::<i64>(), expected.len()))
}
