//! The platform's own certificate authorities and what they issue.
//!
//! Platform root (ECDSA P-256, in the database, its key encrypted) → tenant authority (issues clients only) → client certificate
//! (client authentication only). A client's private key is told once and kept nowhere.

use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use ids::TenantId;
use rand::RngExt as _;
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer,
    KeyPair, KeyUsagePurpose, PKCS_ECDSA_P256_SHA256, PublicKeyData, SerialNumber, SubjectPublicKeyInfo,
};
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, CertificateSigningRequestDer, PrivatePkcs8KeyDer};
use uuid::Uuid;
use x509_parser::certification_request::X509CertificationRequest;
use x509_parser::prelude::FromDer as _;

use crate::certificate::{Certificate, InvalidCertificate, PEM_BYTES_MAX};
use crate::foreign::check_key;

/// How long the platform's root is valid.
pub(crate) const ROOT_TTL_S: u64 = 20 * 365 * 86_400;
/// A certificate is valid from a little before it was made, for devices whose clocks are behind.
const BACKDATED: TimeDelta = TimeDelta::minutes(5);
/// Characters of a common name at most (X.520).
const COMMON_NAME_CHARS_MAX: usize = 64;
const SERIAL_BYTES: usize = 16;

/// A certificate could not be made: our fault.
#[derive(Debug, thiserror::Error)]
pub(crate) enum MakeError {
    #[error("a certificate cannot be made")]
    Rcgen(#[from] rcgen::Error),
    #[error("a certificate that was made here cannot be read")]
    Unreadable(#[from] InvalidCertificate),
    #[error("a date is too far away for a certificate")]
    Date,
}

/// A new authority.
pub(crate) struct NewAuthority {
    pub(crate) id: Uuid,
    pub(crate) certificate: Certificate,
    /// PKCS#8; to be encrypted before it is stored.
    pub(crate) private_key: Vec<u8>,
}

/// An authority that can sign.
pub(crate) struct Signer(Issuer<'static, KeyPair>);

impl Signer {
    pub(crate) fn new(certificate: &[u8], private_key: &[u8]) -> Result<Self, rcgen::Error> {
        let key = PrivatePkcs8KeyDer::from(private_key);
        let key = KeyPair::from_pkcs8_der_and_sign_algo(&key, &PKCS_ECDSA_P256_SHA256)?;
        Ok(Self(Issuer::from_ca_cert_der(&CertificateDer::from(certificate), key)?))
    }
}

/// Makes the platform's root.
pub(crate) fn make_root(now: DateTime<Utc>) -> Result<NewAuthority, MakeError> {
    let id = Uuid::now_v7();
    let ttl = TimeDelta::seconds(i64::try_from(ROOT_TTL_S).unwrap_or(i64::MAX));
    let mut params = params(now, now + ttl)?;
    params.distinguished_name = name(&format!("Bandar root authority {id}"), None);
    certify_others(&mut params, 1);
    let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
    let certificate = params.self_signed(&key)?;
    Ok(NewAuthority { id, certificate: read(certificate)?, private_key: key.serialize_der() })
}

/// Makes an authority for a tenant. Its name is that of no other: it holds its id.
pub(crate) fn make_authority(
    tenant: &TenantId,
    root: &Signer,
    now: DateTime<Utc>,
    not_after: DateTime<Utc>,
) -> Result<NewAuthority, MakeError> {
    let id = Uuid::now_v7();
    let mut params = params(now, not_after)?;
    params.distinguished_name = name(&format!("Bandar client authority {id}"), Some(tenant.as_str()));
    certify_others(&mut params, 0);
    params.use_authority_key_identifier_extension = true;
    let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
    let certificate = params.signed_by(&key, &root.0)?;
    Ok(NewAuthority { id, certificate: read(certificate)?, private_key: key.serialize_der() })
}

/// The key that a certificate is for.
pub(crate) enum ClientKey {
    /// Made here, to be told once.
    Made(Box<KeyPair>),
    /// The device has it and never showed it.
    Requested(SubjectPublicKeyInfo),
}

impl ClientKey {
    pub(crate) fn make() -> Result<Self, MakeError> {
        Ok(Self::Made(Box::new(KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?)))
    }

    /// PEM (PKCS#8), if it was made here.
    pub(crate) fn private_pem(&self) -> Option<String> {
        match self {
            Self::Made(key) => Some(key.serialize_pem()),
            Self::Requested(_) => None,
        }
    }
}

/// Issues the certificate of a client.
pub(crate) fn issue(
    signer: &Signer,
    key: &ClientKey,
    common_name: &str,
    now: DateTime<Utc>,
    not_after: DateTime<Utc>,
) -> Result<Certificate, MakeError> {
    let mut params = params(now, not_after)?;
    params.distinguished_name = name(common_name, None);
    params.is_ca = IsCa::ExplicitNoCa;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
    params.use_authority_key_identifier_extension = true;
    let sign = |key: &dyn PublicKeyData| params.signed_by(&key, &signer.0);
    let certificate = match key {
        ClientKey::Made(key) => sign(key.as_ref())?,
        ClientKey::Requested(key) => sign(key)?,
    };
    Ok(read(certificate)?)
}

/// A request for a certificate, its signature checked. What it asks for beside key and common name is not looked at.
pub(crate) struct SigningRequest {
    pub(crate) key: ClientKey,
    pub(crate) common_name: Option<String>,
}

impl SigningRequest {
    pub(crate) fn from_pem(text: &str) -> Result<Self, InvalidCertificate> {
        if text.len() > PEM_BYTES_MAX {
            return Err(InvalidCertificate::new(format!(
                "certificateSigningRequest is longer than {PEM_BYTES_MAX} bytes"
            )));
        }
        let der = CertificateSigningRequestDer::from_pem_slice(text.as_bytes()).map_err(|_| {
            InvalidCertificate::new(
                "certificateSigningRequest holds no PEM request (-----BEGIN CERTIFICATE REQUEST-----)",
            )
        })?;
        let Ok(([], request)) = X509CertificationRequest::from_der(&der) else {
            return Err(InvalidCertificate::new("certificateSigningRequest is no PKCS#10 request"));
        };
        let info = &request.certification_request_info;
        check_key(&info.subject_pki, "certificateSigningRequest")?;
        let key = SubjectPublicKeyInfo::from_der(info.subject_pki.raw).map_err(|_| {
            InvalidCertificate::new(
                "the key of certificateSigningRequest must be ECDSA P-256 or P-384, Ed25519 or RSA",
            )
        })?;
        request.verify_signature().map_err(|_| {
            InvalidCertificate::new(
                "the signature of certificateSigningRequest is wrong, or of a kind not supported",
            )
        })?;
        let common_name = info.subject.iter_common_name().next().and_then(|name| name.as_str().ok());
        Ok(Self { key: ClientKey::Requested(key), common_name: common_name.map(str::to_owned) })
    }
}

/// Checks a name that a caller wishes for.
pub(crate) fn check_common_name(name: &str) -> Result<(), InvalidCertificate> {
    let chars = name.chars().count();
    if (1..=COMMON_NAME_CHARS_MAX).contains(&chars)
        && name.trim() == name
        && !name.chars().any(char::is_control)
    {
        return Ok(());
    }
    Err(InvalidCertificate::new(format!(
        "commonName must have 1 to {COMMON_NAME_CHARS_MAX} characters, none of them control characters, and no blanks around"
    )))
}

fn params(now: DateTime<Utc>, not_after: DateTime<Utc>) -> Result<CertificateParams, MakeError> {
    let date = |time: DateTime<Utc>| {
        let since_epoch = u64::try_from(time.timestamp()).map_err(|_| MakeError::Date)?;
        Ok::<_, MakeError>(rcgen::date_time_ymd(1970, 1, 1) + Duration::from_secs(since_epoch))
    };
    let mut params = CertificateParams::default();
    params.not_before = date(now - BACKDATED)?;
    params.not_after = date(not_after)?;
    params.serial_number = Some(SerialNumber::from_slice(&serial()));
    Ok(params)
}

/// 126 random bits; positive and always of the same length.
fn serial() -> [u8; SERIAL_BYTES] {
    let mut serial: [u8; SERIAL_BYTES] = rand::rng().random();
    serial[0] = serial[0] & 0x3f | 0x40;
    serial
}

fn name(common_name: &str, organization: Option<&str>) -> DistinguishedName {
    let mut name = DistinguishedName::new();
    if let Some(organization) = organization {
        name.push(DnType::OrganizationName, organization);
    }
    name.push(DnType::CommonName, common_name);
    name
}

fn certify_others(params: &mut CertificateParams, authorities_below: u8) {
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(authorities_below));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
}

fn read(certificate: rcgen::Certificate) -> Result<Certificate, InvalidCertificate> {
    Certificate::from_der(certificate.der().to_vec())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;

    use rustls::RootCertStore;
    use rustls::crypto::ring::default_provider;
    use rustls::server::WebPkiClientVerifier;
    use rustls_pki_types::UnixTime;

    struct Made {
        root: NewAuthority,
        authority: NewAuthority,
        signer: Signer,
    }

    fn signer(authority: &NewAuthority) -> Signer {
        Signer::new(&authority.certificate.der, &authority.private_key).unwrap()
    }

    fn made() -> Made {
        let now = Utc::now();
        let root = make_root(now).unwrap();
        let tenant = TenantId::parse("acme").unwrap();
        let authority = make_authority(&tenant, &signer(&root), now, now + TimeDelta::days(30)).unwrap();
        let signer = signer(&authority);
        Made { root, authority, signer }
    }

    /// Whether a server that trusts only the anchor lets a client with this certificate in.
    fn verify(anchor: &Certificate, leaf: &Certificate, others: &[&Certificate], at: DateTime<Utc>) -> bool {
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from(anchor.der.clone())).unwrap();
        let provider = Arc::new(default_provider());
        let verifier =
            WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider).build().unwrap();
        let others: Vec<_> = others.iter().map(|other| CertificateDer::from(other.der.clone())).collect();
        let at = UnixTime::since_unix_epoch(Duration::from_secs(u64::try_from(at.timestamp()).unwrap()));
        verifier.verify_client_cert(&CertificateDer::from(leaf.der.clone()), &others, at).is_ok()
    }

