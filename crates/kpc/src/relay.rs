//! From a 1/KP path and a payload to an extension's answer (4/ESP). The transports differ only in how they read a
//! message and write the answer; what happens between is here.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use async_nats::Message;
use bytes::Bytes;
use ids::{AppVersionName, ApplicationName, CorrelationId, EndpointToken, InstanceName, RequestId, TenantId};
use ism::esp::{self, ClientData, ExtensionData};
use ism::{Envelope as _, Record as _};
use kp1::RequestPath;
use runtime::{Applications, LookupError, RequestError, Requester, now_ms};
use serde::Deserialize;
use tokio::time::Instant;

use crate::clients::{Clients, Sender};
use crate::failure::{Failure, Sequel};
use crate::identity::{Identities, Identity};
use crate::limits::Backoff;
use crate::registry::{Known, Registry};
use crate::throttle::Throttle;

/// The gateway's settings of an application or version.
#[derive(Debug, Default, Deserialize)]
pub(crate) struct Settings {
    /// The extension instances that its endpoints may use; all when absent.
    #[serde(rename = "allowed-extension-instances")]
    allowed_extension_instances: Option<Vec<InstanceName>>,
}

/// A device's message on its way through the gateway.
#[derive(Debug)]
pub(crate) struct Passage {
    pub(crate) correlation_id: CorrelationId,
    /// When it came.
    pub(crate) since: Instant,
    /// The application that it belongs to, once its version has been found.
    pub(crate) application: Option<ApplicationName>,
}

impl Passage {
    /// A message that has just come.
    pub(crate) fn new(correlation_id: CorrelationId) -> Self {
        Self { correlation_id, since: Instant::now(), application: None }
    }
}

/// Where a message goes and for whom: its path, looked up.
#[derive(Debug, Clone)]
pub(crate) struct Route {
    pub(crate) tenant: TenantId,
    pub(crate) app_version: AppVersionName,
    pub(crate) extension: InstanceName,
    /// None for extensions that know no endpoints.
    pub(crate) identity: Option<Arc<Identity>>,
    /// From before the token was resolved: what was revoked since then may concern it.
    pub(crate) mark: u64,
    pub(crate) resource_path: String,
    pub(crate) request_id: Option<RequestId>,
    pub(crate) payload_limit: PayloadLimit,
}

/// How long a payload may be, and which setting says so.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct PayloadLimit {
    pub(crate) bytes: usize,
    pub(crate) key: &'static str,
}

impl PayloadLimit {
    /// The gateway's own limit, or the extension's when that is lower.
    fn new(ours: usize, announced: Option<usize>) -> Self {
        match announced.filter(|announced| *announced < ours) {
            Some(bytes) => Self { bytes, key: "the extension's maxPayloadBytes" },
            None => Self { bytes: ours, key: "kpc.limits.payload_bytes" },
        }
    }
}

/// An extension's answer, and its bytes for other replicas.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) data: ExtensionData,
    pub(crate) bytes: Bytes,
}

/// Whose a token is.
pub(crate) struct Identified {
    pub(crate) app_version: AppVersionName,
    pub(crate) identity: Arc<Identity>,
    /// As [`Route::mark`].
    pub(crate) mark: u64,
}

/// Relays messages to extensions.
pub(crate) struct Relay {
    pub(crate) requester: Requester,
    pub(crate) applications: Applications<Settings>,
    pub(crate) registry: Arc<Registry>,
    pub(crate) identities: Identities,
    pub(crate) clients: Arc<Clients>,
    pub(crate) throttle: Arc<Throttle>,
    pub(crate) payload_bytes_max: usize,
    pub(crate) correlation_ids: CorrelationIds,
}

impl Relay {
    /// Looks the path up: is there such a version, may the sender speak for its tenant, may it use the extension, whose
    /// token is it. Repeats passing failures until the deadline. Notes the application as soon as it is known.
    pub(crate) async fn resolve(
        &self,
        path: &RequestPath<'_>,
        sender: Sender<'_>,
        passage: &mut Passage,
        deadline: Instant,
    ) -> Result<Route, Failure> {
        let mut attempts = Attempts::new(deadline);
        loop {
            match in_time(deadline, self.resolve_once(path, sender, passage)).await {
                Ok(route) => return Ok(route),
                Err(failure) => attempts.after(failure).await?,
            }
        }
    }

