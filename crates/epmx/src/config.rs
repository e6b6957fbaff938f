//! Configuration of the service.

use serde::Deserialize;

/// Section `[epmx]`.
#[derive(Debug, Clone, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Bytes of one message; more are refused with 413.
    pub payload_bytes_max: usize,
    /// Messages that are handled at once; more are answered 503.
    pub in_flight_messages_max: usize,
    /// How often a change is tried while others change the same metadata; then it is answered 503.
    pub update_attempts_max: u32,
}

impl Default for Config {
    fn default() -> Self {
        Self { payload_bytes_max: 64 * 1024, in_flight_messages_max: 8_192, update_attempts_max: 8 }
    }
}

impl Config {
    pub(crate) fn faults(&self) -> Vec<(&'static str, String)> {
        let limits = [
            ("payload_bytes_max", self.payload_bytes_max, 960 * 1024),
            ("in_flight_messages_max", self.in_flight_messages_max, 1_000_000),
            ("update_attempts_max", usize::try_from(self.update_attempts_max).unwrap_or(usize::MAX), 100),
        ];
        let fault = |(key, value, max): (&'static str, usize, usize)| {
            let is_right = (1..=max).contains(&value);
            (!is_right).then(|| (key, format!("it is {value}; set it to 1 to {max}")))
        };
        limits.into_iter().filter_map(fault).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_defaults_are_right_and_every_fault_is_named() {
        assert_eq!(Config::default().faults(), []);
        let config = Config { payload_bytes_max: 1 << 20, update_attempts_max: 0, ..Config::default() };
        let keys: Vec<&str> = config.faults().into_iter().map(|(key, _)| key).collect();
        assert_eq!(keys, ["payload_bytes_max", "update_attempts_max"]);
    }
}
