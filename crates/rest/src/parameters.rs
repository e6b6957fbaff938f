//! Query parameters by name: lists may be repeated, separated by commas, or both.

use std::fmt::Display;
use std::str::FromStr;

use axum::extract::FromRequestParts;
use axum::http::request::Parts;

use crate::{Error, Query};

/// Items of one list at most.
const ITEMS_MAX: usize = 10_000;

/// The parameters behind the question mark, to be read by name. Unknown ones are ignored.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Parameters(Vec<(String, String)>);

impl<S: Send + Sync> FromRequestParts<S> for Parameters {
    type Rejection = Error;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Error> {
        Query::from_request_parts(parts, state).await.map(|Query(pairs)| Self(pairs))
    }
}

impl<'a> FromIterator<(&'a str, &'a str)> for Parameters {
    fn from_iter<I: IntoIterator<Item = (&'a str, &'a str)>>(pairs: I) -> Self {
        Self(pairs.into_iter().map(|(name, value)| (name.to_owned(), value.to_owned())).collect())
    }
}

impl Parameters {
    fn all<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a str> {
        self.0.iter().filter(move |(given, _)| given == name).map(|(_, value)| value.as_str())
    }

    /// A list; empty when the parameter is absent.
    ///
    /// # Errors
    /// 400 when an item is not valid or there are more than 10000.
    pub fn list<T: FromStr<Err: Display>>(&self, name: &'static str) -> Result<Vec<T>, Error> {
        let items =
            self.all(name).flat_map(|value| value.split(',')).map(str::trim).filter(|item| !item.is_empty());
        let items: Vec<&str> = items.take(ITEMS_MAX + 1).collect();
        if items.len() > ITEMS_MAX {
            return Err(Error::bad_request(format!("{name} has more than {ITEMS_MAX} items; ask in parts")));
        }
        items.into_iter().map(|item| parse(name, item)).collect()
    }

    /// The text of a parameter that may be given once; empty text counts as absent.
    ///
    /// # Errors
    /// 400 when it is given twice.
    pub fn text(&self, name: &'static str) -> Result<Option<&str>, Error> {
        Ok(self.single(name)?.filter(|text| !text.is_empty()))
    }

    /// The value of a parameter that may be given once.
    ///
    /// # Errors
    /// 400 when it is not valid, empty text included, or given twice.
    pub fn one<T: FromStr<Err: Display>>(&self, name: &'static str) -> Result<Option<T>, Error> {
        self.single(name)?.map(|text| parse(name, text)).transpose()
    }

    fn single(&self, name: &'static str) -> Result<Option<&str>, Error> {
        let mut values = self.all(name);
        match (values.next(), values.next()) {
            (value, None) => Ok(value),
            _ => Err(Error::bad_request(format!("{name} is given twice"))),
        }
    }
}

fn parse<T: FromStr<Err: Display>>(name: &'static str, text: &str) -> Result<T, Error> {
    text.parse().map_err(|error| Error::bad_request(format!("{name}: {error}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message<T>(result: Result<T, Error>) -> String {
        result.map(|_| ()).unwrap_err().message().to_owned()
    }

    #[test]
    fn lists_may_be_repeated_or_separated_by_commas() {
        let given = Parameters::from_iter([("n", "1,2"), ("x", "y"), ("n", " 3 ,"), ("n", "")]);
        assert_eq!(given.list::<u8>("n").unwrap(), [1, 2, 3]);
        assert!(given.list::<u8>("absent").unwrap().is_empty());
        assert!(message(given.list::<u8>("x")).starts_with("x: "));
        let many = vec!["1"; ITEMS_MAX + 1].join(",");
        assert!(message(Parameters::from_iter([("n", many.as_str())]).list::<u8>("n")).contains("10000"));
    }

    #[test]
    fn a_single_parameter_is_given_once() {
        let given = Parameters::from_iter([("a", "7"), ("b", ""), ("c", "1"), ("c", "2")]);
        assert_eq!(given.one::<u8>("a").unwrap(), Some(7));
        assert_eq!((given.text("b").unwrap(), given.one::<u8>("absent").unwrap()), (None, None));
        assert!(message(given.one::<u8>("b")).starts_with("b: "));
        assert!(message(given.one::<u8>("c")).contains("twice"));
    }
}
