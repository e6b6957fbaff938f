//! The first tenant, its administrator and an API key, from the configuration.

use uuid::Uuid;

use crate::api_key::NewApiKey;
use crate::config::Bootstrap;
use crate::domain::{Grants, Username};
use crate::error::Error;
use crate::password::Passwords;
use crate::store::{FirstTenant, NewApiKeyRow, NewUser, Store};

/// Makes what the configuration names, once: when the tenant exists or existed, nothing is touched.
pub(crate) async fn run(bootstrap: &Bootstrap, store: &Store, passwords: &Passwords) -> Result<(), Error> {
    let Some(tenant) = &bootstrap.tenant else { return Ok(()) };
    if store.tenant_existed(tenant).await? {
        return Ok(());
    }
    let username = Username::parse(&bootstrap.admin_user)?;
    let hash = passwords.hash(passwords.turn().await?, bootstrap.admin_password.clone()).await?;
    let key = NewApiKey::of(&bootstrap.api_key);
    let (role, grants) = (Some(rest::Role::Admin), &Grants::new());
    let admin = NewUser {
        id: Uuid::now_v7(),
        tenant,
        username: &username,
        name: &username.text,
        role,
        grants,
        enabled: true,
        password_hash: &hash,
    };
    let api_key = NewApiKeyRow {
        id: &key.id,
        hash: key.hash,
        tenant,
        name: "bootstrap",
        role,
        grants,
        created_by: "configuration",
        expires_at: None,
    };
    if store.make_first_tenant(FirstTenant { tenant, admin, api_key }).await? {
        tracing::info!(%tenant, "the first tenant was made, with an administrator and an API key");
    }
    Ok(())
}
