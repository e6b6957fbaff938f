//! Endpoints and what may be said about them.

use chrono::{DateTime, Utc};
use ids::{AppVersionName, ApplicationName, EndpointId, TenantId};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use utoipa::ToSchema;

/// An endpoint: the digital twin of a device.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Endpoint {
    /// Unique in the platform, never changed.
    pub(crate) endpoint_id: String,
    pub(crate) created_date: DateTime<Utc>,
    pub(crate) app_version: EndpointVersion,
    /// Only when asked for by `include=metadata`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Object>)]
    pub(crate) metadata: Option<Map<String, Value>>,
    /// When the metadata last changed; only together with it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) metadata_updated_date: Option<DateTime<Utc>>,
    /// The ids of the active filters that it matches. Only when asked for by `include=filters`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) filters: Option<Vec<String>>,
    /// As given when it was registered.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) group: Option<String>,
}

/// The application version of an endpoint.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) struct EndpointVersion {
    pub(crate) name: String,
    /// Since when the endpoint has this version.
    pub(crate) registered_date: DateTime<Utc>,
}

/// An endpoint that has its token: what its maker is told, this once. Not `Debug`: it shows the token.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Registered {
    #[serde(flatten)]
    pub(crate) endpoint: Endpoint,
    /// The endpoint's first token. It cannot be read again.
    pub(crate) token: String,
    /// The token's status: `Inactive` until it is first used.
    pub(crate) status: String,
}

/// An endpoint to register.
#[derive(Debug, Clone)]
pub(crate) struct NewEndpoint {
    pub(crate) endpoint_id: EndpointId,
    pub(crate) application: ApplicationName,
    pub(crate) version: AppVersionName,
    pub(crate) metadata: Map<String, Value>,
    pub(crate) group: Option<String>,
    pub(crate) relations: Vec<NewRelation>,
}

/// What one endpoint has to do with another.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub(crate) enum RelationType {
    /// As a gateway has sensors behind it.
    Contains,
}

impl RelationType {
    /// The name in JSON and in the table.
    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::Contains => "contains",
        }
    }
}

/// A relation between two endpoints of one tenant.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Relation {
    #[serde(rename = "type")]
    pub(crate) relation_type: RelationType,
    /// The endpoint that contains.
    #[schema(value_type = String)]
    pub(crate) from: EndpointId,
    /// The endpoint that is contained.
    #[schema(value_type = String)]
    pub(crate) to: EndpointId,
}

/// A relation of an endpoint that is being registered: the end that is not given is that endpoint.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct NewRelation {
    #[serde(rename = "type")]
    relation_type: RelationType,
    /// The endpoint that contains the new one.
    #[serde(default)]
    #[schema(value_type = Option<String>)]
    from: Option<EndpointId>,
    /// The endpoint that the new one contains.
    #[serde(default)]
    #[schema(value_type = Option<String>)]
    to: Option<EndpointId>,
}

impl NewRelation {
    /// The endpoint at the other end; none unless exactly one end is given.
    pub(crate) fn other(&self) -> Option<&EndpointId> {
        match (&self.from, &self.to) {
            (Some(other), None) | (None, Some(other)) => Some(other),
            _ => None,
        }
    }

    pub(crate) fn of(&self, endpoint_id: &EndpointId) -> Relation {
        let end = |given: &Option<EndpointId>| given.clone().unwrap_or_else(|| endpoint_id.clone());
        Relation { relation_type: self.relation_type, from: end(&self.from), to: end(&self.to) }
    }
}

/// An endpoint as it stands in the transaction that changes it: what filters are evaluated against.
#[derive(Debug, Clone, Copy)]
pub(crate) struct EndpointSnapshot<'a> {
    pub(crate) endpoint_id: &'a EndpointId,
    pub(crate) tenant: &'a TenantId,
    pub(crate) application: &'a ApplicationName,
    pub(crate) app_version: &'a AppVersionName,
    pub(crate) metadata: &'a Map<String, Value>,
}

/// How far a batch task is.
#[derive(Default, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) struct BatchStatus {
    pub(crate) created_count: usize,
    pub(crate) failed_count: usize,
    /// Not tried yet, or to be tried again.
    pub(crate) pending_count: usize,
    pub(crate) created: Vec<BatchMade>,
    pub(crate) failed: Vec<BatchFailed>,
}

/// An endpoint of a batch task that is registered. Not `Debug`: it shows the token.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) struct BatchMade {
    /// The endpoint's token. Absent when this process cannot decrypt it (`epr.batch_key`).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) endpoint_token: Option<String>,
    pub(crate) endpoint_id: String,
    #[schema(value_type = Object)]
    pub(crate) metadata: Map<String, Value>,
}

/// An endpoint of a batch task that is not registered and will not be. Not `Debug`: it shows the token.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) struct BatchFailed {
    /// The token wished for, if there was one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) endpoint_token: Option<String>,
    pub(crate) endpoint_id: String,
    #[schema(value_type = Object)]
    pub(crate) metadata: Map<String, Value>,
    /// `FAILED`
    pub(crate) status: &'static str,
    /// Why, in words.
    pub(crate) status_reason: String,
}
