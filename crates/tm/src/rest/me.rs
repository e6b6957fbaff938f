//! `/tm/api/v1/me`: who am I?

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;

use axum::extract::{ConnectInfo, State};
use axum::http::StatusCode;
use rest::{Caller, Error, Json, Role};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use uuid::Uuid;

use super::{Api, ROUTES};
use crate::domain::check_password;

/// The caller, as his credentials show him.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(super) struct Me {
    tenant_id: String,
    /// The id of the user or API key; for a user of an external issuer `<issuer>#<sub>`.
    subject: String,
    name: String,
    /// The role in the whole tenant.
    #[serde(skip_serializing_if = "Option::is_none")]
    role: Option<Role>,
    /// Roles in single applications, by application name.
    grants: BTreeMap<String, Role>,
    /// Whether the caller may act for every tenant.
    platform_administrator: bool,
    /// What the caller may do with tenants, users and keys in the whole tenant.
    permissions: BTreeSet<&'static str>,
}

/// A new password of one's own.
#[derive(Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(super) struct OwnPasswordBody {
    current_password: String,
    new_password: String,
}

/// Who the caller is and what he may do.
#[utoipa::path(get, path = "/tm/api/v1/me", tag = "me", responses((status = 200, body = Me)))]
pub(super) async fn get(caller: Caller) -> Json<Me> {
    let role = caller.access.role;
    let held = |permission| caller.is_platform() || role.is_some_and(|role: Role| role.may(permission));
    let permissions = ROUTES.iter().map(|rule| rule.permission).filter(|permission| held(*permission));
    Json(Me {
        tenant_id: caller.tenant.to_string(),
        subject: caller.subject.to_string(),
        name: caller.name.to_string(),
        role,
        grants: caller.access.grants.iter().map(|(name, role)| (name.to_string(), *role)).collect(),
        platform_administrator: caller.is_platform(),
        permissions: permissions.map(|permission| permission.0).collect(),
    })
}

/// Changes the caller's own password. All his tokens and sessions are useless then: log in again.
#[utoipa::path(
    put, path = "/tm/api/v1/me/password", tag = "me", request_body = OwnPasswordBody,
    responses(
        (status = 204), (status = 400, body = rest::ErrorBody), (status = 403, body = rest::ErrorBody),
        (status = 429, body = rest::ErrorBody), (status = 503, body = rest::ErrorBody),
    ),
)]
pub(super) async fn set_password(
    State(api): State<Api>,
    ConnectInfo(peer): ConnectInfo<SocketAddr>,
    caller: Caller,
    Json(body): Json<OwnPasswordBody>,
) -> Result<StatusCode, Error> {
    check_password(&body.new_password, api.password_chars_min).map_err(crate::error::Error::from)?;
    let user: Uuid = caller.subject.parse().map_err(|_| {
        Error::forbidden("only users have passwords here; this caller is an API key or of an external issuer")
    })?;
    api.logins.confirm(peer.ip(), &caller.tenant, user, &body.current_password).await?;
    api.logins.set_password(&caller.tenant, user, body.new_password).await?;
    api.announcer.access_changed(caller.correlation_id.as_str(), &caller.tenant).await;
    Ok(StatusCode::NO_CONTENT)
}
