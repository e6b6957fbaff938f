//! Why certificates cannot be used.

use std::path::PathBuf;

use crate::pair::FILE_BYTES_MAX;

/// Why certificates cannot be used. The text names the file and what to do.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A file cannot be read.
    #[error("cannot read {}: {source}; check the path and who may read it", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// A file is no such file.
    #[error("{} is longer than {FILE_BYTES_MAX} bytes; it must hold PEM blocks and little else", path.display())]
    TooLong {
        /// The file.
        path: PathBuf,
    },
    /// A file is not PEM.
    #[error("{} is not well-formed PEM: {source}", path.display())]
    Pem {
        /// The file.
        path: PathBuf,
        /// Where it fails.
        source: rustls_pki_types::pem::Error,
    },
    /// A file holds no certificate.
    #[error("{} holds no certificate; it must have a PEM block CERTIFICATE", path.display())]
    NoCertificate {
        /// The file.
        path: PathBuf,
    },
    /// A file holds a certificate that cannot be read.
    #[error("a certificate in {} cannot be read; it must be X.509 version 3", path.display())]
    BadCertificate {
        /// The file.
        path: PathBuf,
    },
    /// A file holds no key that could be used.
    #[error("{} holds no key; it must have a PEM block (EC or RSA) PRIVATE KEY, not encrypted", path.display())]
    NoKey {
        /// The file.
        path: PathBuf,
    },
    /// The key is not the certificate's, or of a kind that is not supported.
    #[error("the key in {} does not serve the first certificate in {}: {source}", key.display(), certificate.display())]
    Mismatch {
        /// The file with the certificate.
        certificate: PathBuf,
        /// The file with the key.
        key: PathBuf,
        /// Why.
        source: rustls::Error,
    },
    /// The provider of cryptography lacks something.
    #[error("TLS cannot be set up: {0}")]
    Provider(rustls::Error),
}
