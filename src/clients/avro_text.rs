//! Avro values as text that people read: JSON, with every logical type as what it means. Money keeps its digits, and NaN is no error.

use std::collections::HashMap;
use std::fmt::Write as _;

use apache_avro::schema::{Name, Schema};
use apache_avro::types::Value;
use apache_avro::{BigDecimal, Decimal};
use streamlab_records::text::hexadecimal;
use time::format_description::well_known::Rfc3339;
use time::{Date, Duration, Month, OffsetDateTime, Time};

/// Types by name: a schema names a type anew where it uses it again.
type Named<'a> = HashMap<&'a Name, &'a Schema>;

/// A value of `schema` as JSON text. Bytes are in hexadecimal, times as RFC 3339 has them.
pub(super) fn text(value: &Value, schema: &Schema) -> String {
    let mut named = Named::new();
    name(schema, &mut named);
    let mut out = String::new();
    write(&mut out, value, schema, &named);
    out
}

fn name<'a>(schema: &'a Schema, named: &mut Named<'a>) {
    if let Some(of) = schema.name() {
        if matches!(schema, Schema::Ref { .. }) {
            return;
        }
        named.insert(of, schema);
    }
    match schema {
        Schema::Record(record) => record.fields.iter().for_each(|field| name(&field.schema, named)),
        Schema::Array(array) => name(&array.items, named),
        Schema::Map(map) => name(&map.types, named),
        Schema::Union(union) => union.variants().iter().for_each(|variant| name(variant, named)),
        _ => {}
    }
}

fn write(out: &mut String, value: &Value, schema: &Schema, named: &Named<'_>) {
    let schema = match schema {
        Schema::Ref { name } => named.get(name).copied().unwrap_or(schema),
        other => other,
    };
    match (value, schema) {
        (Value::Union(at, inner), Schema::Union(union)) => {
            let variant = union.variants().get(*at as usize).unwrap_or(schema);
            write(out, inner, variant, named);
        }
        (Value::Record(fields), _) => {
            let schemas: HashMap<&str, &Schema> = match schema {
                Schema::Record(record) => {
                    record.fields.iter().map(|f| (f.name.as_str(), &f.schema)).collect()
                }
                _ => HashMap::new(),
            };
            let fields = fields.iter().map(|(name, v)| (name, v, schemas.get(name.as_str()).copied()));
            object(out, fields, named);
        }
        (Value::Map(entries), _) => {
            let of = if let Schema::Map(map) = schema { Some(&*map.types) } else { None };
            let mut entries: Vec<_> = entries.iter().map(|(name, v)| (name, v, of)).collect();
            entries.sort_by_key(|(name, ..)| *name);
            object(out, entries.into_iter(), named);
        }
        (Value::Array(items), _) => {
            let of = if let Schema::Array(array) = schema { &array.items } else { &Schema::Null };
            out.push('[');
            for (number, item) in items.iter().enumerate() {
                if number > 0 {
                    out.push(',');
                }
                write(out, item, of, named);
            }
            out.push(']');
        }
        (Value::Decimal(decimal), Schema::Decimal(of)) => {
            let scale = i64::try_from(of.scale).unwrap_or_default();
            out.push_str(&with_scale(decimal, scale));
        }
        (scalar, _) => self::scalar(out, scalar),
    }
}

fn object<'a>(
    out: &mut String,
    fields: impl Iterator<Item = (&'a String, &'a Value, Option<&'a Schema>)>,
    named: &Named<'_>,
) {
    out.push('{');
    for (number, (name, value, schema)) in fields.enumerate() {
        if number > 0 {
            out.push(',');
        }
        quoted(out, name);
        out.push(':');
        write(out, value, schema.unwrap_or(&Schema::Null), named);
    }
    out.push('}');
}

