//! After NATS was away: asks again for everything that a revocation may have ended meanwhile, which nobody here heard of.
//!
//! Tokens and certificates can be asked for again. Passwords are not kept, so clients with a password are disconnected,
//! little by little; they connect again and show it. What cannot be told yet is tried again until it can.

use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt as _;
use rand::seq::SliceRandom as _;
use tokio_util::sync::CancellationToken;

use crate::connection::{Attachment, Connection, ConnectionId};
use crate::gateway::Gateway;
use crate::limits::Backoff;
use crate::login::Refusal;
use crate::outbox::CloseReason;

/// Questions that are asked at once: what devices do meanwhile is not to be held up.
const AT_ONCE: usize = 32;
/// In what steps clients with a password are disconnected.
const STEP: Duration = Duration::from_millis(50);

/// What the look at one connection brought.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Found {
    Good,
    Bad(CloseReason),
    /// It cannot be told now.
    Unknown,
}

impl Gateway {
    /// Looks at every connection that there is now, until that is done or `stopped` is cancelled.
    pub(crate) async fn recheck(self: Arc<Self>, stopped: CancellationToken) {
        let (mut with_password, mut others) = (Vec::new(), Vec::new());
        self.connections.each(|connection| {
            let client = connection.client.as_deref();
            let has_password = client.is_some_and(|client| client.basic.is_some());
            if has_password { &mut with_password } else { &mut others }.push(connection.id);
        });
        tokio::select! {
            _ = futures::future::join(self.disconnect_slowly(with_password), self.ask_again(others)) => {}
            () = stopped.cancelled() => {}
        }
    }

    /// Disconnects these connections in random order over the configured time.
    async fn disconnect_slowly(&self, mut connections: Vec<ConnectionId>) {
        connections.shuffle(&mut rand::rng());
        let time = Duration::from_secs(self.config.clients.recheck_s.into());
        let steps = usize::try_from(time.as_millis() / STEP.as_millis()).unwrap_or(usize::MAX);
        for some in connections.chunks(connections.len().div_ceil(steps.max(1)).max(1)) {
            for connection in some.iter().filter_map(|id| self.connections.get(*id)) {
                self.metrics.closed("recheck");
                connection.finish(CloseReason::Recheck);
            }
            tokio::time::sleep(STEP).await;
        }
    }

    /// Asks for the certificates and tokens of these connections, again and again for those that nobody can tell of.
    async fn ask_again(&self, mut connections: Vec<ConnectionId>) {
        let mut backoff = Backoff::new();
        while !connections.is_empty() {
            let looks = connections.into_iter().map(|id| self.ask_for(id));
            let looks: Vec<_> = futures::stream::iter(looks).buffer_unordered(AT_ONCE).collect().await;
            connections = looks.into_iter().flatten().collect();
            if !connections.is_empty() {
                tokio::time::sleep(backoff.next()).await;
            }
        }
    }

    /// Asks for the certificate and tokens of a connection, and closes it if they are no longer good. Returns it when
    /// nobody can tell.
    async fn ask_for(&self, id: ConnectionId) -> Option<ConnectionId> {
        let connection = self.connections.get(id)?;
        match self.look_at(&connection).await {
            Found::Good => None,
            Found::Bad(reason) => {
                let client_id = &*connection.client_id;
                tracing::info!(client_id, ?reason, "closing a connection: it is no longer allowed");
                self.metrics.closed("recheck");
                connection.close(reason);
                None
            }
            Found::Unknown => Some(id),
        }
    }

    async fn look_at(&self, connection: &Connection) -> Found {
        let certified = connection.client.as_ref().and_then(|client| client.certificate.as_ref());
        if let Some(certified) = certified {
            match self.clients.certify(&certified.certificate).await {
                Ok(now) if now.credentials_id == certified.credentials_id => {}
                Ok(_) | Err(Refusal::NotAuthorized(_) | Refusal::BadCredentials(_)) => {
                    return Found::Bad(CloseReason::CredentialsRevoked);
                }
                Err(_) => return Found::Unknown,
            }
        }
        let attachments: Vec<Attachment> =
            connection.state.lock().endpoints.values().flatten().cloned().collect();
        let mut found = Found::Good;
        for Attachment { app_version, identity } in attachments {
            match self.relay.recheck(&app_version, &identity.token).await {
                Ok(now) if now.endpoint == identity.endpoint => {}
                Err(failure) if failure.passing => found = Found::Unknown,
                Ok(_) | Err(_) => return Found::Bad(CloseReason::Revoked),
            }
        }
        found
    }
}
