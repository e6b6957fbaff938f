//! Filters as callers define and see them.

use chrono::{DateTime, Utc};
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::value::RawValue;
use utoipa::ToSchema;
use uuid::Uuid;

use super::Error;
use super::parse::InvalidQuery;
use super::query::{QUERY_BYTES_MAX, Query};

const NAME_CHARS_MAX: usize = 128;
const DESCRIPTION_CHARS_MAX: usize = 1_024;

/// A filter: a query over the endpoints of an application, which is kept up to date.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Filter {
    pub(crate) id: Uuid,
    /// Unique in the application.
    pub(crate) name: String,
    pub(crate) description: Option<String>,
    #[schema(value_type = Object)]
    pub(crate) mongo_query: MongoQuery,
    pub(crate) status: Status,
    pub(crate) created_date: DateTime<Utc>,
    /// When name, description or query were last changed.
    pub(crate) updated_date: DateTime<Utc>,
    /// While the filter is PENDING, of those endpoints that have been looked at.
    pub(crate) matched_endpoints_count: i64,
    /// What the `ETag` is made of.
    #[serde(skip)]
    pub(crate) version: i64,
}

/// Whether the matches of a filter are complete.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, ToSchema, sqlx::Type)]
#[serde(rename_all = "UPPERCASE")]
#[sqlx(type_name = "text", rename_all = "UPPERCASE")]
pub(crate) enum Status {
    /// Endpoints are still being looked at.
    Pending,
    /// The matches are complete and follow each change of an endpoint.
    Active,
}

/// A query as it was sent: a JSON object, or a text that holds one.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(transparent)]
pub(crate) struct MongoQuery(Box<RawValue>);

/// A filter to create.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) struct NewFilter {
    /// 1 to 128 characters, unique in the application.
    pub(crate) name: String,
    /// Up to 1024 characters.
    #[serde(default)]
    pub(crate) description: Option<String>,
    /// An object, or a string that holds one; up to 16 KiB.
    #[schema(value_type = Object)]
    pub(crate) mongo_query: MongoQuery,
}

/// What to change of a filter. What is absent stays.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct FilterPatch {
    /// 1 to 128 characters, unique in the application.
    pub(crate) name: Option<String>,
    /// Up to 1024 characters; null removes it.
    #[serde(deserialize_with = "present")]
    #[schema(value_type = Option<String>)]
    pub(crate) description: Option<Option<String>>,
    /// An object, or a string that holds one; up to 16 KiB. Another query makes the filter PENDING.
    #[schema(value_type = Option<Object>)]
    pub(crate) mongo_query: Option<MongoQuery>,
}

/// Tells null from absence.
fn present<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Option<String>>, D::Error> {
    Option::deserialize(deserializer).map(Some)
}

impl MongoQuery {
    /// From its text in the table.
    pub(super) fn stored(text: String) -> Result<Self, serde_json::Error> {
        RawValue::from_string(text).map(Self)
    }

    /// As it was sent.
    pub(super) fn as_sent(&self) -> &str {
        self.0.get()
    }

    pub(super) fn parse(&self) -> Result<Query, InvalidQuery> {
        parse_sent(self.as_sent())
    }

    /// Whether another query means the same, so that no endpoint need be looked at again.
    pub(super) fn is_same_as(&self, other: &Self) -> bool {
        // What has been stored can be read; and else the two count as different.
        let value =
            |query: &Self| serde_json::from_str::<serde_json::Value>(&text(query.as_sent()).ok()?).ok();
        match (value(self), value(other)) {
            (Some(one), Some(other)) => one == other,
            _ => false,
        }
    }
}

/// Reads a query as it was sent.
pub(super) fn parse_sent(sent: &str) -> Result<Query, InvalidQuery> {
    // A text may be twice as long as what it holds, by its escapes.
    if sent.len() > 2 * QUERY_BYTES_MAX {
        return Err(InvalidQuery::too_long(sent.len()));
    }
    Query::parse(&text(sent).map_err(InvalidQuery::unreadable)?)
}

