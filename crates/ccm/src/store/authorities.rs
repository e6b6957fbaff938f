//! Certificate authorities: the platform's root, tenants' own, and foreign ones.

use chrono::{DateTime, Utc};
use ids::TenantId;
use serde::{Deserialize, Serialize};
use sqlx::{FromRow, PgConnection};
use store::ConstraintExt as _;
use utoipa::ToSchema;
use uuid::Uuid;

use super::{Change, Counted, Store, Topic, X509, announce, announce_usable, lock, release};
use crate::certificate::Certificate;
use crate::error::Error;
use crate::state::State;

const COLUMNS: &str =
    "authority_id, kind, subject, state, not_before, not_after, created_at, updated_at, certificate";

/// Whose authority it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub(crate) enum Kind {
    /// Made here: it issues certificates.
    Own,
    /// Registered by the tenant, who issues certificates elsewhere.
    Foreign,
}

impl TryFrom<String> for Kind {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        match text.as_str() {
            "Own" => Ok(Self::Own),
            "Foreign" => Ok(Self::Foreign),
            _ => Err(format!("{text} is no kind of authority")),
        }
    }
}

/// A certificate authority of a tenant.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema, FromRow)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Authority {
    #[sqlx(rename = "authority_id")]
    pub(crate) id: Uuid,
    #[sqlx(try_from = "String")]
    pub(crate) kind: Kind,
    /// The issuer of its certificates.
    pub(crate) subject: String,
    /// `Active`, `Suspended` or `Revoked`.
    #[sqlx(try_from = "String")]
    pub(crate) state: State,
    #[sqlx(rename = "not_before")]
    pub(crate) valid_from: DateTime<Utc>,
    #[sqlx(rename = "not_after")]
    pub(crate) valid_until: DateTime<Utc>,
    #[sqlx(rename = "created_at")]
    pub(crate) created_date: DateTime<Utc>,
    /// When the state last changed.
    #[sqlx(rename = "updated_at")]
    pub(crate) updated_date: DateTime<Utc>,
    /// DER.
    #[serde(skip)]
    pub(crate) certificate: Vec<u8>,
}

/// What is stored of an authority that can sign.
#[derive(Clone, FromRow)]
pub(crate) struct StoredSigner {
    pub(crate) authority_id: Uuid,
    /// DER.
    pub(crate) certificate: Vec<u8>,
    /// Encrypted.
    pub(crate) private_key: Vec<u8>,
}

/// What gateways verify clients with.
#[derive(Debug, Clone, FromRow)]
pub(crate) struct Anchor {
    pub(crate) authority_id: Uuid,
    pub(crate) tenant_id: String,
    /// DER.
    pub(crate) certificate: Vec<u8>,
}

/// An authority to register.
pub(crate) struct NewForeign<'a> {
    pub(crate) id: Uuid,
    pub(crate) certificate: &'a Certificate,
}

impl Store {
    /// The platform's root, if it was made: id, certificate (DER), private key (encrypted).
    pub(crate) async fn root(&self) -> Result<Option<(Uuid, Vec<u8>, Vec<u8>)>, Error> {
        let root = sqlx::query_as("SELECT authority_id, certificate, private_key FROM platform_authority")
            .fetch_optional(&self.pool)
            .await?;
        Ok(root)
    }

    /// Keeps the platform's root, unless another replica has just made one.
    pub(crate) async fn create_root(
        &self,
        id: Uuid,
        certificate: &Certificate,
        private_key: &[u8],
    ) -> Result<(), Error> {
        sqlx::query(
            "INSERT INTO platform_authority (authority_id, certificate, private_key) VALUES ($1, $2, $3)
             ON CONFLICT ON CONSTRAINT platform_authority_pkey DO NOTHING",
        )
        .bind(id)
        .bind(&certificate.der)
        .bind(private_key)
        .execute(&self.pool)
        .await?;
        Ok(())
    }

    /// The newest active own authority that outlives a certificate.
    pub(crate) async fn signer(
        &self,
        tenant: &TenantId,
        until: DateTime<Utc>,
    ) -> Result<Option<StoredSigner>, Error> {
        let mut connection = self.pool.acquire().await?;
        signer(&mut connection, tenant, until).await
    }

