//! Kafka → Spark → Kafka: what comes out is exactly what the generator says must.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use rdkafka::ClientConfig;
use rdkafka::producer::{BaseProducer, BaseRecord, Producer};
use serde::Deserialize;
use streamlab::clients::http;
use streamlab::clients::kafka::{self, Record};
use streamlab::clients::producer::Order;
use streamlab::clients::scenarios::{self, Aggregates};
use streamlab::probes::{Answer, eventually};
use streamlab::scenarios::Sequence as _;
use streamlab::scenarios::transactions::{
    Cents, DEAD_LETTER_TOPIC, HIGH_VALUE_TOPIC, MerchantTotal, TOPIC, Totals, Transaction, Transactions,
};

use crate::exact::{at_least_once, exactly_once};
use crate::lab::Lab;
use crate::transactions::{matches_ledger, new_run, order, produced, read_run};
use crate::trial::{Chapter, Check, PATIENCE, Trial};

const EVERY: Duration = Duration::from_millis(700);

pub(crate) fn trials(chapter: &Chapter<'_>) -> Vec<Trial> {
    [
        chapter.flow("spark-aggregates", Check::plain(|lab| Box::pin(aggregates(lab)))),
        chapter.flow("high-value-orders", Check::plain(|lab| Box::pin(high_value_orders(lab)))),
        chapter.flow("load-test", Check::plain(|lab| Box::pin(load_test(lab)))),
        chapter.flow(
            "exact-beside-live-producer",
            Check::plain(|lab| Box::pin(exact_beside_live_producer(lab))),
        ),
        chapter.flow("committed-only", Check::plain(|lab| Box::pin(committed_only(lab)))),
    ]
    .into_iter()
    .flatten()
    .collect()
}

/// The newest total of each of a run's merchants in `transaction_aggregates`, and records of them that are no totals.
async fn read_totals(lab: &Lab, run: &str) -> Result<Aggregates> {
    let suffix = format!("-{run}");
    scenarios::aggregates(&lab.bootstrap(), BTreeMap::new(), move |key| key.ends_with(&suffix)).await
}

/// The newest total of each of a run's merchants.
pub(crate) async fn totals_of(lab: &Lab, run: &str) -> Result<BTreeMap<String, MerchantTotal>> {
    let read = read_totals(lab, run).await?;
    if let Some(why) = read.malformed.first() {
        bail!("a record of transaction_aggregates is no total: {why}");
    }
    Ok(read.merchants)
}

/// Waits until Spark's totals of a run are `expected`, and until a record written afterwards has come through as
/// well: by then a record counted twice would show.
pub(crate) async fn totals_come_out(lab: &Lab, run: &str, expected: &Totals) -> Result<()> {
    if expected.merchants.is_empty() {
        bail!("nothing is expected, so nothing would be proven");
    }
    wait_for(lab, run, &expected.merchants).await?;
    let marker = new_run();
    let after = produced(&order(lab, &marker, 30)).await?;
    wait_for(lab, &marker, &after.totals.merchants).await?;
    let settled = totals_of(lab, run).await?;
    if settled != expected.merchants {
        bail!("the totals moved on: expected {:?}, now {settled:?}", expected.merchants);
    }
    Ok(())
}

async fn wait_for(lab: &Lab, run: &str, expected: &BTreeMap<String, MerchantTotal>) -> Result<()> {
    eventually(&format!("Spark's totals of run {run}"), PATIENCE, EVERY, || async {
        let read = read_totals(lab, run).await?;
        if let Some(why) = read.malformed.first() {
            return Ok(Answer::Never(anyhow::anyhow!(
                "a record of transaction_aggregates is no total: {why}"
            )));
        }
        let found = read.merchants;
        let counted = |totals: &BTreeMap<String, MerchantTotal>| {
            totals.values().map(|t| t.transaction_count).sum::<u64>()
        };
        Ok(if found == *expected {
            Answer::Is(())
        } else if counted(&found) > counted(expected) {
            Answer::Never(anyhow::anyhow!("counted {} of {}: {found:?}", counted(&found), counted(expected)))
        } else {
            Answer::NotYet(format!("{} of {} records counted", counted(&found), counted(expected)))
        })
    })
    .await?;
    Ok(())
}

