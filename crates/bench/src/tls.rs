//! TLS as a device speaks it that connects for the first time.

use std::sync::Arc;

use anyhow::{Context, Result, ensure};
use rustls::client::Resumption;
use rustls::crypto::CryptoProvider;
use rustls::{ClientConfig, RootCertStore};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::TlsConnector;

use crate::rest::ClientCertificate;

/// The same as the gateway's, said here because other libraries may bring others.
pub(crate) fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}

/// Clients that trust `root` (PEM), with a certificate of their own if there is one. Each makes a full handshake.
pub(crate) fn connector(root: &str, own: Option<&ClientCertificate>) -> Result<TlsConnector> {
    let mut roots = RootCertStore::empty();
    for certificate in certificates(root).context("the platform's root certificate cannot be read")? {
        roots.add(certificate).context("the platform's root certificate cannot be used")?;
    }
    let builder = ClientConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()?
        .with_root_certificates(roots);
    let mut config = match own {
        None => builder.with_no_client_auth(),
        Some(own) => {
            let key = PrivateKeyDer::from_pem_slice(own.key.as_bytes())
                .context("the client certificate's key cannot be read")?;
            let chain = certificates(&own.chain).context("the client certificate cannot be read")?;
            builder.with_client_auth_cert(chain, key).context("the client certificate cannot be used")?
        }
    };
    config.resumption = Resumption::disabled();
    Ok(TlsConnector::from(Arc::new(config)))
}

fn certificates(pem: &str) -> Result<Vec<CertificateDer<'static>>> {
    let found: Vec<_> = CertificateDer::pem_slice_iter(pem.as_bytes()).collect::<Result<_, _>>()?;
    ensure!(!found.is_empty(), "there is no certificate in it");
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_certificate_is_told() {
        let message = |root: &str, own: Option<&ClientCertificate>| {
            format!("{:#}", connector(root, own).err().unwrap())
        };
        assert!(message("", None).contains("root certificate"));
        let made = rcgen::generate_simple_self_signed(vec!["client".to_owned()]).unwrap();
        let (root, key) = (made.cert.pem(), made.signing_key.serialize_pem());
        let other = rcgen::KeyPair::generate().unwrap().serialize_pem();
        assert!(connector(&root, Some(&ClientCertificate::new(&root, &key))).is_ok());
        assert!(
            message(&root, Some(&ClientCertificate::new(&root, "no key"))).contains("key cannot be read")
        );
        assert!(message(&root, Some(&ClientCertificate::new(&root, &other))).contains("cannot be used"));
    }
}
