//! Certificates of clients: issuing them, and letting them in.

use chrono::{TimeDelta, Utc};
use ids::TenantId;
use uuid::Uuid;

use crate::authority::{ClientKey, SigningRequest, check_common_name, issue};
use crate::certificate::Certificate;
use crate::error::Error;
use crate::metrics::{Method, Outcome};
use crate::registry::{Registry, refusal};
use crate::state::State;
use crate::store::{Change, Issued, Kind, Presented, X509};

/// The shortest time that a certificate may be issued for, in seconds.
const TTL_MIN_S: u64 = 60;
/// Digits of a serial number at most: 20 bytes (RFC 5280) have 49, and some authorities are longer.
const SERIAL_DIGITS_MAX: usize = 64;

/// A certificate that a tenant wishes for.
#[derive(Default)]
pub(crate) struct Wish {
    pub(crate) common_name: Option<String>,
    pub(crate) ttl_s: Option<u64>,
    /// PEM (PKCS#10): the device has the key.
    pub(crate) signing_request: Option<String>,
}

/// A certificate that was issued; its private key is told this once.
pub(crate) struct NewX509 {
    pub(crate) credentials: X509,
    pub(crate) certificate: Certificate,
    /// From the client's certificate to the platform's root, in PEM.
    pub(crate) chain: String,
    pub(crate) private_key: Option<String>,
}

/// What came of a certificate that a client showed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Shown {
    Accepted {
        tenant: String,
        id: Uuid,
    },
    /// It is known whose it is, but it is of no use.
    Refused {
        tenant: String,
        id: Option<Uuid>,
        reason: String,
    },
    Unknown,
}

impl Registry {
    /// Issues a certificate by the tenant's own authority, which is made when there is none.
    pub(crate) async fn issue(&self, change: Change<'_>, wish: Wish) -> Result<NewX509, Error> {
        let ttl_s = wish.ttl_s.unwrap_or(self.config.certificate_ttl_s);
        let ttl_max_s = self.config.certificate_ttl_max_s;
        if !(TTL_MIN_S..=ttl_max_s).contains(&ttl_s) {
            return Err(Error::Ttl(ttl_max_s));
        }
        let (key, requested_name) = match &wish.signing_request {
            Some(pem) => SigningRequest::from_pem(pem).map(|request| (request.key, request.common_name))?,
            None => (ClientKey::make()?, None),
        };
        let id = Uuid::now_v7();
        let common_name = wish.common_name.or(requested_name).unwrap_or_else(|| id.to_string());
        check_common_name(&common_name)?;

        let now = Utc::now();
        // Certificates have dates in whole seconds.
        let until = now + TimeDelta::seconds(i64::try_from(ttl_s).map_err(|_| Error::Ttl(ttl_max_s))?);
        let authority = self.own_authority(change, until).await?;
        let signer = self.signer(&authority)?;
        let certificate = issue(&signer, &key, &common_name, now, until)?;
        let issued = Issued {
            tenant: change.tenant,
            id,
            authority_id: authority.authority_id,
            common_name: &common_name,
            certificate: &certificate,
        };
        let credentials = self.store.create_issued(issued).await?;
        self.announcer.announce().await;
        let chain = certificate.pem() + &self.own_chain(&authority.certificate);
        Ok(NewX509 { credentials, certificate, chain, private_key: key.private_pem() })
    }

    /// The certificate itself in PEM, if it was issued here.
    pub(crate) async fn certificate_pem(&self, tenant: &TenantId, id: Uuid) -> Result<Option<String>, Error> {
        let der = self.store.certificate(tenant, id).await?;
        Ok(der.map(|der| crate::certificate::pem(&der)))
    }

    /// Removes a certificate. One of a foreign authority would come back, so it must be meant.
    pub(crate) async fn delete_x509(&self, change: Change<'_>, id: Uuid, forget: bool) -> Result<(), Error> {
        if !forget && self.store.would_return(change.tenant, id).await? {
            return Err(Error::WouldReturn);
        }
        self.delete::<X509>(change, id).await
    }

