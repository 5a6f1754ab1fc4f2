//! `lab console`: where the lab's console is; or one on this machine that may break the lab.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;

use anyhow::{Context as _, Result};
use futures::future::BoxFuture;
use tokio::sync::Mutex;

use super::context::Context;
use crate::engine::{Breakable, InstanceLock};
use crate::own_services::console::{Breaker, Given, run as serve};
use crate::own_services::metrics;
use crate::signals::watch_signals;
use crate::topology::LabView;

/// The service, and what it is told.
const SERVICE: &str = "console";

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// A console of your own on this machine, with buttons that break the lab and put it right, until Ctrl-C. The lab's own only reads.
    #[arg(long)]
    allow_faults: bool,
    /// Its port; a free one without it.
    #[arg(long, requires = "allow_faults", default_value_t = 0, hide_default_value = true)]
    port: u16,
}

/// Breaks the instance as `lab fault` does, one change after the other.
#[derive(Clone)]
struct ByCommand {
    context: Context,
    changing: Arc<Mutex<()>>,
}

enum Change {
    Inject(String),
    Undo,
}

pub(super) async fn run(context: &Context, args: Args) -> Result<()> {
    let session = context.running().await?;
    let service = session
        .plan
        .service(SERVICE)
        .with_context(|| format!("the lab {} has no console", session.plan.lab))?;
    if !args.allow_faults {
        say!("{}", session.endpoints().url(SERVICE, "web")?);
        return Ok(());
    }
    let setting =
        |name: &str| service.environment.get(name).with_context(|| format!("the console has no {name}"));
    let mut lab: LabView = serde_json::from_str(setting("LAB")?).context("LAB is no lab")?;
    // From here everything is where the host has it.
    lab.roles.clone_from(&lab.host_roles);
    let folder = tempfile::tempdir()?;
    let charts = folder.path().join("charts.jar");
    let jar = session.engine.file_of(&service.container, setting("CHARTS")?).await;
    std::fs::write(&charts, jar.context("the lab's console has no library of charts")?)?;
    let stop = watch_signals();
    let listener = metrics::listen(SocketAddr::from((Ipv4Addr::LOCALHOST, args.port))).await?;
    let port = listener.local_addr()?.port();
    say!(
        "http://localhost:{port}/faults breaks the lab {} and puts it right; Ctrl-C ends this console",
        lab.lab
    );
    let breaker = ByCommand { context: context.clone(), changing: Arc::default() };
    let given = Given {
        lab,
        port,
        files: &session.project.root,
        charts: &charts,
        runbooks: service.environment.get("RUNBOOKS").cloned(),
        breaker: Some(Box::new(breaker.clone())),
    };
    let ended = serve(listener, given, stop).await;
    // A change that is half done could not be told from others: it is finished first.
    let _finished = breaker.changing.lock().await;
    ended
}

impl ByCommand {
    /// Does something with the lab as it is now, while nobody else changes it. It goes on when whoever asked for it has gone.
    fn change(&self, change: Change) -> BoxFuture<'static, Result<()>> {
        let own = self.clone();
        let work = tokio::spawn(async move {
            let _alone = own.changing.lock().await;
            let _lock = InstanceLock::take(&own.context.instance)?;
            let session = own.context.running().await?;
            let (engine, file, plan) = (&session.engine, &session.project.file, &session.plan);
            let breakable = Breakable { engine, file, plan };
            match change {
                Change::Inject(name) => {
                    let fault = file.fault(&name).with_context(|| format!("no fault {name}"))?;
                    breakable.inject(&session.state, fault).await
                }
                Change::Undo => breakable.undo_all(&session.state).await.map(drop),
            }
        });
        Box::pin(async { work.await? })
    }
}

impl Breaker for ByCommand {
    fn in_force(&self) -> BoxFuture<'_, Result<Vec<String>>> {
        Box::pin(async { Ok(self.context.running().await?.state.faults.clone()) })
    }

    fn inject<'a>(&'a self, name: &'a str) -> BoxFuture<'a, Result<()>> {
        self.change(Change::Inject(name.to_owned()))
    }

    fn undo(&self) -> BoxFuture<'_, Result<()>> {
        self.change(Change::Undo)
    }
}
