//! What CONNECT says of who connects, and why a client is not let in.

use std::borrow::Cow;
use std::fmt;
use std::sync::Arc;

use ids::TenantId;
use ism::Secret;

/// Longer ones are no user names and passwords, and are not handed on. In bytes.
const USERNAME_MAX: usize = 512;
const PASSWORD_MAX: usize = 1_024;
/// Longest client id in bytes: it is kept, logged and told to other replicas.
const CLIENT_ID_MAX: usize = 1_024;

/// A user name and password, as CONNECT has them.
#[derive(Debug)]
pub(crate) struct Login {
    pub(crate) tenant: TenantId,
    pub(crate) username: String,
    pub(crate) password: Secret,
}

impl Login {
    /// Reads what CONNECT holds; none when it is no login. A user name that names no tenant is nobody's here, so it is
    /// none: many libraries and examples send some user name, because other servers want one. Such a client has shown
    /// nothing, and where credentials are required it is told so.
    ///
    /// # Errors
    /// When that cannot be anybody's user name and password.
    pub(crate) fn read(username: Option<&str>, password: Option<&[u8]>) -> Result<Option<Self>, Refusal> {
        let password = password.unwrap_or_default();
        let Some((name, tenant)) = username.unwrap_or_default().rsplit_once('@') else { return Ok(None) };
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

/// The client id, as CONNECT has it; none when the client leaves the choice to us.
///
/// # Errors
/// When it can be nobody's. A zero is refused by the library already (MQTT-1.5.3-2), and by us because a session's name is
/// made of tenant, zero and client id.
pub(crate) fn client_id(text: &str) -> Result<Option<Arc<str>>, Refusal> {
    if text.len() > CLIENT_ID_MAX || text.contains('\0') {
        return Err(Refusal::BadClientId("a client id is at most 1024 bytes, none of them zero"));
    }
    Ok((!text.is_empty()).then(|| text.into()))
}

/// Why no connection was opened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Refusal {
    Stopping,
    BadClientId(&'static str),
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
            Self::BadClientId(_) => "bad client id",
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
            Self::BadCredentials(reason) | Self::BadClientId(reason) => formatter.write_str(reason),
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
        let nothing: [(Option<&str>, Option<&[u8]>); 6] = [
            (None, None),
            (Some(""), None),
            (Some(""), Some(b"")),
            (Some("me"), None),
            (Some("me"), Some(b"secret")),
            (None, Some(b"secret")),
        ];
        for nothing in nothing {
            assert!(Login::read(nothing.0, nothing.1).unwrap().is_none());
        }
        let long = "x".repeat(2_000);
        let long_name = format!("{long}@acme");
        let bad: [(Option<&str>, Option<&[u8]>); 7] = [
            (Some("me@"), Some(b"secret")),
            (Some("@acme"), Some(b"secret")),
            (Some("me@AC ME"), Some(b"secret")),
            (Some("me@acme"), None),
            (Some("me@acme"), Some(b"\xFF\xFE")),
            (Some("me@acme"), Some(long.as_bytes())),
            (Some(&long_name), Some(b"secret")),
        ];
        for (username, password) in bad {
            assert!(
                matches!(Login::read(username, password), Err(Refusal::BadCredentials(_))),
                "{username:?} {password:?}"
            );
        }
    }

    #[test]
    fn a_client_id_is_of_bounded_length_and_has_no_zero() {
        assert_eq!(client_id(""), Ok(None));
        assert_eq!(client_id("é d/+#@ 1").unwrap().as_deref(), Some("é d/+#@ 1"));
        assert!(client_id(&"x".repeat(1_024)).is_ok());
        for bad in ["acme\0c", &"x".repeat(1_025)] {
            assert!(matches!(client_id(bad), Err(Refusal::BadClientId(_))));
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