    async fn resolve_once(
        &self,
        path: &RequestPath<'_>,
        sender: Sender<'_>,
        passage: &mut Passage,
    ) -> Result<Route, Failure> {
        let mark = self.identities.mark();
        let app_version = AppVersionName::parse(path.app_version).map_err(bad_name)?;
        let extension = InstanceName::parse(path.extension).map_err(bad_name)?;
        let version = self.version(&app_version).await?;
        passage.application = Some(version.app_name.clone());
        self.clients.admit(sender, &version.tenant_id).await?;
        if let Some(allowed) = &version.config.allowed_extension_instances
            && !allowed.contains(&extension)
        {
            let reason = format!(
                "application version '{app_version}' may not use extension '{extension}'; allow it in its kpc settings"
            );
            return Err(Failure::refused(403, reason));
        }
        let registration = match self.registry.look_up(&extension) {
            Known::Extension(registration) => registration,
            Known::Unknown => {
                return Err(Failure::refused(
                    404,
                    format!("there is no extension '{extension}'; check the path"),
                ));
            }
            Known::NotYet => {
                return Err(Failure::passing(503, "no extension has announced itself yet; try again"));
            }
        };
        let target =
            if registration.endpoint_aware { path.endpoint_aware()? } else { path.endpoint_unaware() };
        let identity = match target.token {
            None => None,
            Some(token) => {
                let token = EndpointToken::parse(token).map_err(bad_name)?;
                Some(self.whose(&token, &version, sender, &passage.correlation_id).await?)
            }
        };
        Ok(Route {
            tenant: version.tenant_id.clone(),
            app_version,
            extension,
            identity,
            mark,
            resource_path: target.resource_path.to_owned(),
            request_id: target.request_id,
            payload_limit: PayloadLimit::new(self.payload_bytes_max, registration.max_payload_bytes),
        })
    }

    /// Whose token it is in an application version, for subscriptions.
    pub(crate) async fn identify(
        &self,
        app_version: &str,
        token: &str,
        sender: Sender<'_>,
        correlation_id: &CorrelationId,
        deadline: Instant,
    ) -> Result<Identified, Failure> {
        let app_version = AppVersionName::parse(app_version).map_err(bad_name)?;
        let token = EndpointToken::parse(token).map_err(bad_name)?;
        let mut attempts = Attempts::new(deadline);
        loop {
            let mark = self.identities.mark();
            let attempt = async {
                let version = self.version(&app_version).await?;
                self.clients.admit(sender, &version.tenant_id).await?;
                self.whose(&token, &version, sender, correlation_id).await
            };
            match in_time(deadline, attempt).await {
                Ok(identity) => return Ok(Identified { app_version, identity, mark }),
                Err(failure) => attempts.after(failure).await?,
            }
        }
    }

    /// Whose token it is, unless the sender has shown too many wrong ones.
    async fn whose(
        &self,
        token: &EndpointToken,
        version: &runtime::Version<Settings>,
        sender: Sender<'_>,
        correlation_id: &CorrelationId,
    ) -> Result<Arc<Identity>, Failure> {
        let (tenant, application) = (&version.tenant_id, &version.app_name);
        self.throttle.check_token(sender, application, token)?;
        let resolved = self.identities.resolve(tenant, application, token, correlation_id).await;
        match &resolved {
            Ok(identity) => self.throttle.good_token(sender, application, identity),
            Err(failure) if failure.sequel == Sequel::Guessed => {
                self.throttle.unknown_token(sender, application, token, Instant::now());
            }
            Err(_) => {}
        }
        resolved
    }

    /// Whether a token that is in use is still good, whatever was known of it before was forgotten.
    ///
    /// # Errors
    /// As [`Identities::resolve`].
    pub(crate) async fn recheck(
        &self,
        app_version: &AppVersionName,
        token: &EndpointToken,
    ) -> Result<Arc<Identity>, Failure> {
        let correlation_id = self.correlation_ids.next();
        let version = self.version(app_version).await?;
        self.identities.resolve(&version.tenant_id, &version.app_name, token, &correlation_id).await
    }

    async fn version(&self, name: &AppVersionName) -> Result<Arc<runtime::Version<Settings>>, Failure> {
        self.applications.version(name).await.map_err(|error| match error {
            LookupError::Unknown => {
                Failure::refused(404, format!("there is no application version '{name}'; check the path"))
            }
            LookupError::Unavailable(reason) => {
                Failure::passing(503, format!("the application register: {reason}"))
            }
        })
    }

