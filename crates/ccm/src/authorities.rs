//! Tenants' certificate authorities, own and foreign.

use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use ids::TenantId;
use uuid::Uuid;

use crate::authority::{Signer, make_authority};
use crate::certificate::{Certificate, pem};
use crate::error::Error;
use crate::foreign::{check_authority, check_possession, code_period, code_valid_until};
use crate::registry::Registry;
use crate::state::State;
use crate::store::{Authority, Change, Kind, NewForeign, StoredSigner};

/// A code by which a tenant shows that an authority is his.
pub(crate) struct RegistrationCode {
    pub(crate) code: String,
    pub(crate) valid_until: DateTime<Utc>,
}

/// Gateways read the authorities again a tenth of a second after they are told.
const GATEWAYS_LEARN_WITHIN: Duration = Duration::from_secs(1);

impl Registry {
    /// The tenant's code for the registration of foreign authorities.
    pub(crate) fn registration_code(&self, tenant: &TenantId) -> RegistrationCode {
        let now = Utc::now();
        RegistrationCode {
            code: self.keys.registration_code(tenant, code_period(now)),
            valid_until: code_valid_until(now),
        }
    }

    /// Registers an authority that the tenant has already, in PEM, with the proof that it has its key.
    pub(crate) async fn register_authority(
        &self,
        change: Change<'_>,
        certificate: &str,
        proof: &str,
    ) -> Result<Authority, Error> {
        let now = Utc::now();
        let certificate = Certificate::from_pem(certificate)?;
        check_authority(&certificate, now)?;
        let periods = [code_period(now), code_period(now) - 1];
        let codes = periods.map(|period| self.keys.registration_code(change.tenant, period));
        check_possession(&certificate, &Certificate::from_pem(proof)?, &codes, now)?;
        let id = Uuid::now_v7();
        self.store.create_foreign(change, NewForeign { id, certificate: &certificate }).await?;
        self.introduce_authority().await;
        self.store.authority(change.tenant, id).await
    }

    /// Makes another authority of the tenant's own: from now on it issues the tenant's certificates.
    pub(crate) async fn make_authority(&self, change: Change<'_>) -> Result<Authority, Error> {
        let made = self.new_authority(change, None).await?;
        self.introduce_authority().await;
        self.store.authority(change.tenant, made.authority_id).await
    }

    /// The own authority that issues a certificate with this end; one is made when there is none.
    pub(crate) async fn own_authority(
        &self,
        change: Change<'_>,
        until: DateTime<Utc>,
    ) -> Result<StoredSigner, Error> {
        if let Some(authority) = self.store.signer(change.tenant, until).await? {
            return Ok(authority);
        }
        // Who suspends an authority does not mean to get another by the next certificate.
        if let Some(suspended) = self.store.suspended_own(change.tenant).await? {
            return Err(Error::AuthoritySuspended(suspended));
        }
        let made = self.new_authority(change, Some(until)).await?;
        self.introduce_authority().await;
        Ok(made)
    }

    /// Tells gateways of a new authority and gives them the time to read it: whoever connects as soon as he has his first
    /// certificate must not meet one that does not trust it yet.
    async fn introduce_authority(&self) {
        self.announcer.announce().await;
        tokio::time::sleep(GATEWAYS_LEARN_WITHIN).await;
    }

    async fn new_authority(
        &self,
        change: Change<'_>,
        unless_until: Option<DateTime<Utc>>,
    ) -> Result<StoredSigner, Error> {
        let now = Utc::now();
        let ttl = TimeDelta::seconds(i64::try_from(self.config.authority_ttl_s).unwrap_or(i64::MAX));
        let not_after = (now + ttl).min(self.root.expires());
        if not_after <= now || unless_until.is_some_and(|until| not_after < until) {
            return Err(Error::RootExpires);
        }
        let made = make_authority(change.tenant, &self.root.signer, now, not_after)?;
        let stored = StoredSigner {
            authority_id: made.id,
            certificate: made.certificate.der.clone(),
            private_key: self.keys.encrypt(made.id, &made.private_key)?,
        };
        self.store.create_own(change, &stored, &made.certificate, unless_until).await
    }

    pub(crate) fn signer(&self, authority: &StoredSigner) -> Result<Signer, Error> {
        let private_key = self.keys.decrypt(authority.authority_id, &authority.private_key)?;
        Ok(Signer::new(&authority.certificate, &private_key).map_err(crate::authority::MakeError::from)?)
    }

    /// An own authority's certificate and the platform's root, in PEM.
    pub(crate) fn own_chain(&self, certificate: &[u8]) -> String {
        pem(certificate) + &self.root.certificate.pem()
    }

    /// The certificate of an authority in PEM; of an own one, that of the root follows.
    pub(crate) fn authority_pem(&self, authority: &Authority) -> String {
        match authority.kind {
            Kind::Own => self.own_chain(&authority.certificate),
            Kind::Foreign => pem(&authority.certificate),
        }
    }

    /// The authority that issues the tenant's certificates now, and the root, in PEM.
    pub(crate) async fn issuing_pem(&self, tenant: &TenantId) -> Result<String, Error> {
        let issuing = self.store.signer(tenant, Utc::now()).await?.ok_or(Error::NoOwnAuthority)?;
        Ok(self.own_chain(&issuing.certificate))
    }

    /// Moves an authority to another state; tells gateways, and that its clients are refused when they are.
    pub(crate) async fn transit_authority(
        &self,
        change: Change<'_>,
        id: Uuid,
        target: State,
    ) -> Result<Authority, Error> {
        let after = self.store.transit_authority(change, id, target).await?;
        self.announcer.announce().await;
        Ok(after)
    }

    /// Removes an authority. See [`crate::store::Store::delete_authority`].
    pub(crate) async fn delete_authority(
        &self,
        change: Change<'_>,
        id: Uuid,
        forget: bool,
    ) -> Result<(), Error> {
        self.store.delete_authority(change, id, forget).await?;
        self.announcer.announce().await;
        Ok(())
    }
}
