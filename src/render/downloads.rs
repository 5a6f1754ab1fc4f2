//! Every download that the project can cause, by coordinate, with what pins it: read from the files that pin, and from the
//! recipes that download. A download without a pin is a mistake.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use serde_json::Value;

/// A download and its pin.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Download {
    /// What is downloaded: `org.apache.kafka:kafka-clients:3.9.0`.
    pub coordinate: String,
    /// What pins it: a digest, a checksum.
    pub pin: String,
}

/// Downloads of one file that pins.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pinned {
    /// The file.
    pub file: String,
    /// What kind of downloads it pins.
    pub kind: &'static str,
    /// Each of them.
    pub downloads: Vec<Download>,
}

/// Every download, and every mistake. `files`: path from the project's root → text, of all files that pin or download.
pub fn downloads(files: &BTreeMap<String, String>) -> (Vec<Pinned>, Vec<String>) {
    let (mut pinned, mut mistakes) = (Vec::new(), Vec::new());
    for (path, text) in files {
        let name = path.rsplit('/').next().unwrap_or(path);
        let found: (&'static str, Vec<(String, Option<String>)>) = match name {
            "images.lock.json" => ("public images", images(text)),
            "flake.lock" => ("Nix inputs", nix(text)),
            "Cargo.lock" => ("crates", crates(text)),
            "go.sum" => ("Go modules", go(text)),
            "jars.sha256" => ("Maven artifacts", jars(text)),
            _ if name.starts_with("requirements") => ("Python packages", python(text)),
            _ if name.starts_with("debian-packages.") => ("Debian packages, signed besides", debian(text)),
            _ => {
                mistakes.extend(unpinned_steps(path, text, files));
                let rows = pinned_steps(text);
                if rows.is_empty() {
                    continue;
                }
                ("steps that name what they take", rows)
            }
        };
        let (kind, rows) = found;
        if rows.is_empty() {
            mistakes.push(format!("{path} pins nothing: is it malformed?"));
        }
        let mut downloads = Vec::new();
        for (coordinate, pin) in rows {
            match pin {
                Some(pin) => downloads.push(Download { coordinate, pin }),
                None => mistakes.push(format!("{path}: {coordinate} has no pin")),
            }
        }
        pinned.push(Pinned { file: path.clone(), kind, downloads });
    }
    (pinned, mistakes)
}

type Rows = Vec<(String, Option<String>)>;

fn hex(text: &str, digits: usize) -> Option<String> {
    let valid = text.len() == digits && text.bytes().all(|b| b.is_ascii_hexdigit());
    valid.then(|| text.to_owned())
}

fn sha256(text: &str) -> Option<String> {
    hex(text.strip_prefix("sha256:").unwrap_or(text), 64).map(|hex| format!("sha256:{hex}"))
}

fn images(text: &str) -> Rows {
    let lock: BTreeMap<String, Value> = serde_json::from_str(text).unwrap_or_default();
    lock.into_iter().map(|(name, e)| (name, e["index"].as_str().and_then(sha256))).collect()
}

fn nix(text: &str) -> Rows {
    let lock: Value = serde_json::from_str(text).unwrap_or_default();
    let nodes = lock["nodes"].as_object().into_iter().flatten().filter(|(name, _)| *name != "root");
    nodes
        .map(|(name, node)| {
            let locked = &node["locked"];
            let text = |key: &str| locked[key].as_str().unwrap_or_default();
            let pin = locked["narHash"].as_str().filter(|h| h.starts_with("sha256-") && h.len() == 51);
            let pin = pin.filter(|_| hex(text("rev"), 40).is_some()).map(str::to_owned);
            (format!("{name} {}/{} {}", text("owner"), text("repo"), text("rev")), pin)
        })
        .collect()
}

fn crates(text: &str) -> Rows {
    let lock: toml::Table = text.parse().unwrap_or_default();
    let packages = lock.get("package").and_then(|p| p.as_array()).into_iter().flatten();
    // The own crate is not downloaded.
    let foreign = packages.filter(|p| p.get("source").is_some());
    foreign
        .map(|package| {
            let text = |key: &str| package.get(key).and_then(|v| v.as_str()).unwrap_or_default();
            (format!("{} {}", text("name"), text("version")), sha256(text("checksum")))
        })
        .collect()
}

fn go(text: &str) -> Rows {
    let rows = text.lines().map(|line| {
        let mut words = line.split(' ');
        let (module, version, sum) = (words.next(), words.next(), words.next());
        let pin = sum.filter(|s| s.starts_with("h1:") && s.len() == 47).map(str::to_owned);
        (format!("{} {}", module.unwrap_or_default(), version.unwrap_or_default()), pin)
    });
    rows.collect()
}

