//! Money: cents, exactly, to and from JSON and Avro. It never goes through a float.

use apache_avro::Decimal;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::value::RawValue;

/// An amount of money in cents; in JSON a number with at most two decimals. Only for JSON's own text: another format would see
/// how it is done.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Cents(pub u128);

/// Digits that a number may have before its exponent is applied, and after: more than any amount of Spark's decimal(28,2).
const DIGITS: usize = 36;

impl Cents {
    /// The cents of a JSON number's text, where it has no more than two decimals.
    fn parse(text: &str) -> Option<Self> {
        let (number, exponent) = text.split_once(['e', 'E']).unwrap_or((text, "0"));
        let (whole, places) = number.split_once('.').unwrap_or((number, ""));
        let digits = format!("{whole}{places}");
        let trimmed = digits.trim_start_matches(['-', '0']);
        let significant = trimmed.trim_end_matches('0');
        if significant.is_empty() {
            // JSON has a zero below zero.
            let zero = digits.strip_prefix('-').unwrap_or(&digits);
            return (!zero.is_empty() && zero.bytes().all(|b| b == b'0')).then_some(Self(0));
        }
        if digits.starts_with('-') {
            return None;
        }
        let zeros = trimmed.len() - significant.len();
        let exponent: i64 = exponent.trim_start_matches('+').parse().ok()?;
        // The power of ten of the last significant digit, in cents.
        let power = exponent + i64::try_from(zeros).ok()? - i64::try_from(places.len()).ok()? + 2;
        let power = u32::try_from(power).ok().filter(|p| significant.len() + *p as usize <= DIGITS)?;
        Some(Self(significant.parse::<u128>().ok()?.checked_mul(10_u128.checked_pow(power)?)?))
    }
}

impl std::fmt::Display for Cents {
    /// As JSON has it: at least one decimal.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (whole, cents) = (self.0 / 100, self.0 % 100);
        if cents % 10 == 0 { write!(f, "{whole}.{}", cents / 10) } else { write!(f, "{whole}.{cents:02}") }
    }
}

impl Serialize for Cents {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        RawValue::from_string(self.to_string()).map_err(serde::ser::Error::custom)?.serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for Cents {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = Box::<RawValue>::deserialize(deserializer)?;
        Self::parse(text.get())
            .ok_or_else(|| serde::de::Error::custom(format!("{} is no amount with two decimals", text.get())))
    }
}

impl From<Cents> for Decimal {
    /// Big-endian two's complement without leading bytes that say nothing, as other clients write it.
    fn from(cents: Cents) -> Self {
        let bytes = cents.0.to_be_bytes();
        let zeros = bytes.iter().take_while(|b| **b == 0).count();
        // A first bit that is set would be a sign.
        let from = if bytes.get(zeros).is_none_or(|b| *b >= 0x80) { zeros.saturating_sub(1) } else { zeros };
        Self::from(&bytes[from..])
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use rstest::rstest;

    use super::*;

    proptest! {
        #[test]
        fn amounts_survive_json_exactly(cents in 0..10_u128.pow(30)) {
            let text = serde_json::to_string(&Cents(cents)).unwrap();
            prop_assert!(text.split('.').nth(1).is_some_and(|places| (1..=2).contains(&places.len())), "{}", text);
            prop_assert_eq!(serde_json::from_str::<Cents>(&text).unwrap(), Cents(cents));
        }

        #[test]
        fn amounts_survive_avro_exactly(cents: u64) {
            let decimal = Decimal::from(Cents(cents.into()));
            let bytes: Vec<u8> = (&decimal).try_into().unwrap();
            prop_assert!(bytes[0] < 0x80 && bytes.len() <= 9);
            let back = bytes.iter().fold(0_u128, |sum, byte| sum << 8 | u128::from(*byte));
            prop_assert_eq!(back, u128::from(cents));
        }

        #[test]
        fn no_text_breaks_it(text: String) {
            let _ = Cents::parse(&text);
        }
    }

    #[rstest]
    #[case("0", 0)]
    #[case("-0.0", 0)]
    #[case("12", 1200)]
    #[case("12.5", 1250)]
    #[case("12.50", 1250)]
    #[case("12.500", 1250)]
    #[case("1.25e3", 125_000)]
    #[case("125E-2", 125)]
    #[case("1e+2", 10_000)]
    #[case("142432530104.36", 14_243_253_010_436)]
    #[case("99999999999999.90", 9_999_999_999_999_990)]
    #[case("99999999999999999999999999.99", 9_999_999_999_999_999_999_999_999_999)]
    fn an_amount_is_read_exactly(#[case] text: &str, #[case] cents: u128) {
        assert_eq!(serde_json::from_str::<Cents>(text).unwrap(), Cents(cents));
    }

    #[rstest]
    #[case("1.005")]
    #[case("-1.0")]
    #[case("1e-3")]
    #[case("1e99")]
    #[case("1e99999999999999999999")]
    #[case("\"12.50\"")]
    #[case("null")]
    #[case("true")]
    #[case("[1]")]
    fn what_is_no_amount_is_refused(#[case] text: &str) {
        assert!(serde_json::from_str::<Cents>(text).is_err());
    }
}
