//! Building the images of recipes: what is missing, in the order they stand on each other, with progress.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail};
use console::strip_ansi_codes;
use futures::{StreamExt, TryStreamExt};
use testcontainers::bollard::query_parameters::{
    BuildImageOptionsBuilder, CreateImageOptionsBuilder, RemoveContainerOptionsBuilder,
};
use testcontainers::bollard::{body_full, body_try_stream, models::ContainerCreateBody};
use tokio::sync::watch;

use super::recipe::{RecipeImage, host_arguments, pip_index, recipe_images};
use super::{Engine, RECIPE_LABEL};
use crate::lock::Lock;
use crate::project::{Project, lock_entries};

/// Release of Debian that the images stand on.
const DEBIAN: &str = "trixie";
/// Where recipes leave the list of their Debian packages.
const PACKAGES_FILE: &str = "/usr/share/streamlab/debian-packages";

/// What happens while images are built.
#[derive(Debug, Clone)]
pub enum BuildEvent {
    /// A recipe's build began or came to a new step.
    Step {
        /// Recipe.
        recipe: String,
        /// Such as `3/9 RUN …`.
        step: String,
    },
    /// A recipe's image is there.
    Built {
        /// Recipe.
        recipe: String,
        /// How long it took.
        took: Duration,
        /// Debian packages that differ from those recorded, a line each.
        drift: Vec<String>,
    },
}

/// Builds what is missing of `wanted` recipes and of what they stand on, each as soon as what it stands on is there.
///
/// # Errors
/// The first build that fails, with its last lines.
pub async fn build_images(
    engine: &Engine,
    project: &Project,
    wanted: &BTreeSet<String>,
    events: impl Fn(BuildEvent) + Sync,
) -> Result<()> {
    let images: BTreeMap<String, RecipeImage> =
        recipe_images(project, &engine.arch)?.into_iter().map(|i| (i.name.clone(), i)).collect();
    let mut missing = BTreeSet::new();
    let mut open: Vec<&String> = wanted.iter().collect();
    while let Some(name) = open.pop() {
        let image = images.get(name).with_context(|| format!("no recipe named {name}"))?;
        if !missing.contains(name) && engine.image_id(&image.reference).await?.is_none() {
            missing.insert(name.clone());
            open.extend(image.recipe.from.iter().map(toml::Spanned::get_ref));
        }
    }
    let built: BTreeMap<&str, watch::Sender<bool>> =
        missing.iter().map(|name| (name.as_str(), watch::channel(false).0)).collect();
    let builds = missing.iter().map(|name| {
        let (built, images, events) = (&built, &images, &events);
        async move {
            for from in &images[name].recipe.from {
                if let Some(base) = built.get(from.get_ref().as_str()) {
                    base.subscribe().wait_for(|is| *is).await?;
                }
            }
            engine.build(project, images, &images[name], events).await?;
            built[name.as_str()].send_replace(true);
            anyhow::Ok(())
        }
    });
    futures::future::try_join_all(builds).await?;
    Ok(())
}

impl Engine {
    async fn build(
        &self,
        project: &Project,
        images: &BTreeMap<String, RecipeImage>,
        image: &RecipeImage,
        events: &(impl Fn(BuildEvent) + Sync),
    ) -> Result<()> {
        let start = Instant::now();
        let say = |step: &str| {
            events(BuildEvent::Step { recipe: image.name.clone(), step: step.to_owned() });
        };
        say("preparing");
        let mut arguments = host_arguments();
        for from in &image.recipe.from {
            let name = from.get_ref();
            arguments.insert(name.to_uppercase().replace('-', "_"), images[name].reference.clone());
        }
        if image.recipe.host_settings {
            arguments.extend(pip_index());
        }
        if let Some(reference) = &image.recipe.debian {
            let lock = lock_entries(&project.root)?;
            arguments.insert("DEBIAN".to_owned(), self.debian(reference, &lock, &say).await?);
        }
        let options = BuildImageOptionsBuilder::new()
            .dockerfile(dockerfile(image))
            .t(&image.reference)
            .rm(true)
            .forcerm(true)
            .buildargs(&arguments.into_iter().collect::<HashMap<_, _>>())
            .labels(&HashMap::from([(RECIPE_LABEL.to_owned(), image.name.clone())]))
            .build();
        let mut output =
            self.docker.build_image(options, None, Some(body_full(image.context(project)?.into())));
        let mut tail: Vec<String> = Vec::new();
        while let Some(line) = output.next().await {
            let failed = match line {
                Err(error) => Some(error.to_string()),
                Ok(info) => {
                    // The engine colours what a step says on its standard error.
                    let said = info.stream.unwrap_or_default();
                    for text in strip_ansi_codes(&said).lines().filter(|l| !l.trim().is_empty()) {
                        match text.strip_prefix("Step ") {
                            Some(step) => say(step),
                            None => tail.push(text.to_owned()),
                        }
                    }
                    info.error_detail.map(|e| e.message.unwrap_or_default())
                }
            };
            if let Some(why) = failed {
                return Err(build_failure(&image.name, &tail, &why));
            }
        }
        if image.has_program {
            // Every edit of the program makes a new own image: old ones that no container uses are removed at once.
            for old in self.built_images().await? {
                if let Some(reference) =
                    old.reference.filter(|r| old.recipe == image.name && *r != image.reference)
                {
                    let _ = self.remove_image(&reference).await;
                }
            }
        }
        let drift = self.debian_drift(image).await?;
        events(BuildEvent::Built { recipe: image.name.clone(), took: start.elapsed(), drift });
        Ok(())
    }

