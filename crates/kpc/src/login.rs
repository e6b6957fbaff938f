//! What CONNECT says of who connects, and why a client is not let in.

use std::borrow::Cow;
use std::fmt;

use ids::TenantId;
use ism::Secret;

/// Longer ones are no user names and passwords, and are not handed on. In bytes.
const USERNAME_MAX: usize = 512;
const PASSWORD_MAX: usize = 1_024;

/// A user name and password, as CONNECT has them.
#[derive(Debug)]
pub(crate) struct Login {
    pub(crate) tenant: TenantId,
    pub(crate) username: String,
    pub(crate) password: Secret,
}

impl Login {
    /// Reads what CONNECT holds; none when it holds nothing. An empty user name without a password is nothing too: some
    /// libraries always send one.
    ///
    /// # Errors
    /// When that cannot be anybody's user name and password.
    pub(crate) fn read(username: Option<&str>, password: Option<&[u8]>) -> Result<Option<Self>, Refusal> {
        let password = password.unwrap_or_default();
        let username = username.unwrap_or_default();
        if username.is_empty() && password.is_empty() {
            return Ok(None);
        }
        let (name, tenant) = username.rsplit_once('@').ok_or(BAD_USERNAME)?;
        let tenant = TenantId::parse(tenant).map_err(|_| BAD_USERNAME)?;
        let password = std::str::from_utf8(password).map_err(|_| BAD_PASSWORD)?;
        if name.is_empty() || name.len() > USERNAME_MAX {
            return Err(BAD_USERNAME);
        }
        if password.is_empty() || password.len() > PASSWORD_MAX {
            return Err(BAD_PASSWORD);
        }
        Ok(Some(Self { tenant, username: name.to_owned(), password: password.into() }))
    }
}

const BAD_USERNAME: Refusal = Refusal::BadCredentials(
    "a user name is of the form <name>@<tenant>; use the whole login that was issued",
);
const BAD_PASSWORD: Refusal = Refusal::BadCredentials("a password is 1 to 1024 bytes of UTF-8");

/// Why no connection was opened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Refusal {
    Stopping,
    /// The key of the limit that is reached.
    Limit(&'static str),
    BadCredentials(&'static str),
    NotAuthorized(Cow<'static, str>),
    /// For so many seconds.
    Throttled(u32),
    Unavailable(Cow<'static, str>),
}

impl Refusal {
    /// The reason as metrics have it.
    pub(crate) fn label(&self) -> &'static str {
        match self {
            Self::Stopping => "stopping",
            Self::Limit(key) => key,
            Self::BadCredentials(_) => "bad credentials",
            Self::NotAuthorized(_) => "not authorized",
            Self::Throttled(_) => "throttled",
            Self::Unavailable(_) => "unavailable",
        }
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Stopping => formatter.write_str("the gateway is stopping; connect again"),
            Self::Limit(key) => write!(formatter, "{key} is reached; try again later"),
            Self::BadCredentials(reason) => formatter.write_str(reason),
            Self::NotAuthorized(reason) | Self::Unavailable(reason) => formatter.write_str(reason),
            Self::Throttled(seconds) => {
                write!(formatter, "too many failed logins; try again in {seconds} s")
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_login_names_its_tenant_behind_the_last_at_sign() {
        let login = Login::read(Some("me@home@acme"), Some(b"secret")).unwrap().unwrap();
        assert_eq!((login.username.as_str(), login.tenant.as_str()), ("me@home", "acme"));
        assert!(!format!("{login:?}").contains("secret"));
        for nothing in [(None, None), (Some(""), None), (Some(""), Some(&b""[..]))] {
            assert!(Login::read(nothing.0, nothing.1).unwrap().is_none());
        }
        let long = "x".repeat(2_000);
        let bad: [(Option<&str>, Option<&[u8]>); 9] = [
            (Some("me"), Some(b"secret")),
            (Some("me@"), Some(b"secret")),
            (Some("@acme"), Some(b"secret")),
            (Some("me@AC ME"), Some(b"secret")),
            (Some("me@acme"), None),
            (Some("me@acme"), Some(b"\xFF\xFE")),
            (None, Some(b"secret")),
            (Some("me@acme"), Some(long.as_bytes())),
            (Some(&long), Some(b"secret")),
        ];
        for (username, password) in bad {
            assert!(
                matches!(Login::read(username, password), Err(Refusal::BadCredentials(_))),
                "{username:?} {password:?}"
            );
        }
    }

    #[test]
    fn a_refusal_says_what_to_do() {
        assert_eq!(Refusal::Stopping.to_string(), "the gateway is stopping; connect again");
        let limit = Refusal::Limit("kpc.limits.connections_per_address");
        assert_eq!(limit.to_string(), "kpc.limits.connections_per_address is reached; try again later");
        assert_eq!(Refusal::Throttled(4).to_string(), "too many failed logins; try again in 4 s");
    }
}
