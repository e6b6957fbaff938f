//! PostgreSQL and memory agree on what a query means: random queries over random endpoints, in a real database.

use std::cell::{Cell, RefCell};

use proptest::collection::{btree_map, vec};
use proptest::prelude::*;
use proptest::sample::select;
use proptest::test_runner::{Config, TestCaseError, TestRunner};
use serde_json::{Map, Value, json};
use sqlx::types::Json;
use sqlx::{Connection as _, PgConnection, Postgres, QueryBuilder};
use tokio::runtime::Runtime;

use super::query::Query;
use super::sql::{self, Bound};

const CASES: u32 = 400;
const ENDPOINTS: usize = 24;

/// Few different values, so that queries find something; among them what is easily got wrong.
fn scalar() -> impl Strategy<Value = Value> {
    select(vec![
        json!(null),
        json!(true),
        json!(false),
        json!(0),
        json!(-0.0),
        json!(1),
        json!(1.0),
        json!(2),
        json!(-1),
        json!(0.1),
        json!(2.5),
        json!(10),
        json!(1e300),
        json!(5e-324),
        json!(1e23),
        json!(0.300_000_000_000_000_04),
        json!(9_007_199_254_740_993_i64),
        json!(9_007_199_254_740_992.0),
        json!(9_223_372_036_854_775_808_u64),
        json!(9_223_372_036_854_775_808.0),
        json!(""),
        json!("a"),
        json!("A"),
        json!("ab"),
        json!("b"),
        json!("1"),
        json!("é"),
        json!("e\u{301}"),
        json!("\u{ffff}"),
        json!("😀"),
        json!("a\nb"),
        json!("null"),
        json!("it's \"$1\" \\"),
    ])
}

/// Names of metadata keys and of what is inside of values.
fn name() -> impl Strategy<Value = String> {
    select(vec!["a", "b", "c", "A", "1a", "it's \"$1\" \\", "é"]).prop_map(ToOwned::to_owned)
}

fn value() -> impl Strategy<Value = Value> {
    scalar().prop_recursive(3, 8, 3, |inner| {
        prop_oneof![
            vec(inner.clone(), 0..4).prop_map(Value::Array),
            btree_map(name(), inner, 0..3).prop_map(|map| Value::Object(map.into_iter().collect())),
        ]
    })
}

fn version() -> impl Strategy<Value = String> {
    select(vec!["a", "ab", "b", "app-v1"]).prop_map(ToOwned::to_owned)
}

fn endpoint() -> impl Strategy<Value = (String, Map<String, Value>)> {
    (version(), btree_map(name(), value(), 0..4).prop_map(|map| map.into_iter().collect()))
}

fn regex() -> impl Strategy<Value = Value> {
    let patterns = vec!["", "a", "^a$", "^[^a]", "a.b", "é|b", r"\d", "^.$"];
    (select(patterns), select(vec!["", "i", "ims"]))
        .prop_map(|(regex, options)| json!({"$regex": regex, "$options": options}))
}

/// What may stand for a field: a constant, or operators.
fn field() -> BoxedStrategy<Value> {
    let ordered = scalar().prop_filter("null has no order", |value| !value.is_null());
    let compare =
        (select(vec!["$gt", "$gte", "$lt", "$lte"]), ordered).prop_map(|(name, than)| json!({name: than}));
    let one = (select(vec!["$eq", "$ne"]), value()).prop_map(|(name, value)| json!({name: value}));
    let several =
        (select(vec!["$in", "$nin"]), vec(value(), 0..4)).prop_map(|(name, values)| json!({name: values}));
    let types = vec!["null", "bool", "number", "string", "array", "object"];
    let operators = prop_oneof![
        3 => compare,
        2 => one,
        2 => several,
        1 => vec(scalar(), 1..3).prop_map(|values| json!({"$all": values})),
        1 => any::<bool>().prop_map(|exists| json!({"$exists": exists})),
        1 => vec(select(types), 1..3).prop_map(|types| json!({"$type": types})),
        1 => regex(),
    ];
    let operators = operators.prop_recursive(2, 4, 2, |inner| {
        prop_oneof![
            inner.clone().prop_map(|inner| json!({"$not": inner})),
            (inner.clone(), inner).prop_map(|(mut left, right)| {
                if let (Value::Object(left), Value::Object(right)) = (&mut left, right) {
                    left.extend(right);
                }
                left
            }),
        ]
    });
    prop_oneof![2 => value(), 3 => operators].boxed()
}

fn combined(one: impl Strategy<Value = Value> + 'static) -> BoxedStrategy<Value> {
    let combined = one.prop_recursive(2, 6, 2, |inner| {
        (select(vec!["$and", "$or", "$nor"]), vec(inner, 1..3)).prop_map(|(name, parts)| json!({name: parts}))
    });
    combined.boxed()
}

