//! What a service may do on NATS: the least that it needs.
//!
//! With one account user per service, the server refuses the rest, so that a service that was taken over cannot speak as another.
//! The lists are written in terms of the messages of `ism`; `<own>` stands for the service's instance until that is known.

use std::collections::BTreeSet;

use ids::InstanceName;
use ism::config::{
    CONFIGURATION_REQUEST, CONFIGURATION_RESPONSE, SERVICE_INSTANCE_ANNOUNCEMENT,
    SERVICE_INSTANCE_ANNOUNCEMENT_RESPONSE,
};
use ism::scmp::CONFIGURATION_EVENTS;
use ism::subject::{Event, GroupedEvent, Message, instance};

/// Stands for the service's own instance.
const OWN: &str = "<own>";
/// Messages of a replica to itself, by which it learns how far the server is.
const SELF_PROTOCOL: &str = "runtime";
/// A message of a replica to itself.
pub(crate) const ROUND_TRIP: Message = Message { protocol: SELF_PROTOCOL, message_type: "round-trip" };

/// What a service may publish and subscribe to.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Subjects {
    publish: BTreeSet<String>,
    subscribe: BTreeSet<String>,
    /// Protocols of which messages come to the replicas of the service.
    protocols: BTreeSet<&'static str>,
    /// What comes to the replicas: the last tokens of `kaa.v1.replica.<replica>.<...>`.
    received: BTreeSet<String>,
}

/// The subjects of one NATS user.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Permissions {
    /// Where it may publish.
    pub publish: Vec<String>,
    /// Where it may subscribe.
    pub subscribe: Vec<String>,
}

