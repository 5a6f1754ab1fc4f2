//! How far Spark's streaming queries are, as their checkpoints say it: Spark commits no offsets to Kafka.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::{Context, Result, bail};

use super::groups::TopicPartition;

/// Query → the next offset of each partition that it will read: after its newest committed batch, or where it began. A
/// query that never gets through its first batch is behind too. A query is a folder below `checkpoints`.
///
/// # Errors
/// The folder cannot be read, or a checkpoint is not of the form of Spark 4.
pub fn read(checkpoints: &Path) -> Result<BTreeMap<String, BTreeMap<TopicPartition, i64>>> {
    let unreadable = || format!("{} cannot be read", checkpoints.display());
    let mut queries = BTreeMap::new();
    for entry in std::fs::read_dir(checkpoints).with_context(unreadable)? {
        let query = entry.with_context(unreadable)?;
        let mut next = BTreeMap::new();
        if let Some(batch) = numbered(&query.path().join("commits"))?.max() {
            // A batch whose offsets Spark removes while it is looked at is an old one: the next look finds a newer.
            // The batch's settings come before its sources.
            next = offsets(&query.path().join("offsets").join(batch.to_string()), 1)?;
        } else {
            let sources = query.path().join("sources");
            for source in numbered(&sources)? {
                let began = sources.join(source.to_string()).join("0");
                // Its folder comes first.
                if began.exists() {
                    next.extend(offsets(&began, 0)?);
                }
            }
        }
        if !next.is_empty() {
            queries.insert(query.file_name().to_string_lossy().into_owned(), next);
        }
    }
    Ok(queries)
}

/// The numbers in a folder: Spark names batches and sources by them, beside checksums and unfinished files.
fn numbered(folder: &Path) -> Result<impl Iterator<Item = u64> + use<>> {
    let entries = match std::fs::read_dir(folder) {
        Ok(entries) => Some(entries),
        Err(e) if matches!(e.kind(), std::io::ErrorKind::NotFound | std::io::ErrorKind::NotADirectory) => {
            None
        }
        Err(e) => return Err(e).with_context(|| format!("{} cannot be read", folder.display())),
    };
    Ok(entries.into_iter().flatten().filter_map(|e| e.ok()?.file_name().to_str()?.parse().ok()))
}

/// A file of offsets: a version, `settings` lines, then one line a source: `{"topic":{"partition":offset}}`. Where a
/// source begins is written with a zero byte before the version.
fn offsets(path: &Path, settings: usize) -> Result<BTreeMap<TopicPartition, i64>> {
    let text = std::fs::read_to_string(path).with_context(|| path.display().to_string())?;
    parse(&text, settings).with_context(|| format!("{} is no offset log", path.display()))
}

fn parse(text: &str, settings: usize) -> Result<BTreeMap<TopicPartition, i64>> {
    let mut lines = text.trim_start_matches('\0').lines();
    if lines.next() != Some("v1") {
        bail!("it does not begin with v1");
    }
    let mut found = BTreeMap::new();
    for source in lines.skip(settings).filter(|l| *l != "-") {
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

    fn of(partition: i32) -> TopicPartition {
        ("transactions".to_owned(), partition)
    }

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
        write(&folder.path().join("nothing-yet/metadata"), "{}");
        write(&folder.path().join("a-file"), "x");
        let expected = BTreeMap::from([(of(0), 7), (of(1), 12)]);
        assert_eq!(read(folder.path()).unwrap(), BTreeMap::from([("aggregates".to_owned(), expected)]));
    }

    #[test]
    fn a_query_whose_first_batch_is_not_done_is_where_it_began() {
        let folder = tempfile::tempdir().unwrap();
        let query = folder.path().join("stuck");
        write(&query.join("offsets/0"), LOG);
        // As Spark 4 writes it.
        write(&query.join("sources/0/0"), "\0v1\n{\"transactions\":{\"0\":3,\"1\":0}}");
        write(&query.join("sources/0/.0.crc"), "x");
        let began = BTreeMap::from([(of(0), 3), (of(1), 0)]);
        assert_eq!(read(folder.path()).unwrap(), BTreeMap::from([("stuck".to_owned(), began)]));
        write(&query.join("commits/0"), "v1\n{}");
        assert_eq!(read(folder.path()).unwrap()["stuck"][&of(1)], 12);
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
