//! The loads that `bench` can make.

use clap::ValueEnum;

/// How devices reach the platform.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Transport {
    /// MQTT 3.1.1, QoS 1, with a request id: the receipt is the PUBACK, `/status` comes beside it.
    Mqtt,
    /// `POST /kp1/...` on connections that stay open: the receipt is the 200.
    Http,
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
