//! Numbers as people read them: what a unit of Grafana means, and how many digits say something.

use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Result, bail};
use serde::Serialize;

/// What a number is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Unit {
    /// A number, as it is.
    None,
    /// A number, in thousands, millions, …
    Short,
    /// Part of one, as a percentage.
    Percent,
    /// Bytes, in powers of 1024.
    Bytes,
    /// Mebibytes, in powers of 1024.
    MebiBytes,
    /// Bytes a second, in powers of 1000.
    BytesPerSecond,
    /// Seconds.
    Seconds,
    /// Milliseconds.
    Milliseconds,
    /// Something a second, in thousands, millions, …
    PerSecond(&'static str),
    /// A number with a word behind it.
    Word(String),
    /// Milliseconds since 1970, as how long ago that is.
    Ago,
}

/// How the numbers of one axis are written: divided, with so many digits, and a word behind.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Scale {
    /// What each number is divided by.
    pub divisor: f64,
    /// What stands behind it, with its space.
    pub behind: String,
}

const THOUSANDS: [(f64, &str); 5] = [(1.0, ""), (1e3, "K"), (1e6, "Mil"), (1e9, "Bil"), (1e12, "Tri")];
const RATES: [(f64, &str); 5] = [(1.0, ""), (1e3, "K"), (1e6, "M"), (1e9, "B"), (1e12, "T")];
const KIBI: f64 = 1024.0;
const BYTES: [(f64, &str); 5] = [
    (1.0, "B"),
    (KIBI, "KiB"),
    (KIBI * KIBI, "MiB"),
    (KIBI * KIBI * KIBI, "GiB"),
    (KIBI * KIBI * KIBI * KIBI, "TiB"),
];
const BYTE_RATES: [(f64, &str); 5] =
    [(1.0, "B/s"), (1e3, "kB/s"), (1e6, "MB/s"), (1e9, "GB/s"), (1e12, "TB/s")];
/// In seconds.
const TIMES: [(f64, &str); 7] =
    [(1e-9, "ns"), (1e-6, "µs"), (1e-3, "ms"), (1.0, "s"), (60.0, "min"), (3600.0, "hour"), (86400.0, "day")];

impl Unit {
    /// By Grafana's name.
    ///
    /// # Errors
    /// One that is not drawn.
    pub(super) fn parse(name: &str) -> Result<Self> {
        Ok(match name {
            "none" => Self::None,
            "short" => Self::Short,
            "percentunit" => Self::Percent,
            "bytes" => Self::Bytes,
            "mbytes" => Self::MebiBytes,
            "Bps" => Self::BytesPerSecond,
            "s" => Self::Seconds,
            "ms" => Self::Milliseconds,
            "ops" => Self::PerSecond("ops/s"),
            "reqps" => Self::PerSecond("req/s"),
            "dateTimeFromNow" => Self::Ago,
            other => match other.strip_prefix("suffix:") {
                Some(word) => Self::Word(word.to_owned()),
                None => bail!("the unit {other:?} is not drawn"),
            },
        })
    }

    /// How numbers as large as `magnitude` are written.
    pub fn scale(&self, magnitude: f64) -> Scale {
        let spaced = |divisor: f64, word: &str| Scale {
            divisor,
            behind: if word.is_empty() { String::new() } else { format!(" {word}") },
        };
        let of = |steps: &[(f64, &str)], base: f64| {
            let large = magnitude.abs() * base;
            // The smallest step is for what is smaller than it, too.
            let step = steps.iter().rev().find(|(from, _)| large >= *from).or(steps.first());
            let (from, word) = step.copied().unwrap_or((1.0, ""));
            spaced(from / base, word)
        };
        match self {
            Self::None | Self::Ago => spaced(1.0, ""),
            Self::Short => of(&THOUSANDS, 1.0),
            Self::Percent => Scale { divisor: 0.01, behind: "%".to_owned() },
            Self::Bytes => of(&BYTES, 1.0),
            Self::MebiBytes => of(&BYTES, KIBI * KIBI),
            Self::BytesPerSecond => of(&BYTE_RATES, 1.0),
            Self::Seconds if magnitude == 0.0 => spaced(1.0, "s"),
            Self::Milliseconds if magnitude == 0.0 => spaced(1.0, "ms"),
            Self::Seconds => of(&TIMES, 1.0),
            Self::Milliseconds => of(&TIMES, 1e-3),
            Self::PerSecond(what) => {
                let Scale { divisor, behind } = of(&RATES, 1.0);
                Scale { divisor, behind: format!("{behind} {what}") }
            }
            Self::Word(word) => spaced(1.0, word),
        }
    }

