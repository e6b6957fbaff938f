//! Topic filters of subscriptions (MQTT 4.7).

use ids::{AppVersionName, EndpointToken, InstanceName};

use crate::PathError;
use crate::error::{check_characters, check_size};

/// A topic filter: `+` stands for one level, a last level `#` for its parent and everything below it.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct TopicFilter(Box<str>);

/// Whose topics a filter reaches. Its debug output shows the token to nobody.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct FilterTarget<'a> {
    /// The application version; keeps to the rule of [`AppVersionName`].
    pub app_version: &'a str,
    /// The extension instance, which keeps to the rule of [`InstanceName`]; none: any.
    pub extension: Option<&'a str>,
    /// The endpoint token; keeps to the rule of [`EndpointToken`].
    pub token: &'a str,
}

impl TopicFilter {
    /// Checks that the text is a topic filter.
    ///
    /// # Errors
    /// When it is too long or deep, has control characters, or a wildcard where none may be.
    pub fn parse(text: &str) -> Result<Self, PathError> {
        check_size(text)?;
        check_characters(text)?;
        let mut levels = text.split('/').peekable();
        while let Some(level) = levels.next() {
            let last = levels.peek().is_none();
            if level.contains(['+', '#']) && level != "+" && !(level == "#" && last) {
                return Err(PathError::Wildcard);
            }
        }
        // MQTT 4.7.3: no filter is empty.
        if text.is_empty() { Err(PathError::NotKp1) } else { Ok(Self(text.into())) }
    }

    /// The filter as sent.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether a topic is one of the filter's.
    #[must_use]
    pub fn matches(&self, topic: &str) -> bool {
        // A wildcard in the first level does not reach the topics of the server.
        if topic.starts_with('$') && self.0.starts_with(['+', '#']) {
            return false;
        }
        let mut levels = topic.split('/');
        for wanted in self.0.split('/') {
            match (wanted, levels.next()) {
                ("#", _) | ("+", Some(_)) => {}
                (_, Some(level)) if level == wanted => {}
                _ => return false,
            }
            if wanted == "#" {
                return true;
            }
        }
        levels.next().is_none()
    }

    /// Whose topics the filter reaches: exactly one endpoint's, so the version and the token must be named, the extension
    /// need not be.
    ///
    /// # Errors
    /// When the filter reaches further or elsewhere, or names what cannot exist.
    pub fn target(&self) -> Result<FilterTarget<'_>, PathError> {
        let mut levels = self.0.split('/');
        if levels.next() != Some("kp1") {
            return Err(PathError::NotKp1);
        }
        let mut level = |name: &'static str, missing: PathError| match levels.next() {
            None => Err(missing),
            Some("#") => Err(PathError::NotNamed(name)),
            Some(level) => Ok(level),
        };
        let app_version = level("application version", PathError::NotKp1)?;
        let extension = level("endpoint token", PathError::NoExtension)?;
        let token = level("endpoint token", PathError::NoToken)?;
        if app_version == "+" {
            return Err(PathError::NotNamed("application version"));
        }
        if token == "+" {
            return Err(PathError::NotNamed("endpoint token"));
        }
        AppVersionName::parse(app_version).map_err(PathError::AppVersion)?;
        let extension = if extension == "+" { None } else { Some(extension) };
        extension.map(InstanceName::parse).transpose().map_err(PathError::Extension)?;
        EndpointToken::parse(token).map_err(PathError::Token)?;
        Ok(FilterTarget { app_version, extension, token })
    }
}

impl std::fmt::Debug for TopicFilter {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // The fourth level is a token.
        let shown = self.0.split('/').enumerate().map(|(at, level)| if at == 3 { "***" } else { level });
        write!(formatter, "TopicFilter({:?})", shown.collect::<Vec<_>>().join("/"))
    }
}

