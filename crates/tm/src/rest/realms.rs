//! `/auth/realms/{realm}/...`: tokens where Keycloak has them. The realm is the tenant's id.
//!
//! Errors have the form of OAuth 2.0 (RFC 6749, 5.2): `{"error", "error_description"}`. A wrong password is answered
//! 401 as Keycloak does, where the RFC has 400.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use axum::extract::rejection::FormRejection;
use axum::extract::{ConnectInfo, Form, State};
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use base64::Engine as _;
use ids::TenantId;
use rest::{Json, Path};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::Api;
use super::login::{NOT_STORED, TokenAnswer};
use crate::error::Error;
use crate::login::Issued;

const GRANTS: [&str; 3] = ["password", "client_credentials", "refresh_token"];

/// A request for tokens. What a grant does not need is ignored.
#[derive(Deserialize, ToSchema)]
pub(super) struct TokenForm {
    /// `password`, `client_credentials` or `refresh_token`.
    grant_type: Option<String>,
    /// `client_credentials`: the id of the API key.
    client_id: Option<String>,
    /// `client_credentials`: the API key. Id and key may also come as `Authorization: Basic`.
    client_secret: Option<String>,
    /// `password`
    username: Option<String>,
    /// `password`
    password: Option<String>,
    /// `refresh_token`
    refresh_token: Option<String>,
}

/// A session to end.
#[derive(Deserialize, ToSchema)]
pub(super) struct LogoutForm {
    refresh_token: Option<String>,
}

/// Why there are no tokens.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct OAuthError {
    error: &'static str,
    error_description: String,
    #[serde(skip)]
    #[schema(ignore)]
    status: u16,
    #[serde(skip)]
    #[schema(ignore)]
    retry_after: Option<Duration>,
}

impl OAuthError {
    fn new(status: StatusCode, error: &'static str, description: impl Into<String>) -> Self {
        Self { error, error_description: description.into(), status: status.as_u16(), retry_after: None }
    }

    fn invalid_request(description: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, "invalid_request", description)
    }

    fn missing(parameter: &str) -> Self {
        Self::invalid_request(format!("the parameter {parameter} is missing"))
    }
}

impl From<Error> for OAuthError {
    fn from(error: Error) -> Self {
        let message = error.to_string();
        match error {
            Error::WrongCredentials => Self::new(StatusCode::UNAUTHORIZED, "invalid_grant", message),
            Error::RefreshToken | Error::UserDisabled | Error::TenantDisabled(_) => {
                Self::new(StatusCode::BAD_REQUEST, "invalid_grant", message)
            }
            Error::WrongClient => Self::new(StatusCode::UNAUTHORIZED, "invalid_client", message),
            Error::Locked(left) => Self {
                retry_after: Some(left),
                ..Self::new(StatusCode::TOO_MANY_REQUESTS, "invalid_grant", message)
            },
            Error::Busy => Self {
                retry_after: Some(Duration::from_secs(1)),
                ..Self::new(StatusCode::SERVICE_UNAVAILABLE, "temporarily_unavailable", message)
            },
            // The other form of errors says and logs what is right for these; only its status is wanted here.
            error => {
                let answer = rest::Error::from(error).into_response();
                let status = answer.status();
                let name = if status == StatusCode::SERVICE_UNAVAILABLE {
                    "temporarily_unavailable"
                } else {
                    "server_error"
                };
                Self::new(
                    status,
                    name,
                    "the tokens cannot be made now; try again, or look into the log of tm",
                )
            }
        }
    }
}

impl From<FormRejection> for OAuthError {
    fn from(rejection: FormRejection) -> Self {
        Self::new(rejection.status(), "invalid_request", rejection.body_text())
    }
}

impl IntoResponse for OAuthError {
    fn into_response(self) -> Response {
        let status = StatusCode::from_u16(self.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let retry_after = self.retry_after;
        let mut response = (status, NOT_STORED, Json(self)).into_response();
        if let Some(pause) = retry_after {
            let seconds = pause.as_secs() + u64::from(pause.subsec_nanos() > 0);
            response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from(seconds.max(1)));
        }
        if status == StatusCode::UNAUTHORIZED {
            let challenge = HeaderValue::from_static("Basic realm=\"bandar\"");
            response.headers_mut().insert(header::WWW_AUTHENTICATE, challenge);
        }
        response
    }
}

