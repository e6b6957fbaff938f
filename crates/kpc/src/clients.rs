//! Who may connect (22/CAP), and for which tenants an open connection may speak.
//!
//! A client shows a user name and password, a certificate, both or nothing. What it shows must be valid, and of one
//! tenant; then the connection speaks for endpoints of that tenant only. Whether it must show anything is for each tenant
//! to say (see `switches`); whose endpoints a client without credentials speaks for is known from its first message on,
//! and then checked, once for the connection and tenant.
//!
//! Neither may lose a race: a revocation that comes while a client is looked up, and a switch that is turned on while a
//! connection is checked, are noticed after the connection has been entered where both look for connections to end.

use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use ids::TenantId;
use ism::Record;
use ism::cap::{
    self, ClientBasicAuthenticationRequest, ClientBasicAuthenticationResponse,
    ClientCertificateAuthenticationRequest, ClientCertificateAuthenticationResponse,
};
use ism::subject::{Message, instance};
use runtime::{Changes, LookupError, RequestError, Requester, Tenants, now_ms};
use tokio::sync::Semaphore;
use tokio::time::Instant;

use crate::config;
use crate::connection::Connection;
use crate::credentials::CredentialsId;
use crate::failure::{Failure, Sequel};
use crate::login::{Login, Refusal};
use crate::metrics::Metrics;
use crate::peer::{Peer, PeerCertificate};
use crate::relay::CorrelationIds;
use crate::revocations::Revocations;
use crate::switches::TenantSettings;
use crate::throttle::Throttle;

/// A client that has shown who it is.
#[derive(Debug, Clone)]
pub(crate) struct Client {
    pub(crate) tenant: TenantId,
    /// By user name and password.
    pub(crate) basic: Option<CredentialsId>,
    /// By certificate.
    pub(crate) certificate: Option<Certified>,
}

/// A certificate that the register knows.
#[derive(Debug, Clone)]
pub(crate) struct Certified {
    pub(crate) credentials_id: CredentialsId,
    pub(crate) certificate: PeerCertificate,
}

impl Client {
    /// All credentials that it has shown.
    pub(crate) fn credentials(&self) -> impl Iterator<Item = &CredentialsId> {
        self.basic.iter().chain(self.certificate.iter().map(|certified| &certified.credentials_id))
    }
}

/// Who sends a message, as far as it decides what he may do.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Sender<'a> {
    /// A client, over its connection.
    Client(&'a Arc<Connection>),
    /// A client that has gone: the message is its will.
    Gone(&'a Connection),
    /// Somebody over HTTP, where tokens are the only credentials.
    Http(Option<IpAddr>),
}

impl<'a> Sender<'a> {
    /// Where the message came from.
    pub(crate) fn address(self) -> Option<IpAddr> {
        match self {
            Self::Client(connection) => connection.address,
            Self::Gone(connection) => connection.address,
            Self::Http(address) => address,
        }
    }

    pub(crate) fn connection(self) -> Option<&'a Arc<Connection>> {
        match self {
            Self::Client(connection) => Some(connection),
            Self::Gone(_) | Self::Http(_) => None,
        }
    }
}

/// What was known when a client began to be looked up.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Mark {
    revocations: u64,
    changes: u64,
}

/// Looks clients up.
pub(crate) struct Clients {
    requester: Requester,
    config: config::Clients,
    throttle: Arc<Throttle>,
    questions: Semaphore,
    tenants: Tenants<TenantSettings>,
    revocations: Revocations,
    /// Counts the changes of switches.
    changes: AtomicU64,
    correlation_ids: CorrelationIds,
    metrics: Arc<Metrics>,
}

impl Clients {
    pub(crate) fn new(
        requester: Requester,
        config: config::Clients,
        throttle: Arc<Throttle>,
        tenants: Tenants<TenantSettings>,
        metrics: Arc<Metrics>,
    ) -> Self {
        Self {
            requester,
            throttle,
            questions: Semaphore::new(config.questions_max),
            tenants,
            revocations: Revocations::default(),
            changes: AtomicU64::new(0),
            correlation_ids: CorrelationIds::new(),
            config,
            metrics,
        }
    }

