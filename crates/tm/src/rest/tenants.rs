//! `/api/v2/tenants`

use axum::extract::State;
use axum::http::StatusCode;
use ids::TenantId;
use rest::{Caller, Created, Json, Page, PageOf, Path, Query, Role};
use serde::Deserialize;
use utoipa::{IntoParams, ToSchema};
use uuid::Uuid;

use super::Api;
use crate::domain::{Grants, Tenant, Username, check_name, check_password};
use crate::error::Error;
use crate::store::{NewTenant, NewUser, TenantChange, TenantFilter};

/// A tenant to make.
#[derive(Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(super) struct NewTenantBody {
    /// 1 to 64 characters out of a-z 0-9 - _, never used before.
    #[schema(value_type = String)]
    tenant_id: TenantId,
    /// The name shown to people, up to 256 characters; the id when absent.
    name: Option<String>,
    #[serde(default = "enabled")]
    enabled: bool,
    /// Its first administrator; without one, an administrator of the platform makes users with `?tenantId=`.
    admin: Option<AdminBody>,
}

/// The first administrator of a tenant.
#[derive(Deserialize, ToSchema)]
pub(super) struct AdminBody {
    username: String,
    /// The username when absent.
    name: Option<String>,
    password: String,
}

fn enabled() -> bool {
    true
}

/// What to change; what is absent stays.
#[derive(Deserialize, ToSchema)]
pub(super) struct TenantBody {
    name: Option<String>,
    /// Only for administrators of the platform: whether users and API keys are let in.
    enabled: Option<bool>,
}

/// Which tenants to list.
#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub(super) struct Which {
    /// The id.
    tenant_id: Option<String>,
    /// A part of the name, whatever the case.
    name: Option<String>,
}

/// Makes a tenant.
#[utoipa::path(
    post, path = "/api/v2/tenants", tag = "tenants", request_body = NewTenantBody,
    responses(
        (status = 201, body = Tenant, headers(("Location" = String, description = "The tenant's path."))),
        (status = 400, body = rest::ErrorBody), (status = 409, body = rest::ErrorBody),
        (status = 429, body = rest::ErrorBody),
    ),
)]
pub(super) async fn create(
    State(api): State<Api>,
    caller: Caller,
    Json(body): Json<NewTenantBody>,
) -> Result<Created<Tenant>, rest::Error> {
    let tenant = &body.tenant_id;
    let name = body.name.as_deref().unwrap_or(tenant.as_str());
    check_name(name).map_err(Error::from)?;
    let made = match body.admin {
        None => {
            let new = NewTenant { tenant, name, enabled: body.enabled, admin: None };
            api.store.create_tenant(new).await?
        }
        Some(admin) => {
            let username = Username::parse(&admin.username).map_err(Error::from)?;
            let shown = admin.name.as_deref().unwrap_or(&username.text);
            check_name(shown).map_err(Error::from)?;
            check_password(&admin.password, api.password_chars_min).map_err(Error::from)?;
            let hash = api.logins.hash(admin.password).await?;
            let admin = NewUser {
                id: Uuid::now_v7(),
                tenant,
                username: &username,
                name: shown,
                role: Some(Role::Admin),
                grants: &Grants::new(),
                enabled: true,
                password_hash: &hash,
            };
            let new = NewTenant { tenant, name, enabled: body.enabled, admin: Some(admin) };
            api.store.create_tenant(new).await?
        }
    };
    // Tokens of external issuers may have named it before.
    api.announcer.access_changed(caller.correlation_id.as_str(), tenant).await;
    Ok(Created { location: format!("/api/v2/tenants/{tenant}"), body: made })
}

