//! Ctrl-C and SIGTERM as a value that turns true, so that a command can undo what it did before it ends.

use tokio::sync::watch;

/// The command was ended by Ctrl-C or SIGTERM; everything it had begun was undone.
#[derive(Debug, thiserror::Error)]
#[error("interrupted: {0}")]
pub struct Interrupted(pub String);

/// Turns true at the first Ctrl-C or SIGTERM.
pub(crate) fn watch_signals() -> watch::Receiver<bool> {
    let (sender, receiver) = watch::channel(false);
    tokio::spawn(async move {
        first_signal().await;
        sender.send_replace(true);
        // The channel stays open: its readers would take a closed one for "no signal will come".
        sender.closed().await;
    });
    receiver
}

#[cfg(unix)]
async fn first_signal() {
    use tokio::signal::unix::{SignalKind, signal};
    match (signal(SignalKind::interrupt()), signal(SignalKind::terminate())) {
        (Ok(mut interrupt), Ok(mut terminate)) => {
            tokio::select! {
                _ = interrupt.recv() => {}
                _ = terminate.recv() => {}
            }
        }
        _ => std::future::pending().await,
    }
}

#[cfg(not(unix))]
async fn first_signal() {
    if tokio::signal::ctrl_c().await.is_err() {
        std::future::pending::<()>().await;
    }
}
