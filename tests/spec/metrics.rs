//! Metrics: every target is read, what counts moves by exactly what was done, and lag is what Kafka's own tool says.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use rdkafka::ClientConfig;
use rdkafka::consumer::{BaseConsumer, CommitMode, Consumer};
use streamlab::clients::prometheus::Prometheus;
use streamlab::clients::{http, kafka};
use streamlab::probes::{Answer, eventually};
use streamlab::topology::Target;

use crate::kafka::kafka_tool;
use crate::lab::Lab;
use crate::transactions::new_run;
use crate::trial::{Chapter, Check, PATIENCE, Trial, row};

const EVERY: Duration = Duration::from_millis(500);

pub(crate) fn prometheus(lab: &Lab) -> Result<Prometheus> {
    Ok(Prometheus::new(lab.endpoints.url("prometheus", "web")?))
}

pub(crate) fn trials(chapter: &Chapter<'_>) -> Vec<Trial> {
    let flows = [
        chapter.flow("jmx-metrics", Check::plain(|lab| Box::pin(jmx_metrics(lab)))),
        chapter.flow("jvm-memory", Check::plain(|lab| Box::pin(jvm_memory(lab)))),
        chapter.flow("consumer-lag", Check::plain(|lab| Box::pin(consumer_lag(lab)))),
        chapter.flow("app-metrics", Check::plain(|lab| Box::pin(app_metrics(lab)))),
    ];
    // A lab may have services that could be read, and nobody who reads them.
    let read = chapter.plan.service("prometheus").is_some();
    let targets = chapter.plan.targets().into_iter().filter(|_| read).map(|target| {
        let stations = vec![target.instance.clone(), "prometheus".to_owned()];
        let name = format!("target::{}::{}", target.job, target.instance);
        let what = format!("Prometheus reads {} of it", target.path);
        let check = Check::plain(move |lab| Box::pin(is_read(lab, target.clone())));
        row(name, what, stations, false, check)
    });
    flows.into_iter().flatten().chain(targets).collect()
}

async fn is_read(lab: Arc<Lab>, target: Target) -> Result<String> {
    let prometheus = prometheus(&lab)?;
    let up = eventually(&format!("{} is read", target.instance), PATIENCE, EVERY, || async {
        let found = prometheus.targets().await?;
        let is = |t: &&streamlab::clients::prometheus::TargetState| {
            t.labels.get("job") == Some(&target.job) && t.labels.get("instance") == Some(&target.instance)
        };
        let found: Vec<_> = found.iter().filter(is).cloned().collect();
        let found = match found.as_slice() {
            [one] => one,
            [] => return Ok(Answer::NotYet("Prometheus does not know it".to_owned())),
            many => return Ok(Answer::Never(anyhow::anyhow!("{} targets of that name", many.len()))),
        };
        if !found.scrape_url.ends_with(&target.path) {
            let (read, documented) = (&found.scrape_url, &target.path);
            return Ok(Answer::Never(anyhow::anyhow!("{read} is read, documented is {documented}")));
        }
        Ok(if found.health == "up" {
            Answer::Is(found.last_scrape_duration)
        } else {
            Answer::NotYet(format!("{}: {}", found.health, found.last_error))
        })
    })
    .await?;
    let labels = format!("{{job=\"{}\",instance=\"{}\"}}", target.job, target.instance);
    let samples = prometheus.sum(&format!("scrape_samples_scraped{labels}")).await?.unwrap_or_default();
    if samples < 1.0 {
        bail!("it is up and gives nothing");
    }
    Ok(format!("{samples} samples in {:.0} ms", up * 1000.0))
}

/// Waits until an expression's sum is what `is` wants; a failure shows what it was last.
async fn until(prometheus: &Prometheus, expression: &str, is: impl Fn(f64) -> bool) -> Result<f64> {
    let found = eventually(expression, PATIENCE, EVERY, || async {
        Ok(match prometheus.sum(expression).await? {
            Some(value) if is(value) => Answer::Is(value),
            Some(value) => Answer::NotYet(value.to_string()),
            None => Answer::NotYet("no series".to_owned()),
        })
    });
    Ok(found.await?)
}

