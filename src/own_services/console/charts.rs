//! The library that draws the charts, out of the jar in which Maven has it: read once, served as it is.

use std::borrow::Cow;
use std::fs::File;
use std::io::Read as _;
use std::path::Path;
use std::sync::Arc;

use anyhow::{Context, Result};
use axum::body::Bytes;
use axum::extract::State;
use axum::http::header;
use axum::response::{IntoResponse, Response};
use zip::ZipArchive;

use super::Console;

/// A file of the library is far smaller.
const LARGEST: u64 = 1 << 20;

/// Its two files.
pub(super) struct Charts {
    script: Bytes,
    style: Bytes,
}

impl Charts {
    /// # Errors
    /// There is no jar, or it has not the two files.
    pub(super) fn read(jar: &Path) -> Result<Self> {
        let mut jar = ZipArchive::new(File::open(jar)?).context("no jar")?;
        Ok(Self {
            script: member(&mut jar, "/dist/uPlot.iife.min.js")?,
            style: member(&mut jar, "/dist/uPlot.min.css")?,
        })
    }
}

fn member(jar: &mut ZipArchive<File>, end: &str) -> Result<Bytes> {
    let found = jar.file_names().filter_map(Result::ok).find(|name| name.ends_with(end)).map(Cow::into_owned);
    let name = found.with_context(|| format!("no file {end} in it"))?;
    let mut bytes = Vec::new();
    jar.by_name(&name)?.take(LARGEST).read_to_end(&mut bytes)?;
    Ok(bytes.into())
}

pub(super) async fn script(State(console): State<Arc<Console>>) -> Response {
    ([(header::CONTENT_TYPE, "text/javascript; charset=utf-8")], console.charts.script.clone())
        .into_response()
}

pub(super) async fn style(State(console): State<Arc<Console>>) -> Response {
    ([(header::CONTENT_TYPE, "text/css; charset=utf-8")], console.charts.style.clone()).into_response()
}
