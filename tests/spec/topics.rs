//! The topics table: each topic is there, with its partitions, replicas and settings.

use std::sync::Arc;

use anyhow::{Result, bail};
use streamlab::clients::kafka;
use streamlab::topology::TopicPlan;

use crate::lab::Lab;
use crate::trial::{Chapter, Check, Trial, row};

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
    topics.collect()
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