fn entry() -> impl Strategy<Value = Value> {
    let key = prop_oneof![
        4 => name().prop_map(Value::from),
        1 => vec(name(), 0..3).prop_map(|names| json!({"$in": names})),
        1 => field(),
    ];
    let place = prop_oneof![2 => Just(String::new()), 1 => vec(name(), 1..3).prop_map(|names| format!(".{}", names.join(".")))];
    let value = (place, field()).prop_map(|(place, value)| json!({format!("value{place}"): value}));
    let one = (proptest::option::weighted(0.8, key), proptest::option::weighted(0.8, value)).prop_map(
        |(key, value)| {
            let mut entry = value.unwrap_or_else(|| json!({}));
            if let (Some(key), Some(entry)) = (key, entry.as_object_mut()) {
                entry.insert("key".to_owned(), key);
            }
            entry
        },
    );
    combined(one)
}

fn query() -> impl Strategy<Value = Value> {
    let metadata = entry().prop_map(|entry| json!({"$elemMatch": entry})).boxed();
    let metadata = prop_oneof![
        4 => metadata.clone(),
        1 => metadata.clone().prop_map(|inner| json!({"$not": inner})),
        1 => vec(metadata, 1..3).prop_map(|all| json!({"$all": all})),
    ];
    combined(prop_oneof![
        4 => metadata.prop_map(|metadata| json!({"metadata": metadata})),
        1 => field().prop_map(|field| json!({"application_version": field})),
        1 => version().prop_map(|version| json!({"application_version": version})),
    ])
}

/// The positions of the endpoints that the database finds.
async fn found(
    connection: &mut PgConnection,
    query: &Query,
    endpoints: &[(String, Map<String, Value>)],
    bound: Bound,
) -> Vec<usize> {
    let (versions, metadata): (Vec<String>, Vec<_>) =
        endpoints.iter().map(|(version, metadata)| (version.clone(), Json(metadata.clone()))).unzip();
    let mut sql = QueryBuilder::<Postgres>::new("SELECT e.position FROM unnest(");
    sql.push_bind(versions).push(", ").push_bind(metadata);
    sql.push(") WITH ORDINALITY AS e (app_version_name, metadata, position) WHERE ");
    sql::push(&mut sql, query, bound);
    sql.push(" ORDER BY 1");
    let text = sql.sql();
    let rows = sql.build_query_scalar::<i64>().persistent(false).fetch_all(connection).await;
    let rows = rows.unwrap_or_else(|error| panic!("{error}\n{}", text.as_str()));
    rows.into_iter().map(|position| usize::try_from(position).unwrap() - 1).collect()
}

#[test]
fn a_query_means_the_same_in_sql_and_in_memory() {
    let runtime = Runtime::new().unwrap();
    let (database, mut connection) = runtime.block_on(async {
        let database = testkit::database().await;
        let connection = PgConnection::connect(&database.url).await.unwrap();
        (database, connection)
    });
    let (read, matched) = (Cell::new(0_usize), Cell::new(0_usize));
    let mut runner = TestRunner::new(Config { cases: CASES, failure_persistence: None, ..Config::default() });
    let cases = (query(), vec(endpoint(), ENDPOINTS));
    let connection = RefCell::new(&mut connection);
    let outcome = runner.run(&cases, |(text, endpoints)| {
        // Some random queries are longer or nested deeper than allowed.
        let Ok(query) = Query::parse(&text.to_string()) else { return Ok(()) };
        let expected: Vec<usize> = endpoints
            .iter()
            .enumerate()
            .filter(|(_, (version, metadata))| query.matches(version, metadata))
            .map(|(position, _)| position)
            .collect();
        read.set(read.get() + 1);
        matched.set(matched.get() + expected.len());
        let mut connection = connection.borrow_mut();
        let all = runtime.block_on(found(&mut connection, &query, &endpoints, Bound::AllThatMatch));
        let only = runtime.block_on(found(&mut connection, &query, &endpoints, Bound::OnlyWhatMatches));
        if query.has_regex() {
            let missing = expected.iter().find(|position| !all.contains(position));
            let wrong = only.iter().find(|position| !expected.contains(position));
            prop_assert_eq!((missing, wrong), (None, None));
        } else {
            prop_assert_eq!(&all, &expected);
            prop_assert_eq!(&only, &expected);
        }
        Ok::<(), TestCaseError>(())
    });
    if let Err(failure) = outcome {
        panic!("{failure}");
    }
    drop(database);
    // The test would prove nothing if queries were refused, or all of them true or false.
    let (read, matched) = (read.get(), matched.get());
    assert!(read * 2 > usize::try_from(CASES).unwrap(), "only {read} queries of {CASES} were read");
    let endpoints = read * ENDPOINTS;
    assert!((endpoints / 10..endpoints * 9 / 10).contains(&matched), "{matched} of {endpoints} matched");
}
