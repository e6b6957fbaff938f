//! X.509 credentials.

use chrono::{DateTime, Utc};
use ids::TenantId;
use serde::Serialize;
use sqlx::{FromRow, PgConnection};
use utoipa::ToSchema;
use uuid::Uuid;

use super::authorities::Kind;
use super::{Counted, Credentials, Store, Topic, get};
use crate::certificate::Certificate;
use crate::error::Error;
use crate::state::State;

/// A client's certificate.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema, FromRow)]
#[serde(rename_all = "camelCase")]
pub(crate) struct X509 {
    #[sqlx(rename = "credentials_id")]
    pub(crate) id: Uuid,
    /// Only of certificates that were issued here.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) common_name: Option<String>,
    /// In decimal.
    pub(crate) serial_number: String,
    pub(crate) issuer: String,
    /// The state of the certificate itself; it is refused too while its authority is suspended.
    #[sqlx(try_from = "String")]
    pub(crate) state: State,
    /// The authority that issued it, unless that was deleted.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) authority_id: Option<Uuid>,
    /// Only of certificates that were issued here.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[sqlx(rename = "not_before")]
    pub(crate) valid_from: Option<DateTime<Utc>>,
    /// Only of certificates that were issued here.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[sqlx(rename = "not_after")]
    pub(crate) valid_until: Option<DateTime<Utc>>,
    #[sqlx(rename = "created_at")]
    pub(crate) created_date: DateTime<Utc>,
    /// When the state last changed.
    #[sqlx(rename = "updated_at")]
    pub(crate) updated_date: DateTime<Utc>,
    /// To the minute or so.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[sqlx(rename = "last_use_at")]
    pub(crate) last_use_date: Option<DateTime<Utc>>,
}

impl Credentials for X509 {
    const COUNTED: Counted = Counted::X509;
    const TOPIC: Topic = Topic::Certificate;
    const COLUMNS: &'static str = "credentials_id, common_name, serial_number, issuer, state, authority_id, \
         not_before, not_after, created_at, updated_at, last_use_at";
}

/// What issuer and serial number lead to: an authority, and perhaps a certificate of it that is known.
#[derive(Debug, Clone, FromRow)]
pub(crate) struct Presented {
    pub(crate) tenant_id: String,
    pub(crate) authority_id: Uuid,
    #[sqlx(try_from = "String")]
    pub(crate) kind: Kind,
    #[sqlx(try_from = "String")]
    pub(crate) authority_state: State,
    pub(crate) authority_expired: bool,
    pub(crate) credentials_id: Option<Uuid>,
    state: Option<String>,
    pub(crate) expired: bool,
    pub(crate) last_use_at: Option<DateTime<Utc>>,
}

impl Presented {
    /// The certificate that is known, and its state.
    pub(crate) fn known(&self) -> Result<Option<(Uuid, State)>, Error> {
        let (Some(id), Some(state)) = (self.credentials_id, &self.state) else { return Ok(None) };
        Ok(Some((id, state.parse()?)))
    }
}

/// A certificate that was issued here.
pub(crate) struct Issued<'a> {
    pub(crate) tenant: &'a TenantId,
    pub(crate) id: Uuid,
    pub(crate) authority_id: Uuid,
    pub(crate) common_name: &'a str,
    pub(crate) certificate: &'a Certificate,
}

impl Store {
    /// What issuer and serial number lead to. The hot path: one look into an index of each of two tables.
    pub(crate) async fn find_x509(
        &self,
        issuer: &str,
        serial_number: &str,
    ) -> Result<Option<Presented>, Error> {
        let found = sqlx::query_as(
            "SELECT authority.tenant_id, authority.authority_id, authority.kind, authority.state AS authority_state,
                 authority.not_after < now() AS authority_expired, known.credentials_id, known.state,
                 coalesce(known.not_after < now(), false) AS expired, known.last_use_at
             FROM authorities AS authority
             LEFT JOIN x509_credentials AS known ON known.tenant_id = authority.tenant_id
                 AND known.issuer = authority.subject AND known.serial_number = $2
             WHERE authority.subject = $1",
        )
        .bind(issuer)
        .bind(serial_number)
        .fetch_optional(&self.pool)
        .await?;
        Ok(found)
    }

