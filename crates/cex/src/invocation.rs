//! Invoking commands, the same for REST, other services (12/CIP), topics and batches.

use std::sync::Arc;
use std::time::Duration;

use ids::{ApplicationName, EndpointId, TenantId};
use quick_cache::sync::Cache;
use runtime::{Context, LookupError};
use tokio::time::Instant;

use crate::changes::Changes;
use crate::config::Config;
use crate::delivery::Dispatcher;
use crate::domain::{Command, CommandName, NewCommand, Payload, Ttl};
use crate::error::Error;
use crate::ledger::{Invoked, Ledger};

/// Endpoints whose application is remembered.
const REMEMBERED_MAX: usize = 200_000;
/// How long it is, should the news of a deletion be lost.
const REMEMBERED_FOR: Duration = Duration::from_secs(60);
/// How long the endpoint register has to answer.
const REGISTER_PATIENCE: Duration = Duration::from_secs(5);
/// When one who waits for the end of a command looks into the ledger first, should he not be told; the pause doubles.
const LOOK_AFTER: Duration = Duration::from_secs(1);
/// The longest pause between two looks.
const LOOK_PAUSE_MAX: Duration = Duration::from_secs(15);

/// What a device gets must fit into one NATS message of 1 MiB; a control character in a text is six in JSON.
const JSON_BYTES_MAX: usize = 900 * 1024;

/// Invokes commands. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Invoker {
    shared: Arc<Shared>,
}

struct Shared {
    context: Context,
    config: Arc<Config>,
    ledger: Ledger,
    dispatcher: Dispatcher,
    changes: Arc<Changes>,
    applications: Cache<(TenantId, EndpointId), (ApplicationName, Instant)>,
}

impl Invoker {
    pub(crate) fn new(
        context: Context,
        config: Arc<Config>,
        ledger: Ledger,
        dispatcher: Dispatcher,
        changes: Arc<Changes>,
    ) -> Self {
        let applications = Cache::new(REMEMBERED_MAX);
        Self { shared: Arc::new(Shared { context, config, ledger, dispatcher, changes, applications }) }
    }

    /// The application of a tenant's endpoint.
    ///
    /// # Errors
    /// When there is no such endpoint, or the register cannot be asked.
    pub(crate) async fn application_of(
        &self,
        tenant: &TenantId,
        endpoint: &EndpointId,
        correlation_id: &str,
    ) -> Result<ApplicationName, Error> {
        let shared = &self.shared;
        let key = (tenant.clone(), endpoint.clone());
        if let Some((application, until)) = shared.applications.get(&key)
            && until > Instant::now()
        {
            return Ok(application);
        }
        let asked = shared.context.application_of(correlation_id, tenant, endpoint, REGISTER_PATIENCE).await;
        let application = asked.map_err(|error| match error {
            LookupError::Unknown => Error::UnknownEndpoint(endpoint.clone()),
            LookupError::Unavailable(reason) => Error::RegisterUnavailable(reason),
        })?;
        shared.applications.insert(key, (application.clone(), Instant::now() + REMEMBERED_FOR));
        Ok(application)
    }

    /// Forgets where an endpoint belongs: it was deleted.
    pub(crate) fn forget(&self, endpoint: &EndpointId) {
        self.shared.applications.retain(|(_, known), _| known != endpoint);
    }

    /// Checks what a caller wants invoked against the limits.
    ///
    /// # Errors
    /// With the limit that is broken.
    pub(crate) fn check(&self, payload: Option<&Payload>, ttl: Ttl) -> Result<(), Error> {
        let config = &self.shared.config;
        let bytes = payload.map_or(0, |payload| payload.bytes().len());
        if bytes > config.payload_bytes_max {
            let max = config.payload_bytes_max;
            return Err(Error::Refused(format!(
                "the payload is {bytes} bytes and may be {max} (cex.payload_bytes_max)"
            )));
        }
        let json_bytes = payload.map_or(0, Payload::json_bytes);
        if json_bytes > JSON_BYTES_MAX {
            return Err(Error::Refused(format!(
                "as a JSON string the payload is {json_bytes} bytes and may be {JSON_BYTES_MAX}: it holds too many characters that \
                 must be escaped"
            )));
        }
        let max = Duration::from_millis(config.command_ttl_max_ms);
        if matches!(ttl, Ttl::For(ttl) if ttl > max) {
            let max = max.as_millis();
            return Err(Error::Refused(format!("commandTtl may be {max} ms (cex.command_ttl_max_ms)")));
        }
        Ok(())
    }

    /// Writes commands into the ledger and begins to deliver them; answers for each in the order given. Once this returns
    /// they are durable.
    pub(crate) async fn invoke(&self, commands: Vec<NewCommand>) -> Result<Vec<Invoked>, Error> {
        let mut invoked = self.shared.ledger.invoke(commands, true).await?;
        for one in &mut invoked {
            if let Invoked::New { claim, .. } = one
                && let Some(claim) = claim.take()
            {
                self.shared.dispatcher.push(claim);
            }
        }
        Ok(invoked)
    }

    /// Waits until a command has ended; after that time it is answered as it is then. Of a `new` one, which the caller has
    /// invoked just now, the end is awaited first: it is told here, and the ledger is read once.
    pub(crate) async fn ended(
        &self,
        name: &CommandName,
        within: Duration,
        is_new: bool,
    ) -> Result<Command, Error> {
        let deadline = Instant::now() + within;
        let mut end = self.shared.changes.end_of(name.clone());
        let mut pause = LOOK_AFTER;
        let mut is_awaited = is_new;
        loop {
            if is_awaited {
                let look = deadline.min(Instant::now() + pause);
                pause = (pause * 2).min(LOOK_PAUSE_MAX);
                // Whether told or not: the ledger says.
                let _ = tokio::time::timeout_at(look, end.woken()).await;
            }
            is_awaited = true;
            let command = self.shared.ledger.get(name).await?;
            let command = command.ok_or_else(|| Error::UnknownCommand(name.clone()))?;
            if command.state.is_final() || Instant::now() >= deadline {
                return Ok(command);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_is_as_long_as_the_device_gets_it() {
        let text = |text: &str| Payload::Text(text.to_owned().into());
        assert_eq!(text("light: \"on\"").json_bytes(), 15);
        assert_eq!(text("\u{1}\u{1}").json_bytes(), 14);
        assert_eq!(Payload::Json("[1]".into()).json_bytes(), 3);
        assert!(text(&"\u{1}".repeat(200_000)).json_bytes() > JSON_BYTES_MAX);
    }
}
