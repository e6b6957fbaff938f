//! Requests: from a topic or path to what is asked of whom.

use std::borrow::Cow;

use ids::{AppVersionName, EndpointToken, InstanceName, RequestId};
use percent_encoding::percent_decode_str;

use crate::PathError;
use crate::error::{check_size, check_topic_characters};

/// The part of a request's path that is the same for all extensions. What follows is the extension's: only it knows
/// whether a token comes first, and so [`endpoint_aware`](Self::endpoint_aware) or
/// [`endpoint_unaware`](Self::endpoint_unaware) reads it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RequestPath<'a> {
    /// The application version; keeps to the rule of [`AppVersionName`].
    pub app_version: &'a str,
    /// The extension instance; keeps to the rule of [`InstanceName`].
    pub extension: &'a str,
    /// What follows, with its leading slash.
    rest: &'a str,
}

/// What a request is addressed to. Its debug output shows the token to nobody.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Target<'a> {
    /// The application version; keeps to the rule of [`AppVersionName`].
    pub app_version: &'a str,
    /// The extension instance; keeps to the rule of [`InstanceName`].
    pub extension: &'a str,
    /// The endpoint token; keeps to the rule of [`EndpointToken`]. None for extensions that know no endpoints.
    pub token: Option<&'a str>,
    /// The resource path with its leading slash, such as `/json`; empty when nothing follows.
    pub resource_path: &'a str,
    /// The request id, when the last level is one.
    pub request_id: Option<RequestId>,
}

impl<'a> RequestPath<'a> {
    /// Reads the topic of an MQTT message.
    ///
    /// # Errors
    /// When the topic is too long or deep, has control characters or wildcards, is not 1/KP, or names an application
    /// version or extension that cannot exist.
    pub fn parse_topic(topic: &'a str) -> Result<Self, PathError> {
        check_size(topic)?;
        check_topic_characters(topic)?;
        let names = topic.strip_prefix("kp1/").ok_or(PathError::NotKp1)?;
        let (app_version, after) = names.split_once('/').ok_or(PathError::NoExtension)?;
        let (extension, rest) = split_level(after);
        AppVersionName::parse(app_version).map_err(PathError::AppVersion)?;
        InstanceName::parse(extension).map_err(PathError::Extension)?;
        Ok(Self { app_version, extension, rest })
    }

    /// Reads the path of an HTTP request, percent-decoded (see [`percent_decode`]), with its leading slash.
    ///
    /// # Errors
    /// As [`parse_topic`](Self::parse_topic).
    pub fn parse_http(path: &'a str) -> Result<Self, PathError> {
        Self::parse_topic(path.strip_prefix('/').ok_or(PathError::NotKp1)?)
    }

    /// The target at an extension that knows endpoints: the first level is the token, even if it is a number.
    ///
    /// # Errors
    /// When there is no token or none that could exist.
    pub fn endpoint_aware(&self) -> Result<Target<'a>, PathError> {
        let (token, rest) = self.rest.strip_prefix('/').map(split_level).ok_or(PathError::NoToken)?;
        if token.is_empty() {
            return Err(PathError::NoToken);
        }
        EndpointToken::parse(token).map_err(PathError::Token)?;
        Ok(self.target(Some(token), rest))
    }

    /// The target at an extension that knows no endpoints.
    #[must_use]
    pub fn endpoint_unaware(&self) -> Target<'a> {
        self.target(None, self.rest)
    }

    fn target(&self, token: Option<&'a str>, rest: &'a str) -> Target<'a> {
        let (resource_path, request_id) = split_request_id(rest);
        Target { app_version: self.app_version, extension: self.extension, token, resource_path, request_id }
    }
}

impl std::fmt::Debug for Target<'_> {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter
            .debug_struct("Target")
            .field("app_version", &self.app_version)
            .field("extension", &self.extension)
            .field("token", &self.token.map(|_| "***"))
            .field("resource_path", &self.resource_path)
            .field("request_id", &self.request_id)
            .finish()
    }
}

/// Decodes the path of an HTTP request as it came. A slash that is encoded is refused: decoded it would move the token.
///
/// # Errors
/// When the result is not UTF-8 or a slash is encoded.
pub fn percent_decode(path: &str) -> Result<Cow<'_, str>, PathError> {
    let decoded = percent_decode_str(path).decode_utf8().map_err(|_| PathError::PercentEncoding)?;
    let slashes = |text: &str| text.bytes().filter(|byte| *byte == b'/').count();
    if slashes(path) == slashes(&decoded) { Ok(decoded) } else { Err(PathError::PercentEncoding) }
}

