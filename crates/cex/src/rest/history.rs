//! `GET /endpoints/commands/{applicationName}`: the history of an application.

use axum::extract::State;
use chrono::{DateTime, NaiveDate, NaiveTime, Utc};
use ids::ApplicationName;
use rest::{Caller, Error, ErrorBody, Json, Parameters, Path};
use serde::Serialize;
use utoipa::ToSchema;

use super::{Api, CommandDescriptor, commands};
use crate::domain::Status;
use crate::ledger::History;

/// Commands in a page.
const SIZE_DEFAULT: u32 = 10;
/// Likewise.
const SIZE_MAX: u32 = 500;
/// Commands before a page: those are read and thrown away.
const OFFSET_MAX: u32 = 1_000_000;
/// Endpoints in one request.
const ENDPOINTS_MAX: usize = 100;

/// A page of a history, as Kaa shapes it.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(super) struct CommandPage {
    content: Vec<CommandDescriptor>,
    pageable: Pageable,
    /// Commands in all pages together.
    total_elements: i64,
    total_pages: i64,
    /// Whether this is the last page.
    last: bool,
    /// Whether this is the first page.
    first: bool,
    sort: Sorting,
    /// Commands in this page.
    number_of_elements: usize,
    /// As asked for.
    size: u32,
    /// Which page this is, from 0.
    number: u32,
    empty: bool,
}

/// What was asked for.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
struct Pageable {
    sort: Sorting,
    offset: u32,
    page_number: u32,
    page_size: u32,
    paged: bool,
    unpaged: bool,
}

/// That it is sorted.
#[derive(Debug, Clone, Copy, Serialize, ToSchema)]
struct Sorting {
    sorted: bool,
    unsorted: bool,
    empty: bool,
}

const SORTED: Sorting = Sorting { sorted: true, unsorted: false, empty: false };

/// The commands of all endpoints of an application. All conditions hold together.
#[utoipa::path(
    get, path = "/cex/api/v1/endpoints/commands/{applicationName}", tag = "commands",
    params(
        ("applicationName" = String, Path, description = "The application; none may be named `last` or `batch` here."),
        ("page" = Option<u32>, Query, description = "From 0, which is the default; page times size up to 1000000."),
        ("size" = Option<u32>, Query, description = "Commands in a page: 1 to 500, default 10."),
        ("sort" = Option<String>, Query, description = "`createdAt,desc` (default) or `createdAt,asc`."),
        ("commandTypes" = Option<Vec<String>>, Query, description = "Only these types, up to 100; repeated or by comma."),
        ("endpointId" = Option<Vec<String>>, Query, description = "Only of these endpoints, up to 100."),
        ("status" = Option<Vec<String>>, Query, description = "Only `PENDING`, `EXECUTED` or `EXPIRED`, or some of them."),
        ("from" = Option<String>, Query,
            description = "Only created then or later: ISO-8601 (UTC without a zone), or milliseconds since 1970."),
        ("to" = Option<String>, Query, description = "Only created before; as `from`."),
    ),
    responses(
        (status = 200, body = CommandPage), (status = 400, body = ErrorBody),
        (status = 404, body = ErrorBody, description = "The tenant has no such application."),
    ),
)]
pub(super) async fn history(
    State(api): State<Api>,
    caller: Caller,
    Path(application): Path<ApplicationName>,
    parameters: Parameters,
) -> Result<Json<CommandPage>, Error> {
    api.application(&caller, &application).await?;
    let (page, size) = page(&parameters)?;
    let offset = page * size;
    let endpoints = parameters.list("endpointId")?;
    if endpoints.len() > ENDPOINTS_MAX {
        return Err(Error::bad_request(format!("endpointId may name {ENDPOINTS_MAX} endpoints")));
    }
    let history = History {
        tenant: caller.tenant.clone(),
        application,
        endpoints,
        command_types: commands::types("commandTypes", parameters.list("commandTypes")?)?,
        statuses: statuses(&parameters)?,
        from: moment(&parameters, "from")?,
        to: moment(&parameters, "to")?,
        ascending: is_ascending(&parameters)?,
        offset: offset.into(),
        limit: size.into(),
    };
    let _permit = api.list_permit().await?;
    let (total, found) = api.ledger.history(&history).await?;
    Ok(Json(CommandPage::new(page, size, total, found.iter().map(CommandDescriptor::from).collect())))
}

impl CommandPage {
    fn new(page: u32, size: u32, total: i64, content: Vec<CommandDescriptor>) -> Self {
        let total_pages = total.max(0).cast_unsigned().div_ceil(size.into());
        let (offset, number_of_elements) = (page * size, content.len());
        Self {
            pageable: Pageable {
                sort: SORTED,
                offset,
                page_number: page,
                page_size: size,
                paged: true,
                unpaged: false,
            },
            total_elements: total,
            total_pages: i64::try_from(total_pages).unwrap_or(i64::MAX),
            last: u64::from(page) + 1 >= total_pages,
            first: page == 0,
            sort: SORTED,
            number_of_elements,
            size,
            number: page,
            empty: content.is_empty(),
            content,
        }
    }
}

/// Which page, and how large. Their product is within its limit.
fn page(parameters: &Parameters) -> Result<(u32, u32), Error> {
    let page = parameters.one::<u32>("page")?.unwrap_or(0);
    let size = parameters.one::<u32>("size")?.unwrap_or(SIZE_DEFAULT);
    if !(1..=SIZE_MAX).contains(&size) {
        return Err(Error::bad_request(format!("size must be an integer from 1 to {SIZE_MAX}")));
    }
    if page.checked_mul(size).is_none_or(|offset| offset > OFFSET_MAX) {
        return Err(Error::bad_request(format!(
            "page times size may be {OFFSET_MAX}: narrow the history down with from and to"
        )));
    }
    Ok((page, size))
}

