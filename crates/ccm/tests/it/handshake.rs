//! A gateway and a device in memory: TLS with the certificates that the service gave them.

use std::sync::Arc;

use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, ServerName};
use rustls::server::WebPkiClientVerifier;
use rustls::{ClientConfig, ClientConnection, RootCertStore, ServerConfig, ServerConnection};

fn provider() -> Arc<rustls::crypto::CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}

/// Whether a device with this chain and key (PEM) is let in by a gateway that trusts these authorities (DER).
pub(crate) fn is_let_in(anchors: &[Vec<u8>], chain: &str, private_key: &str) -> bool {
    let gateway = rcgen::generate_simple_self_signed(vec!["gateway".to_owned()]).unwrap();
    let mut roots = RootCertStore::empty();
    for anchor in anchors {
        roots.add(CertificateDer::from(anchor.clone())).unwrap();
    }
    let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider()).build().unwrap();
    let gateway_key = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(gateway.signing_key.serialize_der()));
    let server = ServerConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_client_cert_verifier(verifier)
        .with_single_cert(vec![gateway.cert.der().clone()], gateway_key)
        .unwrap();

    let mut trusted = RootCertStore::empty();
    trusted.add(gateway.cert.der().clone()).unwrap();
    let chain: Vec<_> = CertificateDer::pem_slice_iter(chain.as_bytes()).map(Result::unwrap).collect();
    let client = ClientConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(trusted)
        .with_client_auth_cert(chain, PrivateKeyDer::from_pem_slice(private_key.as_bytes()).unwrap())
        .unwrap();

    let server = ServerConnection::new(Arc::new(server)).unwrap();
    let client = ClientConnection::new(Arc::new(client), ServerName::try_from("gateway").unwrap()).unwrap();
    talk(client, server)
}

/// Hands bytes to and fro until the gateway has decided.
fn talk(mut client: ClientConnection, mut server: ServerConnection) -> bool {
    while server.is_handshaking() {
        let mut bytes = Vec::new();
        while client.wants_write() {
            client.write_tls(&mut bytes).unwrap();
        }
        let mut unread = bytes.as_slice();
        while !unread.is_empty() {
            server.read_tls(&mut unread).unwrap();
            if server.process_new_packets().is_err() {
                return false;
            }
        }
        let mut bytes = Vec::new();
        while server.wants_write() {
            server.write_tls(&mut bytes).unwrap();
        }
        let mut unread = bytes.as_slice();
        while !unread.is_empty() {
            client.read_tls(&mut unread).unwrap();
            client.process_new_packets().unwrap();
        }
    }
    true
}