    /// An own authority of the tenant that is suspended, while none is active.
    pub(crate) async fn suspended_own(&self, tenant: &TenantId) -> Result<Option<Uuid>, Error> {
        let suspended = sqlx::query_scalar(
            "SELECT authority_id FROM authorities WHERE tenant_id = $1 AND kind = 'Own' AND state = 'Suspended'
                 AND NOT EXISTS (SELECT FROM authorities WHERE tenant_id = $1 AND kind = 'Own' AND state = 'Active')
             ORDER BY authority_id DESC LIMIT 1",
        )
        .bind(tenant.as_str())
        .fetch_optional(&self.pool)
        .await?;
        Ok(suspended)
    }

    /// Keeps a new own authority, unless (with `unless_until`) another request has just made one that serves as well.
    pub(crate) async fn create_own(
        &self,
        change: Change<'_>,
        made: &StoredSigner,
        certificate: &Certificate,
        unless_until: Option<DateTime<Utc>>,
    ) -> Result<StoredSigner, Error> {
        let mut transaction = self.pool.begin().await?;
        self.reserve(&mut transaction, change.tenant, Counted::Authorities).await?;
        if let Some(until) = unless_until
            && let Some(other) = signer(&mut transaction, change.tenant, until).await?
        {
            return Ok(other);
        }
        let own = (made.authority_id, Kind::Own, Some(made.private_key.as_slice()));
        insert(&mut transaction, change, own, certificate).await?;
        transaction.commit().await?;
        Ok(made.clone())
    }

    /// Keeps a foreign authority.
    pub(crate) async fn create_foreign(&self, change: Change<'_>, new: NewForeign<'_>) -> Result<(), Error> {
        let mut transaction = self.pool.begin().await?;
        self.reserve(&mut transaction, change.tenant, Counted::Authorities).await?;
        insert(&mut transaction, change, (new.id, Kind::Foreign, None), new.certificate).await?;
        transaction.commit().await?;
        Ok(())
    }

    /// The tenant's authorities, the oldest first. Their number is bounded by `ccm.authorities_max`.
    pub(crate) async fn authorities(&self, tenant: &TenantId) -> Result<Vec<Authority>, Error> {
        let select = format!("SELECT {COLUMNS} FROM authorities WHERE tenant_id = $1 ORDER BY authority_id");
        let all =
            sqlx::query_as(sqlx::AssertSqlSafe(select)).bind(tenant.as_str()).fetch_all(&self.pool).await?;
        Ok(all)
    }

    /// One of the tenant's authorities.
    pub(crate) async fn authority(&self, tenant: &TenantId, id: Uuid) -> Result<Authority, Error> {
        let mut connection = self.pool.acquire().await?;
        authority(&mut connection, tenant, id, "").await
    }

    /// Moves an authority to another state. What it issued is refused while it is not active, and is revoked with it.
    pub(crate) async fn transit_authority(
        &self,
        change: Change<'_>,
        id: Uuid,
        target: State,
    ) -> Result<Authority, Error> {
        let mut transaction = self.pool.begin().await?;
        let before = authority(&mut transaction, change.tenant, id, "FOR UPDATE").await?;
        if before.state != target {
            if !before.state.leads_to(target) {
                return Err(Error::Transition { from: before.state, to: target });
            }
            sqlx::query("UPDATE authorities SET state = $2, updated_at = now() WHERE authority_id = $1")
                .bind(id)
                .bind(target.as_str())
                .execute(&mut *transaction)
                .await?;
        }
        if !target.is_usable() {
            announce_usable::<X509>(&mut transaction, change, Some(id)).await?;
        }
        if target == State::Revoked {
            revoke_issued(&mut transaction, id).await?;
        }
        announce(&mut transaction, change, Topic::Authorities, None).await?;
        let after = authority(&mut transaction, change.tenant, id, "").await?;
        transaction.commit().await?;
        Ok(after)
    }