    /// A number as people read it. `decimals`: digits after the point; as many as say something where absent.
    pub fn text(&self, number: f64, decimals: Option<usize>) -> String {
        if !number.is_finite() {
            return if number.is_nan() { "no number".to_owned() } else { number.to_string() };
        }
        if *self == Self::Ago {
            let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64();
            return ago(now - number / 1000.0);
        }
        let Scale { divisor, behind } = self.scale(number);
        digits(number / divisor, decimals) + &behind
    }
}

/// A number with so many digits after the point; or with three that say something, and none that is a zero at the end.
fn digits(number: f64, decimals: Option<usize>) -> String {
    if let Some(decimals) = decimals {
        return format!("{number:.decimals$}");
    }
    let large = number.abs();
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "between 0 and 12")]
    let after = if large == 0.0 { 0 } else { (2.0 - large.log10().floor()).clamp(0.0, 12.0) as usize };
    let text = format!("{number:.after$}");
    if text.contains('.') { text.trim_end_matches('0').trim_end_matches('.').to_owned() } else { text }
}

fn ago(seconds: f64) -> String {
    let (of, one) = TIMES.iter().rev().find(|(of, _)| *of >= 1.0 && seconds >= *of).unwrap_or(&TIMES[3]);
    format!("{} {one} ago", digits((seconds / of).floor().max(0.0), Some(0)))
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    #[rstest]
    #[case("none", 1234.0, "1234")]
    #[case("none", 0.0, "0")]
    #[case("none", 2.5, "2.5")]
    #[case("short", 1234.0, "1.23 K")]
    #[case("short", 999.0, "999")]
    #[case("short", 2_500_000.0, "2.5 Mil")]
    #[case("short", -1500.0, "-1.5 K")]
    #[case("short", 0.012_345, "0.0123")]
    #[case("percentunit", 0.5, "50%")]
    #[case("percentunit", 0.005_25, "0.525%")]
    #[case("bytes", 1536.0, "1.5 KiB")]
    #[case("bytes", 12.0, "12 B")]
    #[case("bytes", 3_221_225_472.0, "3 GiB")]
    #[case("mbytes", 2048.0, "2 GiB")]
    #[case("Bps", 1500.0, "1.5 kB/s")]
    #[case("s", 0.25, "250 ms")]
    #[case("s", 0.0, "0 s")]
    #[case("s", 90.0, "1.5 min")]
    #[case("ms", 1500.0, "1.5 s")]
    #[case("ms", 12.5, "12.5 ms")]
    #[case("ops", 2500.0, "2.5 K ops/s")]
    #[case("reqps", 3.0, "3 req/s")]
    #[case("suffix:records/s", 2500.0, "2500 records/s")]
    fn numbers_are_written_as_grafana_writes_them(
        #[case] unit: &str,
        #[case] number: f64,
        #[case] text: &str,
    ) {
        assert_eq!(Unit::parse(unit).unwrap().text(number, None), text);
    }

    #[test]
    fn what_is_no_number_says_so() {
        assert_eq!(Unit::Bytes.text(f64::NAN, None), "no number");
        assert_eq!(Unit::Bytes.text(f64::INFINITY, None), "inf");
        assert_eq!(Unit::None.text(3.0, Some(2)), "3.00");
        assert!(Unit::parse("furlongs").is_err());
    }

    #[test]
    fn a_moment_is_so_long_ago() {
        assert_eq!(
            [ago(5.4), ago(125.0), ago(7200.0), ago(-1.0)],
            ["5 s ago", "2 min ago", "2 hour ago", "0 s ago"]
        );
    }
}