fn tenant_of(realm: &str) -> Result<TenantId, OAuthError> {
    TenantId::parse(realm).map_err(|invalid| {
        OAuthError::new(StatusCode::NOT_FOUND, "invalid_request", format!("realm: {invalid}"))
    })
}

/// Where the service is, as the caller sees it.
fn origin(issuer: &str, headers: &HeaderMap) -> String {
    if let Some((scheme, rest)) = issuer.split_once("://") {
        let authority = rest.split('/').next().unwrap_or_default();
        return format!("{scheme}://{authority}");
    }
    let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
    let scheme = text("x-forwarded-proto").filter(|scheme| *scheme == "https").unwrap_or("http");
    format!("{scheme}://{}", text("host").unwrap_or("localhost"))
}

/// Where what is, and what is supported (OpenID Connect Discovery 1.0).
#[utoipa::path(
    get, path = "/auth/realms/{realm}/.well-known/openid-configuration", tag = "login",
    params(("realm" = String, Path, description = "The tenant's id.")),
    responses((status = 200, body = Object), (status = 404, body = OAuthError)),
)]
pub(super) async fn discovery(
    State(api): State<Api>,
    Path(realm): Path<String>,
    headers: HeaderMap,
) -> Result<impl IntoResponse, OAuthError> {
    let tenant = tenant_of(&realm)?;
    let issuer = api.keyring.issuer();
    let base = format!("{}/auth/realms/{tenant}/protocol/openid-connect", origin(issuer, &headers));
    Ok(Json(serde_json::json!({
        "issuer": issuer,
        "token_endpoint": format!("{base}/token"),
        "end_session_endpoint": format!("{base}/logout"),
        "jwks_uri": format!("{base}/certs"),
        "grant_types_supported": GRANTS,
        "response_types_supported": [],
        "subject_types_supported": ["public"],
        "id_token_signing_alg_values_supported": ["ES256"],
        "token_endpoint_auth_methods_supported": ["client_secret_post", "client_secret_basic"],
    })))
}

/// The keys that verify access tokens (RFC 7517); the same for all tenants.
#[utoipa::path(
    get, path = "/auth/realms/{realm}/protocol/openid-connect/certs", tag = "login",
    params(("realm" = String, Path, description = "The tenant's id.")),
    responses((status = 200, body = Object), (status = 404, body = OAuthError)),
)]
pub(super) async fn certs(
    State(api): State<Api>,
    Path(realm): Path<String>,
) -> Result<impl IntoResponse, OAuthError> {
    tenant_of(&realm)?;
    Ok(Json(api.keyring.public()))
}

/// Gives tokens for a password, an API key or a refresh token (RFC 6749).
#[utoipa::path(
    post, path = "/auth/realms/{realm}/protocol/openid-connect/token", tag = "login",
    params(("realm" = String, Path, description = "The tenant's id.")),
    request_body(content = TokenForm, content_type = "application/x-www-form-urlencoded"),
    responses(
        (status = 200, body = TokenAnswer), (status = 400, body = OAuthError), (status = 401, body = OAuthError),
        (status = 404, body = OAuthError), (status = 429, body = OAuthError), (status = 503, body = OAuthError),
    ),
)]
pub(super) async fn token(
    State(api): State<Api>,
    ConnectInfo(peer): ConnectInfo<SocketAddr>,
    Path(realm): Path<String>,
    headers: HeaderMap,
    form: Result<Form<TokenForm>, FormRejection>,
) -> Result<impl IntoResponse, OAuthError> {
    let tenant = tenant_of(&realm)?;
    let Form(form) = form?;
    let issued = grant(&api, peer.ip(), &tenant, &headers, form).await?;
    Ok((NOT_STORED, Json(TokenAnswer::from(issued))))
}

