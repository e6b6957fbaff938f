//! Query parameters: lists may be repeated, separated by commas, or both.

use std::str::FromStr;

use chrono::Utc;
use ids::{EndpointId, InvalidId, TimeSeriesName};
use rest::{Error, Query};

use crate::date;
use crate::point::Micros;
use crate::reads::{Sort, Span};

/// Items of one list at most.
const ITEMS_MAX: usize = 10_000;

/// The parameters behind the question mark, in their order.
pub(super) type Pairs = Query<Vec<(String, String)>>;

/// Reads parameters by name.
pub(super) struct Parameters(Vec<(String, String)>);

impl From<Pairs> for Parameters {
    fn from(Query(pairs): Pairs) -> Self {
        Self(pairs)
    }
}

impl Parameters {
    fn all<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a str> {
        self.0.iter().filter(move |(given, _)| given == name).map(|(_, value)| value.as_str())
    }

    /// A list; empty when the parameter is absent.
    pub(super) fn list<T: FromStr<Err = InvalidId>>(&self, name: &'static str) -> Result<Vec<T>, Error> {
        let items =
            self.all(name).flat_map(|value| value.split(',')).map(str::trim).filter(|item| !item.is_empty());
        let items: Vec<&str> = items.take(ITEMS_MAX + 1).collect();
        if items.len() > ITEMS_MAX {
            return Err(Error::bad_request(format!("{name} has more than {ITEMS_MAX} items; ask in parts")));
        }
        let parse = |item: &str| {
            item.parse().map_err(|error: InvalidId| Error::bad_request(format!("{name}: {error}")))
        };
        items.into_iter().map(parse).collect()
    }

    /// The names of the wanted series, at least one.
    pub(super) fn series(&self) -> Result<Vec<TimeSeriesName>, Error> {
        let series = self.list("timeSeriesName")?;
        if series.is_empty() {
            return Err(Error::bad_request("timeSeriesName is missing: name at least one time series"));
        }
        Ok(series)
    }

    pub(super) fn endpoints(&self) -> Result<Vec<EndpointId>, Error> {
        self.list("endpointId")
    }

    fn one(&self, name: &'static str) -> Result<Option<&str>, Error> {
        let mut values = self.all(name).filter(|value| !value.is_empty());
        let value = values.next();
        if values.next().is_some() {
            return Err(Error::bad_request(format!("{name} is given twice")));
        }
        Ok(value)
    }

    pub(super) fn date(&self, name: &'static str) -> Result<Option<Micros>, Error> {
        let parse =
            |text| date::parse(name, text, Utc::now()).map_err(|error| Error::bad_request(error.to_string()));
        self.one(name)?.map(parse).transpose()
    }

    /// `fromDate` and `toDate`, with the ends that `includeTime` takes in. By default the start is and the end is not, so
    /// that consecutive ranges neither overlap nor leave a gap.
    pub(super) fn span(&self) -> Result<Span, Error> {
        let missing =
            |name| move || Error::bad_request(format!("{name} is missing: give a date like now-1d"));
        let from = self.date("fromDate")?.ok_or_else(missing("fromDate"))?;
        let to = self.date("toDate")?.ok_or_else(missing("toDate"))?;
        if from > to {
            return Err(Error::bad_request("fromDate is after toDate"));
        }
        let (has_from, has_to) = match self.one("includeTime")? {
            None | Some("from") => (true, false),
            Some("to") => (false, true),
            Some("both") => (true, true),
            Some("none") => (false, false),
            Some(_) => return Err(Error::bad_request("includeTime is one of from, to, both, none")),
        };
        let next = |moment: Micros| Micros::new(moment.get() + 1).unwrap_or(moment);
        Ok(Span { from: if has_from { from } else { next(from) }, to: if has_to { next(to) } else { to } })
    }

    pub(super) fn sort(&self) -> Result<Sort, Error> {
        match self.one("sort")? {
            None => Ok(Sort::Ascending),
            Some(sort) if sort.eq_ignore_ascii_case("ASC") => Ok(Sort::Ascending),
            Some(sort) if sort.eq_ignore_ascii_case("DESC") => Ok(Sort::Descending),
            Some(_) => Err(Error::bad_request("sort is one of ASC, DESC")),
        }
    }

    pub(super) fn limit(&self) -> Result<Option<u32>, Error> {
        let parse = |text: &str| {
            let limit = text.parse().ok().filter(|limit| *limit > 0);
            limit.ok_or_else(|| Error::bad_request("limit must be an integer of at least 1"))
        };
        self.one("limit")?.map(parse).transpose()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parameters(pairs: &[(&str, &str)]) -> Parameters {
        Parameters(pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect())
    }

    fn message<T>(result: Result<T, Error>) -> String {
        result.map(|_| ()).unwrap_err().message().to_owned()
    }

    #[test]
    fn lists_may_be_repeated_or_separated_by_commas() {
        let given = parameters(&[
            ("timeSeriesName", "a,b"),
            ("x", "y"),
            ("timeSeriesName", " c ,"),
            ("timeSeriesName", ""),
        ]);
        let names: Vec<String> = given.series().unwrap().iter().map(ToString::to_string).collect();
        assert_eq!(names, ["a", "b", "c"]);
        assert!(given.endpoints().unwrap().is_empty());
        assert!(message(parameters(&[]).series()).contains("timeSeriesName is missing"));
        assert!(message(parameters(&[("endpointId", "a b")]).endpoints()).contains("endpointId"));
        let many = vec!["a"; ITEMS_MAX + 1].join(",");
        assert!(message(parameters(&[("endpointId", &many)]).endpoints()).contains("10000"));
    }

    #[test]
    fn the_ends_of_a_span_are_taken_in_as_asked() {
        let (from, to) = ("2019-04-26T15:41:07Z", "2019-04-26T15:41:08Z");
        let (start, end) = (1_556_293_267_000_000, 1_556_293_268_000_000);
        for (include, expected) in [
            (None, (start, end)),
            (Some("from"), (start, end)),
            (Some("to"), (start + 1, end + 1)),
            (Some("both"), (start, end + 1)),
            (Some("none"), (start + 1, end)),
        ] {
            let mut pairs = vec![("fromDate", from), ("toDate", to)];
            pairs.extend(include.map(|include| ("includeTime", include)));
            let span = parameters(&pairs).span().unwrap();
            assert_eq!((span.from.get(), span.to.get()), expected, "{include:?}");
        }
        assert!(message(parameters(&[("fromDate", to), ("toDate", from)]).span()).contains("after"));
        assert!(message(parameters(&[("fromDate", from)]).span()).contains("toDate is missing"));
        assert!(message(parameters(&[("fromDate", from), ("fromDate", from)]).span()).contains("twice"));
    }

    #[test]
    fn sort_and_limit_are_checked() {
        assert_eq!(parameters(&[("sort", "desc")]).sort().unwrap(), Sort::Descending);
        assert_eq!(parameters(&[]).sort().unwrap(), Sort::Ascending);
        assert!(message(parameters(&[("sort", "up")]).sort()).contains("ASC"));
        assert_eq!(parameters(&[("limit", "5")]).limit().unwrap(), Some(5));
        for bad in ["0", "-1", "x", "4294967296"] {
            assert!(parameters(&[("limit", bad)]).limit().is_err(), "{bad}");
        }
    }
}
