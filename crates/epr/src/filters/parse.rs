//! From text to queries, strictly: what is not understood is refused, never ignored.

use std::fmt;

use regex::{Regex, RegexBuilder};
use serde_json::{Map, Value};

use super::query::{
    Comparison, Condition, EntryCondition, Logic, PATH_NAMES_MAX, Path, QUERY_BYTES_MAX, Query,
    REGEX_BYTES_MAX, REGEX_COMPILED_BYTES_MAX, REGEXES_MAX, Test, Type,
};
use super::strict;

/// As much of a name as an error repeats, in characters.
const QUOTED_MAX: usize = 64;
const COMBINATIONS: &str = "$and, $or, $nor";
const OPERATORS: &str =
    "$eq, $ne, $gt, $gte, $lt, $lte, $in, $nin, $exists, $type, $regex with $options, $all, $not";

/// Why a query is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("mongoQuery{place}: {problem}")]
pub(crate) struct InvalidQuery {
    /// ` at ` and a JSON Pointer (RFC 6901), or nothing for the query as a whole.
    place: String,
    problem: String,
}

type Parsed<T> = Result<T, InvalidQuery>;
/// Reads an object of conditions of one kind.
type ReadObject<C> = fn(&mut Parser, &Map<String, Value>, Place<'_>) -> Parsed<Logic<C>>;

impl InvalidQuery {
    pub(super) fn too_long(bytes: usize) -> Self {
        let problem = format!("it has {bytes} bytes, more than the {QUERY_BYTES_MAX} allowed");
        Self { place: String::new(), problem }
    }

    pub(super) fn unreadable(error: serde_json::Error) -> Self {
        Self { place: String::new(), problem: error.to_string() }
    }
}

impl Query {
    /// Reads a query.
    pub(crate) fn parse(text: &str) -> Parsed<Self> {
        let root = Place { parent: None, step: Step::Root };
        if text.len() > QUERY_BYTES_MAX {
            return Err(InvalidQuery::too_long(text.len()));
        }
        let value = strict::read(text).map_err(InvalidQuery::unreadable)?;
        let document =
            root.object(&value, "it must be a JSON object, such as {\"application_version\": \"app-v1\"}")?;
        Parser::default().document(document, root)
    }
}

/// Where in the query something stands.
#[derive(Clone, Copy)]
struct Place<'a> {
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
    fn name(&'a self, name: &'a str) -> Self {
        Self { parent: Some(self), step: Step::Name(name) }
    }

    fn index(&'a self, index: usize) -> Self {
        Self { parent: Some(self), step: Step::Index(index) }
    }

    fn refuse(&self, problem: impl Into<String>) -> InvalidQuery {
        let place = if self.parent.is_some() { format!(" at {self}") } else { String::new() };
        InvalidQuery { place, problem: problem.into() }
    }

    fn object<'v>(&self, value: &'v Value, problem: &str) -> Parsed<&'v Map<String, Value>> {
        value.as_object().ok_or_else(|| self.refuse(problem))
    }

    /// The items of an array that is not empty.
    fn items<'v>(&self, value: &'v Value, of: &str) -> Parsed<&'v Vec<Value>> {
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

fn cut(name: &str) -> String {
    name.chars().take(QUOTED_MAX).collect()
}

/// Reads one query.
#[derive(Default)]
struct Parser {
    regexes: usize,
}

impl Parser {
    /// An object of conditions on the endpoint.
    fn document(&mut self, object: &Map<String, Value>, place: Place<'_>) -> Parsed<Query> {
        let mut parts = Vec::new();
        for (name, value) in object {
            let at = place.name(name);
            parts.push(match name.as_str() {
                "$and" | "$or" | "$nor" => self.combination(name, value, at, Self::document)?,
                "application_version" => self.field(value, at)?.map(&Condition::AppVersion),
                "metadata" => self.metadata(value, at)?,
                _ => return Err(at.refuse(not_in_document(name))),
            });
        }
        Ok(Logic::all(parts))
    }