async fn grant(
    api: &Api,
    from: IpAddr,
    tenant: &TenantId,
    headers: &HeaderMap,
    form: TokenForm,
) -> Result<Issued, OAuthError> {
    let given = |value: Option<String>, name: &str| value.ok_or_else(|| OAuthError::missing(name));
    match form.grant_type.as_deref() {
        Some("password") => {
            let username = given(form.username, "username")?;
            let password = given(form.password, "password")?;
            Ok(api.logins.password(from, tenant, &username, &password).await?)
        }
        Some("client_credentials") => {
            let (id, key) = match basic(headers) {
                Some(pair) => pair,
                None => (given(form.client_id, "client_id")?, given(form.client_secret, "client_secret")?),
            };
            Ok(api.logins.client(tenant, &id, &key).await?)
        }
        Some("refresh_token") => {
            let token = given(form.refresh_token, "refresh_token")?;
            Ok(api.logins.refresh(Some(tenant), &token).await?)
        }
        Some(_) => {
            let supported = GRANTS.join(", ");
            let description = format!("grant_type must be one of {supported}");
            Err(OAuthError::new(StatusCode::BAD_REQUEST, "unsupported_grant_type", description))
        }
        None => Err(OAuthError::missing("grant_type")),
    }
}

/// The id and the secret of `Authorization: Basic`. Neither of ours needs the encoding that RFC 6749 puts on them.
fn basic(headers: &HeaderMap) -> Option<(String, String)> {
    let value = headers.get(header::AUTHORIZATION)?.to_str().ok()?;
    let (scheme, pair) = value.split_once(' ')?;
    if !scheme.eq_ignore_ascii_case("basic") {
        return None;
    }
    let pair = base64::engine::general_purpose::STANDARD.decode(pair.trim()).ok()?;
    let (id, secret) =
        std::str::from_utf8(&pair).ok()?.split_once(':').map(|(id, key)| (id.to_owned(), key.to_owned()))?;
    Some((id, secret))
}

/// Ends the session of a refresh token.
#[utoipa::path(
    post, path = "/auth/realms/{realm}/protocol/openid-connect/logout", tag = "login",
    params(("realm" = String, Path, description = "The tenant's id.")),
    request_body(content = LogoutForm, content_type = "application/x-www-form-urlencoded"),
    responses((status = 204), (status = 400, body = OAuthError), (status = 404, body = OAuthError)),
)]
pub(super) async fn logout(
    State(api): State<Api>,
    Path(realm): Path<String>,
    form: Result<Form<LogoutForm>, FormRejection>,
) -> Result<StatusCode, OAuthError> {
    let tenant = tenant_of(&realm)?;
    let Form(form) = form?;
    let token = form.refresh_token.ok_or_else(|| OAuthError::missing("refresh_token"))?;
    api.logins.logout(Some(&tenant), &token).await?;
    Ok(StatusCode::NO_CONTENT)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(pairs: &[(&'static str, &str)]) -> HeaderMap {
        let pair = |(name, value): &(&'static str, &str)| {
            (header::HeaderName::from_static(name), HeaderValue::from_str(value).unwrap())
        };
        pairs.iter().map(pair).collect()
    }

    #[test]
    fn the_origin_is_that_of_the_issuer_or_of_the_request() {
        let sent = headers(&[("host", "iot.example:8080")]);
        assert_eq!(origin("https://id.example/x", &sent), "https://id.example");
        assert_eq!(origin("bandar", &sent), "http://iot.example:8080");
        let forwarded = headers(&[("host", "iot.example"), ("x-forwarded-proto", "https")]);
        assert_eq!(origin("bandar", &forwarded), "https://iot.example");
        assert_eq!(origin("bandar", &HeaderMap::new()), "http://localhost");
    }

    #[test]
    fn clients_may_show_their_secret_in_a_header() {
        // printf 'id:se:cret' | base64
        let sent = headers(&[("authorization", "basic aWQ6c2U6Y3JldA==")]);
        assert_eq!(basic(&sent), Some(("id".to_owned(), "se:cret".to_owned())));
        for other in ["Bearer aWQ6c2U6Y3JldA==", "Basic", "Basic !!", "Basic aWQ="] {
            assert_eq!(basic(&headers(&[("authorization", other)])), None, "{other}");
        }
    }
}
