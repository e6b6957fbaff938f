//! `/api/v2/users`

use std::net::SocketAddr;

use axum::extract::{ConnectInfo, State};
use axum::http::StatusCode;
use ids::TenantId;
use rest::{Caller, Created, Json, Page, PageOf, Path, Query, Role};
use serde::Deserialize;
use utoipa::{IntoParams, ToSchema};
use uuid::Uuid;

use super::{Api, check_given};
use crate::domain::{Grants, User, Username, check_name, check_password, present};
use crate::error::Error;
use crate::store::{NewUser, UserChange, UserFilter};

/// A user to make.
#[derive(Deserialize, ToSchema)]
pub(super) struct NewUserBody {
    /// Up to 128 characters without white space, for example an e-mail address.
    username: String,
    /// The name shown to people, up to 256 characters; the username when absent.
    name: Option<String>,
    password: String,
    /// The role in the whole tenant.
    role: Option<Role>,
    /// Roles in single applications, by application name; up to 32.
    #[serde(default)]
    #[schema(value_type = BTreeMap<String, Role>)]
    grants: Grants,
    #[serde(default = "enabled")]
    enabled: bool,
}

fn enabled() -> bool {
    true
}

/// What to change; what is absent stays, `"role": null` takes the role away.
#[derive(Deserialize, ToSchema)]
pub(super) struct UserBody {
    name: Option<String>,
    #[serde(default, deserialize_with = "present")]
    #[schema(value_type = Option<Role>)]
    role: Option<Option<Role>>,
    /// All of them: what is not named is taken away.
    #[schema(value_type = Option<BTreeMap<String, Role>>)]
    grants: Option<Grants>,
    enabled: Option<bool>,
}

/// A new password of a user.
#[derive(Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(super) struct PasswordBody {
    new_password: String,
    /// Needed for the caller's own.
    current_password: Option<String>,
}

/// Whose users.
#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(rename_all = "camelCase")]
pub(super) struct Of {
    /// Another tenant than the caller's, for administrators of the platform.
    #[param(value_type = Option<String>)]
    tenant_id: Option<TenantId>,
}

/// Which users to list.
#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub(super) struct Which {
    /// A part of username or name, whatever the case.
    search: Option<String>,
    enabled: Option<bool>,
}

/// Makes a user.
#[utoipa::path(
    post, path = "/api/v2/users", tag = "users", params(Of), request_body = NewUserBody,
    responses(
        (status = 201, body = User, headers(("Location" = String, description = "The user's path."))),
        (status = 400, body = rest::ErrorBody), (status = 403, body = rest::ErrorBody),
        (status = 409, body = rest::ErrorBody), (status = 429, body = rest::ErrorBody),
    ),
)]
pub(super) async fn create(
    State(api): State<Api>,
    caller: Caller,
    Query(of): Query<Of>,
    Json(body): Json<NewUserBody>,
) -> Result<Created<User>, rest::Error> {
    let tenant = caller.tenant_or(of.tenant_id)?;
    let username = Username::parse(&body.username).map_err(Error::from)?;
    let name = body.name.as_deref().unwrap_or(&username.text);
    check_name(name).map_err(Error::from)?;
    check_password(&body.password, api.password_chars_min).map_err(Error::from)?;
    check_given(&caller, body.role, &body.grants)?;
    let hash = api.logins.hash(body.password).await?;
    let new = NewUser {
        id: Uuid::now_v7(),
        tenant: &tenant,
        username: &username,
        name,
        role: body.role,
        grants: &body.grants,
        enabled: body.enabled,
        password_hash: &hash,
    };
    let user = api.store.create_user(new).await?;
    Ok(Created { location: format!("/api/v2/users/{}", user.id), body: user })
}

/// Lists the tenant's users by username.
#[utoipa::path(
    get, path = "/api/v2/users", tag = "users", params(Of, Which, Page),
    responses((status = 200, body = PageOf<User>), (status = 400, body = rest::ErrorBody)),
)]
pub(super) async fn list(
    State(api): State<Api>,
    caller: Caller,
    Query(of): Query<Of>,
    Query(which): Query<Which>,
    page: Page,
) -> Result<Json<PageOf<User>>, rest::Error> {
    let tenant = caller.tenant_or(of.tenant_id)?;
    let filter = UserFilter { search: which.search.as_deref(), enabled: which.enabled };
    let found = api.store.users(&tenant, &filter, page.offset.into(), page.limit.into()).await?;
    let (total_elements, content) = found;
    Ok(Json(PageOf { total_elements, content }))
}

