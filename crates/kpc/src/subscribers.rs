//! Which connections subscribed to which topics of extensions, so that a message finds them without looking
//! at all.

use std::collections::hash_map::Entry;
use std::collections::{BTreeSet, HashSet};
use std::sync::Arc;

use ids::{InstanceName, TenantId};
use kp1::TopicFilter;

use crate::connection::{Asked, Connection, ConnectionId, Rejected, Subscription};
use crate::connections::Connections;
use crate::outbox::Qos;
use crate::shards::Shards;

/// Connections by extension, tenant and filter.
#[derive(Debug)]
pub(crate) struct Subscribers {
    connections: Shards<Box<str>, HashSet<ConnectionId>>,
}

impl Subscribers {
    pub(crate) fn new() -> Self {
        Self { connections: Shards::new() }
    }

    pub(crate) fn add(&self, served_by: &InstanceName, tenant: &TenantId, filter: &str, id: ConnectionId) {
        let key = key(served_by, tenant, filter);
        self.connections.lock(&*key).entry(key.into()).or_default().insert(id);
    }

    pub(crate) fn remove(&self, served_by: &InstanceName, tenant: &TenantId, filter: &str, id: ConnectionId) {
        let key = key(served_by, tenant, filter);
        if let Entry::Occupied(mut found) = self.connections.lock(&*key).entry(key.into()) {
            found.get_mut().remove(&id);
            if found.get().is_empty() {
                found.remove();
            }
        }
    }

    /// The connections of a tenant that subscribed with one of the filters.
    pub(crate) fn of(
        &self,
        served_by: &InstanceName,
        tenant: &TenantId,
        filters: &BTreeSet<String>,
    ) -> BTreeSet<ConnectionId> {
        let mut all = BTreeSet::new();
        for filter in filters {
            let key = key(served_by, tenant, filter);
            all.extend(self.connections.lock(&*key).get(&*key).into_iter().flatten().copied());
        }
        all
    }
}

/// No name and no filter holds a zero.
fn key(served_by: &InstanceName, tenant: &TenantId, filter: &str) -> String {
    format!("{served_by}\0{tenant}\0{filter}")
}

impl Connections {
    /// Notes that an extension is asked whether a client may subscribe. From now on the connection is found
    /// by the topics, and what is sent to them is held back until the answer.
    pub(crate) fn ask_topic(
        &self,
        connection: &Arc<Connection>,
        filter: &TopicFilter,
        served_by: &InstanceName,
    ) -> Result<Asked, Rejected> {
        let mut state = connection.state.lock();
        if let Some(other) = connection.leave_other(&mut state, filter, served_by) {
            self.forget_subscriber(connection, &other);
        }
        let asked = connection.ask(&mut state, filter, served_by)?;
        if let Some(client) = &connection.client {
            self.subscribers.add(served_by, &client.tenant, filter.as_str(), connection.id);
        }
        Ok(asked)
    }

    /// Notes what the extension has answered; its messages are sent to the client from now on when it grants.
    /// Call it on the thread of the connection right before the SUBACK is handed over.
    pub(crate) fn answer_topic(&self, connection: &Arc<Connection>, asked: Asked, granted: Option<Qos>) {
        let mut state = connection.state.lock();
        if let Some(removed) = connection.answer(&mut state, asked, granted) {
            self.forget_subscriber(connection, &removed);
        }
    }

    /// Ends a subscription; returns whether there was one.
    pub(crate) fn unsubscribe(&self, connection: &Arc<Connection>, text: &str) -> bool {
        let mut state = connection.state.lock();
        let removed = connection.unsubscribe(&mut state, text);
        if let Some(removed) = &removed {
            self.forget_subscriber(connection, removed);
        }
        removed.is_some()
    }

