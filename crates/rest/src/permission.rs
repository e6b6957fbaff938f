//! Who may do what: permissions, roles, and the rule of each route.
//!
//! A permission is named as Kaa names its scopes: what it concerns, then the verb, for example `application:endpoint:create`. A role
//! holds permissions by their names alone, so that a service of another team may use names of its own.

use std::fmt;
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// What a route needs, for example `endpoint:read`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Permission(pub &'static str);

impl fmt::Display for Permission {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.0)
    }
}

/// A set of permissions that a user or an API key has in its tenant, or in one application of it.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, utoipa::ToSchema,
)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// Sees everything but users and API keys.
    Viewer,
    /// Manages devices, applications and client credentials.
    Operator,
    /// Everything in its tenant.
    Admin,
}

/// What an operator may change at the level of the tenant.
const OF_OPERATORS: [&str; 3] =
    ["tenant:application:", "tenant:basic-credentials:", "tenant:x509-credentials:"];
/// What only administrators see.
const OF_ADMINS: [&str; 2] = ["tenant:user:", "tenant:api-key:"];
/// What concerns all tenants.
const OF_THE_PLATFORM: &str = "kaa:";

impl Role {
    /// The role of that name.
    #[must_use]
    pub fn parse(name: &str) -> Option<Self> {
        [Self::Viewer, Self::Operator, Self::Admin].into_iter().find(|role| role.as_str() == name)
    }

    /// The role's name.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Viewer => "viewer",
            Self::Operator => "operator",
            Self::Admin => "admin",
        }
    }

    /// Whether the role holds a permission in its tenant. What begins with `kaa:` no role holds: it is for the administrators of the
    /// platform's tenant.
    #[must_use]
    pub fn may(self, permission: Permission) -> bool {
        let name = permission.0;
        let begins = |prefixes: &[&str]| prefixes.iter().any(|prefix| name.starts_with(prefix));
        let reads = name.ends_with(":read") && !begins(&OF_ADMINS);
        match self {
            _ if name.starts_with(OF_THE_PLATFORM) => false,
            Self::Viewer => reads,
            Self::Operator => reads || !name.starts_with("tenant:") || begins(&OF_OPERATORS),
            Self::Admin => true,
        }
    }
}

impl fmt::Display for Role {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.as_str())
    }
}

/// How far a caller's role must reach for a route.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scope {
    /// Nobody needs credentials, for example to log in.
    Public,
    /// For the administrators of the platform's tenant.
    Platform,
    /// Over the whole tenant.
    Tenant,
    /// Over the application that the path parameter of this name names; [`crate::service`] sees to it.
    Path(&'static str),
    /// Over the application that the request turns out to concern: the handler asks [`crate::Caller::check_application`], or narrows its
    /// query to [`crate::Caller::applications`].
    Handler,
}

impl fmt::Display for Scope {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Public => formatter.write_str("public"),
            Self::Platform => formatter.write_str("platform"),
            Self::Tenant => formatter.write_str("tenant"),
            Self::Path(parameter) => write!(formatter, "application {{{parameter}}}"),
            Self::Handler => formatter.write_str("application"),
        }
    }
}

/// What one route needs. A service lists its rules in one table, `ROUTES`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rule {
    /// The HTTP method, in capitals.
    pub method: &'static str,
    /// The path as the router has it.
    pub path: &'static str,
    /// What the caller's role must hold.
    pub permission: Permission,
    /// How far the role must reach.
    pub scope: Scope,
    /// How long a request may take; none: `http.request_timeout_ms`. Requests of routes with a limit of their own are bounded in
    /// number by `http.long_requests_max`, apart from all others.
    pub time_limit: Option<Duration>,
}

impl Rule {
    /// Gives the route a time limit of its own, for handlers that wait for something on purpose.
    #[must_use]
    pub const fn within_s(mut self, seconds: u16) -> Self {
        self.time_limit = Some(Duration::from_secs(seconds as u64));
        self
    }
}

/// One line of a table of rules.
#[must_use]
pub const fn rule(method: &'static str, path: &'static str, permission: &'static str, scope: Scope) -> Rule {
    Rule { method, path, permission: Permission(permission), scope, time_limit: None }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn roles_hold_permissions_by_name() {
        let holders = |name: &'static str| {
            let roles = [Role::Viewer, Role::Operator, Role::Admin];
            roles.into_iter().filter(|role| role.may(Permission(name))).map(Role::as_str).collect::<Vec<_>>()
        };
        assert_eq!(holders("endpoint:read"), ["viewer", "operator", "admin"]);
        assert_eq!(holders("application:endpoint:create"), ["operator", "admin"]);
        assert_eq!(holders("berth:update"), ["operator", "admin"]);
        assert_eq!(holders("tenant:application:create"), ["operator", "admin"]);
        assert_eq!(holders("tenant:x509-credentials:read"), ["viewer", "operator", "admin"]);
        assert_eq!(holders("tenant:configuration:update"), ["admin"]);
        assert_eq!(holders("tenant:user:read"), ["admin"]);
        assert_eq!(holders("tenant:api-key:create"), ["admin"]);
        assert!(holders("kaa:tenant:read").is_empty());
    }

    #[test]
    fn roles_are_ordered_and_named() {
        assert!(Role::Viewer < Role::Operator && Role::Operator < Role::Admin);
        for role in [Role::Viewer, Role::Operator, Role::Admin] {
            assert_eq!(Role::parse(role.as_str()), Some(role));
        }
        assert_eq!(Role::parse("Admin"), None);
    }
}