impl std::fmt::Debug for FilterTarget<'_> {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter
            .debug_struct("FilterTarget")
            .field("app_version", &self.app_version)
            .field("extension", &self.extension)
            .field("token", &"***")
            .finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn matches(filter: &str, topic: &str) -> bool {
        TopicFilter::parse(filter).unwrap().matches(topic)
    }

    #[test]
    fn filters_match_as_mqtt_says() {
        for (filter, topic) in [
            ("kp1/v/dcx/t/json/1/status", "kp1/v/dcx/t/json/1/status"),
            ("kp1/v/dcx/t/json/+/status", "kp1/v/dcx/t/json/1/status"),
            ("kp1/v/+/t/#", "kp1/v/cmx/t/config/json/status"),
            ("kp1/v/dcx/t/#", "kp1/v/dcx/t"),
            ("kp1/v/dcx/t/+", "kp1/v/dcx/t/"),
            ("a//b", "a//b"),
            ("a/+/b", "a//b"),
            ("#", "a/b"),
            ("+/b", "a/b"),
            ("$SYS/#", "$SYS/x"),
        ] {
            assert!(matches(filter, topic), "{filter} {topic}");
        }
        for (filter, topic) in [
            ("kp1/v/dcx/t/json/+", "kp1/v/dcx/t/json/1/status"),
            ("kp1/v/dcx/t/json/+/status", "kp1/v/dcx/t/json/status"),
            ("kp1/v/dcx/t/+", "kp1/v/dcx/t"),
            ("kp1/v/dcx/t", "kp1/v/dcx/t/"),
            ("kp1/v/dcx/t/", "kp1/v/dcx/t"),
            ("kp1/v/dcx/t/#", "kp1/v/dcx/token"),
            ("A", "a"),
            ("#", "$SYS/x"),
            ("+/x", "$SYS/x"),
        ] {
            assert!(!matches(filter, topic), "{filter} {topic}");
        }
    }

    #[test]
    fn wildcards_have_their_places() {
        for bad in ["a+", "a/+b/c", "a/#/b", "a#", "#/", "a/b#"] {
            assert_eq!(TopicFilter::parse(bad), Err(PathError::Wildcard), "{bad}");
        }
        assert!(TopicFilter::parse("").is_err());
        assert_eq!(TopicFilter::parse("a\0"), Err(PathError::Character('\0')));
        assert!(TopicFilter::parse(&"/".repeat(crate::MAX_LEVELS)).is_err());
    }

    #[test]
    fn a_subscription_names_version_and_token() {
        for filter in ["kp1/v/+/t", "kp1/v/+/t/#", "kp1/v/+/t/json/+/status"] {
            let filter = TopicFilter::parse(filter).unwrap();
            assert_eq!(filter.target(), Ok(FilterTarget { app_version: "v", extension: None, token: "t" }));
        }
        let filter = TopicFilter::parse("kp1/v/cmx/t/config/json/#").unwrap();
        assert_eq!(
            filter.target(),
            Ok(FilterTarget { app_version: "v", extension: Some("cmx"), token: "t" })
        );
        for (filter, error) in [
            ("#", PathError::NotKp1),
            ("+/v/dcx/t", PathError::NotKp1),
            ("$share/g/kp1/v/dcx/t", PathError::NotKp1),
            ("kp1", PathError::NotKp1),
            ("kp1/#", PathError::NotNamed("application version")),
            ("kp1/+/dcx/t", PathError::NotNamed("application version")),
            ("kp1/v", PathError::NoExtension),
            ("kp1/v/#", PathError::NotNamed("endpoint token")),
            ("kp1/v/dcx", PathError::NoToken),
            ("kp1/v/dcx/+/json", PathError::NotNamed("endpoint token")),
            ("kp1/v/dcx/#", PathError::NotNamed("endpoint token")),
        ] {
            assert_eq!(TopicFilter::parse(filter).unwrap().target(), Err(error), "{filter}");
        }
    }

    #[test]
    fn the_token_does_not_show_in_debug_output() {
        let filter = TopicFilter::parse("kp1/v/dcx/topsecret/#").unwrap();
        assert_eq!(format!("{filter:?}"), "TopicFilter(\"kp1/v/dcx/***/#\")");
        assert!(!format!("{:?}", filter.target()).contains("topsecret"));
    }

    /// The plainest way to say what matches.
    fn oracle(filter: &[&str], topic: &[&str]) -> bool {
        match (filter, topic) {
            (["#"], _) | ([], []) => true,
            (["+", filter @ ..], [_, topic @ ..]) => oracle(filter, topic),
            ([wanted, filter @ ..], [level, topic @ ..]) => wanted == level && oracle(filter, topic),
            _ => false,
        }
    }

    fn levels(text: &str) -> Vec<&str> {
        text.split('/').collect()
    }

    proptest! {
        #[test]
        fn matching_agrees_with_the_plainest_way(
            filter in "(\\+|a|b|)(/(\\+|a|b|)){0,4}(/#)?", topic in "(a|b|)(/(a|b|)){0,5}",
        ) {
            prop_assume!(!filter.is_empty());
            prop_assert_eq!(matches(&filter, &topic), oracle(&levels(&filter), &levels(&topic)));
        }

        #[test]
        fn a_filter_with_a_target_reaches_only_that_endpoint(
            filter in "(kp1|\\+|#)(/(v|t|w|\\+|#)){0,5}",
            topic in "kp1/[vw]/[vtw]/[tvw](/[vt]){0,3}",
        ) {
            if let Ok(filter) = TopicFilter::parse(&filter)
                && let Ok(target) = filter.target()
                && filter.matches(&topic)
            {
                let levels = levels(&topic);
                prop_assert_eq!((levels[1], levels[3]), (target.app_version, target.token));
            }
        }

        #[test]
        fn any_text_is_read_or_refused(filter in "\\PC{0,40}", topic in "\\PC{0,40}") {
            if let Ok(filter) = TopicFilter::parse(&filter) {
                let _ = (filter.matches(&topic), filter.target());
            }
        }
    }
}
