//! NATS subjects (3/ISM).
//!
//! | subject | who hears it |
//! |---|---|
//! | `kaa.v1.service.<instance>.<protocol>.<type>` | one replica of the instance, by a queue group named as the instance; 4/ESP `ExtensionData`: every replica |
//! | `kaa.v1.replica.<replica>.<protocol>.<type>` | that replica |
//! | `kaa.v1.replica.<replica>.<protocol>.<slot>.<type>` | that replica, as the answer to the request of that number |
//! | `kaa.v1.events.<originator>.<entity>.<group>.<type>` | whoever listens |
//!
//! Where one service must not speak as another, the sender's instance stands behind the protocol ([`Message::by`]), so that NATS
//! lets each user publish in its own name only; [`sender`] reads it.
//!
//! The slot is ours: a reply subject is opaque to the one who answers, except that he may replace the last token by the
//! type that he answers with, and so the number stands before it. A NATS "no responders" status comes on the same subject
//! and is thereby matched too.

use std::fmt::Write;

use ids::{InstanceName, ReplicaId};

/// The instances of the platform's own services that others address by name.
pub mod instance {
    /// The gateway.
    pub const KPC: &str = "kpc";
    /// The application register.
    pub const TEKTON: &str = "tekton";
    /// The endpoint register.
    pub const EPR: &str = "epr";
    /// The endpoint tokens.
    pub const CM: &str = "cm";
    /// The tenants, their users and keys.
    pub const TM: &str = "tm";
    /// The clients' credentials.
    pub const CCM: &str = "ccm";
    /// The endpoints' life cycle.
    pub const EPL: &str = "epl";
    /// The time series.
    pub const EPTS: &str = "epts";
    /// The extension for data samples.
    pub const DCX: &str = "dcx";
    /// The extension for metadata.
    pub const EPMX: &str = "epmx";
    /// The extension for commands.
    pub const CEX: &str = "cex";
    /// The platform's own extensions.
    pub const EXTENSIONS: [&str; 3] = [DCX, EPMX, CEX];
}

/// `kaa.v1.service.<instance>.<protocol>.<type>`
#[must_use]
pub fn service(instance: &InstanceName, protocol: &str, message_type: &str) -> String {
    join(["kaa.v1.service", instance.as_str(), protocol, message_type])
}

/// `kaa.v1.replica.<replica>.<protocol>.<type>`
#[must_use]
pub fn replica(replica: &ReplicaId, protocol: &str, message_type: &str) -> String {
    join(["kaa.v1.replica", replica.as_str(), protocol, message_type])
}

/// `kaa.v1.replica.<replica>.<protocol>.<slot>.<type>`; [`parse_reply`] reads it.
#[must_use]
pub fn reply(replica: &ReplicaId, protocol: &str, slot: u64, message_type: &str) -> String {
    let mut subject =
        String::with_capacity(40 + replica.as_str().len() + protocol.len() + message_type.len());
    // Writing to a string does not fail.
    let _ = write!(subject, "kaa.v1.replica.{replica}.{protocol}.{slot}.{message_type}");
    subject
}

/// `kaa.v1.events.<originator>.<entity>.<group>.<type>`
#[must_use]
pub fn event(originator: &InstanceName, entity: &str, group: &str, event_type: &str) -> String {
    join(["kaa.v1.events", originator.as_str(), entity, group, event_type])
}

/// The parts of a subject made by [`reply`] or [`MessageBy::reply`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Reply<'a> {
    /// The replica that asked.
    pub replica: &'a str,
    /// The protocol of the request.
    pub protocol: &'a str,
    /// Who alone may answer, where the subject says so.
    pub sender: Option<&'a str>,
    /// The number of the request.
    pub slot: u64,
    /// The type of the answer, as the one who answered has it.
    pub message_type: &'a str,
}

/// Reads a subject made by [`reply`] or [`MessageBy::reply`]; none for any other subject.
#[must_use]
pub fn parse_reply(subject: &str) -> Option<Reply<'_>> {
    let mut tokens = subject.strip_prefix("kaa.v1.replica.")?.split('.');
    let (replica, protocol, third, fourth) = (tokens.next()?, tokens.next()?, tokens.next()?, tokens.next()?);
    let (sender, slot, message_type) = match tokens.next() {
        None => (None, third, fourth),
        Some(fifth) => (Some(third), fourth, fifth),
    };
    let digits = !slot.is_empty() && slot.bytes().all(|byte| byte.is_ascii_digit());
    let complete = ![replica, protocol, message_type].contains(&"") && sender != Some("");
    if digits && complete && tokens.next().is_none() {
        Some(Reply { replica, protocol, sender, slot: slot.parse().ok()?, message_type })
    } else {
        None
    }
}

