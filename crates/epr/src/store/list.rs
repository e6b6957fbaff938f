//! Lists of endpoints.

use futures::TryStreamExt as _;
use ids::{ApplicationName, EndpointId, TenantId};
use sqlx::types::Json;
use sqlx::{FromRow as _, Postgres, QueryBuilder, Row as _, ValueRef as _};

use super::{EndpointRow, Store};
use crate::domain::Endpoint;
use crate::error::Error;
use crate::filters::push_matching;
use crate::search::{Comparison, Condition, Cursor, Filter, Pattern, Test, View};

/// A page of a list.
#[derive(Debug)]
pub(crate) struct Selected {
    /// In all pages together.
    pub(crate) total: i64,
    pub(crate) endpoints: Vec<Endpoint>,
    /// Where the next page begins, if there is one.
    pub(crate) next: Option<Cursor>,
}

impl Store {
    /// A page of the tenant's endpoints. Refused when their metadata have more than `bytes_max` bytes: the page is made in
    /// memory.
    pub(crate) async fn endpoints(
        &self,
        tenant: &TenantId,
        filter: &Filter,
        view: &View,
        bytes_max: usize,
    ) -> Result<Selected, Error> {
        let mut count = QueryBuilder::<Postgres>::new("SELECT count(*) FROM endpoints");
        restrict(&mut count, tenant, filter);
        // Planned for its values: what is right for a rare one is a scan for a frequent one.
        let count = count.build_query_scalar().persistent(false);
        let total: i64 = count.fetch_one(&self.pool).await.map_err(regex_refused)?;

        let mut select = QueryBuilder::<Postgres>::new(
            "SELECT endpoint_id, app_version_name, app_version_registered_at, created_at, endpoint_group, ",
        );
        select.push(if view.with_metadata {
            "metadata, metadata_updated_at FROM endpoints"
        } else {
            "NULL::jsonb AS metadata, NULL::timestamptz AS metadata_updated_at FROM endpoints"
        });
        restrict(&mut select, tenant, filter);
        if let Some(after) = &view.after {
            select.push(if view.newest_first {
                " AND (created_at, endpoint_id) < ("
            } else {
                " AND (created_at, endpoint_id) > ("
            });
            select.push_bind(after.created_at).push(", ").push_bind(after.endpoint_id.to_string()).push(")");
        }
        select.push(if view.newest_first {
            " ORDER BY created_at DESC, endpoint_id DESC"
        } else {
            " ORDER BY created_at, endpoint_id"
        });
        // One more than asked for tells whether there is a next page.
        select.push(" OFFSET ").push_bind(view.offset).push(" LIMIT ").push_bind(view.limit + 1);
        let limit = usize::try_from(view.limit).unwrap_or(usize::MAX);
        let mut rows: Vec<EndpointRow> = Vec::new();
        let mut bytes = 0;
        let mut found = select.build().persistent(false).fetch(&self.pool);
        while let Some(row) = found.try_next().await.map_err(regex_refused)? {
            let metadata = row.try_get_raw("metadata")?;
            if !metadata.is_null() && rows.len() < limit {
                bytes += metadata.as_bytes().map_err(sqlx::Error::Decode)?.len();
            }
            if bytes > bytes_max {
                return Err(Error::Refused(format!(
                    "the metadata of {} endpoints have more than {bytes_max} bytes (epr.list_metadata_bytes_max): ask \
                     for fewer endpoints at once (limit), or leave out include=metadata",
                    rows.len() + 1
                )));
            }
            rows.push(EndpointRow::from_row(&row)?);
        }
        let more = rows.len() > limit;
        rows.truncate(limit);
        let next = match rows.last() {
            Some(last) if more => Some(Cursor {
                created_at: last.created_at,
                endpoint_id: EndpointId::parse(&last.endpoint_id)?,
            }),
            _ => None,
        };
        Ok(Selected { total, endpoints: rows.into_iter().map(Endpoint::from).collect(), next })
    }
}

/// PostgreSQL may refuse a regular expression that is in order elsewhere, or find it too complex.
fn regex_refused(error: sqlx::Error) -> Error {
    match error.as_database_error() {
        Some(refusal) if refusal.code().as_deref() == Some("2201B") => {
            Error::Refused(format!("the regular expression cannot be used: {}", refusal.message()))
        }
        _ => error.into(),
    }
}

