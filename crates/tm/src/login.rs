//! Logins: passwords, API keys and refresh tokens in, access tokens out.

use std::net::IpAddr;
use std::sync::Arc;

use chrono::{DateTime, Utc};
use ids::TenantId;
use ism::Secret;
use uuid::Uuid;

use crate::config::Config;
use crate::domain::Username;
use crate::error::Error;
use crate::keyring::KeyRing;
use crate::metrics::Metrics;
use crate::password::{Checked, Passwords};
use crate::secret::{digest, digest_pair, random_text};
use crate::store::{Attempt, Credentials, LoginSubject, Principal, Refreshed, SessionLimits, Store};
use crate::token::{AUDIENCE, Claims};

/// 43 of 62 kinds are 256 random bits.
const REFRESH_TOKEN_CHARS: usize = 43;

/// Logs users and API keys in.
pub(crate) struct Logins {
    store: Store,
    passwords: Passwords,
    keyring: Arc<KeyRing>,
    metrics: Metrics,
    token_ttl_s: u32,
    sessions: SessionLimits,
}

/// What a login gives.
pub(crate) struct Issued {
    pub(crate) access_token: Secret,
    /// In seconds.
    pub(crate) expires_in: i64,
    pub(crate) refresh: Option<RefreshToken>,
}

/// The token for the next login without a password.
pub(crate) struct RefreshToken {
    pub(crate) text: Secret,
    /// In seconds.
    pub(crate) expires_in: i64,
}

impl Logins {
    pub(crate) fn new(
        config: &Config,
        store: Store,
        passwords: Passwords,
        keyring: Arc<KeyRing>,
        metrics: Metrics,
    ) -> Self {
        let sessions = SessionLimits {
            token_s: config.refresh_ttl_s,
            session_s: config.session_max_s,
            per_user: config.sessions_per_user_max,
        };
        Self { store, passwords, keyring, metrics, token_ttl_s: config.token_ttl_s, sessions }
    }

    /// A user with a password, from an address.
    pub(crate) async fn password(
        &self,
        from: IpAddr,
        tenant: &TenantId,
        username: &str,
        password: &str,
    ) -> Result<Issued, Error> {
        self.count("password", self.try_password(from, tenant, username, password).await)
    }

    async fn try_password(
        &self,
        from: IpAddr,
        tenant: &TenantId,
        username: &str,
        password: &str,
    ) -> Result<Issued, Error> {
        let username = Username::parse(username).map_err(|_| Error::WrongCredentials)?;
        let credentials = self.store.credentials(tenant, &username.folded).await?;
        let checked = self.check(subject(from, tenant, &username.folded), credentials, password).await?;
        let Credentials { user_id, token_version, .. } = checked.ok_or(Error::WrongCredentials)?;
        // While the password was checked, it may have been changed: then it was the wrong one.
        let principal = self.principal(user_id, token_version).await?.ok_or(Error::WrongCredentials)?;
        admit(&principal)?;
        let refresh = self.begin_session(user_id, token_version).await?.ok_or(Error::WrongCredentials)?;
        self.issue(&principal, Some(refresh))
    }

    /// The user as he is now, if his tokens still have that version.
    async fn principal(&self, user: Uuid, token_version: i32) -> Result<Option<Principal>, Error> {
        let principal = self.store.user_principal(user).await?;
        Ok(principal.filter(|principal| principal.token_version == token_version))
    }

    /// The current password of a user, before it is changed.
    pub(crate) async fn confirm(
        &self,
        from: IpAddr,
        tenant: &TenantId,
        user: Uuid,
        password: &str,
    ) -> Result<(), Error> {
        let credentials = self.store.credentials_of(tenant, user).await?;
        let subject = subject(from, tenant, &credentials.username_folded);
        let confirmed = self.check(subject, Some(credentials), password).await?;
        confirmed.map(drop).ok_or(Error::WrongPassword)
    }

    /// Checks a password, as often as failures in a row allow; takes as long when there is no such user.
    async fn check(
        &self,
        subject: LoginSubject,
        credentials: Option<Credentials>,
        password: &str,
    ) -> Result<Option<Credentials>, Error> {
        let turn = self.passwords.turn().await?;
        if let Attempt::Locked(left) = self.store.attempt_login(&subject).await? {
            return Err(Error::Locked(left));
        }
        let hash = credentials.as_ref().map(|credentials| credentials.password_hash.clone());
        let checked = self.passwords.check(turn, password.to_owned(), hash).await?;
        let Some(credentials) = credentials.filter(|_| checked != Checked::Wrong) else { return Ok(None) };
        self.store.login_succeeded(&subject).await?;
        if checked == Checked::Outdated {
            let turn = self.passwords.turn().await?;
            let hash = self.passwords.hash(turn, password.to_owned()).await?;
            self.store.rehash(credentials.user_id, &credentials.password_hash, &hash).await?;
        }
        Ok(Some(credentials))
    }

    /// A new password for a user: everybody who was logged in as him is out, and failures are forgotten.
    pub(crate) async fn set_password(
        &self,
        tenant: &TenantId,
        user: Uuid,
        password: String,
    ) -> Result<(), Error> {
        let credentials = self.store.credentials_of(tenant, user).await?;
        let hash = self.hash(password).await?;
        self.store.set_password(tenant, user, &hash).await?;
        self.store.forgive_logins(&digest_pair(tenant.as_str(), &credentials.username_folded)).await
    }