    /// To be taken before a client is looked up.
    pub(crate) fn mark(&self) -> Mark {
        Mark { revocations: self.revocations.mark(), changes: self.changes.load(Ordering::Acquire) }
    }

    /// Whether a client that was looked up after the mark must be looked up again. To be asked once its connection has
    /// been entered where revocations and changes of switches find it.
    pub(crate) fn is_outdated(&self, mark: Mark, client: &Client) -> bool {
        self.changes.load(Ordering::Acquire) != mark.changes || self.is_revoked(mark, client)
    }

    /// Whether credentials of the client may have been revoked after the mark was taken.
    fn is_revoked(&self, mark: Mark, client: &Client) -> bool {
        self.revocations.since(mark.revocations, |id| client.credentials().any(|own| **own == *id))
    }

    /// Whether a client that has gone could still be connected, as far as that is known without asking. The mark was taken
    /// while revocations still found its connection.
    pub(crate) fn is_good(&self, mark: Mark, connection: &Connection) -> bool {
        let Some(client) = connection.client.as_deref() else { return true };
        let certified = client.certificate.as_ref();
        certified.is_none_or(|certified| certified.certificate.not_after >= now_ms())
            && !self.is_revoked(mark, client)
    }

    /// Changes of the tenants' demands from now on.
    pub(crate) fn changes(&self) -> Changes {
        self.tenants.changes()
    }

    /// Credentials have been revoked.
    pub(crate) fn revoked(&self, credentials_id: &str) {
        self.revocations.note(credentials_id);
    }

    /// Switches may have changed: whoever is being checked now is checked again.
    pub(crate) fn switched(&self) {
        self.changes.fetch_add(1, Ordering::AcqRel);
    }

    /// Changes of switches may have been missed: they are asked for anew, and whoever follows them is told so.
    pub(crate) fn forget_settings(&self) {
        self.tenants.forget();
    }

    /// What a tenant demands.
    pub(crate) async fn settings(&self, tenant: &TenantId) -> Result<Arc<TenantSettings>, LookupError> {
        self.tenants.tenant(tenant).await
    }

    /// Looks up who connects; none when it shows nothing.
    pub(crate) async fn authenticate(
        &self,
        peer: &Peer,
        login: Option<&Login>,
    ) -> Result<Option<Box<Client>>, Refusal> {
        if login.is_none() && peer.certificate.is_none() {
            return Ok(None);
        }
        // Certificates cannot be guessed, so nobody's guessing keeps those out who have one.
        if let Some(login) = login {
            let checked = self.throttle.check_login(peer.address.ip(), login, Instant::now());
            checked.map_err(Refusal::Throttled)?;
        }
        let certified = match &peer.certificate {
            Some(certificate) => Some(self.certify(certificate).await?),
            None => None,
        };
        if let (Some(login), Some(certificate)) = (login, &peer.certificate)
            && login.tenant != certificate.tenant
        {
            return Err(Refusal::NotAuthorized(
                "the user name and the certificate are of two tenants".into(),
            ));
        }
        let basic = match login {
            Some(login) => {
                let checked = self.check_password(login).await;
                match &checked {
                    Ok(_) => self.throttle.right_login(peer.address.ip(), login),
                    Err(Refusal::BadCredentials(_)) => {
                        self.throttle.failed_login(peer.address.ip(), login, Instant::now());
                    }
                    Err(_) => {}
                }
                Some(checked?)
            }
            None => None,
        };
        let tenant = login.map(|login| &login.tenant);
        let tenant = tenant.or(peer.certificate.as_ref().map(|certificate| &certificate.tenant));
        let Some(tenant) = tenant.cloned() else { return Ok(None) };
        let client = Client { tenant, basic, certificate: certified };
        let settings = self.settings(&client.tenant).await.map_err(|error| {
            Refusal::Unavailable(format!("the settings of the tenant cannot be read: {error}").into())
        })?;
        settings
            .admit(peer.transport, Some(&client))
            .map_err(|lacks| Refusal::NotAuthorized(lacks.into()))?;
        Ok(Some(Box::new(client)))
    }

