//! `/tm/api/v1/signing-keys`: the keys under which tokens of all tenants are signed.

use axum::extract::State;
use axum::http::StatusCode;
use chrono::{DateTime, Utc};
use rest::{Caller, Error, Json};
use serde::Serialize;
use utoipa::ToSchema;

use super::Api;
use crate::store::SigningKeyRow;

/// A key, without the key.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(super) struct SigningKey {
    kid: String,
    created_date: DateTime<Utc>,
    /// From when on it verifies nothing any more; absent: it signs.
    #[serde(skip_serializing_if = "Option::is_none")]
    retires_at: Option<DateTime<Utc>>,
}

impl From<SigningKeyRow> for SigningKey {
    fn from(row: SigningKeyRow) -> Self {
        Self { kid: row.kid, created_date: row.created_at, retires_at: row.retires_at }
    }
}

/// The keys that verify tokens, the one that signs first.
#[utoipa::path(
    get, path = "/tm/api/v1/signing-keys", tag = "signing keys",
    responses((status = 200, body = Vec<SigningKey>)),
)]
pub(super) async fn list(State(api): State<Api>, _caller: Caller) -> Result<Json<Vec<SigningKey>>, Error> {
    let keys = api.store.signing_keys().await.map_err(Error::from)?;
    Ok(Json(keys.into_iter().map(SigningKey::from).collect()))
}

/// Makes a new key that signs from now on. The others verify until their tokens have expired.
#[utoipa::path(
    post, path = "/tm/api/v1/signing-keys", tag = "signing keys",
    responses((status = 201, body = Vec<SigningKey>)),
)]
pub(super) async fn rotate(
    State(api): State<Api>,
    caller: Caller,
) -> Result<(StatusCode, Json<Vec<SigningKey>>), Error> {
    api.keyring.rotate(api.token_ttl_s).await?;
    // So that the other replicas sign with it too.
    api.announcer.access_changed(caller.correlation_id.as_str(), &caller.tenant).await;
    let Json(keys) = list(State(api), caller).await?;
    Ok((StatusCode::CREATED, Json(keys)))
}
