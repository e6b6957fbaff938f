//! The command line.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use clap::{ArgGroup, Parser, ValueEnum};

use crate::commands::Way;
use crate::profile::{Access, COMMAND_RATES, Measurement, Profile};

/// Loads a Bandar platform with telemetry and with connections, measures it and checks that its books balance.
///
/// Without --data it starts a platform of its own in a temporary directory and stops it at the end. The exit code is 0
/// when every message with a positive receipt was read back exactly as it was sent and every client was let in and held,
/// 1 when not, 2 when it could not run.
#[derive(Debug, Parser)]
#[command(name = "bench", version)]
#[command(group = ArgGroup::new("platform").args(["bandar", "data"]))]
pub(crate) struct Args {
    /// The binary to start the platform with.
    #[arg(long, value_name = "FILE", default_value = "target/release/bandar")]
    pub(crate) bandar: PathBuf,

    /// The data directory of a running platform to use instead: its API key and, where not given below, its addresses.
    #[arg(long, value_name = "DIR")]
    pub(crate) data: Option<PathBuf>,

    /// The running platform's REST address.
    #[arg(long, value_name = "URL", requires = "data")]
    pub(crate) url: Option<String>,

    /// The running platform's MQTT address; several share the devices between them.
    #[arg(long, value_name = "HOST:PORT", value_delimiter = ',', requires = "data")]
    pub(crate) mqtt: Vec<SocketAddr>,

    /// The running platform's address for MQTT over TLS; several share the clients between them. Its certificate must be
    /// for this address.
    #[arg(long, value_name = "HOST:PORT", value_delimiter = ',', requires = "data")]
    pub(crate) mqtt_tls: Vec<SocketAddr>,

    /// A process of the running platform, whose memory is measured, and its CPU time with that of its children. May be
    /// repeated.
    #[arg(long = "pid", value_name = "PID", requires = "data")]
    pub(crate) pids: Vec<u32>,

    /// What to measure, one after the other: loads (smart-meter, single, fan-in, http), commands there and back
    /// (commands), connections per second (connect), memory per idle connection (idle), or all.
    #[arg(long, value_name = "NAME", value_delimiter = ',', default_value = "all")]
    profile: Vec<Choice>,

    /// Seconds that each load and each kind of connecting is measured, 1 to 3600.
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u64).range(1..=3600))]
    seconds: u64,

    /// Seconds before the measurement, 0 to 600.
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u64).range(0..=600))]
    warm_up: u64,

    /// Ends a load after so many messages, warm-up included.
    #[arg(long, default_value_t = 2_000_000, value_parser = clap::value_parser!(u32).range(1..=20_000_000))]
    pub(crate) messages_max: u32,

    /// Messages per second of all devices together, instead of as many as the platform takes. Latencies then count from
    /// the time at which a message was due.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    pub(crate) rate: Option<u32>,

    /// Seconds for messages in flight to get their receipts after the load, 1 to 600.
    #[arg(long, default_value_t = 30, value_parser = clap::value_parser!(u64).range(1..=600))]
    drain: u64,

    /// Clients that are about to connect at the same time, 1 to 1000 (connect, idle).
    #[arg(long, value_name = "N", default_value_t = 64, value_parser = clap::value_parser!(u32).range(1..=1000))]
    pub(crate) connecting: u32,

    /// Connections that are held open, 100 to 100000 (idle). Both this program and the platform need a file for each.
    #[arg(long, value_name = "N", default_value_t = 5_000, value_parser = clap::value_parser!(u32).range(100..=100_000))]
    pub(crate) idle_connections: u32,

    /// Writes the receipts, one line `<endpoint id>,<timestamp in ms since 1970>` for each, to this file after the load.
    #[arg(long, value_name = "FILE")]
    pub(crate) ledger: Option<PathBuf>,

    /// Prints a JSON line with the running totals five times a second.
    #[arg(long)]
    pub(crate) progress: bool,

    /// Prints the results as JSON lines instead of a table.
    #[arg(long)]
    pub(crate) json: bool,

    /// The directory where the results are kept, as <date>.jsonl.
    #[arg(long, value_name = "DIR", default_value = "bench-results")]
    pub(crate) output: PathBuf,
}

#[derive(Debug, Clone, Copy)]
enum Choice {
    All,
    Load(Profile),
    Connect,
    Commands,
    Idle,
}

impl std::str::FromStr for Choice {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "all" => Ok(Self::All),
            "connect" => Ok(Self::Connect),
            "commands" => Ok(Self::Commands),
            "idle" => Ok(Self::Idle),
            _ => Profile::from_str(text, false).map(Self::Load),
        }
    }
}

impl Choice {
    fn measurements(self) -> Vec<Measurement> {
        let connect = || Access::ALL.map(Measurement::Connect);
        let commands = || {
            COMMAND_RATES
                .into_iter()
                .flat_map(|rate| [Way::Bandar, Way::Mosquitto].map(|way| Measurement::Commands(way, rate)))
        };
        let idle = || [Access::Plain, Access::Tls].map(Measurement::Idle);
        match self {
            Self::All => {
                let loads = Profile::ALL.map(Measurement::Load).into_iter();
                loads.chain(commands()).chain(connect()).chain(idle()).collect()
            }
            Self::Load(profile) => vec![Measurement::Load(profile)],
            Self::Connect => connect().into(),
            Self::Commands => commands().collect(),
            Self::Idle => idle().into(),
        }
    }
}

impl Args {
    /// What is to be measured, in the order in which it was named.
    pub(crate) fn measurements(&self) -> Vec<Measurement> {
        self.profile.iter().flat_map(|choice| choice.measurements()).collect()
    }

    pub(crate) const fn measured(&self) -> Duration {
        Duration::from_secs(self.seconds)
    }

    pub(crate) const fn warm_up(&self) -> Duration {
        Duration::from_secs(self.warm_up)
    }

    pub(crate) const fn drain(&self) -> Duration {
        Duration::from_secs(self.drain)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(args: &str) -> Result<Args, clap::Error> {
        Args::try_parse_from(std::iter::once("bench").chain(args.split_ascii_whitespace()))
    }

    #[test]
    fn all_profiles_run_by_default() {
        let all = parse("").unwrap().measurements();
        assert_eq!(all.len(), Profile::ALL.len() + 2 * COMMAND_RATES.len() + Access::ALL.len() + 2);
        assert_eq!(
            parse("--profile smart-meter,single,fan-in,http,commands,connect,idle").unwrap().measurements(),
            all
        );
        let loads = [Profile::Http, Profile::Single].map(Measurement::Load);
        assert_eq!(parse("--profile http,single").unwrap().measurements(), loads);
        assert!(parse("--profile nothing").is_err());
    }

    #[test]
    fn addresses_belong_to_a_running_platform() {
        assert!(parse("--url http://127.0.0.1:8080").is_err());
        assert!(parse("--mqtt 127.0.0.1:1883").is_err());
        assert!(parse("--mqtt-tls 127.0.0.1:8883").is_err());
        assert!(parse("--data .bandar").unwrap().url.is_none());
        let args = parse("--data d --url http://127.0.0.1:80 --mqtt 127.0.0.1:1,127.0.0.1:2 --pid 3 --pid 4")
            .unwrap();
        assert_eq!((args.mqtt.len(), args.pids), (2, vec![3, 4]));
        assert!(parse("--data d --bandar x").is_err());
    }
}
