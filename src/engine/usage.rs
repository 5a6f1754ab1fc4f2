//! What a container uses: memory, CPU, network.

use anyhow::{Context, Result};
use futures::StreamExt;
use testcontainers::bollard::query_parameters::StatsOptionsBuilder;

use super::Engine;
use crate::probes::Usage;

impl Engine {
    /// What a container uses now.
    ///
    /// # Errors
    /// The container is not there, or the engine does not answer.
    pub async fn usage(&self, container: &str) -> Result<Usage> {
        let options = StatsOptionsBuilder::new().stream(false).one_shot(true).build();
        let stats = self.docker.stats(container, Some(options)).next().await.context("no figures")??;
        let memory = stats.memory_stats.unwrap_or_default();
        // What `docker stats` shows: use less the page cache that can go.
        let details = memory.stats.unwrap_or_default();
        let cache =
            details.get("inactive_file").or(details.get("total_inactive_file")).copied().unwrap_or_default();
        let cpu = stats.cpu_stats.and_then(|c| c.cpu_usage).and_then(|u| u.total_usage).unwrap_or_default();
        let networks = stats.networks.unwrap_or_default();
        let found = self.look_at(container).await?;
        #[allow(clippy::cast_precision_loss)]
        Ok(Usage {
            memory: memory.usage.unwrap_or_default().saturating_sub(cache),
            memory_limit: memory.limit.unwrap_or_default(),
            cpu_seconds: cpu as f64 / 1e9,
            received: networks.values().filter_map(|n| n.rx_bytes).sum(),
            sent: networks.values().filter_map(|n| n.tx_bytes).sum(),
            restarts: found.restart_count.and_then(|n| u64::try_from(n).ok()).unwrap_or_default(),
        })
    }

    /// The most memory that a running container has had, in bytes, page cache included; none where the kernel keeps no
    /// such figure.
    pub async fn peak_memory(&self, container: &str) -> Option<u64> {
        // cgroup v2, then v1: the engine's own figures have it for v1 only.
        let script = "cat /sys/fs/cgroup/memory.peak 2>/dev/null || cat /sys/fs/cgroup/memory/memory.max_usage_in_bytes";
        self.exec(container, &["sh", "-c", script]).await.ok()?.text.trim().parse().ok()
    }
}