    async fn check_password(&self, login: &Login) -> Result<CredentialsId, Refusal> {
        let request = ClientBasicAuthenticationRequest {
            correlation_id: self.correlation_ids.next().to_string(),
            timestamp: now_ms(),
            timeout: self.config.timeout(),
            tenant_id: login.tenant.to_string(),
            username: login.username.clone(),
            password: login.password.clone(),
        };
        let asked = self.ask(cap::BASIC_REQUEST, cap::BASIC_RESPONSE, request.encode()).await;
        let answer = asked.and_then(|answer: ClientBasicAuthenticationResponse| {
            let bad = Refusal::BadCredentials("the user name or the password is wrong");
            judge(answer.status_code, answer.reason_phrase, answer.credentials_id, bad)
        });
        self.count("basic", &answer);
        answer
    }

    /// Looks up a certificate.
    pub(crate) async fn certify(&self, certificate: &PeerCertificate) -> Result<Certified, Refusal> {
        let answer = self.find_certificate(certificate).await;
        self.count("certificate", &answer);
        answer
    }

    async fn find_certificate(&self, certificate: &PeerCertificate) -> Result<Certified, Refusal> {
        // A resumed TLS session may be older than the end of its certificate.
        if certificate.not_after < now_ms() {
            return Err(Refusal::NotAuthorized("the client certificate has expired".into()));
        }
        let request = ClientCertificateAuthenticationRequest {
            correlation_id: self.correlation_ids.next().to_string(),
            timestamp: now_ms(),
            timeout: self.config.timeout(),
            issuer: certificate.issuer.clone(),
            serial_number: certificate.serial_number.clone(),
        };
        let answer: ClientCertificateAuthenticationResponse =
            self.ask(cap::CERTIFICATE_REQUEST, cap::CERTIFICATE_RESPONSE, request.encode()).await?;
        let unknown = Refusal::NotAuthorized("the client certificate is not registered".into());
        let credentials_id = judge(answer.status_code, answer.reason_phrase, answer.credentials_id, unknown)?;
        if answer.tenant_id.as_deref() != Some(certificate.tenant.as_str()) {
            let reason = "the client certificate is of another tenant than its authority";
            return Err(Refusal::NotAuthorized(reason.into()));
        }
        Ok(Certified { credentials_id, certificate: certificate.clone() })
    }

    async fn ask<R: Record>(&self, request: Message, answer: Message, payload: Bytes) -> Result<R, Refusal> {
        let unavailable = |reason: String| Refusal::Unavailable(reason.into());
        let timeout = Duration::from_millis(self.config.timeout_ms);
        let Ok(Ok(_turn)) = tokio::time::timeout(timeout, self.questions.acquire()).await else {
            let reason = "too many clients connect at once (kpc.clients.questions_max); try again later";
            return Err(Refusal::Unavailable(reason.into()));
        };
        let asking = self.requester.request(request.at(instance::CCM), answer, payload, None, timeout);
        let message = asking.await.map_err(|error| match error {
            RequestError::NoResponders => {
                unavailable("the register of client credentials is not running; try again".to_owned())
            }
            error => unavailable(format!("the register of client credentials: {error}")),
        })?;
        R::decode(&message.payload).map_err(|error| {
            tracing::error!(%error, "an answer of the register of client credentials cannot be read");
            unavailable("the register of client credentials answered what cannot be read".to_owned())
        })
    }

    fn count<T>(&self, method: &'static str, answer: &Result<T, Refusal>) {
        self.metrics.authentication(method, answer.as_ref().err().map_or("ok", Refusal::label));
    }