    /// Hands the payload to the extension and waits for its answer. An answer from 500 tells of a passing failure and is
    /// one; any other is the extension's last word.
    ///
    /// The message is handed over again only when it is certain that nothing of it has been done, which is what 503 says,
    /// from an extension as from here. After anything else it may have been done, and what is done twice is stored
    /// twice: that is for the device to decide.
    pub(crate) async fn exchange(
        &self,
        route: &Route,
        payload: Bytes,
        correlation_id: &CorrelationId,
        deadline: Instant,
    ) -> Result<Answer, Failure> {
        if payload.len() > route.payload_limit.bytes {
            return Err(too_large(Some(payload.len()), route.payload_limit));
        }
        let data = ClientData {
            correlation_id: correlation_id.to_string(),
            timestamp: now_ms(),
            timeout: i64::try_from(left(deadline).as_millis()).unwrap_or(i64::MAX).max(1),
            app_version_name: route.app_version.to_string(),
            endpoint_id: route.identity.as_ref().map(|identity| identity.endpoint.to_string()),
            resource_path: route.resource_path.clone(),
            request_id: route.request_id.map(RequestId::get),
            payload,
            config_name: None,
        };
        // One deadline for all attempts: extensions read it from the timestamp and the timeout.
        let data = data.encode();
        let mut attempts = Attempts::new(deadline);
        loop {
            match self.exchange_once(route, data.clone(), deadline).await {
                Err(failure) if failure.status == NOTHING_DONE => attempts.after(failure).await?,
                last => return last,
            }
        }
    }

    async fn exchange_once(&self, route: &Route, data: Bytes, deadline: Instant) -> Result<Answer, Failure> {
        let subject = esp::CLIENT_DATA.service(&route.extension);
        let extension = &route.extension;
        let message = self.ask(subject, data, deadline).await.map_err(|Unanswered { sent, error }| {
            let (status, reason) = match error {
                RequestError::NoResponders => {
                    (NOTHING_DONE, format!("extension '{extension}' is not running now; try again"))
                }
                RequestError::Timeout => (504, format!("extension '{extension}' did not answer in time")),
                error @ (RequestError::Overloaded | RequestError::NotDeclared) => {
                    (if sent { 504 } else { NOTHING_DONE }, format!("extension '{extension}': {error}"))
                }
            };
            Failure::passing(status, reason)
        })?;
        let data = ExtensionData::decode(&message.payload).map_err(|error| {
            tracing::error!(extension = %extension, %error, "an extension's answer cannot be read");
            Failure::passing(500, format!("extension '{extension}' answered what cannot be read"))
        })?;
        match status(data.status_code) {
            status @ 500.. => {
                let reason = data.reason_phrase.unwrap_or_else(|| format!("extension '{extension}' failed"));
                Err(Failure::passing(status, reason))
            }
            _ => Ok(Answer { data, bytes: message.payload }),
        }
    }

    /// Sending has the time limit too: without NATS a message may wait long before it leaves.
    async fn ask(&self, subject: String, data: Bytes, deadline: Instant) -> Result<Message, Unanswered> {
        let headers = runtime::trace::headers();
        let sending = self.requester.exchange(subject, esp::EXTENSION_DATA, data, headers, 1);
        let mut answers = tokio::time::timeout_at(deadline, sending)
            .await
            .unwrap_or(Err(RequestError::Timeout))
            .map_err(|error| Unanswered { sent: false, error })?;
        answers.next(deadline).await.map_err(|error| Unanswered { sent: true, error })
    }
}

/// The status which says that nothing of a message has been done, so that it may be handed over again.
const NOTHING_DONE: u16 = 503;

/// A message without an answer, and whether it may have left.
struct Unanswered {
    sent: bool,
    error: RequestError,
}

/// An attempt with less time than this would only replace the reason for the failure by "not in time".
const WORTH_TRYING: Duration = Duration::from_millis(100);

/// Attempts at the same thing, with growing pauses between them.
struct Attempts {
    deadline: Instant,
    backoff: Backoff,
}

impl Attempts {
    fn new(deadline: Instant) -> Self {
        Self { deadline, backoff: Backoff::new() }
    }

    /// Waits before the next attempt.
    ///
    /// # Errors
    /// The failure itself, when it is final or there is no time left.
    async fn after(&mut self, failure: Failure) -> Result<(), Failure> {
        let wait = self.backoff.next();
        if !failure.passing || left(self.deadline) <= wait + WORTH_TRYING {
            return Err(failure);
        }
        tokio::time::sleep(wait).await;
        Ok(())
    }
}

fn left(deadline: Instant) -> Duration {
    deadline.saturating_duration_since(Instant::now())
}

