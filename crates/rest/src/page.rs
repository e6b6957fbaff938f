//! Lists in pages: `offset` and `limit` in, `totalElements` and `content` out.

use axum::extract::FromRequestParts;
use axum::http::request::Parts;
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use crate::{Error, Query};

/// Which part of a list the caller wants, as an argument of a handler.
#[derive(Debug, Clone, Copy, PartialEq, Eq, IntoParams)]
#[into_params(parameter_in = Query)]
pub struct Page {
    /// How many elements to skip.
    #[param(minimum = 0, default = 0, required = false)]
    pub offset: u32,
    /// How many elements to return at most.
    #[param(minimum = 1, maximum = 1000, default = 20, required = false)]
    pub limit: u32,
}

/// The query parameters as they come.
#[derive(Deserialize)]
struct Sent {
    #[serde(default)]
    offset: Option<String>,
    #[serde(default)]
    limit: Option<String>,
}

impl Page {
    fn new(sent: &Sent) -> Result<Self, Error> {
        let number = |text: &Option<String>, default| match text {
            None => Ok(default),
            Some(text) => text.parse::<u32>(),
        };
        let offset = number(&sent.offset, 0)
            .map_err(|_| Error::bad_request(format!("offset must be an integer from 0 to {}", u32::MAX)))?;
        let limit = number(&sent.limit, 20).ok().filter(|limit| (1..=1000).contains(limit));
        let limit = limit.ok_or_else(|| Error::bad_request("limit must be an integer from 1 to 1000"))?;
        Ok(Self { offset, limit })
    }
}

impl<S: Send + Sync> FromRequestParts<S> for Page {
    type Rejection = Error;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Error> {
        let Query(sent) = Query::<Sent>::from_request_parts(parts, state).await?;
        Self::new(&sent)
    }
}

/// A part of a list.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct PageOf<T> {
    /// How many elements there are in all pages together.
    pub total_elements: i64,
    /// The elements of this page.
    pub content: Vec<T>,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn page(offset: &str, limit: &str) -> Option<(u32, u32)> {
        let text = |text: &str| (!text.is_empty()).then(|| text.to_owned());
        Page::new(&Sent { offset: text(offset), limit: text(limit) })
            .ok()
            .map(|page| (page.offset, page.limit))
    }

    #[test]
    fn a_page_keeps_to_its_limits() {
        assert_eq!(page("", ""), Some((0, 20)));
        assert_eq!(page("7", "1000"), Some((7, 1000)));
        for (offset, limit) in
            [("-1", ""), ("x", ""), ("4294967296", ""), ("", "0"), ("", "1001"), ("", "1.5")]
        {
            assert_eq!(page(offset, limit), None, "{offset} {limit}");
        }
    }
}
