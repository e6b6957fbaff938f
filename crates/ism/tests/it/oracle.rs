//! What apache-avro makes of a schema.

use std::collections::HashMap;

use apache_avro::Schema;
use apache_avro::reader::datum::GenericDatumReader;
use apache_avro::types::Value;
use apache_avro::writer::datum::GenericDatumWriter;
use ism::Entry;
use proptest::collection::{hash_map, vec};
use proptest::prelude::*;
use serde_json::{Map, Value as Json, json};

pub(crate) fn schema(entry: &Entry) -> Schema {
    Schema::parse_str(entry.schema).unwrap_or_else(|error| panic!("{}: {error}", entry.record))
}

pub(crate) fn encode(schema: &Schema, value: Value) -> Vec<u8> {
    GenericDatumWriter::builder(schema).build().unwrap().write_value_to_vec(value).unwrap()
}

pub(crate) fn decode(schema: &Schema, bytes: &[u8]) -> Value {
    GenericDatumReader::builder(schema).build().unwrap().read_value(&mut &*bytes).unwrap()
}

/// A value in Avro's JSON encoding.
pub(crate) fn to_json(schema: &Schema, value: &Value) -> Json {
    match (schema, value) {
        (_, Value::Null) => Json::Null,
        (_, Value::Boolean(value)) => json!(value),
        (_, Value::Int(value)) => json!(value),
        (_, Value::Long(value)) => json!(value),
        (_, Value::Float(value)) => json!(value),
        (_, Value::Double(value)) => json!(value),
        (_, Value::String(value)) => json!(value),
        (_, Value::Bytes(value)) => value.iter().copied().map(char::from).collect::<String>().into(),
        (Schema::Union(union), Value::Union(branch, value)) => {
            let schema = &union.variants()[usize::try_from(*branch).unwrap()];
            match to_json(schema, value) {
                Json::Null if **value == Value::Null => Json::Null,
                value => json!({ type_name(schema): value }),
            }
        }
        (Schema::Array(array), Value::Array(items)) => {
            items.iter().map(|item| to_json(&array.items, item)).collect::<Vec<_>>().into()
        }
        (Schema::Map(map), Value::Map(items)) => items
            .iter()
            .map(|(key, value)| (key.clone(), to_json(&map.types, value)))
            .collect::<Map<_, _>>()
            .into(),
        (Schema::Record(record), Value::Record(values)) => {
            let fields = record.fields.iter().zip(values);
            fields
                .map(|(field, (name, value))| (name.clone(), to_json(&field.schema, value)))
                .collect::<Map<_, _>>()
                .into()
        }
        (schema, value) => panic!("{value:?} is no {schema:?}"),
    }
}

/// The name of a primitive type.
fn type_name(schema: &Schema) -> String {
    schema.canonical_form().trim_matches('"').to_owned()
}

/// Any value of a schema.
pub(crate) fn any_value(schema: &Schema) -> BoxedStrategy<Value> {
    match schema {
        Schema::Null => Just(Value::Null).boxed(),
        Schema::Boolean => any::<bool>().prop_map(Value::Boolean).boxed(),
        Schema::Int => any::<i32>().prop_map(Value::Int).boxed(),
        Schema::Long => prop_oneof![any::<i64>(), -200..200_i64].prop_map(Value::Long).boxed(),
        Schema::Float => any::<f32>().prop_map(Value::Float).boxed(),
        Schema::Double => any::<f64>().prop_map(Value::Double).boxed(),
        Schema::Bytes => vec(any::<u8>(), 0..200).prop_map(Value::Bytes).boxed(),
        Schema::String => "\\PC{0,80}".prop_map(Value::String).boxed(),
        Schema::Array(array) => vec(any_value(&array.items), 0..5).prop_map(Value::Array).boxed(),
        Schema::Map(map) => {
            let items = hash_map("\\PC{0,10}", any_value(&map.types), 0..4);
            items.prop_map(|items| Value::Map(HashMap::from_iter(items))).boxed()
        }
        Schema::Union(union) => {
            let branches = union.variants().iter().enumerate().map(|(branch, schema)| {
                let branch = u32::try_from(branch).unwrap();
                any_value(schema).prop_map(move |value| Value::Union(branch, Box::new(value))).boxed()
            });
            proptest::strategy::Union::new(branches).boxed()
        }
        Schema::Record(record) => {
            let names: Vec<String> = record.fields.iter().map(|field| field.name.clone()).collect();
            let values: Vec<_> = record.fields.iter().map(|field| any_value(&field.schema)).collect();
            values.prop_map(move |values| Value::Record(names.iter().cloned().zip(values).collect())).boxed()
        }
        other => panic!("no record has {other:?} yet"),
    }
}