/// Ends an attempt that has no time limit of its own at the deadline.
async fn in_time<T>(
    deadline: Instant,
    attempt: impl Future<Output = Result<T, Failure>>,
) -> Result<T, Failure> {
    match tokio::time::timeout_at(deadline, attempt).await {
        Ok(done) => done,
        Err(_) => Err(Failure::passing(504, "the deadline passed before the message could be delivered")),
    }
}

/// A status code as it stands in HTTP; what is none becomes 500.
pub(crate) fn status(code: i32) -> u16 {
    u16::try_from(code).ok().filter(|code| (100..1_000).contains(code)).unwrap_or(500)
}

/// Whether nobody waits any more for what the message says.
pub(crate) fn is_late(data: &ExtensionData) -> bool {
    data.expired(now_ms())
}

impl From<kp1::PathError> for Failure {
    fn from(error: kp1::PathError) -> Self {
        Self::refused(error.status_code(), error.to_string())
    }
}

fn bad_name(error: ids::InvalidId) -> Failure {
    Failure::refused(400, error.to_string())
}

/// The refusal of a payload over the limit, with its size in bytes if that is known.
pub(crate) fn too_large(bytes: Option<usize>, limit: PayloadLimit) -> Failure {
    let is = bytes.map(|bytes| format!(" is {bytes} bytes and")).unwrap_or_default();
    let PayloadLimit { bytes: max, key } = limit;
    Failure::refused(413, format!("the payload{is} may be {max} bytes ({key}); send less at once"))
}

/// Makes correlation ids: a random part for the replica and a number, both short, for they are in every message.
pub(crate) struct CorrelationIds {
    prefix: String,
    next: AtomicU64,
}

impl CorrelationIds {
    pub(crate) fn new() -> Self {
        Self { prefix: format!("{:012x}", rand::random::<u64>() >> 16), next: AtomicU64::new(1) }
    }

    pub(crate) fn next(&self) -> CorrelationId {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        let text = format!("{}-{number}", self.prefix);
        CorrelationId::parse(&text)
            .unwrap_or_else(|_| unreachable!("hexadecimal digits and a dash are printable"))
    }

    /// Whether the id was made here.
    pub(crate) fn made(&self, correlation_id: &str) -> bool {
        correlation_id.strip_prefix(&self.prefix).is_some_and(|rest| rest.starts_with('-'))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn what_is_refused_is_not_tried_again() {
        let mut attempts = Attempts::new(Instant::now() + Duration::from_secs(10));
        assert!(attempts.after(Failure::refused(503, "")).await.is_err());
        assert!(attempts.after(Failure::passing(504, "")).await.is_ok());
    }

    #[tokio::test]
    async fn attempts_end_before_the_deadline_with_the_last_failure() {
        let deadline = Instant::now() + Duration::from_millis(600);
        let mut attempts = Attempts::new(deadline);
        let mut count = 0;
        let last = loop {
            match attempts.after(Failure::passing(503, "again")).await {
                Ok(()) => count += 1,
                Err(last) => break last,
            }
        };
        assert_eq!((count, last.reason.as_ref()), (2, "again"));
        assert!(Instant::now() < deadline);
    }

    #[test]
    fn a_status_that_is_none_becomes_500() {
        assert_eq!([200, 404, 0, -1, 99, 1_000, 70_000].map(status), [200, 404, 500, 500, 500, 500, 500]);
    }

    #[test]
    fn correlation_ids_differ() {
        let (one, two) = (CorrelationIds::new(), CorrelationIds::new());
        assert_ne!(one.next(), one.next());
        assert_ne!(one.next().as_str().split('-').next(), two.next().as_str().split('-').next());
    }

    #[test]
    fn a_correlation_id_tells_who_made_it() {
        let (one, two) = (CorrelationIds::new(), CorrelationIds::new());
        let id = one.next();
        assert!(one.made(id.as_str()) && !two.made(id.as_str()));
        assert!(!one.made("") && !one.made("push-1"));
    }

    #[test]
    fn the_lower_limit_counts_and_a_refusal_names_its_key() {
        let ours = PayloadLimit::new(100, None);
        assert_eq!(PayloadLimit::new(100, Some(100)), ours);
        assert_eq!(
            too_large(Some(101), ours).reason,
            "the payload is 101 bytes and may be 100 bytes (kpc.limits.payload_bytes); send less at once"
        );
        let announced = PayloadLimit::new(100, Some(10));
        assert_eq!(
            too_large(None, announced).reason,
            "the payload may be 10 bytes (the extension's maxPayloadBytes); send less at once"
        );
    }
}
