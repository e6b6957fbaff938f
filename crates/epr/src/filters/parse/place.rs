//! Where in a query something stands, and why it is refused.

use std::fmt;

use serde_json::{Map, Value};

use super::super::query::QUERY_BYTES_MAX;

/// As much of a name as an error repeats, in characters.
const QUOTED_MAX: usize = 64;

/// Why a query is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("mongoQuery{place}: {problem}")]
pub(crate) struct InvalidQuery {
    /// ` at ` and a JSON Pointer (RFC 6901), or nothing for the query as a whole.
    place: String,
    problem: String,
}

pub(super) type Parsed<T> = Result<T, InvalidQuery>;

impl InvalidQuery {
    pub(in super::super) fn too_long(bytes: usize) -> Self {
        let problem = format!("it has {bytes} bytes, more than the {QUERY_BYTES_MAX} allowed");
        Self { place: String::new(), problem }
    }

    pub(in super::super) fn unreadable(error: serde_json::Error) -> Self {
        Self { place: String::new(), problem: error.to_string() }
    }
}

/// Where in the query something stands.
#[derive(Clone, Copy)]
pub(super) struct Place<'a> {
    parent: Option<&'a Place<'a>>,
    step: Step<'a>,
}

#[derive(Clone, Copy)]
enum Step<'a> {
    Root,
    Name(&'a str),
    Index(usize),
}

impl<'a> Place<'a> {
    /// The query as a whole.
    pub(super) fn root() -> Self {
        Self { parent: None, step: Step::Root }
    }

    pub(super) fn name(&'a self, name: &'a str) -> Self {
        Self { parent: Some(self), step: Step::Name(name) }
    }

    pub(super) fn index(&'a self, index: usize) -> Self {
        Self { parent: Some(self), step: Step::Index(index) }
    }

    pub(super) fn refuse(&self, problem: impl Into<String>) -> InvalidQuery {
        let place = if self.parent.is_some() { format!(" at {self}") } else { String::new() };
        InvalidQuery { place, problem: problem.into() }
    }

    pub(super) fn object<'v>(&self, value: &'v Value, problem: &str) -> Parsed<&'v Map<String, Value>> {
        value.as_object().ok_or_else(|| self.refuse(problem))
    }

    /// The items of an array that is not empty.
    pub(super) fn items<'v>(&self, value: &'v Value, of: &str) -> Parsed<&'v Vec<Value>> {
        let items = value.as_array().filter(|items| !items.is_empty());
        items.ok_or_else(|| self.refuse(format!("it must be an array of {of} that is not empty")))
    }
}

impl fmt::Display for Place<'_> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(parent) = self.parent {
            parent.fmt(formatter)?;
        }
        match self.step {
            Step::Root => Ok(()),
            Step::Name(name) => write!(formatter, "/{}", cut(name).replace('~', "~0").replace('/', "~1")),
            Step::Index(index) => write!(formatter, "/{index}"),
        }
    }
}

pub(super) fn cut(name: &str) -> String {
    name.chars().take(QUOTED_MAX).collect()
}
