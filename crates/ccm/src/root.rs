//! The platform's root authority: made once, when the service first starts.

use chrono::{DateTime, Utc};

use crate::authority::{Signer, make_root};
use crate::certificate::Certificate;
use crate::error::Error;
use crate::keys::Keys;
use crate::store::Store;

/// The root of all authorities that are made here.
pub(crate) struct Root {
    pub(crate) certificate: Certificate,
    pub(crate) signer: Signer,
}

impl Root {
    /// Takes the root out of the database, or makes it.
    pub(crate) async fn open(store: &Store, keys: &Keys) -> anyhow::Result<Self> {
        if store.root().await?.is_none() {
            let made = make_root(Utc::now()).map_err(Error::from)?;
            let private_key = keys.encrypt(made.id, &made.private_key)?;
            store.create_root(made.id, &made.certificate, &private_key).await?;
        }
        // That of the replica that was first.
        let Some((id, certificate, private_key)) = store.root().await? else {
            anyhow::bail!(
                "the root authority was removed from ccm.platform_authority while the service started"
            );
        };
        let private_key = keys.decrypt(id, &private_key).map_err(|error| {
            anyhow::anyhow!(error).context(
                "ccm.key_encryption_key is not the one that this database was made with: all private keys and passwords \
                 depend on it; set it as it was",
            )
        })?;
        let signer = Signer::new(&certificate, &private_key)?;
        Ok(Self { certificate: Certificate::from_der(certificate)?, signer })
    }

    pub(crate) fn expires(&self) -> DateTime<Utc> {
        self.certificate.not_after
    }
}