    pub(crate) fn forget_subscriber(&self, connection: &Connection, subscription: &Subscription) {
        if let (Some(served_by), Some(client)) = (&subscription.served_by, &connection.client) {
            let filter = subscription.filter.as_str();
            self.subscribers.remove(served_by, &client.tenant, filter, connection.id);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clients::tests::client;
    use crate::config::Limits;
    use crate::connection::Newcomer;
    use crate::connections::tests::{connections, newcomer};
    use crate::outbox::{Item, Outgoing};

    #[test]
    fn connections_are_found_by_their_filters_within_their_tenant_and_extension() {
        let all = Subscribers::new();
        let name = |name| InstanceName::parse(name).unwrap();
        let tenant = |id| TenantId::parse(id).unwrap();
        let (cex, other, acme, umbrella) = (name("cex"), name("other"), tenant("acme"), tenant("umbrella"));
        let (one, two) = (ConnectionId(1), ConnectionId(2));
        all.add(&cex, &acme, "cmd/t/req", one);
        all.add(&cex, &acme, "cmd/+/req", one);
        all.add(&cex, &acme, "cmd/+/req", two);
        let filters: BTreeSet<_> = ["cmd/t/req", "cmd/+/req"].map(str::to_owned).into();
        assert_eq!(all.of(&cex, &acme, &filters), BTreeSet::from([one, two]));
        assert!(all.of(&cex, &umbrella, &filters).is_empty() && all.of(&other, &acme, &filters).is_empty());
        all.remove(&cex, &acme, "cmd/+/req", one);
        all.remove(&cex, &acme, "cmd/+/req", two);
        assert_eq!(all.of(&cex, &acme, &filters), BTreeSet::from([one]));
        all.remove(&cex, &acme, "cmd/t/req", one);
        assert!(all.connections.each().all(|map| map.is_empty()));
    }

    /// An extension is asked about one filter after the other; what comes meanwhile waits for its answers.
    #[tokio::test]
    async fn what_comes_before_the_answer_is_held_back_and_what_is_refused_is_dropped() {
        let all = connections(Limits { outbox_messages: 3, ..Limits::default() });
        let (newcomer, _worker) = newcomer(Some("c"));
        let known = Some(Box::new(client(Some("b"), None)));
        let connection = all.open(Newcomer { client: known, ..newcomer }).unwrap();
        let (cex, other) = (InstanceName::parse("cex").unwrap(), InstanceName::parse("other").unwrap());
        let tenant = TenantId::parse("acme").unwrap();
        let filter = |text| TopicFilter::parse(text).unwrap();
        let deliver = |by, topic: &str| {
            connection.deliver(by, Outgoing::new(topic.into(), bytes::Bytes::new(), Qos::AtLeastOnce))
        };
        let next = || match connection.next_item() {
            Some(Item::Send(message)) => Some((message.topic.to_string(), message.qos)),
            _ => None,
        };
        let found = |text: &str| !all.subscribers.of(&cex, &tenant, &[text.to_owned()].into()).is_empty();
        assert!(!deliver(&cex, "a/1"));
        let ask = |text, by| all.ask_topic(&connection, &filter(text), by).unwrap();
        let answer = |asked, granted| all.answer_topic(&connection, asked, granted);
        let (a, b) = (ask("a/+", &cex), ask("b/1", &cex));
        assert!(deliver(&cex, "a/1") && deliver(&cex, "b/1") && deliver(&cex, "a/2"));
        assert!(!deliver(&cex, "a/3"), "no more is held than an outbox holds");
        assert!(!deliver(&other, "a/1") && next().is_none());
        answer(a, Some(Qos::AtMostOnce));
        answer(b, None);
        assert!(deliver(&cex, "a/4") && !deliver(&cex, "b/1"));
        let sent: Vec<_> = std::iter::from_fn(next).collect();
        assert_eq!(sent, ["a/1", "a/2", "a/4"].map(|topic| (topic.to_owned(), Qos::AtMostOnce)));
        assert!(found("a/+") && !found("b/1"));

        // Asked twice at once: the grant counts, whatever comes first.
        let (one, two) = (ask("c/1", &cex), ask("c/1", &cex));
        answer(one, None);
        answer(two, Some(Qos::AtLeastOnce));
        assert!(deliver(&cex, "c/1") && next().is_some());
        // Ended before the answer: that comes too late, and is none to the question that came after.
        let ended = ask("d/1", &cex);
        assert!(all.unsubscribe(&connection, "d/1") && !all.unsubscribe(&connection, "d/1"));
        answer(ended, Some(Qos::AtLeastOnce));
        assert!(!deliver(&cex, "d/1") && !found("d/1"));
        let again = ask("d/1", &cex);
        answer(ended, None);
        answer(again, Some(Qos::AtLeastOnce));
        assert!(deliver(&cex, "d/1") && next().is_some());
        // Another extension serves it by now.
        let elsewhere = ask("d/1", &other);
        answer(elsewhere, Some(Qos::AtLeastOnce));
        assert!(deliver(&other, "d/1") && next().is_some() && !deliver(&cex, "d/1") && !found("d/1"));
        assert_eq!(connection.subscribed("a/1"), None, "no topic of 1/KP");
        all.end(&connection);
        assert!(!found("a/+") && !found("c/1") && !deliver(&cex, "a/1"));
        assert_eq!(all.ask_topic(&connection, &filter("a/+"), &cex), Err(Rejected::Ended));
        assert!(all.subscribers.connections.each().all(|map| map.is_empty()));
    }
}
