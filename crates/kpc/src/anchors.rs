//! Certificate authorities at one moment, and the check of a client's certificate against them.

use std::collections::HashMap;
use std::sync::{Arc, OnceLock};

use bytes::Bytes;
use ids::TenantId;
use ism::authorities::Authority;
use rustls::crypto::CryptoProvider;
use rustls::server::WebPkiClientVerifier;
use rustls::server::danger::ClientCertVerifier;
use rustls::{CertificateError, Error, RootCertStore};
use rustls_pki_types::{CertificateDer, UnixTime};
use x509_parser::parse_x509_certificate;

use crate::peer::PeerCertificate;

/// Authorities at one moment.
#[derive(Debug, Default)]
pub(crate) struct Anchors {
    /// By the encoded name that stands as issuer in what they sign.
    by_subject: HashMap<Box<[u8]>, Arc<Anchor>>,
    by_certificate: HashMap<Bytes, Arc<Anchor>>,
}

/// One authority.
#[derive(Debug)]
struct Anchor {
    tenant: TenantId,
    certificate: Bytes,
    subject: Box<[u8]>,
    /// In s since 1970.
    not_after: i64,
    /// Made when it is needed first: most tenants' devices are elsewhere. None when the certificate cannot serve as an
    /// authority.
    verifier: OnceLock<Option<Arc<dyn ClientCertVerifier>>>,
}

impl Anchors {
    /// How many there are.
    pub(crate) fn len(&self) -> usize {
        self.by_subject.len()
    }

    /// Adds an authority; one that is as before is not read anew.
    pub(crate) fn add(&mut self, authority: Authority, before: &Self) {
        let tenant = authority.tenant_id;
        let known = before.by_certificate.get(&authority.certificate);
        let anchor = match known.filter(|anchor| anchor.tenant.as_str() == tenant) {
            Some(anchor) => Arc::clone(anchor),
            None => match Anchor::new(&tenant, authority.certificate) {
                Some(anchor) => Arc::new(anchor),
                None => {
                    return tracing::warn!(
                        tenant,
                        "a certificate authority cannot be read: it is not trusted"
                    );
                }
            },
        };
        // Names must be unique, because issuer and serial number name a client.
        if self.by_subject.contains_key(&anchor.subject) {
            return tracing::error!(
                tenant,
                "a certificate authority has the name of another one: it is not trusted"
            );
        }
        self.by_certificate.insert(anchor.certificate.clone(), Arc::clone(&anchor));
        self.by_subject.insert(anchor.subject.clone(), anchor);
    }

    /// Whose certificate this is, if one of the authorities has signed it for clients and it is valid now.
    pub(crate) fn identify(
        &self,
        certificate: &CertificateDer<'_>,
        now: UnixTime,
        provider: &Arc<CryptoProvider>,
    ) -> Result<PeerCertificate, Error> {
        let (_, parsed) = parse_x509_certificate(certificate)
            .map_err(|_| Error::InvalidCertificate(CertificateError::BadEncoding))?;
        let anchor = self.by_subject.get(parsed.issuer().as_raw());
        let anchor = anchor.ok_or(Error::InvalidCertificate(CertificateError::UnknownIssuer))?;
        anchor.verify(certificate, now, provider)?;
        Ok(PeerCertificate {
            tenant: anchor.tenant.clone(),
            issuer: parsed.issuer().to_string(),
            serial_number: parsed.tbs_certificate.serial.to_str_radix(10),
            not_after: parsed.validity().not_after.timestamp().saturating_mul(1_000),
        })
    }
}

impl Anchor {
    fn new(tenant: &str, certificate: Bytes) -> Option<Self> {
        let tenant = TenantId::parse(tenant).ok()?;
        let (_, parsed) = parse_x509_certificate(&certificate).ok()?;
        let (subject, not_after) =
            (Box::from(parsed.subject().as_raw()), parsed.validity().not_after.timestamp());
        Some(Self { tenant, certificate, subject, not_after, verifier: OnceLock::new() })
    }

