//! `/tm/api/v1/api-keys`

use axum::extract::State;
use axum::http::StatusCode;
use chrono::{DateTime, Utc};
use ids::TenantId;
use rest::{Caller, Created, Json, Page, PageOf, Path, Query, Role};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use super::{Api, check_given};
use crate::api_key::NewApiKey;
use crate::domain::{ApiKey, Grants, Invalid, check_name};
use crate::error::Error;
use crate::store::NewApiKeyRow;

/// An API key to make. It needs a role or grants.
#[derive(Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(super) struct NewApiKeyBody {
    /// The name shown to people, up to 256 characters.
    name: String,
    /// The role in the whole tenant.
    role: Option<Role>,
    /// Roles in single applications, by application name; up to 32.
    #[serde(default)]
    #[schema(value_type = BTreeMap<String, Role>)]
    grants: Grants,
    /// When the key ends; absent: never.
    expires_at: Option<DateTime<Utc>>,
}

/// A new API key. The key itself is shown here and never again.
#[derive(Serialize, ToSchema)]
pub(super) struct CreatedApiKey {
    /// `bdr_<id>_<secret>`: goes into `x-iamcore-api-key` or `Authorization: Bearer`.
    key: String,
    #[serde(flatten)]
    about: ApiKey,
}

/// Whose keys.
#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(rename_all = "camelCase")]
pub(super) struct Of {
    /// Another tenant than the caller's, for administrators of the platform.
    #[param(value_type = Option<String>)]
    tenant_id: Option<TenantId>,
}

/// Makes an API key, and shows it once.
#[utoipa::path(
    post, path = "/tm/api/v1/api-keys", tag = "API keys", params(Of), request_body = NewApiKeyBody,
    responses(
        (status = 201, body = CreatedApiKey, headers(("Location" = String, description = "The key's path."))),
        (status = 400, body = rest::ErrorBody), (status = 403, body = rest::ErrorBody),
        (status = 429, body = rest::ErrorBody),
    ),
)]
pub(super) async fn create(
    State(api): State<Api>,
    caller: Caller,
    Query(of): Query<Of>,
    Json(body): Json<NewApiKeyBody>,
) -> Result<Created<CreatedApiKey>, rest::Error> {
    let tenant = caller.tenant_or(of.tenant_id)?;
    check_name(&body.name).map_err(Error::from)?;
    check_given(&caller, body.role, &body.grants)?;
    if body.role.is_none() && body.grants.is_empty() {
        return Err(Error::from(Invalid::Powerless).into());
    }
    if body.expires_at.is_some_and(|expires_at| expires_at <= Utc::now()) {
        return Err(Error::from(Invalid::Expired).into());
    }
    let key = NewApiKey::generate();
    let new = NewApiKeyRow {
        id: &key.id,
        hash: key.hash,
        tenant: &tenant,
        name: &body.name,
        role: body.role,
        grants: &body.grants,
        created_by: &caller.subject,
        expires_at: body.expires_at,
    };
    let about = api.store.create_api_key(new).await?;
    let location = format!("/tm/api/v1/api-keys/{}", key.id);
    Ok(Created { location, body: CreatedApiKey { key: key.text, about } })
}

/// Lists the tenant's API keys, the newest first; revoked and expired ones for 90 days.
#[utoipa::path(
    get, path = "/tm/api/v1/api-keys", tag = "API keys", params(Of, Page),
    responses((status = 200, body = PageOf<ApiKey>), (status = 400, body = rest::ErrorBody)),
)]
pub(super) async fn list(
    State(api): State<Api>,
    caller: Caller,
    Query(of): Query<Of>,
    page: Page,
) -> Result<Json<PageOf<ApiKey>>, rest::Error> {
    let tenant = caller.tenant_or(of.tenant_id)?;
    let found = api.store.api_keys(&tenant, page.offset.into(), page.limit.into()).await?;
    let (total_elements, content) = found;
    Ok(Json(PageOf { total_elements, content }))
}

/// One API key, without its secret.
#[utoipa::path(
    get, path = "/tm/api/v1/api-keys/{keyId}", tag = "API keys",
    params(("keyId" = String, Path, description = "The key's id."), Of),
    responses((status = 200, body = ApiKey), (status = 404, body = rest::ErrorBody)),
)]
pub(super) async fn get(
    State(api): State<Api>,
    caller: Caller,
    Path(id): Path<String>,
    Query(of): Query<Of>,
) -> Result<Json<ApiKey>, rest::Error> {
    let tenant = caller.tenant_or(of.tenant_id)?;
    Ok(Json(api.store.api_key(&tenant, &id).await?))
}

/// Revokes an API key; it and the tokens that were given for it are refused at once.
#[utoipa::path(
    delete, path = "/tm/api/v1/api-keys/{keyId}", tag = "API keys",
    params(("keyId" = String, Path, description = "The key's id."), Of),
    responses((status = 204), (status = 404, body = rest::ErrorBody)),
)]
pub(super) async fn revoke(
    State(api): State<Api>,
    caller: Caller,
    Path(id): Path<String>,
    Query(of): Query<Of>,
) -> Result<StatusCode, rest::Error> {
    let tenant = caller.tenant_or(of.tenant_id)?;
    api.store.revoke_api_key(&tenant, &id).await?;
    api.announcer.access_changed(caller.correlation_id.as_str(), &tenant).await;
    Ok(StatusCode::NO_CONTENT)
}
