//! Dates in queries: ISO-8601, or relative to the moment of the query (`now-7d`).

use std::ops::RangeInclusive;

use chrono::{DateTime, Datelike as _, Months, TimeDelta, Utc};

use crate::iso8601;
use crate::point::Micros;

const TERMS_MAX: usize = 8;
/// What ISO-8601 writes with four digits. Beyond, neither the calendar here nor PostgreSQL's reach all dates.
const YEARS: RangeInclusive<i32> = 0..=9999;

/// Why a date cannot be used; the message is for the caller of the REST interface.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum DateError {
    /// The text of the parameter of this name is no date.
    #[error(
        "{0} is not a date: give ISO-8601 like 2026-04-26T15:41:07Z, or a time relative to now like now, now-15m \
         or now-7d (units s, m, h, d, w, M, y)"
    )]
    NotADate(&'static str),
    /// The date in the parameter of this name is too far away.
    #[error("{0} is out of range: give a date from 0000-01-01T00:00:00Z to 9999-12-31T23:59:59Z")]
    OutOfRange(&'static str),
}

/// The moment that the text names, seen from `now`.
pub(crate) fn parse(parameter: &'static str, text: &str, now: DateTime<Utc>) -> Result<Micros, DateError> {
    let moment = match text.strip_prefix("now") {
        Some(terms) => {
            let steps = steps(terms).ok_or(DateError::NotADate(parameter))?;
            steps.into_iter().try_fold(now, Step::apply)
        }
        None => Some(iso8601::parse(text).ok_or(DateError::NotADate(parameter))?),
    };
    let within = moment.filter(|moment| YEARS.contains(&moment.year()));
    within.map(Micros::from_datetime).ok_or(DateError::OutOfRange(parameter))
}

/// A term of a relative date: forward or back by so many units.
struct Step {
    forward: bool,
    count: u64,
    unit: char,
}

/// The terms of a text like `-7d` or `-1M+12h`.
fn steps(mut terms: &str) -> Option<Vec<Step>> {
    let mut steps = Vec::new();
    while let Some(sign) = terms.chars().next() {
        // In a URL an unescaped `+` arrives as a space.
        let forward = match sign {
            '+' | ' ' => true,
            '-' => false,
            _ => return None,
        };
        let term = terms.get(1..)?;
        let digits = term.bytes().take_while(u8::is_ascii_digit).count();
        let count = term.get(..digits)?.parse().ok()?;
        let unit = term.get(digits..)?.chars().next().filter(|unit| "smhdwMy".contains(*unit))?;
        steps.push(Step { forward, count, unit });
        if steps.len() > TERMS_MAX {
            return None;
        }
        terms = term.get(digits + unit.len_utf8()..)?;
    }
    Some(steps)
}

impl Step {
    /// The moment that lies so far from another; none beyond the calendar.
    fn apply(moment: DateTime<Utc>, Self { forward, count, unit }: Self) -> Option<DateTime<Utc>> {
        if let 'M' | 'y' = unit {
            let months = if unit == 'y' { count.checked_mul(12)? } else { count };
            let months = Months::new(u32::try_from(months).ok()?);
            return if forward {
                moment.checked_add_months(months)
            } else {
                moment.checked_sub_months(months)
            };
        }
        let count = i64::try_from(count).ok()?;
        let span = match unit {
            's' => TimeDelta::try_seconds(count),
            'm' => TimeDelta::try_minutes(count),
            'h' => TimeDelta::try_hours(count),
            'd' => TimeDelta::try_days(count),
            _ => TimeDelta::try_weeks(count),
        }?;
        if forward { moment.checked_add_signed(span) } else { moment.checked_sub_signed(span) }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn now() -> DateTime<Utc> {
        iso8601::parse("2026-03-31T12:00:00Z").unwrap()
    }

    #[test]
    fn relative_dates_count_from_now() {
        for (text, expected) in [
            ("now", "2026-03-31T12:00:00Z"),
            ("now-30s", "2026-03-31T11:59:30Z"),
            ("now-15m", "2026-03-31T11:45:00Z"),
            ("now-1h", "2026-03-31T11:00:00Z"),
            ("now-7d", "2026-03-24T12:00:00Z"),
            ("now-2w", "2026-03-17T12:00:00Z"),
            ("now-1M", "2026-02-28T12:00:00Z"),
            ("now-1y", "2025-03-31T12:00:00Z"),
            ("now+1d", "2026-04-01T12:00:00Z"),
            ("now 1d", "2026-04-01T12:00:00Z"),
            ("now-1d-12h", "2026-03-30T00:00:00Z"),
            ("2019-04-26T15:41:07+0000", "2019-04-26T15:41:07Z"),
        ] {
            assert_eq!(parse("fromDate", text, now()).unwrap().to_string(), expected, "{text}");
        }
    }

    #[test]
    fn other_dates_are_refused_by_name() {
        for text in [
            "",
            "now-",
            "now-7",
            "now-d",
            "now-7x",
            "now7d",
            "nowt",
            "yesterday",
            "now-1d-1d-1d-1d-1d-1d-1d-1d-1d",
        ] {
            let error = parse("fromDate", text, now()).unwrap_err();
            assert!(error.to_string().starts_with("fromDate is not a date"), "{text}");
        }
    }

    #[test]
    fn dates_beyond_the_years_of_four_digits_are_refused_with_the_bounds() {
        for text in [
            "now-9000y",
            "now+9000y",
            "now-99999999999d",
            "now+4294967295y",
            "now-18446744073709551615s",
            "-262143-01-01T00:00:00Z",
            "-0001-12-31T23:59:59Z",
            "+10000-01-01T00:00:00Z",
        ] {
            let error = parse("fromDate", text, now()).unwrap_err();
            assert_eq!(error, DateError::OutOfRange("fromDate"), "{text}");
            assert!(error.to_string().contains("0000-01-01T00:00:00Z to 9999-12-31T23:59:59Z"), "{error}");
        }
        for text in ["0000-01-01T00:00:00Z", "9999-12-31T23:59:59Z", "now-2000y"] {
            assert!(parse("fromDate", text, now()).is_ok(), "{text}");
        }
    }

    proptest! {
        #[test]
        fn no_text_breaks_it(text in "(now)?[-+ ]?[0-9]{0,12}\\PC{0,6}") {
            drop(parse("toDate", &text, now()));
        }
    }
}
