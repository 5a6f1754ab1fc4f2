//! Errors as people read them. Where the cause lies outside the lab, a full disk or an engine that went away, a line says what to do.

use std::io;

use testcontainers::bollard::errors::Error as EngineFailure;

/// The error with what led to it, and what to do where that is not the lab's own matter.
pub fn told(error: &anyhow::Error) -> String {
    let text = format!("{error:#}");
    // Some have said it, and know better what can go.
    if is_full(error, &text) && !text.contains("disk is full") {
        return format!(
            "{text}\n  A disk is full, the engine's or this one: make room (df -h, docker system df), then try again."
        );
    }
    let went_away = |cause: &(dyn std::error::Error + 'static)| {
        matches!(
            cause.downcast_ref(),
            Some(EngineFailure::HyperResponseError { .. } | EngineFailure::HyperLegacyError { .. })
        )
    };
    if error.chain().any(went_away) {
        return format!(
            "the Docker engine does not answer any more ({text})\n  Start it again: ./lab engine start"
        );
    }
    text
}

/// An engine tells only in words that its disk is full.
fn is_full(error: &anyhow::Error, text: &str) -> bool {
    let full = |cause: &(dyn std::error::Error + 'static)| {
        cause.downcast_ref::<io::Error>().is_some_and(|e| e.kind() == io::ErrorKind::StorageFull)
    };
    error.chain().any(full) || text.contains("no space left on device")
}

#[cfg(test)]
mod tests {
    use anyhow::{Context as _, anyhow};

    use super::*;

    #[test]
    fn a_full_disk_is_named_wherever_it_is() {
        let here =
            anyhow::Error::from(io::Error::from(io::ErrorKind::StorageFull)).context("it cannot be written");
        let engine = Err::<(), _>(anyhow!("write /var/lib/docker/tmp/x: no space left on device"))
            .context("x cannot be pulled");
        for error in [here, engine.unwrap_err()] {
            assert!(told(&error).contains("make room"), "{}", told(&error));
        }
    }

    #[test]
    fn other_errors_stay_as_they_are() {
        assert_eq!(told(&anyhow!("b").context("a")), "a: b");
        let said = "the engine's disk is full: no space left on device";
        assert_eq!(told(&anyhow!(said)), said);
    }

    /// The engine closes each connection without an answer, as one does that is killed.
    #[tokio::test]
    async fn an_engine_that_went_away_is_named() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = format!("tcp://{}", listener.local_addr().unwrap());
        let closing = tokio::spawn(async move { while listener.accept().await.is_ok() {} });
        let version = testcontainers::bollard::API_DEFAULT_VERSION;
        let docker = testcontainers::bollard::Docker::connect_with_http(&address, 5, version).unwrap();
        let error =
            anyhow::Error::from(docker.ping().await.unwrap_err()).context("alpha could not be started");
        closing.abort();
        let text = told(&error);
        assert!(
            text.starts_with("the Docker engine does not answer any more (alpha")
                && text.contains("./lab engine start"),
            "{text}"
        );
    }
}
