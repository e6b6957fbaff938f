//! Commands over topics outside of 1/KP: a device that subscribes to `cmd/<thing>/req` and answers on `cmd/<thing>/resp`, an
//! application that publishes to the one and subscribes to the other, and the same for groups. All of it goes through the
//! ledger, as commands over REST do.

mod answer;
mod name;
mod publications;
mod push;
mod registers;
mod responses;
mod results;
mod teller;

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use extension::{Gateway, Refusal, TopicPublication, TopicSubscription};
use ids::{ApplicationName, CommandType, CorrelationId, EndpointId, TenantId, ThingName};
use runtime::Context;
use sqlx::PgPool;
use uuid::Uuid;

use crate::batches::{Batches, NewBatch, Targets};
use crate::config::Config;
use crate::domain::{Lane, NewCommand, Ttl};
use crate::error::Error;
use crate::invocation::Invoker;
use crate::ledger::{Invoked, Ledger};

pub(crate) use name::{PATTERNS, group_name};
pub(crate) use push::Things;
pub(crate) use registers::{Commander, Group, Registers, Thing};

use name::{Target, Topic};
use publications::Publications;
use registers::{Bound, Command};
use responses::Responses;
use teller::Teller;

/// Topics where one thing listens: each is kept in the ledger.
const TOPICS_MAX: i64 = 1_000;

/// Serves the topics. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Topics {
    config: Arc<Config>,
    ledger: Ledger,
    invoker: Invoker,
    batches: Batches,
    registers: Registers,
    publications: Publications,
    responses: Responses,
    teller: Teller,
}

impl Topics {
    pub(crate) fn new(
        context: Context,
        config: Arc<Config>,
        pool: PgPool,
        ledger: Ledger,
        invoker: Invoker,
        batches: Batches,
        gateway: Arc<Gateway>,
    ) -> Self {
        let registers = Registers::new(pool.clone());
        let kept = Duration::from_millis(config.publications_kept_ms);
        // A command lives so long, and its answer waits so long.
        let answered_within = Duration::from_millis(config.command_ttl_ms + config.responses_kept_ms);
        let publications = Publications::new(pool.clone(), kept, answered_within);
        let responses = Responses::new(pool);
        let teller = Teller::new(context, config.clone(), gateway, responses.clone(), publications.clone());
        Self { config, ledger, invoker, batches, registers, publications, responses, teller }
    }

    /// Tells results for as long as the service runs.
    pub(crate) fn start(&self) {
        self.teller.start();
    }

    /// Who is who.
    pub(crate) fn registers(&self) -> &Registers {
        &self.registers
    }

    /// A client wants to listen: a device for commands, an application for results.
    pub(crate) async fn subscribe(&self, subscription: TopicSubscription) -> Result<(), Refusal> {
        match Topic::parse(&subscription.topic_filter)? {
            Topic::Requests(target) => self.listen(&subscription, &target).await?,
            Topic::Responses(target) => self.await_results(&subscription, &target).await?,
        }
        Ok(())
    }

    /// A client has spoken: an application a command, a device a result.
    pub(crate) async fn publish(&self, publication: TopicPublication) -> Result<(), Refusal> {
        match Topic::parse(&publication.topic)? {
            Topic::Requests(target) => self.command(&publication, &target).await?,
            Topic::Responses(target) => self.answer(&publication, &target).await?,
        }
        Ok(())
    }

    /// From now on the device gets its commands at the topic, those that are outstanding at once.
    async fn listen(&self, subscription: &TopicSubscription, target: &Target) -> Result<(), Error> {
        let tenant = &subscription.tenant;
        let (_, lane) = self.lane(tenant, &subscription.credentials_ids, target).await?;
        let application =
            self.application_of(tenant, &lane.endpoint_id, &subscription.correlation_id).await?;
        let elsewhere = self.registers.topics_beside(&lane).await?;
        if elsewhere >= TOPICS_MAX {
            return Err(Error::TooManyTopics(elsewhere));
        }
        self.ledger.listen(&lane, &application, Some(&subscription.topic_filter)).await?;
        Ok(())
    }