async fn jmx_metrics(lab: Arc<Lab>) -> Result<String> {
    let prometheus = prometheus(&lab)?;
    let documented = lab.plan.targets().len();
    until(&prometheus, "count(up{job!=\"probe\"} == 1)", |up| up == documented as f64).await?;
    // A topic of its own: nobody else writes there, so the counter must say exactly what is written.
    let topic = format!("metrics-{}", new_run());
    kafka::create_topic(&lab.bootstrap(), &topic, 3).await?;
    const RECORDS: usize = 60;
    for number in 0..RECORDS {
        kafka::write(&lab.bootstrap(), &topic, format!("record {number}").as_bytes()).await?;
    }
    let of_topic =
        |metric: &str| format!("sum(kafka_server_brokertopicmetrics_{metric}{{topic=\"{topic}\"}})");
    let counted = async {
        until(&prometheus, &of_topic("messagesinpersec"), |n| n == RECORDS as f64).await?;
        until(&prometheus, &of_topic("bytesinpersec"), |n| n >= (RECORDS * "record 0".len()) as f64).await
    };
    let counted = counted.await;
    kafka::delete_topic(&lab.bootstrap(), &topic).await?;
    let bytes = counted?;
    until(&prometheus, "sum(kafka_controller_kafkacontroller_activecontrollercount)", |n| n == 1.0).await?;
    until(&prometheus, "count(kafka_controller_kafkacontroller_activecontrollercount)", |n| n == 3.0).await?;
    let latency = "kafka_network_requestmetrics_totaltimems{request=\"Produce\",quantile=\"0.99\"}";
    until(&prometheus, &format!("count({latency} > 0)"), |brokers| brokers == 3.0).await?;
    until(&prometheus, "count(spark_streaming_inputrate{query=~\"aggregates|high_value\"} > 0)", |n| {
        n == 2.0
    })
    .await?;
    until(&prometheus, "count(spark_streaming_processingrate{job=\"transaction-processor\"} > 0)", |n| {
        n == 2.0
    })
    .await?;
    until(&prometheus, "sum(spark_master_aliveworkers)", |workers| workers == 3.0).await?;
    Ok(format!("{documented} targets up; {RECORDS} records counted as {RECORDS}, {bytes} bytes"))
}

async fn jvm_memory(lab: Arc<Lab>) -> Result<String> {
    let prometheus = prometheus(&lab)?;
    let jvms = "kafka-controllers|kafka-brokers|spark-master|spark-workers|transaction-processor";
    let expected: Vec<&str> = lab
        .plan
        .services
        .iter()
        .filter(|s| jvms.split('|').any(|job| job == s.group))
        .map(|s| s.name.as_str())
        .collect();
    for (metric, at_least) in [("jvm_memory_used_bytes", 1_000_000.0), ("jvm_memory_max_bytes", 50_000_000.0)]
    {
        let heap = format!("{metric}{{job=~\"{jvms}\",area=\"heap\"}}");
        until(&prometheus, &format!("count({heap} > {at_least})"), |n| n == expected.len() as f64).await?;
        let mut seen: Vec<String> = prometheus
            .query(&heap)
            .await?
            .into_iter()
            .filter_map(|s| s.labels.get("instance").cloned())
            .collect();
        seen.sort();
        let mut wanted = expected.clone();
        wanted.sort_unstable();
        if seen != wanted {
            bail!("{metric}: of {seen:?}, expected {wanted:?}");
        }
    }
    let executors = "metrics_executor_JVMHeapMemory_bytes{executor_id!=\"driver\"}";
    let heap = until(&prometheus, executors, |bytes| bytes > 1_000_000.0).await?;
    Ok(format!("{} processes by their agents; executors: {:.0} MB of heap", expected.len(), heap / 1e6))
}

/// A consumer in a group of its own that reads when it is told to.
struct Reader {
    consumer: Arc<BaseConsumer>,
}

impl Reader {
    fn new(lab: &Lab, group: &str, topic: &str) -> Result<Self> {
        let consumer: BaseConsumer = ClientConfig::new()
            .set("bootstrap.servers", lab.bootstrap())
            .set("group.id", group)
            .set("enable.auto.commit", "false")
            .set("auto.offset.reset", "earliest")
            .create()?;
        consumer.subscribe(&[topic])?;
        Ok(Self { consumer: Arc::new(consumer) })
    }

    /// Reads so many records and commits them.
    async fn read(&self, records: usize) -> Result<()> {
        let consumer = Arc::clone(&self.consumer);
        tokio::task::spawn_blocking(move || {
            let start = std::time::Instant::now();
            let mut read = 0;
            while read < records {
                if start.elapsed() > PATIENCE {
                    bail!("{read} of {records} records were read");
                }
                if let Some(message) = consumer.poll(Duration::from_millis(200)) {
                    message?;
                    read += 1;
                }
            }
            consumer.commit_consumer_state(CommitMode::Sync)?;
            Ok(())
        })
        .await?
    }
}

