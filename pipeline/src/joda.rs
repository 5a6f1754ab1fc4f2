//! Dates by Joda's letters, as Logstash's date filter and its `%{+…}` have them: those with digits, and names of months and days in English.

use time::{Date, Month, OffsetDateTime, PrimitiveDateTime, Time, UtcOffset};

/// A format, read once.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Joda(Vec<Part>);

#[derive(Debug, Clone, PartialEq, Eq)]
enum Part {
    Text(String),
    /// A letter, and how often it stands there.
    Letters(char, usize),
}

const KNOWN: &str = "yYMdHmsSEDZ";

/// What was read of a date so far.
#[derive(Default)]
struct Read {
    year: Option<i32>,
    month: Option<Month>,
    day: Option<u8>,
    hour: u8,
    minute: u8,
    second: u8,
    nanosecond: u32,
    offset: Option<UtcOffset>,
}

const MONTHS: [&str; 12] =
    ["jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec"];
const DAYS: [&str; 7] = ["mon", "tue", "wed", "thu", "fri", "sat", "sun"];

impl Joda {
    /// Reads a format.
    ///
    /// # Errors
    /// A letter that is not known here.
    pub(crate) fn parse(format: &str) -> Result<Self, String> {
        let mut parts: Vec<Part> = Vec::new();
        let mut rest = format;
        let mut text = String::new();
        while let Some(c) = rest.chars().next() {
            if c == '\'' {
                // Two quotes are one; otherwise a quoted text.
                let inside = &rest[1..];
                let end = inside.find('\'').ok_or_else(|| format!("{format:?}: a quote is not closed"))?;
                text.push_str(if end == 0 { "'" } else { &inside[..end] });
                rest = &inside[end + 1..];
            } else if c.is_ascii_alphabetic() {
                if !KNOWN.contains(c) {
                    return Err(format!("{format:?}: the letter {c} is not known here; known are {KNOWN}"));
                }
                if !text.is_empty() {
                    parts.push(Part::Text(std::mem::take(&mut text)));
                }
                let count = rest.chars().take_while(|other| *other == c).count();
                parts.push(Part::Letters(c, count));
                rest = &rest[count..];
            } else {
                text.push(c);
                rest = &rest[c.len_utf8()..];
            }
        }
        if !text.is_empty() {
            parts.push(Part::Text(text));
        }
        Ok(Self(parts))
    }

    /// A date by this format must say its year: Logstash guesses it, and is wrong around New Year.
    pub(crate) fn has_year(&self) -> bool {
        self.0.iter().any(|part| matches!(part, Part::Letters('y' | 'Y', _)))
    }

    /// Reads a date. A zone in the text wins over `zone`.
    pub(crate) fn read(&self, text: &str, zone: UtcOffset) -> Option<OffsetDateTime> {
        let mut read = Read::default();
        let mut rest = text;
        for (at, part) in self.0.iter().enumerate() {
            rest = match part {
                Part::Text(wanted) => rest.strip_prefix(wanted.as_str())?,
                Part::Letters(letter, count) => {
                    // Without something between, the next number begins where this one has its digits.
                    let tight = matches!(self.0.get(at + 1), Some(Part::Letters(..)));
                    read.part(*letter, *count, tight, rest)?
                }
            };
        }
        if !rest.is_empty() {
            return None;
        }
        read.date(zone)
    }

    /// Writes a time, which is in UTC.
    pub(crate) fn write(&self, time: OffsetDateTime) -> String {
        let mut text = String::new();
        for part in &self.0 {
            match part {
                Part::Text(words) => text.push_str(words),
                Part::Letters(letter, count) => text.push_str(&written(*letter, *count, time)),
            }
        }
        text
    }
}

fn written(letter: char, count: usize, time: OffsetDateTime) -> String {
    let padded = |number: i64| format!("{number:0count$}");
    match letter {
        'y' | 'Y' if count == 2 => format!("{:02}", time.year() % 100),
        'y' | 'Y' => padded(time.year().into()),
        'M' if count > 3 => time.month().to_string(),
        'M' if count == 3 => time.month().to_string().chars().take(3).collect(),
        'M' => padded(u8::from(time.month()).into()),
        'E' if count > 3 => time.weekday().to_string(),
        'E' => time.weekday().to_string().chars().take(3).collect(),
        'd' => padded(time.day().into()),
        'D' => padded(time.ordinal().into()),
        'H' => padded(time.hour().into()),
        'm' => padded(time.minute().into()),
        's' => padded(time.second().into()),
        'S' => {
            format!("{:09}", time.nanosecond()).chars().chain(std::iter::repeat('0')).take(count).collect()
        }
        _ => if count > 1 { "+00:00" } else { "+0000" }.to_owned(),
    }
}

