//! Queries as SQL over the table of endpoints, under the alias `e`.
//!
//! The statement is made of fixed fragments; whatever comes from the query is a bind parameter. Values are read with lax
//! JSON paths, which lead through arrays just as a query's paths do; the candidates of a test are what a path finds and,
//! for an array, its items.

use sqlx::types::Json;
use sqlx::{Postgres, QueryBuilder};

use serde_json::Value;

use super::query::{Comparison, Condition, EntryCondition, Logic, Path, Query, Test, Type};

type Sql = QueryBuilder<Postgres>;

/// Regular expressions are not evaluated in SQL. With one, a condition is either true for all that match (and some more), or
/// true only for what matches (and not for all of it). Without, both are the same.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Bound {
    AllThatMatch,
    OnlyWhatMatches,
}

impl Bound {
    fn opposite(self) -> Self {
        match self {
            Self::AllThatMatch => Self::OnlyWhatMatches,
            Self::OnlyWhatMatches => Self::AllThatMatch,
        }
    }
}

/// Adds the condition of a query.
pub(super) fn push(sql: &mut Sql, query: &Query, bound: Bound) {
    logic(sql, query, bound, &|sql, condition, bound| match condition {
        Condition::AppVersion(test) => push_test(sql, "to_jsonb(e.app_version_name)", &[], test, bound),
        Condition::Metadata(entry) => some_entry(sql, entry, bound),
    });
}

fn logic<C>(sql: &mut Sql, of: &Logic<C>, bound: Bound, condition: &impl Fn(&mut Sql, &C, Bound)) {
    match of {
        Logic::All(parts) => join(sql, parts, bound, ("TRUE", " AND "), condition),
        Logic::Any(parts) => join(sql, parts, bound, ("FALSE", " OR "), condition),
        Logic::Not(part) => {
            sql.push("NOT (");
            logic(sql, part, bound.opposite(), condition);
            sql.push(")");
        }
        Logic::Is(is) => condition(sql, is, bound),
    }
}

fn join<C>(
    sql: &mut Sql,
    parts: &[Logic<C>],
    bound: Bound,
    (empty, operator): (&'static str, &'static str),
    condition: &impl Fn(&mut Sql, &C, Bound),
) {
    if parts.is_empty() {
        sql.push(empty);
        return;
    }
    for (index, part) in parts.iter().enumerate() {
        sql.push(if index == 0 { "(" } else { operator });
        logic(sql, part, bound, condition);
    }
    sql.push(")");
}

fn some_entry(sql: &mut Sql, entry: &Logic<EntryCondition>, bound: Bound) {
    sql.push("EXISTS (SELECT FROM ");
    match entry.keys() {
        Some(keys) => {
            let keys: Vec<String> = keys.into_iter().map(ToOwned::to_owned).collect();
            sql.push("(SELECT name AS key, e.metadata -> name AS value FROM unnest(").push_bind(keys);
            sql.push("::text[]) AS name WHERE e.metadata ? name) AS entry");
        }
        None => {
            sql.push("jsonb_each(e.metadata) AS entry (key, value)");
        }
    }
    sql.push(" WHERE ");
    logic(sql, entry, bound, &|sql, condition, bound| match condition {
        EntryCondition::Key(test) => push_test(sql, "to_jsonb(entry.key)", &[], test, bound),
        EntryCondition::Value(Path(path), test) => push_test(sql, "entry.value", path, test, bound),
    });
    sql.push(")");
}

fn push_test(sql: &mut Sql, value: &'static str, path: &[String], test: &Test, bound: Bound) {
    match test {
        Test::Exists => return push_exists(sql, value, path),
        Test::Matches(_) if bound == Bound::OnlyWhatMatches => {
            sql.push("FALSE");
            return;
        }
        _ => {}
    }
    let path_text = json_path(path);
    sql.push("(EXISTS (SELECT FROM (SELECT jsonb_path_query(").push(value).push(", ");
    sql.push_bind(path_text.clone())
        .push("::jsonpath) AS value UNION ALL SELECT jsonb_path_query(")
        .push(value);
    sql.push(", ").push_bind(format!("{path_text}[*]")).push("::jsonpath)) AS candidate WHERE ");
    push_candidate(sql, test);
    sql.push(")");
    if matches!(test, Test::In(values) if values.contains(&Value::Null)) && !path.is_empty() {
        sql.push(" OR NOT ");
        push_exists(sql, value, path);
    }
    sql.push(")");
}

fn push_exists(sql: &mut Sql, value: &'static str, path: &[String]) {
    sql.push("jsonb_path_exists(").push(value).push(", ").push_bind(json_path(path)).push("::jsonpath)");
}

fn push_candidate(sql: &mut Sql, test: &Test) {
    match test {
        Test::In(values) => {
            let values: Vec<Json<Value>> = values.iter().cloned().map(Json).collect();
            sql.push("candidate.value = ANY (").push_bind(values).push(")");
        }
        Test::Compare(comparison, Value::String(than)) => {
            push_type(sql, Type::String);
            sql.push(" AND (candidate.value #>> '{}') COLLATE \"C\" ").push(operator(*comparison));
            sql.push_bind(than.clone());
        }
        Test::Compare(comparison, than) => {
            push_type(sql, Type::of(than));
            sql.push(" AND candidate.value ").push(operator(*comparison)).push_bind(Json(than.clone()));
        }
        Test::OfType(wanted) => push_type(sql, *wanted),
        Test::Matches(_) => push_type(sql, Type::String),
        Test::Exists => {
            sql.push("TRUE");
        }
    }
}

fn push_type(sql: &mut Sql, wanted: Type) {
    sql.push("jsonb_typeof(candidate.value) = ").push(match wanted {
        Type::Null => "'null'",
        Type::Boolean => "'boolean'",
        Type::Number => "'number'",
        Type::String => "'string'",
        Type::Array => "'array'",
        Type::Object => "'object'",
    });
}

fn operator(comparison: Comparison) -> &'static str {
    match comparison {
        Comparison::Greater => "> ",
        Comparison::GreaterOrEqual => ">= ",
        Comparison::Less => "< ",
        Comparison::LessOrEqual => "<= ",
    }
}

/// The names quoted as JSON strings, which a JSON path takes for names whatever they hold.
fn json_path(names: &[String]) -> String {
    let mut path = "$".to_owned();
    for name in names {
        path.push('.');
        path.push_str(&Value::from(name.as_str()).to_string());
    }
    path
}
