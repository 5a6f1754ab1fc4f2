//! A lab for somebody's own tests: started (or attached to), asked for its addresses, removed when it is dropped.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};
use sha2::{Digest, Sha256};
use tokio::sync::{mpsc, watch};

use super::{Engine, Event, InstanceLock, Session, SourceChoice, StartEvent, free_offset, prepare, start};
use crate::project::Project;
use crate::topology::{Endpoints, Instance, Plan, instance_option};

/// Names a running instance to attach to, for which nothing is started or removed.
const ATTACH: &str = "LAB_ATTACH";

/// A lab that is up. It is removed, with its data, when this is dropped; an attached one goes on.
///
/// ```no_run
/// # async fn example() -> anyhow::Result<()> {
/// let lab = streamlab::Lab::start("transactions").await?;
/// let bootstrap = lab.endpoints().bootstrap(); // for whatever client
/// # Ok(())
/// # }
/// ```
pub struct Lab {
    endpoints: Endpoints,
    /// None for a lab that was attached to.
    own: Option<Own>,
}

struct Own {
    engine: Engine,
    instance: String,
    /// Held as long as the lab is there.
    _lock: InstanceLock,
}

/// Which lab, which part of it, under which name.
#[derive(Debug, Clone)]
pub struct LabBuilder {
    lab: String,
    instance: Option<String>,
    services: Vec<String>,
    images: SourceChoice,
    root: PathBuf,
}

impl Lab {
    /// Starts a lab of the definition on free host ports, or attaches to the instance that `LAB_ATTACH` names.
    ///
    /// # Errors
    /// No engine, images that cannot be made, or a service that does not become ready; then nothing is left.
    pub async fn start(lab: &str) -> Result<Self> {
        Self::builder(lab).start().await
    }

    /// As [`Lab::start`], with choices.
    pub fn builder(lab: &str) -> LabBuilder {
        LabBuilder {
            lab: lab.to_owned(),
            instance: None,
            services: Vec::new(),
            images: SourceChoice::Local,
            // The checkout that this crate was compiled from.
            root: PathBuf::from(env!("CARGO_MANIFEST_DIR")),
        }
    }

    /// Where it answers on the host.
    pub fn endpoints(&self) -> &Endpoints {
        &self.endpoints
    }

    /// Removes it, and says what went wrong where dropping would be silent.
    ///
    /// # Errors
    /// The engine refuses, or does not answer.
    pub async fn stop(mut self) -> Result<()> {
        match self.own.take() {
            Some(own) => own.engine.remove_instance(&own.instance, true).await.map(|_| ()),
            None => Ok(()),
        }
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        let Some(own) = self.own.take() else { return };
        let again = format!("./lab down --volumes{}", instance_option(&own.instance));
        // A runtime of its own: this one may be ending, and may not be waited on from within.
        let removing = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            runtime.block_on(own.engine.remove_instance(&own.instance, true))
        });
        match removing.join() {
            Ok(Ok(_)) => {}
            Ok(Err(error)) => eprintln!("the lab could not be removed: {error:#}\n  {again}"),
            Err(_) => eprintln!("the lab could not be removed\n  {again}"),
        }
    }
}

impl LabBuilder {
    /// The instance's name; without it a name of this program's own. A lab of that name that an earlier run left is removed.
    #[must_use]
    pub fn instance(mut self, name: &str) -> Self {
        self.instance = Some(name.to_owned());
        self
    }

    /// Only these services, groups or roles, and what they need.
    #[must_use]
    pub fn only(mut self, services: &[&str]) -> Self {
        self.services = services.iter().map(|s| (*s).to_owned()).collect();
        self
    }

    /// Where images come from.
    #[must_use]
    pub fn images(mut self, images: SourceChoice) -> Self {
        self.images = images;
        self
    }

    /// The checkout whose `lab.toml` is meant; otherwise the one that this crate was compiled from.
    #[must_use]
    pub fn checkout(mut self, root: &Path) -> Self {
        root.clone_into(&mut self.root);
        self
    }

