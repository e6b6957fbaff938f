//! Certificates that follow their files.

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use tokio_util::sync::CancellationToken;

use crate::Error;
use crate::pair::{Contents, Pair};

/// Time between two looks at the files.
const LOOK_INTERVAL: Duration = Duration::from_secs(5);

/// Where a server's certificate comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Files {
    /// The certificate chain, the server's own certificate first; PEM.
    pub certificate_file: PathBuf,
    /// The key that belongs to the first certificate; PEM.
    pub key_file: PathBuf,
    /// The root to tell clients of; none: the last certificate of the chain.
    pub ca_file: Option<PathBuf>,
}

/// The certificate of a server, as its files have it.
pub struct Certificates {
    files: Files,
    current: ArcSwap<Pair>,
    /// The digest of the contents that were looked at last, and what was wrong with them.
    seen: tokio::sync::Mutex<Seen>,
}

#[derive(Default)]
struct Seen {
    digest: Option<[u8; 32]>,
    complaint: Option<String>,
}

impl Certificates {
    /// Reads the files.
    ///
    /// # Errors
    /// When they cannot be read, or hold no chain with its key.
    pub async fn load(files: Files) -> Result<Arc<Self>, Error> {
        let contents = Contents::read(&files).await?;
        let pair = contents.parse(&files)?;
        tell(&files, &pair, "serving a certificate");
        let seen = Seen { digest: Some(contents.digest()), complaint: None };
        Ok(Arc::new(Self {
            files,
            current: ArcSwap::from_pointee(pair),
            seen: tokio::sync::Mutex::new(seen),
        }))
    }

    /// Looks at the files every 5 s until `stopping` is cancelled, and takes over what is new and can be used.
    pub async fn follow(&self, stopping: CancellationToken) {
        loop {
            tokio::select! {
                () = tokio::time::sleep(LOOK_INTERVAL) => self.look().await,
                () = stopping.cancelled() => return,
            }
        }
    }

    /// Looks at the files once.
    pub async fn look(&self) {
        let mut seen = self.seen.lock().await;
        let contents = match Contents::read(&self.files).await {
            Ok(contents) => contents,
            Err(error) => return seen.complain(&error),
        };
        let digest = contents.digest();
        if seen.digest == Some(digest) {
            return;
        }
        seen.digest = Some(digest);
        match contents.parse(&self.files) {
            Ok(pair) => {
                tell(&self.files, &pair, "serving a new certificate");
                seen.complaint = None;
                self.current.store(Arc::new(pair));
            }
            Err(error) => seen.complain(&error),
        }
    }

    /// The chain that is shown to clients, as PEM.
    #[must_use]
    pub fn chain_pem(&self) -> String {
        self.current.load().chain_pem.clone()
    }

    /// The certificate that clients must trust to trust this server, as PEM: that of `ca_file`, else the last of the
    /// chain.
    #[must_use]
    pub fn root_pem(&self) -> String {
        self.current.load().root_pem.clone()
    }
}

impl Seen {
    /// Tells what is wrong, once for as long as it is the same.
    fn complain(&mut self, error: &Error) {
        let complaint = error.to_string();
        if self.complaint.as_ref() != Some(&complaint) {
            tracing::error!(error = complaint, "a new certificate cannot be used: the old one stays");
            self.complaint = Some(complaint);
        }
    }
}

fn tell(files: &Files, pair: &Pair, what: &str) {
    let (file, valid_until) = (files.certificate_file.display(), &pair.valid_until);
    if pair.is_expired {
        tracing::warn!(%file, valid_until, "{what} that has expired: clients will refuse it");
    } else {
        tracing::info!(%file, valid_until, "{what}");
    }
}

impl ResolvesServerCert for Certificates {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(Arc::clone(&self.current.load().key))
    }
}

impl fmt::Debug for Certificates {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Certificates").field("files", &self.files).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use rcgen::{CertifiedKey as Made, generate_simple_self_signed};
    use rustls_pki_types::CertificateDer;
    use rustls_pki_types::pem::PemObject as _;

    use super::*;

    struct Folder {
        folder: tempfile::TempDir,
        files: Files,
    }

    fn made(name: &str) -> (String, String) {
        let Made { cert, signing_key } = generate_simple_self_signed([name.to_owned()]).unwrap();
        (cert.pem(), signing_key.serialize_pem())
    }

