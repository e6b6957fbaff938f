//! Certificate authorities that a tenant has already.
//!
//! Whoever registers one must show that he has its key: he gets a code, and signs with the authority a certificate that has the
//! code as its common name. Otherwise a tenant could take over the clients of another, or keep its authority from it.

use chrono::{DateTime, Utc};
use rustls::RootCertStore;
use rustls_pki_types::CertificateDer;
use x509_parser::public_key::PublicKey;
use x509_parser::x509::{SubjectPublicKeyInfo, X509Version};

use crate::certificate::{Certificate, InvalidCertificate};

/// Bits of an RSA key: what the gateway's TLS takes.
const RSA_BITS: std::ops::RangeInclusive<usize> = 2_048..=8_192;

/// How long one registration code is given out; it is taken for as long again.
pub(crate) const CODE_PERIOD_S: i64 = 86_400;

/// The period that a time lies in.
pub(crate) fn code_period(now: DateTime<Utc>) -> i64 {
    now.timestamp().div_euclid(CODE_PERIOD_S)
}

/// Until when a code given out now is taken.
pub(crate) fn code_valid_until(now: DateTime<Utc>) -> DateTime<Utc> {
    let end = (code_period(now) + 2).saturating_mul(CODE_PERIOD_S);
    DateTime::from_timestamp(end, 0).unwrap_or(now)
}

/// Checks that a certificate is one of an authority that clients' certificates can be verified with.
pub(crate) fn check_authority(authority: &Certificate, now: DateTime<Utc>) -> Result<(), InvalidCertificate> {
    let parsed = authority.parsed()?;
    let constraints = parsed.basic_constraints().ok().flatten();
    if parsed.version() != X509Version::V3 || !constraints.is_some_and(|extension| extension.value.ca) {
        return Err(InvalidCertificate::new(
            "certificate is not that of an authority: it lacks the basic constraint CA:TRUE",
        ));
    }
    let usage = parsed.key_usage().map_err(|_| InvalidCertificate::new("the key usage cannot be read"))?;
    if usage.is_some_and(|extension| !extension.value.key_cert_sign()) {
        return Err(InvalidCertificate::new(
            "certificate may not sign others: its key usage lacks keyCertSign",
        ));
    }
    authority.check_dates("certificate", now)?;
    check_key(parsed.public_key(), "certificate")?;
    if parsed.subject().as_raw() == parsed.issuer().as_raw() && parsed.verify_signature(None).is_err() {
        return Err(InvalidCertificate::new(
            "certificate names itself as its issuer, but its signature is wrong or of a kind not supported",
        ));
    }
    // The same reader as the gateway's: what it cannot use as an anchor helps nobody.
    RootCertStore::empty()
        .add(CertificateDer::from(authority.der.as_slice()))
        .map_err(|error| InvalidCertificate(format!("certificate cannot be used by the gateway: {error}")))
}

/// Checks that whoever made the proof has the key of the authority and knows one of the codes.
pub(crate) fn check_possession(
    authority: &Certificate,
    proof: &Certificate,
    codes: &[String],
    now: DateTime<Utc>,
) -> Result<(), InvalidCertificate> {
    let (authority, parsed) = (authority.parsed()?, proof.parsed()?);
    if parsed.issuer().as_raw() != authority.subject().as_raw() {
        return Err(InvalidCertificate::new("verificationCertificate was not issued by certificate"));
    }
    let mut names = parsed.subject().iter_common_name().map(|name| name.as_str().ok());
    let (Some(Some(name)), None) = (names.next(), names.next()) else {
        return Err(InvalidCertificate::new("verificationCertificate has not exactly one common name"));
    };
    if !codes.iter().any(|code| code == name) {
        return Err(InvalidCertificate::new(
            "the common name of verificationCertificate is not the registration code, or the code is too old: get it anew",
        ));
    }
    proof.check_dates("verificationCertificate", now)?;
    parsed.verify_signature(Some(authority.public_key())).map_err(|_| {
        InvalidCertificate::new(
            "verificationCertificate was not signed with the key of certificate, or in a way not supported",
        )
    })
}