/// `sha256  org/apache/kafka/kafka-clients/3.9.0/kafka-clients-3.9.0.jar`
fn jars(text: &str) -> Rows {
    let rows = text.lines().map(|line| {
        let (sum, path) = line.split_once("  ").unwrap_or(("", line));
        let parts: Vec<&str> = path.split('/').collect();
        let coordinate = match parts.as_slice() {
            [group @ .., artifact, version, file] if !group.is_empty() => {
                format!("{}:{artifact}:{version} ({file})", group.join("."))
            }
            // A file name alone does not say where it comes from.
            _ => return (path.to_owned(), None),
        };
        (coordinate, sha256(sum))
    });
    rows.collect()
}

fn python(text: &str) -> Rows {
    let rows = text.lines().filter(|l| !l.trim().is_empty() && !l.starts_with('#')).map(|line| {
        let (package, rest) = line.split_once(' ').unwrap_or((line, ""));
        let pin = rest.trim().strip_prefix("--hash=").and_then(sha256).filter(|_| package.contains("=="));
        (package.to_owned(), pin)
    });
    rows.collect()
}

fn debian(text: &str) -> Rows {
    let rows = text.lines().map(|line| {
        let mut words = line.split(' ');
        let (name, version) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
        (format!("{name} {version}"), words.next().and_then(sha256))
    });
    rows.collect()
}

/// Images and actions that a recipe or workflow names by digest itself.
fn pinned_steps(text: &str) -> Rows {
    let words = text.lines().filter_map(|line| {
        let line = line.trim();
        let word = line
            .strip_prefix("FROM ")
            .or_else(|| line.split_once("uses:").map(|(_, action)| action.trim()))?;
        word.split(' ').next()?.split_once('@')
    });
    let rows =
        words.filter_map(|(what, pin)| Some((what.to_owned(), Some(sha256(pin).or_else(|| hex(pin, 40))?))));
    let mut rows: Rows = rows.collect();
    rows.sort();
    rows.dedup();
    rows
}

/// What a recipe's or workflow's steps download without the file or the option that pins it. It knows the ways that are in
/// use, and refuses those that nothing could pin.
fn unpinned_steps(path: &str, text: &str, files: &BTreeMap<String, String>) -> Vec<String> {
    let folder = path.rsplit_once('/').map_or("", |(folder, _)| folder);
    let beside = |name: &str| files.keys().any(|p| p.starts_with(&format!("{folder}/{name}")));
    let holds = |word: &str| text.contains(word);
    let recipe = path.starts_with("compose/");
    let mut stages: Vec<String> = Vec::new();
    let mut mistakes = Vec::new();
    for (line, step) in steps(text) {
        let words: Vec<&str> = step.split(' ').collect();
        let has = |word: &str| words.contains(&word);
        let (first, second) = (words[0], words.get(1).copied().unwrap_or_default());
        let mut say = |what: &str| mistakes.push(format!("{path}:{line}: {what}"));
        if recipe && first == "from" {
            let base = words[1..].iter().find(|w| !w.starts_with("--")).copied().unwrap_or_default();
            if !is_known_image(base, &stages) {
                say("FROM names an image without a digest");
            }
            if let Some(at) = words.iter().position(|w| *w == "as") {
                stages.extend(words.get(at + 1).map(|w| (*w).to_owned()));
            }
        }
        let from = words.iter().find_map(|w| w.strip_prefix("--from="));
        if recipe && first == "copy" && from.is_some_and(|image| !is_known_image(image, &stages)) {
            say("COPY takes from an image without a digest");
        }
        if recipe && first == "arg" && second.contains('=') {
            say("an ARG with a default may be an image without a digest");
        }
        if recipe && (first == "add" || step.starts_with("git clone") || step.contains(" git clone")) {
            say("a download that nothing can pin: fetch it by a package manager with a lock");
        }
        if let Some((_, action)) = step.split_once("uses: ") {
            let pin = action.split(' ').next().unwrap_or_default();
            let sha = pin.split_once('@').and_then(|(_, sha)| hex(sha, 40).or_else(|| sha256(sha)));
            if !pin.starts_with("./") && sha.is_none() {
                say("an action without the SHA of its commit");
            }
        }
        let names =
            |program: &str| first != "copy" && words.iter().any(|w| w.rsplit('/').next() == Some(program));
        let packages = names("install-packages");
        let local = step.contains("http://localhost") || step.contains("http://127.0.0.1");
        let fetches = (names("curl") || names("wget")) && (recipe || step.contains("http")) && !local;
        if fetches && !has("install") && !packages {
            say("a download without a checksum");
        }
        if recipe && ["npm", "yarn", "gem", "gh", "apk", "dnf", "yum"].iter().any(|p| names(p)) {
            say("a package manager without a lock here");
        }
        // The scripts of the three kinds of recipe (`maven-jars` and so on) are checked as files of their own. The lists that they check
        // against lie beside the Dockerfile that calls them.
        let script = !path.rsplit('/').next().is_some_and(|name| name.starts_with("Dockerfile"));
        if names("mvn") && !((script || beside("jars.sha256")) && holds("sha256sum -c --strict"))
            || names("maven-jars") && !beside("jars.sha256")
        {
            say("Maven without a jars.sha256 that is checked");
        }
        let pip = names("pip") || names("pip3") || step.contains("-m pip");
        if pip && (has("install") || has("download")) && !has("--require-hashes") {
            say("pip without --require-hashes");
        }
        if names("go")
            && ["build", "install", "get", "run"].contains(&second)
            && !((script || beside("go.sum")) && holds("-mod=readonly"))
            || names("go-program") && !beside("go.sum")
        {
            say("Go without a go.sum that is held");
        }
        let recorded = beside("debian-packages.") && holds("&& /usr/share/streamlab/record-debian-packages");
        if recipe && (names("apt-get") || names("apt")) && has("install") && !recorded
            || packages && !beside("debian-packages.")
        {
            say("Debian packages that are not recorded");
        }
        if recipe && names("cargo") && (has("build") || has("install")) && !has("--locked") {
            say("cargo without --locked");
        }
    }
    mistakes
}

