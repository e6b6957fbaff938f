//! Conditional requests (RFC 9110, section 13): tags that name one state of a resource.

use axum::extract::FromRequestParts;
use axum::http::request::Parts;
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};

use crate::Error;

/// The header `If-Match`: the state that the caller wants to change.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct IfMatch(Tags);

/// The header `If-None-Match`: the states that the caller has already.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct IfNoneMatch(Tags);

#[derive(Debug, Clone, Default, PartialEq, Eq)]
enum Tags {
    #[default]
    Absent,
    Any,
    These(Vec<String>),
}

impl Tags {
    fn read(headers: &HeaderMap, name: &HeaderName) -> Self {
        let mut tags = Vec::new();
        for value in headers.get_all(name) {
            for tag in value.to_str().unwrap_or_default().split(',').map(str::trim) {
                match tag {
                    "*" => return Self::Any,
                    "" => {}
                    // Some clients leave the quotes out; a weak tag names a state as well as a strong one does here.
                    tag => tags.push(tag.trim_start_matches("W/").trim_matches('"').to_owned()),
                }
            }
        }
        if headers.contains_key(name) { Self::These(tags) } else { Self::Absent }
    }
}

impl IfMatch {
    /// Whether the state with this tag may be changed; without the header every one may.
    ///
    /// # Errors
    /// 412 when the caller has another state in mind.
    pub fn check(&self, tag: &str) -> Result<(), Error> {
        if self.allows(tag) {
            return Ok(());
        }
        Err(Error::precondition_failed(format!(
            "it changed meanwhile: its ETag is \"{tag}\", which If-Match does not name; read it again"
        )))
    }

    /// Whether the state with this tag may be changed.
    #[must_use]
    pub fn allows(&self, tag: &str) -> bool {
        match &self.0 {
            Tags::Absent | Tags::Any => true,
            Tags::These(tags) => tags.iter().any(|known| known == tag),
        }
    }
}

impl IfNoneMatch {
    /// Whether the caller has the state with this tag already: then the answer is [`not_modified`].
    #[must_use]
    pub fn matches(&self, tag: &str) -> bool {
        match &self.0 {
            Tags::Absent => false,
            Tags::Any => true,
            Tags::These(tags) => tags.iter().any(|known| known == tag),
        }
    }
}

impl<S: Sync> FromRequestParts<S> for IfMatch {
    type Rejection = Error;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Error> {
        Ok(Self(Tags::read(&parts.headers, &header::IF_MATCH)))
    }
}

impl<S: Sync> FromRequestParts<S> for IfNoneMatch {
    type Rejection = Error;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Error> {
        Ok(Self(Tags::read(&parts.headers, &header::IF_NONE_MATCH)))
    }
}

/// A response with the tag of the state that it shows.
pub fn tagged(tag: &str, response: impl IntoResponse) -> Response {
    let mut response = response.into_response();
    if let Ok(value) = HeaderValue::from_str(&format!("\"{tag}\"")) {
        response.headers_mut().insert(header::ETAG, value);
    }
    response
}

/// 304: the caller has this state already.
#[must_use]
pub fn not_modified(tag: &str) -> Response {
    tagged(tag, StatusCode::NOT_MODIFIED)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tags(values: &[&str]) -> Tags {
        let values = values.iter().map(|value| (header::IF_MATCH, HeaderValue::from_str(value).unwrap()));
        Tags::read(&values.collect(), &header::IF_MATCH)
    }

    #[test]
    fn without_the_header_everything_goes() {
        assert!(IfMatch::default().allows("1"));
        assert!(!IfNoneMatch::default().matches("1"));
    }

    #[test]
    fn tags_are_read_in_every_spelling() {
        assert_eq!(tags(&["\"1\", W/\"2\"", "3"]), Tags::These(vec!["1".into(), "2".into(), "3".into()]));
        assert_eq!(tags(&["*"]), Tags::Any);
        assert!(!IfMatch(tags(&[""])).allows("1"));
        assert!(IfMatch(tags(&["\"1\""])).allows("1") && !IfMatch(tags(&["\"1\""])).allows("2"));
        assert_eq!(IfMatch(tags(&["\"1\""])).check("2").unwrap_err().status(), 412);
    }

    #[test]
    fn responses_carry_the_tag_in_quotes() {
        assert_eq!(tagged("7", ()).headers()[header::ETAG], "\"7\"");
        assert_eq!(not_modified("7").status(), 304);
    }
}