    /// Removes an authority. What an own one issued goes with it; what a foreign one issued stays as revoked, in case it is
    /// registered again, unless it is to be forgotten.
    pub(crate) async fn delete_authority(
        &self,
        change: Change<'_>,
        id: Uuid,
        forget: bool,
    ) -> Result<(), Error> {
        let mut transaction = self.pool.begin().await?;
        lock(&mut transaction, change.tenant).await?;
        let before = authority(&mut transaction, change.tenant, id, "FOR UPDATE").await?;
        announce_usable::<X509>(&mut transaction, change, Some(id)).await?;
        if forget || before.kind == Kind::Own {
            let deleted = sqlx::query("DELETE FROM x509_credentials WHERE authority_id = $1")
                .bind(id)
                .execute(&mut *transaction)
                .await?;
            let deleted = i64::try_from(deleted.rows_affected()).unwrap_or(i64::MAX);
            release(&mut transaction, change.tenant, Counted::X509, deleted).await?;
        } else {
            revoke_issued(&mut transaction, id).await?;
        }
        sqlx::query("DELETE FROM authorities WHERE authority_id = $1")
            .bind(id)
            .execute(&mut *transaction)
            .await?;
        release(&mut transaction, change.tenant, Counted::Authorities, 1).await?;
        announce(&mut transaction, change, Topic::Authorities, None).await?;
        transaction.commit().await?;
        Ok(())
    }

    /// What gateways verify clients with, of all tenants, in the order of ids.
    pub(crate) async fn anchors(&self, after: Option<Uuid>, max: i64) -> Result<Vec<Anchor>, Error> {
        let anchors = sqlx::query_as(
            "SELECT authority_id, tenant_id, certificate FROM authorities
             WHERE state = 'Active' AND not_before <= now() AND not_after > now()
                 AND ($1::uuid IS NULL OR authority_id > $1)
             ORDER BY authority_id LIMIT $2",
        )
        .bind(after)
        .bind(max)
        .fetch_all(&self.pool)
        .await?;
        Ok(anchors)
    }
}

async fn signer(
    connection: &mut PgConnection,
    tenant: &TenantId,
    until: DateTime<Utc>,
) -> Result<Option<StoredSigner>, Error> {
    let signer = sqlx::query_as(
        "SELECT authority_id, certificate, private_key FROM authorities
         WHERE tenant_id = $1 AND kind = 'Own' AND state = 'Active' AND not_after >= $2
         ORDER BY authority_id DESC LIMIT 1",
    )
    .bind(tenant.as_str())
    .bind(until)
    .fetch_optional(connection)
    .await?;
    Ok(signer)
}

async fn authority(
    connection: &mut PgConnection,
    tenant: &TenantId,
    id: Uuid,
    locking: &'static str,
) -> Result<Authority, Error> {
    let select =
        format!("SELECT {COLUMNS} FROM authorities WHERE authority_id = $1 AND tenant_id = $2 {locking}");
    let found: Option<Authority> = sqlx::query_as(sqlx::AssertSqlSafe(select))
        .bind(id)
        .bind(tenant.as_str())
        .fetch_optional(connection)
        .await?;
    found.ok_or_else(|| Error::UnknownAuthority(id.to_string()))
}

async fn insert(
    connection: &mut PgConnection,
    change: Change<'_>,
    (id, kind, private_key): (Uuid, Kind, Option<&[u8]>),
    certificate: &Certificate,
) -> Result<(), Error> {
    let kind = match kind {
        Kind::Own => "Own",
        Kind::Foreign => "Foreign",
    };
    let inserted = sqlx::query(
        "INSERT INTO authorities (authority_id, tenant_id, kind, subject, certificate, private_key, not_before,
             not_after, state)
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8, 'Active')",
    )
    .bind(id)
    .bind(change.tenant.as_str())
    .bind(kind)
    .bind(&certificate.subject)
    .bind(&certificate.der)
    .bind(private_key)
    .bind(certificate.not_before)
    .bind(certificate.not_after)
    .execute(&mut *connection)
    .await;
    inserted.on_constraint("authorities_subject_key", || Error::AuthorityTaken)?;
    announce(connection, change, Topic::Authorities, None).await
}

async fn revoke_issued(connection: &mut PgConnection, authority: Uuid) -> Result<(), Error> {
    sqlx::query(
        "UPDATE x509_credentials SET state = 'Revoked', updated_at = now()
         WHERE authority_id = $1 AND state <> 'Revoked'",
    )
    .bind(authority)
    .execute(connection)
    .await?;
    Ok(())
}
