//! Patterns of topics outside of 1/KP, which extensions may serve.

use std::collections::BTreeSet;

use crate::error::{check_size, check_topic_characters};
use crate::{PathError, TopicFilter};

/// The most variable levels of a pattern: a topic has twice as many filters for each.
pub const MAX_VARIABLE_LEVELS: usize = 4;

/// A pattern of topics, such as `cmd/{thing}/req`: a level in braces stands for any one level that is not
/// empty.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct TopicPattern {
    text: Box<str>,
    levels: Box<[Level]>,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
enum Level {
    Fixed(Box<str>),
    Variable,
}

/// Why a pattern is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PatternError {
    /// It is too long or deep, or has characters that no topic has.
    #[error("{0}")]
    Path(PathError),
    /// It reaches topics of 1/KP, or those of the server.
    #[error("a pattern may not begin with kp1 or $")]
    Reserved,
    /// A level is empty, or its braces do not enclose a name.
    #[error("the level '{0}' is neither a text without braces nor a name in braces, such as {{thing}}")]
    Level(Box<str>),
    /// A name occurs twice.
    #[error("the name '{0}' occurs twice")]
    Twice(Box<str>),
    /// It has no fixed level, and would take all topics of its length.
    #[error("at least one level must be fixed")]
    NothingFixed,
    /// More variable levels than [`MAX_VARIABLE_LEVELS`].
    #[error("it has {0} variable levels; at most {MAX_VARIABLE_LEVELS} are allowed")]
    TooManyVariable(usize),
}

impl TopicPattern {
    /// Reads a pattern.
    ///
    /// # Errors
    /// When it is none that may be served, see [`PatternError`].
    pub fn parse(text: &str) -> Result<Self, PatternError> {
        check_size(text).and_then(|()| check_topic_characters(text)).map_err(PatternError::Path)?;
        let mut names = BTreeSet::new();
        let mut levels = Vec::new();
        for level in text.split('/') {
            let name = level.strip_prefix('{').and_then(|level| level.strip_suffix('}'));
            if name.unwrap_or(level).is_empty() || name.unwrap_or(level).contains(['{', '}']) {
                return Err(PatternError::Level(level.into()));
            }
            match name {
                Some(name) if !names.insert(name) => return Err(PatternError::Twice(name.into())),
                Some(_) => levels.push(Level::Variable),
                None => levels.push(Level::Fixed(level.into())),
            }
        }
        if matches!(levels.first(), Some(Level::Fixed(first)) if is_reserved(first)) {
            return Err(PatternError::Reserved);
        }
        if names.len() == levels.len() {
            return Err(PatternError::NothingFixed);
        }
        if names.len() > MAX_VARIABLE_LEVELS {
            return Err(PatternError::TooManyVariable(names.len()));
        }
        Ok(Self { text: text.into(), levels: levels.into() })
    }

    /// The pattern as written.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// Whether a topic is one of the pattern's. Topics of 1/KP and of the server never are.
    #[must_use]
    pub fn takes(&self, topic: &str) -> bool {
        check_size(topic).and_then(|()| check_topic_characters(topic)).is_ok() && self.fit(topic, |_| true)
    }

    /// Whether a filter reaches only topics of the pattern: `+` may stand in place of a variable level, `#`
    /// nowhere.
    #[must_use]
    pub fn admits(&self, filter: &TopicFilter) -> bool {
        self.fit(filter.as_str(), |level| level != "#") && {
            let mut levels = filter.as_str().split('/').zip(&self.levels);
            levels.all(|(level, own)| level != "+" || *own == Level::Variable)
        }
    }

    fn fit(&self, text: &str, allowed: impl Fn(&str) -> bool) -> bool {
        let mut levels = text.split('/');
        let first = levels.clone().next().unwrap_or_default();
        let mut own = self.levels.iter();
        let fits = own.all(|own| match (own, levels.next()) {
            (Level::Fixed(fixed), Some(level)) => **fixed == *level,
            (Level::Variable, Some(level)) => !level.is_empty() && allowed(level),
            (_, None) => false,
        });
        fits && levels.next().is_none() && !is_reserved(first)
    }

    /// All filters that the pattern admits and that match a topic, which must be one of the pattern's.
    #[must_use]
    pub fn filters(&self, topic: &str) -> Vec<String> {
        let mut filters = vec![String::with_capacity(topic.len())];
        for (at, (own, level)) in self.levels.iter().zip(topic.split('/')).enumerate() {
            let with_wildcard = (*own == Level::Variable).then(|| filters.clone());
            let append = |filters: &mut Vec<String>, level: &str| {
                for filter in filters {
                    filter.push_str(if at > 0 { "/" } else { "" });
                    filter.push_str(level);
                }
            };
            append(&mut filters, level);
            if let Some(mut more) = with_wildcard {
                append(&mut more, "+");
                filters.append(&mut more);
            }
        }
        filters
    }

    /// Whether some topic is one of both patterns'.
    #[must_use]
    pub fn overlaps(&self, other: &Self) -> bool {
        let mut pairs = self.levels.iter().zip(&other.levels);
        self.levels.len() == other.levels.len()
            && pairs.all(|pair| match pair {
                (Level::Fixed(one), Level::Fixed(other)) => one == other,
                (Level::Variable, _) | (_, Level::Variable) => true,
            })
    }
}