/// Keys that are too short for anybody's good.
pub(crate) fn check_key(key: &SubjectPublicKeyInfo<'_>, what: &str) -> Result<(), InvalidCertificate> {
    let unreadable = |_| InvalidCertificate(format!("the public key of {what} cannot be read"));
    if let PublicKey::RSA(rsa) = key.parsed().map_err(unreadable)?
        && !RSA_BITS.contains(&rsa.key_size())
    {
        return Err(InvalidCertificate(format!(
            "the RSA key of {what} has {} bits: use {} to {}",
            rsa.key_size(),
            RSA_BITS.start(),
            RSA_BITS.end()
        )));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use chrono::TimeDelta;
    use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, KeyUsagePurpose};

    fn params(common_name: &str) -> CertificateParams {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, common_name);
        params
    }

    fn authority_params(common_name: &str) -> CertificateParams {
        let mut params = params(common_name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params
    }

    fn own(made: &rcgen::Certificate) -> Certificate {
        Certificate::from_der(made.der().to_vec()).unwrap()
    }

    struct Foreign {
        params: CertificateParams,
        key: KeyPair,
        certificate: Certificate,
    }

    fn foreign(params: CertificateParams) -> Foreign {
        let key = KeyPair::generate().unwrap();
        let certificate = own(&params.self_signed(&key).unwrap());
        Foreign { params, key, certificate }
    }

    impl Foreign {
        fn signs(&self, leaf: &CertificateParams) -> Certificate {
            let issuer = Issuer::from_params(&self.params, &self.key);
            own(&leaf.signed_by(&KeyPair::generate().unwrap(), &issuer).unwrap())
        }
    }

    fn refused(result: Result<(), InvalidCertificate>) -> String {
        result.unwrap_err().to_string()
    }

    #[test]
    fn only_a_usable_authority_is_taken() {
        let now = Utc::now();
        let check = |params| check_authority(&foreign(params).certificate, now);
        assert_eq!(check(authority_params("CA")), Ok(()));
        assert!(refused(check(params("CA"))).contains("CA:TRUE"));
        let mut signs_nothing = authority_params("CA");
        signs_nothing.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        assert!(refused(check(signs_nothing)).contains("keyCertSign"));
        let mut old = authority_params("CA");
        old.not_after = rcgen::date_time_ymd(2020, 1, 1);
        assert!(refused(check(old)).contains("expired"));
        let mut early = authority_params("CA");
        early.not_before = rcgen::date_time_ymd(4000, 1, 1);
        assert!(refused(check(early)).contains("not valid before"));
        let mut forged = foreign(authority_params("CA")).certificate;
        *forged.der.last_mut().unwrap() ^= 1;
        assert!(refused(check_authority(&forged, now)).contains("signature"));
    }

    #[test]
    fn possession_is_proved_by_a_signature_over_the_code() {
        let now = Utc::now();
        let (mine, same_name) = (foreign(authority_params("CA")), foreign(authority_params("CA")));
        let other = foreign(authority_params("Other CA"));
        let codes = ["code".to_owned(), "older".to_owned()];
        let check = |proof: &Certificate| check_possession(&mine.certificate, proof, &codes, now);
        assert_eq!(check(&mine.signs(&params("code"))), Ok(()));
        assert_eq!(check(&mine.signs(&params("older"))), Ok(()));
        assert!(refused(check(&mine.signs(&params("another code")))).contains("registration code"));
        assert!(refused(check(&same_name.signs(&params("code")))).contains("not signed with the key"));
        assert!(refused(check(&other.signs(&params("code")))).contains("not issued by"));
        let mut old = params("code");
        old.not_after = rcgen::date_time_ymd(2020, 1, 1);
        assert!(refused(check(&mine.signs(&old))).contains("expired"));
        let mut nameless = params("code");
        nameless.distinguished_name = rcgen::DistinguishedName::new();
        nameless.distinguished_name.push(DnType::OrganizationName, "code");
        assert!(refused(check(&mine.signs(&nameless))).contains("common name"));
    }

    #[test]
    fn a_code_is_taken_for_a_day_or_two() {
        let now = DateTime::from_timestamp(CODE_PERIOD_S * 7 + 5, 0).unwrap();
        assert_eq!(code_period(now), 7);
        assert_eq!(code_valid_until(now) - now, TimeDelta::seconds(2 * CODE_PERIOD_S - 5));
    }
}
