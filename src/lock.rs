//! `images.lock.json` as types: which upstream image is pinned to which digest, who confirmed it, and which documents
//! it consists of. Pure: the file is `project`'s to read and write, and a registry is `clients::oci`'s to ask.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::marker::PhantomData;

use serde::de::{self, DeserializeOwned, Deserializer, MapAccess, Visitor};
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

/// `name:tag` → what it is pinned to.
pub type Lock = BTreeMap<String, LockEntry>;

/// `sha256:` and 64 hexadecimal digits.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String")]
pub struct Digest(String);

/// A platform whose documents are pinned.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Platform {
    /// x86_64.
    #[serde(rename = "linux/amd64")]
    Amd64,
    /// aarch64.
    #[serde(rename = "linux/arm64")]
    Arm64,
}

/// A pinned upstream image.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LockEntry {
    /// Digest of the multi-platform index; of the manifest where the tag names a single one.
    pub index: Digest,
    /// Where the digest was confirmed.
    pub confirmed: String,
    /// What the index holds; empty as long as its documents were never fetched.
    #[serde(default, deserialize_with = "each_once", skip_serializing_if = "BTreeMap::is_empty")]
    pub platforms: BTreeMap<Platform, PlatformEntry>,
}

/// One platform of a pinned image.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PlatformEntry {
    /// Digest of its manifest.
    pub manifest: Digest,
    /// Digest of its configuration: the image's id in an engine.
    pub config: Digest,
}

/// What a registry holds for a tag, fetched and verified.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pinned {
    /// The registry that served it.
    pub host: String,
    /// Digest of the index.
    pub index: Digest,
    /// What the index holds.
    pub platforms: BTreeMap<Platform, PlatformEntry>,
}

/// A reference in the lock beside the same reference in the registry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// The tag is what the lock says.
    Same,
    /// Not in the lock so far.
    New(Digest),
    /// The tag names another image now.
    Moved {
        /// In the lock.
        from: Digest,
        /// In the registry.
        to: Digest,
    },
    /// In the lock, and no longer asked for.
    Gone,
}

/// A lock file that cannot be read as one.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}\n  Correct it there, or remove the entry and run ./lab images lock")]
pub struct LockError(String);

/// A text that is no digest.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no digest: it takes sha256: and 64 hexadecimal digits (0-9, a-f)")]
pub struct NoDigest(String);

impl Digest {
    /// The digest of these bytes.
    pub fn of(bytes: &[u8]) -> Self {
        use fmt::Write as _;
        let start = String::from("sha256:");
        Self(Sha256::digest(bytes).iter().fold(start, |mut text, byte| {
            let _ = write!(text, "{byte:02x}");
            text
        }))
    }

    /// The 64 hexadecimal digits.
    pub fn hex(&self) -> &str {
        self.0.trim_start_matches("sha256:")
    }

    /// The whole of it, as registries write it.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl TryFrom<String> for Digest {
    type Error = NoDigest;

    fn try_from(text: String) -> Result<Self, NoDigest> {
        let hex = text.strip_prefix("sha256:").unwrap_or_default();
        let lower = |b: u8| b.is_ascii_digit() || (b'a'..=b'f').contains(&b);
        if hex.len() == 64 && hex.bytes().all(lower) { Ok(Self(text)) } else { Err(NoDigest(text)) }
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl Platform {
    /// Every platform that is pinned where an image has it.
    pub const ALL: [Self; 2] = [Self::Amd64, Self::Arm64];

    /// Its architecture, as image documents name it; the system is linux.
    pub fn architecture(self) -> &'static str {
        match self {
            Self::Amd64 => "amd64",
            Self::Arm64 => "arm64",
        }
    }
}

impl fmt::Display for Platform {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "linux/{}", self.architecture())
    }
}

impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Same => f.write_str("unchanged"),
            Self::New(index) => write!(f, "added: {index}"),
            Self::Moved { from, to } => write!(f, "moved: {from} → {to}"),
            Self::Gone => f.write_str("is in images.lock.json, and lab.toml no longer names it"),
        }
    }
}

/// An image's name as it was given: Podman puts `localhost/` before one that has no registry.
pub(crate) fn without_localhost(reference: &str) -> &str {
    reference.strip_prefix("localhost/").unwrap_or(reference)
}

