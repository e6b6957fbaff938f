//! What `bench` can measure.

use clap::ValueEnum;

use crate::commands::Way;

/// Commands a second.
pub(crate) const COMMAND_RATES: [u32; 3] = [1, 100, 1_000];

/// How devices reach the platform.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Transport {
    /// MQTT 3.1.1, QoS 1, with a request id: the receipt is the PUBACK, `/status` comes beside it.
    Mqtt,
    /// `POST /kp1/...` on connections that stay open: the receipt is the 200.
    Http,
}

impl Transport {
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Mqtt => "mqtt",
            Self::Http => "http",
        }
    }

    /// What devices of a load show beside their endpoint's token.
    pub(crate) const fn authentication(self) -> &'static str {
        match self {
            Self::Mqtt => "password",
            Self::Http => "token",
        }
    }
}

/// A named load.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Profile {
    /// 50 meters with 4 messages in flight each.
    SmartMeter,
    /// One device that waits for each receipt: the latency without load.
    Single,
    /// 500 devices with 4 messages in flight each: more than the platform can take at once.
    FanIn,
    /// 50 devices over HTTP.
    Http,
}

impl Profile {
    pub(crate) const ALL: [Self; 4] = [Self::SmartMeter, Self::Single, Self::FanIn, Self::Http];

    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::SmartMeter => "smart-meter",
            Self::Single => "single",
            Self::FanIn => "fan-in",
            Self::Http => "http",
        }
    }

    pub(crate) const fn transport(self) -> Transport {
        match self {
            Self::SmartMeter | Self::Single | Self::FanIn => Transport::Mqtt,
            Self::Http => Transport::Http,
        }
    }

    /// Each connection speaks for one endpoint.
    pub(crate) const fn connections(self) -> u32 {
        match self {
            Self::SmartMeter | Self::Http => 50,
            Self::Single => 1,
            Self::FanIn => 500,
        }
    }

    /// Messages of a connection that wait for their receipt at the same time.
    pub(crate) const fn in_flight(self) -> usize {
        match self {
            Self::SmartMeter | Self::FanIn => 4,
            Self::Single | Self::Http => 1,
        }
    }
}

/// How an MQTT client gets in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Access {
    /// TCP, no credentials.
    Plain,
    /// TCP, a password that the platform made.
    Password,
    /// TCP, a password that a person chose, used before.
    ChosenPassword,
    /// TLS, no credentials.
    Tls,
    /// TLS, a certificate of the client.
    TlsCertificate,
}

impl Access {
    pub(crate) const ALL: [Self; 5] =
        [Self::Plain, Self::Password, Self::ChosenPassword, Self::Tls, Self::TlsCertificate];

    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Plain => "plain",
            Self::Password => "password",
            Self::ChosenPassword => "chosen-password",
            Self::Tls => "tls",
            Self::TlsCertificate => "tls-certificate",
        }
    }

    pub(crate) const fn over_tls(self) -> bool {
        matches!(self, Self::Tls | Self::TlsCertificate)
    }
}

/// One measurement, which gives one line of results.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Measurement {
    Load(Profile),
    /// How many connections per second the gateway takes.
    Connect(Access),
    /// How much memory a connection costs that says nothing.
    Idle(Access),
    /// How long a command takes, there and back, at so many a second.
    Commands(Way, u32),
}

impl Measurement {
    /// Whether an earlier measurement on the same platform would change the result: memory that is free again is not
    /// all given back to the system, and would be used before more is taken.
    pub(crate) const fn wants_a_fresh_platform(self) -> bool {
        matches!(self, Self::Idle(_))
    }
}
