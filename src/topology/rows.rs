//! The documented rows of `lab.toml` that are tests: flows, command lines, faults and alerts.

use serde::Deserialize;
use toml::Spanned;

/// A documented data path and what its test proves.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Flow {
    /// Identifier, also the test's name.
    pub id: Spanned<String>,
    /// Stations from → through → to: a service or group, optionally `: what`, or `host: what`.
    pub path: Vec<Spanned<String>>,
    /// Services that are not on the path but must have run (set-up).
    #[serde(default)]
    pub needs: Vec<Spanned<String>>,
    /// What a passed test has shown.
    pub proves: String,
    /// Breaks something: runs after the others, never on an attached lab without leave.
    #[serde(default)]
    pub fault: bool,
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
    pub prints: String,
    /// Never ends by itself: it is stopped once the text was seen.
    #[serde(default)]
    pub follows: bool,
    /// Why ours differs.
    pub why: Option<String>,
    /// Disturbs the lab: runs after the flows.
    #[serde(default)]
    pub fault: bool,
}

/// Something that can be broken in a running lab, and put right again.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Fault {
    /// What people call it: `./lab fault NAME`.
    pub name: Spanned<String>,
    /// One line for people.
    pub about: String,
    /// What is done, in this order; it is undone in no order.
    pub steps: Vec<Step>,
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
    /// So many records are written into `financial_transactions` at once; they stay.
    Produce(u64),
}

impl Step {
    /// The services and groups that it touches.
    pub fn services(&self) -> &[String] {
        match self {
            Self::Kill(services)
            | Self::Pause(services)
            | Self::Cut { services, .. }
            | Self::Slow { services, .. } => services,
            Self::Produce(_) => &[],
        }
    }
}

/// In words, as something that is done.
impl std::fmt::Display for Step {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let names = self.services().join(", ");
        match self {
            Self::Kill(_) => write!(f, "kill {names}"),
            Self::Pause(_) => write!(f, "pause {names}"),
            Self::Cut { from, .. } if from.is_empty() => write!(f, "cut {names} from the network"),
            Self::Cut { from, .. } => write!(f, "cut {names} from {}", from.join(", ")),
            Self::Slow { kilobits, .. } => write!(f, "let {names} send at most {kilobits} kilobits a second"),
            Self::Produce(records) => write!(f, "write {records} records into financial_transactions"),
        }
    }
}

/// An alert and the fault that proves it.
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

impl Flow {
    /// Services and groups on the path, without the stations on the host.
    pub fn stations(&self) -> impl Iterator<Item = &str> {
        self.path.iter().map(|s| station(s.get_ref())).filter(|s| *s != "host")
    }
}

/// The part of a station before its colon: a service, a group, or `host`.
pub(super) fn station(text: &str) -> &str {
    text.split(':').next().unwrap_or(text).trim()
}
