//! The endpoint register, as far as metadata go (19/EPMMP).

use bytes::Bytes;
use extension::{Endpoint, Message, Refusal};
use ism::epmmp::{
    EP_METADATA_GET_REQUEST, EP_METADATA_GET_RESPONSE, EP_METADATA_KEYS_GET_REQUEST,
    EP_METADATA_KEYS_GET_RESPONSE, EP_METADATA_PATCH_REQUEST, EP_METADATA_PATCH_RESPONSE,
};
use ism::subject::{self, instance};
use ism::{
    EndpointMetadataGetRequest, EndpointMetadataGetResponse, EndpointMetadataKeysGetRequest,
    EndpointMetadataKeysGetResponse, EndpointMetadataPatchRequest, EndpointMetadataPatchResponse, Record,
};
use runtime::{Context, RequestError, now_ms};

use crate::Patch;
use crate::payload::Values;

/// Asks the endpoint register for one device at a time.
pub(crate) struct Repository {
    context: Context,
    attempts_max: u32,
}

/// On whose behalf, and for how long.
#[derive(Clone, Copy)]
pub(crate) struct Asker<'a> {
    message: &'a Message,
    from: &'a Endpoint,
}

/// The metadata of an endpoint at one moment.
pub(crate) struct Metadata {
    pub(crate) values: Values,
    /// Names this state.
    tag: Option<String>,
}

/// What became of a patch.
enum Patched {
    Done,
    /// It was made for metadata that are no longer so; nothing was changed.
    Outdated,
}

impl<'a> Asker<'a> {
    pub(crate) fn new(message: &'a Message, from: &'a Endpoint) -> Self {
        Self { message, from }
    }

    fn timeout_ms(&self) -> i64 {
        // 0 would mean that there is no deadline.
        i64::try_from(self.message.remaining().as_millis()).unwrap_or(i64::MAX).max(1)
    }
}

impl Repository {
    pub(crate) fn new(context: Context, attempts_max: u32) -> Self {
        Self { context, attempts_max }
    }

    /// The keys of all metadata of the endpoint.
    pub(crate) async fn keys(&self, asker: Asker<'_>) -> Result<Vec<String>, Refusal> {
        let request = EndpointMetadataKeysGetRequest {
            correlation_id: asker.message.correlation_id.to_string(),
            timestamp: now_ms(),
            timeout: asker.timeout_ms(),
            endpoint_id: asker.from.id.to_string(),
        };
        let exchange = (EP_METADATA_KEYS_GET_REQUEST, EP_METADATA_KEYS_GET_RESPONSE);
        let response: EndpointMetadataKeysGetResponse = self.ask(asker, exchange, &request).await?;
        match response.status_code {
            200 => Ok(response.keys),
            code => Err(refusal(code, response.reason_phrase)),
        }
    }

    /// The metadata of the endpoint: of these keys, or all when none is named. Keys that are not there are left out.
    pub(crate) async fn get(&self, asker: Asker<'_>, include: Vec<String>) -> Result<Metadata, Refusal> {
        let request = EndpointMetadataGetRequest {
            correlation_id: asker.message.correlation_id.to_string(),
            timestamp: now_ms(),
            timeout: asker.timeout_ms(),
            endpoint_id: asker.from.id.to_string(),
            include,
            include_metadata: true,
        };
        let exchange = (EP_METADATA_GET_REQUEST, EP_METADATA_GET_RESPONSE);
        let response: EndpointMetadataGetResponse = self.ask(asker, exchange, &request).await?;
        if response.status_code != 200 {
            return Err(refusal(response.status_code, response.reason_phrase));
        }
        let values = response.payload.map(|payload| serde_json::from_slice(&payload)).transpose();
        let values = values.map_err(|error| unreadable(&error))?.unwrap_or_default();
        Ok(Metadata { values, tag: response.e_tag })
    }