fn scalar(out: &mut String, value: &Value) {
    match value {
        Value::Boolean(is) => _ = write!(out, "{is}"),
        Value::Int(n) => _ = write!(out, "{n}"),
        Value::Long(n) => _ = write!(out, "{n}"),
        Value::Float(n) => float(out, f64::from(*n), n),
        Value::Double(n) => float(out, *n, n),
        Value::Bytes(bytes) | Value::Fixed(_, bytes) => quoted(out, &hexadecimal(bytes)),
        Value::String(text) | Value::Enum(_, text) => quoted(out, text),
        Value::Decimal(decimal) => out.push_str(&with_scale(decimal, 0)),
        Value::BigDecimal(number) => out.push_str(&number.to_plain_string()),
        Value::Date(days) => quoted(out, &date(*days)),
        Value::TimeMillis(ms) => quoted(out, &time_of_day(i64::from(*ms).saturating_mul(1_000_000))),
        Value::TimeMicros(us) => quoted(out, &time_of_day(us.saturating_mul(1_000))),
        Value::TimestampMillis(n) => quoted(out, &instant(*n, 1_000_000, true)),
        Value::TimestampMicros(n) => quoted(out, &instant(*n, 1_000, true)),
        Value::TimestampNanos(n) => quoted(out, &instant(*n, 1, true)),
        Value::LocalTimestampMillis(n) => quoted(out, &instant(*n, 1_000_000, false)),
        Value::LocalTimestampMicros(n) => quoted(out, &instant(*n, 1_000, false)),
        Value::LocalTimestampNanos(n) => quoted(out, &instant(*n, 1, false)),
        Value::Duration(d) => {
            let [months, days, millis] = [u32::from(d.months()), u32::from(d.days()), u32::from(d.millis())];
            quoted(out, &format!("{months} months {days} days {millis} ms"));
        }
        Value::Uuid(id) => quoted(out, &id.to_string()),
        // The others have been written by their schema, or are null.
        _ => out.push_str("null"),
    }
}

/// JSON has no NaN and no infinity: they stand as texts.
fn float(out: &mut String, number: f64, shown: &impl std::fmt::Debug) {
    if number.is_finite() {
        _ = write!(out, "{shown:?}");
    } else {
        quoted(out, &number.to_string());
    }
}

fn with_scale(decimal: &Decimal, scale: i64) -> String {
    BigDecimal::new(decimal.clone().into(), scale).to_plain_string()
}

fn quoted(out: &mut String, text: &str) {
    out.push_str(&serde_json::Value::from(text).to_string());
}

fn date(days: i32) -> String {
    let epoch = Date::from_calendar_date(1970, Month::January, 1).unwrap_or(Date::MIN);
    let found = epoch.checked_add(Duration::days(days.into()));
    found.map_or_else(|| format!("day {days}"), |date| date.to_string())
}

fn time_of_day(nanos: i64) -> String {
    let within = u64::try_from(nanos).ok().filter(|n| *n < 86_400_000_000_000);
    let time = within.and_then(|n| {
        let (seconds, nanos) =
            (u32::try_from(n / 1_000_000_000).ok()?, u32::try_from(n % 1_000_000_000).ok()?);
        let part = |of: u32| u8::try_from(of).ok();
        let (hour, minute) = (part(seconds / 3600)?, part(seconds / 60 % 60)?);
        Time::from_hms_nano(hour, minute, part(seconds % 60)?, nanos).ok()
    });
    time.map_or_else(|| format!("{nanos} ns"), |time| time.to_string())
}

