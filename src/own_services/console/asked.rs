//! What a request wants to see of a topic: the same words in the address of a page, of the API and of the form.

use serde::Deserialize;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use crate::clients::browse::{Begin, Filter, Wanted};

/// Records on a page where nobody says how many, and at most.
pub(super) const LIMIT: usize = 100;
const MOST: usize = 1000;

/// The query of an address. A form sends fields that nobody filled in as empty texts: they are as good as not there.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct Asked {
    /// `newest`, `oldest`, `offset`, `time`, or a place that an answer has given.
    pub(super) from: String,
    /// The offset or the time.
    pub(super) at: String,
    pub(super) partition: String,
    pub(super) limit: String,
    /// Part of the key.
    pub(super) key: String,
    /// Part of the value.
    pub(super) text: String,
    /// A field of the value: `user.id`.
    pub(super) field: String,
    /// What the field is.
    pub(super) is: String,
    /// `name` or `name=value`.
    pub(super) header: String,
}

impl Asked {
    /// The page of a topic that is meant, with at most so many letters of each key and value.
    pub(super) fn wanted(&self, topic: &str, letters: usize) -> Result<Wanted, String> {
        let given = |text: &str| (!text.is_empty()).then(|| text.to_owned());
        let partition = match self.partition.as_str() {
            "" => None,
            text => Some(text.parse().map_err(|_| format!("{text:?} is no partition: it is a number"))?),
        };
        let limit = match self.limit.as_str() {
            "" => LIMIT,
            text => match text.parse() {
                Ok(limit @ 1..=MOST) => limit,
                _ => return Err(format!("{text:?} is no limit: it is a number from 1 to {MOST}")),
            },
        };
        let field = match (given(&self.field), given(&self.is)) {
            (Some(field), is) => Some((field, is)),
            (None, Some(is)) => {
                return Err(format!("of which field is {is:?} the value? field=NAME says it"));
            }
            (None, None) => None,
        };
        let (key, text, header) = (given(&self.key), given(&self.text), given(&self.header));
        let filter = Filter { key, text, field, header };
        Ok(Wanted { topic: topic.to_owned(), partition, begin: self.begin()?, limit, letters, filter })
    }

    fn begin(&self) -> Result<Begin, String> {
        Ok(match self.from.as_str() {
            "" | "newest" => Begin::Newest,
            "oldest" => Begin::Oldest,
            "offset" => {
                let offset = self.at.parse().ok().filter(|offset| *offset >= 0);
                Begin::Offset(
                    offset.ok_or_else(|| format!("{:?} is no offset: it is a number from 0 on", self.at))?,
                )
            }
            "time" => Begin::Time(time(&self.at)?),
            cursor => Begin::Cursor(cursor.parse()?),
        })
    }

    /// The same as an address' query, without what is empty; the page begins at `from`.
    pub(super) fn query(&self, from: &str) -> String {
        let at = if matches!(from, "offset" | "time") { self.at.as_str() } else { "" };
        let fields = [
            ("from", from),
            ("at", at),
            ("partition", &self.partition),
            ("limit", &self.limit),
            ("key", &self.key),
            ("text", &self.text),
            ("field", &self.field),
            ("is", &self.is),
            ("header", &self.header),
        ];
        let mut query = url::form_urlencoded::Serializer::new(String::new());
        fields.iter().filter(|(_, value)| !value.is_empty()).for_each(|(name, value)| {
            query.append_pair(name, value);
        });
        query.finish()
    }

    /// Whether records are left out.
    pub(super) fn filters(&self) -> bool {
        [&self.key, &self.text, &self.field, &self.header].iter().any(|text| !text.is_empty())
    }
}

/// The last millisecond that a calendar has.
const LAST: i64 = 253_402_300_799_999;

/// Milliseconds since the epoch, from themselves or from ISO 8601; a time without a zone is UTC.
pub(super) fn time(text: &str) -> Result<i64, String> {
    let wrong = || format!("{text:?} is no time: write 2026-11-30T15:04:05Z, or milliseconds since 1970");
    let ms = match text.parse() {
        Ok(ms) => ms,
        Err(_) => {
            let at = OffsetDateTime::parse(&whole(text), &Rfc3339).map_err(|_| wrong())?;
            i64::try_from(at.unix_timestamp_nanos() / 1_000_000).map_err(|_| wrong())?
        }
    };
    if (0..=LAST).contains(&ms) { Ok(ms) } else { Err(wrong()) }
}

