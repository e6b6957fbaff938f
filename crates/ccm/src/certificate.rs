//! Reading and writing X.509 certificates.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use chrono::{DateTime, Utc};
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject as _;
use x509_parser::certificate::X509Certificate;
use x509_parser::prelude::FromDer as _;
use x509_parser::x509::X509Name;

/// The longest certificate that is taken, in bytes of DER.
pub(crate) const CERTIFICATE_BYTES_MAX: usize = 8_192;
/// The longest PEM text that is read, in bytes.
pub(crate) const PEM_BYTES_MAX: usize = 16_384;
/// The longest distinguished name, in bytes of its text; it stands in an index.
const NAME_BYTES_MAX: usize = 1_024;
/// Characters of one line of PEM.
const PEM_LINE: usize = 64;

/// Why a certificate is not taken.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub(crate) struct InvalidCertificate(pub(crate) String);

impl InvalidCertificate {
    pub(crate) fn new(message: impl Into<String>) -> Self {
        Self(message.into())
    }
}

/// What a certificate says about itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Certificate {
    pub(crate) der: Vec<u8>,
    pub(crate) subject: String,
    pub(crate) issuer: String,
    /// In decimal, as in 22/CAP.
    pub(crate) serial_number: String,
    pub(crate) not_before: DateTime<Utc>,
    pub(crate) not_after: DateTime<Utc>,
}

impl Certificate {
    pub(crate) fn from_der(der: Vec<u8>) -> Result<Self, InvalidCertificate> {
        if der.len() > CERTIFICATE_BYTES_MAX {
            let message = format!("the certificate is longer than {CERTIFICATE_BYTES_MAX} bytes");
            return Err(InvalidCertificate(message));
        }
        let parsed = parse(&der)?;
        let (subject, issuer) = (name(parsed.subject())?, name(parsed.issuer())?);
        let serial_number = parsed.serial.to_string();
        let (not_before, not_after) = (parsed.validity().not_before, parsed.validity().not_after);
        let time = |seconds| {
            DateTime::from_timestamp(seconds, 0)
                .ok_or_else(|| InvalidCertificate::new("the certificate's dates cannot be read"))
        };
        let (not_before, not_after) = (time(not_before.timestamp())?, time(not_after.timestamp())?);
        Ok(Self { der, subject, issuer, serial_number, not_before, not_after })
    }

    /// Reads the one certificate in a PEM text.
    pub(crate) fn from_pem(text: &str) -> Result<Self, InvalidCertificate> {
        if text.len() > PEM_BYTES_MAX {
            return Err(InvalidCertificate(format!("the PEM text is longer than {PEM_BYTES_MAX} bytes")));
        }
        let mut all = CertificateDer::pem_slice_iter(text.as_bytes());
        match (all.next(), all.next()) {
            (Some(Ok(der)), None) => Self::from_der(der.to_vec()),
            (Some(Ok(_)), Some(_)) => {
                Err(InvalidCertificate::new("the PEM text holds more than one certificate: send only one"))
            }
            _ => Err(InvalidCertificate::new(
                "the text holds no PEM certificate (-----BEGIN CERTIFICATE-----)",
            )),
        }
    }

    pub(crate) fn pem(&self) -> String {
        pem(&self.der)
    }

    pub(crate) fn parsed(&self) -> Result<X509Certificate<'_>, InvalidCertificate> {
        parse(&self.der)
    }

    /// Whether it is valid at this time.
    pub(crate) fn check_dates(&self, what: &str, now: DateTime<Utc>) -> Result<(), InvalidCertificate> {
        let Self { not_before, not_after, .. } = self;
        if now < *not_before {
            return Err(InvalidCertificate(format!(
                "{what} is not valid before {}",
                not_before.to_rfc3339()
            )));
        }
        if now > *not_after {
            return Err(InvalidCertificate(format!("{what} expired at {}", not_after.to_rfc3339())));
        }
        Ok(())
    }
}

