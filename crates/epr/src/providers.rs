//! Answers other services over NATS: where endpoints belong, and their metadata (19/EPMMP).

mod batch_update;
mod belonging;
mod epmmp;

use std::future::Future;

use ids::EndpointId;
use ism::epmmp::{
    EP_APP_VERSION_GET_REQUEST, EP_METADATA_GET_REQUEST, EP_METADATA_KEY_BATCH_UPDATE_REQUEST,
    EP_METADATA_KEY_UPDATE_REQUEST, EP_METADATA_KEYS_GET_REQUEST, EP_METADATA_PATCH_REQUEST,
};
use ism::subject::Message;
use ism::{Envelope, Record, endpoints};
use provider::Provider;
use runtime::Context;
use tokio::time::Instant;

use crate::error::Error;
use crate::metadata::Edit;
use crate::store::{State, Store};
use crate::updates::{MetadataChange, Precondition, Updates};

/// What the answers are made of.
#[derive(Clone)]
pub(crate) struct Register {
    pub(crate) context: Context,
    pub(crate) store: Store,
    pub(crate) updates: Updates,
}

impl Register {
    /// Changes metadata for another service, of whatever tenant.
    async fn change(
        &self,
        correlation_id: String,
        deadline: Option<Instant>,
        endpoint_id: EndpointId,
        precondition: Precondition,
        edit: Edit,
    ) -> Result<State, Error> {
        let change =
            MetadataChange { correlation_id, tenant: None, endpoint_id, precondition, deadline, edit };
        self.updates.metadata(change).await
    }
}

/// When a request is over; none: never.
fn deadline(request: &impl Envelope) -> Option<Instant> {
    request.remaining(runtime::now_ms()).map(|left| Instant::now() + left)
}

/// Starts to answer.
pub(crate) async fn start(register: &Register, concurrent_max: usize) -> anyhow::Result<()> {
    let serving = Serving { register, concurrent_max };
    serving.of(endpoints::GET_REQUEST, "answer where endpoints belong", belonging::get).await?;
    serving.of(EP_METADATA_GET_REQUEST, "answer metadata", epmmp::get).await?;
    serving.of(EP_METADATA_PATCH_REQUEST, "patch metadata", epmmp::patch).await?;
    serving.of(EP_METADATA_KEY_UPDATE_REQUEST, "update metadata keys", epmmp::update_key).await?;
    serving
        .of(
            EP_METADATA_KEY_BATCH_UPDATE_REQUEST,
            "update metadata keys in batches",
            batch_update::update_keys,
        )
        .await?;
    serving.of(EP_METADATA_KEYS_GET_REQUEST, "answer metadata keys", epmmp::keys).await?;
    serving.of(EP_APP_VERSION_GET_REQUEST, "answer application versions", epmmp::app_versions).await
}

struct Serving<'a> {
    register: &'a Register,
    concurrent_max: usize,
}

impl Serving<'_> {
    async fn of<Q, R, F>(
        &self,
        request: Message,
        name: &'static str,
        answer: fn(Register, Q) -> F,
    ) -> anyhow::Result<()>
    where
        Q: Record + Envelope + Send + 'static,
        R: Record + Send,
        F: Future<Output = R> + Send + 'static,
    {
        let context = &self.register.context;
        let subject = request.service(context.instance());
        let register = self.register.clone();
        let provider = Provider { subject, name, concurrent_max: self.concurrent_max };
        provider::serve(context, provider, move |request| answer(register.clone(), request)).await
    }
}

/// A status and a phrase for one who asked over NATS: those of the REST interface.
fn outcome<T>(result: Result<T, Error>) -> (Option<T>, i32, Option<String>) {
    let error = match result {
        Ok(value) => return (Some(value), 200, None),
        Err(error) => error,
    };
    let cause = error.as_dyn();
    let (code, phrase) = match &error {
        // A name in a request over NATS comes from the one who asks.
        Error::Name(invalid) => (400, invalid.to_string()),
        Error::Database(_) => {
            tracing::error!(error = cause, "a request of another service failed");
            (503, "the endpoint register cannot use its database now".to_owned())
        }
        _ => (0, error.to_string()),
    };
    if code != 0 {
        return (None, code, Some(phrase));
    }
    let status = rest::Error::from(error).status().as_u16();
    (None, i32::from(status), Some(phrase))
}