fn is_ascending(parameters: &Parameters) -> Result<bool, Error> {
    let Some(sort) = parameters.text("sort")? else { return Ok(false) };
    match sort.to_ascii_lowercase().as_str() {
        "createdat,desc" => Ok(false),
        "createdat,asc" | "createdat" => Ok(true),
        _ => Err(Error::bad_request("sort must be createdAt,desc or createdAt,asc")),
    }
}

fn statuses(parameters: &Parameters) -> Result<Vec<Status>, Error> {
    let names: Vec<String> = parameters.list("status")?;
    let status = |name: &String| {
        Status::parse(&name.to_ascii_uppercase())
            .ok_or_else(|| Error::bad_request("status must be PENDING, EXECUTED or EXPIRED"))
    };
    let mut statuses = Vec::new();
    for name in &names {
        let status = status(name)?;
        if !statuses.contains(&status) {
            statuses.push(status);
        }
    }
    Ok(statuses)
}

fn moment(parameters: &Parameters, name: &'static str) -> Result<Option<DateTime<Utc>>, Error> {
    let read = |text: &str| {
        parse(text).ok_or_else(|| {
            Error::bad_request(format!(
                "{name} is not a moment: give ISO-8601 like 2026-04-26T15:41:07Z, or milliseconds since 1970"
            ))
        })
    };
    parameters.text(name)?.map(read).transpose()
}

/// The moment that a text names; none when it is none, or out of the years that PostgreSQL and ISO-8601 share.
fn parse(text: &str) -> Option<DateTime<Utc>> {
    const YEARS: std::ops::RangeInclusive<i32> = 0..=9999;
    let moment = if let Ok(ms) = text.parse::<i64>() {
        DateTime::from_timestamp_millis(ms)?
    } else if let Ok(date) = NaiveDate::parse_from_str(text, "%Y-%m-%d") {
        date.and_time(NaiveTime::MIN).and_utc()
    } else {
        // A `+` that was not escaped in a URL arrives as a space.
        let zoned = text.replace(' ', "+");
        let moment = DateTime::parse_from_rfc3339(&zoned);
        moment.or_else(|_| DateTime::parse_from_rfc3339(&format!("{zoned}Z"))).ok()?.to_utc()
    };
    YEARS.contains(&chrono::Datelike::year(&moment)).then_some(moment)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused<T>(result: Result<T, Error>) -> String {
        result.map(drop).unwrap_err().message().to_owned()
    }

    #[test]
    fn moments_have_the_usual_forms() {
        for text in [
            "1556293267000",
            "2019-04-26T15:41:07Z",
            "2019-04-26T15:41:07.000Z",
            "2019-04-26T17:41:07+02:00",
            "2019-04-26T17:41:07 02:00",
            "2019-04-26T15:41:07",
        ] {
            assert_eq!(parse(text), DateTime::from_timestamp(1_556_293_267, 0), "{text}");
        }
        assert_eq!(parse("2019-04-26").unwrap().timestamp(), 1_556_236_800);
        for text in ["", "now", "soon", "99999999999999999", "-99999999999999", "2019-13-01T00:00:00Z"] {
            assert_eq!(parse(text), None, "{text}");
        }
        let parameters = Parameters::from_iter([("from", "soon")]);
        assert!(refused(moment(&parameters, "from")).starts_with("from is not a moment"));
    }

    #[test]
    fn pages_are_bounded_and_described() {
        assert_eq!(page(&Parameters::default()).unwrap(), (0, 10));
        for (pairs, reason) in [
            ([("page", "0"), ("size", "0")], "size must be"),
            ([("page", "0"), ("size", "501")], "size must be"),
            ([("page", "2001"), ("size", "500")], "page times size"),
            ([("page", "4294967295"), ("size", "500")], "page times size"),
            ([("page", "-1"), ("size", "1")], "page: "),
        ] {
            assert!(refused(page(&Parameters::from_iter(pairs))).contains(reason), "{pairs:?}");
        }
        for (number, total, pages, last) in
            [(0, 0, 0, true), (0, 10, 1, true), (0, 11, 2, false), (1, 11, 2, true)]
        {
            let page = CommandPage::new(number, 10, total, vec![]);
            assert_eq!(
                (page.total_pages, page.last, page.first),
                (pages, last, number == 0),
                "{number} {total}"
            );
        }
    }

    #[test]
    fn the_order_and_the_statuses_are_those_of_kaa() {
        for (sort, ascending) in [("createdAt,desc", false), ("createdAt,ASC", true), ("createdAt", true)] {
            assert_eq!(is_ascending(&Parameters::from_iter([("sort", sort)])).unwrap(), ascending, "{sort}");
        }
        assert!(!is_ascending(&Parameters::default()).unwrap());
        assert!(refused(is_ascending(&Parameters::from_iter([("sort", "status")]))).contains("createdAt"));
        let given = Parameters::from_iter([("status", "pending,EXPIRED"), ("status", "PENDING")]);
        assert_eq!(statuses(&given).unwrap(), [Status::Pending, Status::Expired]);
        assert!(refused(statuses(&Parameters::from_iter([("status", "LOST")]))).contains("PENDING"));
    }
}
