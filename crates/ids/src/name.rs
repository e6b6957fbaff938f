//! Identifiers that are strings.

use std::fmt;
use std::sync::Arc;

/// Why a string is not a valid identifier.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{kind} must be {rule}")]
pub struct InvalidId {
    /// The kind of identifier, in words.
    pub kind: &'static str,
    /// The rule that the string breaks.
    pub rule: &'static str,
}

/// Declares a string identifier: its words, its rule, the longest length in bytes and the test of the rule.
macro_rules! name {
    ($(#[$doc:meta])* $name:ident, $kind:literal, $max:literal, $rule:literal, $valid:expr) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub struct $name(Arc<str>);

        impl $name {
            /// Checks the string and makes an identifier of it.
            pub fn parse(text: &str) -> Result<Self, InvalidId> {
                let valid: fn(&str) -> bool = $valid;
                if text.is_empty() || text.len() > $max || !valid(text) {
                    return Err(InvalidId { kind: $kind, rule: $rule });
                }
                Ok(Self(text.into()))
            }

            /// The identifier as text.
            #[must_use]
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl std::str::FromStr for $name {
            type Err = InvalidId;

            fn from_str(text: &str) -> Result<Self, InvalidId> {
                Self::parse(text)
            }
        }

        impl TryFrom<String> for $name {
            type Error = InvalidId;

            fn try_from(text: String) -> Result<Self, InvalidId> {
                Self::parse(&text)
            }
        }

        impl std::borrow::Borrow<str> for $name {
            fn borrow(&self) -> &str {
                &self.0
            }
        }

        impl serde::Serialize for $name {
            fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.serialize_str(&self.0)
            }
        }

        impl<'de> serde::Deserialize<'de> for $name {
            fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let text = <std::borrow::Cow<'de, str>>::deserialize(deserializer)?;
                Self::parse(&text).map_err(serde::de::Error::custom)
            }
        }
    };
}

/// Identifiers that may be printed.
macro_rules! printable {
    ($($name:ident),*) => {$(
        impl fmt::Display for $name {
            fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                formatter.write_str(&self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Debug::fmt(&*self.0, formatter)
            }
        }
    )*};
}

fn all(text: &str, allowed: fn(u8) -> bool) -> bool {
    text.bytes().all(allowed)
}

fn is_name_byte(byte: u8) -> bool {
    matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'-' | b'_')
}

fn is_opaque_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'~')
}

name!(
    /// The tenant that owns applications and users.
    TenantId, "a tenant id", 64, "1 to 64 characters out of a-z 0-9 - _", |text| all(text, is_name_byte)
);
name!(
    /// The unique name of an application.
    ApplicationName, "an application name", 128, "1 to 128 characters out of a-z 0-9 - _", |text| all(text, is_name_byte)
);
name!(
    /// The unique name of an application version, `<application>-<suffix>` when the platform made it.
    AppVersionName,
    "an application version name", 160, "1 to 160 characters out of a-z 0-9 - _", |text| all(text, is_name_byte)
);
name!(
    /// The endpoint id: a UUID when generated, unique in the platform, never changed.
    EndpointId, "an endpoint id", 128, "1 to 128 characters out of A-Z a-z 0-9 . _ ~ -",
    |text| all(text, |byte| is_opaque_byte(byte) || byte == b'.')
);
name!(
    /// The endpoint token, the secret that a device shows in every path. It never appears in debug output.
    EndpointToken, "an endpoint token", 256, "1 to 256 bytes without control characters, space, + # / . * >",
    |text| text.chars().all(|c| !c.is_control() && !c.is_whitespace() && !matches!(c, '+' | '#' | '/' | '.' | '*' | '>'))
);
name!(
    /// The type of a command: what the endpoint is to do (11/CEP).
    CommandType, "a command type", 64, "1 to 64 characters out of A-Z a-z 0-9 - _ ~", |text| all(text, is_opaque_byte)
);
name!(
    /// The name of a thing: an endpoint in topics such as `cmd/<thing>/req`.
    ThingName, "a thing name", 128, "1 to 128 characters out of A-Z a-z 0-9 . _ ~ - :",
    |text| all(text, |byte| is_opaque_byte(byte) || matches!(byte, b'.' | b':'))
);
name!(
    /// The id under which a token is managed; not a secret.
    TokenId, "an endpoint token id", 64, "1 to 64 characters out of A-Z a-z 0-9 - _ ~", |text| all(text, is_opaque_byte)
);
name!(
    /// The name of a service instance (3/ISM), for extensions also the level in a device's path.
    InstanceName, "a service instance name", 64, "1 to 64 characters out of A-Z a-z 0-9 - _ ~", |text| all(text, is_opaque_byte)
);
name!(
    /// The id of one replica of a service instance (3/ISM).
    ReplicaId, "a replica id", 128, "1 to 128 characters out of A-Z a-z 0-9 - _ ~", |text| all(text, is_opaque_byte)
);
name!(
    /// The id that follows a message through all services (3/ISM).
    CorrelationId, "a correlation id", 128, "1 to 128 printable characters without space",
    |text| all(text, |byte| byte.is_ascii_graphic())
);
name!(
    /// The name of a time series; `auto~<field>` when extracted automatically.
    TimeSeriesName, "a time series name", 128, "1 to 128 characters out of A-Z a-z 0-9 - _ ~", |text| all(text, is_opaque_byte)
);

printable!(
    TenantId,
    ApplicationName,
    AppVersionName,
    EndpointId,
    TokenId,
    InstanceName,
    ReplicaId,
    CorrelationId,
    TimeSeriesName,
    CommandType,
    ThingName
);

impl fmt::Debug for EndpointToken {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("EndpointToken(***)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn names_keep_to_their_rules() {
        assert!(AppVersionName::parse("bqf1uai03p4cop6jr3u0-v7").is_ok());
        assert!(EndpointId::parse("7ad263ec-3347-4c7d-af89-50c67061367a").is_ok());
        assert!(EndpointToken::parse("JTjdbENzHh").is_ok());
        assert!(TimeSeriesName::parse("auto~temperature").is_ok());
        for bad in ["", "a.b", "a b", "a/b", "a*", "a>", "Ä"] {
            assert!(ApplicationName::parse(bad).is_err(), "{bad:?}");
            assert!(InstanceName::parse(bad).is_err(), "{bad:?}");
        }
        for bad in ["", "a+b", "a#", "a/b", "a.b", "a\n", "a b"] {
            assert!(EndpointToken::parse(bad).is_err(), "{bad:?}");
        }
        assert!(ApplicationName::parse(&"a".repeat(129)).is_err());
    }

    #[test]
    fn a_token_does_not_show_in_debug_output() {
        let token = EndpointToken::parse("secret").unwrap();
        assert_eq!(format!("{token:?}"), "EndpointToken(***)");
    }

    #[test]
    fn deserialising_checks_the_rule() {
        assert!(serde_json::from_str::<EndpointId>("\"a/b\"").is_err());
        assert_eq!(serde_json::from_str::<EndpointId>("\"a.b\"").unwrap().as_str(), "a.b");
    }

    proptest! {
        #[test]
        fn whatever_parses_is_one_subject_token_and_one_topic_level(text in "\\PC{0,40}") {
            if let Ok(name) = InstanceName::parse(&text) {
                prop_assert!(!name.as_str().contains(['.', '*', '>', ' ', '/', '+', '#']));
            }
            if let Ok(token) = EndpointToken::parse(&text) {
                prop_assert!(!token.as_str().contains(['.', '*', '>', ' ', '/', '+', '#']));
                prop_assert_eq!(token.as_str(), &text);
            }
        }
    }
}