    /// A Debian root file system as a local image: the public one, by digest, where an image registry answers, otherwise
    /// bootstrapped from Debian's packages (their signatures are checked by apt).
    async fn debian(&self, reference: &str, lock: &Lock, say: &impl Fn(&str)) -> Result<String> {
        let bootstrapped = format!("streamlab/debian:{DEBIAN}-{}", self.arch);
        if self.image_id(&bootstrapped).await?.is_some() {
            return Ok(bootstrapped);
        }
        say(&format!("asking the image registry for {reference}"));
        if let Ok(pulled) = self.pull_pinned(reference, lock, &|_| ()).await {
            return Ok(pulled);
        }
        say("no image registry answers: bootstrapping Debian from its packages (mmdebstrap)");
        let folder = tempfile::Builder::new().prefix("streamlab-debian-").tempdir()?;
        let archive = folder.path().join("rootfs.tar");
        let made = tokio::process::Command::new("mmdebstrap")
            .args(["--quiet", "--variant=minbase", "--include=ca-certificates"])
            .args(
                ["/usr/share/doc/*", "/usr/share/man/*", "/usr/share/locale/*"]
                    .map(|path| format!("--dpkgopt=path-exclude={path}")),
            )
            .arg(DEBIAN)
            .arg(&archive)
            .args(std::env::var("LAB_DEBIAN_MIRROR").ok())
            .stdin(std::process::Stdio::null())
            .kill_on_drop(true)
            .output()
            .await;
        let imported = match made {
            Err(e) => Err(anyhow!(
                "no image registry answers, and mmdebstrap cannot be run ({e}).\n  sudo apt-get install mmdebstrap debian-archive-keyring"
            )),
            Ok(run) if !run.status.success() => {
                let text = String::from_utf8_lossy(&run.stderr);
                let lines: Vec<String> = text.lines().map(str::to_owned).collect();
                Err(build_failure("debian", &lines, &format!("mmdebstrap: {}", run.status)))
            }
            Ok(_) => self.import(&archive, &bootstrapped).await,
        };
        imported.map(|()| bootstrapped)
    }

    async fn import(&self, archive: &std::path::Path, reference: &str) -> Result<()> {
        let (repo, tag) = reference.rsplit_once(':').unwrap_or((reference, "latest"));
        let file = tokio::fs::File::open(archive).await?;
        let chunks = futures::stream::try_unfold(file, |mut file| async move {
            use tokio::io::AsyncReadExt as _;
            let mut chunk = vec![0; 1 << 20];
            let read = file.read(&mut chunk).await?;
            chunk.truncate(read);
            Ok::<_, std::io::Error>((read > 0).then(|| (chunk.into(), file)))
        });
        let options = CreateImageOptionsBuilder::new()
            .from_src("-")
            .repo(repo)
            .tag(tag)
            .changes(vec![format!("LABEL {RECIPE_LABEL}=debian")])
            .build();
        let done: Vec<_> = self
            .docker
            .create_image(Some(options), Some(body_try_stream(chunks)), None)
            .try_collect()
            .await
            .map_err(|e| build_failure("debian", &[], &e.to_string()))?;
        if done.iter().any(|d| d.error_detail.is_some()) {
            bail!("the engine refused the Debian root file system: {done:?}");
        }
        Ok(())
    }

