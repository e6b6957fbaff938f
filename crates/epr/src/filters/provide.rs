//! 20/EFMP: answers other services which filters an endpoint matches, and which endpoints match a filter.

use std::collections::BTreeMap;
use std::error::Error as StdError;

use ids::EndpointId;
use ism::Record as _;
use ism::efmp::{
    EP_FILTERS_REQUEST, EP_LIST_BY_FILTER_REQUEST, EndpointFiltersRequest, EndpointFiltersResponse,
    EndpointListByFilterRequest, EndpointListByFilterResponse,
};
use provider::Provider;
use runtime::Context;
use uuid::Uuid;

use super::definition::Status;
use super::store::FilterStore;

/// Answers for as long as the service runs.
pub(super) async fn serve(
    context: &Context,
    store: &FilterStore,
    concurrent_max: usize,
    listed_max: i64,
) -> anyhow::Result<()> {
    let filters = Provider {
        subject: EP_FILTERS_REQUEST.service(context.instance()),
        name: "answer which filters endpoints match",
        concurrent_max,
    };
    let asked = store.clone();
    provider::serve(context, filters, move |request| {
        let store = asked.clone();
        async move { filters_of(&store, request).await }
    })
    .await?;
    let endpoints = Provider {
        subject: EP_LIST_BY_FILTER_REQUEST.service(context.instance()),
        name: "answer which endpoints match filters",
        concurrent_max,
    };
    let (asked, client) = (store.clone(), context.nats().clone());
    provider::serve(context, endpoints, move |request| {
        let (store, client) = (asked.clone(), client.clone());
        async move {
            let response = endpoints_of(&store, request, listed_max).await;
            fitting(response, client.server_info().max_payload)
        }
    })
    .await
}

/// What an answer is made of besides its content.
struct Outcome<T> {
    content: T,
    status_code: i32,
    reason_phrase: Option<String>,
}

fn found<T>(content: T) -> Outcome<T> {
    Outcome { content, status_code: 200, reason_phrase: None }
}

fn refused<T: Default>(status_code: i32, reason: impl Into<String>) -> Outcome<T> {
    Outcome { content: T::default(), status_code, reason_phrase: Some(reason.into()) }
}

fn unreadable<T: Default>(error: &sqlx::Error) -> Outcome<T> {
    tracing::error!(error = error as &dyn StdError, "the matches of filters could not be looked up");
    refused(503, "the endpoint register cannot read its database now")
}

/// 200, 404 or 503. Of filters that are PENDING nothing is said.
async fn filters_of(store: &FilterStore, request: EndpointFiltersRequest) -> EndpointFiltersResponse {
    let outcome = match EndpointId::parse(&request.endpoint_id) {
        Ok(endpoint_id) => find_filters(store, &endpoint_id).await.unwrap_or_else(|error| unreadable(&error)),
        Err(_) => refused(404, "there is no such endpoint"),
    };
    EndpointFiltersResponse {
        correlation_id: request.correlation_id,
        timestamp: runtime::now_ms(),
        timeout: 0,
        endpoint_id: request.endpoint_id,
        filter_ids: outcome.content,
        status_code: outcome.status_code,
        reason_phrase: outcome.reason_phrase,
    }
}

async fn find_filters(
    store: &FilterStore,
    endpoint_id: &EndpointId,
) -> Result<Outcome<Vec<String>>, sqlx::Error> {
    let mut filters = store.filters_of(&[endpoint_id.to_string()]).await?;
    match filters.remove(endpoint_id.as_str()) {
        Some(filters) => Ok(found(filters)),
        None if store.is_registered(endpoint_id).await? => Ok(found(Vec::new())),
        None => Ok(refused(404, "there is no such endpoint")),
    }
}

/// 200, 404, 409 while the filter is PENDING, 413 when there are too many, 503.
async fn endpoints_of(
    store: &FilterStore,
    request: EndpointListByFilterRequest,
    max: i64,
) -> EndpointListByFilterResponse {
    let outcome = match Uuid::try_parse(&request.filter_id) {
        Ok(filter_id) => {
            find_endpoints(store, filter_id, max).await.unwrap_or_else(|error| unreadable(&error))
        }
        Err(_) => refused(404, "there is no such filter"),
    };
    EndpointListByFilterResponse {
        correlation_id: request.correlation_id,
        timestamp: runtime::now_ms(),
        timeout: 0,
        filter_id: request.filter_id,
        app_versions_to_endpoints: outcome.content,
        status_code: outcome.status_code,
        reason_phrase: outcome.reason_phrase,
    }
}

async fn find_endpoints(
    store: &FilterStore,
    filter_id: Uuid,
    max: i64,
) -> Result<Outcome<BTreeMap<String, Vec<String>>>, sqlx::Error> {
    Ok(match store.status(filter_id).await? {
        None => refused(404, "there is no such filter"),
        Some(Status::Pending) => refused(409, "the filter is PENDING: ask again when it is ACTIVE"),
        Some(Status::Active) => match store.endpoints_of(filter_id, max).await? {
            Some(endpoints) => found(endpoints),
            None => refused(
                413,
                format!(
                    "more than {max} endpoints match (epr.filters.listed_endpoints_max): read them in pages over REST, \
                     GET /epr/api/v1/endpoints?filterId={filter_id}"
                ),
            ),
        },
    })
}

/// NATS does not take messages above a size, and whoever asked would wait in vain.
fn fitting(response: EndpointListByFilterResponse, bytes_max: usize) -> EndpointListByFilterResponse {
    if response.encode().len() <= bytes_max {
        return response;
    }
    let reason = format!(
        "the endpoints that match do not fit into a message of {bytes_max} bytes (max_payload of NATS): read them in \
         pages over REST, GET /epr/api/v1/endpoints?filterId={}",
        response.filter_id
    );
    EndpointListByFilterResponse {
        app_versions_to_endpoints: BTreeMap::new(),
        status_code: 413,
        reason_phrase: Some(reason),
        ..response
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_that_is_too_long_becomes_413() {
        let endpoints = BTreeMap::from([("app-v1".to_owned(), vec!["e".repeat(100); 10])]);
        let response = EndpointListByFilterResponse {
            filter_id: "f".to_owned(),
            app_versions_to_endpoints: endpoints,
            status_code: 200,
            ..EndpointListByFilterResponse::default()
        };
        let length = response.encode().len();
        assert_eq!(fitting(response.clone(), length).status_code, 200);
        let refused = fitting(response, length - 1);
        assert_eq!((refused.status_code, refused.app_versions_to_endpoints.len()), (413, 0));
        assert!(refused.reason_phrase.unwrap().contains("filterId=f"));
    }
}
