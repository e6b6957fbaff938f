//! Who waits for what happens to commands, in this process. What happens here is told after its commit; what happens in other
//! replicas comes as an event. Either may be lost, so whoever waits looks into the ledger now and then.

use std::collections::{HashMap, HashSet, VecDeque};
use std::hash::Hash;
use std::sync::Arc;

use ids::{ApplicationName, EndpointId, TenantId};
use parking_lot::Mutex;
use tokio::sync::watch;

use crate::domain::{CommandName, Happening, State};

/// Ends that are remembered for those who begin to wait a moment later.
const ENDS_MAX: usize = 8_192;

/// Who waits for what.
#[derive(Debug, Default)]
pub(crate) struct Changes {
    ends: Arc<Waiting<CommandName>>,
    lately: Mutex<Lately>,
    arrivals: Arc<Waiting<EndpointId>>,
    feeds: Arc<Waiting<(TenantId, ApplicationName)>>,
}

impl Changes {
    /// Tells whoever waits.
    pub(crate) fn tell(&self, happenings: &[Happening]) {
        for happening in happenings {
            let (name, state) = (&happening.name, happening.transition.state);
            if state.is_final() {
                // First this: who enters in between finds one or the other.
                self.lately.lock().add(name);
                self.ends.wake(name);
            }
            if state == State::Created {
                self.arrivals.wake(&name.lane.endpoint_id);
            }
            self.feeds.wake(&(name.lane.tenant.clone(), happening.application.clone()));
        }
    }

    /// Tells those who follow the feed of an application.
    pub(crate) fn tell_feed(&self, tenant: &TenantId, application: &ApplicationName) {
        self.feeds.wake(&(tenant.clone(), application.clone()));
    }

    /// Woken when the command has ended; at once when that was told a moment ago. So whoever has just invoked it need not
    /// look into the ledger; all others do so after this.
    pub(crate) fn end_of(&self, name: CommandName) -> Waiter<CommandName> {
        let mut waiter = Waiting::enter(&self.ends, name);
        if self.lately.lock().names.contains(&waiter.key) {
            waiter.receiver.mark_changed();
        }
        waiter
    }

    /// Woken when a command comes for the endpoint.
    pub(crate) fn arrival_for(&self, endpoint: EndpointId) -> Waiter<EndpointId> {
        Waiting::enter(&self.arrivals, endpoint)
    }

    /// Woken when anything happens in the application.
    pub(crate) fn feed_of(
        &self,
        tenant: TenantId,
        application: ApplicationName,
    ) -> Waiter<(TenantId, ApplicationName)> {
        Waiting::enter(&self.feeds, (tenant, application))
    }
}

/// The commands that have ended last.
#[derive(Debug, Default)]
struct Lately {
    names: HashSet<CommandName>,
    /// The oldest first.
    order: VecDeque<CommandName>,
}

impl Lately {
    fn add(&mut self, name: &CommandName) {
        if !self.names.insert(name.clone()) {
            return;
        }
        self.order.push_back(name.clone());
        if self.order.len() > ENDS_MAX
            && let Some(oldest) = self.order.pop_front()
        {
            self.names.remove(&oldest);
        }
    }
}

/// Waiters by what they wait for.
#[derive(Debug)]
struct Waiting<K>(Mutex<HashMap<K, watch::Sender<()>>>);

impl<K> Default for Waiting<K> {
    fn default() -> Self {
        Self(Mutex::new(HashMap::new()))
    }
}

impl<K: Eq + Hash + Clone> Waiting<K> {
    fn enter(waiting: &Arc<Self>, key: K) -> Waiter<K> {
        let receiver =
            waiting.0.lock().entry(key.clone()).or_insert_with(|| watch::Sender::new(())).subscribe();
        Waiter { waiting: waiting.clone(), key, receiver }
    }

    fn wake(&self, key: &K) {
        if let Some(sender) = self.0.lock().get(key) {
            sender.send_replace(());
        }
    }
}

/// One who waits; dropping it ends that.
#[derive(Debug)]
pub(crate) struct Waiter<K: Eq + Hash + Clone> {
    waiting: Arc<Waiting<K>>,
    key: K,
    receiver: watch::Receiver<()>,
}

impl<K: Eq + Hash + Clone> Waiter<K> {
    /// Waits until it happens, or has happened since the last time.
    pub(crate) async fn woken(&mut self) {
        if self.receiver.changed().await.is_err() {
            // The sender lives as long as a receiver does.
            std::future::pending::<()>().await;
        }
    }
}

impl<K: Eq + Hash + Clone> Drop for Waiter<K> {
    fn drop(&mut self) {
        let mut waiting = self.waiting.0.lock();
        if waiting.get(&self.key).is_some_and(|sender| sender.receiver_count() <= 1) {
            waiting.remove(&self.key);
        }
    }
}

#[cfg(test)]
mod tests {
    use ids::CommandType;

    use super::*;
    use crate::domain::{Lane, Transition};

    fn happening(state: State) -> Happening {
        let lane = Lane {
            tenant: TenantId::parse("acme").unwrap(),
            endpoint_id: EndpointId::parse("e1").unwrap(),
            command_type: CommandType::parse("reboot").unwrap(),
        };
        let transition = Transition { state, reason: None, at: chrono::DateTime::UNIX_EPOCH };
        let application = ApplicationName::parse("meter").unwrap();
        Happening { name: CommandName { lane, command_id: 1 }, application, transition }
    }

    #[tokio::test]
    async fn whoever_waits_is_woken_by_what_he_waits_for_also_before_he_waits() {
        let changes = Changes::default();
        let created = happening(State::Created);
        let name = created.name.clone();
        let mut end = changes.end_of(name.clone());
        let mut other = changes.end_of(name.clone());
        let mut arrival = changes.arrival_for(name.lane.endpoint_id.clone());
        changes.tell(&[created]);
        arrival.woken().await;
        assert!(futures::poll!(Box::pin(end.woken())).is_pending());
        changes.tell(&[happening(State::Expired)]);
        end.woken().await;
        other.woken().await;
        drop((end, other, arrival));
        assert!(changes.ends.0.lock().is_empty() && changes.arrivals.0.lock().is_empty());
    }

    #[tokio::test]
    async fn whoever_begins_to_wait_after_the_end_is_woken_at_once() {
        let changes = Changes::default();
        let ended = happening(State::Executed);
        changes.tell(&[ended.clone(), ended.clone()]);
        changes.end_of(ended.name.clone()).woken().await;
        for command_id in 2.. {
            if changes.lately.lock().names.len() == ENDS_MAX {
                break;
            }
            let name = CommandName { command_id, ..ended.name.clone() };
            changes.tell(&[Happening { name, ..ended.clone() }]);
        }
        let last = CommandName { command_id: i32::MAX, ..ended.name.clone() };
        changes.tell(&[Happening { name: last.clone(), ..ended.clone() }]);
        changes.end_of(last).woken().await;
        assert!(futures::poll!(Box::pin(changes.end_of(ended.name).woken())).is_pending());
        let lately = changes.lately.lock();
        assert_eq!((lately.names.len(), lately.order.len()), (ENDS_MAX, ENDS_MAX));
    }
}