    /// The lane of commands that the client with these credentials carries out, and which of them say so.
    async fn lane(
        &self,
        tenant: &TenantId,
        credentials_ids: &[String],
        target: &Target,
    ) -> Result<(String, Lane), Error> {
        let bound = self.registers.bound(tenant, credentials_ids).await?;
        let (bound, command_type) = match target {
            Target::Thing { thing, command_type } => {
                let bound = bound.into_iter().find(|bound| bound.thing == thing.as_str());
                let bound = bound.ok_or_else(|| {
                    Error::Forbidden(format!(
                        "the client is not thing {thing}: bind its credentials to it (PUT /cex/api/v1/things/{thing})"
                    ))
                })?;
                (bound, command_type)
            }
            Target::Group(group) => (only(bound)?, group),
            Target::AllThings => {
                return Err(Error::Forbidden("a device listens for its own commands only".to_owned()));
            }
        };
        let lane = Lane {
            tenant: tenant.clone(),
            endpoint_id: bound.endpoint_id,
            command_type: command_type.clone(),
        };
        Ok((bound.credentials_id, lane))
    }

    /// From now on the application gets results at the topic, those that wait at once.
    async fn await_results(&self, subscription: &TopicSubscription, target: &Target) -> Result<(), Error> {
        let tenant = &subscription.tenant;
        let command = self.commander(tenant, &subscription.credentials_ids).await?;
        match target {
            _ if !command.is_limited() => {}
            Target::AllThings => {
                return Err(Error::Forbidden(
                    "these credentials may not command in all applications: subscribe to one thing's topic"
                        .to_owned(),
                ));
            }
            Target::Thing { thing, .. } => {
                let endpoint = self.endpoint_of(tenant, thing).await?;
                command
                    .check(&self.application_of(tenant, &endpoint, &subscription.correlation_id).await?)?;
            }
            Target::Group(group) => {
                let (_, application) = self.filter_of(tenant, group).await?;
                let application = application.ok_or_else(|| {
                    Error::Forbidden(format!(
                        "these credentials may not command in all applications: name the group \
                         (PUT /cex/api/v1/groups/<name>) instead of using the id of its filter, {group}"
                    ))
                })?;
                command.check(&application)?;
            }
        }
        if self.responses.wake(tenant, &subscription.topic_filter).await? {
            self.teller.changed.notify_one();
        }
        Ok(())
    }

    async fn commander(&self, tenant: &TenantId, credentials_ids: &[String]) -> Result<Command, Error> {
        self.registers.command(tenant, credentials_ids).await?.ok_or_else(|| {
            Error::Forbidden(
                "these credentials may not command: let them (PUT /cex/api/v1/commanders/<credentials id>)"
                    .to_owned(),
            )
        })
    }

    /// An application commands. Once this returns the command, or the batch, is durable.
    async fn command(&self, publication: &TopicPublication, target: &Target) -> Result<(), Error> {
        let command = self.commander(&publication.tenant, &publication.credentials_ids).await?;
        let awaited_at = target.response_topic();
        if publication.response_topic.as_ref().is_some_and(|topic| *topic != awaited_at) {
            return Err(Error::Refused(format!(
                "results of commands on this topic come at {awaited_at}: name this one as response topic, or none"
            )));
        }
        match target {
            Target::Thing { thing, command_type } => {
                self.command_thing(publication, command, thing, command_type, awaited_at).await
            }
            Target::Group(group) => self.command_group(publication, command, group, awaited_at).await,
            Target::AllThings => {
                Err(Error::Refused("a command needs the name of a thing or of a group".to_owned()))
            }
        }
    }

