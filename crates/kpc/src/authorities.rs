//! The certificate authorities of the tenants, as `ccm` has them, and the check of a client's certificate.
//!
//! A certificate is named by its issuer and serial number (22/CAP), so it must be signed by an authority itself: what a
//! client sends beside its own certificate is not looked at. Otherwise whoever may make authorities under one that is
//! trusted could take another tenant's issuer name. Revocation is not checked here but asked of `ccm` at every CONNECT.
//!
//! While `ccm` is away, the authorities that were known last stay.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, bail};
use arc_swap::ArcSwap;
use ism::Record as _;
use ism::authorities::{AUTHORITIES_REQUEST, AUTHORITIES_RESPONSE, AuthoritiesRequest, AuthoritiesResponse};
use ism::subject::instance;
use runtime::Context;
use rustls::client::danger::HandshakeSignatureValid;
use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{DigitallySignedStruct, DistinguishedName, Error, SignatureScheme};
use rustls_pki_types::{CertificateDer, UnixTime};
use tokio::sync::Notify;

use crate::anchors::Anchors;
use crate::peer::PeerCertificate;

/// Authorities of all tenants together; those above it are not trusted, and that is logged.
const AUTHORITIES_MAX: usize = 10_000;
/// Pages that are asked for at most to read them.
const PAGES_MAX: usize = 1_000;
/// How long the gateway waits for them before it opens its listeners.
const FIRST_PATIENCE: Duration = Duration::from_secs(2);
const PAGE_TIMEOUT: Duration = Duration::from_secs(5);
/// The authorities are read again after this time, in case an event was lost.
const READ_AGAIN: Duration = Duration::from_secs(60);
/// After a failure they are read again after this time.
const RETRY: Duration = Duration::from_secs(1);
/// Failures in a row before it is worth a warning: when all services start together, `ccm` is often the later one.
const WARN_AFTER: u32 = 5;
/// Changes that come within this time are read together.
const GATHER: Duration = Duration::from_millis(50);

/// The authorities that may sign clients' certificates.
#[derive(Debug)]
pub(crate) struct Authorities {
    current: ArcSwap<Anchors>,
    provider: Arc<CryptoProvider>,
    changed: Notify,
}

impl Authorities {
    pub(crate) fn new() -> Self {
        Self { current: ArcSwap::default(), provider: tls::provider(), changed: Notify::new() }
    }

    /// Something may have changed: the authorities are read again soon.
    pub(crate) fn read_again(&self) {
        self.changed.notify_one();
    }

    /// Reads the authorities before the first client comes, if `ccm` answers soon.
    pub(crate) async fn read_first(&self, context: &Context) {
        // What goes wrong is told when they are read again.
        drop(tokio::time::timeout(FIRST_PATIENCE, self.read(context)).await);
    }

    /// Keeps the authorities as `ccm` has them, until the service stops.
    pub(crate) async fn follow(&self, context: &Context) {
        let stopping = context.stopping();
        let mut failures: u32 = 0;
        loop {
            let pause = match self.read(context).await {
                Ok(count) => {
                    tracing::debug!(count, "read the clients' certificate authorities");
                    failures = 0;
                    READ_AGAIN
                }
                Err(error) => {
                    failures = failures.saturating_add(1);
                    if failures == WARN_AFTER {
                        tracing::warn!(
                            error = format!("{error:#}"),
                            "the clients' certificate authorities cannot be read: those that are known stay"
                        );
                    }
                    RETRY
                }
            };
            tokio::select! {
                () = self.changed.notified() => tokio::time::sleep(GATHER).await,
                () = tokio::time::sleep(pause) => {}
                () = stopping.cancelled() => return,
            }
        }
    }

    /// Reads all pages; returns how many authorities there are.
    async fn read(&self, context: &Context) -> anyhow::Result<usize> {
        let before = self.current.load_full();
        let mut anchors = Anchors::default();
        let mut after = None;
        for _ in 0..PAGES_MAX {
            let page = ask(context, after.clone()).await?;
            for authority in page.authorities {
                if anchors.len() >= AUTHORITIES_MAX {
                    tracing::error!(
                        "there are more than {AUTHORITIES_MAX} certificate authorities: the rest is not trusted"
                    );
                    return Ok(self.replace(anchors));
                }
                anchors.add(authority, &before);
            }
            if page.next.is_none() {
                return Ok(self.replace(anchors));
            }
            if page.next == after {
                bail!("a page of authorities leads back to itself");
            }
            after = page.next;
        }
        bail!("there are more than {PAGES_MAX} pages of authorities")
    }

    fn replace(&self, anchors: Anchors) -> usize {
        let count = anchors.len();
        self.current.store(Arc::new(anchors));
        count
    }

    /// Whose certificate this is, if one of the authorities has signed it for clients and it is valid now.
    pub(crate) fn identify(
        &self,
        certificate: &CertificateDer<'_>,
        now: UnixTime,
    ) -> Result<PeerCertificate, Error> {
        self.current.load().identify(certificate, now, &self.provider)
    }
}

async fn ask(context: &Context, after: Option<String>) -> anyhow::Result<AuthoritiesResponse> {
    let request = AuthoritiesRequest {
        correlation_id: format!("{}-{:x}", context.replica(), rand::random::<u64>()),
        timestamp: runtime::now_ms(),
        timeout: i64::try_from(PAGE_TIMEOUT.as_millis())?,
        after,
    };
    let subject = AUTHORITIES_REQUEST.at(instance::CCM);
    let answer = context
        .requester()
        .request(subject, AUTHORITIES_RESPONSE, request.encode(), None, PAGE_TIMEOUT)
        .await
        .context("asking for the authorities")?;
    let page = AuthoritiesResponse::decode(&answer.payload).context("reading a page of authorities")?;
    if page.status_code != 200 {
        bail!("the answer is {} {}", page.status_code, page.reason_phrase.unwrap_or_default());
    }
    Ok(page)
}

impl ClientCertVerifier for Authorities {
    fn client_auth_mandatory(&self) -> bool {
        false
    }

    /// None: thousands of names would not fit, and a client has one certificate.
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        certificate: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        self.identify(certificate, now).map(|_| ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        verify_tls12_signature(message, certificate, signature, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        verify_tls13_signature(message, certificate, signature, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}
