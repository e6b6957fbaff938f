//! What a filter asks of an endpoint: MongoDB's query language, as far as it makes sense here.
//!
//! A query sees an endpoint as this document, in which `metadata` holds one item for each metadata key:
//!
//! ```json
//! {"application_version": "app-v1", "metadata": [{"key": "city", "value": "Kyiv"}, {"key": "floor", "value": 3}]}
//! ```
//!
//! Text becomes a [`Query`] in `parse`; `evaluate` and `sql` give it the same meaning in memory and in PostgreSQL.
//! Operators that are made of others (`$ne`, `$nin`, `$nor`, `$all`) do not appear here any more.

use std::cmp::Ordering;

use regex::Regex;
use serde_json::Value;

/// A query as text, in bytes.
pub(super) const QUERY_BYTES_MAX: usize = 16 * 1024;
/// Objects and arrays inside each other.
pub(super) const QUERY_DEPTH_MAX: usize = 16;
/// JSON values of all kinds together.
pub(super) const QUERY_NODES_MAX: usize = 256;
/// Names in a path behind `value.`.
pub(super) const PATH_NAMES_MAX: usize = 16;
/// A regular expression, in bytes.
pub(super) const REGEX_BYTES_MAX: usize = 256;
/// Regular expressions of one query.
pub(super) const REGEXES_MAX: usize = 4;
/// What a compiled regular expression may take, in bytes.
pub(super) const REGEX_COMPILED_BYTES_MAX: usize = 128 * 1024;

/// Conditions, combined.
#[derive(Debug, Clone)]
pub(crate) enum Logic<C> {
    /// True when empty.
    All(Vec<Self>),
    /// False when empty.
    Any(Vec<Self>),
    Not(Box<Self>),
    Is(C),
}

/// What a filter asks of an endpoint.
pub(crate) type Query = Logic<Condition>;

/// What is asked of one part of the document.
#[derive(Debug, Clone)]
pub(crate) enum Condition {
    AppVersion(Test),
    /// Some metadata entry satisfies all of it (`$elemMatch`).
    Metadata(Logic<EntryCondition>),
}

/// What is asked of a metadata entry.
#[derive(Debug, Clone)]
pub(crate) enum EntryCondition {
    Key(Test),
    Value(Path, Test),
}

/// Names that lead into a value; empty for the value itself. On the way, an array stands for those of its items that
/// are objects.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Path(pub(super) Vec<String>);

/// What is asked of what is found at a place. There may be nothing, or several values. Except for [`Test::Exists`] an array
/// also passes when one of its items does.
#[derive(Debug, Clone)]
pub(crate) enum Test {
    /// Equal to one of these; null among them also stands for nothing found.
    In(Vec<Value>),
    /// Of the same type and on this side of a number, a string or a boolean.
    Compare(Comparison, Value),
    /// Something is found.
    Exists,
    OfType(Type),
    /// A string in which the expression is found.
    Matches(Regex),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Comparison {
    Greater,
    GreaterOrEqual,
    Less,
    LessOrEqual,
}

/// The types of JSON.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Type {
    Null,
    Boolean,
    Number,
    String,
    Array,
    Object,
}

impl<C> Logic<C> {
    /// Whether it is true, given whether its conditions are.
    pub(super) fn holds(&self, condition: &impl Fn(&C) -> bool) -> bool {
        match self {
            Self::All(parts) => parts.iter().all(|part| part.holds(condition)),
            Self::Any(parts) => parts.iter().any(|part| part.holds(condition)),
            Self::Not(part) => !part.holds(condition),
            Self::Is(is) => condition(is),
        }
    }

    /// The same of other conditions.
    pub(super) fn map<D>(self, wrap: &impl Fn(C) -> D) -> Logic<D> {
        let all = |parts: Vec<Self>| parts.into_iter().map(|part| part.map(wrap)).collect();
        match self {
            Self::All(parts) => Logic::All(all(parts)),
            Self::Any(parts) => Logic::Any(all(parts)),
            Self::Not(part) => Logic::Not(Box::new(part.map(wrap))),
            Self::Is(is) => Logic::Is(wrap(is)),
        }
    }

    pub(super) fn not(self) -> Self {
        Self::Not(Box::new(self))
    }

    /// All parts together; a single one stays as it is.
    pub(super) fn all(mut parts: Vec<Self>) -> Self {
        match (parts.pop(), parts.is_empty()) {
            (Some(only), true) => only,
            (last, _) => {
                parts.extend(last);
                Self::All(parts)
            }
        }
    }

    fn sum(&self, of: &impl Fn(&C) -> usize) -> usize {
        match self {
            Self::All(parts) | Self::Any(parts) => parts.iter().map(|part| part.sum(of)).sum(),
            Self::Not(part) => part.sum(of),
            Self::Is(condition) => of(condition),
        }
    }
}

impl Query {
    /// Whether SQL can only tell which endpoints may match: regular expressions are evaluated in memory, because PostgreSQL
    /// has another flavour of them.
    pub(super) fn has_regex(&self) -> bool {
        self.regexes() > 0
    }

    /// How many regular expressions it holds.
    pub(super) fn regexes(&self) -> usize {
        let in_test = |test: &Test| usize::from(matches!(test, Test::Matches(_)));
        let in_entry = |condition: &EntryCondition| match condition {
            EntryCondition::Key(test) | EntryCondition::Value(_, test) => in_test(test),
        };
        self.sum(&|condition| match condition {
            Condition::AppVersion(test) => in_test(test),
            Condition::Metadata(entry) => entry.sum(&in_entry),
        })
    }
}

impl Logic<EntryCondition> {
    /// The only keys that an entry may have, if it is asked for by name: then the others need not be looked at.
    pub(super) fn keys(&self) -> Option<Vec<&str>> {
        match self {
            Self::Is(EntryCondition::Key(Test::In(keys))) => {
                Some(keys.iter().filter_map(Value::as_str).collect())
            }
            Self::All(parts) => parts.iter().find_map(Self::keys),
            _ => None,
        }
    }
}

impl Comparison {
    pub(super) fn admits(self, ordering: Ordering) -> bool {
        match self {
            Self::Greater => ordering.is_gt(),
            Self::GreaterOrEqual => ordering.is_ge(),
            Self::Less => ordering.is_lt(),
            Self::LessOrEqual => ordering.is_le(),
        }
    }
}

impl Type {
    pub(super) fn of(value: &Value) -> Self {
        match value {
            Value::Null => Self::Null,
            Value::Bool(_) => Self::Boolean,
            Value::Number(_) => Self::Number,
            Value::String(_) => Self::String,
            Value::Array(_) => Self::Array,
            Value::Object(_) => Self::Object,
        }
    }
}