/// The text of the query itself.
fn text(sent: &str) -> Result<String, serde_json::Error> {
    if sent.trim_start().starts_with('"') { serde_json::from_str(sent) } else { Ok(sent.to_owned()) }
}

impl NewFilter {
    pub(super) fn check(&self) -> Result<(), Error> {
        check_name(&self.name)?;
        check_description(self.description.as_deref())?;
        self.mongo_query.parse()?;
        Ok(())
    }
}

impl FilterPatch {
    pub(super) fn check(&self) -> Result<(), Error> {
        self.name.as_deref().map_or(Ok(()), check_name)?;
        check_description(self.description.as_ref().and_then(Option::as_deref))?;
        if let Some(query) = &self.mongo_query {
            query.parse()?;
        }
        Ok(())
    }
}

fn check_name(name: &str) -> Result<(), Error> {
    let chars = name.chars().count();
    if name.trim().is_empty() || chars > NAME_CHARS_MAX || name.chars().any(char::is_control) {
        let rule =
            format!("name must be 1 to {NAME_CHARS_MAX} characters, not only spaces, no control characters");
        return Err(Error::Invalid(rule));
    }
    Ok(())
}

fn check_description(description: Option<&str>) -> Result<(), Error> {
    let Some(description) = description else { return Ok(()) };
    if description.chars().count() > DESCRIPTION_CHARS_MAX || description.contains('\0') {
        let rule =
            format!("description must be at most {DESCRIPTION_CHARS_MAX} characters, none of them NUL");
        return Err(Error::Invalid(rule));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn query(sent: &str) -> MongoQuery {
        MongoQuery::stored(sent.to_owned()).unwrap()
    }

    #[test]
    fn a_query_is_an_object_or_a_text_that_holds_one() {
        let object = r#"{ "application_version": "app-v1" }"#;
        assert!(query(object).parse().is_ok());
        let text = json!(object).to_string();
        assert!(query(&text).parse().is_ok());
        assert!(query(&text).is_same_as(&query(object)));
        assert!(query(r#"{"a": 1, "b": 2}"#).is_same_as(&query(r#"{"b":2,"a":1}"#)));
        assert!(!query(r#"{"a": 1}"#).is_same_as(&query(r#"{"a": 2}"#)));
        for wrong in ["1", "null", "[]", r#""nothing""#, r#""""#, r#""\u0000""#] {
            assert!(query(wrong).parse().is_err(), "{wrong}");
        }
        let long = json!(" ".repeat(3 * QUERY_BYTES_MAX)).to_string();
        assert!(query(&long).parse().unwrap_err().to_string().contains("16384"));
    }

    #[test]
    fn a_patch_tells_null_from_absence() {
        let read = |json: serde_json::Value| serde_json::from_str::<FilterPatch>(&json.to_string()).unwrap();
        assert_eq!(read(json!({})).description, None);
        assert_eq!(read(json!({"description": null})).description, Some(None));
        assert_eq!(read(json!({"description": "d"})).description, Some(Some("d".to_owned())));
        let patch = read(json!({"name": null, "mongoQuery": null}));
        assert!(patch.name.is_none() && patch.mongo_query.is_none());
    }

    #[test]
    fn names_and_descriptions_keep_to_their_rules() {
        for name in ["x", "Devices in Київ", &"é".repeat(128)] {
            assert!(check_name(name).is_ok(), "{name}");
        }
        for name in ["", " ", "a\nb", "a\0", &"é".repeat(129)] {
            assert!(check_name(name).is_err(), "{name}");
        }
        assert!(check_description(Some("two\nlines")).is_ok());
        assert!(check_description(Some("\0")).is_err());
        assert!(check_description(Some(&"x".repeat(1_025))).is_err());
    }
}