    async fn command_thing(
        &self,
        publication: &TopicPublication,
        command: Command,
        thing: &ThingName,
        command_type: &CommandType,
        awaited_at: String,
    ) -> Result<(), Error> {
        let tenant = &publication.tenant;
        let endpoint_id = self.endpoint_of(tenant, thing).await?;
        let application = self.application_of(tenant, &endpoint_id, &publication.correlation_id).await?;
        command.check(&application)?;
        let payload = answer::payload(publication.payload.clone())?;
        let ttl = self.ttl();
        self.invoker.check(payload.as_ref(), ttl)?;
        let idempotency = self.publications.invocation(publication, &command.credentials_id).await?;
        let lane = Lane { tenant: tenant.clone(), endpoint_id, command_type: command_type.clone() };
        let new = NewCommand {
            lane: lane.clone(),
            application,
            payload,
            ttl,
            idempotency,
            batch: None,
            response_topic: Some(awaited_at),
        };
        match self.invoker.invoke(vec![new]).await?.pop() {
            Some(Invoked::New { .. } | Invoked::Repeated { .. }) => Ok(()),
            Some(Invoked::TooMany(outstanding)) => {
                Err(Error::TooMany { endpoint_id: lane.endpoint_id, outstanding })
            }
            Some(Invoked::KeyReused) | None => Err(Error::KeyReused),
        }
    }

    async fn command_group(
        &self,
        publication: &TopicPublication,
        command: Command,
        group: &CommandType,
        awaited_at: String,
    ) -> Result<(), Error> {
        let tenant = &publication.tenant;
        let (filter_id, application) = self.filter_of(tenant, group).await?;
        // What a group is named for is of one application, whose applications alone may hear of the results.
        let applications = match application {
            Some(application) => {
                command.check(&application)?;
                Some(BTreeSet::from([application]))
            }
            None => command.applications(),
        };
        let batch = NewBatch {
            tenant: tenant.clone(),
            applications,
            command_type: group.clone(),
            targets: Targets::Filter(filter_id),
            payload: answer::payload(publication.payload.clone())?,
            ttl: self.ttl(),
            rate_per_second: None,
            abort_failed_percent: None,
            idempotency: self.publications.invocation(publication, &command.credentials_id).await?,
            response_topic: Some(awaited_at),
            correlation_id: publication.correlation_id.clone(),
        };
        self.batches.create(batch).await?;
        Ok(())
    }

    fn ttl(&self) -> Ttl {
        Ttl::For(Duration::from_millis(self.config.command_ttl_ms))
    }

    /// The filter of a group, and the application for which it was named; the id of a filter is a name by itself.
    async fn filter_of(
        &self,
        tenant: &TenantId,
        group: &CommandType,
    ) -> Result<(String, Option<ApplicationName>), Error> {
        if let Some(named) = self.registers.group(tenant, group).await? {
            let application = ApplicationName::parse(&named.application_name).ok();
            return Ok((named.filter_id, application));
        }
        match Uuid::try_parse(group.as_str()) {
            Ok(filter_id) => Ok((filter_id.to_string(), None)),
            Err(_) => Err(Error::Unknown("group (name a filter: PUT /cex/api/v1/groups/<name>)")),
        }
    }

    /// The endpoint of a thing; an endpoint's id is a name by itself.
    async fn endpoint_of(&self, tenant: &TenantId, thing: &ThingName) -> Result<EndpointId, Error> {
        let named = self.registers.thing(tenant, thing).await?;
        let endpoint_id = named.map_or_else(|| thing.to_string(), |named| named.endpoint_id);
        EndpointId::parse(&endpoint_id).map_err(|_| Error::Unknown("thing"))
    }

    async fn application_of(
        &self,
        tenant: &TenantId,
        endpoint_id: &EndpointId,
        correlation_id: &CorrelationId,
    ) -> Result<ApplicationName, Error> {
        self.invoker.application_of(tenant, endpoint_id, correlation_id.as_str()).await
    }
}

/// The one thing that a client is.
fn only(bound: Vec<Bound>) -> Result<Bound, Error> {
    let mut bound = bound.into_iter();
    let first = bound.next().ok_or_else(|| {
        Error::Forbidden(
            "the client is no thing: bind its credentials to one (PUT /cex/api/v1/things/<thing>)".to_owned(),
        )
    })?;
    match bound.find(|other| other.endpoint_id != first.endpoint_id) {
        None => Ok(first),
        Some(other) => Err(Error::Conflict(format!(
            "the client is several things, {} and {}: show the credentials of one",
            first.thing, other.thing
        ))),
    }
}
