//! `/tm/api/v1/login`, `/logout`, `/jwks`: for people and for those who check tokens themselves.

use std::net::SocketAddr;

use axum::extract::{ConnectInfo, State};
use axum::http::{HeaderName, HeaderValue, StatusCode, header};
use axum::response::IntoResponse;
use ids::TenantId;
use rest::{Error, Json};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::Api;
use crate::login::Issued;

/// What answers with tokens is kept nowhere on the way (RFC 6749, 5.1).
pub(super) const NOT_STORED: [(HeaderName, HeaderValue); 2] = [
    (header::CACHE_CONTROL, HeaderValue::from_static("no-store")),
    (header::PRAGMA, HeaderValue::from_static("no-cache")),
];

/// Who logs in.
#[derive(Deserialize, ToSchema)]
pub(super) struct LoginBody {
    /// The tenant's id; absent: `username` ends with `@<tenant>`.
    #[schema(value_type = Option<String>)]
    tenant: Option<TenantId>,
    username: String,
    password: String,
}

/// A session to end.
#[derive(Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(super) struct LogoutBody {
    refresh_token: String,
}

/// Tokens, as OAuth 2.0 has them (RFC 6749, 5.1).
#[derive(Serialize, ToSchema)]
pub(super) struct TokenAnswer {
    /// Goes into `Authorization: Bearer ...`.
    access_token: String,
    /// In seconds.
    expires_in: i64,
    /// In seconds; 0 without a refresh token.
    refresh_expires_in: i64,
    /// For the next access token; good for one use.
    #[serde(skip_serializing_if = "Option::is_none")]
    refresh_token: Option<String>,
    /// `Bearer`.
    token_type: &'static str,
    scope: &'static str,
}

impl From<Issued> for TokenAnswer {
    fn from(issued: Issued) -> Self {
        let refresh_expires_in = issued.refresh.as_ref().map_or(0, |refresh| refresh.expires_in);
        Self {
            access_token: issued.access_token.as_str().to_owned(),
            expires_in: issued.expires_in,
            refresh_expires_in,
            refresh_token: issued.refresh.map(|refresh| refresh.text.as_str().to_owned()),
            token_type: "Bearer",
            scope: crate::token::AUDIENCE,
        }
    }
}

/// The tenant, and the user name in it: the text after the last `@` is the tenant when none is given.
fn account(body: &LoginBody) -> Option<(TenantId, &str)> {
    if let Some(tenant) = &body.tenant {
        return Some((tenant.clone(), &body.username));
    }
    let (username, tenant) = body.username.rsplit_once('@')?;
    Some((TenantId::parse(tenant).ok()?, username))
}

/// Logs a user in.
///
/// After five failed logins in a row from one address each further failure locks the user name there, first for 1 s, then
/// twice as long each time, up to 15 min; after fifty from anywhere it is locked everywhere, up to 30 s.
#[utoipa::path(
    post, path = "/tm/api/v1/login", tag = "login", request_body = LoginBody,
    responses(
        (status = 200, body = TokenAnswer), (status = 400, body = rest::ErrorBody),
        (status = 401, body = rest::ErrorBody), (status = 403, body = rest::ErrorBody),
        (status = 429, body = rest::ErrorBody), (status = 503, body = rest::ErrorBody),
    ),
)]
pub(super) async fn login(
    State(api): State<Api>,
    ConnectInfo(peer): ConnectInfo<SocketAddr>,
    Json(body): Json<LoginBody>,
) -> Result<impl IntoResponse, Error> {
    let (tenant, username) = account(&body).ok_or_else(|| {
        Error::bad_request("name the tenant: in \"tenant\", or as <username>@<tenant> in \"username\"")
    })?;
    let issued = api.logins.password(peer.ip(), &tenant, username, &body.password).await?;
    Ok((NOT_STORED, Json(TokenAnswer::from(issued))))
}

/// Ends the session of a refresh token. Access tokens of it live on until they expire.
#[utoipa::path(
    post, path = "/tm/api/v1/logout", tag = "login", request_body = LogoutBody,
    responses((status = 204), (status = 400, body = rest::ErrorBody)),
)]
pub(super) async fn logout(
    State(api): State<Api>,
    Json(body): Json<LogoutBody>,
) -> Result<StatusCode, Error> {
    api.logins.logout(None, &body.refresh_token).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// The keys that verify access tokens (RFC 7517).
#[utoipa::path(get, path = "/tm/api/v1/jwks", tag = "login", responses((status = 200, body = Object)))]
pub(super) async fn jwks(State(api): State<Api>) -> impl IntoResponse {
    Json(api.keyring.public())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_tenant_stands_apart_or_after_the_last_at() {
        let account = |tenant: Option<&str>, username: &str| {
            let tenant = tenant.map(|tenant| TenantId::parse(tenant).unwrap());
            let body = LoginBody { tenant, username: username.to_owned(), password: String::new() };
            super::account(&body).map(|(tenant, username)| format!("{username} of {tenant}"))
        };
        assert_eq!(account(Some("acme"), "ada@x.org").as_deref(), Some("ada@x.org of acme"));
        assert_eq!(account(None, "ada@x.org@acme").as_deref(), Some("ada@x.org of acme"));
        assert_eq!(account(None, "ada@acme").as_deref(), Some("ada of acme"));
        assert_eq!(account(None, "ada"), None);
        assert_eq!(account(None, "ada@x.org"), None);
    }
}
