//! How far Spark's streaming queries are, as their checkpoints say it: Spark commits no offsets to Kafka.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::{Context, Result, bail};

use super::groups::TopicPartition;

/// Query → the next offset of each partition that it will read. A query is a folder below `checkpoints` that has
/// committed a batch.
///
/// # Errors
/// The folder cannot be read, or a checkpoint is not of the form of Spark 4.
pub fn read(checkpoints: &Path) -> Result<BTreeMap<String, BTreeMap<TopicPartition, i64>>> {
    let unreadable = || format!("{} cannot be read", checkpoints.display());
    let mut queries = BTreeMap::new();
    for entry in std::fs::read_dir(checkpoints).with_context(unreadable)? {
        let query = entry.with_context(unreadable)?;
        let Some(batch) = newest(&query.path().join("commits"))? else { continue };
        // A batch whose offsets Spark removes while it is looked at is an old one: the next look finds a newer.
        let log = query.path().join("offsets").join(batch.to_string());
        let text = std::fs::read_to_string(&log).with_context(|| log.display().to_string())?;
        let offsets = offsets(&text).with_context(|| format!("{} is no offset log", log.display()))?;
        queries.insert(query.file_name().to_string_lossy().into_owned(), offsets);
    }
    Ok(queries)
}

/// The newest batch in a log: its files are named by their numbers, beside checksums and unfinished ones.
fn newest(log: &Path) -> Result<Option<u64>> {
    match std::fs::read_dir(log) {
        Ok(entries) => {
            let numbers = entries.filter_map(|e| e.ok()?.file_name().to_str()?.parse().ok());
            Ok(numbers.max())
        }
        Err(e) if matches!(e.kind(), std::io::ErrorKind::NotFound | std::io::ErrorKind::NotADirectory) => {
            Ok(None)
        }
        Err(e) => Err(e).with_context(|| format!("{} cannot be read", log.display())),
    }
}

/// An offset log: a version, the batch's settings, then one line a source: `{"topic":{"partition":offset}}`.
fn offsets(text: &str) -> Result<BTreeMap<TopicPartition, i64>> {
    let mut lines = text.lines();
    if lines.next() != Some("v1") {
        bail!("it does not begin with v1");
    }
    let mut found = BTreeMap::new();
    for source in lines.skip(1).filter(|l| *l != "-") {
        let topics: BTreeMap<String, BTreeMap<i32, i64>> = serde_json::from_str(source)?;
        for (topic, partitions) in topics {
            found.extend(partitions.into_iter().map(|(p, offset)| ((topic.clone(), p), offset)));
        }
    }
    Ok(found)
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]
mod tests {
    use super::*;

    const LOG: &str = "v1\n{\"batchWatermarkMs\":0}\n{\"transactions\":{\"0\":7,\"1\":12}}";

    fn write(path: &Path, text: &str) {
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    }

    #[test]
    fn the_newest_committed_batch_counts() {
        let folder = tempfile::tempdir().unwrap();
        let query = folder.path().join("aggregates");
        write(&query.join("offsets/9"), "v1\n{}\n{\"transactions\":{\"0\":1}}");
        write(&query.join("offsets/10"), LOG);
        // Planned, not committed.
        write(&query.join("offsets/11"), "v1\n{}\n{\"transactions\":{\"0\":99}}");
        for name in ["9", "10", ".10.crc", ".11.3f.tmp"] {
            write(&query.join("commits").join(name), "v1\n{}");
        }
        write(&folder.path().join("just-planned/offsets/0"), LOG);
        write(&folder.path().join("a-file"), "x");
        let found = read(folder.path()).unwrap();
        let of = |p| ("transactions".to_owned(), p);
        let expected = BTreeMap::from([(of(0), 7), (of(1), 12)]);
        assert_eq!(found, BTreeMap::from([("aggregates".to_owned(), expected)]));
    }

    #[test]
    fn what_is_no_checkpoint_is_said() {
        let folder = tempfile::tempdir().unwrap();
        write(&folder.path().join("q/commits/0"), "");
        write(&folder.path().join("q/offsets/0"), "v9\n{}\n{}");
        let said = format!("{:#}", read(folder.path()).unwrap_err());
        assert!(said.contains("offsets/0 is no offset log: it does not begin with v1"), "{said}");
        assert!(read(&folder.path().join("nowhere")).is_err());
    }
}
