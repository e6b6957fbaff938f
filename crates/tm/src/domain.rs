//! Tenants, users, API keys, and the rules of their texts.

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};
use ids::ApplicationName;
use rest::Role;
use serde::{Deserialize, Deserializer, Serialize};
use utoipa::ToSchema;
use uuid::Uuid;

const USERNAME_CHARS_MAX: usize = 128;
const NAME_CHARS_MAX: usize = 256;
/// What is hashed has an end, so that nobody keeps the processor busy with a long text.
pub(crate) const PASSWORD_BYTES_MAX: usize = 256;
/// Grants of one user or API key. They stand in tokens, and a token must fit a header.
pub(crate) const GRANTS_MAX: usize = 32;

/// Roles in single applications.
pub(crate) type Grants = BTreeMap<ApplicationName, Role>;

/// A tenant.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Tenant {
    /// The unique id, also the realm of its tokens.
    pub(crate) tenant_id: String,
    /// The name shown to people.
    pub(crate) name: String,
    /// Whether its users and API keys are let in.
    pub(crate) enabled: bool,
    pub(crate) created_date: DateTime<Utc>,
    pub(crate) updated_date: DateTime<Utc>,
}

/// A user of a tenant.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) struct User {
    pub(crate) id: Uuid,
    pub(crate) tenant_id: String,
    /// What the user logs in with; unique in the tenant, whatever the case.
    pub(crate) username: String,
    /// The name shown to people.
    pub(crate) name: String,
    /// The role in the whole tenant.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) role: Option<Role>,
    /// Roles in single applications, by application name.
    #[schema(value_type = BTreeMap<String, Role>)]
    pub(crate) grants: Grants,
    pub(crate) enabled: bool,
    pub(crate) created_date: DateTime<Utc>,
    pub(crate) updated_date: DateTime<Utc>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) last_login_date: Option<DateTime<Utc>>,
}

/// An API key, without its secret.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) struct ApiKey {
    pub(crate) id: String,
    /// The name shown to people.
    pub(crate) name: String,
    /// The role in the whole tenant.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) role: Option<Role>,
    /// Roles in single applications, by application name.
    #[schema(value_type = BTreeMap<String, Role>)]
    pub(crate) grants: Grants,
    pub(crate) created_date: DateTime<Utc>,
    /// The id of the user or API key that made it.
    pub(crate) created_by: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) expires_at: Option<DateTime<Utc>>,
    /// To the minute.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) last_used_at: Option<DateTime<Utc>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) revoked_at: Option<DateTime<Utc>>,
}

/// A text breaks its rule.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Invalid {
    #[error("a username must have 1 to {USERNAME_CHARS_MAX} characters, none of them white space or control")]
    Username,
    #[error("a name must have 1 to {NAME_CHARS_MAX} characters and no control characters")]
    Name,
    #[error("a password must have at least {0} characters (tm.password_chars_min)")]
    ShortPassword(usize),
    #[error("a password must have at most {PASSWORD_BYTES_MAX} bytes")]
    LongPassword,
    #[error("grants must name at most {GRANTS_MAX} applications; give a role in the whole tenant instead")]
    TooManyGrants,
    #[error("give the API key a role or grants: without either it may do nothing")]
    Powerless,
    #[error("expiresAt must lie in the future")]
    Expired,
}

/// A user name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Username {
    /// As it was written.
    pub(crate) text: String,
    /// As it is compared.
    pub(crate) folded: String,
}

impl Username {
    pub(crate) fn parse(text: &str) -> Result<Self, Invalid> {
        let valid = !text.chars().any(|c| c.is_control() || c.is_whitespace());
        if text.is_empty() || text.chars().count() > USERNAME_CHARS_MAX || !valid {
            return Err(Invalid::Username);
        }
        Ok(Self { text: text.to_owned(), folded: text.to_lowercase() })
    }
}

/// Checks a name shown to people.
pub(crate) fn check_name(name: &str) -> Result<(), Invalid> {
    let valid = !name.chars().any(char::is_control) && !name.trim().is_empty();
    if valid && name.chars().count() <= NAME_CHARS_MAX { Ok(()) } else { Err(Invalid::Name) }
}

/// Checks a new password.
pub(crate) fn check_password(password: &str, chars_min: usize) -> Result<(), Invalid> {
    if password.chars().count() < chars_min {
        return Err(Invalid::ShortPassword(chars_min));
    }
    if password.len() > PASSWORD_BYTES_MAX { Err(Invalid::LongPassword) } else { Ok(()) }
}

/// Checks roles in single applications.
pub(crate) fn check_grants(grants: &Grants) -> Result<(), Invalid> {
    if grants.len() > GRANTS_MAX { Err(Invalid::TooManyGrants) } else { Ok(()) }
}

/// Whether somebody with a role may give these: nobody gives more than he has.
pub(crate) fn may_give(own: Option<Role>, role: Option<Role>, grants: &Grants) -> bool {
    role.iter().chain(grants.values()).all(|given| own.is_some_and(|own| *given <= own))
}

/// Reads a field so that one that is absent differs from one that is `null`.
pub(crate) fn present<'de, D, T>(deserializer: D) -> Result<Option<Option<T>>, D::Error>
where
    D: Deserializer<'de>,
    T: Deserialize<'de>,
{
    Option::<T>::deserialize(deserializer).map(Some)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn user_names_are_one_word_and_compared_without_case() {
        let name = Username::parse("Ada@Example.com").unwrap();
        assert_eq!((name.text.as_str(), name.folded.as_str()), ("Ada@Example.com", "ada@example.com"));
        for bad in ["", "a b", "a\n", "\u{a0}", &"a".repeat(129)] {
            assert_eq!(Username::parse(bad), Err(Invalid::Username), "{bad:?}");
        }
    }

    #[test]
    fn names_and_passwords_are_bounded() {
        assert_eq!(check_name("Ada Lovelace"), Ok(()));
        for bad in ["", "  ", "a\0b", &"é".repeat(257)] {
            assert_eq!(check_name(bad), Err(Invalid::Name), "{bad:?}");
        }
        assert_eq!(check_password("éééééééé", 8), Ok(()));
        assert_eq!(check_password("1234567", 8), Err(Invalid::ShortPassword(8)));
        assert_eq!(check_password(&"a".repeat(257), 8), Err(Invalid::LongPassword));
    }

    #[test]
    fn nobody_gives_more_than_he_has() {
        let grants = |role| Grants::from([(ApplicationName::parse("app").unwrap(), role)]);
        let none = Grants::new();
        assert!(may_give(Some(Role::Admin), Some(Role::Admin), &grants(Role::Admin)));
        assert!(may_give(Some(Role::Operator), Some(Role::Viewer), &grants(Role::Operator)));
        assert!(!may_give(Some(Role::Operator), Some(Role::Admin), &none));
        assert!(!may_give(Some(Role::Operator), None, &grants(Role::Admin)));
        assert!(!may_give(None, Some(Role::Viewer), &none));
        assert!(may_give(None, None, &none));
    }
}