    fn verify(
        &self,
        certificate: &CertificateDer<'_>,
        now: UnixTime,
        provider: &Arc<CryptoProvider>,
    ) -> Result<(), Error> {
        // Of an authority itself the library takes only name and key.
        if i64::try_from(now.as_secs()).is_ok_and(|now| now > self.not_after) {
            return Err(Error::InvalidCertificate(CertificateError::UnknownIssuer));
        }
        let verifier = self.verifier.get_or_init(|| {
            let mut roots = RootCertStore::empty();
            roots.add(CertificateDer::from(self.certificate.to_vec())).ok()?;
            let builder = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), Arc::clone(provider));
            builder.build().ok()
        });
        let verifier = verifier.as_ref().ok_or(Error::InvalidCertificate(CertificateError::UnknownIssuer))?;
        verifier.verify_client_cert(certificate, &[], now).map(drop)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use rcgen::{
        BasicConstraints, CertificateParams, CertifiedIssuer, DnType, ExtendedKeyUsagePurpose, IsCa, KeyPair,
        date_time_ymd,
    };

    use super::*;

    type Ca = CertifiedIssuer<'static, KeyPair>;

    fn params(name: &str) -> CertificateParams {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::OrganizationName, "Harbour, Ltd.");
        params.distinguished_name.push(DnType::CommonName, name);
        (params.not_before, params.not_after) = (date_time_ymd(2020, 1, 1), date_time_ymd(2030, 1, 1));
        params
    }

    fn authority(name: &str) -> Ca {
        let mut params = params(name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap()
    }

    fn leaf(by: &Ca, change: impl FnOnce(&mut CertificateParams)) -> CertificateDer<'static> {
        let mut params = params("device");
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        params.serial_number = Some(rcgen::SerialNumber::from_slice(&[0x7F; 20]));
        change(&mut params);
        params.signed_by(&KeyPair::generate().unwrap(), by).unwrap().der().clone()
    }

    fn trusting(trusted: &[(&str, &Ca)]) -> Anchors {
        let mut anchors = Anchors::default();
        for (tenant, ca) in trusted {
            let certificate = Bytes::copy_from_slice(ca.der());
            anchors.add(Authority { tenant_id: (*tenant).to_owned(), certificate }, &Anchors::default());
        }
        anchors
    }

    fn identify(
        anchors: &Anchors,
        certificate: &CertificateDer<'_>,
        year: u64,
    ) -> Result<PeerCertificate, Error> {
        anchors.identify(certificate, in_year(year), &tls::provider())
    }

    fn in_year(year: u64) -> UnixTime {
        UnixTime::since_unix_epoch(Duration::from_secs((year - 1970) * 31_556_952 + 86_400))
    }

    fn refused(anchors: &Anchors, certificate: &CertificateDer<'_>, year: u64) -> CertificateError {
        match identify(anchors, certificate, year) {
            Err(Error::InvalidCertificate(error)) => error,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_certificate_is_named_by_its_issuer_and_serial_number() {
        let (acme, other) = (authority("acme CA"), authority("other CA"));
        let anchors = trusting(&[("acme", &acme), ("other", &other)]);
        let found = identify(&anchors, &leaf(&acme, |_| {}), 2026).unwrap();
        assert_eq!(found.tenant.as_str(), "acme");
        assert_eq!(found.issuer, "CN=acme CA, O=Harbour, Ltd.");
        assert_eq!(found.serial_number, "727885129180488904360266563744972327436484050815");
        assert_eq!(found.not_after, 1_893_456_000_000);
        let found = identify(&anchors, &leaf(&other, |_| {}), 2026).unwrap();
        assert_eq!(found.tenant.as_str(), "other");
    }

    #[test]
    fn what_no_authority_has_signed_for_clients_is_refused() {
        let acme = authority("acme CA");
        let anchors = trusting(&[("acme", &acme)]);
        let stranger = leaf(&authority("stranger"), |_| {});
        assert_eq!(refused(&anchors, &stranger, 2026), CertificateError::UnknownIssuer);
        // The name alone does not do.
        let forged = leaf(&authority("acme CA"), |_| {});
        assert_eq!(refused(&anchors, &forged, 2026), CertificateError::BadSignature);
        let valid = leaf(&acme, |_| {});
        assert!(matches!(refused(&anchors, &valid, 2019), CertificateError::NotValidYetContext { .. }));
        let short = leaf(&acme, |params| params.not_after = date_time_ymd(2025, 1, 1));
        assert!(matches!(refused(&anchors, &short, 2026), CertificateError::ExpiredContext { .. }));
        let server =
            leaf(&acme, |params| params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth]);
        assert!(matches!(
            refused(&anchors, &server, 2026),
            CertificateError::InvalidPurpose | CertificateError::InvalidPurposeContext { .. }
        ));
        assert_eq!(
            refused(&anchors, &CertificateDer::from(vec![1, 2, 3]), 2026),
            CertificateError::BadEncoding
        );
        // An authority is no client.
        assert!(identify(&anchors, acme.der(), 2026).is_err());
    }

    #[test]
    fn what_is_signed_by_an_authority_under_a_trusted_one_is_refused() {
        let acme = authority("acme CA");
        let mut below = params("below");
        below.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let below = CertifiedIssuer::signed_by(below, KeyPair::generate().unwrap(), &acme).unwrap();
        let certificate = leaf(&below, |_| {});
        let anchors = trusting(&[("acme", &acme)]);
        assert_eq!(refused(&anchors, &certificate, 2026), CertificateError::UnknownIssuer);
    }

    #[test]
    fn an_authority_that_has_expired_or_gone_is_trusted_no_more() {
        let acme = authority("acme CA");
        let anchors = trusting(&[("acme", &acme)]);
        let long = leaf(&acme, |params| params.not_after = date_time_ymd(2040, 1, 1));
        assert!(identify(&anchors, &long, 2026).is_ok());
        assert_eq!(refused(&anchors, &long, 2035), CertificateError::UnknownIssuer);
        assert_eq!(refused(&Anchors::default(), &long, 2026), CertificateError::UnknownIssuer);
    }

    #[test]
    fn of_two_authorities_with_one_name_the_later_is_not_trusted() {
        let (first, second) = (authority("CA"), authority("CA"));
        let anchors = trusting(&[("acme", &first), ("other", &second)]);
        assert!(identify(&anchors, &leaf(&first, |_| {}), 2026).is_ok());
        assert!(identify(&anchors, &leaf(&second, |_| {}), 2026).is_err());
    }

    #[test]
    fn an_authority_that_stays_keeps_what_was_made_for_it() {
        let acme = authority("acme CA");
        let before = trusting(&[("acme", &acme)]);
        let mut after = Anchors::default();
        let certificate = Bytes::copy_from_slice(acme.der());
        after.add(Authority { tenant_id: "acme".to_owned(), certificate: certificate.clone() }, &before);
        assert!(Arc::ptr_eq(&after.by_certificate[&certificate], &before.by_certificate[&certificate]));
        let mut moved = Anchors::default();
        moved.add(Authority { tenant_id: "other".to_owned(), certificate: certificate.clone() }, &before);
        assert_eq!(moved.by_certificate[&certificate].tenant.as_str(), "other");
    }
}
