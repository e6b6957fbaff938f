//! What the queries for time series ask, read out of their parameters.

use axum::extract::FromRequestParts;
use axum::http::request::Parts;
use chrono::Utc;
use ids::{EndpointId, TimeSeriesName};
use rest::Error;

use crate::date;
use crate::point::Micros;
use crate::reads::{Sort, Span};

/// The parameters of a query for time series.
pub(super) struct Parameters(rest::Parameters);

impl<S: Send + Sync> FromRequestParts<S> for Parameters {
    type Rejection = Error;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Error> {
        rest::Parameters::from_request_parts(parts, state).await.map(Self)
    }
}

impl Parameters {
    /// The names of the wanted series, at least one.
    pub(super) fn series(&self) -> Result<Vec<TimeSeriesName>, Error> {
        let series: Vec<TimeSeriesName> = self.0.list("timeSeriesName")?;
        if series.is_empty() {
            return Err(Error::bad_request("timeSeriesName is missing: name at least one time series"));
        }
        Ok(series)
    }

    pub(super) fn endpoints(&self) -> Result<Vec<EndpointId>, Error> {
        self.0.list("endpointId")
    }

    pub(super) fn date(&self, name: &'static str) -> Result<Option<Micros>, Error> {
        let parse =
            |text| date::parse(name, text, Utc::now()).map_err(|error| Error::bad_request(error.to_string()));
        self.0.text(name)?.map(parse).transpose()
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
        let (has_from, has_to) = match self.0.text("includeTime")? {
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
        match self.0.text("sort")? {
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
        self.0.text("limit")?.map(parse).transpose()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parameters(pairs: &[(&str, &str)]) -> Parameters {
        Parameters(pairs.iter().copied().collect())
    }

    fn message<T>(result: Result<T, Error>) -> String {
        result.map(|_| ()).unwrap_err().message().to_owned()
    }

    #[test]
    fn series_are_named_and_endpoints_may_be() {
        let given = parameters(&[("timeSeriesName", "a,b"), ("timeSeriesName", "c")]);
        let names: Vec<String> = given.series().unwrap().iter().map(ToString::to_string).collect();
        assert_eq!(names, ["a", "b", "c"]);
        assert!(given.endpoints().unwrap().is_empty());
        assert!(message(parameters(&[]).series()).contains("timeSeriesName is missing"));
        assert!(message(parameters(&[("endpointId", "a b")]).endpoints()).contains("endpointId"));
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
