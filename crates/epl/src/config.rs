//! Configuration of the service.

use std::time::Duration;

use serde::Deserialize;

/// Section `[epl]`.
#[derive(Debug, Clone, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Endpoints whose changes one transaction takes together.
    pub batch_endpoints_max: u32,
    /// How long events wait in NATS while no replica of the service runs, in ms; older ones are lost.
    pub events_kept_ms: u64,
    /// Bytes of events that wait in NATS; when there are more, the oldest are lost.
    pub events_kept_bytes: u32,
    /// How often a gateway replica says that it is alive, until it has said so itself, in ms.
    pub gateway_interval_ms: u32,
    /// A gateway replica that is silent for so many of its intervals is dead.
    pub gateway_intervals_max: u32,
    /// Writers of metadata that run at the same time.
    pub metadata_writers: u32,
    /// Endpoints whose metadata are written with one request.
    pub metadata_batch_max: u32,
    /// Points of time series that are sent at the same time.
    pub points_in_flight_max: u32,
    /// How long a point is offered while nobody takes it, in ms.
    pub points_kept_ms: u64,
    /// Points that wait to be taken; when there are more, the oldest are dropped.
    pub points_kept_max: u32,
    /// How long an answer of another service is awaited, in ms.
    pub request_timeout_ms: u32,
    /// The longest pause before something that failed is tried again, in ms.
    pub retry_pause_max_ms: u32,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            batch_endpoints_max: 5_000,
            events_kept_ms: 3_600_000,
            events_kept_bytes: 64 << 20,
            gateway_interval_ms: 5_000,
            gateway_intervals_max: 4,
            metadata_writers: 4,
            metadata_batch_max: 200,
            points_in_flight_max: 64,
            points_kept_ms: 86_400_000,
            points_kept_max: 1_000_000,
            request_timeout_ms: 10_000,
            retry_pause_max_ms: 60_000,
        }
    }
}

impl Config {
    pub(crate) fn faults(&self) -> Vec<(&'static str, String)> {
        let limits = [
            ("batch_endpoints_max", u64::from(self.batch_endpoints_max), 1, 50_000),
            ("events_kept_ms", self.events_kept_ms, 1_000, 604_800_000),
            ("events_kept_bytes", self.events_kept_bytes.into(), 1 << 20, 1 << 31),
            ("gateway_interval_ms", self.gateway_interval_ms.into(), 10, 600_000),
            ("gateway_intervals_max", self.gateway_intervals_max.into(), 2, 100),
            ("metadata_writers", self.metadata_writers.into(), 1, 32),
            ("metadata_batch_max", self.metadata_batch_max.into(), 1, 1_000),
            ("points_in_flight_max", self.points_in_flight_max.into(), 1, 1_000),
            ("points_kept_ms", self.points_kept_ms, 1_000, 2_592_000_000),
            ("points_kept_max", self.points_kept_max.into(), 1, 100_000_000),
            ("request_timeout_ms", self.request_timeout_ms.into(), 100, 30_000),
            ("retry_pause_max_ms", self.retry_pause_max_ms.into(), 10, 3_600_000),
        ];
        let fault = |(key, value, min, max): (&'static str, u64, u64, u64)| {
            let is_right = (min..=max).contains(&value);
            (!is_right).then(|| (key, format!("it is {value}; set it to {min} to {max}")))
        };
        limits.into_iter().filter_map(fault).collect()
    }

    pub(crate) fn gateway_interval(&self) -> Duration {
        Duration::from_millis(self.gateway_interval_ms.into())
    }

    pub(crate) fn request_timeout(&self) -> Duration {
        Duration::from_millis(self.request_timeout_ms.into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_defaults_are_right_and_every_fault_is_named() {
        assert_eq!(Config::default().faults(), []);
        let config = Config { gateway_intervals_max: 1, points_kept_ms: 1, ..Config::default() };
        let keys: Vec<&str> = config.faults().into_iter().map(|(key, _)| key).collect();
        assert_eq!(keys, ["gateway_intervals_max", "points_kept_ms"]);
    }
}