    /// Starts it, or attaches.
    ///
    /// # Errors
    /// As [`Lab::start`].
    pub async fn start(self) -> Result<Lab> {
        let project = Project::open(Some(&self.root.join("lab.toml")), program(&self.root)?)?;
        if let Ok(instance) = std::env::var(ATTACH) {
            let session = Session::attach(project, &instance).await?;
            if session.plan.lab != self.lab {
                bail!("{ATTACH}={instance}: it runs lab {}, not {}", session.plan.lab, self.lab);
            }
            return Ok(Lab { endpoints: session.endpoints(), own: None });
        }
        let instance = self.instance.clone().unwrap_or_else(|| own_name(&self.lab));
        let lock = InstanceLock::take(&instance)?;
        let engine = Engine::connect().await?;
        // What an earlier run left that was killed.
        engine.remove_instance(&instance, true).await?;
        let offset = free_offset(&project, Some(&self.lab), &instance)?;
        let whole = project.plan(Some(&self.lab), Instance::new(&instance, offset)?)?;
        let wanted = self.part(&project, whole)?;
        let (events, mut seen) = mpsc::unbounded_channel();
        let printer = tokio::spawn(async move {
            while let Some(event) = seen.recv().await {
                say_event(&event);
            }
        });
        let (_keep, never) = watch::channel(false);
        let started = async {
            let prepared = prepare(&project, &engine, &wanted, self.images, &events).await?;
            let started = start(&project, &engine, &prepared, &events, never).await?;
            // Removed by label, not by handle: what belongs to the instance goes together.
            drop(started.give_away());
            anyhow::Ok(Endpoints::of(&prepared.plan))
        };
        let endpoints = started.await;
        drop(events);
        printer.await?;
        Ok(Lab { endpoints: endpoints?, own: Some(Own { engine, instance, _lock: lock }) })
    }

    fn part(&self, project: &Project, whole: Plan) -> Result<Plan> {
        if self.services.is_empty() {
            return Ok(whole);
        }
        if let Some(unknown) = self.services.iter().find(|s| whole.meant(s).is_empty()) {
            bail!("lab {} has no role, service or group {unknown:?}", self.lab);
        }
        Ok(whole.only(&project.file, self.services.iter().map(String::as_str))?)
    }
}

fn say_event(event: &Event) {
    match event {
        Event::Note(text) => eprintln!("{text}"),
        Event::Start(StartEvent::Ready(name, took)) => {
            eprintln!("{name:<24} ready after {:.1} s", took.as_secs_f64());
        }
        Event::Build(super::BuildEvent::Built { recipe, took, .. }) => {
            eprintln!("image {recipe:<18} built in {:.0} s", took.as_secs_f64());
        }
        Event::Pull(super::PullEvent::Done { reference, took, .. }) => {
            eprintln!("{reference:<24} pulled in {:.0} s", took.as_secs_f64());
        }
        Event::Start(_) | Event::Build(_) | Event::Pull(_) => {}
    }
}

/// The program that goes into the own image: a released one beside the script, or the one that was compiled last.
fn program(root: &Path) -> Result<PathBuf> {
    let target = std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| root.join("target"), PathBuf::from);
    let known = [root.join("streamlab"), target.join("debug/streamlab"), target.join("release/streamlab")];
    let found = known.into_iter().find(|path| path.is_file());
    found.with_context(|| {
        format!(
            "the program streamlab was not compiled yet, and the lab's own image is made of it.\n  Once: cd '{}' && cargo build --bin streamlab",
            root.display()
        )
    })
}

/// A name that is the same in every run of this program, and different for another program.
fn own_name(lab: &str) -> String {
    let program = std::env::current_exe().unwrap_or_default();
    let sum = Sha256::new().chain_update(program.as_os_str().as_encoded_bytes()).chain_update(lab).finalize();
    let hex: String = sum.iter().take(5).map(|byte| format!("{byte:02x}")).collect();
    format!("own-{hex}")
}