/// The sender in a subject made by [`MessageBy`]; none in a subject without one. Which of the two it is cannot be told of the plain
/// [`reply`] to a request: ask only where no such subject occurs.
#[must_use]
pub fn sender(subject: &str) -> Option<&str> {
    let rest = subject.strip_prefix("kaa.v1.service.").or_else(|| subject.strip_prefix("kaa.v1.replica."))?;
    let mut tokens = rest.split('.').skip(2);
    let (sender, next) = (tokens.next()?, tokens.next()?);
    let complete = match tokens.next() {
        None => true,
        Some(_) => next.bytes().all(|byte| byte.is_ascii_digit()) && tokens.next().is_none(),
    };
    (complete && !sender.is_empty()).then_some(sender)
}

/// A type of message that is sent to one service or one replica.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Message {
    /// The protocol's name in subjects.
    pub protocol: &'static str,
    /// The type's name in subjects; more than one token in 17/SCMP.
    pub message_type: &'static str,
}

impl Message {
    /// The subject at a service instance.
    #[must_use]
    pub fn service(self, instance: &InstanceName) -> String {
        service(instance, self.protocol, self.message_type)
    }

    /// The subject at an instance that is known by name, one of [`instance`].
    #[must_use]
    pub fn at(self, instance: &'static str) -> String {
        join(["kaa.v1.service", instance, self.protocol, self.message_type])
    }

    /// The subject at one replica.
    #[must_use]
    pub fn replica(self, to: &ReplicaId) -> String {
        replica(to, self.protocol, self.message_type)
    }

    /// The subject at one replica for the answer to its request of that number.
    #[must_use]
    pub fn reply(self, to: &ReplicaId, slot: u64) -> String {
        reply(to, self.protocol, slot, self.message_type)
    }
}

impl Message {
    /// The same message where its subjects name who sends it.
    #[must_use]
    pub fn by(self, sender: &InstanceName) -> MessageBy<'_> {
        MessageBy { message: self, sender }
    }

    /// Where an instance hears the message in anybody's name: `kaa.v1.service.<instance>.<protocol>.*.<type>`
    #[must_use]
    pub fn by_any(self, instance: &InstanceName) -> String {
        join(["kaa.v1.service", instance.as_str(), self.protocol, "*", self.message_type])
    }
}

/// A type of message in the name of one sender.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MessageBy<'a> {
    message: Message,
    sender: &'a InstanceName,
}

impl MessageBy<'_> {
    /// `kaa.v1.service.<instance>.<protocol>.<sender>.<type>`
    #[must_use]
    pub fn service(self, instance: &InstanceName) -> String {
        self.at_instance(instance.as_str())
    }

    /// The subject at an instance that is known by name, one of [`instance`].
    #[must_use]
    pub fn at(self, instance: &'static str) -> String {
        self.at_instance(instance)
    }

    fn at_instance(self, instance: &str) -> String {
        let Message { protocol, message_type } = self.message;
        join(["kaa.v1.service", instance, protocol, self.sender.as_str(), message_type])
    }

    /// `kaa.v1.replica.<replica>.<protocol>.<sender>.<type>`
    #[must_use]
    pub fn replica(self, to: &ReplicaId) -> String {
        let Message { protocol, message_type } = self.message;
        join(["kaa.v1.replica", to.as_str(), protocol, self.sender.as_str(), message_type])
    }

    /// `kaa.v1.replica.<replica>.<protocol>.<sender>.<slot>.<type>`: where the replica wants the sender's answer to its request of
    /// that number. [`parse_reply`] reads it.
    #[must_use]
    pub fn reply(self, to: &ReplicaId, slot: u64) -> String {
        let (Message { protocol, message_type }, sender) = (self.message, self.sender.as_str());
        let length = 41 + to.as_str().len() + protocol.len() + sender.len() + message_type.len();
        let mut subject = String::with_capacity(length);
        // Writing to a string does not fail.
        let _ = write!(subject, "kaa.v1.replica.{to}.{protocol}.{sender}.{slot}.{message_type}");
        subject
    }
}

/// A type of message that is broadcast.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Event {
    /// What it happened to: `endpoint`, `client`, `service`, `tenant`.
    pub entity: &'static str,
    /// The group of events.
    pub group: &'static str,
    /// What happened.
    pub event_type: &'static str,
}

impl Event {
    /// The subject of events from one originator.
    #[must_use]
    pub fn of(self, originator: &InstanceName) -> String {
        event(originator, self.entity, self.group, self.event_type)
    }

    /// The subject to listen on for events from any originator.
    #[must_use]
    pub fn of_any(self) -> String {
        self.pattern("*")
    }

    pub(crate) fn pattern(self, originator: &str) -> String {
        join(["kaa.v1.events", originator, self.entity, self.group, self.event_type])
    }
}

/// A type of message that is broadcast, whose group is the id of what it happened to (18/EFE).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct GroupedEvent {
    /// What it happened to: `endpoint-filter`.
    pub entity: &'static str,
    /// What happened.
    pub event_type: &'static str,
}

impl GroupedEvent {
    /// The subject of events from one originator about one group, which must be one token: no dots, no spaces.
    #[must_use]
    pub fn of(self, originator: &InstanceName, group: &str) -> String {
        event(originator, self.entity, group, self.event_type)
    }

