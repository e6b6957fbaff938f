//! Configuration of the service.

use std::time::Duration;

use serde::Deserialize;

const DAY_MS: u64 = 86_400_000;
/// A request that waits for a result has 90 s in all (see [`crate::ROUTES`]).
const AWAIT_TIMEOUT_S_MAX: u64 = 80;

/// Section `[cex]`.
#[derive(Debug, Clone, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Time to live of a command whose caller names none, in ms.
    pub command_ttl_ms: u64,
    /// The longest time to live, in ms.
    pub command_ttl_max_ms: u64,
    /// How long REST waits for a result when the caller does not say, in s.
    pub await_timeout_s: u32,
    /// The longest that REST waits for a result, in s.
    pub await_timeout_max_s: u32,
    /// Bytes of a command's payload and of a result's.
    pub payload_bytes_max: usize,
    /// Outstanding commands of one endpoint; more are refused with 429.
    pub outstanding_per_endpoint_max: u32,
    /// How long a push may take until the device has acknowledged it, in ms.
    pub push_timeout_ms: u64,
    /// Pushes that are under way at the same time.
    pub pushes_in_flight_max: usize,
    /// Commands in one push.
    pub push_commands_max: u32,
    /// Bytes of payload in one push; a larger command goes alone.
    pub push_bytes_max: usize,
    /// The pause before a command that was not acknowledged is pushed again, in ms; doubles with each attempt.
    pub retry_pause_ms: u64,
    /// The pause before a command that was acknowledged and has no result is pushed again, in ms; doubles with each attempt.
    pub result_pause_ms: u64,
    /// The longest pause before a command is pushed again, in ms.
    pub retry_pause_max_ms: u64,
    /// How long the result of a command without time to live is awaited once it is delivered, in ms.
    pub once_result_timeout_ms: u64,
    /// Transactions that write what happens to commands at the same time; each takes all that has gathered.
    pub ledger_writers: u32,
    /// Bytes of payload in the answer to a poll; a larger command goes alone, and what is left out comes with the next poll.
    pub poll_bytes_max: usize,
    /// How often is looked for what is due, in ms; what happens in this process is seen at once.
    pub look_every_ms: u64,
    /// How long commands are kept once they have ended, in ms.
    pub commands_kept_ms: u64,
    /// How long connectivity is kept for the feed, in ms.
    pub connectivity_kept_ms: u64,
    /// Endpoints of one batch.
    pub batch_endpoints_max: u32,
    /// Commands of a batch that are invoked with one transaction.
    pub batch_part_max: u32,
    /// Batches of a tenant that have not ended; more are refused with 429.
    pub batches_open_max: u32,
    /// Commands of a batch that must have ended before it may be aborted for those that failed.
    pub batch_abort_ended_min: u32,
    /// Feeds that are followed at the same time.
    pub feeds_max: usize,
    /// How long a device that listens at a topic outside of 1/KP, and cannot say which command it answers, has for each, in ms.
    pub topic_answer_timeout_ms: u64,
    /// How long results wait for those who listen at a topic outside of 1/KP, in ms.
    pub responses_kept_ms: u64,
    /// Results that wait on one topic outside of 1/KP; of more the oldest are dropped. A group may answer all at once.
    pub responses_per_topic_max: u32,
    /// Invocations by other services (12/CIP) whose results are awaited at the same time.
    pub cip_waiting_max: usize,
    /// How long a message at a topic outside of 1/KP is known when it comes again, in ms.
    pub publications_kept_ms: u64,
    /// Device messages that are handled at once.
    pub in_flight_messages_max: usize,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            command_ttl_ms: 60_000,
            command_ttl_max_ms: 31 * 86_400_000,
            await_timeout_s: 5,
            await_timeout_max_s: 60,
            payload_bytes_max: 256 * 1024,
            outstanding_per_endpoint_max: 1_000,
            push_timeout_ms: 10_000,
            pushes_in_flight_max: 4_096,
            push_commands_max: 50,
            push_bytes_max: 64 * 1024,
            retry_pause_ms: 2_000,
            result_pause_ms: 30_000,
            retry_pause_max_ms: 600_000,
            once_result_timeout_ms: 60_000,
            ledger_writers: 2,
            poll_bytes_max: 512 * 1024,
            look_every_ms: 250,
            commands_kept_ms: 30 * 86_400_000,
            connectivity_kept_ms: 86_400_000,
            batch_endpoints_max: 10_000,
            batch_part_max: 500,
            batches_open_max: 1_000,
            batch_abort_ended_min: 20,
            feeds_max: 1_000,
            topic_answer_timeout_ms: 10_000,
            responses_kept_ms: 3_600_000,
            responses_per_topic_max: 20_000,
            publications_kept_ms: 3_600_000,
            cip_waiting_max: 10_000,
            in_flight_messages_max: 8_192,
        }
    }
}