impl Subjects {
    /// Nothing but what every service needs.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
            // No more than that type: else everybody could send everybody's replicas what looks like another message.
            .answers(ROUND_TRIP)
            .receives_as(SELF_PROTOCOL, format!("{SELF_PROTOCOL}.*.{}", ROUND_TRIP.message_type))
            // Where JetStream answers; the prefix is the service's own.
            .subscribes(format!("{}.>", inbox_prefix(OWN)))
    }

    /// Asks an instance, and hears its answers.
    #[must_use]
    pub fn asks(self, instance: &str, request: Message) -> Self {
        let Message { protocol, message_type } = request;
        self.publishes(format!("kaa.v1.service.{instance}.{protocol}.{message_type}")).receives(protocol)
    }

    /// Answers requests to the own instance.
    #[must_use]
    pub fn serves(self, request: Message) -> Self {
        let Message { protocol, message_type } = request;
        self.subscribes(format!("kaa.v1.service.{OWN}.{protocol}.{message_type}"))
    }

    /// Sends answers of this type to those who asked.
    #[must_use]
    pub fn answers(self, response: Message) -> Self {
        let Message { protocol, message_type } = response;
        self.publishes(format!("kaa.v1.replica.*.{protocol}.*.{message_type}"))
    }

    /// Sends messages of this type to replicas of other services.
    #[must_use]
    pub fn tells(self, message: Message) -> Self {
        let Message { protocol, message_type } = message;
        self.publishes(format!("kaa.v1.replica.*.{protocol}.{message_type}"))
    }

    /// Gets messages of this protocol sent to its replicas, the answers to events among them.
    #[must_use]
    pub fn receives(self, protocol: &'static str) -> Self {
        self.receives_as(protocol, format!("{protocol}.>"))
    }

    fn receives_as(mut self, protocol: &'static str, last: String) -> Self {
        self.protocols.insert(protocol);
        self.received.insert(last.clone());
        self.subscribes(format!("kaa.v1.replica.*.{last}"))
    }

    /// Asks an instance, and hears answers of this type only: of a protocol in which others are told what is not for everybody.
    #[must_use]
    pub fn asks_for(self, instance: &str, request: Message, answer: Message) -> Self {
        let Message { protocol, message_type } = request;
        self.publishes(format!("kaa.v1.service.{instance}.{protocol}.{message_type}"))
            .receives_as(answer.protocol, format!("{}.*.{}", answer.protocol, answer.message_type))
    }

    /// Sends answers whose subject names who answers to those who asked; in no other name than its own.
    #[must_use]
    pub fn answers_in_own_name(self, response: Message) -> Self {
        let Message { protocol, message_type } = response;
        self.publishes(format!("kaa.v1.replica.*.{protocol}.{OWN}.*.{message_type}"))
    }

    /// Sends messages whose subject names their sender to replicas of other services; in no other name than its own.
    #[must_use]
    pub fn tells_in_own_name(self, message: Message) -> Self {
        let Message { protocol, message_type } = message;
        self.publishes(format!("kaa.v1.replica.*.{protocol}.{OWN}.{message_type}"))
    }

    /// Sends messages whose subject names their sender to an instance, in no other name than its own, and hears answers of this
    /// type only.
    #[must_use]
    pub fn asks_in_own_name(self, instance: &str, request: Message, answer: Message) -> Self {
        let Message { protocol, message_type } = request;
        self.publishes(format!("kaa.v1.service.{instance}.{protocol}.{OWN}.{message_type}"))
            .receives_as(answer.protocol, format!("{}.*.{}", answer.protocol, answer.message_type))
    }

    /// Takes messages to the own instance whose subject names their sender, whoever that is.
    #[must_use]
    pub fn serves_by_name(self, request: Message) -> Self {
        let Message { protocol, message_type } = request;
        self.subscribes(format!("kaa.v1.service.{OWN}.{protocol}.*.{message_type}"))
    }

    /// Publishes events.
    #[must_use]
    pub fn emits(self, event: Event) -> Self {
        let Event { entity, group, event_type } = event;
        self.publishes(format!("kaa.v1.events.{OWN}.{entity}.{group}.{event_type}"))
    }

    /// Publishes events whose subject ends with what they are about.
    #[must_use]
    pub fn emits_about(self, event: Event) -> Self {
        let Event { entity, group, event_type } = event;
        self.publishes(format!("kaa.v1.events.{OWN}.{entity}.{group}.{event_type}.*"))
    }

    /// Publishes events whose group is an id.
    #[must_use]
    pub fn emits_grouped(self, event: GroupedEvent) -> Self {
        let GroupedEvent { entity, event_type } = event;
        self.publishes(format!("kaa.v1.events.{OWN}.{entity}.*.{event_type}"))
    }

    /// Hears events of any originator.
    #[must_use]
    pub fn hears(self, event: Event) -> Self {
        let Event { entity, group, event_type } = event;
        self.subscribes(format!("kaa.v1.events.*.{entity}.{group}.{event_type}"))
    }

    /// Hears events of any originator whose subject ends with what they are about.
    #[must_use]
    pub fn hears_about(self, event: Event) -> Self {
        let Event { entity, group, event_type } = event;
        self.subscribes(format!("kaa.v1.events.*.{entity}.{group}.{event_type}.*"))
    }

    /// Hears events of any originator whose group is an id.
    #[must_use]
    pub fn hears_grouped(self, event: GroupedEvent) -> Self {
        let GroupedEvent { entity, event_type } = event;
        self.subscribes(format!("kaa.v1.events.*.{entity}.*.{event_type}"))
    }

    /// Reads [`crate::Applications`] or [`crate::Tenants`].
    #[must_use]
    pub fn reads_configuration(self) -> Self {
        debug_assert_eq!(CONFIGURATION_REQUEST.protocol, CONFIGURATION_RESPONSE.protocol);
        self.asks(instance::TEKTON, CONFIGURATION_REQUEST).subscribes(CONFIGURATION_EVENTS)
    }

    /// Tells the application register of itself, as a service with a [`crate::Description`] does.
    #[must_use]
    pub(crate) fn announces_itself(self) -> Self {
        debug_assert_eq!(
            SERVICE_INSTANCE_ANNOUNCEMENT.protocol,
            SERVICE_INSTANCE_ANNOUNCEMENT_RESPONSE.protocol
        );
        self.asks(instance::TEKTON, SERVICE_INSTANCE_ANNOUNCEMENT)
    }

    /// Publishes to a subject that the other methods do not make. `<own>` in it stands for the own instance.
    #[must_use]
    pub fn publishes(mut self, subject: impl Into<String>) -> Self {
        self.publish.insert(subject.into());
        self
    }

    /// Subscribes to a subject that the other methods do not make. `<own>` in it stands for the own instance.
    #[must_use]
    pub fn subscribes(mut self, subject: impl Into<String>) -> Self {
        self.subscribe.insert(subject.into());
        self
    }

    /// The permissions of an instance.
    #[must_use]
    pub fn of(&self, instance: &InstanceName) -> Permissions {
        let named = |subjects: &BTreeSet<String>| {
            subjects.iter().map(|subject| subject.replace(OWN, instance.as_str())).collect()
        };
        Permissions { publish: named(&self.publish), subscribe: named(&self.subscribe) }
    }

    /// What comes to the replicas: the last tokens of `kaa.v1.replica.<replica>.<...>`.
    pub(crate) fn received(&self) -> &BTreeSet<String> {
        &self.received
    }

    /// The protocols of which messages come to the replicas.
    pub(crate) fn protocols(&self) -> &BTreeSet<&'static str> {
        &self.protocols
    }
}

