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

use std::sync::Arc;
use std::time::Duration;

use ids::{AppVersionName, EndpointId, EndpointToken, TenantId};
use ism::Record as _;
use ism::elce::{REGISTERED, RegisteredEvent};
use runtime::{Applications, Context, LookupError, Version};
use serde::Deserialize;
use serde_json::{Map, Value};
use tokio::sync::oneshot;
use uuid::Uuid;

use crate::config::Config;
use crate::domain::{NewEndpoint, Registered, check_metadata};
use crate::error::Error;
use crate::store::{Reservation, Store};
use crate::tokens::{NoToken, Tokens};

/// What confirming may take beyond waiting for the token.
const CONFIRM_TIME: Duration = Duration::from_secs(10);

/// The service has no settings of its own at applications: it only looks up whose they are.
#[derive(Debug, Default, Deserialize)]
pub(crate) struct NoSettings {}

/// A wish for an endpoint.
#[derive(Debug, Clone)]
pub(crate) struct Wish {
    pub(crate) version: AppVersionName,
    pub(crate) endpoint_id: Option<EndpointId>,
    pub(crate) token: Option<EndpointToken>,
    pub(crate) metadata: Map<String, Value>,
}

/// Registers endpoints. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Registrar {
    context: Context,
    applications: Applications<NoSettings>,
    tokens: Tokens,
    store: Store,
    config: Config,
}

impl Registrar {
    pub(crate) async fn new(context: Context, store: Store, config: Config) -> anyhow::Result<Self> {
        let applications = Applications::new(&context).await?;
        let tokens = Tokens::new(context.clone(), config.token_timeout())?;
        Ok(Self { context, applications, tokens, store, config })
    }

    /// Registers an endpoint. Once begun this goes on to its end, also when the caller does not wait for it.
    pub(crate) async fn register(
        &self,
        correlation_id: String,
        tenant: TenantId,
        wish: Wish,
    ) -> Result<Registered, Error> {
        check_metadata(&wish.metadata, self.config.metadata_keys_max, self.config.metadata_bytes_max)?;
        let version = self.version(&tenant, &wish.version).await?;
        let (sender, receiver) = oneshot::channel();
        let registrar = self.clone();
        self.context.task(async move {
            let registered = registrar.run(&correlation_id, &tenant, &version, wish).await;
            // A caller who has gone finds the endpoint by its id.
            drop(sender.send(registered));
        });
        receiver.await.unwrap_or_else(|_| Err(Error::NoToken("the service is stopping".to_owned())))
    }

    async fn version(
        &self,
        tenant: &TenantId,
        name: &AppVersionName,
    ) -> Result<Arc<Version<NoSettings>>, Error> {
        match self.applications.version(name).await {
            Ok(version) if version.tenant_id == *tenant => Ok(version),
            Ok(_) | Err(LookupError::Unknown) => Err(Error::UnknownVersion(name.clone())),
            Err(LookupError::Unavailable(reason)) => Err(Error::VersionsUnavailable(reason)),
        }
    }

    async fn run(
        &self,
        correlation_id: &str,
        tenant: &TenantId,
        version: &Version<NoSettings>,
        wish: Wish,
    ) -> Result<Registered, Error> {
        let endpoint_id = match wish.endpoint_id {
            Some(endpoint_id) => endpoint_id,
            None => EndpointId::parse(&Uuid::new_v4().to_string())?,
        };
        let new = NewEndpoint {
            endpoint_id,
            application: version.app_name.clone(),
            version: version.app_version_name.clone(),
            metadata: wish.metadata,
        };
        let hold = self.config.token_timeout() + CONFIRM_TIME;
        let reservation = self.store.reserve(tenant, &new, hold).await?;
        let token = match self.tokens.create(correlation_id, tenant, &new, wish.token.as_ref()).await {
            Ok(token) => token,
            Err(no_token) => return Err(self.give_up(&reservation, &new.endpoint_id, no_token).await),
        };
        let endpoint = self
            .store
            .confirm(&reservation)
            .await?
            .ok_or_else(|| Error::Reserved(new.endpoint_id.clone()))?;
        self.announce(correlation_id, &new).await;
        Ok(Registered { endpoint, token: token.token.as_str().to_owned(), status: token.status })
    }

    async fn give_up(&self, reservation: &Reservation, endpoint_id: &EndpointId, no_token: NoToken) -> Error {
        let unused = reservation.fresh && !matches!(no_token, NoToken::Unknown(_));
        let undone =
            if unused { self.store.release(reservation).await } else { self.store.lapse(reservation).await };
        if let Err(error) = undone {
            // The reservation ends by itself.
            let error = &error as &dyn std::error::Error;
            tracing::warn!(error, %endpoint_id, "an endpoint id stays reserved for some seconds");
        }
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

    async fn announce(&self, correlation_id: &str, endpoint: &NewEndpoint) {
        let event = RegisteredEvent {
            correlation_id: correlation_id.to_owned(),
            timestamp: runtime::now_ms(),
            timeout: 0,
            app_version_name: endpoint.version.to_string(),
            endpoint_id: endpoint.endpoint_id.to_string(),
            originator_replica_id: self.context.replica().to_string(),
        };
        let subject = REGISTERED.of(self.context.instance());
        if let Err(error) = self.context.nats().publish(subject, event.encode()).await {
            tracing::warn!(%error, endpoint_id = %endpoint.endpoint_id, "a registered event could not be sent");
        }
    }
}