    #[test]
    fn an_issued_certificate_is_verified_by_its_authority_and_by_the_root() {
        let Made { root, authority, signer } = made();
        let (root, authority) = (root.certificate, authority.certificate);
        let (key, now) = (ClientKey::make().unwrap(), Utc::now());
        let until = now + TimeDelta::hours(1);
        let leaf = issue(&signer, &key, "device 1", now, until).unwrap();
        assert!(verify(&authority, &leaf, &[], now));
        assert!(verify(&root, &leaf, &[&authority], now));
        assert!(!verify(&root, &leaf, &[], now));
        assert!(!verify(&authority, &leaf, &[], until + TimeDelta::seconds(1)));
        assert!(!verify(&authority, &leaf, &[], now - TimeDelta::minutes(6)));
        assert!(verify(&authority, &leaf, &[], now - TimeDelta::minutes(4)));
        assert!(!verify(&made().authority.certificate, &leaf, &[], now));
        let private = key.private_pem().unwrap();
        assert!(private.starts_with("-----BEGIN PRIVATE KEY-----"), "PKCS#8");
    }

    #[test]
    fn a_client_certificate_is_for_clients_only() {
        let Made { authority, signer, .. } = made();
        let now = Utc::now();
        let leaf =
            issue(&signer, &ClientKey::make().unwrap(), "device 1", now, now + TimeDelta::hours(1)).unwrap();
        assert_eq!(
            (leaf.issuer.as_str(), leaf.subject.as_str()),
            (authority.certificate.subject.as_str(), "CN=device 1")
        );
        let parsed = leaf.parsed().unwrap();
        assert_eq!(parsed.issuer().as_raw(), authority.certificate.parsed().unwrap().subject().as_raw());
        assert!(!parsed.is_ca());
        let usage = parsed.extended_key_usage().unwrap().unwrap().value;
        assert!(usage.client_auth && !usage.server_auth && !usage.any);
        let serial = parsed.raw_serial();
        assert!(serial.len() == SERIAL_BYTES && serial[0] & 0x80 == 0);
        assert!(leaf.serial_number.bytes().all(|byte| byte.is_ascii_digit()));
    }

