//! One process at a time changes an instance: a file lock that ends with its process, however that ends.

use std::fs::{File, TryLockError};
use std::io::{Read, Seek, Write};
use std::path::PathBuf;

use anyhow::{Context, Result, bail};

/// Held while an instance is started or removed.
#[derive(Debug)]
pub struct InstanceLock {
    _file: File,
}

/// Where the lab keeps its locks, pid file and engine log: XDG's state folder.
pub fn state_dir() -> PathBuf {
    let base = std::env::var_os("XDG_STATE_HOME").map(PathBuf::from).filter(|p| p.is_absolute());
    let home = || std::env::var_os("HOME").map(|h| PathBuf::from(h).join(".local/state"));
    base.or_else(home).unwrap_or_else(std::env::temp_dir).join("streamlab")
}

/// Where fetched images wait until the engine has them: XDG's cache folder.
pub fn cache_dir() -> PathBuf {
    let base = std::env::var_os("XDG_CACHE_HOME").map(PathBuf::from).filter(|p| p.is_absolute());
    let home = || std::env::var_os("HOME").map(|h| PathBuf::from(h).join(".cache"));
    base.or_else(home).unwrap_or_else(std::env::temp_dir).join("streamlab")
}

impl InstanceLock {
    /// Takes the lock of an instance.
    ///
    /// # Errors
    /// Another process holds it (its pid is named), or the state folder cannot be written.
    pub fn take(instance: &str) -> Result<Self> {
        let dir = state_dir();
        std::fs::create_dir_all(&dir).with_context(|| format!("{} cannot be made", dir.display()))?;
        let path = dir.join(format!("{instance}.lock"));
        let mut file = File::options()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(&path)
            .with_context(|| format!("{} cannot be opened", path.display()))?;
        match file.try_lock() {
            Ok(()) => {
                let mut note = || {
                    file.set_len(0)?;
                    file.rewind()?;
                    write!(file, "{}", std::process::id())
                };
                note().with_context(|| format!("{} cannot be written", path.display()))?;
                Ok(Self { _file: file })
            }
            Err(TryLockError::WouldBlock) => {
                let mut pid = Vec::new();
                file.read_to_end(&mut pid)?;
                let pid = String::from_utf8_lossy(&pid);
                bail!(
                    "another lab process (pid {}) is starting or stopping instance {instance}; wait for it, or end it",
                    pid.trim()
                )
            }
            Err(TryLockError::Error(e)) => {
                Err(e).with_context(|| format!("{} cannot be locked", path.display()))
            }
        }
    }
}
