//! The certificate by which devices and callers know `bandar up`: made here, unless the operator brings one.
//!
//! On the first start a certificate authority of this installation is made, and at each start a certificate of the machine under it, so that new
//! names and renewals need nobody. Devices are given the authority's certificate, `tls/ca.pem`.

use std::fs::Permissions;
use std::net::IpAddr;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context as _;
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer,
    KeyPair, KeyUsagePurpose,
};
use time::OffsetDateTime;

use crate::data::write_private;

const AUTHORITY_DAYS: i64 = 3_650;
const MACHINE_DAYS: i64 = 397;
/// How often a platform that runs on and on gets a new certificate.
const RENEW_EVERY: Duration = Duration::from_secs(30 * 24 * 3_600);
/// A clock that is a little late must not refuse what was made just now.
const CLOCK_SKEW: time::Duration = time::Duration::hours(1);

/// The files of the machine's certificate.
#[derive(Debug, Clone)]
pub(crate) struct Files {
    /// The authority's certificate, which devices trust.
    pub(crate) root: PathBuf,
    /// The machine's certificate, with the authority's behind it.
    pub(crate) certificate: PathBuf,
    /// The machine's private key.
    pub(crate) key: PathBuf,
}

/// Makes what is missing, and the machine's certificate anew, for its host name and these names.
pub(crate) fn prepare(data: &Path, names: &[String]) -> anyhow::Result<Files> {
    let directory = data.join("tls");
    std::fs::create_dir_all(&directory).with_context(|| format!("cannot make {}", directory.display()))?;
    let files = Files {
        root: directory.join("ca.pem"),
        certificate: directory.join("server.pem"),
        key: directory.join("server.key"),
    };
    let authority_key = directory.join("ca.key");
    if !files.root.exists() {
        // A key that is there is used again: devices may know its certificate.
        let key = if authority_key.exists() { read_key(&authority_key)? } else { KeyPair::generate()? };
        let certificate = make_authority(&key)?;
        // The certificate comes last: once it is there, both are.
        write_private(&authority_key, key.serialize_pem().as_bytes())?;
        write_private(&files.root, certificate.as_bytes())?;
        // Whoever connects here needs it.
        std::fs::set_permissions(&files.root, Permissions::from_mode(0o644))?;
    } else if !authority_key.exists() {
        // Devices trust the certificate that is there, so another one is not made behind their backs.
        anyhow::bail!(
            "{} is missing: restore it; or move {} away, and a new certificate authority is made, whose certificate every \
            device must be given",
            authority_key.display(),
            files.root.display()
        );
    }
    let root = read(&files.root)?;
    let issuer = Issuer::from_ca_cert_pem(&root, read_key(&authority_key)?)
        .with_context(|| format!("{} is damaged; restore it", files.root.display()))?;
    let (certificate, key) = make_machine(&issuer, names)?;
    // Whoever reads the two between these lines finds a pair that does not fit, and keeps the former one.
    write_private(&files.key, key.as_bytes())?;
    write_private(&files.certificate, format!("{certificate}{root}").as_bytes())?;
    Ok(files)
}

/// Makes the machine's certificate anew now and then, for as long as the platform runs.
pub(crate) async fn keep_fresh(data: PathBuf, names: Vec<String>) {
    loop {
        tokio::time::sleep(RENEW_EVERY).await;
        if let Err(error) = prepare(&data, &names) {
            tracing::error!(error = format!("{error:#}"), "the certificate of this machine was not renewed");
        }
    }
}

fn read(file: &Path) -> anyhow::Result<String> {
    std::fs::read_to_string(file).with_context(|| format!("cannot read {}", file.display()))
}

fn read_key(file: &Path) -> anyhow::Result<KeyPair> {
    KeyPair::from_pem(&read(file)?).with_context(|| format!("{} is damaged; restore it", file.display()))
}

fn make_authority(key: &KeyPair) -> anyhow::Result<String> {
    let mut params = params(&format!("Bandar on {}", host_name()), AUTHORITY_DAYS);
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    Ok(params.self_signed(key)?.pem())
}

fn make_machine(issuer: &Issuer<'_, KeyPair>, names: &[String]) -> anyhow::Result<(String, String)> {
    let host = host_name();
    let mut all = vec!["localhost".to_owned(), "127.0.0.1".to_owned(), "::1".to_owned()];
    all.extend(std::iter::once(&host).chain(names).filter(|name| !name.is_empty()).cloned());
    all.sort_unstable();
    all.dedup();
    let mut params = params(&host, MACHINE_DAYS);
    for name in &all {
        let name = match name.parse::<IpAddr>() {
            Ok(address) => rcgen::SanType::IpAddress(address),
            Err(_) if is_host_name(name) => rcgen::SanType::DnsName(name.as_str().try_into()?),
            // The machine's own name may be anything; a name that was asked for may not.
            Err(_) if *name == host => continue,
            Err(_) => anyhow::bail!("--tls-name {name}: write a host name or an address"),
        };
        params.subject_alt_names.push(name);
    }
    params.use_authority_key_identifier_extension = true;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    let key = KeyPair::generate()?;
    let certificate = params.signed_by(&key, issuer)?;
    Ok((certificate.pem(), key.serialize_pem()))
}

fn is_host_name(name: &str) -> bool {
    let label = |label: &str| {
        !label.is_empty() && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_*".contains(&byte))
    };
    name.len() <= 253 && name.split('.').all(label)
}

fn params(common_name: &str, days: i64) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    // A common name holds 64 characters (X.520).
    params.distinguished_name.push(DnType::CommonName, common_name.chars().take(64).collect::<String>());
    let now = OffsetDateTime::now_utc();
    params.not_before = now - CLOCK_SKEW;
    params.not_after = now + time::Duration::days(days);
    params
}

fn host_name() -> String {
    rustix::system::uname().nodename().to_string_lossy().into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_authority_stays_and_the_machine_s_certificate_is_made_anew() {
        let directory = tempfile::tempdir().unwrap();
        let data = directory.path();
        let files = prepare(data, &[]).unwrap();
        let first = (read(&files.root).unwrap(), read(&files.certificate).unwrap());
        prepare(data, &["harbour.example".to_owned(), "192.0.2.7".to_owned()]).unwrap();
        assert_eq!(read(&files.root).unwrap(), first.0);
        assert_ne!(read(&files.certificate).unwrap(), first.1);
        assert!(read(&files.certificate).unwrap().ends_with(&first.0));
        assert!(prepare(data, &["not a name".to_owned()]).is_err());
    }

    #[test]
    fn the_authority_that_devices_trust_is_not_replaced() {
        let directory = tempfile::tempdir().unwrap();
        let data = directory.path();
        let files = prepare(data, &[]).unwrap();
        let (key, root) = (data.join("tls/ca.key"), read(&files.root).unwrap());
        let kept = read(&key).unwrap();
        std::fs::remove_file(&key).unwrap();
        let error = prepare(data, &[]).unwrap_err().to_string();
        assert!(error.contains("ca.key is missing"), "{error}");
        assert_eq!(read(&files.root).unwrap(), root);
        // The other half can be made again.
        std::fs::write(&key, &kept).unwrap();
        std::fs::remove_file(&files.root).unwrap();
        prepare(data, &[]).unwrap();
        assert_eq!(read(&key).unwrap(), kept);
        std::fs::write(&key, "nonsense").unwrap();
        let error = prepare(data, &[]).unwrap_err().to_string();
        assert!(error.contains("ca.key is damaged"), "{error}");
    }
}