    /// The hash of a new password.
    pub(crate) async fn hash(&self, password: String) -> Result<String, Error> {
        self.passwords.hash(self.passwords.turn().await?, password).await
    }

    /// An API key with its id, for a short-lived token.
    pub(crate) async fn client(&self, tenant: &TenantId, id: &str, key: &str) -> Result<Issued, Error> {
        self.count("client_credentials", self.try_client(tenant, id, key).await)
    }

    async fn try_client(&self, tenant: &TenantId, id: &str, key: &str) -> Result<Issued, Error> {
        let principal = self.store.api_key_principal(&digest(key)).await?;
        let principal = principal.filter(|key| key.tenant == *tenant && key.subject == id && key.enabled);
        let principal = principal.ok_or(Error::WrongClient)?;
        if principal.expires_at.is_some_and(|expires_at| expires_at <= Utc::now()) {
            return Err(Error::WrongClient);
        }
        admit(&principal)?;
        self.store.api_key_used(&principal.subject).await?;
        self.issue(&principal, None)
    }

    /// A refresh token, which is good for one use.
    pub(crate) async fn refresh(&self, tenant: Option<&TenantId>, token: &str) -> Result<Issued, Error> {
        self.count("refresh_token", self.try_refresh(tenant, token).await)
    }

    async fn try_refresh(&self, tenant: Option<&TenantId>, token: &str) -> Result<Issued, Error> {
        let next = random_text(REFRESH_TOKEN_CHARS);
        let refreshed = self.store.refresh(tenant, &digest(token), &digest(&next), self.sessions).await?;
        let (user, token_version, expires_at) = match refreshed {
            Refreshed::Next { user, token_version, expires_at } => (user, token_version, expires_at),
            Refreshed::Reused { user } => {
                tracing::warn!(%user, "a refresh token was shown twice, so that it may be stolen: the session was ended");
                return Err(Error::RefreshToken);
            }
            Refreshed::Invalid => return Err(Error::RefreshToken),
        };
        let principal = self.principal(user, token_version).await?.ok_or(Error::RefreshToken)?;
        admit(&principal)?;
        self.issue(
            &principal,
            Some(RefreshToken { text: next.into(), expires_in: seconds_until(expires_at) }),
        )
    }

    /// Ends the session of a refresh token.
    pub(crate) async fn logout(&self, tenant: Option<&TenantId>, token: &str) -> Result<(), Error> {
        self.store.end_session(tenant, &digest(token)).await
    }

    async fn begin_session(&self, user: Uuid, token_version: i32) -> Result<Option<RefreshToken>, Error> {
        let text = random_text(REFRESH_TOKEN_CHARS);
        let begun = self.store.begin_session(user, token_version, &digest(&text), self.sessions).await?;
        Ok(begun.map(|expires_at| RefreshToken { text: text.into(), expires_in: seconds_until(expires_at) }))
    }

    fn issue(&self, principal: &Principal, refresh: Option<RefreshToken>) -> Result<Issued, Error> {
        let now = Utc::now().timestamp();
        let end = now + i64::from(self.token_ttl_s);
        let exp = principal.expires_at.map_or(end, |expires_at| end.min(expires_at.timestamp()));
        let claims = Claims {
            iss: self.keyring.issuer().to_owned(),
            sub: principal.subject.clone(),
            aud: AUDIENCE.to_owned(),
            exp,
            iat: now,
            jti: Uuid::now_v7(),
            typ: principal.kind,
            tenant: principal.tenant.to_string(),
            name: principal.name.clone(),
            role: principal.role,
            grants: principal.grants.clone(),
            ver: principal.token_version,
        };
        let access_token = self.keyring.sign(&claims)?.into();
        Ok(Issued { access_token, expires_in: exp - now, refresh })
    }

    fn count<T>(&self, grant: &'static str, result: Result<T, Error>) -> Result<T, Error> {
        let label = match &result {
            Ok(_) => "ok",
            Err(Error::Locked(_)) => "locked",
            Err(Error::Busy) => "busy",
            Err(
                Error::WrongCredentials
                | Error::WrongClient
                | Error::RefreshToken
                | Error::UserDisabled
                | Error::TenantDisabled(_),
            ) => "refused",
            Err(_) => "failed",
        };
        self.metrics.login(grant, label);
        result
    }
}

/// Who tries to log in from where. Of an IPv6 address the network counts: everybody has many of its addresses.
fn subject(from: IpAddr, tenant: &TenantId, username_folded: &str) -> LoginSubject {
    let network = match from.to_canonical() {
        IpAddr::V4(address) => address.to_string(),
        IpAddr::V6(address) => format!("{:x?}", &address.segments()[..4]),
    };
    LoginSubject {
        account: digest_pair(tenant.as_str(), username_folded),
        // No user name holds a NUL, so no two subjects make the same text.
        at_address: digest_pair(tenant.as_str(), &format!("{username_folded}\0{network}")),
    }
}

/// Lets in who has proved who he is, if that is allowed now.
fn admit(principal: &Principal) -> Result<(), Error> {
    if !principal.tenant_enabled {
        return Err(Error::TenantDisabled(principal.tenant.clone()));
    }
    if principal.enabled { Ok(()) } else { Err(Error::UserDisabled) }
}

fn seconds_until(time: DateTime<Utc>) -> i64 {
    (time - Utc::now()).num_seconds().max(0)
}