    /// What is asked of the array of metadata entries.
    fn metadata(&mut self, value: &Value, place: Place<'_>) -> Parsed<Query> {
        const ADVICE: &str = "ask for a metadata entry by {\"$elemMatch\": {\"key\": ..., \"value\": ...}}; $not and $all may stand around it";
        let object = place.object(value, ADVICE)?;
        if object.is_empty() {
            return Err(place.refuse(ADVICE));
        }
        let mut parts = Vec::new();
        for (name, value) in object {
            let at = place.name(name);
            parts.push(match name.as_str() {
                "$elemMatch" => {
                    let entry =
                        at.object(value, "it must be an object such as {\"key\": ..., \"value\": ...}")?;
                    Logic::Is(Condition::Metadata(self.entry(entry, at)?))
                }
                "$not" => self.metadata(value, at)?.not(),
                "$all" => {
                    let mut all = Vec::new();
                    for (index, item) in at.items(value, "{\"$elemMatch\": ...}")?.iter().enumerate() {
                        all.push(self.metadata(item, at.index(index))?);
                    }
                    Logic::all(all)
                }
                _ if name.starts_with('$') => {
                    return Err(at.refuse(format!("{} is not supported for metadata; {ADVICE}", cut(name))));
                }
                _ => return Err(at.refuse(ADVICE)),
            });
        }
        Ok(Logic::all(parts))
    }

    /// An object of conditions on one metadata entry.
    fn entry(&mut self, object: &Map<String, Value>, place: Place<'_>) -> Parsed<Logic<EntryCondition>> {
        let mut parts = Vec::new();
        for (name, value) in object {
            let at = place.name(name);
            parts.push(match name.as_str() {
                "$and" | "$or" | "$nor" => self.combination(name, value, at, Self::entry)?,
                "key" => self.field(value, at)?.map(&EntryCondition::Key),
                _ => {
                    let path = path(name, at)?;
                    self.field(value, at)?.map(&|test| EntryCondition::Value(path.clone(), test))
                }
            });
        }
        Ok(Logic::all(parts))
    }

    /// `$and`, `$or`, `$nor` of objects of one kind.
    fn combination<C>(
        &mut self,
        name: &str,
        value: &Value,
        place: Place<'_>,
        read: ReadObject<C>,
    ) -> Parsed<Logic<C>> {
        let mut parts = Vec::new();
        for (index, item) in place.items(value, "objects")?.iter().enumerate() {
            let at = place.index(index);
            parts.push(read(self, at.object(item, "it must be an object")?, at)?);
        }
        Ok(match name {
            "$and" => Logic::all(parts),
            "$or" => Logic::Any(parts),
            _ => Logic::Any(parts).not(),
        })
    }

