//! The message of the load: three numeric fields and a timestamp of its own, all of them functions of the message's
//! number, so that what the platform stored can be checked against what was sent without keeping it.

use std::io::Write;

/// The series that the platform extracts from one message, and the field's digits after the point.
pub(crate) const SERIES: [&str; 3] = ["auto~voltage", "auto~current", "auto~power"];

/// The field that holds the timestamp, in milliseconds since 1970.
pub(crate) const TIMESTAMP_FIELD: &str = "ts";

/// The value of each series, in units of the last digit: tenths of a volt, hundredths of an ampere, watts.
fn units(number: u32) -> [u32; 3] {
    [2_200 + number % 200, number % 6_400, number % 14_720]
}

/// The values that message `number` carries, in the order of [`SERIES`].
pub(crate) fn values(number: u32) -> [f64; 3] {
    let [voltage, current, power] = units(number);
    [f64::from(voltage) / 10.0, f64::from(current) / 100.0, f64::from(power)]
}

/// Appends the JSON text of message `number` with the timestamp `timestamp_ms`.
pub(crate) fn write(buffer: &mut Vec<u8>, number: u32, timestamp_ms: i64) {
    let [voltage, current, power] = units(number);
    // Writing to a Vec cannot fail.
    let _ = write!(
        buffer,
        r#"{{"{TIMESTAMP_FIELD}":{timestamp_ms},"voltage":{}.{},"current":{}.{:02},"power":{power}}}"#,
        voltage / 10,
        voltage % 10,
        current / 100,
        current % 100,
    );
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_text_holds_exactly_the_values() {
        for number in (0..20_000).step_by(7) {
            let mut text = Vec::new();
            write(&mut text, number, 1_763_600_000_000 + i64::from(number));
            let sample: serde_json::Value = serde_json::from_slice(&text).unwrap();
            assert_eq!(sample[TIMESTAMP_FIELD], 1_763_600_000_000 + i64::from(number));
            for (series, value) in SERIES.iter().zip(values(number)) {
                let field = series.strip_prefix("auto~").unwrap();
                assert_eq!(sample[field].as_f64().unwrap(), value, "{series} of message {number}");
            }
        }
    }
}