/// Where JetStream's answers to an instance come in. A prefix of its own keeps others from reading them.
pub(crate) fn inbox_prefix(instance: &str) -> String {
    format!("_INBOX_{instance}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use ism::ecap::{EP_TOKEN_REQUEST, EP_TOKEN_RESPONSE, EP_TOKEN_REVOKED};

    #[test]
    fn both_ends_of_an_exchange_are_allowed_what_they_need() {
        let instance = |name| InstanceName::parse(name).unwrap();
        let cm = Subjects::new().serves(EP_TOKEN_REQUEST).answers(EP_TOKEN_RESPONSE).emits(EP_TOKEN_REVOKED);
        let cm = cm.of(&instance("cm"));
        assert!(cm.subscribe.contains(&"kaa.v1.service.cm.ecap.ep-token-request".to_owned()));
        assert!(cm.publish.contains(&"kaa.v1.replica.*.ecap.*.ep-token-response".to_owned()));
        assert!(cm.publish.contains(&"kaa.v1.events.cm.endpoint.token.revoked".to_owned()));
        let kpc = Subjects::new().asks("cm", EP_TOKEN_REQUEST).hears(EP_TOKEN_REVOKED).of(&instance("kpc"));
        assert!(kpc.publish.contains(&"kaa.v1.service.cm.ecap.ep-token-request".to_owned()));
        assert!(kpc.subscribe.contains(&"kaa.v1.replica.*.ecap.>".to_owned()));
        assert!(kpc.subscribe.contains(&"kaa.v1.events.*.endpoint.token.revoked".to_owned()));
        assert!(kpc.subscribe.contains(&"_INBOX_kpc.>".to_owned()));
        assert!(!kpc.publish.iter().any(|subject| subject.contains("ep-token-response")));
    }

    #[test]
    fn whoever_speaks_in_his_name_speaks_in_no_other() {
        let data = Message { protocol: "esp", message_type: "ExtensionData" };
        let report = Message { protocol: "esp", message_type: "DeliveryReport" };
        let dcx = Subjects::default()
            .answers_in_own_name(data)
            .tells_in_own_name(data)
            .asks_in_own_name("kpc", data, report)
            .of(&InstanceName::parse("dcx").unwrap());
        let expected = [
            "kaa.v1.replica.*.esp.dcx.*.ExtensionData",
            "kaa.v1.replica.*.esp.dcx.ExtensionData",
            "kaa.v1.service.kpc.esp.dcx.ExtensionData",
        ];
        assert_eq!(dcx.publish, expected);
        assert_eq!(dcx.subscribe, ["kaa.v1.replica.*.esp.*.DeliveryReport"]);
        let kpc = Subjects::default().serves_by_name(data).of(&InstanceName::parse("kpc").unwrap());
        assert_eq!(kpc.subscribe, ["kaa.v1.service.kpc.esp.*.ExtensionData"]);
    }
}
