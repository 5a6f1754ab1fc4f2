//! Where images come from: one type for labels, bundles, compose files and the command line.

use serde::{Deserialize, Serialize};

use super::{LabFile, Plan, TopologyError};

/// Where a lab's images come from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Source {
    /// Built on this machine from package registries.
    Local,
    /// Public images, by digest.
    Upstream,
}

impl Source {
    /// Both.
    pub const ALL: [Self; 2] = [Self::Local, Self::Upstream];

    /// As labels and file names have it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Local => "local",
            Self::Upstream => "upstream",
        }
    }

    /// The source with a name.
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|s| s.name() == name)
    }

    /// What of a lab there are images for.
    ///
    /// # Errors
    /// As [`LabFile::plan`].
    pub fn part_of(self, file: &LabFile, whole: &Plan) -> Result<Plan, TopologyError> {
        match self {
            Self::Local => whole.buildable(file),
            Self::Upstream => Ok(whole.clone()),
        }
    }
}
