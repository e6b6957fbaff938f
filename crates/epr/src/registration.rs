//! Registers endpoints: a row here, a token at `cm`, an event to all.
//!
//! The steps, and what an interruption after each leaves behind:
//!
//! 1. The id is reserved: a row that nobody sees. The same id may be registered again, for the same tenant
//!    and application, once the reservation's time is over; for anybody else the id is taken.
//! 2. `cm` makes the token. As above; a generated token that nobody was told is worthless, and a token wished
//!    for is given to the same endpoint again.
//! 3. The row becomes the endpoint. From here on the same request is refused with 409.
//! 4. 9/ELCE `registered` goes out. It may be lost (broadcasts are), never sent too early.
//!
//! When it is certain that no token leads to the id, the row is deleted. When it is not, the reservation
//! stays, but its time is over at once.

use std::time::Duration;

use ids::{AppVersionName, EndpointId, EndpointToken, TenantId};
use runtime::{Context, Version};
use uuid::Uuid;

use crate::announcer::Announcer;
use crate::batch::Sealer;
use crate::carry::carry_through;
use crate::config::Config;
use crate::domain::{NewEndpoint, NewRelation, Registered};
use crate::error::Error;
use crate::metadata::{Metadata, check};
use crate::store::{ItemKey, MadeItem, Reservation, Store};
use crate::tokens::{NoToken, Token, Tokens};
use crate::updates::{NoSettings, Updates};

/// What confirming may take beyond waiting for the token.
const CONFIRM_TIME: Duration = Duration::from_secs(10);
/// How often confirming is tried when it collides with other transactions.
const ATTEMPTS: u32 = 4;

/// What stands in paths where an endpoint id may stand, and what HTTP clients take out of paths.
const NO_IDS: [&str; 5] = ["batch", "delete", "search", ".", ".."];

/// A wish for an endpoint.
#[derive(Debug, Clone)]
pub(crate) struct Wish {
    pub(crate) version: AppVersionName,
    pub(crate) endpoint_id: Option<EndpointId>,
    pub(crate) token: Option<EndpointToken>,
    pub(crate) metadata: Metadata,
    pub(crate) group: Option<String>,
    pub(crate) relations: Vec<NewRelation>,
}

/// Registers endpoints. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Registrar {
    context: Context,
    announcer: Announcer,
    updates: Updates,
    tokens: Tokens,
    sealer: Sealer,
    store: Store,
    config: Config,
}

impl Registrar {
    pub(crate) fn new(
        context: Context,
        announcer: Announcer,
        updates: Updates,
        tokens: Tokens,
        sealer: Sealer,
        store: Store,
        config: Config,
    ) -> Self {
        Self { context, announcer, updates, tokens, sealer, store, config }
    }

    /// Registers an endpoint. Once begun this goes on to its end, also when the caller does not wait for it.
    pub(crate) async fn register(
        &self,
        correlation_id: String,
        tenant: TenantId,
        wish: Wish,
    ) -> Result<Registered, Error> {
        let registrar = self.clone();
        carry_through(&self.context, async move { registrar.run(&correlation_id, &tenant, wish, None).await })
            .await
    }

    /// Registers an endpoint of an order.
    pub(crate) async fn register_item(
        &self,
        correlation_id: &str,
        tenant: &TenantId,
        wish: Wish,
        item: ItemKey,
    ) -> Result<(), Error> {
        self.run(correlation_id, tenant, wish, Some(item)).await.map(drop)
    }

    async fn run(
        &self,
        correlation_id: &str,
        tenant: &TenantId,
        wish: Wish,
        item: Option<ItemKey>,
    ) -> Result<Registered, Error> {
        check(&wish.metadata, self.config.metadata_limits())?;
        let version = self.updates.version(tenant, &wish.version).await?;
        let wished = wish.token.clone();
        let new = new_endpoint(wish, &version)?;
        self.check_relations(tenant, &new).await?;
        let hold = self.config.token_timeout() + CONFIRM_TIME;
        let reservation = self.store.reserve(tenant, &new, hold).await?;
        let token = match self.tokens.create(correlation_id, tenant, &new, wished.as_ref()).await {
            Ok(token) => token,
            Err(no_token) => return Err(self.give_up(&reservation, &new.endpoint_id, no_token).await),
        };
        let registered = self.confirm(&reservation, tenant, &new, token, item).await;
        let (registered, matches) = match registered {
            Ok(registered) => registered,
            Err(error) => {
                // The token leads to an id that nobody sees; the same request may be made again at once.
                self.undo(&reservation, &new.endpoint_id, false).await;
                return Err(error);
            }
        };
        self.announcer.registered(correlation_id, &new).await;
        matches.publish(&self.context, correlation_id).await;
        Ok(registered)
    }

