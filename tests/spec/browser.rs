//! Chromium from an image of the lab's own, for trials that open pages as people do; and what a page did that it should not have done.

use std::path::Path;
use std::process::Stdio;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use chromiumoxide::cdp::browser_protocol::emulation::{
    MediaFeature, SetDeviceMetricsOverrideParams, SetEmulatedMediaParams,
};
use chromiumoxide::cdp::browser_protocol::log::EventEntryAdded;
use chromiumoxide::cdp::browser_protocol::network::EventRequestWillBeSent;
use chromiumoxide::cdp::js_protocol::runtime::EventExceptionThrown;
use chromiumoxide::handler::HandlerConfig;
use chromiumoxide::page::ScreenshotParams;
use chromiumoxide::{Browser, Page};
use futures::StreamExt as _;
use streamlab::engine::{INSTANCE_LABEL, recipe_images};
use streamlab::probes::{Answer, eventually};
use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::process::{Child, Command};
use tokio::sync::{Semaphore, SemaphorePermit};

use crate::lab::Lab;
use crate::trial::PATIENCE;

const EVERY: Duration = Duration::from_millis(100);
static STARTED: AtomicU32 = AtomicU32::new(0);
/// A browser takes a whole processor: one after the other is as fast as all at once, and none is late.
static ALONE: Semaphore = Semaphore::const_new(1);
/// Where the image has axe.
const AXE: &str = "/usr/share/streamlab/axe.min.js";
/// What axe finds on a page, a line each: the rule, how bad it is, and the first elements.
const VIOLATIONS: &str = "axe.run({ resultTypes: ['violations'] }).then((found) => found.violations.map((rule) => \
    `${rule.id} (${rule.impact}), ${rule.help}: ${rule.nodes.slice(0, 3).map((node) => node.target.join(' ')).join('; ')}`).join('\\n'))";

/// A running Chromium. It ends with this value.
pub(crate) struct Chromium {
    browser: Browser,
    /// `docker run`: the container ends with it.
    _client: Child,
    container: String,
    /// What says of a page what people cannot use.
    axe: Arc<str>,
    _alone: SemaphorePermit<'static>,
}

/// An open page, with what went wrong on it and what it asked for.
pub(crate) struct Opened {
    page: Page,
    wrong: Arc<Mutex<Vec<String>>>,
    asked: Arc<Mutex<Vec<String>>>,
    axe: Arc<str>,
}

impl Chromium {
    pub(crate) async fn start(lab: &Lab) -> Result<Self> {
        let alone = ALONE.acquire().await?;
        let recipes = recipe_images(&lab.project, &lab.engine()?.arch)?;
        let image = recipes.iter().find(|i| i.name == "chromium").context("no recipe chromium")?;
        let instance = lab.plan.instance.name();
        // Trials beside each other have one each.
        let number = STARTED.fetch_add(1, Ordering::Relaxed);
        let container = lab.plan.instance.container(&format!("chromium-{}-{number}", std::process::id()));
        let mut command = Command::new("docker");
        // On the host's own network, for there the published ports are `localhost`, and the console answers to no other name.
        command.args(["run", "--rm", "--network", "host", "--memory", "1g", "--name", &container]);
        command.args(["--label", &format!("{INSTANCE_LABEL}={instance}")]).arg(&image.reference);
        command.args(["chromium", "--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"]);
        command.args([
            "--remote-debugging-port=0",
            "--renderer-process-limit=2",
            "--no-first-run",
            "--window-size=1280,900",
            "about:blank",
        ]);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped()).kill_on_drop(true);
        let mut client = command.spawn().context("docker cannot be run")?;
        let said = client.stderr.take().context("no standard error")?;
        let mut lines = BufReader::new(said).lines();
        let listening = async {
            let mut all = String::new();
            while let Some(line) = lines.next_line().await? {
                if let Some(address) = line.strip_prefix("DevTools listening on ") {
                    return Ok(address.to_owned());
                }
                all += &format!("{line}\n");
            }
            bail!("Chromium ended:\n{all}")
        };
        let address =
            tokio::time::timeout(PATIENCE, listening).await.context("Chromium does not listen")??;
        // Whoever does not read what it says would make it wait.
        tokio::spawn(async move { while let Ok(Some(_)) = lines.next_line().await {} });
        let config = HandlerConfig { request_timeout: PATIENCE, ..HandlerConfig::default() };
        let (browser, mut handler) = Browser::connect_with_config(address, config).await?;
        tokio::spawn(async move { while handler.next().await.is_some() {} });
        let axe = Command::new("docker").args(["exec", &container, "cat", AXE]).output().await?;
        let axe = String::from_utf8(axe.stdout).context("axe is no text")?.into();
        Ok(Self { browser, _client: client, container, axe, _alone: alone })
    }

    pub(crate) async fn open(&self, url: &str) -> Result<Opened> {
        let page = self.browser.new_page("about:blank").await?;
        let (wrong, asked) = (Arc::<Mutex<Vec<String>>>::default(), Arc::<Mutex<Vec<String>>>::default());
        let mut requests = page.event_listener::<EventRequestWillBeSent>().await?;
        let mut exceptions = page.event_listener::<EventExceptionThrown>().await?;
        let mut entries = page.event_listener::<EventEntryAdded>().await?;
        let (to_asked, to_wrong) = (Arc::clone(&asked), Arc::clone(&wrong));
        tokio::spawn(async move {
            loop {
                tokio::select! {
                    Some(request) = requests.next() => held(&to_asked).push(request.request.url.clone()),
                    Some(thrown) = exceptions.next() => {
                        held(&to_wrong).push(format!("{:?}", thrown.exception_details));
                    }
                    Some(entry) = entries.next() => held(&to_wrong).push(format!("{:?}", entry.entry)),
                    else => break,
                }
            }
        });
        page.enable_log().await?;
        page.enable_runtime().await?;
        let opened = Opened { page, wrong, asked, axe: Arc::clone(&self.axe) };
        opened.screen(1280, 900).await?;
        opened.go(url).await?;
        Ok(opened)
    }
}