    #[test]
    fn authorities_say_what_they_may_certify() {
        let Made { root, authority, .. } = made();
        assert_eq!(
            authority.certificate.subject,
            format!("O=acme, CN=Bandar client authority {}", authority.id)
        );
        for (made, below) in [(&root, 1), (&authority, 0)] {
            let parsed = made.certificate.parsed().unwrap();
            let constraints = parsed.basic_constraints().unwrap().unwrap().value;
            assert_eq!((constraints.ca, constraints.path_len_constraint), (true, Some(below)));
            assert!(parsed.key_usage().unwrap().unwrap().value.key_cert_sign());
        }
    }

    #[test]
    fn a_signing_request_keeps_the_key_with_the_device() {
        let Made { authority, signer, .. } = made();
        let device = KeyPair::generate().unwrap();
        let mut params = CertificateParams::default();
        params.distinguished_name = name("from the request", None);
        // What a request asks for beside is not granted.
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let pem = params.serialize_request(&device).unwrap().pem().unwrap();
        let request = SigningRequest::from_pem(&pem).unwrap();
        assert_eq!(request.common_name.as_deref(), Some("from the request"));
        let now = Utc::now();
        let leaf = issue(&signer, &request.key, "device", now, now + TimeDelta::hours(1)).unwrap();
        assert!(verify(&authority.certificate, &leaf, &[], now));
        let parsed = leaf.parsed().unwrap();
        assert!(!parsed.is_ca());
        assert_eq!(parsed.public_key().raw, device.subject_public_key_info());
        assert!(request.key.private_pem().is_none());
    }

