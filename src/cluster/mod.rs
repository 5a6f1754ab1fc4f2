//! A lab on Kubernetes: asked and changed by `kubectl`, with the settings and rights that it has. What the objects are is rendered
//! elsewhere; here they are put there, watched until the lab is ready, reached and removed.

mod drift;
mod forward;
mod kubectl;
mod manifests;
mod standing;

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use serde_json::Value;

pub(crate) use self::forward::Forwards;
use self::kubectl::Kubectl;
pub(crate) use self::kubectl::quoted;
use self::manifests::Changes;
use self::standing::{Seen, standings};
pub(crate) use self::standing::{Standing, State};
use crate::engine::{Event, StartEvent};
use crate::probes::{Answer, eventually};
use crate::render::{MOVE_PARTITIONS, PART_OF, RENDERED_FOLDER, namespace_of};
use crate::topology::{Plan, Source};

/// Annotations of the namespace: what the lab there was made of.
const OVERLAY: &str = "streamlab.lab/overlay";
const REGISTRY: &str = "streamlab.lab/registry";
const IMAGES: &str = "streamlab.lab/images";
const REPLICAS: &str = "streamlab.lab/replicas";

/// How long what does not go on by itself is looked at before it is said: a node may be starting, a registry may be slow.
const STUCK: Duration = Duration::from_secs(45);
/// How long a lab may take from manifests to ready: public images of several gigabytes on a slow line.
const PATIENCE: Duration = Duration::from_secs(30 * 60);
/// How long pods may take to end: their own minute, and a node that is slow to say so.
const END: Duration = Duration::from_secs(150);
const EVERY: Duration = Duration::from_secs(2);

/// What makes pods.
const WORKLOADS: &str = "deployments,statefulsets,jobs";
/// What a lab's user must be allowed to make.
const KINDS: [&str; 8] = [
    "services",
    "configmaps",
    "persistentvolumeclaims",
    "deployments.apps",
    "statefulsets.apps",
    "jobs.batch",
    "networkpolicies.networking.k8s.io",
    "poddisruptionbudgets.policy",
];

/// What a lab on a cluster is made of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Choice {
    /// Folder of `deploy/kubernetes/LAB/overlays`.
    pub(crate) overlay: String,
    /// Where `lab images push` has put the images.
    pub(crate) registry: String,
    /// Local: all images come from there. Upstream: only those that no public registry has.
    pub(crate) images: Source,
    /// Workload → how many pods it was scaled to.
    pub(crate) replicas: BTreeMap<String, u32>,
}

/// What is on a cluster where its images are.
#[derive(Debug, Default)]
pub(crate) struct Images {
    /// Name in the manifests → name and tag in the registry.
    pub(crate) moved: BTreeMap<String, String>,
    /// Services that are left out: no image of theirs is there.
    pub(crate) absent: BTreeSet<String>,
}

/// Whether a lab is on a cluster.
#[derive(Debug)]
pub(crate) enum Presence {
    /// It has no namespace.
    Absent,
    /// It has one; what it was made of is known where `lab kube up` has made it.
    There(Option<Choice>),
}

/// The namespace of a lab.
#[derive(Debug)]
pub(crate) struct Cluster {
    kubectl: Kubectl,
    lab: String,
    namespace: String,
}

impl Cluster {
    /// The cluster that `kubectl` means, and what it calls it.
    ///
    /// # Errors
    /// No `kubectl`, no cluster in its settings, or none that answers.
    pub(crate) async fn reach(context: Option<&str>, lab: &str) -> Result<Self> {
        let kubectl = Kubectl::new(context).await?;
        Ok(Self { kubectl, lab: lab.to_owned(), namespace: namespace_of(lab) })
    }

    /// The name of the cluster in kubectl's settings, and its address.
    pub(crate) fn name(&self) -> String {
        format!("{} ({})", self.kubectl.context, self.kubectl.server)
    }

    /// `kubectl` for this cluster and namespace, as a person types it.
    pub(crate) fn command(&self) -> String {
        format!("{} -n {}", self.kubectl.command(), self.namespace)
    }

    /// Where the lab is on the cluster.
    pub(crate) fn namespace(&self) -> &str {
        &self.namespace
    }