/// Lists the tenants by id.
#[utoipa::path(
    get, path = "/api/v2/tenants", tag = "tenants", params(Which, Page),
    responses((status = 200, body = PageOf<Tenant>), (status = 400, body = rest::ErrorBody)),
)]
pub(super) async fn list(
    State(api): State<Api>,
    _caller: Caller,
    Query(which): Query<Which>,
    page: Page,
) -> Result<Json<PageOf<Tenant>>, rest::Error> {
    let filter = TenantFilter { tenant: which.tenant_id.as_deref(), name: which.name.as_deref() };
    let found = api.store.tenants(&filter, page.offset.into(), page.limit.into()).await?;
    let (total_elements, content) = found;
    Ok(Json(PageOf { total_elements, content }))
}

/// The caller's tenant; for an administrator of the platform any.
fn own_or_any(caller: &Caller, tenant: TenantId) -> Result<TenantId, Error> {
    if tenant == caller.tenant || caller.is_platform() {
        Ok(tenant)
    } else {
        Err(Error::UnknownTenant(tenant))
    }
}

/// One tenant: the caller's own; for an administrator of the platform any.
#[utoipa::path(
    get, path = "/api/v2/tenants/{tenantId}", tag = "tenants",
    params(("tenantId" = String, Path, description = "The tenant's id.")),
    responses((status = 200, body = Tenant), (status = 404, body = rest::ErrorBody)),
)]
pub(super) async fn get(
    State(api): State<Api>,
    caller: Caller,
    Path(tenant): Path<TenantId>,
) -> Result<Json<Tenant>, rest::Error> {
    Ok(Json(api.store.tenant(&own_or_any(&caller, tenant)?).await?))
}

/// Changes a tenant: the caller's own; for an administrator of the platform any.
#[utoipa::path(
    put, path = "/api/v2/tenants/{tenantId}", tag = "tenants",
    params(("tenantId" = String, Path, description = "The tenant's id.")), request_body = TenantBody,
    responses(
        (status = 200, body = Tenant), (status = 400, body = rest::ErrorBody),
        (status = 403, body = rest::ErrorBody), (status = 404, body = rest::ErrorBody),
        (status = 409, body = rest::ErrorBody),
    ),
)]
pub(super) async fn update(
    State(api): State<Api>,
    caller: Caller,
    Path(tenant): Path<TenantId>,
    Json(body): Json<TenantBody>,
) -> Result<Json<Tenant>, rest::Error> {
    let tenant = own_or_any(&caller, tenant)?;
    if let Some(name) = &body.name {
        check_name(name).map_err(Error::from)?;
    }
    if body.enabled.is_some() && !caller.is_platform() {
        return Err(Error::OnlyPlatform.into());
    }
    if body.enabled == Some(false) && tenant == caller.tenant {
        return Err(Error::PlatformTenant.into());
    }
    let change = TenantChange { name: body.name.as_deref(), enabled: body.enabled };
    let changed = api.store.update_tenant(&tenant, &change).await?;
    let correlation_id = caller.correlation_id.as_str();
    if body.enabled.is_some() {
        api.announcer.access_changed(correlation_id, &tenant).await;
    }
    api.announcer.tenant_updated(correlation_id, &tenant).await;
    Ok(Json(changed))
}

/// Deletes a tenant with its users and API keys, and tells the other services. The id is never given again.
#[utoipa::path(
    delete, path = "/api/v2/tenants/{tenantId}", tag = "tenants",
    params(("tenantId" = String, Path, description = "The tenant's id.")),
    responses((status = 204), (status = 404, body = rest::ErrorBody), (status = 409, body = rest::ErrorBody)),
)]
pub(super) async fn delete(
    State(api): State<Api>,
    caller: Caller,
    Path(tenant): Path<TenantId>,
) -> Result<StatusCode, rest::Error> {
    // Whoever gets here belongs to the platform's tenant.
    if tenant == caller.tenant {
        return Err(Error::PlatformTenant.into());
    }
    api.store.delete_tenant(&tenant).await?;
    let correlation_id = caller.correlation_id.as_str();
    api.announcer.access_changed(correlation_id, &tenant).await;
    api.announcer.tenant_unregistered(correlation_id, &tenant).await?;
    Ok(StatusCode::NO_CONTENT)
}
