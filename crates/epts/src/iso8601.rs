//! ISO-8601 moments as devices and REST clients write them.

use chrono::{DateTime, NaiveDate, NaiveDateTime, NaiveTime, Utc};

/// The longest text that is looked at.
const TEXT_BYTES_MAX: usize = 64;

/// Reads `2019-04-26T15:41:07Z`, also with a fraction, with `+0000`, `+00:00` or `+00`, without seconds, and as a date
/// alone (midnight). A moment without a zone is taken as UTC.
pub(crate) fn parse(text: &str) -> Option<DateTime<Utc>> {
    if text.len() > TEXT_BYTES_MAX || !text.is_ascii() {
        return None;
    }
    if let Ok(moment) = DateTime::parse_from_rfc3339(text) {
        return Some(moment.to_utc());
    }
    // A `+` that was not escaped in a URL arrives as a space.
    let repaired = match text.split_once(' ') {
        Some((moment, zone)) if moment.contains('T') => format!("{moment}+{zone}"),
        _ => text.to_owned(),
    };
    for zoned in ["%Y-%m-%dT%H:%M:%S%.f%#z", "%Y-%m-%dT%H:%M%#z", "%Y%m%dT%H%M%S%.f%#z"] {
        if let Ok(moment) = DateTime::parse_from_str(&repaired, zoned) {
            return Some(moment.to_utc());
        }
    }
    let without_zone = text.strip_suffix(['Z', 'z']).unwrap_or(text);
    for local in ["%Y-%m-%dT%H:%M:%S%.f", "%Y-%m-%dT%H:%M", "%Y-%m-%d %H:%M:%S%.f", "%Y%m%dT%H%M%S%.f"] {
        if let Ok(moment) = NaiveDateTime::parse_from_str(without_zone, local) {
            return Some(moment.and_utc());
        }
    }
    let date = NaiveDate::parse_from_str(text, "%Y-%m-%d").ok()?;
    Some(date.and_time(NaiveTime::MIN).and_utc())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_forms_that_devices_send_are_read() {
        let expected = DateTime::from_timestamp(1_556_293_267, 0);
        for text in [
            "2019-04-26T15:41:07Z",
            "2019-04-26T15:41:07z",
            "2019-04-26T15:41:07+0000",
            "2019-04-26T15:41:07+00:00",
            "2019-04-26T15:41:07+00",
            "2019-04-26T15:41:07-0000",
            "2019-04-26T17:41:07+0200",
            "2019-04-26T17:41:07+02:00",
            "2019-04-26T17:41:07 02:00",
            "2019-04-26T15:41:07",
            "2019-04-26T15:41:07.000",
            "2019-04-26 15:41:07",
            "20190426T154107Z",
        ] {
            assert_eq!(parse(text), expected, "{text}");
        }
        assert_eq!(
            parse("2019-04-26T15:41:07.123456789Z").unwrap().timestamp_micros(),
            1_556_293_267_123_456
        );
        assert_eq!(parse("2019-04-26T15:41:07.5+0000").unwrap().timestamp_millis(), 1_556_293_267_500);
        assert_eq!(parse("2019-04-26T15:41Z").unwrap().timestamp(), 1_556_293_260);
        assert_eq!(parse("2019-04-26").unwrap().timestamp(), 1_556_236_800);
    }

    #[test]
    fn other_text_is_refused() {
        for text in
            ["", "now", "1556293267", "2019-13-01T00:00:00Z", "2019-04-26T25:00:00Z", "26.04.2019", "T", "Ä"]
        {
            assert_eq!(parse(text), None, "{text}");
        }
    }

    proptest! {
        #[test]
        fn whatever_chrono_writes_is_read_back(micros in 0_i64..4_102_444_800_000_000) {
            let moment = DateTime::from_timestamp_micros(micros).unwrap();
            prop_assert_eq!(parse(&moment.to_rfc3339()), Some(moment));
            prop_assert_eq!(parse(&moment.format("%Y-%m-%dT%H:%M:%S%.6f%z").to_string()), Some(moment));
        }

        #[test]
        fn no_text_breaks_it(text in "\\PC{0,70}") {
            parse(&text);
        }
    }
}
