//! `/things`: names of endpoints in topics, and the clients that are those endpoints.

use axum::extract::State;
use axum::http::StatusCode;
use ids::{ApplicationName, EndpointId, ThingName};
use rest::{Caller, Json, Page, PageOf, Path, Query};
use serde::Deserialize;
use utoipa::{IntoParams, ToSchema};
use uuid::Uuid;

use super::Api;
use crate::error::Error;
use crate::topics::Thing;

/// Credentials with which a client is one thing.
const CREDENTIALS_MAX: usize = 16;

/// What a thing is.
#[derive(Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct ThingBody {
    #[schema(value_type = String)]
    endpoint_id: EndpointId,
    /// Ids of client credentials (ccm), with a password or a certificate, with which a client is the thing; at most 16. The
    /// same credentials are one thing only.
    #[serde(default)]
    credentials_ids: Vec<Uuid>,
}

/// Which things.
#[derive(Deserialize, IntoParams)]
#[serde(rename_all = "camelCase")]
#[into_params(parameter_in = Query)]
pub(super) struct Selected {
    /// Only those of this endpoint.
    #[param(value_type = Option<String>)]
    endpoint_id: Option<EndpointId>,
}

impl Api {
    /// A thing of an endpoint whose application the caller reaches.
    async fn thing(&self, caller: &Caller, thing: &ThingName) -> Result<Thing, rest::Error> {
        let found = self.topics.registers().thing(&caller.tenant, thing).await?;
        let found = found.ok_or(Error::Unknown("thing"))?;
        caller.check_application(&application(&found.application_name)?)?;
        Ok(found)
    }
}

fn application(name: &str) -> Result<ApplicationName, rest::Error> {
    ApplicationName::parse(name).map_err(rest::Error::internal)
}

/// Names an endpoint in topics, and says which clients it is: they may subscribe to `cmd/{thingName}/req` and publish to
/// `cmd/{thingName}/resp`. An endpoint has its id as a name by itself, but only what stands here binds clients to it.
///
/// Connections that stand keep the subscriptions that they have.
#[utoipa::path(
    put, path = "/cex/api/v1/things/{thingName}", tag = "commands over topics",
    params(("thingName" = String, Path, description = "1 to 128 characters out of A-Z a-z 0-9 . _ ~ - :")),
    request_body = ThingBody,
    responses(
        (status = 200, body = Thing), (status = 400, body = rest::ErrorBody), (status = 403, body = rest::ErrorBody),
        (status = 404, body = rest::ErrorBody, description = "No such endpoint."),
        (status = 409, body = rest::ErrorBody,
         description = "The credentials are another thing's, or the name is the id of another endpoint."),
        (status = 503, body = rest::ErrorBody),
    ),
)]
pub(super) async fn put(
    State(api): State<Api>,
    caller: Caller,
    Path(thing): Path<ThingName>,
    Json(body): Json<ThingBody>,
) -> Result<Json<Thing>, rest::Error> {
    let (tenant, correlation_id) = (&caller.tenant, caller.correlation_id.as_str());
    if body.credentials_ids.len() > CREDENTIALS_MAX {
        let message = format!("credentialsIds may hold {CREDENTIALS_MAX} ids: use fewer credentials");
        return Err(rest::Error::bad_request(message));
    }
    let registers = api.topics.registers();
    let owner = api.invoker.application_of(tenant, &body.endpoint_id, correlation_id).await?;
    caller.check_application(&owner)?;
    // Commands that are meant for an endpoint of that id must not go to another.
    if let Ok(namesake) = EndpointId::parse(thing.as_str())
        && namesake != body.endpoint_id
    {
        match api.invoker.application_of(tenant, &namesake, correlation_id).await {
            Err(Error::UnknownEndpoint(_)) => {}
            Err(error) => return Err(error.into()),
            Ok(_) => {
                let message = format!("{thing} is the id of another endpoint: choose another name");
                return Err(rest::Error::conflict(message));
            }
        }
    }
    let credentials_ids: Vec<String> = body.credentials_ids.iter().map(Uuid::to_string).collect();
    let endpoint = (&body.endpoint_id, &owner);
    registers.put_thing(tenant, &thing, endpoint, &credentials_ids, caller.applications()).await?;
    Ok(Json(api.thing(&caller, &thing).await?))
}

/// Lists the things of the tenant, by name.
#[utoipa::path(
    get, path = "/cex/api/v1/things", tag = "commands over topics", params(Selected, Page),
    responses(
        (status = 200, body = PageOf<Thing>), (status = 400, body = rest::ErrorBody),
        (status = 403, body = rest::ErrorBody),
    ),
)]
pub(super) async fn list(
    State(api): State<Api>,
    caller: Caller,
    Query(selected): Query<Selected>,
    page: Page,
) -> Result<Json<PageOf<Thing>>, rest::Error> {
    let part = (page.offset.into(), page.limit.into());
    let (total_elements, content) = api
        .topics
        .registers()
        .things(&caller.tenant, selected.endpoint_id.as_ref(), caller.applications(), part)
        .await?;
    Ok(Json(PageOf { total_elements, content }))
}

/// One thing.
#[utoipa::path(
    get, path = "/cex/api/v1/things/{thingName}", tag = "commands over topics",
    params(("thingName" = String, Path, description = "Its name.")),
    responses(
        (status = 200, body = Thing), (status = 400, body = rest::ErrorBody), (status = 403, body = rest::ErrorBody),
        (status = 404, body = rest::ErrorBody),
    ),
)]
pub(super) async fn get(
    State(api): State<Api>,
    caller: Caller,
    Path(thing): Path<ThingName>,
) -> Result<Json<Thing>, rest::Error> {
    Ok(Json(api.thing(&caller, &thing).await?))
}

/// Takes a name from an endpoint. Its commands stay as they are; clients of the thing may neither listen nor answer any more.
///
/// Connections that stand keep the subscriptions that they have: revoke the credentials to end them.
#[utoipa::path(
    delete, path = "/cex/api/v1/things/{thingName}", tag = "commands over topics",
    params(("thingName" = String, Path, description = "Its name.")),
    responses(
        (status = 204, description = "It is gone."), (status = 400, body = rest::ErrorBody),
        (status = 403, body = rest::ErrorBody), (status = 404, body = rest::ErrorBody),
    ),
)]
pub(super) async fn delete(
    State(api): State<Api>,
    caller: Caller,
    Path(thing): Path<ThingName>,
) -> Result<StatusCode, rest::Error> {
    api.thing(&caller, &thing).await?;
    api.topics.registers().remove_thing(&caller.tenant, &thing).await?;
    Ok(StatusCode::NO_CONTENT)
}
