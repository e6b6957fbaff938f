//! What the credentials of a call give access to.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

use ids::{ApplicationName, CorrelationId, TenantId};

use crate::Error;
use crate::permission::{Role, Rule, Scope};

/// What credentials give access to, as the service that knows them says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Access {
    /// The tenant that the credentials belong to.
    pub tenant: TenantId,
    /// The id of the user or API key.
    pub subject: Arc<str>,
    /// Its name, for people.
    pub name: Arc<str>,
    /// The role in the whole tenant, if there is one.
    pub role: Option<Role>,
    /// Roles in single applications, beside that.
    pub grants: BTreeMap<ApplicationName, Role>,
    /// When the credentials expire, in Unix time in ms.
    pub expires_at: Option<i64>,
}

/// The answer of a [`Verify`].
pub type Verifying<'a> = Pin<Box<dyn Future<Output = Result<Arc<Access>, Error>> + Send + 'a>>;

/// Knows the credentials that the configuration of the process does not name: tokens and API keys of users.
pub trait Verify: fmt::Debug + Send + Sync {
    /// What the credential gives access to. 401 when it is none; 503 when that cannot be told now.
    fn verify<'a>(&'a self, credential: &'a str, correlation_id: &'a CorrelationId) -> Verifying<'a>;
}

/// The applications that a caller reaches on a route.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Reach {
    /// All of the tenant.
    All,
    /// Only these.
    Only(Arc<BTreeSet<ApplicationName>>),
}

impl Reach {
    pub(crate) fn holds(&self, application: &ApplicationName) -> bool {
        match self {
            Self::All => true,
            Self::Only(applications) => applications.contains(application),
        }
    }
}

impl Access {
    /// Whether this is an administrator of the platform's tenant.
    pub(crate) fn is_platform(&self, platform: &TenantId) -> bool {
        self.role == Some(Role::Admin) && self.tenant == *platform
    }

    /// How far the access reaches under a rule.
    pub(crate) fn reach(&self, rule: &Rule, platform: &TenantId) -> Result<Reach, Error> {
        if self.is_platform(platform) || self.role.is_some_and(|role| role.may(rule.permission)) {
            return match rule.scope {
                Scope::Platform if !self.is_platform(platform) => Err(self.refusal(rule)),
                _ => Ok(Reach::All),
            };
        }
        let granted = self.grants.iter().filter(|(_, role)| role.may(rule.permission));
        let granted: BTreeSet<ApplicationName> = granted.map(|(name, _)| name.clone()).collect();
        match rule.scope {
            Scope::Path(_) | Scope::Handler if !granted.is_empty() => Ok(Reach::Only(Arc::new(granted))),
            _ => Err(self.refusal(rule)),
        }
    }

    fn refusal(&self, rule: &Rule) -> Error {
        let who = match self.role {
            Some(role) => format!("the role {role} of {}", self.name),
            None => format!("{}, who has no role in the whole tenant,", self.name),
        };
        let within = if rule.scope == Scope::Platform { " for the platform" } else { "" };
        Error::forbidden(format!(
            "{who} does not hold the permission {}{within}: ask an administrator",
            rule.permission
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rule;

    fn access(tenant: &str, role: Option<Role>, grants: &[(&str, Role)]) -> Access {
        let grants = grants.iter().map(|(name, role)| (ApplicationName::parse(name).unwrap(), *role));
        Access {
            tenant: TenantId::parse(tenant).unwrap(),
            subject: "s".into(),
            name: "n".into(),
            role,
            grants: grants.collect(),
            expires_at: None,
        }
    }

    fn reach(access: &Access, permission: &'static str, scope: Scope) -> Result<Reach, u16> {
        let platform = TenantId::parse("kaa").unwrap();
        let reach = access.reach(&rule("GET", "/x", permission, scope), &platform);
        reach.map_err(|error| error.status().as_u16())
    }

    #[test]
    fn a_role_reaches_the_whole_tenant() {
        let viewer = access("a", Some(Role::Viewer), &[]);
        assert_eq!(reach(&viewer, "endpoint:read", Scope::Tenant), Ok(Reach::All));
        assert_eq!(reach(&viewer, "endpoint:read", Scope::Handler), Ok(Reach::All));
        assert_eq!(reach(&viewer, "endpoint:update", Scope::Handler), Err(403));
    }

    #[test]
    fn a_grant_reaches_its_application_only() {
        let granted = access("a", None, &[("one", Role::Operator), ("two", Role::Viewer)]);
        let Ok(reached) = reach(&granted, "endpoint:update", Scope::Handler) else { panic!("refused") };
        assert!(reached.holds(&ApplicationName::parse("one").unwrap()));
        assert!(!reached.holds(&ApplicationName::parse("two").unwrap()));
        assert_eq!(reach(&granted, "endpoint:update", Scope::Tenant), Err(403));
        assert_eq!(reach(&granted, "tenant:configuration:update", Scope::Handler), Err(403));
    }

    #[test]
    fn a_grant_adds_to_a_role() {
        let viewer = access("a", Some(Role::Viewer), &[("one", Role::Operator)]);
        let Ok(reached) = reach(&viewer, "endpoint:update", Scope::Path("appName")) else {
            panic!("refused")
        };
        assert!(reached.holds(&ApplicationName::parse("one").unwrap()));
        assert!(!reached.holds(&ApplicationName::parse("two").unwrap()));
    }

    #[test]
    fn only_administrators_of_the_platform_reach_all_tenants() {
        let scope = Scope::Platform;
        assert_eq!(reach(&access("kaa", Some(Role::Admin), &[]), "kaa:tenant:create", scope), Ok(Reach::All));
        assert_eq!(reach(&access("kaa", Some(Role::Operator), &[]), "kaa:tenant:create", scope), Err(403));
        assert_eq!(reach(&access("a", Some(Role::Admin), &[]), "kaa:tenant:create", scope), Err(403));
        assert_eq!(reach(&access("a", Some(Role::Admin), &[]), "tenant:create", scope), Err(403));
    }
}
