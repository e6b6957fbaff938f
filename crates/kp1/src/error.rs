//! Why a topic, path or topic filter is refused.

use ids::InvalidId;

use crate::{MAX_LEVELS, MAX_TOPIC_BYTES};

/// Why a topic, path or topic filter is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PathError {
    /// Longer than [`MAX_TOPIC_BYTES`].
    #[error("the path has {0} bytes; at most {MAX_TOPIC_BYTES} are allowed")]
    TooLong(usize),
    /// More levels than [`MAX_LEVELS`].
    #[error("the path has {0} levels; at most {MAX_LEVELS} are allowed")]
    TooManyLevels(usize),
    /// A control character, or a wildcard where none may be.
    #[error("the path may not contain the character {0:?}")]
    Character(char),
    /// A percent-encoded path that is not UTF-8 or has an encoded slash.
    #[error("the path's percent-encoding must yield UTF-8 and may not hide a slash")]
    PercentEncoding,
    /// It does not start with `kp1/`.
    #[error("the path must start with kp1/<application version>/<extension>")]
    NotKp1,
    /// The extension is missing.
    #[error("the path ends before the extension; it must start with kp1/<application version>/<extension>")]
    NoExtension,
    /// The token is missing.
    #[error(
        "the endpoint token is missing; it follows the extension: kp1/<application version>/<extension>/<token>"
    )]
    NoToken,
    /// The application version breaks its rule.
    #[error("{0}")]
    AppVersion(InvalidId),
    /// The extension breaks its rule.
    #[error("{0}")]
    Extension(InvalidId),
    /// The token breaks its rule.
    #[error("{0}")]
    Token(InvalidId),
    /// The resource path does not start with a slash.
    #[error("a resource path must be empty or start with a slash")]
    ResourcePath,
    /// A topic filter has `+` or `#` in a place where MQTT does not allow it.
    #[error("in a topic filter, + must be a whole level and # the whole last level")]
    Wildcard,
    /// A subscription has a wildcard in place of the application version or the token.
    #[error("a subscription must name the {0}: kp1/<application version>/<extension or +>/<token>/...")]
    NotNamed(&'static str),
}

impl PathError {
    /// The HTTP status code to answer with: 400 malformed, 401 no acceptable token, 404 nothing can be there.
    #[must_use]
    pub fn status_code(&self) -> u16 {
        match self {
            Self::TooLong(_)
            | Self::TooManyLevels(_)
            | Self::Character(_)
            | Self::PercentEncoding
            | Self::ResourcePath
            | Self::Wildcard
            | Self::NotNamed(_) => 400,
            Self::NoToken | Self::Token(_) => 401,
            Self::NotKp1 | Self::NoExtension | Self::AppVersion(_) | Self::Extension(_) => 404,
        }
    }
}

/// Checks what holds for topics, topic filters and paths alike.
pub(crate) fn check_size(text: &str) -> Result<(), PathError> {
    if text.len() > MAX_TOPIC_BYTES {
        return Err(PathError::TooLong(text.len()));
    }
    let levels = 1 + text.bytes().filter(|byte| *byte == b'/').count();
    if levels > MAX_LEVELS { Err(PathError::TooManyLevels(levels)) } else { Ok(()) }
}

/// Checks that there are no control characters.
pub(crate) fn check_characters(text: &str) -> Result<(), PathError> {
    // Nearly all text is ASCII, and bytes are looked at faster than characters.
    if text.is_ascii() && !text.bytes().any(|byte| byte.is_ascii_control()) {
        return Ok(());
    }
    text.chars().find(|c| c.is_control()).map_or(Ok(()), |character| Err(PathError::Character(character)))
}

/// Checks that there are no control characters and none of the wildcards of topic filters.
pub(crate) fn check_topic_characters(text: &str) -> Result<(), PathError> {
    check_characters(text)?;
    let wildcard = text.bytes().find(|byte| matches!(byte, b'+' | b'#'));
    wildcard.map_or(Ok(()), |byte| Err(PathError::Character(char::from(byte))))
}