/// One user.
#[utoipa::path(
    get, path = "/api/v2/users/{userId}", tag = "users",
    params(("userId" = Uuid, Path, description = "The user's id."), Of),
    responses((status = 200, body = User), (status = 404, body = rest::ErrorBody)),
)]
pub(super) async fn get(
    State(api): State<Api>,
    caller: Caller,
    Path(user): Path<Uuid>,
    Query(of): Query<Of>,
) -> Result<Json<User>, rest::Error> {
    let tenant = caller.tenant_or(of.tenant_id)?;
    Ok(Json(api.store.user(&tenant, user).await?))
}

/// Changes a user. Role, grants and disabling hold at once, also for tokens that are out.
#[utoipa::path(
    put, path = "/api/v2/users/{userId}", tag = "users",
    params(("userId" = Uuid, Path, description = "The user's id."), Of), request_body = UserBody,
    responses(
        (status = 200, body = User), (status = 400, body = rest::ErrorBody), (status = 403, body = rest::ErrorBody),
        (status = 404, body = rest::ErrorBody), (status = 409, body = rest::ErrorBody),
    ),
)]
pub(super) async fn update(
    State(api): State<Api>,
    caller: Caller,
    Path(user): Path<Uuid>,
    Query(of): Query<Of>,
    Json(body): Json<UserBody>,
) -> Result<Json<User>, rest::Error> {
    let tenant = caller.tenant_or(of.tenant_id)?;
    if let Some(name) = &body.name {
        check_name(name).map_err(Error::from)?;
    }
    let none = Grants::new();
    check_given(&caller, body.role.flatten(), body.grants.as_ref().unwrap_or(&none))?;
    let change = UserChange { name: body.name, role: body.role, grants: body.grants, enabled: body.enabled };
    let changed = api.store.update_user(&tenant, user, change).await?;
    api.announcer.access_changed(caller.correlation_id.as_str(), &tenant).await;
    Ok(Json(changed))
}

/// Deletes a user; his tokens are refused at once.
#[utoipa::path(
    delete, path = "/api/v2/users/{userId}", tag = "users",
    params(("userId" = Uuid, Path, description = "The user's id."), Of),
    responses((status = 204), (status = 404, body = rest::ErrorBody), (status = 409, body = rest::ErrorBody)),
)]
pub(super) async fn delete(
    State(api): State<Api>,
    caller: Caller,
    Path(user): Path<Uuid>,
    Query(of): Query<Of>,
) -> Result<StatusCode, rest::Error> {
    let tenant = caller.tenant_or(of.tenant_id)?;
    api.store.delete_user(&tenant, user).await?;
    api.announcer.access_changed(caller.correlation_id.as_str(), &tenant).await;
    Ok(StatusCode::NO_CONTENT)
}

/// Gives a user another password: his tokens and sessions are useless then, and failed logins are forgotten.
#[utoipa::path(
    put, path = "/api/v2/users/{userId}/password", tag = "users",
    params(("userId" = Uuid, Path, description = "The user's id."), Of), request_body = PasswordBody,
    responses(
        (status = 204), (status = 400, body = rest::ErrorBody), (status = 403, body = rest::ErrorBody),
        (status = 404, body = rest::ErrorBody), (status = 429, body = rest::ErrorBody),
    ),
)]
pub(super) async fn set_password(
    State(api): State<Api>,
    ConnectInfo(peer): ConnectInfo<SocketAddr>,
    caller: Caller,
    Path(user): Path<Uuid>,
    Query(of): Query<Of>,
    Json(body): Json<PasswordBody>,
) -> Result<StatusCode, rest::Error> {
    let tenant = caller.tenant_or(of.tenant_id)?;
    check_password(&body.new_password, api.password_chars_min).map_err(Error::from)?;
    // Whoever finds an unlocked screen must not be able to take the account over.
    if *caller.subject == *user.to_string() {
        let current = body.current_password.as_deref().ok_or_else(|| {
            rest::Error::bad_request("give currentPassword too: it is needed to change one's own password")
        })?;
        api.logins.confirm(peer.ip(), &tenant, user, current).await?;
    }
    api.logins.set_password(&tenant, user, body.new_password).await?;
    api.announcer.access_changed(caller.correlation_id.as_str(), &tenant).await;
    Ok(StatusCode::NO_CONTENT)
}