    /// Whether a client may connect with this certificate, whose signature and dates the gateway has checked (22/CAP).
    pub(crate) async fn show(&self, issuer: &str, serial_number: &str) -> Result<Shown, Error> {
        let shown = self.try_show(issuer, serial_number).await;
        let outcome = match &shown {
            Ok(Shown::Accepted { .. }) => Outcome::Accepted,
            Ok(Shown::Refused { .. }) => Outcome::Refused,
            Ok(Shown::Unknown) => Outcome::Unknown,
            Err(_) => Outcome::Unavailable,
        };
        self.count(Method::Certificate, outcome);
        shown
    }

    async fn try_show(&self, issuer: &str, serial_number: &str) -> Result<Shown, Error> {
        // PostgreSQL has no text with a NUL, and so no such name.
        if issuer.contains('\0') || !is_serial(serial_number) {
            return Ok(Shown::Unknown);
        }
        let Some(mut presented) = self.store.find_x509(issuer, serial_number).await? else {
            return Ok(Shown::Unknown);
        };
        if presented.credentials_id.is_none() && presented.kind == Kind::Foreign && is_open(&presented) {
            let tenant = TenantId::parse(&presented.tenant_id)?;
            let authority = presented.authority_id;
            match self.store.create_presented(&tenant, authority, issuer, serial_number).await {
                Ok(()) => {}
                Err(error @ Error::TooMany { .. }) => {
                    let (tenant, reason) = (presented.tenant_id, error.to_string());
                    return Ok(Shown::Refused { tenant, id: None, reason });
                }
                Err(error) => return Err(error),
            }
            let Some(now) = self.store.find_x509(issuer, serial_number).await? else {
                return Ok(Shown::Unknown);
            };
            presented = now;
        }
        self.judge(presented).await
    }

    async fn judge(&self, presented: Presented) -> Result<Shown, Error> {
        let known = presented.known()?;
        let tenant = presented.tenant_id.clone();
        let id = known.map(|(id, _)| id);
        let refused = |reason: &str| Shown::Refused { tenant: tenant.clone(), id, reason: reason.to_owned() };
        if let Some(reason) = authority_refusal(&presented) {
            return Ok(refused(reason));
        }
        let Some((id, state)) = known else { return Ok(Shown::Unknown) };
        if presented.expired {
            return Ok(refused("the certificate has expired"));
        }
        let Some(state) = self.used::<X509>(id, state, presented.last_use_at).await? else {
            return Ok(Shown::Unknown);
        };
        Ok(match refusal(state) {
            None => Shown::Accepted { tenant, id },
            Some(reason) => refused(reason),
        })
    }
}

fn is_open(presented: &Presented) -> bool {
    authority_refusal(presented).is_none()
}

fn authority_refusal(presented: &Presented) -> Option<&'static str> {
    match presented.authority_state {
        State::Suspended => Some("the authority of the certificate is suspended"),
        State::Revoked => Some("the authority of the certificate is revoked"),
        _ if presented.authority_expired => Some("the authority of the certificate has expired"),
        _ => None,
    }
}

/// A number in decimal, written in the one way that there is.
fn is_serial(text: &str) -> bool {
    let digits =
        !text.is_empty() && text.len() <= SERIAL_DIGITS_MAX && text.bytes().all(|c| c.is_ascii_digit());
    digits && (text == "0" || !text.starts_with('0'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_serial_number_is_written_in_one_way() {
        for good in ["0", "7", "10", &"9".repeat(64)] {
            assert!(is_serial(good), "{good}");
        }
        for bad in ["", "00", "07", "-1", "+1", "1a", "0x1", "1 ", &"9".repeat(65)] {
            assert!(!is_serial(bad), "{bad}");
        }
    }
}
