//! What most commands begin with: the project and the instance that is meant.

use std::path::PathBuf;

use anyhow::Result;

use crate::engine::Session;
use crate::project::Project;

/// The global options.
#[derive(Debug, Clone)]
pub(super) struct Context {
    file: Option<PathBuf>,
    pub(super) instance: String,
}

impl Context {
    pub(super) fn new(file: Option<PathBuf>, instance: String) -> Self {
        Self { file, instance }
    }

    pub(super) fn project(&self) -> Result<Project> {
        Project::open(self.file.as_deref(), std::env::current_exe()?)
    }

    /// The instance as it runs.
    pub(super) async fn running(&self) -> Result<Session> {
        Session::attach(self.project()?, &self.instance).await
    }

    /// ` --instance x`, where it is not the default one.
    pub(super) fn option(&self) -> String {
        crate::topology::instance_option(&self.instance)
    }
}