/// Reads the text of a lock file.
///
/// # Errors
/// What is malformed: the entry's key, the line, and what to do.
pub fn parse(text: &str) -> Result<Lock, LockError> {
    let mut reader = serde_json::Deserializer::from_str(text);
    let lock = each_once(&mut reader).and_then(|lock| reader.end().map(|()| lock));
    lock.map_err(|e| LockError(e.to_string()))
}

/// The text of a lock file: what [`parse`] reads, always in the same bytes.
///
/// # Errors
/// Writing JSON fails, which these types never cause.
pub fn render(lock: &Lock) -> Result<String, serde_json::Error> {
    Ok(serde_json::to_string_pretty(lock)? + "\n")
}

/// The lock beside what the registries say now: every reference of either.
pub fn compare(lock: &Lock, found: &BTreeMap<String, Digest>) -> BTreeMap<String, Change> {
    let gone = lock.keys().filter(|r| !found.contains_key(*r)).map(|r| (r.clone(), Change::Gone));
    let asked = found.iter().map(|(reference, to)| {
        let change = match lock.get(reference) {
            None => Change::New(to.clone()),
            Some(entry) if entry.index == *to => Change::Same,
            Some(entry) => Change::Moved { from: entry.index.clone(), to: to.clone() },
        };
        (reference.clone(), change)
    });
    gone.chain(asked).collect()
}

/// The lock with everything that the registries hold; entries that nobody asks for leave it where `remove_gone`.
pub fn merged(lock: &Lock, pinned: &BTreeMap<String, Pinned>, remove_gone: bool) -> Lock {
    let kept = lock.iter().filter(|(r, _)| !remove_gone || pinned.contains_key(*r));
    let mut merged: Lock = kept.map(|(r, e)| (r.clone(), e.clone())).collect();
    for (reference, image) in pinned {
        let entry = LockEntry {
            index: image.index.clone(),
            confirmed: confirmed(lock.get(reference), image),
            platforms: image.platforms.clone(),
        };
        merged.insert(reference.clone(), entry);
    }
    merged
}

/// Who confirmed the digest: those who did before, as long as it is the same one, and this registry.
fn confirmed(before: Option<&LockEntry>, image: &Pinned) -> String {
    let registry = format!("registry {}, by `lab images lock`", image.host);
    match before.filter(|b| b.index == image.index).map(|b| b.confirmed.trim()) {
        None | Some("") => registry,
        Some(text) if text.split("; ").any(|one| one == registry) => text.to_owned(),
        Some(text) => format!("{text}; {registry}"),
    }
}

/// The documents that a lock names: its indexes and the manifests of their platforms.
pub fn documents(lock: &Lock) -> BTreeSet<Digest> {
    let of = |e: &LockEntry| {
        let manifests = e.platforms.values().map(|p| p.manifest.clone());
        manifests.chain([e.index.clone()]).collect::<Vec<_>>()
    };
    lock.values().flat_map(of).collect()
}

/// A map in which no key stands twice, and whose errors name the key that they are under.
fn each_once<'de, D, K, V>(reader: D) -> Result<BTreeMap<K, V>, D::Error>
where
    D: Deserializer<'de>,
    K: DeserializeOwned + Serialize + Ord,
    V: DeserializeOwned,
{
    struct Once<K, V>(PhantomData<(K, V)>);

    impl<'de, K, V> Visitor<'de> for Once<K, V>
    where
        K: DeserializeOwned + Serialize + Ord,
        V: DeserializeOwned,
    {
        type Value = BTreeMap<K, V>;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("a table in braces")
        }

        fn visit_map<A: MapAccess<'de>>(self, mut access: A) -> Result<Self::Value, A::Error> {
            let mut map = BTreeMap::new();
            while let Some(key) = access.next_key::<K>()? {
                let name = serde_json::to_string(&key).unwrap_or_default();
                let value = access.next_value().map_err(|e| de::Error::custom(format!("{name}: {e}")))?;
                if map.insert(key, value).is_some() {
                    return Err(de::Error::custom(format!("{name} stands there twice")));
                }
            }
            Ok(map)
        }
    }

    reader.deserialize_map(Once(PhantomData))
}

#[cfg(test)]
mod tests;