/// A recipe's own image by its argument, an earlier stage, nothing, or an image by digest.
fn is_known_image(image: &str, stages: &[String]) -> bool {
    let argument = image.strip_prefix("${").and_then(|rest| rest.strip_suffix('}'));
    argument.is_some_and(|name| name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_'))
        || image == "scratch"
        || stages.iter().any(|stage| stage == image)
        || image.contains("@sha256:")
}

/// Single commands, in lower case, with the line they begin on: lines that go on are joined, comments left out, and what a
/// shell runs one after the other is taken apart.
fn steps(text: &str) -> Vec<(usize, String)> {
    let mut whole: Vec<(usize, String)> = Vec::new();
    let mut goes_on = false;
    for (at, line) in text.lines().enumerate() {
        let line = line.trim();
        if ["#", "<!--", "//"].iter().any(|sign| line.starts_with(sign)) {
            continue;
        }
        let (part, more) = line.strip_suffix('\\').map_or((line, false), |part| (part, true));
        match whole.last_mut().filter(|_| goes_on) {
            Some((_, step)) => *step = format!("{step} {part}"),
            None => whole.push((at + 1, part.to_owned())),
        }
        goes_on = more;
    }
    let mut steps = Vec::new();
    for (line, step) in whole {
        let step = step.to_lowercase();
        let step = step.strip_prefix("run ").unwrap_or(&step).replace("&&", ";").replace("||", ";");
        for command in step.split([';', '|', '(', '`']) {
            let words: Vec<&str> = command.split_whitespace().collect();
            if !words.is_empty() {
                steps.push((line, words.join(" ")));
            }
        }
    }
    steps
}

/// The page of `docs/` that lists them.
pub(super) fn page(pinned: &[Pinned], head: &str) -> String {
    let mut page = format!(
        "{head}# Downloads\n\nEverything that this project can cause to be downloaded, and what pins it. A test fails on a download without a pin, and on\na recipe's or workflow's step that downloads past the files below. The pins here are cut to 16 characters; the files hold them whole.\n\nPinned by version only: Maven's own plugins (`maven-dependency-plugin` 3.8.1 and what it stands on), which fetch the artifacts\nbelow but put nothing into an image. Debian's packages are those of the day, checked against Debian's signatures; what they were at\nthe last review is listed here, and a build prints every difference. What the script `lab` installs on a host (an engine, a C compiler,\nmmdebstrap) is that host's distribution's, by its signatures.\n\n| kind | file | how many |\n|---|---|---|\n"
    );
    for part in pinned {
        let _ = writeln!(page, "| {} | `{}` | {} |", part.kind, part.file, part.downloads.len());
    }
    for part in pinned {
        let _ = write!(page, "\n## {} ({})\n\n| what | pin |\n|---|---|\n", part.file, part.kind);
        for download in &part.downloads {
            let short: String = download.pin.chars().take("sha256:".len() + 16).collect();
            let _ = writeln!(page, "| {} | `{short}` |", download.coordinate);
        }
    }
    page
}
