//! Relations between endpoints.

use axum::extract::State;
use axum::http::StatusCode;
use ids::EndpointId;
use rest::{Caller, Error, Json, Parameters, Path};

use super::Api;
use crate::domain::{Relation, RelationType};

/// Relations in one request.
const RELATIONS_MAX: usize = 1_000;

/// The relations of an endpoint, in either direction, with endpoints that the caller reaches.
#[utoipa::path(
    get, path = "/epr/api/v1/endpoints/{endpointId}/relations", tag = "relations",
    params(
        ("endpointId" = String, Path, description = "The endpoint's id."),
        ("relation" = Option<String>, Query, description = "Only relations of this type: `contains`."),
    ),
    responses((status = 200, body = Vec<Relation>), (status = 404, body = rest::ErrorBody)),
)]
pub(super) async fn list(
    State(api): State<Api>,
    caller: Caller,
    Path(endpoint_id): Path<EndpointId>,
    parameters: Parameters,
) -> Result<Json<Vec<Relation>>, Error> {
    let relation_type = match parameters.text("relation")? {
        None => None,
        Some(name) if name == RelationType::Contains.as_str() => Some(RelationType::Contains),
        Some(_) => return Err(Error::bad_request("relation must be contains")),
    };
    let found = api.store.belonging(&caller.tenant, &endpoint_id).await?;
    let unknown = || crate::error::Error::UnknownEndpoint(endpoint_id.clone());
    caller.check_application(&found.ok_or_else(unknown)?.0)?;
    let mut relations = api.store.relations(&caller.tenant, &endpoint_id, relation_type).await?;
    if caller.applications().is_some() {
        let applications = api.store.applications_of(&caller.tenant, &ends(&relations)).await?;
        let reaches = |end: &EndpointId| {
            applications.get(end).is_some_and(|application| caller.check_application(application).is_ok())
        };
        relations.retain(|relation| reaches(&relation.from) && reaches(&relation.to));
    }
    Ok(Json(relations))
}

/// Makes relations, up to 1000: all or none. Those that there are stay.
#[utoipa::path(
    put, path = "/epr/api/v1/relations/link", tag = "relations", request_body = Vec<Relation>,
    responses(
        (status = 204), (status = 400, body = rest::ErrorBody),
        (status = 404, body = rest::ErrorBody, description = "No such endpoint."),
        (status = 409, body = rest::ErrorBody, description = "An endpoint would contain itself."),
    ),
)]
pub(super) async fn link(
    State(api): State<Api>,
    caller: Caller,
    Json(relations): Json<Vec<Relation>>,
) -> Result<StatusCode, Error> {
    admit(&api, &caller, &relations).await?;
    api.store.link(&caller.tenant, &relations, api.relations_per_endpoint_max).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Removes relations, up to 1000. Those that are not there are gone already.
#[utoipa::path(
    put, path = "/epr/api/v1/relations/unlink", tag = "relations", request_body = Vec<Relation>,
    responses((status = 204), (status = 400, body = rest::ErrorBody)),
)]
pub(super) async fn unlink(
    State(api): State<Api>,
    caller: Caller,
    Json(relations): Json<Vec<Relation>>,
) -> Result<StatusCode, Error> {
    admit(&api, &caller, &relations).await?;
    api.store.unlink(&caller.tenant, &relations).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Checks the request, and that the caller reaches both ends of each relation.
async fn admit(api: &Api, caller: &Caller, relations: &[Relation]) -> Result<(), Error> {
    if relations.len() > RELATIONS_MAX {
        return Err(Error::bad_request(format!("a request may name {RELATIONS_MAX} relations at most")));
    }
    if let Some(relation) = relations.iter().find(|relation| relation.from == relation.to) {
        return Err(Error::bad_request(format!("endpoint {} cannot contain itself", relation.from)));
    }
    if caller.applications().is_none() {
        return Ok(());
    }
    let applications = api.store.applications_of(&caller.tenant, &ends(relations)).await?;
    applications.values().try_for_each(|application| caller.check_application(application))
}

fn ends(relations: &[Relation]) -> Vec<EndpointId> {
    relations.iter().flat_map(|relation| [relation.from.clone(), relation.to.clone()]).collect()
}