    /// Keeps a certificate that was issued here.
    pub(crate) async fn create_issued(&self, issued: Issued<'_>) -> Result<X509, Error> {
        let Issued { tenant, id, authority_id, common_name, certificate } = issued;
        let mut transaction = self.pool.begin().await?;
        self.reserve(&mut transaction, tenant, Counted::X509).await?;
        if !holds_active(&mut transaction, authority_id).await? {
            return Err(Error::AuthorityGone);
        }
        sqlx::query(
            "INSERT INTO x509_credentials (credentials_id, tenant_id, authority_id, issuer, serial_number,
                 common_name, not_before, not_after, certificate, state)
             VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, 'Inactive')",
        )
        .bind(id)
        .bind(tenant.as_str())
        .bind(authority_id)
        .bind(&certificate.issuer)
        .bind(&certificate.serial_number)
        .bind(common_name)
        .bind(certificate.not_before)
        .bind(certificate.not_after)
        .bind(&certificate.der)
        .execute(&mut *transaction)
        .await?;
        let created = get(&mut transaction, tenant, id).await?;
        transaction.commit().await?;
        Ok(created)
    }

    /// Keeps a certificate of a foreign authority, which the gateway has verified. Does nothing when somebody else has just
    /// done so, or the authority is not active any more: look again.
    pub(crate) async fn create_presented(
        &self,
        tenant: &TenantId,
        authority_id: Uuid,
        issuer: &str,
        serial_number: &str,
    ) -> Result<(), Error> {
        let mut transaction = self.pool.begin().await?;
        self.reserve(&mut transaction, tenant, Counted::X509).await?;
        if !holds_active(&mut transaction, authority_id).await? {
            return Ok(());
        }
        let inserted = sqlx::query(
            "INSERT INTO x509_credentials (credentials_id, tenant_id, authority_id, issuer, serial_number, state, last_use_at)
             VALUES ($1, $2, $3, $4, $5, 'Active', now())
             ON CONFLICT ON CONSTRAINT x509_credentials_serial_key DO NOTHING",
        )
        .bind(Uuid::now_v7())
        .bind(tenant.as_str())
        .bind(authority_id)
        .bind(issuer)
        .bind(serial_number)
        .execute(&mut *transaction)
        .await?;
        // Else the count goes back with the transaction.
        if inserted.rows_affected() == 1 {
            transaction.commit().await?;
        }
        Ok(())
    }

    /// The certificate itself (DER), if it was issued here.
    pub(crate) async fn certificate(&self, tenant: &TenantId, id: Uuid) -> Result<Option<Vec<u8>>, Error> {
        let found: Option<Option<Vec<u8>>> = sqlx::query_scalar(
            "SELECT certificate FROM x509_credentials WHERE credentials_id = $1 AND tenant_id = $2",
        )
        .bind(id)
        .bind(tenant.as_str())
        .fetch_optional(&self.pool)
        .await?;
        Ok(found.flatten())
    }

    /// Whether a certificate would be registered again at its next use if it were deleted.
    pub(crate) async fn would_return(&self, tenant: &TenantId, id: Uuid) -> Result<bool, Error> {
        let foreign = sqlx::query_scalar(
            "SELECT EXISTS (SELECT FROM x509_credentials AS known JOIN authorities AS authority USING (authority_id)
             WHERE known.credentials_id = $1 AND known.tenant_id = $2 AND authority.kind = 'Foreign')",
        )
        .bind(id)
        .bind(tenant.as_str())
        .fetch_one(&self.pool)
        .await?;
        Ok(foreign)
    }
}

/// Whether an authority is active, and stays so until the transaction ends: whoever suspends it then finds what was added.
async fn holds_active(connection: &mut PgConnection, authority_id: Uuid) -> Result<bool, Error> {
    let state: Option<String> =
        sqlx::query_scalar("SELECT state FROM authorities WHERE authority_id = $1 FOR SHARE")
            .bind(authority_id)
            .fetch_optional(connection)
            .await?;
    Ok(state.as_deref() == Some(State::Active.as_str()))
}
