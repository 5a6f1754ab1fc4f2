//! The documented rows of `lab.toml` that are tests: topics, flows, command lines, faults and alerts. A row belongs to every
//! lab that has all its stations.

use std::collections::BTreeMap;

use serde::Deserialize;
use toml::Spanned;

/// A topic that the set-up makes.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Topic {
    /// Its name.
    pub name: Spanned<String>,
    /// One line for people.
    pub about: String,
    /// Labs with this scenario have it; every lab where absent.
    pub scenario: Option<Spanned<String>>,
    /// Number of partitions.
    pub partitions: i32,
    /// Replicas of each partition; where absent as many as there are brokers, and at most [`MOST_REPLICAS`].
    pub replicas: Option<Spanned<i32>>,
    /// Settings beside the cluster's defaults.
    #[serde(default)]
    pub config: BTreeMap<String, String>,
}

/// Most replicas of a partition where a topic does not say how many.
pub(super) const MOST_REPLICAS: i32 = 3;

/// A documented data path and what its test proves.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Flow {
    /// Identifier, also the test's name.
    pub id: Spanned<String>,
    /// Stations from → through → to: a role, service or group, or several side by side as `a + b`, optionally `: what`; or `host: what`.
    pub path: Vec<Spanned<String>>,
    /// Roles, services or groups that are not on the path but must have run (set-up).
    #[serde(default)]
    pub needs: Vec<Spanned<String>>,
    /// Topics that the lab must have.
    #[serde(default)]
    pub topics: Vec<Spanned<String>>,
    /// What a passed test has shown.
    pub proves: String,
    /// The test asks the engine too (a command inside a container, a log), not only endpoints.
    #[serde(default)]
    pub engine: bool,
    /// Services and groups that the test disturbs: it runs after the others, and on an attached lab only with `--faults`.
    #[serde(default)]
    pub breaks: Vec<Spanned<String>>,
    /// The fault whose episode this test looks at.
    pub fault: Option<Spanned<String>>,
}

/// A documented command line and what it must print.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Command {
    /// Identifier, also the test's name.
    pub id: Spanned<String>,
    /// As the seed prints it, where ours differs.
    pub seed: Option<String>,
    /// What we run.
    pub run: Spanned<String>,
    /// Text that the output must hold.
    pub prints: Spanned<String>,
    /// Never ends by itself: it is stopped once the text was seen.
    #[serde(default)]
    pub follows: bool,
    /// Why ours differs.
    pub why: Option<String>,
    /// Roles, services or groups that the lab must have, beside those that the line names by its tokens.
    #[serde(default)]
    pub needs: Vec<Spanned<String>>,
    /// Services and groups that it disturbs: it runs after the flows.
    #[serde(default)]
    pub breaks: Vec<Spanned<String>>,
}

/// Something that can be broken in a running lab, and put right again.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Fault {
    /// What people call it: `./lab fault NAME`.
    pub name: Spanned<String>,
    /// One line for people.
    pub about: String,
    /// What is done, in this order. Undoing has no order.
    pub steps: Vec<Step>,
    /// Services and groups that must not be disturbed meanwhile, beside those that the steps name.
    #[serde(default)]
    pub stands_on: Vec<Spanned<String>>,
    /// Alerts that fire too, and that nobody is told about because the fault's own says it all.
    #[serde(default)]
    pub holds_back: Vec<Spanned<String>>,
}