impl Read {
    /// Reads one part; what is left of the text.
    fn part<'a>(&mut self, letter: char, count: usize, tight: bool, text: &'a str) -> Option<&'a str> {
        let most = match letter {
            'y' | 'Y' if !tight => 9,
            'S' => count,
            _ if tight => count,
            _ => count.max(2),
        };
        let digits = text.bytes().take(most).take_while(u8::is_ascii_digit).count();
        let number = |digits: usize| text.get(..digits).and_then(|d| d.parse::<u32>().ok());
        match letter {
            'y' | 'Y' => {
                let year = i32::try_from(number(digits)?).ok()?;
                // Two digits: the century in which it is nearest to now is not guessed, but ours.
                self.year = Some(if digits <= 2 { 2000 + year } else { year });
            }
            'M' if count >= 3 => {
                let name = text.get(..3)?.to_ascii_lowercase();
                let at = MONTHS.iter().position(|month| *month == name)?;
                self.month = Month::try_from(u8::try_from(at + 1).ok()?).ok();
                let letters = text.bytes().take_while(u8::is_ascii_alphabetic).count();
                return text.get(if count > 3 { letters } else { 3 }..);
            }
            'E' => {
                let name = text.get(..3)?.to_ascii_lowercase();
                DAYS.iter().position(|day| *day == name)?;
                let letters = text.bytes().take_while(u8::is_ascii_alphabetic).count();
                return text.get(if count > 3 { letters } else { 3 }..);
            }
            'M' => self.month = Some(Month::try_from(u8::try_from(number(digits)?).ok()?).ok()?),
            'd' => self.day = Some(u8::try_from(number(digits)?).ok()?),
            'H' => self.hour = u8::try_from(number(digits)?).ok()?,
            'm' => self.minute = u8::try_from(number(digits)?).ok()?,
            's' => self.second = u8::try_from(number(digits)?).ok()?,
            // Exactly so many digits.
            'S' if digits == count => {
                self.nanosecond = format!("{:0<9}", text.get(..digits)?).get(..9)?.parse().ok()?;
            }
            'Z' => {
                let (offset, rest) = zone(text)?;
                self.offset = Some(offset);
                return Some(rest);
            }
            _ => return None,
        }
        text.get(digits..)
    }

    fn date(self, zone: UtcOffset) -> Option<OffsetDateTime> {
        let date =
            Date::from_calendar_date(self.year?, self.month.unwrap_or(Month::January), self.day.unwrap_or(1))
                .ok()?;
        let time = Time::from_hms_nano(self.hour, self.minute, self.second, self.nanosecond).ok()?;
        let there = PrimitiveDateTime::new(date, time).assume_offset(self.offset.unwrap_or(zone));
        // A year near the ends of what can be written may leave it by its zone.
        there.checked_to_offset(UtcOffset::UTC)
    }
}

/// Two digits at the head of a text, and what is left of it.
fn two(text: &str) -> Option<(i8, &str)> {
    let digits = text.get(..2).filter(|d| d.bytes().all(|b| b.is_ascii_digit()))?;
    Some((digits.parse().ok()?, &text[2..]))
}

/// `Z`, `+0200`, `+02:00` or `+02` at the head of a text, and what is left of it.
pub(crate) fn zone(text: &str) -> Option<(UtcOffset, &str)> {
    if let Some(rest) = text.strip_prefix('Z') {
        return Some((UtcOffset::UTC, rest));
    }
    let sign: i8 = match text.bytes().next()? {
        b'+' => 1,
        b'-' => -1,
        _ => return None,
    };
    let (hours, rest) = two(&text[1..])?;
    let after = rest.strip_prefix(':').unwrap_or(rest);
    let (minutes, rest) = two(after).unwrap_or((0, rest));
    Some((UtcOffset::from_hms(sign * hours, sign * minutes, 0).ok()?, rest))
}