/// The conditions as they are asked for and no others, so that the planner finds the index that belongs to
/// them.
fn restrict(query: &mut QueryBuilder<Postgres>, tenant: &TenantId, filter: &Filter) {
    query.push(" WHERE registered_at IS NOT NULL AND tenant_id = ").push_bind(tenant.to_string());
    match filter.applications.as_deref() {
        None => {}
        Some([application]) => {
            query.push(" AND application_name = ").push_bind(application.to_string());
        }
        Some(applications) => {
            let names: Vec<String> = applications.iter().map(ApplicationName::to_string).collect();
            query.push(" AND application_name = ANY (").push_bind(names).push(")");
        }
    }
    if let Some(version) = &filter.version {
        query.push(" AND app_version_name = ").push_bind(version.to_string());
    }
    if !filter.endpoint_ids.is_empty() {
        let ids: Vec<String> = filter.endpoint_ids.iter().map(ToString::to_string).collect();
        query.push(" AND endpoint_id = ANY (").push_bind(ids).push(")");
    }
    if let Some(matching) = &filter.matching {
        query.push(" AND ");
        push_matching(query, "endpoint_id", matching);
    }
    for condition in &filter.conditions {
        query.push(" AND ");
        restrict_value(query, condition);
    }
    if let Some(text) = &filter.text {
        query.push(" AND (endpoint_id ");
        push_match(query, text);
        query.push(" OR EXISTS (SELECT FROM jsonb_each_text(metadata) AS entry WHERE entry.value ");
        push_match(query, text);
        query.push("))");
    }
}

fn restrict_value(query: &mut QueryBuilder<Postgres>, condition: &Condition) {
    let key = condition.key.clone();
    // Containment finds its rows by the index.
    let contains = |query: &mut QueryBuilder<Postgres>, value: serde_json::Value| {
        let object = serde_json::Map::from_iter([(condition.key.clone(), value)]);
        query.push("metadata @> ").push_bind(Json(object));
    };
    match &condition.test {
        Test::Equals(value) => {
            contains(query, value.clone());
            if value.is_array() || value.is_object() {
                // More than equal values contain an array or object.
                query.push(" AND metadata -> ").push_bind(key).push(" = ").push_bind(Json(value.clone()));
            }
        }
        Test::EqualsEither(value, text) => {
            query.push("(");
            contains(query, value.clone());
            query.push(" OR ");
            contains(query, serde_json::Value::from(text.as_str()));
            query.push(")");
        }
        Test::Differs(value) => {
            query
                .push("metadata -> ")
                .push_bind(key)
                .push(" IS DISTINCT FROM ")
                .push_bind(Json(value.clone()));
        }
        Test::Exists(exists) => {
            query.push("metadata -> ").push_bind(key);
            query.push(if *exists { " IS NOT NULL" } else { " IS NULL" });
        }
        Test::Matches(pattern) => {
            query.push("metadata ->> ").push_bind(key).push(" ");
            push_match(query, pattern);
        }
        Test::Compares(comparison, value) => compare(query, key, *comparison, value),
    }
}

/// Numbers compare with numbers and strings with strings, by their bytes: so it does not depend on the collation of the
/// database.
fn compare(
    query: &mut QueryBuilder<Postgres>,
    key: String,
    comparison: Comparison,
    value: &serde_json::Value,
) {
    let sign = match comparison {
        Comparison::Greater => " > ",
        Comparison::GreaterOrEqual => " >= ",
        Comparison::Less => " < ",
        Comparison::LessOrEqual => " <= ",
    };
    let is_text = value.is_string();
    // What stands behind THEN is computed only for values of that type.
    query.push("CASE WHEN jsonb_typeof(metadata -> ").push_bind(key.clone());
    query.push(if is_text { ") = 'string' THEN (metadata ->> " } else { ") = 'number' THEN metadata -> " });
    query.push_bind(key);
    match value.as_str() {
        Some(text) => query.push(") COLLATE \"C\"").push(sign).push_bind(text.to_owned()),
        None => query.push(sign).push_bind(Json(value.clone())),
    };
    query.push(" ELSE false END");
}

fn push_match(query: &mut QueryBuilder<Postgres>, pattern: &Pattern) {
    match pattern {
        Pattern::Text(text) => {
            let escaped = text.replace('\\', "\\\\").replace('%', "\\%").replace('_', "\\_");
            query.push("ILIKE ").push_bind(format!("%{escaped}%"));
        }
        Pattern::Regex(regex) => {
            query.push("~ ").push_bind(regex.clone());
        }
    }
}