    /// Whether the lab is there.
    ///
    /// # Errors
    /// The namespace is somebody else's, or is being removed.
    pub(crate) async fn present(&self) -> Result<Presence> {
        let Some(found) = self.kubectl.find("namespace", &self.namespace).await? else {
            return Ok(Presence::Absent);
        };
        let metadata = &found["metadata"];
        if metadata["labels"][PART_OF] != "streamlab" {
            bail!(
                "namespace {} on {} is somebody else's: it has no label {PART_OF}=streamlab.\n  Nothing was changed. Use another cluster, or ask \
                 whose it is: {} describe namespace {}",
                self.namespace,
                self.name(),
                self.kubectl.command(),
                self.namespace
            );
        }
        if found["status"]["phase"] == "Terminating" {
            let conditions = found["status"]["conditions"].as_array().into_iter().flatten();
            let holds = conditions.filter(|condition| condition["status"] == "True");
            let mut why: Vec<&str> = holds.filter_map(|condition| condition["message"].as_str()).collect();
            if why.is_empty() {
                why.push("its pods are ending");
            }
            let (namespace, why, kubectl) = (&self.namespace, why.join("; "), self.kubectl.command());
            bail!(
                "namespace {namespace} is being removed: {why}.\n  Wait until it is gone: {kubectl} get namespace {namespace} --watch"
            );
        }
        let of = |annotation: &str| metadata["annotations"][annotation].as_str();
        let images = of(IMAGES).and_then(Source::named);
        let (Some(overlay), Some(registry), Some(images)) = (of(OVERLAY), of(REGISTRY), images) else {
            return Ok(Presence::There(None));
        };
        let (overlay, registry) = (overlay.to_owned(), registry.to_owned());
        let replicas = of(REPLICAS).and_then(|text| serde_json::from_str(text).ok()).unwrap_or_default();
        Ok(Presence::There(Some(Choice { overlay, registry, images, replicas })))
    }

    /// Looks whether kubectl's user may make all that a lab is made of.
    ///
    /// # Errors
    /// What he may not.
    pub(crate) async fn allowed(&self, is_there: bool) -> Result<()> {
        let mut kinds = KINDS.to_vec();
        if !is_there {
            kinds.push("namespaces");
        }
        let asked = kinds.iter().map(|kind| async {
            let in_it = ["--namespace", self.namespace.as_str()];
            let place: &[&str] = if *kind == "namespaces" { &[] } else { &in_it };
            let may = self.kubectl.says_yes(&[&["auth", "can-i", "create", kind], place].concat()).await?;
            Ok::<_, anyhow::Error>((!may).then_some(*kind))
        });
        let asked = futures::future::try_join_all(asked).await?;
        let denied: Vec<&str> = asked.into_iter().flatten().collect();
        if !denied.is_empty() {
            bail!(
                "the user of {} may not create {} for namespace {}.\n  Nothing was changed. Ask whoever runs the cluster for these rights.",
                self.name(),
                denied.join(", "),
                self.namespace
            );
        }
        Ok(())
    }

    /// The objects of a lab as one text.
    ///
    /// # Errors
    /// No such overlay, or kubectl's own words.
    pub(crate) async fn manifests(&self, root: &Path, choice: &Choice, images: &Images) -> Result<String> {
        let overlay = manifests::overlay(root, &self.lab, &choice.overlay)?;
        let annotations = BTreeMap::from([
            (OVERLAY, choice.overlay.clone()),
            (REGISTRY, choice.registry.clone()),
            (IMAGES, choice.images.name().to_owned()),
            (REPLICAS, serde_json::to_string(&choice.replicas)?),
        ]);
        let annotated = Some((self.namespace.as_str(), annotations));
        let Images { moved, absent } = images;
        let changes = Changes { annotated, moved, absent, replicas: &choice.replicas };
        Ok(manifests::unawaited(&self.built(&overlay, &changes).await?, absent))
    }

    async fn built(&self, folder: &Path, changes: &Changes<'_>) -> Result<String> {
        let folder = manifests::with(folder, changes)?;
        let path = folder.path().to_str().context("the folder for temporary files has no readable name")?;
        self.kubectl.run(&["kustomize", path], "").await
    }

