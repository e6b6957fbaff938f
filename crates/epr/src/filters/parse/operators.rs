//! What is asked of one field: a constant, or operators.

use regex::{Regex, RegexBuilder};
use serde_json::{Map, Value};

use super::super::query::{
    Comparison, Logic, REGEX_BYTES_MAX, REGEX_COMPILED_BYTES_MAX, REGEXES_MAX, Test, Type,
};
use super::Parser;
use super::place::{Parsed, Place, cut};

const OPERATORS: &str =
    "$eq, $ne, $gt, $gte, $lt, $lte, $in, $nin, $exists, $type, $regex with $options, $all, $not";

impl Parser {
    /// A constant, or an object of operators.
    pub(super) fn field(&mut self, value: &Value, place: Place<'_>) -> Parsed<Logic<Test>> {
        match value {
            Value::Object(object) if object.keys().any(|name| name.starts_with('$')) => {
                self.operators(object, place)
            }
            constant => Ok(Logic::Is(Test::In(vec![self::constant(constant, place)?]))),
        }
    }

    fn operators(&mut self, object: &Map<String, Value>, place: Place<'_>) -> Parsed<Logic<Test>> {
        let mut parts = Vec::new();
        for (name, value) in object {
            let at = place.name(name);
            parts.push(match name.as_str() {
                "$eq" => Logic::Is(Test::In(vec![constant(value, at)?])),
                "$ne" => Logic::Is(Test::In(vec![constant(value, at)?])).not(),
                "$in" => Logic::Is(Test::In(constants(value, at)?)),
                "$nin" => Logic::Is(Test::In(constants(value, at)?)).not(),
                "$all" => {
                    at.items(value, "constants")?;
                    let each = constants(value, at)?.into_iter();
                    Logic::all(each.map(|constant| Logic::Is(Test::In(vec![constant]))).collect())
                }
                "$gt" => compare(Comparison::Greater, value, at)?,
                "$gte" => compare(Comparison::GreaterOrEqual, value, at)?,
                "$lt" => compare(Comparison::Less, value, at)?,
                "$lte" => compare(Comparison::LessOrEqual, value, at)?,
                "$exists" => match value {
                    Value::Bool(true) => Logic::Is(Test::Exists),
                    Value::Bool(false) => Logic::Is(Test::Exists).not(),
                    _ => return Err(at.refuse("it must be true or false")),
                },
                "$type" => of_type(value, at)?,
                "$regex" => Logic::Is(Test::Matches(self.regex(value, object.get("$options"), place)?)),
                "$options" if object.contains_key("$regex") => continue,
                "$options" => return Err(at.refuse("it belongs to a $regex beside it, and there is none")),
                "$not" => {
                    const OPERATORS_ONLY: &str = "it must be an object of operators, such as {\"$gt\": 5}";
                    let inner = at.object(value, OPERATORS_ONLY)?;
                    if inner.is_empty() {
                        return Err(at.refuse(OPERATORS_ONLY));
                    }
                    self.operators(inner, at)?.not()
                }
                _ => return Err(at.refuse(no_operator(name))),
            });
        }
        Ok(Logic::all(parts))
    }

    /// A regular expression, compiled: the `regex` crate's run in time linear in the text.
    fn regex(&mut self, pattern: &Value, options: Option<&Value>, place: Place<'_>) -> Parsed<Regex> {
        let at = place.name("$regex");
        let Value::String(pattern) = pattern else { return Err(at.refuse("it must be a string")) };
        if pattern.len() > REGEX_BYTES_MAX {
            let bytes = pattern.len();
            return Err(at.refuse(format!("it has {bytes} bytes, more than the {REGEX_BYTES_MAX} allowed")));
        }
        self.regexes += 1;
        if self.regexes > REGEXES_MAX {
            return Err(at.refuse(format!("the query has more than {REGEXES_MAX} regular expressions")));
        }
        let mut builder = RegexBuilder::new(pattern);
        builder.size_limit(REGEX_COMPILED_BYTES_MAX).dfa_size_limit(REGEX_COMPILED_BYTES_MAX);
        if let Some(options) = options {
            let at = place.name("$options");
            let Value::String(options) = options else { return Err(at.refuse("it must be a string")) };
            for option in options.chars() {
                match option {
                    'i' => builder.case_insensitive(true),
                    'm' => builder.multi_line(true),
                    's' => builder.dot_matches_new_line(true),
                    'x' => builder.ignore_whitespace(true),
                    _ => return Err(at.refuse(format!("{option:?} is none of the options i, m, s, x"))),
                };
            }
        }
        builder.build().map_err(|error| match error {
            regex::Error::CompiledTooBig(_) => at.refuse(format!(
                "it takes more than {REGEX_COMPILED_BYTES_MAX} bytes when compiled: repeat less, or use narrower classes"
            )),
            error => at.refuse(format!("it is not understood (look-around and back-references are not supported): {error}")),
        })
    }
}

fn compare(comparison: Comparison, than: &Value, place: Place<'_>) -> Parsed<Logic<Test>> {
    match than {
        Value::Number(_) | Value::String(_) | Value::Bool(_) => {
            Ok(Logic::Is(Test::Compare(comparison, than.clone())))
        }
        _ => Err(place.refuse("only numbers, strings and booleans have an order")),
    }
}

fn of_type(value: &Value, place: Place<'_>) -> Parsed<Logic<Test>> {
    let one = |value: &Value, place: Place<'_>| {
        let wanted = match value.as_str().unwrap_or_default() {
            "null" => Type::Null,
            "bool" => Type::Boolean,
            "number" => Type::Number,
            "string" => Type::String,
            "array" => Type::Array,
            "object" => Type::Object,
            _ => {
                let problem =
                    "it must be one of \"null\", \"bool\", \"number\", \"string\", \"array\", \"object\"";
                return Err(place.refuse(problem));
            }
        };
        Ok(Logic::Is(Test::OfType(wanted)))
    };
    match value {
        Value::Array(_) => {
            let types = place.items(value, "names of types")?.iter().enumerate();
            let any: Parsed<_> = types.map(|(index, value)| one(value, place.index(index))).collect();
            Ok(Logic::Any(any?))
        }
        _ => one(value, place),
    }
}

fn constants(value: &Value, place: Place<'_>) -> Parsed<Vec<Value>> {
    let Value::Array(items) = value else { return Err(place.refuse("it must be an array of constants")) };
    items.iter().enumerate().map(|(index, item)| constant(item, place.index(index))).collect()
}

/// A constant holds no operators: inside of one they would be taken for plain names.
fn constant(value: &Value, place: Place<'_>) -> Parsed<Value> {
    match value {
        Value::Array(items) => {
            for (index, item) in items.iter().enumerate() {
                constant(item, place.index(index))?;
            }
        }
        Value::Object(object) => {
            for (name, value) in object {
                let at = place.name(name);
                if name.starts_with('$') {
                    return Err(at.refuse(format!("{} cannot stand inside a constant", cut(name))));
                }
                constant(value, at)?;
            }
        }
        _ => {}
    }
    Ok(value.clone())
}

fn no_operator(name: &str) -> String {
    let name = cut(name);
    if name.starts_with('$') {
        format!("{name} is not supported here; supported are {OPERATORS}")
    } else {
        format!("{name:?} stands beside operators, which all begin with $")
    }
}