/// The same records twice: in a transaction that is aborted, and in one that is committed.
async fn committed_only(lab: Arc<Lab>) -> Result<String> {
    let run = new_run();
    let sequence = Transactions::new(7, Some(&run));
    let mut expected = Totals::default();
    let records: Vec<Transaction> = (0..20)
        .map(|index| {
            // The largest that the job takes: the sums have more digits than a float holds.
            let amount = Cents(999_999_999_999_999 - u128::from(index));
            Transaction { amount, ..sequence.record(index, 1_700_000_000_000) }
        })
        .collect();
    records.iter().for_each(|record| expected.add(record));
    let bootstrap = lab.bootstrap();
    let id = format!("spec-{run}");
    tokio::task::spawn_blocking(move || {
        let mut config = ClientConfig::new();
        config.set("bootstrap.servers", &bootstrap).set("transactional.id", &id);
        let producer: BaseProducer = config.create()?;
        producer.init_transactions(PATIENCE)?;
        for commits in [false, true] {
            producer.begin_transaction()?;
            for record in &records {
                let value = serde_json::to_vec(record)?;
                let record = BaseRecord::to(TOPIC).key(&record.user_id).payload(&value);
                producer.send(record).map_err(|(error, _)| error)?;
            }
            producer.flush(PATIENCE)?;
            if commits {
                producer.commit_transaction(PATIENCE)?;
            } else {
                producer.abort_transaction(PATIENCE)?;
            }
        }
        anyhow::Ok(())
    })
    .await??;
    totals_come_out(&lab, &run, &expected).await?;
    let twice = high_value_comes_out(&lab, &run, &expected).await?;
    if !twice.is_empty() {
        bail!("written twice: {twice:?}");
    }
    let Ok(app) = lab.endpoints.url("app-service", "api") else { return Ok(String::new()) };
    for (merchant, total) in &expected.merchants {
        let (amount, count) = (total.total_amount, total.transaction_count);
        let seen = format!(r#""aggregate":{{"totalAmount":{amount},"transactionCount":{count}}}"#);
        eventually(&format!("app-service knows {merchant}"), PATIENCE, EVERY, || async {
            let answer = http().get(format!("{app}/merchants/{merchant}")).send().await?.text().await?;
            Ok(if answer.contains(&seen) { Answer::Is(()) } else { Answer::NotYet(answer) })
        })
        .await?;
    }
    Ok(format!("{} records committed, as many aborted", expected.high_value.len()))
}

async fn aggregates(lab: Arc<Lab>) -> Result<String> {
    let run = new_run();
    let ledger = produced(&order(&lab, &run, 300)).await?;
    let dead = malformed(&run);
    let mut written = BTreeMap::new();
    for (value, _) in &dead {
        let at = kafka::write(&lab.bootstrap(), TOPIC, value.as_bytes()).await?;
        written.insert(value.clone(), at);
    }
    totals_come_out(&lab, &run, &ledger.totals).await?;
    dead_letters_come_out(&lab, &run, &dead, &written).await?;
    Ok(format!("{} records, {} malformed", ledger.acknowledged, dead.len()))
}

/// Values that are no transactions, and what the reason must name.
fn malformed(run: &str) -> Vec<(String, &'static str)> {
    let whole = format!(
        r#"{{"transactionId":"x-{run}","userId":"user_1","amount":AMOUNT,"transactionTime":1700000000000,"merchantId":"merchant_1-{run}","location":"location_1","paymentMethod":"paypal","isInternational":true,"currency":"EUR"}}"#
    );
    let amount = |a: &str| whole.replace("AMOUNT", a);
    // Of those that are nearly as large as Kafka takes them, JSON would make more than it takes.
    let of_size = |character: &str| format!("{run} {}", character.repeat(900_000 / character.len()));
    vec![
        (of_size("\""), "JSON"),
        (of_size("\u{1}"), "JSON"),
        (of_size("€"), "JSON"),
        (amount("1").replace("user_1", &"\\".repeat(2_002)), "longer than 1000 characters: userId"),
        (format!("not json {run}"), "JSON"),
        // Not JSON: Spark by itself would take it.
        (amount("1").replace('"', "'"), "not readable: transactionId"),
        (format!(r#"{{"transactionId":"x-{run}"}}"#), "userId"),
        (amount("\"many\""), "amount"),
        (amount("100.005"), "2 places"),
        (amount("-5"), "positive"),
        (whole.replace("\"currency\":\"EUR\"", "\"currency\":null").replace("AMOUNT", "1"), "currency"),
    ]
}

async fn dead_letters_come_out(
    lab: &Lab,
    run: &str,
    dead: &[(String, &str)],
    written: &BTreeMap<String, (i32, i64)>,
) -> Result<()> {
    #[derive(Deserialize)]
    #[serde(deny_unknown_fields, rename_all = "camelCase")]
    struct DeadLetter {
        reason: String,
        partition: i32,
        offset: i64,
        /// Its first 65536 characters.
        value: String,
        /// Of the whole record.
        value_bytes: usize,
    }
    let read = || async {
        let run = run.to_owned();
        let (letters, _) =
            kafka::read_topic(&lab.bootstrap(), DEAD_LETTER_TOPIC, BTreeMap::new(), move |r: Record| {
                let letter: DeadLetter = serde_json::from_slice(r.bytes()).ok()?;
                letter.value.contains(&run).then_some(letter)
            })
            .await?;
        anyhow::Ok(letters)
    };
    let letters = eventually("the malformed records' dead letters", PATIENCE, EVERY, || async {
        let letters = read().await?;
        Ok(if letters.len() >= dead.len() {
            Answer::Is(letters)
        } else {
            Answer::NotYet(format!("{} of {}", letters.len(), dead.len()))
        })
    })
    .await?;
    // Named by where they were read: that a value is long is no reason to print it.
    let place = |(partition, offset): &(i32, i64)| format!("{partition}@{offset}");
    exactly_once(
        "dead letters",
        written.values().map(place),
        letters.iter().map(|l| place(&(l.partition, l.offset))),
    )?;
    for letter in letters {
        let read = (letter.partition, letter.offset);
        let whole = written.iter().find(|(_, at)| **at == read).map(|(value, _)| value);
        let whole = whole.context("compared above")?;
        let (_, names) = dead.iter().find(|(v, _)| v == whole).context("written from it")?;
        if letter.value_bytes != whole.len() || !letter.value.chars().eq(whole.chars().take(65_536)) {
            bail!("{}: of {} bytes there are {}", place(&read), whole.len(), letter.value.len());
        }
        if !letter.reason.contains(names) {
            bail!("{} was refused because {:?}, which does not name {names:?}", place(&read), letter.reason);
        }
    }
    Ok(())
}

/// A high-value record as Spark writes it.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct HighValue {
    pub(crate) merchant_name: Option<String>,
    merchant_category: Option<String>,
    merchant_country: Option<String>,
    #[serde(flatten)]
    rest: serde_json::Map<String, serde_json::Value>,
}

/// The high-value records of a run: id → record, as often as it is there.
pub(crate) async fn high_value_of(lab: &Lab, run: &str) -> Result<Vec<(String, Transaction, HighValue)>> {
    let suffix = format!("-{run}");
    let (records, _) = kafka::read_topic(&lab.bootstrap(), HIGH_VALUE_TOPIC, BTreeMap::new(), move |r| {
        let high: HighValue = serde_json::from_slice(r.bytes()).ok()?;
        let transaction: Transaction = serde_json::from_value(high.rest.clone().into()).ok()?;
        transaction.merchant_id.ends_with(&suffix).then(|| (r.key_text().into_owned(), transaction, high))
    })
    .await?;
    Ok(records)
}

/// Waits until every expected high-value record is there.
pub(crate) async fn high_value_comes_out(
    lab: &Lab,
    run: &str,
    totals: &Totals,
) -> Result<BTreeMap<String, usize>> {
    let expected = &totals.high_value;
    let duplicates = eventually(&format!("high-value records of run {run}"), PATIENCE, EVERY, || async {
        let found = high_value_of(lab, run).await?;
        let ids = found.iter().map(|(key, ..)| key.clone());
        match at_least_once("high-value records", expected.iter().cloned(), ids) {
            Ok(duplicates) => Ok(Answer::Is(duplicates)),
            Err(error) => Ok(Answer::NotYet(format!("{error:#}"))),
        }
    })
    .await?;
    Ok(duplicates)
}

async fn high_value_orders(lab: Arc<Lab>) -> Result<String> {
    let run = new_run();
    let order = order(&lab, &run, 300);
    let ledger = produced(&order).await?;
    high_value_comes_out(&lab, &run, &ledger.totals).await?;
    // By the time that a later run is through, a duplicate of this one would show.
    let marker = new_run();
    let after = produced(&Order { run: Some(marker.clone()), ..order.clone() }).await?;
    high_value_comes_out(&lab, &marker, &after.totals).await?;
    let found = high_value_of(&lab, &run).await?;
    exactly_once(
        "high-value records",
        ledger.totals.high_value.iter().cloned(),
        found.iter().map(|(k, ..)| k.clone()),
    )?;
    let made: BTreeMap<String, Transaction> = read_run(&lab, &ledger, &run)
        .await?
        .into_iter()
        .map(|(_, t)| (t.transaction_id.clone(), t))
        .collect();
    let merchants = reference_table(&lab)?;
    for (key, transaction, high) in &found {
        if key != &transaction.transaction_id || made.get(key) != Some(transaction) {
            bail!("{key}: went in as {:?}, came out as {transaction:?}", made.get(key));
        }
        let base = transaction.merchant_id.split('-').next().unwrap_or_default();
        let row = merchants.get(base).with_context(|| format!("no {base} in merchants.csv"))?;
        let there = [&high.merchant_name, &high.merchant_category, &high.merchant_country];
        if there.iter().zip(row).any(|(a, b)| a.as_deref() != Some(b)) {
            bail!("{key} of {base} was enriched with {there:?}, the table says {row:?}");
        }
    }
    Ok(format!("{} of {} records", found.len(), ledger.acknowledged))
}

/// `jobs/merchants.csv`: id → name, category, country.
fn reference_table(lab: &Lab) -> Result<BTreeMap<String, Vec<String>>> {
    let text = std::fs::read_to_string(lab.project.root.join("jobs/merchants.csv"))?;
    let rows = text.lines().skip(1).map(|line| line.split(',').map(str::to_owned).collect::<Vec<_>>());
    Ok(rows.filter(|r| r.len() == 4).map(|r| (r[0].clone(), r[1..].to_vec())).collect())
}

async fn load_test(lab: Arc<Lab>) -> Result<String> {
    let run = new_run();
    let order = Order { threads: 10, rate: Some(100.0), ..order(&lab, &run, 10_000) };
    let ledger = produced(&order).await?;
    matches_ledger(&ledger, &order, &read_run(&lab, &ledger, &run).await?)?;
    totals_come_out(&lab, &run, &ledger.totals).await?;
    Ok(format!("{} records in {:.1} s", ledger.acknowledged, ledger.seconds))
}

async fn exact_beside_live_producer(lab: Arc<Lab>) -> Result<String> {
    let run = new_run();
    let live = || async {
        let (count, _) = kafka::read_topic(&lab.bootstrap(), TOPIC, BTreeMap::new(), |r| {
            let transaction: Transaction = serde_json::from_slice(r.bytes()).ok()?;
            (!transaction.merchant_id.contains('-')).then_some(())
        })
        .await?;
        anyhow::Ok(count.len())
    };
    let before = live().await?;
    let order = Order { rate: Some(20.0), ..order(&lab, &run, 300) };
    let ledger = produced(&order).await?;
    let meanwhile = live().await? - before;
    if meanwhile == 0 {
        bail!("the lab's own producer wrote nothing meanwhile: nothing would be proven");
    }
    matches_ledger(&ledger, &order, &read_run(&lab, &ledger, &run).await?)?;
    totals_come_out(&lab, &run, &ledger.totals).await?;
    Ok(format!("{} records of the run, {meanwhile} of the live producer meanwhile", ledger.acknowledged))
}
