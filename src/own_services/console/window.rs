//! The time that a chart shows: as an address says it, in steps that every page has alike.

use serde::Serialize;
use time::OffsetDateTime;

use super::asked::time;

/// Moments of a chart: enough for a wide screen.
const MOMENTS: i64 = 180;
/// How often Prometheus looks: what lies between two looks is not known.
pub(super) const LOOKS: i64 = 5;
/// The longest time, in seconds.
const LONGEST: i64 = 30 * 86400;

/// From and to, in seconds since 1970, multiples of the step between two moments: the same question from two pages is one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
pub(super) struct Window {
    pub(super) start: i64,
    pub(super) end: i64,
    pub(super) step: i64,
    /// The very end, which need not be a multiple.
    pub(super) until: i64,
}

impl Window {
    /// Of `from` and `to` as Grafana writes them (`now-15m`, `now`), as times, or as milliseconds since 1970.
    ///
    /// # Errors
    /// A text that is no time, or a time that ends before it begins or is too long.
    pub(super) fn of(from: &str, to: &str) -> Result<Self, String> {
        let now = OffsetDateTime::now_utc().unix_timestamp();
        let (start, end) = (moment(from, now)?, moment(to, now)?);
        let seconds = end - start;
        if !(1..=LONGEST).contains(&seconds) {
            return Err(format!("from {from:?} to {to:?}: a chart shows between a second and 30 days"));
        }
        let step = (seconds / MOMENTS + LOOKS - 1).max(LOOKS) / LOOKS * LOOKS;
        Ok(Self { start: start / step * step, end: end / step * step, step, until: end })
    }

    /// The moments.
    pub(super) fn times(&self) -> impl Iterator<Item = i64> {
        (self.start..=self.end).step_by(usize::try_from(self.step).unwrap_or(1))
    }

    /// Where a moment stands among them; none for one that is not.
    pub(super) fn place(&self, at: i64) -> Option<usize> {
        let after = at.checked_sub(self.start)?;
        (at <= self.end && after % self.step == 0).then(|| usize::try_from(after / self.step).ok()).flatten()
    }

    /// Over how many seconds a rate is asked for: as Grafana chooses it where Prometheus looks every five.
    pub(super) fn rate_interval(&self) -> i64 {
        (self.step + LOOKS).max(4 * LOOKS)
    }
}

fn moment(text: &str, now: i64) -> Result<i64, String> {
    let wrong = || {
        format!("{text:?} is no time: write now-15m, now-6h, now-2d, or a time such as 2026-11-30T15:04:05Z")
    };
    let Some(before) = text.strip_prefix("now") else { return Ok(time(text).map_err(|_| wrong())? / 1000) };
    if before.is_empty() {
        return Ok(now);
    }
    let amount = before.strip_prefix('-').ok_or_else(wrong)?;
    let unit = amount.chars().last().ok_or_else(wrong)?;
    let digits = amount.strip_suffix(unit).filter(|digits| digits.chars().all(|c| c.is_ascii_digit()));
    let seconds = match unit {
        's' => 1,
        'm' => 60,
        'h' => 3600,
        'd' => 86400,
        _ => return Err(wrong()),
    };
    let number: i64 = digits.and_then(|digits| digits.parse().ok()).ok_or_else(wrong)?;
    let ago = number.checked_mul(seconds).filter(|ago| (0..=now).contains(ago)).ok_or_else(wrong)?;
    Ok(now - ago)
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    #[rstest]
    #[case("now-15m", 5)]
    #[case("now-5m", 5)]
    #[case("now-1h", 20)]
    #[case("now-6h", 120)]
    #[case("now-1d", 480)]
    fn a_chart_has_so_many_moments_that_a_screen_can_show_them(#[case] from: &str, #[case] step: i64) {
        let window = Window::of(from, "now").unwrap();
        assert_eq!(window.step, step);
        assert_eq!((window.start % step, window.end % step), (0, 0));
        assert_eq!(window.times().count(), usize::try_from((window.end - window.start) / step + 1).unwrap());
        assert_eq!(window.place(window.start + step), Some(1));
        assert_eq!(window.place(window.start + 1), None);
        assert_eq!(window.place(window.end + step), None);
    }

    #[test]
    fn times_and_milliseconds_are_moments_too() {
        let window = Window::of("2023-11-14T22:00Z", "1700000000000").unwrap();
        assert_eq!(
            window,
            Window { start: 1_699_999_200, end: 1_700_000_000, step: 5, until: 1_700_000_000 }
        );
        assert_eq!((window.rate_interval(), Window { step: 120, ..window }.rate_interval()), (20, 125));
    }

    #[rstest]
    #[case("now", "now")]
    #[case("now", "now-15m")]
    #[case("now-31d", "now")]
    #[case("now-15", "now")]
    #[case("now-15ü", "now")]
    #[case("now-", "now")]
    #[case("now+15m", "now")]
    #[case("now--15m", "now")]
    #[case("now-+15m", "now")]
    #[case("now-15mmm", "now")]
    #[case("now-9223372036854775807d", "now")]
    #[case("yesterday", "now")]
    #[case("", "now")]
    fn what_is_no_time_is_refused(#[case] from: &str, #[case] to: &str) {
        assert!(Window::of(from, to).is_err());
    }
}