/// The PEM text of a certificate.
pub(crate) fn pem(der: &[u8]) -> String {
    let encoded = STANDARD.encode(der);
    let mut text = String::with_capacity(encoded.len() + encoded.len() / PEM_LINE + 64);
    text.push_str("-----BEGIN CERTIFICATE-----\n");
    let mut rest = encoded.as_str();
    while !rest.is_empty() {
        // Base64 is ASCII.
        let (line, others) = rest.split_at(rest.len().min(PEM_LINE));
        text.push_str(line);
        text.push('\n');
        rest = others;
    }
    text.push_str("-----END CERTIFICATE-----\n");
    text
}

fn parse(der: &[u8]) -> Result<X509Certificate<'_>, InvalidCertificate> {
    match X509Certificate::from_der(der) {
        Ok(([], certificate)) => Ok(certificate),
        _ => Err(InvalidCertificate::new("the certificate is no X.509 certificate in DER")),
    }
}

/// The text of a distinguished name, in the words that the gateway asks with (22/CAP `issuer`).
fn name(name: &X509Name<'_>) -> Result<String, InvalidCertificate> {
    let text = name.to_string();
    // The reader's answer for names whose values are no text: they all look the same.
    let readable = !text.contains("<X509Error") && !text.chars().any(char::is_control);
    if text.is_empty() || text.len() > NAME_BYTES_MAX || !readable {
        return Err(InvalidCertificate(format!(
            "subject and issuer of the certificate must be text of 1 to {NAME_BYTES_MAX} bytes"
        )));
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn made(common_name: &str) -> rcgen::Certificate {
        let mut params = rcgen::CertificateParams::default();
        params.distinguished_name.push(rcgen::DnType::CommonName, common_name);
        params.distinguished_name.push(rcgen::DnType::OrganizationName, "Org");
        params.serial_number = Some(rcgen::SerialNumber::from_slice(&[0x01, 0x00]));
        params.self_signed(&rcgen::KeyPair::generate().unwrap()).unwrap()
    }

    #[test]
    fn a_certificate_is_read_from_pem_and_written_the_same() {
        let made = made("Device");
        let certificate = Certificate::from_pem(&format!("Some words\n{}", made.pem())).unwrap();
        assert_eq!(certificate.der, made.der().to_vec());
        assert_eq!(certificate.pem(), made.pem().replace("\r\n", "\n"));
        assert_eq!(
            (certificate.subject.as_str(), certificate.serial_number.as_str()),
            ("CN=Device, O=Org", "256")
        );
        assert_eq!(certificate.issuer, certificate.subject);
        assert_eq!(certificate.not_before.to_rfc3339(), "1975-01-01T00:00:00+00:00");
        assert!(certificate.check_dates("it", Utc::now()).is_ok());
        let early = DateTime::from_timestamp(0, 0).unwrap();
        assert!(certificate.check_dates("it", early).unwrap_err().to_string().contains("not valid before"));
    }

    #[test]
    fn what_is_no_single_certificate_is_refused() {
        let pem = made("Device").pem();
        let refused = |text: &str| Certificate::from_pem(text).unwrap_err().to_string();
        assert!(refused("").contains("no PEM certificate"));
        assert!(refused(&pem.replace("CERTIFICATE", "PRIVATE KEY")).contains("no PEM certificate"));
        assert!(refused(&format!("{pem}{pem}")).contains("more than one"));
        assert!(refused(&"x".repeat(PEM_BYTES_MAX + 1)).contains("16384"));
        assert!(
            refused("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n").contains("no X.509")
        );
        let mut der = made("Device").der().to_vec();
        der.push(0);
        assert!(Certificate::from_der(der).is_err());
    }

    #[test]
    fn names_that_are_no_plain_text_are_refused() {
        for name in ["nul\0", "line\nbreak"] {
            assert!(Certificate::from_der(made(name).der().to_vec()).is_err(), "{name:?}");
        }
        assert!(Certificate::from_der(made(&"x".repeat(2_000)).der().to_vec()).is_err());
    }
}