    /// Makes a change that does not depend on what there is.
    pub(crate) async fn set(&self, asker: Asker<'_>, patch: Patch) -> Result<(), Refusal> {
        match self.patch(asker, None, patch).await? {
            Patched::Done => Ok(()),
            Patched::Outdated => Err(busy()),
        }
    }

    /// Makes a change that depends on what there is: `change` is given the values of the keys in `include`, or of all, and
    /// makes a patch of them, or none when there is nothing to do. If others have changed the metadata in between, it is
    /// asked again.
    pub(crate) async fn change(
        &self,
        asker: Asker<'_>,
        include: Vec<String>,
        change: impl Fn(&Values) -> Result<Option<Patch>, Refusal>,
    ) -> Result<(), Refusal> {
        for _ in 0..self.attempts_max {
            let metadata = self.get(asker, include.clone()).await?;
            let Some(patch) = change(&metadata.values)? else { return Ok(()) };
            let tag = metadata.tag.ok_or_else(|| {
                Refusal::new(500, "the endpoint register gave no eTag: a change could undo another")
            })?;
            match self.patch(asker, Some(tag), patch).await? {
                Patched::Done => return Ok(()),
                Patched::Outdated => {}
            }
        }
        Err(busy())
    }

    async fn patch(
        &self,
        asker: Asker<'_>,
        if_match: Option<String>,
        patch: Patch,
    ) -> Result<Patched, Refusal> {
        let request = EndpointMetadataPatchRequest {
            correlation_id: asker.message.correlation_id.to_string(),
            timestamp: now_ms(),
            timeout: asker.timeout_ms(),
            endpoint_id: asker.from.id.to_string(),
            if_match,
            patch,
        };
        let exchange = (EP_METADATA_PATCH_REQUEST, EP_METADATA_PATCH_RESPONSE);
        let response: EndpointMetadataPatchResponse = self.ask(asker, exchange, &request).await?;
        match response.status_code {
            200..=299 => Ok(Patched::Done),
            // 409: the patch does not fit what there is, which is 412 without a tag.
            409 | 412 => Ok(Patched::Outdated),
            code => Err(refusal(code, response.reason_phrase)),
        }
    }

    async fn ask<R: Record>(
        &self,
        asker: Asker<'_>,
        (request, response): (subject::Message, subject::Message),
        record: &impl Record,
    ) -> Result<R, Refusal> {
        let requester = self.context.requester();
        let subject = request.at(instance::EPR);
        let sent = requester.exchange(subject, response, record.encode(), runtime::trace::headers(), 1).await;
        let mut answers = sent.map_err(|error| away(&error))?;
        let answer = answers.next(asker.message.deadline).await.map_err(|error| match error {
            RequestError::NoResponders => away(&error),
            // It was sent: nobody knows what became of it.
            other => Refusal::timeout(format!("the endpoint register: {other}")),
        })?;
        read(&answer.payload)
    }
}

fn read<R: Record>(payload: &Bytes) -> Result<R, Refusal> {
    R::decode(payload).map_err(|error| unreadable(&error))
}

fn unreadable(error: &dyn std::error::Error) -> Refusal {
    Refusal::new(500, format!("the answer of the endpoint register cannot be read: {error}"))
}

fn away(error: &RequestError) -> Refusal {
    Refusal::unavailable(format!("the endpoint register cannot be asked now: {error}"))
}

fn busy() -> Refusal {
    Refusal::unavailable(
        "others change the metadata of the endpoint all the time (epmx.update_attempts_max); nothing was changed, try again",
    )
}

/// What the endpoint register refuses, the device is refused for the same reason.
fn refusal(status_code: i32, reason_phrase: Option<String>) -> Refusal {
    let reason = reason_phrase
        .unwrap_or_else(|| format!("the endpoint register answered {status_code} without a reason"));
    Refusal::new(u16::try_from(status_code).unwrap_or(500), reason)
}