fn instant(count: i64, nanos: i128, has_zone: bool) -> String {
    let at = OffsetDateTime::from_unix_timestamp_nanos(i128::from(count) * nanos).ok();
    match at.and_then(|at| at.format(&Rfc3339).ok()) {
        Some(text) if has_zone => text,
        // A local time is nobody's instant.
        Some(text) => text.trim_end_matches('Z').to_owned(),
        None => count.to_string(),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]
mod tests {
    use proptest::prelude::*;
    use rstest::rstest;

    use super::*;

    fn of(schema: &str, value: Value) -> String {
        text(&value, &Schema::parse_str(schema).unwrap())
    }

    fn decimal(number: i64) -> Value {
        Value::Decimal(Decimal::from(number.to_be_bytes()))
    }

    const MONEY: &str = r#"{"type":"bytes","logicalType":"decimal","precision":12,"scale":2}"#;

    #[rstest]
    #[case::money(MONEY, decimal(1234), "12.34")]
    #[case::a_debt(MONEY, decimal(-1), "-0.01")]
    #[case::nothing(MONEY, decimal(0), "0.00")]
    #[case::in_a_union(&format!("[\"null\",{MONEY}]"), Value::Union(1, Box::new(decimal(5))), "0.05")]
    #[case::null_in_a_union("[\"null\",\"string\"]", Value::Union(0, Box::new(Value::Null)), "null")]
    #[case::in_an_array(&format!("{{\"type\":\"array\",\"items\":{MONEY}}}"), Value::Array(vec![decimal(1), decimal(2)]), "[0.01,0.02]")]
    #[case::in_a_map(&format!("{{\"type\":\"map\",\"values\":{MONEY}}}"), Value::Map(HashMap::from([("b".into(), decimal(1)), ("a".into(), decimal(2))])), "{\"a\":0.02,\"b\":0.01}")]
    #[case::milliseconds(
        r#"{"type":"long","logicalType":"timestamp-millis"}"#,
        Value::TimestampMillis(1_709_208_000_123),
        "\"2024-02-29T12:00:00.123Z\""
    )]
    #[case::microseconds(
        r#"{"type":"long","logicalType":"timestamp-micros"}"#,
        Value::TimestampMicros(1_709_208_000_000_000),
        "\"2024-02-29T12:00:00Z\""
    )]
    #[case::beyond_the_calendar(
        r#"{"type":"long","logicalType":"timestamp-millis"}"#,
        Value::TimestampMillis(i64::MAX),
        "\"9223372036854775807\""
    )]
    #[case::a_local_time(
        r#"{"type":"long","logicalType":"local-timestamp-millis"}"#,
        Value::LocalTimestampMillis(0),
        "\"1970-01-01T00:00:00\""
    )]
    #[case::a_day(r#"{"type":"int","logicalType":"date"}"#, Value::Date(19_782), "\"2024-02-29\"")]
    #[case::a_day_before(r#"{"type":"int","logicalType":"date"}"#, Value::Date(-1), "\"1969-12-31\"")]
    #[case::a_time_of_day(
        r#"{"type":"int","logicalType":"time-millis"}"#,
        Value::TimeMillis(45_296_007),
        "\"12:34:56.007\""
    )]
    #[case::no_time_of_day(r#"{"type":"long","logicalType":"time-micros"}"#, Value::TimeMicros(-1), "\"-1000 ns\"")]
    #[case::bytes("\"bytes\"", Value::Bytes(vec![0, 255]), "\"0x00ff\"")]
    #[case::a_symbol(r#"{"type":"enum","name":"Kind","symbols":["A","B"]}"#, Value::Enum(1, "B".into()), "\"B\"")]
    #[case::no_number("\"double\"", Value::Double(f64::NAN), "\"NaN\"")]
    #[case::endless("\"float\"", Value::Float(f32::NEG_INFINITY), "\"-inf\"")]
    #[case::a_half("\"double\"", Value::Double(0.5), "0.5")]
    #[case::a_tenth_of_a_float("\"float\"", Value::Float(0.1), "0.1")]
    #[case::the_longest_number("\"long\"", Value::Long(i64::MIN), "-9223372036854775808")]
    #[case::a_text_of_quotes("\"string\"", Value::String("a\"\n".into()), "\"a\\\"\\n\"")]
    fn a_value_reads_as_what_it_means(#[case] schema: &str, #[case] value: Value, #[case] expected: &str) {
        assert_eq!(of(schema, value), expected);
    }

    #[test]
    fn a_type_is_found_where_it_is_used_again() {
        let schema = format!(
            r#"{{"type":"record","name":"Node","fields":[{{"name":"price","type":{MONEY}}},{{"name":"next","type":["null","Node"]}}]}}"#
        );
        let node = |price, next| Value::Record(vec![("price".into(), decimal(price)), ("next".into(), next)]);
        let last = node(2, Value::Union(0, Box::new(Value::Null)));
        let said = of(&schema, node(1, Value::Union(1, Box::new(last))));
        assert_eq!(said, r#"{"price":0.01,"next":{"price":0.02,"next":null}}"#);
    }

    proptest! {
        #[test]
        fn any_time_is_said_somehow(count: i64, days: i32) {
            prop_assert!(!instant(count, 1_000_000, true).is_empty());
            prop_assert!(!date(days).is_empty() && !time_of_day(count).is_empty());
        }
    }
}