    /// Tells of relations that cannot be made before a token is made. They are checked again in the transaction that
    /// makes them.
    async fn check_relations(&self, tenant: &TenantId, new: &NewEndpoint) -> Result<(), Error> {
        let others: Vec<EndpointId> =
            new.relations.iter().filter_map(|relation| relation.other().cloned()).collect();
        if others.len() != new.relations.len() {
            return Err(Error::Refused("a relation of a new endpoint needs either from or to".to_owned()));
        }
        for other in &others {
            if self.store.belonging(tenant, other).await?.is_none() {
                return Err(Error::UnknownEndpoint(other.clone()));
            }
        }
        Ok(())
    }

    async fn confirm(
        &self,
        reservation: &Reservation,
        tenant: &TenantId,
        new: &NewEndpoint,
        token: Token,
        item: Option<ItemKey>,
    ) -> Result<(Registered, crate::filters::Changes), Error> {
        let made = match item {
            Some(key) => Some(MadeItem { key, token: self.sealer.seal(key, token.token.as_str())? }),
            None => None,
        };
        let mut attempt = 1;
        let confirmed = loop {
            let relations_max = self.config.relations_per_endpoint_max;
            match self.store.confirm(reservation, tenant, new, relations_max, made.as_ref()).await {
                Err(error) if error.is_collision() && attempt < ATTEMPTS => attempt += 1,
                confirmed => break confirmed?,
            }
        };
        let (endpoint, matches) = confirmed.ok_or_else(|| Error::Reserved(new.endpoint_id.clone()))?;
        let registered =
            Registered { endpoint, token: token.token.as_str().to_owned(), status: token.status };
        Ok((registered, matches))
    }

    async fn give_up(&self, reservation: &Reservation, endpoint_id: &EndpointId, no_token: NoToken) -> Error {
        let unused = reservation.fresh && !matches!(no_token, NoToken::Unknown(_));
        self.undo(reservation, endpoint_id, unused).await;
        match no_token {
            NoToken::Taken(reason) => Error::TokenTaken(reason),
            NoToken::Invalid(reason) => Error::TokenInvalid(reason),
            NoToken::Unavailable(reason) => Error::NoToken(reason),
            NoToken::Unknown(reason) => {
                tracing::warn!(reason, %endpoint_id, "an endpoint got no token in time");
                Error::TokenLate(endpoint_id.clone())
            }
        }
    }

    async fn undo(&self, reservation: &Reservation, endpoint_id: &EndpointId, unused: bool) {
        let undone =
            if unused { self.store.release(reservation).await } else { self.store.lapse(reservation).await };
        if let Err(error) = undone {
            // The reservation ends by itself.
            tracing::warn!(error = error.as_dyn(), %endpoint_id, "an endpoint id stays reserved for some seconds");
        }
    }
}

fn new_endpoint(wish: Wish, version: &Version<NoSettings>) -> Result<NewEndpoint, Error> {
    let endpoint_id = match wish.endpoint_id {
        Some(endpoint_id) if NO_IDS.contains(&endpoint_id.as_str()) => {
            return Err(Error::Refused(format!(
                "endpointId {endpoint_id} means something else in paths; choose another"
            )));
        }
        Some(endpoint_id) => endpoint_id,
        None => EndpointId::parse(&Uuid::new_v4().to_string())?,
    };
    Ok(NewEndpoint {
        endpoint_id,
        application: version.app_name.clone(),
        version: version.app_version_name.clone(),
        metadata: wish.metadata,
        group: wish.group,
        relations: wish.relations,
    })
}