/// Whether topics with this first level are not for patterns.
fn is_reserved(first: &str) -> bool {
    first == "kp1" || first.starts_with('$')
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn pattern(text: &str) -> TopicPattern {
        TopicPattern::parse(text).unwrap()
    }

    fn filter(text: &str) -> TopicFilter {
        TopicFilter::parse(text).unwrap()
    }

    #[test]
    fn a_pattern_takes_its_topics_and_no_others() {
        let cmd = pattern("cmd/{thing}/req");
        assert!(cmd.takes("cmd/t1/req") && cmd.takes("cmd/kp1/req") && cmd.takes("cmd/$x/req"));
        for topic in ["cmd//req", "cmd/t1", "cmd/t1/req/", "Cmd/t1/req", "cmd/t1/resp", "", "cmd/+/req"] {
            assert!(!cmd.takes(topic), "{topic}");
        }
        let group = pattern("{group}/request");
        assert!(group.takes("g/request"));
        assert!(!group.takes("kp1/request") && !group.takes("$SYS/request") && !group.takes("/request"));
    }

    #[test]
    fn a_filter_may_leave_open_only_what_the_pattern_leaves_open() {
        let cmd = pattern("cmd/{thing}/req");
        assert!(cmd.admits(&filter("cmd/t1/req")) && cmd.admits(&filter("cmd/+/req")));
        for text in ["+/t1/req", "cmd/t1/+", "cmd/#", "cmd/t1/#", "#", "cmd/+", "cmd//req", "cmd/+/resp"] {
            assert!(!cmd.admits(&filter(text)), "{text}");
        }
        let group = pattern("{group}/request");
        assert!(group.admits(&filter("+/request")) && group.admits(&filter("g/request")));
        assert!(!group.admits(&filter("kp1/request")) && !group.admits(&filter("$SYS/request")));
        assert!(!group.admits(&filter("+/+")) && !group.admits(&filter("$share/g/request")));
    }

    #[test]
    fn what_may_not_be_served_is_refused() {
        for (text, error) in [
            ("kp1/{a}/b", PatternError::Reserved),
            ("$SYS/{a}", PatternError::Reserved),
            ("{a}/{b}", PatternError::NothingFixed),
            ("x/{a}/{a}", PatternError::Twice("a".into())),
            ("a//b", PatternError::Level("".into())),
            ("", PatternError::Level("".into())),
            ("a/{}", PatternError::Level("{}".into())),
            ("a/{b", PatternError::Level("{b".into())),
            ("a/{{b}}", PatternError::Level("{{b}}".into())),
            ("x/{a}/{b}/{c}/{d}/{e}", PatternError::TooManyVariable(5)),
        ] {
            assert_eq!(TopicPattern::parse(text), Err(error), "{text}");
        }
        assert!(matches!(TopicPattern::parse("a/+"), Err(PatternError::Path(_))));
        assert!(matches!(TopicPattern::parse(&"a/".repeat(40)), Err(PatternError::Path(_))));
        assert_eq!(pattern("cmd/{thing}/req").as_str(), "cmd/{thing}/req");
    }

    #[test]
    fn patterns_overlap_when_a_topic_is_both_ones() {
        let overlap = |one: &str, other: &str| pattern(one).overlaps(&pattern(other));
        assert!(overlap("cmd/{a}/req", "cmd/x/{b}") && overlap("{g}/request", "a/{r}"));
        assert!(!overlap("cmd/{a}/req", "cmd/{a}/resp") && !overlap("{g}/request", "{g}/x/request"));
    }

    proptest! {
        #[test]
        fn the_filters_of_a_topic_are_those_that_are_admitted_and_match(
            text in "(a|b|\\{x\\})/(a|b|\\{y\\})(/(a|\\{z\\}))?",
            topic in "[abc]/[abc](/[abc])?",
            other in "(\\+|#|[abc])(/(\\+|#|[abc])){0,2}",
        ) {
            let Ok(pattern) = TopicPattern::parse(&text) else { return Ok(()) };
            if pattern.takes(&topic) {
                let filters = pattern.filters(&topic);
                for one in &filters {
                    prop_assert!(pattern.admits(&filter(one)) && filter(one).matches(&topic), "{}", one);
                }
                if let Ok(other) = TopicFilter::parse(&other) {
                    let is_one = pattern.admits(&other) && other.matches(&topic);
                    prop_assert_eq!(is_one, filters.iter().any(|one| *one == other.as_str()));
                }
            }
        }

        #[test]
        fn what_two_patterns_take_they_overlap_in(
            one in "(a|\\{x\\})/(b|\\{y\\})", other in "(a|\\{x\\})/(b|\\{y\\})", topic in "[ab]/[ab]",
        ) {
            if let (Ok(one), Ok(other)) = (TopicPattern::parse(&one), TopicPattern::parse(&other)) {
                prop_assert!(!(one.takes(&topic) && other.takes(&topic)) || one.overlaps(&other));
                prop_assert_eq!(one.overlaps(&other), other.overlaps(&one));
            }
        }

        #[test]
        fn any_text_is_read_or_refused(text in "\\PC{0,40}", topic in "\\PC{0,40}") {
            if let Ok(pattern) = TopicPattern::parse(&text) {
                let _ = (pattern.takes(&topic), pattern.filters(&topic).len());
                if let Ok(filter) = TopicFilter::parse(&topic) {
                    let _ = pattern.admits(&filter);
                }
            }
        }
    }
}