async fn consumer_lag(lab: Arc<Lab>) -> Result<String> {
    let prometheus = prometheus(&lab)?;
    let run = new_run();
    let (topic, group) = (format!("lag-{run}"), format!("lag-{run}"));
    kafka::create_topic(&lab.bootstrap(), &topic, 3).await?;
    let write = async |records: usize| -> Result<()> {
        for _ in 0..records {
            kafka::write(&lab.bootstrap(), &topic, b"a record").await?;
        }
        Ok(())
    };
    let lag = format!("sum(kafka_consumergroup_lag{{consumergroup=\"{group}\",topic=\"{topic}\"}})");
    write(30).await?;
    let reader = Reader::new(&lab, &group, &topic)?;
    reader.read(30).await?;
    until(&prometheus, &lag, |n| n == 0.0).await?;
    until(&prometheus, &format!("kafka_consumergroup_members{{consumergroup=\"{group}\"}}"), |n| n == 1.0)
        .await?;
    write(45).await?;
    until(&prometheus, &lag, |n| n == 45.0).await?;
    let ours: BTreeMap<i32, i64> = prometheus
        .query(&format!("kafka_consumergroup_lag{{consumergroup=\"{group}\"}}"))
        .await?
        .iter()
        .map(|s| Ok((s.labels["partition"].parse()?, s.value as i64)))
        .collect::<Result<_>>()?;
    let theirs = by_kafkas_tool(&lab, &group).await?;
    if ours != theirs {
        bail!("lag by partition: the exporter says {ours:?}, kafka-consumer-groups {theirs:?}");
    }
    reader.read(45).await?;
    until(&prometheus, &lag, |n| n == 0.0).await?;
    drop(reader);
    kafka::delete_topic(&lab.bootstrap(), &topic).await?;
    // What has gone is gone from Prometheus too.
    let gone = format!("absent({}) ", lag.trim_start_matches("sum(").trim_end_matches(')'));
    until(&prometheus, &gone, |n| n == 1.0).await?;
    Ok(format!("0, 45, 0; by partition {theirs:?} in both"))
}

/// Partition → lag, as `kafka-consumer-groups --describe` prints it.
async fn by_kafkas_tool(lab: &Lab, group: &str) -> Result<BTreeMap<i32, i64>> {
    let text = kafka_tool(lab, 0, "kafka-consumer-groups.sh", &["--describe", "--group", group]).await?;
    let rows = text.lines().filter(|l| l.starts_with(group)).map(|line| {
        let column = |n: usize| line.split_whitespace().nth(n).with_context(|| format!("{line:?}"));
        Ok((column(2)?.parse()?, column(5)?.parse()?))
    });
    rows.collect()
}

async fn app_metrics(lab: Arc<Lab>) -> Result<String> {
    const REQUESTS: usize = 37;
    const UNKNOWN: usize = 5;
    let prometheus = prometheus(&lab)?;
    let app = lab.endpoints.url("app-service", "api")?;
    let counter = |path: &str, status: u16| {
        format!(
            "sum(http_requests_total{{job=\"app-service\",method=\"GET\",path=\"{path}\",status=\"{status}\"}})"
        )
    };
    let (known, unknown) = (counter("/transactions/latest", 200), counter("/merchants/{id}", 404));
    let before = (
        prometheus.sum(&known).await?.unwrap_or_default(),
        prometheus.sum(&unknown).await?.unwrap_or_default(),
    );
    for _ in 0..REQUESTS {
        http().get(format!("{app}/transactions/latest")).send().await?.error_for_status()?;
    }
    for _ in 0..UNKNOWN {
        let answer = http().get(format!("{app}/merchants/nobody")).send().await?;
        if answer.status() != 404 {
            bail!("an unknown merchant: {}", answer.status());
        }
    }
    until(&prometheus, &known, |n| n == before.0 + REQUESTS as f64).await?;
    until(&prometheus, &unknown, |n| n == before.1 + UNKNOWN as f64).await?;
    // The lab's own producer and consumer count what goes through them.
    for counter in [
        "producer_records_total{outcome=\"acknowledged\"}",
        "producer_delivery_seconds_count",
        "consumer_records_total{topic=\"financial_transactions\"}",
        "consumer_records_total{topic=\"transaction_aggregates\"}",
        "consumer_record_age_seconds_count",
        "http_request_duration_seconds_count{job=\"app-service\"}",
    ] {
        let first = until(&prometheus, counter, |n| n > 0.0).await?;
        until(&prometheus, counter, |n| n > first).await?;
    }
    Ok(format!("{REQUESTS} requests counted as {REQUESTS}, {UNKNOWN} unknown merchants as {UNKNOWN}"))
}