    /// A constant, or an object of operators.
    fn field(&mut self, value: &Value, place: Place<'_>) -> Parsed<Logic<Test>> {
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

fn path(name: &str, place: Place<'_>) -> Parsed<Path> {
    if name == "value" {
        return Ok(Path(Vec::new()));
    }
    let Some(path) = name.strip_prefix("value.") else {
        return Err(place.refuse(if name.starts_with('$') {
            format!("{} is not supported here; supported are {COMBINATIONS}", cut(name))
        } else {
            "a metadata entry has the fields key and value, and value.<name> for what is inside the value"
                .to_owned()
        }));
    };
    let names: Vec<String> = path.split('.').map(ToOwned::to_owned).collect();
    if names.len() > PATH_NAMES_MAX {
        return Err(place.refuse(format!("the path has more than {PATH_NAMES_MAX} names")));
    }
    for name in &names {
        if name.is_empty() || name.starts_with('$') {
            return Err(place.refuse("a name in the path is empty or begins with $"));
        }
        if name.bytes().all(|byte| byte.is_ascii_digit()) {
            return Err(place.refuse(
                "positions in arrays are not supported; a path leads through all items of an array",
            ));
        }
    }
    Ok(Path(names))
}

fn not_in_document(name: &str) -> String {
    let cut = cut(name);
    if name.starts_with("metadata.") {
        "ask for a metadata entry by {\"metadata\": {\"$elemMatch\": {\"key\": ..., \"value\": ...}}}: apart from each other, key and \
         value would not need to be those of one entry"
            .to_owned()
    } else if name.starts_with('$') {
        format!("{cut} is not supported here; supported are {COMBINATIONS}")
    } else {
        format!(
            "{cut:?} is not part of an endpoint; application_version and metadata are: \
             {{\"metadata\": {{\"$elemMatch\": {{\"key\": {cut:?}, \"value\": ...}}}}}}"
        )
    }
}

fn no_operator(name: &str) -> String {
    let name = cut(name);
    if name.starts_with('$') {
        format!("{name} is not supported here; supported are {OPERATORS}")
    } else {
        format!("{name:?} stands beside operators, which all begin with $")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn what_is_not_understood_is_refused_with_its_place() {
        let entry = |condition: Value| json!({"metadata": {"$elemMatch": {"key": "k", "value": condition}}});
        for (query, words) in [
            (json!([]), "mongoQuery: it must be a JSON object"),
            (
                json!({"$where": "1"}),
                "at /$where: $where is not supported here; supported are $and, $or, $nor",
            ),
            (json!({"$expr": {}}), "$expr is not supported"),
            (json!({"city": "Kyiv"}), r#"{"key": "city", "value": ...}"#),
            (json!({"metadata.key": "city"}), "$elemMatch"),
            (json!({"metadata": {}}), "$elemMatch"),
            (json!({"metadata": {"key": "a", "value": 1}}), "$elemMatch"),
            (json!({"metadata": {"$size": 1}}), "$size is not supported for metadata"),
            (json!({"metadata": {"$elemMatch": 1}}), "at /metadata/$elemMatch: it must be an object"),
            (json!({"metadata": {"$elemMatch": {"name": 1}}}), "the fields key and value"),
            (json!({"metadata": {"$elemMatch": {"$not": {}}}}), "$not is not supported here"),
            (json!({"metadata": {"$elemMatch": {"value.": 1}}}), "is empty or begins with $"),
            (json!({"metadata": {"$elemMatch": {"value.a.0": 1}}}), "positions in arrays"),
            (json!({"metadata": {"$elemMatch": {format!("value{}", ".a".repeat(17)): 1}}}), "16 names"),
            (json!({"metadata": {"$all": []}}), "at /metadata/$all: it must be an array"),
            (json!({"metadata": {"$not": {}}}), "$elemMatch"),
            (json!({"$and": []}), "not empty"),
            (json!({"$or": [1]}), "at /$or/0: it must be an object"),
            (json!({"$or": {}}), "must be an array"),
            (json!({"application_version": {"$near": 1}}), "$near is not supported here; supported are $eq"),
            (
                json!({"application_version": {"a~/$b": {"$gt": 1}}}),
                "/application_version/a~0~1$b/$gt: $gt cannot",
            ),
            (entry(json!({"$gt": null})), "at /metadata/$elemMatch/value/$gt: only numbers"),
            (entry(json!({"$gt": 1, "a": 1})), "\"a\" stands beside operators"),
            (entry(json!({"$in": 1})), "array of constants"),
            (entry(json!({"$in": [1, {"$gt": 1}]})), "value/$in/1/$gt: $gt cannot stand inside a constant"),
            (entry(json!({"$exists": 1})), "true or false"),
            (entry(json!({"$type": "int"})), "\"number\""),
            (entry(json!({"$type": []})), "not empty"),
            (entry(json!({"$not": 5})), "object of operators"),
            (entry(json!({"$not": {}})), "object of operators"),
            (entry(json!({"$options": "i"})), "belongs to a $regex"),
            (entry(json!({"$regex": 1})), "must be a string"),
            (entry(json!({"$regex": "(?=a)"})), "look-around"),
            (entry(json!({"$regex": "("})), "not understood"),
            (entry(json!({"$regex": "x".repeat(257)})), "257 bytes"),
            (entry(json!({"$regex": r"\w{200}"})), "when compiled"),
            (entry(json!({"$regex": "a", "$options": "g"})), "'g' is none of the options"),
            (entry(json!({"$regex": "a", "$options": 1})), "/$options: it must be a string"),
            (
                json!({"$or": vec![json!({"application_version": {"$regex": "a"}}); 5]}),
                "4 regular expressions",
            ),
        ] {
            let message = Query::parse(&query.to_string()).unwrap_err().to_string();
            assert!(message.starts_with("mongoQuery") && message.contains(words), "{query}: {message}");
        }
        let long = format!("{{\"application_version\": \"{}\"}}", "x".repeat(QUERY_BYTES_MAX));
        assert!(Query::parse(&long).unwrap_err().to_string().contains("16384"));
        let twice = r#"{"metadata": {"$elemMatch": {"key": "a"}}, "metadata": {"$elemMatch": {"key": "b"}}}"#;
        assert!(Query::parse(twice).unwrap_err().to_string().contains("$and"));
    }

    #[test]
    fn usual_regular_expressions_fit() {
        for pattern in [
            r"^\w+$",
            r"(?i)kyiv|lviv",
            r"^[a-z0-9._%+-]+@[a-z0-9.-]+\.[a-z]{2,}$",
            r"\d{4}-\d{2}-\d{2}",
            r"^\p{L}+$",
        ] {
            let query = json!({"application_version": {"$regex": pattern}}).to_string();
            Query::parse(&query).unwrap_or_else(|error| panic!("{pattern}: {error}"));
        }
    }

    #[test]
    fn an_error_repeats_a_name_only_in_part() {
        let query = json!({"x".repeat(5_000): 1}).to_string();
        assert!(Query::parse(&query).unwrap_err().to_string().len() < 500);
    }
}