    /// Whether the sender may speak for endpoints of the tenant. A connection is asked once for each tenant.
    ///
    /// # Errors
    /// 401 when the tenant requires credentials that the client has not shown, or those that it has shown are no longer
    /// good: its connection ends then. 403 when the client is of another tenant. A passing 503 when that cannot be told.
    pub(crate) async fn admit(&self, sender: Sender<'_>, tenant: &TenantId) -> Result<(), Failure> {
        let connection = match sender {
            Sender::Http(_) => return Ok(()),
            Sender::Gone(connection) => return self.check(connection, tenant).await,
            // What it sent before it was closed and what waited here for its turn meanwhile.
            Sender::Client(connection) if !connection.is_trusted() => {
                let reason = "the client may no longer be connected; connect with valid credentials";
                return Err(Failure::refused(401, reason).with(Sequel::Disconnect));
            }
            Sender::Client(connection) if connection.is_admitted(tenant) => return Ok(()),
            Sender::Client(connection) => connection,
        };
        loop {
            let before = self.changes.load(Ordering::Acquire);
            self.check(connection, tenant).await?;
            connection.admit(tenant).map_err(|rejected| Failure::refused(403, rejected.to_string()))?;
            if self.changes.load(Ordering::Acquire) == before {
                return Ok(());
            }
        }
    }

    async fn check(&self, connection: &Connection, tenant: &TenantId) -> Result<(), Failure> {
        let client = connection.client.as_deref();
        if client.is_some_and(|client| client.tenant != *tenant) {
            let reason = "the application version is of another tenant than the client; connect with credentials \
                          of its tenant";
            return Err(Failure::refused(403, reason));
        }
        let settings = self.settings(tenant).await.map_err(|error| {
            Failure::passing(503, format!("the settings of the tenant cannot be read: {error}"))
        })?;
        settings.admit(connection.transport, client).map_err(|lacks| {
            self.metrics.unauthenticated(connection.transport);
            Failure::refused(401, lacks).with(Sequel::Disconnect)
        })
    }
}

/// Reads an answer: the id of the credentials, `unknown` when there are none, or why they are not good.
fn judge(
    status: i32,
    reason: Option<String>,
    credentials_id: Option<String>,
    unknown: Refusal,
) -> Result<CredentialsId, Refusal> {
    match (status, credentials_id) {
        (200, Some(id)) if !id.is_empty() => Ok(id.into()),
        (401 | 404, _) => Err(unknown),
        (403, _) => {
            let reason =
                "the client's credentials are suspended, revoked or expired; issue or activate credentials";
            Err(Refusal::NotAuthorized(reason.into()))
        }
        (429, _) => Err(Refusal::Throttled(1)),
        (status, _) => {
            let reason = reason.unwrap_or_default();
            let reason = format!("the register of client credentials answered {status} {reason}");
            Err(Refusal::Unavailable(reason.into()))
        }
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// A client of tenant `acme`.
    pub(crate) fn client(basic: Option<&str>, certificate: Option<&str>) -> Client {
        let tenant = TenantId::parse("acme").unwrap();
        let certificate = certificate.map(|id| Certified {
            credentials_id: id.into(),
            certificate: PeerCertificate {
                tenant: tenant.clone(),
                issuer: "CN=acme".to_owned(),
                serial_number: "1".to_owned(),
                not_after: 1_000,
            },
        });
        Client { tenant, basic: basic.map(Arc::from), certificate }
    }

    #[test]
    fn an_answer_is_read_by_its_status() {
        let judge = |status, id: Option<&str>| {
            judge(status, None, id.map(str::to_owned), Refusal::BadCredentials("wrong"))
        };
        assert_eq!(judge(200, Some("c1")).unwrap().as_ref(), "c1");
        assert_eq!(judge(401, None), Err(Refusal::BadCredentials("wrong")));
        assert_eq!(judge(404, None), Err(Refusal::BadCredentials("wrong")));
        assert!(matches!(judge(403, Some("c1")), Err(Refusal::NotAuthorized(_))));
        assert!(matches!(judge(429, None), Err(Refusal::Throttled(_))));
        for odd in [judge(200, None), judge(200, Some("")), judge(503, None), judge(-1, None)] {
            assert!(matches!(odd, Err(Refusal::Unavailable(_))), "{odd:?}");
        }
    }
}