    /// Has Kafka spread its partitions over all brokers; returns what the Job said.
    ///
    /// # Errors
    /// The Job failed: its last words.
    pub(crate) async fn move_partitions(&self, root: &Path, images: &Images) -> Result<String> {
        let folder = root.join(RENDERED_FOLDER).join(&self.lab).join(MOVE_PARTITIONS).canonicalize()?;
        let (absent, replicas) = (BTreeSet::new(), BTreeMap::new());
        let changes = Changes { annotated: None, moved: &images.moved, absent: &absent, replicas: &replicas };
        let objects = self.built(&folder, &changes).await?;
        let job = format!("job/{MOVE_PARTITIONS}");
        self.in_namespace(&["delete", &job, "--ignore-not-found"]).await?;
        self.kubectl.run(&["apply", "--filename", "-"], &objects).await?;
        let moved = eventually("the partitions are moved", PATIENCE, EVERY, || async {
            let found = parsed(&self.in_namespace(&["get", &job, "--output", "json"]).await?)?;
            let said = self.in_namespace(&["logs", &job, "--tail", "20"]).await;
            let said = said.unwrap_or_else(|error| format!("{error:#}"));
            Ok(if found["status"]["succeeded"] == 1 {
                Answer::Is(said)
            } else if has_failed(&found) {
                Answer::Never(anyhow::anyhow!("job {MOVE_PARTITIONS} failed:\n{said}"))
            } else {
                Answer::NotYet(said)
            })
        });
        Ok(moved.await?)
    }

    /// What of these objects is not there, or not so: `statefulset/kafka: spec.replicas is 2, not 1`.
    ///
    /// # Errors
    /// What the cluster does not take, in its words.
    pub(crate) async fn differing(&self, manifests: &str) -> Result<Vec<String>> {
        // A Job cannot be changed, and is made anew with all else.
        let (jobs, lasting) = manifests::jobs(manifests)?;
        let json = ["--output", "json", "--filename", "-"];
        let apply = [&["apply", "--dry-run=server", "--validate=strict"], &json[..]].concat();
        let wanted = self.kubectl.run(&apply, &lasting).await.map_err(|error| {
            let said = format!("{error:#}");
            let fixed = ["Forbidden: updates to", "immutable", "may not change"];
            if fixed.iter().any(|words| said.contains(words)) {
                error.context("what is there cannot be changed into this: remove the lab with its data first (./lab kube down)")
            } else {
                error
            }
        })?;
        let get = [&["get", "--ignore-not-found"], &json[..]].concat();
        let live = parsed(&self.kubectl.run(&get, &lasting).await?)?;
        let mut lines = drift::differing(&live, &parsed(&wanted)?);
        for job in jobs {
            let found =
                self.in_namespace(&["get", "job", &job, "--ignore-not-found", "--output", "json"]).await?;
            if found.trim().is_empty() {
                lines.push(format!("job/{job}: is not there"));
            } else if has_failed(&parsed(&found)?) {
                lines.push(format!("job/{job}: has failed"));
            }
        }
        Ok(lines)
    }

    /// Puts the objects there.
    ///
    /// # Errors
    /// What the cluster does not take, in its words.
    pub(crate) async fn apply(&self, manifests: &str) -> Result<()> {
        // A set-up that ran before changes nothing when it runs again.
        let (jobs, _) = manifests::jobs(manifests)?;
        if !jobs.is_empty() {
            let names: Vec<&str> = jobs.iter().map(String::as_str).collect();
            self.in_namespace(&[&["delete", "job", "--ignore-not-found"], &names[..]].concat()).await?;
        }
        self.kubectl.run(&["apply", "--validate=strict", "--filename", "-"], manifests).await?;
        Ok(())
    }

    async fn in_namespace(&self, arguments: &[&str]) -> Result<String> {
        self.kubectl.run(&[arguments, &["--namespace", &self.namespace]].concat(), "").await
    }

    /// How many pods a StatefulSet is to have; none where it is not there.
    ///
    /// # Errors
    /// The cluster does not answer.
    pub(crate) async fn replicas(&self, set: &str) -> Result<Option<u32>> {
        let arguments =
            ["get", "statefulset", set, "--ignore-not-found", "--output", "jsonpath={.spec.replicas}"];
        Ok(self.in_namespace(&arguments).await?.trim().parse().ok())
    }

    /// How every workload stands.
    ///
    /// # Errors
    /// The cluster does not answer.
    pub(crate) async fn standings(&self) -> Result<Vec<Standing>> {
        let kinds = format!("{WORKLOADS},pods,persistentvolumeclaims,events");
        let list = parsed(&self.in_namespace(&["get", &kinds, "--output", "json"]).await?)?;
        Ok(standings(&Seen::of(&list)))
    }

