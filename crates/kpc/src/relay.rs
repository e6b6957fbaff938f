//! From a 1/KP path and a payload to an extension's answer (4/ESP). The transports differ only in how they read a
//! message and write the answer; what happens between is here.

mod attempts;
mod correlation;

use std::sync::Arc;
use std::time::Duration;

use async_nats::{HeaderMap, Message};
use bytes::Bytes;
use ids::{AppVersionName, ApplicationName, CorrelationId, EndpointToken, InstanceName, RequestId, TenantId};
use ism::esp::{self, ClientData, ExtensionData};
use ism::subject::Message as MessageType;
use ism::{Envelope as _, Record as _};
use kp1::RequestPath;
use runtime::{Applications, LookupError, RequestError, Requester, now_ms};
use serde::Deserialize;
use tokio::time::Instant;

use crate::clients::{Clients, Sender};
use crate::failure::{Failure, Sequel};
use crate::identity::{Identities, Identity};
use crate::registry::{Known, Registry};
use crate::throttle::Throttle;

use attempts::{NOTHING_DONE, in_time, left};

pub(crate) use attempts::Attempts;
pub(crate) use correlation::CorrelationIds;

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
    pub(crate) fn new(ours: usize, announced: Option<usize>) -> Self {
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
    /// With `prefer_wait_s` the extension is told that the sender likes to wait for so many seconds, and has so much longer for its
    /// answer; whether it is there at all is found out by the deadline.
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
        prefer_wait_s: Option<u32>,
    ) -> Result<Answer, Failure> {
        if payload.len() > route.payload_limit.bytes {
            return Err(too_large(Some(payload.len()), route.payload_limit));
        }
        let answered_by = deadline + Duration::from_secs(prefer_wait_s.unwrap_or_default().into());
        let data = ClientData {
            correlation_id: correlation_id.to_string(),
            timestamp: now_ms(),
            timeout: i64::try_from(left(answered_by).as_millis()).unwrap_or(i64::MAX).max(1),
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
            let attempt = self.exchange_once(route, data.clone(), answered_by, prefer_wait_s).await;
            if let Some(last) = attempts.while_nothing_is_done(attempt).await {
                return last;
            }
        }
    }

    async fn exchange_once(
        &self,
        route: &Route,
        data: Bytes,
        deadline: Instant,
        prefer_wait_s: Option<u32>,
    ) -> Result<Answer, Failure> {
        let extension = &route.extension;
        let mut headers = runtime::trace::headers();
        if let Some(seconds) = prefer_wait_s {
            let wait = format!("wait={seconds}");
            headers.get_or_insert_with(HeaderMap::new).insert(extension::PREFER, wait);
        }
        let question = Question { request: esp::CLIENT_DATA, answer: esp::EXTENSION_DATA, data, headers };
        let message = self.ask(extension, question, deadline).await?;
        let answer = read(extension, message.payload)?;
        let data = &answer.data;
        check(extension, data.status_code, data.reason_phrase.as_deref())?;
        Ok(answer)
    }

    /// Asks an extension once. Sending has the time limit too: without NATS a message may wait long before it leaves.
    ///
    /// # Errors
    /// A passing [`NOTHING_DONE`] when the question has not reached the extension, else a passing 504.
    pub(crate) async fn ask(
        &self,
        extension: &InstanceName,
        question: Question,
        deadline: Instant,
    ) -> Result<Message, Failure> {
        let subject = question.request.service(extension);
        let Question { answer, data, headers, .. } = question;
        let sending = self.requester.exchange_with(extension, subject, answer, data, headers);
        let sending = tokio::time::timeout_at(deadline, sending).await.unwrap_or(Err(RequestError::Timeout));
        let unanswered = |sent: bool, error: RequestError| {
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
        };
        let mut answers = sending.map_err(|error| unanswered(false, error))?;
        answers.next(deadline).await.map_err(|error| unanswered(true, error))
    }
}

/// A question to an extension, which answers in its own name.
pub(crate) struct Question {
    pub(crate) request: MessageType,
    pub(crate) answer: MessageType,
    pub(crate) data: Bytes,
    pub(crate) headers: Option<HeaderMap>,
}

/// An answer from 500 tells of a passing failure.
pub(crate) fn check(
    extension: &InstanceName,
    status_code: i32,
    reason: Option<&str>,
) -> Result<u16, Failure> {
    match status(status_code) {
        status @ 500.. => {
            let reason = reason.map(str::to_owned);
            Err(Failure::passing(status, reason.unwrap_or_else(|| format!("extension '{extension}' failed"))))
        }
        status => Ok(status),
    }
}

/// An extension's answer. That it is this extension's is known from its subject.
fn read(extension: &InstanceName, bytes: Bytes) -> Result<Answer, Failure> {
    let mut data = ExtensionData::decode(&bytes).map_err(|error| {
        tracing::error!(%extension, %error, "an extension's answer cannot be read");
        Failure::passing(500, format!("extension '{extension}' answered what cannot be read"))
    })?;
    match data.extension_instance_name.as_deref() {
        Some(name) if name == extension.as_str() => Ok(Answer { data, bytes }),
        // Other replicas need it to know the topic.
        None => {
            data.extension_instance_name = Some(extension.to_string());
            let bytes = data.encode();
            Ok(Answer { data, bytes })
        }
        Some(name) => {
            tracing::error!(%extension, name, "an extension answered in the name of another one");
            Err(Failure::passing(500, format!("extension '{extension}' answered in the name of another one")))
        }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_is_in_the_name_of_who_was_asked() {
        let dcx = InstanceName::parse("dcx").unwrap();
        let answer = |name: Option<&str>| {
            let name = name.map(str::to_owned);
            ExtensionData { extension_instance_name: name, ..ExtensionData::default() }.encode()
        };
        let own = read(&dcx, answer(Some("dcx"))).unwrap();
        assert_eq!(own.bytes, answer(Some("dcx")));
        assert_eq!(read(&dcx, answer(None)).unwrap().bytes, own.bytes);
        assert_eq!(read(&dcx, answer(Some("epmx"))).unwrap_err().status, 500);
        assert_eq!(read(&dcx, Bytes::from_static(b"\xff")).unwrap_err().status, 500);
    }

    #[test]
    fn a_status_that_is_none_becomes_500() {
        assert_eq!([200, 404, 0, -1, 99, 1_000, 70_000].map(status), [200, 404, 500, 500, 500, 500, 500]);
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
