//! Questions to a Spark master and to a driver's UI.

use anyhow::{Context, Result};
use serde_json::Value;

/// Host names of the workers that the master at `port` counts as alive.
///
/// # Errors
/// The master does not answer, or not in the form of Spark 4.
pub async fn alive_workers(port: u16) -> Result<Vec<String>> {
    let url = format!("http://127.0.0.1:{port}/json/");
    let state: Value = super::http().get(&url).send().await?.error_for_status()?.json().await?;
    let workers = state["workers"].as_array().with_context(|| format!("{url} names no workers"))?;
    let alive = workers.iter().filter(|w| w["state"] == "ALIVE");
    Ok(alive.filter_map(|w| Some(w["host"].as_str()?.to_owned())).collect())
}