    /// Waits until every workload is ready; `say` hears of each.
    ///
    /// # Errors
    /// What does not go on by itself, with the object and what Kubernetes says of it.
    pub(crate) async fn ready(&self, say: impl Fn(Event)) -> Result<()> {
        let started = Instant::now();
        // Workload → since when it has been stuck.
        let mut stuck: BTreeMap<String, Instant> = BTreeMap::new();
        let mut told: BTreeMap<String, String> = BTreeMap::new();
        let question = format!("the lab {} on {}", self.lab, self.name());
        let waited = async {
            let mut ticks = tokio::time::interval(EVERY);
            let mut silent: Option<Instant> = None;
            loop {
                ticks.tick().await;
                // A moment without an answer is no answer.
                let mut standings = match self.standings().await {
                    Ok(standings) => standings,
                    Err(error) if silent.get_or_insert_with(Instant::now).elapsed() > STUCK => {
                        return Err(error);
                    }
                    Err(_) => continue,
                };
                silent = None;
                standings.retain(|standing| {
                    let name = &standing.workload;
                    let before = told.insert(name.clone(), standing.state.to_string());
                    if before.as_deref() != Some(&standing.state.to_string()) {
                        say(Event::Start(match &standing.state {
                            State::Ready => StartEvent::Ready(name.clone(), started.elapsed()),
                            State::Waits(what) | State::Stuck(what) => {
                                StartEvent::Waiting(name.clone(), vec![what.clone()])
                            }
                        }));
                    }
                    standing.state != State::Ready
                });
                if standings.is_empty() {
                    return Ok(());
                }
                let now_stuck = |standing: &Standing| match &standing.state {
                    State::Stuck(what) => Some((standing.workload.clone(), what.clone())),
                    _ => None,
                };
                let now: BTreeMap<String, String> = standings.iter().filter_map(now_stuck).collect();
                stuck.retain(|name, _| now.contains_key(name));
                for name in now.keys() {
                    stuck.entry(name.clone()).or_insert_with(Instant::now);
                }
                if stuck.values().any(|since| since.elapsed() > STUCK) {
                    let lines: Vec<String> =
                        now.iter().map(|(name, what)| format!("{name}: {what}")).collect();
                    bail!("{question} does not become ready:\n  {}", lines.join("\n  "));
                }
            }
        };
        tokio::time::timeout(PATIENCE, waited)
            .await
            .with_context(|| format!("{question} was not ready within {} min", PATIENCE.as_secs() / 60))?
    }

    /// Whether this machine's ports of the plan are free.
    ///
    /// # Errors
    /// One that is not.
    pub(crate) fn ports_are_free(plan: &Plan) -> Result<()> {
        forward::ports_are_free(plan)
    }

    /// Makes the lab reachable from this machine, at the ports of the plan, as long as the answer lives.
    ///
    /// # Errors
    /// A port of this machine that is taken.
    pub(crate) async fn forward(&self, plan: &Plan) -> Result<Forwards> {
        Forwards::open(&self.kubectl, &self.namespace, plan).await
    }

    /// Removes the lab with its data.
    ///
    /// # Errors
    /// What does not go away, in Kubernetes' words.
    pub(crate) async fn remove(&self) -> Result<()> {
        // A namespace that still has pods looks again only after half of a pod's last minute: they go first.
        let kinds = format!("{WORKLOADS},pods");
        self.in_namespace(&["delete", &kinds, "--all", "--wait=false"]).await?;
        let gone = eventually("the pods end", END, EVERY, || async {
            let left = self.in_namespace(&["get", "pods", "--output", "name"]).await?;
            let names: Vec<&str> = left.lines().collect();
            Ok(if names.is_empty() { Answer::Is(()) } else { Answer::NotYet(names.join(", ")) })
        });
        gone.await?;
        self.kubectl.run(&["delete", "namespace", &self.namespace, "--wait=false"], "").await?;
        let gone = eventually("the namespace goes away", END, EVERY, || async {
            let found = self.kubectl.find("namespace", &self.namespace).await?;
            Ok(found.map_or(Answer::Is(()), |left| Answer::NotYet(left["status"].to_string())))
        });
        gone.await?;
        Ok(())
    }
}

fn has_failed(job: &Value) -> bool {
    let conditions = job["status"]["conditions"].as_array().into_iter().flatten();
    conditions.into_iter().any(|condition| condition["type"] == "Failed" && condition["status"] == "True")
}

fn parsed(said: &str) -> Result<Value> {
    serde_json::from_str(said).context("kubectl's answer is no JSON")
}
