//! A service of a few lines for tests of the engine: answers HTTP after a while, or dies.

use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Port to answer on.
    #[arg(long)]
    port: u16,
    /// Milliseconds until it answers.
    #[arg(long, default_value_t = 0)]
    delay: u64,
    /// End with exit code 3 instead of answering.
    #[arg(long)]
    fail: bool,
    /// End with exit code 1 where this address does not answer at the start.
    #[arg(long, value_name = "HOST:PORT")]
    peer: Option<String>,
}

pub(super) async fn run(args: Args) -> Result<()> {
    let mut cancel = crate::signals::watch_signals();
    let cancelled =
        tokio::time::timeout(Duration::from_millis(args.delay), cancel.wait_for(|c| *c)).await.is_ok();
    if cancelled {
        return Ok(());
    }
    if let Some(peer) = &args.peer {
        TcpStream::connect(peer).await.with_context(|| format!("{peer} does not answer"))?;
    }
    if args.fail {
        bail!("this service was told to fail");
    }
    let listener = TcpListener::bind(("0.0.0.0", args.port)).await?;
    println!("listening on {}", args.port);
    loop {
        let (mut stream, _) = tokio::select! {
            accepted = listener.accept() => accepted?,
            _ = cancel.wait_for(|c| *c) => return Ok(()),
        };
        let mut request = [0; 1024];
        let _ = stream.read(&mut request).await;
        let _ =
            stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nConnection: close\r\n\r\nready").await;
    }
}