    impl Folder {
        fn with(certificate: &str, key: &str) -> Self {
            let folder = tempfile::tempdir().unwrap();
            let path = |name: &str| folder.path().join(name);
            let files = Files { certificate_file: path("tls.crt"), key_file: path("tls.key"), ca_file: None };
            fs::write(&files.certificate_file, certificate).unwrap();
            fs::write(&files.key_file, key).unwrap();
            Self { folder, files }
        }

        async fn fault(&self) -> String {
            Certificates::load(self.files.clone()).await.unwrap_err().to_string()
        }
    }

    fn der(pem: &str) -> CertificateDer<'static> {
        CertificateDer::from_pem_slice(pem.as_bytes()).unwrap()
    }

    #[tokio::test]
    async fn a_new_pair_is_taken_and_a_broken_one_is_not() {
        let (first, second, third) = (made("first"), made("second"), made("third"));
        let folder = Folder::with(&first.0, &first.1);
        let files = &folder.files;
        let certificates = Certificates::load(files.clone()).await.unwrap();
        let shown = || certificates.current.load().key.cert[0].clone();
        assert_eq!(shown(), der(&first.0));
        // One file after the other, as `cp` does it.
        fs::write(&files.certificate_file, &second.0).unwrap();
        certificates.look().await;
        assert_eq!(shown(), der(&first.0));
        fs::write(&files.key_file, &second.1).unwrap();
        certificates.look().await;
        assert_eq!(shown(), der(&second.0));
        for broken in ["", "no PEM", "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"] {
            fs::write(&files.certificate_file, broken).unwrap();
            certificates.look().await;
            assert_eq!(shown(), der(&second.0));
        }
        fs::remove_file(&files.certificate_file).unwrap();
        certificates.look().await;
        // As Kubernetes does it: a link to another folder.
        let other = folder.folder.path().join("other");
        fs::create_dir(&other).unwrap();
        fs::write(other.join("tls.crt"), &third.0).unwrap();
        fs::write(&files.key_file, &third.1).unwrap();
        std::os::unix::fs::symlink(other.join("tls.crt"), &files.certificate_file).unwrap();
        certificates.look().await;
        assert_eq!(shown(), der(&third.0));
    }

    #[tokio::test]
    async fn what_is_shown_is_certificates_and_never_a_key() {
        let (leaf, root) = (made("leaf"), made("root"));
        let mut folder = Folder::with(&format!("{}{}{}", leaf.1, leaf.0, root.0), &leaf.1);
        let chain = |pem: &str| {
            CertificateDer::pem_slice_iter(pem.as_bytes()).collect::<Result<Vec<_>, _>>().unwrap()
        };
        let certificates = Certificates::load(folder.files.clone()).await.unwrap();
        assert_eq!(chain(&certificates.chain_pem()), [der(&leaf.0), der(&root.0)]);
        assert_eq!(chain(&certificates.root_pem()), [der(&root.0)]);
        assert!(!certificates.chain_pem().contains("PRIVATE"));
        assert!(certificates.chain_pem().lines().all(|line| line.len() <= 64));
        let ca = folder.folder.path().join("ca.crt");
        fs::write(&ca, &made("ca").0).unwrap();
        folder.files.ca_file = Some(ca.clone());
        let certificates = Certificates::load(folder.files.clone()).await.unwrap();
        assert_eq!(chain(&certificates.root_pem()), chain(&fs::read_to_string(&ca).unwrap()));
    }

    #[tokio::test]
    async fn faults_name_the_file_and_the_fix() {
        let (first, second) = (made("first"), made("second"));
        let mismatch = Folder::with(&first.0, &second.1).fault().await;
        assert!(mismatch.contains("tls.crt") && mismatch.contains("tls.key"), "{mismatch}");
        let no_key = Folder::with(&first.0, &first.0).fault().await;
        assert!(no_key.contains("tls.key holds no key"), "{no_key}");
        let no_certificate = Folder::with(&first.1, &first.1).fault().await;
        assert!(no_certificate.contains("tls.crt holds no certificate"), "{no_certificate}");
        let long = Folder::with(&"x".repeat(1_100_000), &first.1).fault().await;
        assert!(long.contains("longer than 1048576 bytes"), "{long}");
        let missing = Folder::with(&first.0, &first.1);
        fs::remove_file(&missing.files.key_file).unwrap();
        let missing = missing.fault().await;
        assert!(missing.contains("cannot read") && missing.contains("tls.key"), "{missing}");
    }
}