    /// The subject to listen on for events from any originator about any group.
    #[must_use]
    pub fn of_any(self) -> String {
        self.pattern("*", "*")
    }

    pub(crate) fn pattern(self, originator: &str, group: &str) -> String {
        join(["kaa.v1.events", originator, self.entity, group, self.event_type])
    }
}

pub(crate) fn join<const N: usize>(tokens: [&str; N]) -> String {
    tokens.join(".")
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_reply_is_read_whatever_type_it_has() {
        let subject = "kaa.v1.replica.kpc-0.esp.42.ExtensionData";
        let replica = ReplicaId::parse("kpc-0").unwrap();
        assert_eq!(reply(&replica, "esp", 42, "ExtensionData"), subject);
        let other = subject.replace("ExtensionData", "Other");
        let parsed = parse_reply(&other).unwrap();
        assert_eq!(
            (parsed.replica, parsed.protocol, parsed.slot, parsed.message_type),
            ("kpc-0", "esp", 42, "Other")
        );
        assert_eq!(parsed.sender, None);
    }

    #[test]
    fn a_subject_in_somebodys_name_tells_whose() {
        let (replica, dcx) = (ReplicaId::parse("kpc-0").unwrap(), InstanceName::parse("dcx").unwrap());
        let data = Message { protocol: "esp", message_type: "ExtensionData" }.by(&dcx);
        for (subject, expected) in [
            (data.at(instance::KPC), "kaa.v1.service.kpc.esp.dcx.ExtensionData"),
            (data.replica(&replica), "kaa.v1.replica.kpc-0.esp.dcx.ExtensionData"),
            (data.reply(&replica, 42), "kaa.v1.replica.kpc-0.esp.dcx.42.ExtensionData"),
        ] {
            assert_eq!(subject, expected);
            assert_eq!(sender(&subject), Some("dcx"));
        }
        let reply = data.reply(&replica, 42);
        let parsed = parse_reply(&reply).unwrap();
        assert_eq!((parsed.sender, parsed.slot, parsed.message_type), (Some("dcx"), 42, "ExtensionData"));
        for subject in [
            "kaa.v1.service.kpc.esp.ExtensionData",
            "kaa.v1.replica.kpc-0.esp.ExtensionData",
            "kaa.v1.service.kpc.esp..ExtensionData",
            "kaa.v1.replica.kpc-0.esp.dcx.epmx.ExtensionData",
            "kaa.v1.replica.kpc-0.esp.dcx.42.ExtensionData.more",
            "kaa.v1.events.dcx.a.b.c",
        ] {
            assert_eq!(sender(subject), None, "{subject}");
        }
        // A name of digits is a name, not a number.
        assert_eq!(sender("kaa.v1.replica.kpc-0.esp.42.ExtensionData"), Some("42"));
    }

    #[test]
    fn other_subjects_are_no_replies() {
        for subject in [
            "",
            "kaa.v1.replica.r.esp.ExtensionData",
            "kaa.v1.replica.r.esp.1.A.B",
            "kaa.v1.replica.r.esp.dcx.1.A.B",
            "kaa.v1.replica.r.esp..1.A",
            "kaa.v1.replica.r.esp.+1.A",
            "kaa.v1.replica.r.esp.-1.A",
            "kaa.v1.replica.r.esp..A",
            "kaa.v1.replica..esp.1.A",
            "kaa.v1.replica.r.esp.18446744073709551616.A",
            "kaa.v1.service.r.esp.1.A",
        ] {
            assert_eq!(parse_reply(subject), None, "{subject}");
        }
    }

    proptest! {
        #[test]
        fn every_reply_is_read_back(replica in "[A-Za-z0-9_~-]{1,20}", slot: u64) {
            let subject = reply(&ReplicaId::parse(&replica).unwrap(), "ecap", slot, "ep-token-response");
            let expected =
                Reply { replica: &replica, protocol: "ecap", sender: None, slot, message_type: "ep-token-response" };
            prop_assert_eq!(parse_reply(&subject), Some(expected));
        }

        #[test]
        fn every_reply_in_a_name_is_read_back(replica in "[A-Za-z0-9_~-]{1,20}", name in "[a-z0-9_-]{1,20}", slot: u64) {
            let (to, by) = (ReplicaId::parse(&replica).unwrap(), InstanceName::parse(&name).unwrap());
            let subject = Message { protocol: "esp", message_type: "ExtensionData" }.by(&by).reply(&to, slot);
            let expected =
                Reply { replica: &replica, protocol: "esp", sender: Some(&name), slot, message_type: "ExtensionData" };
            prop_assert_eq!(parse_reply(&subject), Some(expected));
            prop_assert_eq!(sender(&subject), Some(name.as_str()));
        }

        #[test]
        fn nothing_breaks_the_reader(subject in "(kaa\\.v1\\.replica\\.)?[a-z0-9.]{0,30}") {
            let _ = (parse_reply(&subject), sender(&subject));
        }
    }
}
