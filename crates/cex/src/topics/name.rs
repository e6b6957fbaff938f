//! The topics that are served outside of 1/KP.

use ids::{CommandType, ThingName};

use crate::error::Error;

/// What the gateway hands over: a name in braces stands for one level.
pub(crate) const PATTERNS: &[&str] =
    &["cmd/{thing}/req", "cmd/{thing}/resp", "{group}/request", "{group}/response"];

/// The type of the commands of one thing, and the first level of their topics.
const THING_COMMANDS: &str = "cmd";
/// Names that no group may have: the first would share its commands with things, the second is 1/KP's.
const RESERVED: [&str; 2] = [THING_COMMANDS, "kp1"];

/// A topic, or a filter of topics.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Topic {
    /// Where devices listen for commands.
    Requests(Target),
    /// Where applications listen for results.
    Responses(Target),
}

/// Who is commanded on a topic.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Target {
    Thing {
        thing: ThingName,
        command_type: CommandType,
    },
    /// Only in filters.
    AllThings,
    Group(CommandType),
}

impl Topic {
    /// Takes a topic or a filter apart.
    pub(super) fn parse(topic: &str) -> Result<Self, Error> {
        let levels: Vec<&str> = topic.split('/').take(4).collect();
        match levels.as_slice() {
            [THING_COMMANDS, thing, "req"] => Ok(Self::Requests(Target::thing(thing)?)),
            [THING_COMMANDS, thing, "resp"] => Ok(Self::Responses(Target::thing(thing)?)),
            [group, "request"] => Ok(Self::Requests(Target::group(group)?)),
            [group, "response"] => Ok(Self::Responses(Target::group(group)?)),
            _ => Err(Error::Refused(format!("commands have the topics {}", PATTERNS.join(", ")))),
        }
    }
}

impl Target {
    fn thing(name: &str) -> Result<Self, Error> {
        if name == "+" {
            return Ok(Self::AllThings);
        }
        let thing = ThingName::parse(name).map_err(refused)?;
        Ok(Self::Thing { thing, command_type: CommandType::parse(THING_COMMANDS).map_err(refused)? })
    }

    fn group(name: &str) -> Result<Self, Error> {
        group_name(name).map(Self::Group)
    }

    /// Where results of commands to it are awaited.
    pub(super) fn response_topic(&self) -> String {
        match self {
            Self::Thing { thing, .. } => format!("{THING_COMMANDS}/{thing}/resp"),
            Self::AllThings => format!("{THING_COMMANDS}/+/resp"),
            Self::Group(group) => format!("{group}/response"),
        }
    }
}

/// Where the thing listens for commands.
pub(super) fn request_topic(thing: &ThingName) -> String {
    format!("{THING_COMMANDS}/{thing}/req")
}

/// The name of a group, which is the type of its commands.
pub(crate) fn group_name(name: &str) -> Result<CommandType, Error> {
    if RESERVED.contains(&name) {
        return Err(Error::Refused(format!("{name} is no name for a group: it is reserved; choose another")));
    }
    CommandType::parse(name).map_err(|error| {
        Error::Refused(format!("a group's name is the type of its commands, and {error}; name one group"))
    })
}

fn refused(error: ids::InvalidId) -> Error {
    Error::Refused(error.to_string())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn thing(name: &str) -> Target {
        let command_type = CommandType::parse("cmd").unwrap();
        Target::Thing { thing: ThingName::parse(name).unwrap(), command_type }
    }

    #[test]
    fn topics_say_who_is_commanded() {
        let group = Target::Group(CommandType::parse("floor-1").unwrap());
        for (topic, parsed) in [
            ("cmd/device1/req", Topic::Requests(thing("device1"))),
            ("cmd/device1/resp", Topic::Responses(thing("device1"))),
            ("cmd/a.b:c/resp", Topic::Responses(thing("a.b:c"))),
            ("cmd/+/resp", Topic::Responses(Target::AllThings)),
            ("floor-1/request", Topic::Requests(group.clone())),
            ("floor-1/response", Topic::Responses(group)),
        ] {
            assert_eq!(Topic::parse(topic).unwrap(), parsed, "{topic}");
        }
        for topic in [
            "",
            "cmd",
            "cmd//req",
            "cmd/a/b/req",
            "cmd/a",
            "+/request",
            "#",
            "cmd/#",
            "cmd/request",
            "kp1/response",
            "a b/request",
            "x/req",
            "/cmd/a/req",
            "cmd/a/req/",
        ] {
            assert!(matches!(Topic::parse(topic), Err(Error::Refused(_))), "{topic}");
        }
    }

    proptest! {
        #[test]
        fn no_topic_is_too_odd(topic in ".*") {
            let _ = Topic::parse(&topic);
        }

        #[test]
        fn a_thing_is_found_in_its_own_topics(name in "[A-Za-z0-9._~:-]{1,128}") {
            let requests = Topic::parse(&format!("cmd/{name}/req")).unwrap();
            prop_assert_eq!(requests, Topic::Requests(thing(&name)));
            prop_assert_eq!(Topic::parse(&thing(&name).response_topic()).unwrap(), Topic::Responses(thing(&name)));
        }
    }
}
