//! The consumer against a lab: it must find exactly what was written.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::collections::BTreeMap;

use own_consumer::{Sales, sales_by_merchant};
use streamlab::Lab;
use streamlab::clients::producer::{Acks, Order};
use streamlab::clients::scenarios::Scenario;
use streamlab::scenarios::transactions::{TOPIC, Transactions};

#[tokio::test(flavor = "multi_thread")]
async fn it_finds_what_was_written() -> anyhow::Result<()> {
    // Kafka, the registry and the topics; `Lab::start("transactions")` would bring up Spark and the monitoring too.
    let lab = Lab::builder("transactions").only(&["lab-setup"]).start().await?;
    let bootstrap = lab.endpoints().bootstrap();

    // Merchants of this run alone: with LAB_ATTACH the lab may have other records.
    let run = uuid::Uuid::new_v4().simple().to_string();
    let order = Order {
        bootstrap: bootstrap.clone(),
        acks: Acks::All,
        count: Some(2000),
        run: Some(run.clone()),
        ..Order::default()
    };
    let written = Scenario::Transactions.write(&order).await?;
    assert_eq!(written.acknowledged, 2000, "{:?}", written.failed);

    let mut found = tokio::task::spawn_blocking(move || sales_by_merchant(&bootstrap, TOPIC)).await??;
    found.retain(|merchant, _| merchant.ends_with(&run));

    // The totals follow from the generator's seed, not from what was read.
    let known = Transactions::new(order.seed, Some(&run)).totals(2000).merchants;
    let known: BTreeMap<String, Sales> = known
        .into_iter()
        .map(|(merchant, total)| {
            (
                merchant,
                Sales { count: total.transaction_count, cents: u64::try_from(total.total_amount.0).unwrap() },
            )
        })
        .collect();
    assert_eq!(known.len(), 3);
    assert_eq!(found, known);
    lab.stop().await
}