/// One step of a fault. Services and groups by name.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub enum Step {
    /// SIGKILL; undone by starting them again.
    Kill(Vec<String>),
    /// Their processes die as if by themselves, so that the engine starts them again: nothing has to be undone. Of our own images,
    /// where the first process is not the service.
    Crash(Vec<String>),
    /// All their processes stand still; undone by letting them go on.
    Pause(Vec<String>),
    /// No packet from these services reaches those others; every address of the lab where `from` is empty.
    Cut {
        /// Whose packets are dropped.
        services: Vec<String>,
        /// Which addresses they cannot reach.
        #[serde(default)]
        from: Vec<String>,
    },
    /// What these services send is held to a rate.
    Slow {
        /// Whose packets are held back.
        services: Vec<String>,
        /// Kilobits a second of each.
        kilobits: u32,
    },
    /// Elasticsearch is set otherwise than it should be; undone by taking the settings back and removing the index.
    Search {
        /// Which services are set so.
        services: Vec<String>,
        /// Settings of the cluster.
        settings: BTreeMap<String, String>,
        /// An index that is made after that.
        index: Option<String>,
    },
    /// So many records of a scenario are written at once; they stay.
    Produce {
        /// The scenario.
        scenario: String,
        /// How many.
        records: u64,
    },
}

impl Step {
    /// The services and groups that it touches.
    pub fn services(&self) -> &[String] {
        match self {
            Self::Kill(services)
            | Self::Crash(services)
            | Self::Pause(services)
            | Self::Cut { services, .. }
            | Self::Slow { services, .. }
            | Self::Search { services, .. } => services,
            Self::Produce { .. } => &[],
        }
    }

    /// The services and groups that it touches, and those that it cuts them from.
    pub fn disturbs(&self) -> impl Iterator<Item = &String> {
        let from = if let Self::Cut { from, .. } = self { from.as_slice() } else { &[] };
        self.services().iter().chain(from)
    }
}

/// In words, as something that is done.
impl std::fmt::Display for Step {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let names = self.services().join(", ");
        match self {
            Self::Kill(_) => write!(f, "kill {names}"),
            Self::Crash(_) => write!(f, "end the processes of {names} inside"),
            Self::Pause(_) => write!(f, "pause {names}"),
            Self::Cut { from, .. } if from.is_empty() => write!(f, "cut {names} from the network"),
            Self::Cut { from, .. } => write!(f, "cut {names} from {}", from.join(", ")),
            Self::Slow { kilobits, .. } => write!(f, "let {names} send at most {kilobits} kilobits a second"),
            Self::Search { settings, .. } => {
                let settings: Vec<_> =
                    settings.iter().map(|(name, value)| format!("{name}={value}")).collect();
                write!(f, "set {} in {names}", settings.join(", "))
            }
            Self::Produce { scenario, records } => write!(f, "write {records} records of {scenario}"),
        }
    }
}

/// An alert, and the fault that raises it.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Alert {
    /// Its name in the rules.
    pub name: Spanned<String>,
    /// One line for people.
    pub about: String,
    /// The fault that raises it; none where no fault of a lab can.
    pub fault: Option<Spanned<String>>,
    /// Why no fault raises it.
    pub why: Option<String>,
}

impl Fault {
    /// Services and groups that its steps touch, and those that they are cut from.
    pub fn disturbs(&self) -> impl Iterator<Item = &str> {
        self.steps.iter().flat_map(Step::disturbs).map(String::as_str)
    }

    /// Services and groups that must not be disturbed meanwhile.
    pub fn undisturbed(&self) -> impl Iterator<Item = &str> {
        self.stands_on.iter().map(|s| s.get_ref().as_str())
    }
}

impl Flow {
    /// Roles, services and groups on the path and beside it, without the stations on the host.
    pub fn stations(&self) -> impl Iterator<Item = &str> {
        let on_path = self.path.iter().flat_map(|s| stations(s.get_ref())).filter(|s| *s != HOST);
        on_path.chain(self.needs.iter().map(|n| n.get_ref().as_str()))
    }

    /// It disturbs the lab.
    pub fn disturbs(&self) -> bool {
        !self.breaks.is_empty() || self.fault.is_some()
    }
}

/// The station that is no service: a program on the machine itself.
pub(super) const HOST: &str = "host";

/// What a station names before its colon: a role, a service or a group, several with `+` between them, or `host`.
pub(super) fn stations(text: &str) -> impl Iterator<Item = &str> {
    text.split(':').next().unwrap_or(text).split('+').map(str::trim)
}