/// A date in ISO 8601: `T` or a space between, `.` or `,` before the fraction, a zone or none.
pub(crate) fn iso8601(text: &str, zone_of_text: UtcOffset) -> Option<OffsetDateTime> {
    let bytes = text.as_bytes();
    let number = |from: usize, digits: usize| -> Option<u32> {
        let part = text.get(from..from + digits)?;
        part.bytes().all(|b| b.is_ascii_digit()).then(|| part.parse().ok())?
    };
    let is = |at: usize, any: &[u8]| bytes.get(at).is_some_and(|b| any.contains(b));
    if !(is(4, b"-") && is(7, b"-")) {
        return None;
    }
    let mut read = Read {
        year: i32::try_from(number(0, 4)?).ok(),
        month: Month::try_from(u8::try_from(number(5, 2)?).ok()?).ok(),
        day: u8::try_from(number(8, 2)?).ok(),
        ..Read::default()
    };
    read.month?;
    let mut rest = text.get(10..)?;
    if is(10, b"T ") && is(13, b":") {
        read.hour = u8::try_from(number(11, 2)?).ok()?;
        read.minute = u8::try_from(number(14, 2)?).ok()?;
        rest = text.get(16..)?;
        if is(16, b":") {
            read.second = u8::try_from(number(17, 2)?).ok()?;
            rest = text.get(19..)?;
            if let Some(fraction) = rest.strip_prefix(['.', ',']) {
                let digits = fraction.bytes().take_while(u8::is_ascii_digit).count();
                let nine: String = fraction.chars().take(digits.min(9)).collect();
                read.nanosecond = format!("{nine:0<9}").parse().ok().filter(|_| digits > 0)?;
                rest = &fraction[digits..];
            }
        }
        if let Some((offset, after)) = zone(rest) {
            read.offset = Some(offset);
            rest = after;
        }
    }
    if rest.is_empty() { read.date(zone_of_text) } else { None }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use rstest::rstest;
    use time::format_description::well_known::Rfc3339;

    use super::*;

    fn read(format: &str, text: &str) -> String {
        let found = Joda::parse(format).map(|format| format.read(text, UtcOffset::UTC));
        match found {
            Ok(Some(time)) => time.format(&Rfc3339).unwrap_or_default(),
            Ok(None) => "no date".to_owned(),
            Err(why) => why,
        }
    }

    #[rstest]
    #[case::kafka("yyyy-MM-dd HH:mm:ss,SSS", "2026-11-30 10:00:05,017", "2026-11-30T10:00:05.017Z")]
    #[case::with_its_zone(
        "yyyy-MM-dd'T'HH:mm:ss.SSSZ",
        "2026-11-30T10:00:05.118+0200",
        "2026-11-30T08:00:05.118Z"
    )]
    #[case::of_a_web_server("dd/MMM/yyyy:HH:mm:ss Z", "30/Nov/2026:10:00:05 -0500", "2026-11-30T15:00:05Z")]
    #[case::without_a_space("yyyyMMddHHmmss", "20261130100005", "2026-11-30T10:00:05Z")]
    #[case::with_a_day("EEE MMM dd HH:mm:ss yyyy", "Mon Nov 30 10:00:05 2026", "2026-11-30T10:00:05Z")]
    #[case::two_digits_of_three("ss.SSS yyyy", "05.01 2026", "no date")]
    #[case::four_digits_of_three("yyyy ss.SSS", "2026 05.0123", "no date")]
    #[case::no_such_day("yyyy-MM-dd", "2026-02-30", "no date")]
    #[case::more_behind_it("yyyy-MM-dd", "2026-11-30 and", "no date")]
    #[case::an_unknown_letter(
        "yyyy-ww",
        "2026-1",
        "\"yyyy-ww\": the letter w is not known here; known are yYMdHmsSEDZ"
    )]
    fn a_date_is_read(#[case] format: &str, #[case] text: &str, #[case] time: &str) {
        assert_eq!(read(format, text), time);
    }

    #[rstest]
    #[case::with_a_comma("2026-11-30 10:00:05,017", "2026-11-30T10:00:05.017Z")]
    #[case::with_a_zone("2026-11-30T10:00:05+02:00", "2026-11-30T08:00:05Z")]
    #[case::many_digits("2026-11-30T10:00:05.1234567891Z", "2026-11-30T10:00:05.123456789Z")]
    #[case::a_day("2026-11-30", "2026-11-30T00:00:00Z")]
    #[case::no_date("30.11.2026", "no date")]
    #[case::half("2026-11-30T10", "no date")]
    fn iso8601_is_read(#[case] text: &str, #[case] time: &str) {
        let found = iso8601(text, UtcOffset::UTC).map(|t| t.format(&Rfc3339).unwrap_or_default());
        assert_eq!(found.as_deref().unwrap_or("no date"), time);
    }

    proptest! {
        #[test]
        fn what_is_written_is_read_again(seconds in 0_i64..4_000_000_000, milli in 0_i64..1000) {
            let time = OffsetDateTime::UNIX_EPOCH + time::Duration::seconds(seconds) + time::Duration::milliseconds(milli);
            for format in ["yyyy-MM-dd HH:mm:ss,SSS", "yyyyMMddHHmmssSSS", "EEE dd MMM yyyy HH:mm:ss.SSS Z"] {
                let format = Joda::parse(format).map_err(TestCaseError::fail)?;
                prop_assert_eq!(format.read(&format.write(time), UtcOffset::UTC), Some(time));
            }
        }

        #[test]
        fn no_text_makes_it_panic(text in "\\PC*", format in "[yMdHmsSEZ' :.-]{0,12}") {
            if let Ok(format) = Joda::parse(&format) {
                format.read(&text, UtcOffset::UTC);
            }
            iso8601(&text, UtcOffset::UTC);
        }
    }
}
