//! Dates in queries: ISO-8601, or relative to the moment of the query (`now-7d`).

use chrono::{DateTime, Months, TimeDelta, Utc};

use crate::iso8601;
use crate::point::Micros;

const TERMS_MAX: usize = 8;

/// Why a date cannot be used; the message is for the caller of the REST interface.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "{parameter} is not a date: give ISO-8601 like 2026-04-26T15:41:07Z, or a time relative to now like now, now-15m \
     or now-7d (units s, m, h, d, w, M, y)"
)]
pub(crate) struct DateError {
    /// The name of the parameter.
    pub(crate) parameter: &'static str,
}

/// The moment that the text names, seen from `now`.
pub(crate) fn parse(parameter: &'static str, text: &str, now: DateTime<Utc>) -> Result<Micros, DateError> {
    let moment = match text.strip_prefix("now") {
        Some(terms) => relative(terms, now),
        None => iso8601::parse(text),
    };
    moment.map(Micros::from_datetime).ok_or(DateError { parameter })
}

/// Applies terms like `-7d` or `-1M+12h` one after the other.
fn relative(mut terms: &str, now: DateTime<Utc>) -> Option<DateTime<Utc>> {
    let mut moment = now;
    for _ in 0..TERMS_MAX {
        let Some(sign) = terms.chars().next() else { return Some(moment) };
        // In a URL an unescaped `+` arrives as a space.
        let forward = match sign {
            '+' | ' ' => true,
            '-' => false,
            _ => return None,
        };
        let term = terms.get(1..)?;
        let digits = term.bytes().take_while(u8::is_ascii_digit).count();
        let count: u32 = term.get(..digits)?.parse().ok()?;
        let unit = term.get(digits..)?.chars().next()?;
        moment = step(moment, forward, count, unit)?;
        terms = term.get(digits + unit.len_utf8()..)?;
    }
    terms.is_empty().then_some(moment)
}

fn step(moment: DateTime<Utc>, forward: bool, count: u32, unit: char) -> Option<DateTime<Utc>> {
    let months = match unit {
        'M' => Some(count),
        'y' => Some(count.checked_mul(12)?),
        _ => None,
    };
    if let Some(months) = months.map(Months::new) {
        return if forward { moment.checked_add_months(months) } else { moment.checked_sub_months(months) };
    }
    let count = i64::from(count);
    let span = match unit {
        's' => TimeDelta::try_seconds(count),
        'm' => TimeDelta::try_minutes(count),
        'h' => TimeDelta::try_hours(count),
        'd' => TimeDelta::try_days(count),
        'w' => TimeDelta::try_weeks(count),
        _ => None,
    }?;
    if forward { moment.checked_add_signed(span) } else { moment.checked_sub_signed(span) }
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

    proptest! {
        #[test]
        fn no_text_breaks_it(text in "(now)?[-+ ]?[0-9]{0,12}\\PC{0,6}") {
            drop(parse("toDate", &text, now()));
        }
    }
}
