//! 14/TSTP: new points of time series, broadcast on a subject per series, answered when a reply subject is given.

use std::collections::BTreeMap;

use bytes::Bytes;
use ids::{InstanceName, TimeSeriesName};

use crate::Fault;
use crate::codec::Field;
use crate::reader::Reader;
use crate::subject::{Event, Message, join};

/// The protocol's name in subjects.
pub const PROTOCOL: &str = "tstp";
/// Carries [`TimeSeriesEvent`]; the name of the series follows as the last token.
pub const DATA_POINTS_RECEIVED: Event =
    Event { entity: "endpoint", group: "data-collection", event_type: "data-points-received" };
/// Carries [`TimeSeriesProcessed`].
pub const TIME_SERIES_PROCESSED: Message =
    Message { protocol: PROTOCOL, message_type: "TimeSeriesProcessed" };

/// The subject for points of one series from one originator.
#[must_use]
pub fn data_points_received(originator: &InstanceName, series: &TimeSeriesName) -> String {
    join([&DATA_POINTS_RECEIVED.of(originator), series.as_str()])
}

/// One value of a point. Objects and arrays travel as a string or as bytes.
#[derive(Debug, Clone, Default, PartialEq)]
pub enum Value {
    /// True or false.
    Boolean(bool),
    /// A number of 32 bits.
    Int(i32),
    /// A number of 64 bits.
    Long(i64),
    /// A fraction of 32 bits.
    Float(f32),
    /// A fraction of 64 bits.
    Double(f64),
    /// Text.
    String(String),
    /// Bytes.
    Bytes(Bytes),
    /// No value.
    #[default]
    Null,
}

impl Value {
    /// The branch of the schema's union.
    fn branch(&self) -> i64 {
        match self {
            Self::Boolean(_) => 0,
            Self::Int(_) => 1,
            Self::Long(_) => 2,
            Self::Float(_) => 3,
            Self::Double(_) => 4,
            Self::String(_) => 5,
            Self::Bytes(_) => 6,
            Self::Null => 7,
        }
    }
}

impl Field for Value {
    fn size(&self) -> usize {
        1 + match self {
            Self::Boolean(value) => value.size(),
            Self::Int(value) => value.size(),
            Self::Long(value) => value.size(),
            Self::Float(value) => value.size(),
            Self::Double(value) => value.size(),
            Self::String(value) => value.size(),
            Self::Bytes(value) => value.size(),
            Self::Null => 0,
        }
    }

    fn write(&self, out: &mut Vec<u8>) {
        self.branch().write(out);
        match self {
            Self::Boolean(value) => value.write(out),
            Self::Int(value) => value.write(out),
            Self::Long(value) => value.write(out),
            Self::Float(value) => value.write(out),
            Self::Double(value) => value.write(out),
            Self::String(value) => value.write(out),
            Self::Bytes(value) => value.write(out),
            Self::Null => (),
        }
    }

    fn read(reader: &mut Reader<'_>) -> Result<Self, Fault> {
        match i64::read(reader)? {
            0 => Field::read(reader).map(Self::Boolean),
            1 => Field::read(reader).map(Self::Int),
            2 => Field::read(reader).map(Self::Long),
            3 => Field::read(reader).map(Self::Float),
            4 => Field::read(reader).map(Self::Double),
            5 => Field::read(reader).map(Self::String),
            6 => Field::read(reader).map(Self::Bytes),
            7 => Ok(Self::Null),
            branch => Err(Fault::NoSuchBranch(branch)),
        }
    }
}

part! {
    /// One point of a time series. Times are milliseconds since 1970-01-01 UTC.
    pub struct DataPoint {
        /// When the platform took the point in.
        pub ingestion_timestamp: i64,
        /// The point's own time.
        pub timestamp: i64,
        /// By the name of the value.
        pub values: BTreeMap<String, Value>,
    }
}

record! {
    /// New points of one time series of one endpoint.
    pub struct TimeSeriesEvent in "tstp" {
        pub correlation_id: String,
        pub timestamp: i64,
        pub timeout: i64,
        pub app_version_name: String,
        pub endpoint_id: String,
        pub time_series_name: String,
        pub data_points: Vec<DataPoint>,
    }
}

record! {
    /// A receiver's answer.
    pub struct TimeSeriesProcessed in "tstp" {
        pub correlation_id: String,
        pub timestamp: i64,
        pub timeout: i64,
        pub status_code: i32,
        pub reason_phrase: Option<String> = NullFirst,
    }
}

envelope!(TimeSeriesEvent, TimeSeriesProcessed);