impl Drop for Chromium {
    fn drop(&mut self) {
        let removed = std::process::Command::new("docker").args(["rm", "--force", &self.container]).output();
        drop(removed);
    }
}

fn held<T>(list: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    list.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Opened {
    pub(crate) async fn go(&self, url: &str) -> Result<()> {
        self.page.goto(url).await.with_context(|| format!("{url} does not open"))?;
        Ok(())
    }

    /// Sets the size of the screen.
    pub(crate) async fn screen(&self, width: i64, height: i64) -> Result<()> {
        self.page.execute(SetDeviceMetricsOverrideParams::new(width, height, 1.0, false)).await?;
        Ok(())
    }

    /// What a script gives, as text.
    pub(crate) async fn says(&self, script: &str) -> Result<String> {
        let found = self.page.evaluate(script).await.with_context(|| script.to_owned())?;
        Ok(match found.value() {
            Some(serde_json::Value::String(text)) => text.clone(),
            Some(other) => other.to_string(),
            None => "undefined".to_owned(),
        })
    }

    /// Waits until a script gives a text.
    pub(crate) async fn until(&self, script: &str, wanted: &str) -> Result<()> {
        eventually(&format!("{script} is {wanted:?}"), PATIENCE, EVERY, || async {
            let seen = self.says(script).await?;
            Ok(if seen == wanted { Answer::Is(()) } else { Answer::NotYet(seen) })
        })
        .await?;
        Ok(())
    }

    pub(crate) async fn click(&self, selector: &str) -> Result<()> {
        self.page.find_element(selector).await.with_context(|| selector.to_owned())?.click().await?;
        Ok(())
    }

    pub(crate) async fn press(&self, key: &str, selector: &str) -> Result<()> {
        let at = self.page.find_element(selector).await.with_context(|| selector.to_owned())?;
        at.press_key(key).await?;
        Ok(())
    }

    pub(crate) async fn write(&self, selector: &str, text: &str) -> Result<()> {
        let field = self.page.find_element(selector).await.with_context(|| selector.to_owned())?;
        field.click().await?.type_str(text).await?;
        Ok(())
    }

    /// Nothing was asked of anybody but `own`, no script failed, and the browser had nothing to say.
    pub(crate) fn is_clean(&self, own: &str) -> Result<()> {
        let elsewhere: Vec<String> = held(&self.asked)
            .iter()
            .filter(|url| !url.starts_with(own) && *url != "about:blank")
            .cloned()
            .collect();
        let wrong = held(&self.wrong).clone();
        if !elsewhere.is_empty() || !wrong.is_empty() {
            bail!("asked of elsewhere: {elsewhere:?}; wrong: {wrong:?}");
        }
        Ok(())
    }

    /// What axe finds on the page, a line each; empty where it finds nothing.
    pub(crate) async fn keeps_out(&self) -> Result<String> {
        self.page.evaluate(self.axe.as_ref()).await.context("axe does not run")?;
        self.says(VIOLATIONS).await
    }

    /// Keeps how the page looks, light and dark. Nobody is kept out of either: axe finds nothing.
    pub(crate) async fn keep(&self, folder: &Path, name: &str) -> Result<()> {
        std::fs::create_dir_all(folder)?;
        // A page is loaded again when a service or an alert changes. What is looked at here stays: from then on nothing is in the way.
        let stays = "(changing = true, new Promise((go) => setTimeout(() => go(String(changing)), 200)))";
        self.until(stays, "true").await?;
        for scheme in ["light", "dark"] {
            let feature = MediaFeature { name: "prefers-color-scheme".to_owned(), value: scheme.to_owned() };
            self.page.execute(SetEmulatedMediaParams::builder().feature(feature).build()).await?;
            let picture = self.page.screenshot(ScreenshotParams::builder().build()).await?;
            std::fs::write(folder.join(format!("{name}-{scheme}.png")), picture)?;
            let found = self.keeps_out().await?;
            if !found.is_empty() {
                bail!("the page {name}, {scheme}, keeps people out:\n{found}");
            }
        }
        // On a narrow screen a page is read from the top to the bottom, and never from the left to the right.
        self.screen(360, 800).await?;
        let narrow = "document.documentElement.scrollWidth <= 360";
        self.until(narrow, "true").await.with_context(|| format!("the page {name}"))?;
        self.screen(1280, 900).await?;
        self.says("changing = false").await?;
        Ok(())
    }
}
