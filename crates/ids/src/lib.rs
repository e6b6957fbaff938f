//! Typed identifiers of the platform.
//!
//! Every identifier is checked when it is made, so that code which holds one need not check again: none can break out
//! of a NATS subject, an MQTT topic or a URL path. Cloning is cheap (a shared string). Names and rules are Kaa's
//! (1/KP, 3/ISM, 16/ECAP and the REST interfaces).

mod name;
mod number;

pub use name::{
    AppVersionName, ApplicationName, CommandType, CorrelationId, EndpointId, EndpointToken, InstanceName,
    InvalidId, ReplicaId, TenantId, ThingName, TimeSeriesName, TokenId,
};
pub use number::{InvalidRequestId, RequestId};
