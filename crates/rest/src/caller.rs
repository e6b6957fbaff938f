//! Who is calling, and the layer that lets only those through who may.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use axum::extract::{FromRequestParts, MatchedPath, RawPathParams, Request};
use axum::http::Method;
use axum::http::request::Parts;
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use ids::{ApplicationName, CorrelationId, TenantId};

use crate::Error;
use crate::access::{Access, Reach};
use crate::edge::Policy;
use crate::permission::{Rule, Scope};

/// Who is calling, as an argument of a handler. Every query of a handler is scoped to `tenant`, and where the route has
/// [`Scope::Handler`] to the applications that the caller reaches.
#[derive(Debug, Clone)]
pub struct Caller {
    /// The tenant that the credentials speak for.
    pub tenant: TenantId,
    /// The id of the user or API key; `configuration` for a key out of the configuration.
    pub subject: Arc<str>,
    /// Its name, for people.
    pub name: Arc<str>,
    /// The id that follows this request through all services.
    pub correlation_id: CorrelationId,
    /// All that the credentials give access to.
    pub access: Arc<Access>,
    reach: Reach,
    is_platform: bool,
}

impl Caller {
    /// The applications that the caller reaches on this route; none: all of the tenant.
    #[must_use]
    pub fn applications(&self) -> Option<&BTreeSet<ApplicationName>> {
        match &self.reach {
            Reach::All => None,
            Reach::Only(applications) => Some(applications),
        }
    }

    /// Whether the caller reaches an application on this route.
    ///
    /// # Errors
    /// 403 when it does not.
    pub fn check_application(&self, application: &ApplicationName) -> Result<(), Error> {
        if self.reach.holds(application) {
            return Ok(());
        }
        Err(Error::forbidden(format!(
            "{} has no role in the application {application} that allows this: ask an administrator",
            self.name
        )))
    }

    /// Whether this is an administrator of the platform's tenant, who may act for every tenant.
    #[must_use]
    pub fn is_platform(&self) -> bool {
        self.is_platform
    }

    /// The tenant that a request selects: the caller's own, or for an administrator of the platform any.
    ///
    /// # Errors
    /// 403 when another tenant is selected by anybody else.
    pub fn tenant_or(&self, selected: Option<TenantId>) -> Result<TenantId, Error> {
        match selected {
            Some(tenant) if tenant != self.tenant && !self.is_platform => Err(Error::forbidden(
                "only an administrator of the platform selects another tenant: leave tenantId out",
            )),
            Some(tenant) => Ok(tenant),
            None => Ok(self.tenant.clone()),
        }
    }
}

impl<S: Sync> FromRequestParts<S> for Caller {
    type Rejection = Error;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Error> {
        parts.extensions.get().cloned().ok_or_else(Error::not_mounted)
    }
}

/// The rules of a service's routes, by path.
#[derive(Debug)]
pub(crate) struct Rules(HashMap<&'static str, Vec<Rule>>);

impl Rules {
    pub(crate) fn new(rules: &[Rule]) -> Self {
        let mut by_path: HashMap<&'static str, Vec<Rule>> = HashMap::new();
        for rule in rules {
            by_path.entry(rule.path).or_default().push(*rule);
        }
        Self(by_path)
    }

    /// The rule of a route. `HEAD` is answered by what answers `GET`.
    pub(crate) fn of(&self, path: &str, method: &Method) -> Option<Rule> {
        let method = if method == Method::HEAD { "GET" } else { method.as_str() };
        self.0.get(path)?.iter().find(|rule| rule.method == method).copied()
    }
}

/// Lets a request through if its rule allows. What has no rule goes no further.
pub(crate) async fn require_permission(rules: Arc<Rules>, request: Request, next: Next) -> Response {
    // A body cannot be shared between threads, so that only the rest is looked at while credentials are checked.
    let (mut parts, body) = request.into_parts();
    let policy: Option<Arc<Policy>> = parts.extensions.get().cloned();
    let mut _permit = None;
    let path = parts.extensions.get::<MatchedPath>().map_or("", MatchedPath::as_str);
    let admitted = match rules.of(path, &parts.method) {
        Some(rule) if rule.scope == Scope::Public => {
            _permit = policy.as_ref().and_then(|policy| policy.public_requests.try_acquire().ok());
            match _permit {
                Some(_) => Ok(()),
                None => Err(Error::unavailable(
                    "too many requests without credentials at once (a quarter of http.concurrent_requests_max): \
                     try again",
                )),
            }
        }
        Some(rule) => admit(&mut parts, &rule).await,
        None => Err(Error::not_mounted()),
    };
    match admitted {
        Ok(()) => next.run(Request::from_parts(parts, body)).await,
        Err(error) => error.into_response(),
    }
}

async fn authenticate(parts: &Parts) -> Result<(Arc<Access>, CorrelationId, Arc<Policy>), Error> {
    let policy: Arc<Policy> = parts.extensions.get().cloned().ok_or_else(Error::not_mounted)?;
    let correlation_id: CorrelationId = parts.extensions.get().cloned().ok_or_else(Error::not_mounted)?;
    let access = policy.authenticator.authenticate(&parts.headers, &correlation_id).await?;
    Ok((access, correlation_id, policy))
}

/// Gives the request its caller, if the caller may do what the rule is for.
async fn admit(parts: &mut Parts, rule: &Rule) -> Result<(), Error> {
    let (access, correlation_id, policy) = authenticate(parts).await?;
    let platform = policy.authenticator.platform_tenant();
    let caller = Caller {
        tenant: access.tenant.clone(),
        subject: access.subject.clone(),
        name: access.name.clone(),
        correlation_id,
        reach: access.reach(rule, platform)?,
        is_platform: access.is_platform(platform),
        access,
    };
    if let (Scope::Path(parameter), Some(_)) = (rule.scope, caller.applications()) {
        let parameters = RawPathParams::from_request_parts(parts, &()).await;
        let parameters = parameters.map_err(|error| Error::bad_request(error.body_text()))?;
        let named = parameters.iter().find(|(name, _)| *name == parameter).map(|(_, value)| value);
        let application = ApplicationName::parse(named.unwrap_or_default());
        caller.check_application(&application.map_err(|error| Error::bad_request(error.to_string()))?)?;
    }
    parts.extensions.insert(caller);
    Ok(())
}