    /// Lines such as `openjdk-21-jre-headless 21.0.13 (recorded 21.0.12)`.
    async fn debian_drift(&self, image: &RecipeImage) -> Result<Vec<String>> {
        let Some(recorded) = image.recorded_packages(&self.arch) else { return Ok(Vec::new()) };
        let found = self.file_of_image(&image.reference, PACKAGES_FILE).await?;
        let parse = |text: &str| -> BTreeMap<String, String> {
            let pairs = text.lines().filter_map(|l| l.split_once(' '));
            pairs.map(|(n, v)| (n.to_owned(), v.to_owned())).collect()
        };
        let (recorded, found) = (parse(&recorded), parse(&found));
        let names: BTreeSet<_> = recorded.keys().chain(found.keys()).collect();
        let drift = names.into_iter().filter(|n| recorded.get(*n) != found.get(*n)).map(|name| {
            let show = |v: Option<&String>| v.map_or("absent", String::as_str).to_owned();
            let (now, then) = (show(found.get(name)), show(recorded.get(name)));
            let version = |v: &str| v.split(' ').next().unwrap_or_default().to_owned();
            if version(&now) == version(&then) {
                format!("{name} {}: other bytes than recorded ({now}, {then})", version(&now))
            } else {
                format!("{name} {} (recorded {})", version(&now), version(&then))
            }
        });
        Ok(drift.collect())
    }

    /// The text of a file in an image.
    async fn file_of_image(&self, reference: &str, path: &str) -> Result<String> {
        // Never started; the engine wants a command all the same.
        let cmd = Some(vec!["true".to_owned()]);
        let body = ContainerCreateBody { image: Some(reference.to_owned()), cmd, ..Default::default() };
        let container = self
            .docker
            .create_container(None::<testcontainers::bollard::query_parameters::CreateContainerOptions>, body)
            .await?;
        let bytes = self.file_of(&container.id, path).await;
        let remove = RemoveContainerOptionsBuilder::new().force(true).v(true).build();
        self.docker.remove_container(&container.id, Some(remove)).await?;
        Ok(String::from_utf8(bytes.with_context(|| format!("{reference} has no {path}"))?)?)
    }
}

/// On Linux the own image gets the program that runs now; elsewhere it is compiled inside (never run so far).
fn dockerfile(image: &RecipeImage) -> &'static str {
    if image.recipe.program && !cfg!(target_os = "linux") { "Dockerfile.from-source" } else { "Dockerfile" }
}

/// What is said of causes that are not the recipe's, by what they make tools say.
const HINTS: [(&[&str], &str); 3] = [
    (
        &["o space left on device"],
        "The disk is full: `./lab images remove --old` and `docker system df` say what can go.",
    ),
    (
        &["is not valid yet", "not yet valid", "is expired (invalid since", "certificate has expired"],
        "This machine's clock may be wrong (see: date): a package registry's signature or certificate does not hold at that time.",
    ),
    (
        &[
            "Temporary failure",
            "Could not resolve",
            "Connection refused",
            "timed out",
            "Network is unreachable",
        ],
        "A package registry did not answer. Behind a proxy, set HTTP_PROXY/HTTPS_PROXY; then run it again: finished steps are kept.",
    ),
];

fn build_failure(recipe: &str, tail: &[String], why: &str) -> anyhow::Error {
    let last = tail.iter().rev().take(12).rev().map(|l| format!("  | {l}")).collect::<Vec<_>>().join("\n");
    let said = tail.join("\n") + why;
    let hint = HINTS.iter().find(|(signs, _)| signs.iter().any(|sign| said.contains(sign)));
    let hint = hint.map(|(_, hint)| format!("\n  {hint}")).unwrap_or_default();
    anyhow!("image {recipe} could not be built: {}\n{last}{hint}", why.trim())
}

#[cfg(test)]
mod tests {
    use super::build_failure;

    #[test]
    fn a_failed_build_says_its_last_lines_and_what_to_do() {
        let lines: Vec<String> = (0..40).map(|n| format!("line {n}")).collect();
        let full = build_failure("spark", &lines, "write /opt/x: no space left on device").to_string();
        assert!(
            full.contains("image spark could not be built") && full.contains("The disk is full"),
            "{full}"
        );
        assert!(full.contains("line 39") && !full.contains("line 20"), "{full}");
        let cut = build_failure("kafka", &["Could not resolve host: repo".to_owned()], "code 6").to_string();
        assert!(cut.contains("A package registry did not answer") && cut.lines().count() < 24, "{cut}");
        let late =
            ["E: Release file for trixie/InRelease is not valid yet (invalid for another 59min)".to_owned()];
        let late = build_failure("base", &late, "code 100").to_string();
        assert!(late.contains("clock may be wrong"), "{late}");
        let other = build_failure("base", &[], "code 1").to_string();
        assert!(!other.contains("registry") && !other.contains("disk"), "{other}");
    }
}
