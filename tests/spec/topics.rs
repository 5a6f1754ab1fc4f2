//! The topics table: each topic is there, with its partitions, replicas and settings; and none of a lab that runs beside.

use std::collections::BTreeSet;
use std::sync::Arc;

use anyhow::{Context as _, Result, bail};
use serde_json::Value;
use streamlab::clients::{http, kafka};
use streamlab::topology::{Instance, KAFKA, TopicPlan};

use crate::lab::Lab;
use crate::trial::{Chapter, Check, Holds, Kind, Trial, row};

pub(crate) fn trials(chapter: &Chapter<'_>) -> Vec<Trial> {
    let topics = chapter.plan.topics.iter().map(|topic| {
        let what =
            format!("{} partitions, {} replicas, {:?}", topic.partitions, topic.replicas, topic.config);
        let stations = vec!["lab-setup".to_owned()];
        let wanted = topic.clone();
        let check = Check::plain(move |lab| {
            let wanted = wanted.clone();
            Box::pin(async move { is_as_documented(lab, wanted).await })
        });
        row(format!("topic::{}", topic.name), what, stations, false, check)
    });
    let in_redpandas = chapter.flow("redpanda-console", Check::plain(|lab| Box::pin(in_redpandas(lab))));
    topics.chain(apart(chapter)).chain(in_redpandas).collect()
}

/// Redpanda Console tells of every topic what the table says.
async fn in_redpandas(lab: Arc<Lab>) -> Result<String> {
    let url = format!("{}/api/topics", lab.endpoints.url("redpanda-console", "web")?);
    let answer: Value = http().get(url).send().await?.error_for_status()?.json().await?;
    for topic in &lab.plan.topics {
        let mut told = answer["topics"].as_array().into_iter().flatten();
        let told = told.find(|told| told["topicName"] == topic.name.as_str());
        let told = told.with_context(|| format!("it has no topic {}", topic.name))?;
        let seen = (told["partitionCount"].as_i64(), told["replicationFactor"].as_i64());
        if seen != (Some(topic.partitions.into()), Some(topic.replicas.into())) {
            bail!(
                "{}: {seen:?} are not {} partitions, {} replicas",
                topic.name,
                topic.partitions,
                topic.replicas
            );
        }
    }
    Ok(format!("{} topics", lab.plan.topics.len()))
}

/// Two labs that run side by side share no topic. It is asked when all labs are up, which is when faults are tried.
fn apart(chapter: &Chapter<'_>) -> Option<Trial> {
    let file = &chapter.project.file;
    let own: BTreeSet<&str> = chapter.plan.topics.iter().map(|topic| topic.name.as_str()).collect();
    let plans =
        file.labs_in_order().into_iter().filter_map(|lab| file.plan(lab, Instance::documented()).ok());
    let topics = plans.flat_map(|plan| plan.topics).map(|topic| topic.name);
    let foreign: BTreeSet<String> = topics.filter(|topic| !own.contains(topic.as_str())).collect();
    let stands_on = vec![KAFKA.to_owned(), "lab-setup".to_owned()];
    let expected: BTreeSet<String> = own.iter().map(|topic| (*topic).to_owned()).collect();
    (!own.is_empty() && !foreign.is_empty()).then(|| Trial {
        name: "topic::none-of-another-lab".to_owned(),
        what: format!("none of {}", foreign.iter().cloned().collect::<Vec<_>>().join(", ")),
        kind: Kind::Fault(Holds { stands_on: stands_on.clone(), ..Holds::default() }),
        stations: Some(stands_on),
        engine: false,
        check: Check::plain(move |lab| {
            let (expected, foreign) = (expected.clone(), foreign.clone());
            Box::pin(async move {
                let there = kafka::topics(&lab.bootstrap()).await?;
                // A lab without topics has none of another one either.
                if !expected.iter().all(|topic| there.contains(topic)) {
                    bail!("{there:?} are not all of {expected:?}");
                }
                let strays: Vec<_> = there.iter().filter(|topic| foreign.contains(*topic)).collect();
                if !strays.is_empty() {
                    bail!("{strays:?} are topics of another lab");
                }
                Ok(format!("{} topics", there.len()))
            })
        }),
    })
}

async fn is_as_documented(lab: Arc<Lab>, wanted: TopicPlan) -> Result<String> {
    let name = &wanted.name;
    let shape = kafka::topic_shape(&lab.bootstrap(), name).await?;
    let partitions = i32::try_from(shape.partitions.len())?;
    if partitions != wanted.partitions {
        bail!("{name} has {partitions} partitions, documented is {}", wanted.partitions);
    }
    for (partition, (_, replicas, _)) in &shape.partitions {
        if i32::try_from(replicas.len())? != wanted.replicas {
            bail!("{name}-{partition} is on nodes {replicas:?}, documented are {} replicas", wanted.replicas);
        }
    }
    for (setting, value) in &wanted.config {
        let found = kafka::topic_setting(&lab.bootstrap(), name, setting).await?;
        if &found != value {
            bail!("{name}: {setting} is {found}, documented is {value}");
        }
    }
    Ok(format!("{partitions} partitions, {} settings", wanted.config.len()))
}
