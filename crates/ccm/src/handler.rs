//! Answers other services: 22/CAP, and which authorities gateways verify clients with.
//!
//! | status | name and password | certificate |
//! |---|---|---|
//! | 200 | the credentials' id, which is the client's too | same, and the tenant |
//! | 401 | unknown, or the password is wrong: never which | unknown |
//! | 403 | suspended or revoked, and the password is right | suspended, revoked, expired, or the tenant has too many |
//! | 429 | too many failures for this name: the reason says how long | |
//! | 503 | the database is away, or too many passwords wait | the database is away |

use std::sync::Arc;

use bytes::Bytes;
use ism::authorities::{AuthoritiesRequest, AuthoritiesResponse, Authority};
use ism::cap::{
    ClientBasicAuthenticationRequest, ClientBasicAuthenticationResponse,
    ClientCertificateAuthenticationRequest, ClientCertificateAuthenticationResponse,
};
use uuid::Uuid;

use crate::basic::Login;
use crate::error::Error;
use crate::registry::Registry;
use crate::store::Anchor;
use crate::x509::Shown;

/// Bytes of the authorities in one answer; a NATS message holds 1 MiB.
const PAGE_BYTES_MAX: usize = 512 * 1024;
/// Authorities that are read for one answer.
const PAGE_AUTHORITIES_MAX: i64 = 500;
/// Bytes of an authority in an answer beside its certificate, at most.
const AUTHORITY_OVERHEAD: usize = 80;

/// The caller learns only that it may try again; the log learns why.
fn unavailable(error: &Error) -> (i32, Option<String>) {
    tracing::error!(error = error as &dyn std::error::Error, "a request could not be answered");
    (503, Some("client credentials cannot be looked up now: try again".to_owned()))
}

/// Answers whether a client may connect with this name and password.
pub(crate) async fn authenticate_basic(
    registry: Arc<Registry>,
    request: ClientBasicAuthenticationRequest,
) -> ClientBasicAuthenticationResponse {
    let ClientBasicAuthenticationRequest { correlation_id, tenant_id, username, password, .. } = request;
    let (id, (status_code, reason_phrase)) = match registry.log_in(&tenant_id, &username, password).await {
        Ok(Login::Accepted(id)) => (Some(id), (200, None)),
        Ok(Login::Refused(id, reason)) => (Some(id), (403, Some(reason.to_owned()))),
        Ok(Login::Wrong) => (None, (401, Some("user name or password is wrong".to_owned()))),
        Ok(Login::Throttled(pause)) => {
            let seconds = pause.as_secs() + 1;
            let reason = format!("too many failed logins for this user name: try again in {seconds} s");
            (None, (429, Some(reason)))
        }
        Ok(Login::Busy) => {
            let reason = "too many logins wait for their check (ccm.password_checks_waiting_max): try again";
            (None, (503, Some(reason.to_owned())))
        }
        Err(error) => (None, unavailable(&error)),
    };
    let id = id.map(|id| id.to_string());
    ClientBasicAuthenticationResponse {
        correlation_id,
        timestamp: runtime::now_ms(),
        timeout: 0,
        credentials_id: id.clone(),
        client_id: id,
        status_code,
        reason_phrase,
    }
}

/// Answers whether a client may connect with this certificate.
pub(crate) async fn authenticate_certificate(
    registry: Arc<Registry>,
    request: ClientCertificateAuthenticationRequest,
) -> ClientCertificateAuthenticationResponse {
    let ClientCertificateAuthenticationRequest { correlation_id, issuer, serial_number, .. } = request;
    let shown = registry.show(&issuer, &serial_number).await;
    let (tenant_id, id, (status_code, reason_phrase)) = match shown {
        Ok(Shown::Accepted { tenant, id }) => (Some(tenant), Some(id), (200, None)),
        Ok(Shown::Refused { tenant, id, reason }) => (Some(tenant), id, (403, Some(reason))),
        Ok(Shown::Unknown) => (None, None, (401, Some("the certificate is not known".to_owned()))),
        Err(error) => (None, None, unavailable(&error)),
    };
    let id = id.map(|id| id.to_string());
    ClientCertificateAuthenticationResponse {
        correlation_id,
        timestamp: runtime::now_ms(),
        timeout: 0,
        tenant_id,
        credentials_id: id.clone(),
        client_id: id,
        status_code,
        reason_phrase,
    }
}

/// Answers which authorities gateways verify clients with, of all tenants, page by page.
pub(crate) async fn authorities(registry: Arc<Registry>, request: AuthoritiesRequest) -> AuthoritiesResponse {
    let AuthoritiesRequest { correlation_id, after, .. } = request;
    let page = match after.map(|after| after.parse::<Uuid>()).transpose() {
        Ok(after) => registry
            .store()
            .anchors(after, PAGE_AUTHORITIES_MAX)
            .await
            .map(page)
            .map_err(|error| unavailable(&error)),
        Err(_) => Err((400, Some("after is not the next of a previous answer".to_owned()))),
    };
    let (authorities, next, (status_code, reason_phrase)) = match page {
        Ok((authorities, next)) => (authorities, next, (200, None)),
        Err(status) => (Vec::new(), None, status),
    };
    AuthoritiesResponse {
        correlation_id,
        timestamp: runtime::now_ms(),
        timeout: 0,
        authorities,
        next,
        status_code,
        reason_phrase,
    }
}

/// As many as go into one answer, and after which to go on.
fn page(anchors: Vec<Anchor>) -> (Vec<Authority>, Option<String>) {
    let mut more = i64::try_from(anchors.len()).unwrap_or(PAGE_AUTHORITIES_MAX) >= PAGE_AUTHORITIES_MAX;
    let (mut authorities, mut bytes, mut last) = (Vec::new(), 0, None);
    for Anchor { authority_id, tenant_id, certificate } in anchors {
        bytes += certificate.len() + AUTHORITY_OVERHEAD;
        if bytes > PAGE_BYTES_MAX {
            more = true;
            break;
        }
        last = Some(authority_id.to_string());
        authorities.push(Authority { tenant_id, certificate: Bytes::from(certificate) });
    }
    (authorities, last.filter(|_| more))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn anchors(count: u128, bytes: usize) -> Vec<Anchor> {
        (0..count)
            .map(|number| Anchor {
                authority_id: Uuid::from_u128(number),
                tenant_id: "t".to_owned(),
                certificate: vec![0; bytes],
            })
            .collect()
    }

    #[test]
    fn a_page_keeps_to_its_bytes_and_says_how_to_go_on() {
        let (authorities, next) = page(anchors(3, 100));
        assert_eq!((authorities.len(), next), (3, None));
        let (authorities, next) = page(anchors(500, 100));
        assert_eq!((authorities.len(), next), (500, Some(Uuid::from_u128(499).to_string())));
        let (authorities, next) = page(anchors(100, 8_192));
        assert_eq!(authorities.len(), 63);
        assert_eq!(next, Some(Uuid::from_u128(62).to_string()));
        assert_eq!(page(Vec::new()), (Vec::new(), None));
    }
}