/// A day, a minute or a second as a whole time with its zone.
fn whole(text: &str) -> String {
    const DAY: usize = "2026-11-30".len();
    const MINUTE: usize = "2026-11-30T15:04".len();
    if text.len() == DAY {
        return format!("{text}T00:00:00Z");
    }
    let zone = text.get(DAY..).and_then(|time| time.find(['Z', 'z', '+', '-'])).map(|at| DAY + at);
    let (time, zone) = text.split_at(zone.unwrap_or(text.len()));
    let seconds = if time.len() == MINUTE { ":00" } else { "" };
    format!("{time}{seconds}{}", if zone.is_empty() { "Z" } else { zone })
}

/// A time for people: UTC, to the millisecond.
pub(super) fn shown(ms: i64) -> String {
    let format = time::macros::format_description!(
        "[year]-[month]-[day]T[hour]:[minute]:[second].[subsecond digits:3]Z"
    );
    let at = OffsetDateTime::from_unix_timestamp_nanos(i128::from(ms) * 1_000_000);
    at.ok().and_then(|at| at.format(format).ok()).unwrap_or_else(|| format!("{ms} ms since 1970"))
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    fn asked(query: &str) -> Result<Wanted, String> {
        serde_urlencoded(query).wanted("t", 10)
    }

    fn serde_urlencoded(query: &str) -> Asked {
        let uri = format!("http://x/?{query}").parse().unwrap();
        axum::extract::Query::try_from_uri(&uri).unwrap().0
    }

    #[test]
    fn a_form_that_nobody_filled_in_asks_for_the_newest() {
        let wanted = asked("from=&at=&partition=&limit=&key=&text=&field=&is=&header=").unwrap();
        assert_eq!((wanted.begin, wanted.partition, wanted.limit), (Begin::Newest, None, LIMIT));
        assert_eq!(wanted.filter, Filter::default());
    }

    #[rstest]
    #[case("from=offset&at=12", Begin::Offset(12))]
    #[case("from=time&at=1700000000123", Begin::Time(1_700_000_000_123))]
    #[case("from=time&at=2023-11-14T22:13:20Z", Begin::Time(1_700_000_000_000))]
    #[case("from=time&at=2023-11-14T22:13:20", Begin::Time(1_700_000_000_000))]
    #[case("from=time&at=2023-11-14T22:13", Begin::Time(1_699_999_980_000))]
    #[case("from=time&at=2023-11-14T23:13%2B01:00", Begin::Time(1_699_999_980_000))]
    #[case("from=time&at=2023-11-14T22:13:20.5Z", Begin::Time(1_700_000_000_500))]
    #[case("from=time&at=2023-11-14", Begin::Time(1_699_920_000_000))]
    #[case("from=oldest", Begin::Oldest)]
    fn a_page_begins_where_it_is_asked_to(#[case] query: &str, #[case] begin: Begin) {
        assert_eq!(asked(query).unwrap().begin, begin);
    }

    #[rstest]
    #[case("from=offset&at=-1", "no offset")]
    #[case("from=offset", "no offset")]
    #[case("from=time&at=yesterday", "no time")]
    #[case("from=time&at=-1", "no time")]
    #[case("from=time&at=-9223372036854775808", "no time")]
    #[case("from=time&at=2026-11-30T%C3%BC", "no time")]
    #[case("from=nowhere", "no place")]
    #[case("partition=x", "no partition")]
    #[case("limit=0", "no limit")]
    #[case("limit=1001", "no limit")]
    #[case("is=7", "of which field")]
    fn what_means_nothing_is_refused(#[case] query: &str, #[case] why: &str) {
        let said = asked(query).unwrap_err();
        assert!(said.contains(why), "{said}");
    }

    #[test]
    fn an_address_says_the_same_again() {
        let query = "from=offset&at=5&partition=1&key=a%27b&field=user.id&is=7";
        let asked = serde_urlencoded(query);
        assert_eq!(asked.query(&asked.from), query);
        assert_eq!(asked.query("after.0-3"), "from=after.0-3&partition=1&key=a%27b&field=user.id&is=7");
    }
}