    #[test]
    fn bad_signing_requests_are_refused() {
        let pem = CertificateParams::default()
            .serialize_request(&KeyPair::generate().unwrap())
            .unwrap()
            .pem()
            .unwrap();
        let refused = |text: &str| SigningRequest::from_pem(text).err().map(|error| error.to_string());
        assert_eq!(refused(&pem), None);
        assert!(refused("x").unwrap().contains("BEGIN CERTIFICATE REQUEST"));
        let der = CertificateSigningRequestDer::from_pem_slice(pem.as_bytes()).unwrap();
        let mut forged = der.to_vec();
        *forged.last_mut().unwrap() ^= 1;
        let forged = crate::certificate::pem(&forged).replace("CERTIFICATE", "CERTIFICATE REQUEST");
        assert!(refused(&forged).is_some());
        assert!(refused(&"x".repeat(PEM_BYTES_MAX + 1)).unwrap().contains("longer"));
    }

    #[test]
    fn common_names_are_short_and_plain() {
        for good in ["a", "Gerät 7", &"x".repeat(64)] {
            assert!(check_common_name(good).is_ok(), "{good}");
        }
        for bad in ["", " a", "a\n", "a\u{0}b", &"x".repeat(65)] {
            assert!(check_common_name(bad).is_err(), "{bad:?}");
        }
    }
}
