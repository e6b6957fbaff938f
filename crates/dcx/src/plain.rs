//! The payload of `/plain/{metric}`: a number, and right behind it a unit if wanted: `47`, `47%`, `2061m`.

use bytes::Bytes;
use extension::Refusal;
use serde_json::json;

const UNIT_WHEN_ABSENT: &str = "number";
const UNIT_CHARACTERS_MAX: usize = 32;
const METRIC_CHARACTERS_MAX: usize = 64;

/// The sample `{"<metric>-value": <number>, "<metric>-unit": "<unit>"}`.
pub(crate) fn parse(metric: &str, payload: &[u8]) -> Result<Bytes, Refusal> {
    let eligible = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_');
    if metric.is_empty() || metric.len() > METRIC_CHARACTERS_MAX || !metric.bytes().all(eligible) {
        let rule = format!("a metric name is 1 to {METRIC_CHARACTERS_MAX} characters out of A-Z a-z 0-9 - _");
        return Err(Refusal::bad_request(rule));
    }
    let text =
        std::str::from_utf8(payload).map_err(|_| Refusal::bad_request("the payload is not UTF-8"))?.trim();
    // The payload may also be a JSON string that holds the same.
    let unquoted: Option<String> = text.starts_with('"').then(|| serde_json::from_str(text).ok()).flatten();
    let text = unquoted.as_deref().map_or(text, str::trim);
    let (number, unit) = split(text)?;
    if unit.chars().count() > UNIT_CHARACTERS_MAX || unit.chars().any(char::is_control) {
        return Err(Refusal::bad_request(format!(
            "a unit has at most {UNIT_CHARACTERS_MAX} printable characters"
        )));
    }
    let unit = if unit.is_empty() { UNIT_WHEN_ABSENT } else { unit };
    let sample = json!({ format!("{metric}-value"): number, format!("{metric}-unit"): unit });
    Ok(Bytes::from(sample.to_string()))
}

/// The longest beginning that is a JSON number, and what follows it. `2e` is 2 with the unit `e`.
fn split(text: &str) -> Result<(serde_json::Number, &str), Refusal> {
    let digits = |from: usize| text.bytes().skip(from).take_while(u8::is_ascii_digit).count();
    let mut end = usize::from(text.starts_with('-'));
    end += digits(end);
    if text[end..].starts_with('.') && digits(end + 1) > 0 {
        end += 1 + digits(end + 1);
    }
    if text[end..].starts_with(['e', 'E']) {
        let sign = usize::from(text[end + 1..].starts_with(['+', '-']));
        let exponent = digits(end + 1 + sign);
        end += if exponent > 0 { 1 + sign + exponent } else { 0 };
    }
    let number = serde_json::from_str(&text[..end]).map_err(|_| {
        Refusal::bad_request("the payload is not a number (in the range of a 64-bit float) with an optional unit, such as 47 or 47%")
    })?;
    Ok((number, text[end..].trim_start()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::Value;

    fn sample(payload: &str) -> Result<Value, Refusal> {
        parse("temperature", payload.as_bytes()).map(|sample| serde_json::from_slice(&sample).unwrap())
    }

    #[test]
    fn a_number_with_an_optional_unit() {
        for (payload, number, unit) in [
            ("200", json!(200), "number"),
            ("47%", json!(47), "%"),
            ("2061m", json!(2061), "m"),
            ("-1.5e3°C", json!(-1500.0), "°C"),
            ("2e", json!(2), "e"),
            (" 21 ", json!(21), "number"),
            ("\"47%\"", json!(47), "%"),
        ] {
            let expected = json!({ "temperature-value": number, "temperature-unit": unit });
            assert_eq!(sample(payload).unwrap(), expected, "{payload}");
        }
    }

    #[test]
    fn anything_else_is_refused() {
        for payload in ["", "abc", "%47", "-", ".5", "\"\"", "{}", "1e999"] {
            assert!(sample(payload).is_err(), "{payload}");
        }
        assert!(parse("a.b", b"1").is_err());
        assert!(parse("temperature", b"\xff").is_err());
    }

    proptest! {
        #[test]
        fn never_panics(payload in proptest::collection::vec(any::<u8>(), 0..64), metric in "\\PC{0,70}") {
            drop(parse(&metric, &payload));
        }
    }
}
