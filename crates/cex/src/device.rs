//! The device's side of commands (11/CEP): asking for them and reporting results.

mod poll;
mod results;

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use extension::{
    Endpoint, Extension, Message, Parameters, Refusal, Routes, TopicPublication, TopicSubscription,
};
use ids::{ApplicationName, CommandType, EndpointId, TenantId};
use runtime::LookupError;
use tokio::time::Instant;

use crate::changes::Changes;
use crate::config::Config;
use crate::connected::KnownApplications;
use crate::delivery::payload;
use crate::domain::Lane;
use crate::error::Error;
use crate::ledger::{HandedOut, Ledger};
use crate::topics::Topics;

/// How often a waiting poll looks into the ledger, should it not be told.
const LOOK_EVERY: Duration = Duration::from_secs(5);
/// Before the device's patience ends, so that the answer reaches it.
const ANSWER_TIME: Duration = Duration::from_millis(250);

/// What devices ask of the service.
pub(crate) struct Device {
    pub(crate) ledger: Ledger,
    pub(crate) changes: Arc<Changes>,
    pub(crate) applications: KnownApplications,
    pub(crate) config: Arc<Config>,
    /// The topics outside of 1/KP.
    pub(crate) topics: Option<Topics>,
}

/// Whose commands a message is about.
struct Asker {
    tenant: TenantId,
    application: ApplicationName,
    endpoint: EndpointId,
}

impl Extension for Device {
    const NAME: &'static str = "cex";
    const TOPICS: &'static [&'static str] = crate::topics::PATTERNS;

    fn routes(routes: Routes<Self>) -> Routes<Self> {
        routes
            .on("command/{type}", Device::commands_of_type)
            .on("command", Device::commands)
            .on("result/{type}", Device::results)
    }

    async fn subscribe(self: Arc<Self>, subscription: TopicSubscription) -> Result<(), Refusal> {
        self.topics()?.subscribe(subscription).await
    }

    async fn publish(self: Arc<Self>, publication: TopicPublication) -> Result<(), Refusal> {
        self.topics()?.publish(publication).await
    }
}

impl Device {
    /// `command/{type}`: all outstanding commands of the type.
    async fn commands_of_type(
        self: Arc<Self>,
        message: Message,
        from: Endpoint,
        parameters: Parameters,
    ) -> Result<Bytes, Refusal> {
        let command_type = command_type(&parameters)?;
        self.poll(&message, from, Some(command_type)).await
    }

    /// `command`: all outstanding commands, each with its type.
    async fn commands(self: Arc<Self>, message: Message, from: Endpoint) -> Result<Bytes, Refusal> {
        self.poll(&message, from, None).await
    }

    async fn poll(
        &self,
        message: &Message,
        from: Endpoint,
        command_type: Option<CommandType>,
    ) -> Result<Bytes, Refusal> {
        let request = poll::request(&message.payload)?;
        let asker = self.asker(from).await?;
        let command_type = command_type.as_ref();
        if let Some(observe) = request.observe {
            let Asker { tenant, application, endpoint } = &asker;
            let observing = self.ledger.observe(tenant, endpoint, application, command_type, observe);
            observing.await.map_err(Error::from)?;
        }
        if let Some(command_type) = command_type {
            self.speaks_kp1(&asker, command_type).await?;
        }
        let commands = self.hand_out(message, &asker, command_type).await?;
        Ok(payload::of_poll(&commands, command_type.is_none()))
    }

    /// What is outstanding; when nothing is, what comes while the device wants to wait.
    async fn hand_out(
        &self,
        message: &Message,
        asker: &Asker,
        command_type: Option<&CommandType>,
    ) -> Result<Vec<HandedOut>, Refusal> {
        // Before the ledger is looked at: what comes in between must not be overheard.
        let mut arrival = message.prefer_wait.map(|wait| {
            let until = (Instant::now() + wait).min(message.deadline - ANSWER_TIME.min(message.remaining()));
            (until, self.changes.arrival_for(asker.endpoint.clone()))
        });
        loop {
            let window = message.remaining();
            let handing_out = self.ledger.hand_out(&asker.tenant, &asker.endpoint, command_type, window);
            let commands = handing_out.await.map_err(Error::from)?;
            let Some((until, arrival)) = arrival.as_mut().filter(|_| commands.is_empty()) else {
                return Ok(commands);
            };
            if Instant::now() >= *until {
                return Ok(commands);
            }
            let look = (*until).min(Instant::now() + LOOK_EVERY);
            // Whether told or not: the ledger says.
            let _ = tokio::time::timeout_at(look, arrival.woken()).await;
        }
    }

    /// `result/{type}`: results of commands of the type.
    async fn results(
        self: Arc<Self>,
        message: Message,
        from: Endpoint,
        parameters: Parameters,
    ) -> Result<(), Refusal> {
        let command_type = command_type(&parameters)?;
        let results = results::request(&message.payload, self.config.payload_bytes_max)?;
        if results.is_empty() {
            return Ok(());
        }
        let Asker { tenant, endpoint, .. } = self.asker(from).await?;
        let lane = Lane { tenant, endpoint_id: endpoint, command_type };
        let ids: Vec<i32> = results.iter().map(|result| result.command_id).collect();
        let taken = self.ledger.results(&lane, results).await.map_err(Error::from)?;
        results::answer(&lane, ids.into_iter().zip(taken))
    }

    /// A device that asks for commands over 1/KP gets them there, and no longer at a topic outside of it.
    async fn speaks_kp1(&self, asker: &Asker, command_type: &CommandType) -> Result<(), Error> {
        let lane = Lane {
            tenant: asker.tenant.clone(),
            endpoint_id: asker.endpoint.clone(),
            command_type: command_type.clone(),
        };
        Ok(self.ledger.listen(&lane, &asker.application, None).await?)
    }

    async fn asker(&self, from: Endpoint) -> Result<Asker, Refusal> {
        match self.applications.version(&from.app_version_name).await {
            Ok(version) => Ok(Asker {
                tenant: version.tenant_id.clone(),
                application: version.app_name.clone(),
                endpoint: from.id,
            }),
            Err(LookupError::Unknown) => {
                Err(Refusal::not_found(format!("unknown application version {}", from.app_version_name)))
            }
            Err(error) => Err(Refusal::unavailable(error.to_string())),
        }
    }

    fn topics(&self) -> Result<&Topics, Refusal> {
        self.topics.as_ref().ok_or_else(|| Refusal::not_found("there are no topics outside of 1/KP here"))
    }
}

fn command_type(parameters: &Parameters) -> Result<CommandType, Refusal> {
    CommandType::parse(parameters.get("type")).map_err(|error| Refusal::bad_request(error.to_string()))
}