/// The first level, and the rest with its leading slash.
fn split_level(text: &str) -> (&str, &str) {
    text.split_at(text.find('/').unwrap_or(text.len()))
}

/// Takes the request id from the end of what follows the token. Numbers above Avro's `int` are levels like any other.
fn split_request_id(rest: &str) -> (&str, Option<RequestId>) {
    let Some((path, last)) = rest.rsplit_once('/') else { return (rest, None) };
    if !last.bytes().all(|byte| byte.is_ascii_digit()) {
        return (rest, None);
    }
    match last.parse::<i32>().ok().and_then(|number| RequestId::try_from(number).ok()) {
        Some(request_id) => (path, Some(request_id)),
        None => (rest, None),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn aware(topic: &str) -> Target<'_> {
        RequestPath::parse_topic(topic).unwrap().endpoint_aware().unwrap()
    }

    fn unaware(topic: &str) -> Target<'_> {
        RequestPath::parse_topic(topic).unwrap().endpoint_unaware()
    }

    fn id(number: i32) -> Option<RequestId> {
        Some(RequestId::try_from(number).unwrap())
    }

    #[test]
    fn a_request_is_taken_apart() {
        let target = aware("kp1/bqf1uai03p4cop6jr3u0-v7/dcx/JTjdbENzHh/plain/temperature/42");
        assert_eq!((target.app_version, target.extension), ("bqf1uai03p4cop6jr3u0-v7", "dcx"));
        assert_eq!((target.token, target.resource_path), (Some("JTjdbENzHh"), "/plain/temperature"));
        assert_eq!(target.request_id, id(42));
    }

    #[test]
    fn the_request_id_is_a_last_level_of_digits_that_fits() {
        for (topic, path, request_id) in [
            ("kp1/v/dcx/t", "", None),
            ("kp1/v/dcx/t/json", "/json", None),
            ("kp1/v/dcx/t/json/0", "/json", id(0)),
            ("kp1/v/dcx/t/json/007", "/json", id(7)),
            ("kp1/v/dcx/t/json/100000", "/json", id(100_000)),
            ("kp1/v/dcx/t/json/2147483647", "/json", id(i32::MAX)),
            ("kp1/v/dcx/t/json/2147483648", "/json/2147483648", None),
            ("kp1/v/dcx/t/json/-1", "/json/-1", None),
            ("kp1/v/dcx/t/json/4a", "/json/4a", None),
            ("kp1/v/dcx/t/json/٣", "/json/٣", None),
            ("kp1/v/dcx/t/1/2", "/1", id(2)),
            ("kp1/v/dcx/t/42", "", id(42)),
            // A token may be a number.
            ("kp1/v/dcx/42", "", None),
        ] {
            let target = aware(topic);
            assert_eq!((target.resource_path, target.request_id), (path, request_id), "{topic}");
        }
    }

    #[test]
    fn slashes_are_significant() {
        assert_eq!(aware("kp1/v/dcx/t/").resource_path, "/");
        assert_eq!(aware("kp1/v/dcx/t/json/").resource_path, "/json/");
        assert_eq!(aware("kp1/v/dcx/t//json").resource_path, "//json");
        assert_eq!(aware("kp1/v/dcx/t/json//3"), Target { request_id: id(3), ..aware("kp1/v/dcx/t/json/") });
        assert_eq!(RequestPath::parse_topic("/kp1/v/dcx/t/json"), Err(PathError::NotKp1));
        assert!(matches!(RequestPath::parse_topic("kp1//dcx/t/json"), Err(PathError::AppVersion(_))));
        assert!(matches!(RequestPath::parse_topic("kp1/v//t/json"), Err(PathError::Extension(_))));
    }

    #[test]
    fn an_extension_without_endpoints_has_no_token() {
        let target = unaware("kp1/v/registration/json/42");
        assert_eq!((target.token, target.resource_path, target.request_id), (None, "/json", id(42)));
        assert_eq!((unaware("kp1/v/tsx/42").resource_path, unaware("kp1/v/tsx/42").request_id), ("", id(42)));
        assert_eq!(unaware("kp1/v/tsx").resource_path, "");
    }

    #[test]
    fn what_is_wrong_is_named() {
        for (topic, error) in [
            ("", PathError::NotKp1),
            ("kp1", PathError::NotKp1),
            ("kp2/v/dcx/t/json", PathError::NotKp1),
            ("kp1/v", PathError::NoExtension),
            ("kp1/v/dcx/t/+", PathError::Character('+')),
            ("kp1/v/dcx/t/#", PathError::Character('#')),
            ("kp1/v/dcx/t/\0", PathError::Character('\0')),
        ] {
            assert_eq!(RequestPath::parse_topic(topic), Err(error), "{topic:?}");
        }
        for topic in ["kp1/v/dcx", "kp1/v/dcx/", "kp1/v/dcx//json"] {
            assert_eq!(
                RequestPath::parse_topic(topic).unwrap().endpoint_aware(),
                Err(PathError::NoToken),
                "{topic}"
            );
        }
        let token = RequestPath::parse_topic("kp1/v/dcx/a.b/json").unwrap().endpoint_aware();
        assert_eq!(token.unwrap_err().status_code(), 401);
    }

    #[test]
    fn paths_are_bounded() {
        let start = "kp1/v/dcx/t/";
        let longest = format!("{start}{}", "x".repeat(crate::MAX_TOPIC_BYTES - start.len()));
        assert!(RequestPath::parse_topic(&longest).is_ok());
        assert_eq!(RequestPath::parse_topic(&format!("{longest}x")), Err(PathError::TooLong(1025)));
        let deepest = format!("kp1/v/dcx{}", "/x".repeat(crate::MAX_LEVELS - 3));
        assert!(RequestPath::parse_topic(&deepest).is_ok());
        assert_eq!(RequestPath::parse_topic(&format!("{deepest}/")), Err(PathError::TooManyLevels(33)));
    }

    #[test]
    fn an_http_path_is_a_topic_with_a_slash_before() {
        let path = percent_decode("/kp1/v/dcx/t/pl%C3%A4in").unwrap();
        assert_eq!(RequestPath::parse_http(&path), RequestPath::parse_topic("kp1/v/dcx/t/pläin"));
        assert_eq!(RequestPath::parse_http("kp1/v/dcx/t"), Err(PathError::NotKp1));
        assert_eq!(RequestPath::parse_http("//kp1/v/dcx/t"), Err(PathError::NotKp1));
        for bad in ["/kp1/v/dcx/t%2Fjson", "/kp1/v/dcx/%ff"] {
            assert_eq!(percent_decode(bad), Err(PathError::PercentEncoding), "{bad}");
        }
    }

    #[test]
    fn the_token_does_not_show_in_debug_output() {
        assert!(!format!("{:?}", aware("kp1/v/dcx/topsecret/json")).contains("topsecret"));
    }

    proptest! {
        #[test]
        fn a_path_put_together_is_taken_apart_the_same(
            version in "[a-z0-9_-]{1,20}", extension in "[A-Za-z0-9_~-]{1,20}", token in "[A-Za-z0-9:@=-]{1,20}",
            resource in "(/[a-z~]{0,5}){0,4}", number in proptest::option::of(0..=i32::MAX),
        ) {
            let mut topic = format!("kp1/{version}/{extension}/{token}{resource}");
            if let Some(number) = number {
                topic.push_str(&format!("/{number}"));
            }
            let expected = Target {
                app_version: &version, extension: &extension, token: Some(&token), resource_path: &resource,
                request_id: number.and_then(id),
            };
            prop_assert_eq!(aware(&topic), expected);
        }

        #[test]
        fn any_text_is_read_or_refused(text in "(kp1/)?[a-z0-9/+#~.\u{0}-\u{ff}]{0,60}") {
            if let Ok(path) = RequestPath::parse_topic(&text) {
                let unaware = path.endpoint_unaware();
                prop_assert!(text.contains(unaware.resource_path));
                if let Ok(aware) = path.endpoint_aware() {
                    prop_assert!(EndpointToken::parse(aware.token.unwrap()).is_ok());
                    prop_assert_eq!(aware.request_id.is_some() && unaware.request_id.is_none(), false);
                }
            }
            let _ = percent_decode(&text);
        }
    }
}
