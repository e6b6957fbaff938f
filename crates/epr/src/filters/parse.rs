//! From text to queries, strictly: what is not understood is refused, never ignored.

mod operators;
mod place;

use serde_json::{Map, Value};

pub(crate) use place::InvalidQuery;

use self::place::{Parsed, Place, cut};
use super::query::{Condition, EntryCondition, Logic, PATH_NAMES_MAX, Path, QUERY_BYTES_MAX, Query};
use super::strict;

const COMBINATIONS: &str = "$and, $or, $nor";

/// Reads an object of conditions of one kind.
type ReadObject<C> = fn(&mut Parser, &Map<String, Value>, Place<'_>) -> Parsed<Logic<C>>;

impl Query {
    /// Reads a query.
    pub(crate) fn parse(text: &str) -> Parsed<Self> {
        let root = Place::root();
        if text.len() > QUERY_BYTES_MAX {
            return Err(InvalidQuery::too_long(text.len()));
        }
        let value = strict::read(text).map_err(InvalidQuery::unreadable)?;
        let document =
            root.object(&value, "it must be a JSON object, such as {\"application_version\": \"app-v1\"}")?;
        Parser::default().document(document, root)
    }
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
