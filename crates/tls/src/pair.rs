//! A certificate chain with its key, read from files.

use std::path::Path;
use std::time::SystemTime;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use rustls::sign::CertifiedKey;
use rustls_pki_types::pem::{self, PemObject as _};
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use sha2::{Digest as _, Sha256};
use std::sync::Arc;
use tokio::io::AsyncReadExt as _;

use crate::{Error, Files};

/// Longest file in bytes: chains and keys take a few thousand.
pub(crate) const FILE_BYTES_MAX: u64 = 1 << 20;
/// Characters of one line of PEM.
const PEM_LINE: usize = 64;

/// A certificate chain with its key.
pub(crate) struct Pair {
    pub(crate) key: Arc<CertifiedKey>,
    pub(crate) chain_pem: String,
    pub(crate) root_pem: String,
    /// Until when the server's certificate is valid, in words, and whether that is over.
    pub(crate) valid_until: String,
    pub(crate) is_expired: bool,
}

/// What the files hold, before anybody has tried to understand it.
pub(crate) struct Contents {
    certificate: Vec<u8>,
    key: Vec<u8>,
    ca: Option<Vec<u8>>,
}

impl Contents {
    pub(crate) async fn read(files: &Files) -> Result<Self, Error> {
        Ok(Self {
            certificate: read(&files.certificate_file).await?,
            key: read(&files.key_file).await?,
            ca: match &files.ca_file {
                Some(path) => Some(read(path).await?),
                None => None,
            },
        })
    }

    /// Tells contents apart without keeping them.
    pub(crate) fn digest(&self) -> [u8; 32] {
        let mut digest = Sha256::new();
        for part in [Some(&self.certificate), Some(&self.key), self.ca.as_ref()].into_iter().flatten() {
            digest.update(part.len().to_le_bytes());
            digest.update(part);
        }
        digest.finalize().into()
    }

    pub(crate) fn parse(&self, files: &Files) -> Result<Pair, Error> {
        let chain = certificates(&files.certificate_file, &self.certificate)?;
        let chain_pem = encode(&chain);
        let root_pem = match (&files.ca_file, &self.ca) {
            (Some(path), Some(ca)) => encode(&certificates(path, ca)?),
            _ => encode(chain.last().map(std::slice::from_ref).unwrap_or_default()),
        };
        let (valid_until, is_expired) = validity(&files.certificate_file, chain.first())?;
        let key = PrivateKeyDer::from_pem_slice(&self.key).map_err(|source| match source {
            pem::Error::NoItemsFound => Error::NoKey { path: files.key_file.clone() },
            source => Error::Pem { path: files.key_file.clone(), source },
        })?;
        let key =
            CertifiedKey::from_der(chain, key, &crate::provider()).map_err(|source| Error::Mismatch {
                certificate: files.certificate_file.clone(),
                key: files.key_file.clone(),
                source,
            })?;
        Ok(Pair { key: Arc::new(key), chain_pem, root_pem, valid_until, is_expired })
    }
}

async fn read(path: &Path) -> Result<Vec<u8>, Error> {
    let failed = |source| Error::Read { path: path.to_owned(), source };
    let file = tokio::fs::File::open(path).await.map_err(failed)?;
    let mut bytes = Vec::new();
    file.take(FILE_BYTES_MAX + 1).read_to_end(&mut bytes).await.map_err(failed)?;
    if u64::try_from(bytes.len()).is_ok_and(|length| length <= FILE_BYTES_MAX) {
        Ok(bytes)
    } else {
        Err(Error::TooLong { path: path.to_owned() })
    }
}

fn certificates(path: &Path, bytes: &[u8]) -> Result<Vec<CertificateDer<'static>>, Error> {
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(bytes).collect();
    let found = found.map_err(|source| Error::Pem { path: path.to_owned(), source })?;
    if found.is_empty() { Err(Error::NoCertificate { path: path.to_owned() }) } else { Ok(found) }
}

fn validity(path: &Path, certificate: Option<&CertificateDer<'_>>) -> Result<(String, bool), Error> {
    let bad = || Error::BadCertificate { path: path.to_owned() };
    let (_, certificate) =
        x509_parser::parse_x509_certificate(certificate.ok_or_else(bad)?).map_err(|_| bad())?;
    let until = certificate.validity().not_after;
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs();
    let is_expired = i64::try_from(now).is_ok_and(|now| now > until.timestamp());
    Ok((until.to_string(), is_expired))
}

fn encode(certificates: &[CertificateDer<'_>]) -> String {
    let mut text = String::new();
    for certificate in certificates {
        text.push_str("-----BEGIN CERTIFICATE-----\n");
        let mut rest = STANDARD.encode(certificate);
        while !rest.is_empty() {
            // Base64 is ASCII, so every place is the end of a character.
            let next = rest.split_off(rest.len().min(PEM_LINE));
            text.push_str(&rest);
            text.push('\n');
            rest = next;
        }
        text.push_str("-----END CERTIFICATE-----\n");
    }
    text
}
