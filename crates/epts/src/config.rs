//! The section `[epts]` of the configuration.

use std::collections::BTreeMap;

use ids::{InstanceName, TimeSeriesName};
use ism::subject::instance;
use serde::Deserialize;

/// Transmitters of points that may be named.
const TRANSMITTERS_MAX: usize = 100;

/// Settings of the service. Every limit has a unit in its name and a default that suits one machine.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Commits that may run at the same time. Messages of one endpoint always go through the same one. Default 1.
    pub writers: u32,
    /// Points that one commit takes together. A message is never split. Default 20000.
    pub commit_rows_max: u32,
    /// Messages of each writer that may wait for their commit; more are refused with 503. Default 16384.
    pub queue_messages_max: u32,
    /// Bytes of samples that may wait for their commit in all writers; more are refused with 503. Default 64 MiB.
    pub queue_bytes_max: u32,
    /// Messages that may wait for the settings of their application; more are refused with 503. Default 4096.
    pub lookups_max: u32,
    /// Points in one message; more are refused with 413. Default 10000.
    pub points_per_message_max: u32,
    /// Series of one endpoint; a message that would add more is refused with 429. Default 1000.
    pub series_per_endpoint_max: u32,
    /// Endpoints whose series ids are kept in memory, some 200 bytes and 60 for each series. Default 100000.
    pub endpoints_cached_max: u32,
    /// How far ahead of the server a device's timestamp may be, in milliseconds. Default one day.
    pub future_max_ms: u32,
    /// Days that one partition of the points holds. May be changed at any time. Default 7.
    pub partition_days: u32,
    /// Days for which points are kept; 0 keeps them for ever. Default 0.
    pub retention_days: u32,
    /// How often partitions are made ahead of time and outdated ones dropped, in milliseconds. Default 10 minutes.
    pub maintenance_interval_ms: u32,
    /// Points in the answer to one query; for more the query is refused. Default 100000.
    pub points_per_query_max: u32,
    /// Bytes that the values in the answer to one query take, as they are stored; for more the query is refused. Default 32 MiB.
    pub bytes_per_query_max: u32,
    /// Applications that metrics name; the others are counted together as `other`. Default 250.
    pub applications_labelled_max: u32,
    /// Other services whose points are stored.
    pub tstp: Tstp,
}

/// Section `[epts.tstp]`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Tstp {
    /// As a receiver of points (14/TSTP).
    pub receiver: Receiver,
}

/// Section `[epts.tstp.receiver]`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Receiver {
    /// Transmitters by the names of their service instances. `epl` is one, also if it is not named. Default none.
    pub from: BTreeMap<InstanceName, Transmitter>,
}

/// Section `[epts.tstp.receiver.from.<transmitter>]`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Transmitter {
    /// The series that are stored; none named: all that it transmits.
    #[serde(alias = "time-series")]
    pub time_series: Vec<TimeSeriesName>,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            writers: 1,
            commit_rows_max: 20_000,
            queue_messages_max: 16_384,
            queue_bytes_max: 64 << 20,
            lookups_max: 4_096,
            points_per_message_max: 10_000,
            series_per_endpoint_max: 1_000,
            endpoints_cached_max: 100_000,
            future_max_ms: 86_400_000,
            partition_days: 7,
            retention_days: 0,
            maintenance_interval_ms: 600_000,
            points_per_query_max: 100_000,
            bytes_per_query_max: 32 << 20,
            applications_labelled_max: 250,
            tstp: Tstp::default(),
        }
    }
}

impl Config {
    /// What the types cannot express, as (key, message).
    pub(crate) fn check(&self) -> Vec<(&'static str, String)> {
        let limits = [
            ("writers", self.writers, 1, 16),
            ("commit_rows_max", self.commit_rows_max, 1, 1_000_000),
            ("queue_messages_max", self.queue_messages_max, 1, 1_000_000),
            ("queue_bytes_max", self.queue_bytes_max, 1 << 20, 1 << 30),
            ("lookups_max", self.lookups_max, 1, 1_000_000),
            ("points_per_message_max", self.points_per_message_max, 1, 1_000_000),
            ("series_per_endpoint_max", self.series_per_endpoint_max, 1, 100_000),
            ("endpoints_cached_max", self.endpoints_cached_max, 1, 100_000_000),
            ("partition_days", self.partition_days, 1, 366),
            ("retention_days", self.retention_days, 0, 36_500),
            ("maintenance_interval_ms", self.maintenance_interval_ms, 10, 86_400_000),
            ("points_per_query_max", self.points_per_query_max, 1, 10_000_000),
            ("bytes_per_query_max", self.bytes_per_query_max, 1 << 20, 1 << 30),
            ("applications_labelled_max", self.applications_labelled_max, 0, 100_000),
        ];
        let fault = |(key, value, min, max): (&'static str, u32, u32, u32)| {
            let is_right = (min..=max).contains(&value);
            (!is_right).then(|| (key, format!("it is {value}; set it to {min} to {max}")))
        };
        let mut faults: Vec<_> = limits.into_iter().filter_map(fault).collect();
        let from = &self.tstp.receiver.from;
        if from.contains_key(instance::EPTS) {
            let message = "it names epts itself, which would store what it has stored without end";
            faults.push(("tstp.receiver.from", message.to_owned()));
        }
        if from.len() > TRANSMITTERS_MAX {
            let message = format!("it names {} transmitters; {TRANSMITTERS_MAX} are possible", from.len());
            faults.push(("tstp.receiver.from", message));
        }
        faults
    }

    /// All transmitters of points.
    pub(crate) fn transmitters(&self) -> BTreeMap<InstanceName, Transmitter> {
        let mut transmitters = self.tstp.receiver.from.clone();
        if let Ok(epl) = InstanceName::parse(instance::EPL) {
            transmitters.entry(epl).or_default();
        }
        transmitters
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_defaults_are_right_and_every_fault_is_named() {
        assert_eq!(Config::default().check(), []);
        let config = Config { writers: 0, partition_days: 400, ..Config::default() };
        let keys: Vec<&str> = config.check().into_iter().map(|(key, _)| key).collect();
        assert_eq!(keys, ["writers", "partition_days"]);
    }

    #[test]
    fn epl_is_a_transmitter_unless_it_is_named_and_epts_never() {
        let config = |from: &str| {
            let json = format!(r#"{{"tstp": {{"receiver": {{"from": {from}}}}}}}"#);
            serde_json::from_str::<Config>(&json).unwrap()
        };
        let names = |config: &Config| {
            config
                .transmitters()
                .iter()
                .map(|(name, own)| (name.to_string(), own.time_series.len()))
                .collect::<Vec<_>>()
        };
        assert_eq!(names(&Config::default()), [("epl".to_owned(), 0)]);
        let named = config(r#"{"epl": {"time-series": ["online"]}, "greeter": {"time_series": ["a", "b"]}}"#);
        assert_eq!(names(&named), [("epl".to_owned(), 1), ("greeter".to_owned(), 2)]);
        assert_eq!(named.check(), []);
        assert_eq!(config(r#"{"epts": {}}"#).check()[0].0, "tstp.receiver.from");
    }
}