impl Config {
    /// What of it cannot be.
    pub(crate) fn faults(&self) -> Vec<(&'static str, String)> {
        let count = |count: usize| u64::try_from(count).unwrap_or(u64::MAX);
        let limits = [
            ("command_ttl_ms", self.command_ttl_ms, 0, self.command_ttl_max_ms),
            ("command_ttl_max_ms", self.command_ttl_max_ms, 1_000, 366 * DAY_MS),
            ("await_timeout_s", self.await_timeout_s.into(), 0, self.await_timeout_max_s.into()),
            ("await_timeout_max_s", self.await_timeout_max_s.into(), 0, AWAIT_TIMEOUT_S_MAX),
            ("payload_bytes_max", count(self.payload_bytes_max), 1, 512 * 1024),
            ("outstanding_per_endpoint_max", self.outstanding_per_endpoint_max.into(), 1, 100_000),
            ("push_timeout_ms", self.push_timeout_ms, 100, 60_000),
            ("pushes_in_flight_max", count(self.pushes_in_flight_max), 1, 100_000),
            ("push_commands_max", self.push_commands_max.into(), 1, 1_000),
            ("push_bytes_max", count(self.push_bytes_max), 1, 512 * 1024),
            ("retry_pause_ms", self.retry_pause_ms, 1, DAY_MS),
            ("result_pause_ms", self.result_pause_ms, 1, DAY_MS),
            ("retry_pause_max_ms", self.retry_pause_max_ms, 1, DAY_MS),
            ("once_result_timeout_ms", self.once_result_timeout_ms, 1, DAY_MS),
            ("ledger_writers", self.ledger_writers.into(), 1, 64),
            ("poll_bytes_max", count(self.poll_bytes_max), 1, 512 * 1024),
            ("look_every_ms", self.look_every_ms, 10, 60_000),
            ("commands_kept_ms", self.commands_kept_ms, 1_000, 3_660 * DAY_MS),
            ("connectivity_kept_ms", self.connectivity_kept_ms, 1_000, 366 * DAY_MS),
            ("batch_endpoints_max", self.batch_endpoints_max.into(), 1, 100_000),
            ("batch_part_max", self.batch_part_max.into(), 1, 10_000),
            ("batches_open_max", self.batches_open_max.into(), 1, 100_000),
            ("batch_abort_ended_min", self.batch_abort_ended_min.into(), 1, 100_000),
            ("feeds_max", count(self.feeds_max), 0, 100_000),
            ("topic_answer_timeout_ms", self.topic_answer_timeout_ms, 100, DAY_MS),
            ("responses_kept_ms", self.responses_kept_ms, 1_000, 31 * DAY_MS),
            ("responses_per_topic_max", self.responses_per_topic_max.into(), 1, 1_000_000),
            ("publications_kept_ms", self.publications_kept_ms, 1_000, 31 * DAY_MS),
            ("cip_waiting_max", count(self.cip_waiting_max), 1, 1_000_000),
            ("in_flight_messages_max", count(self.in_flight_messages_max), 1, 1_000_000),
        ];
        let fault = |(key, value, min, max): (&'static str, u64, u64, u64)| {
            let is_right = (min..=max).contains(&value);
            (!is_right).then(|| (key, format!("it is {value}; set it to {min} to {max}")))
        };
        limits.into_iter().filter_map(fault).collect()
    }

    /// How often is looked for what is due.
    pub(crate) fn look_every(&self) -> Duration {
        Duration::from_millis(self.look_every_ms)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_defaults_are_within_their_bounds_and_what_is_not_is_named() {
        assert_eq!(Config::default().faults(), []);
        let wrong = Config { await_timeout_max_s: 81, push_commands_max: 0, ..Config::default() };
        let faults = wrong.faults();
        let keys: Vec<&str> = faults.iter().map(|(key, _)| *key).collect();
        assert_eq!(keys, ["await_timeout_max_s", "push_commands_max"]);
        assert!(faults[0].1.contains("0 to 80"), "{faults:?}");
    }
}
