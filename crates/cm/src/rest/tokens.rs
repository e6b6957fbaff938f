//! `/endpoints/{endpointId}/tokens`

use axum::extract::State;
use chrono::{DateTime, Utc};
use ids::{ApplicationName, EndpointId, EndpointToken, TokenId};
use rest::{Caller, Created, Error, Json, Page, PageOf, Parameters, Path};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use uuid::Uuid;

use super::Api;
use crate::status::Status;
use crate::store::{Filter, Owner, Token};

/// A token to make.
#[derive(Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(super) struct NewTokenBody {
    /// The endpoint's application.
    #[schema(value_type = String)]
    application_name: ApplicationName,
    /// `^[^+#/.]+$`, unique within the application; generated when absent.
    #[schema(value_type = Option<String>)]
    token: Option<EndpointToken>,
}

/// A token that was made. Its text is told here and never again.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(super) struct NewToken {
    token: String,
    status: Status,
    created_date: DateTime<Utc>,
    application_name: String,
    endpoint_token_id: Uuid,
}

/// Makes a token for an endpoint. Its older tokens stay as they are.
#[utoipa::path(
    post, path = "/cm/api/v1/endpoints/{endpointId}/tokens", tag = "endpoint tokens",
    params(("endpointId" = String, Path, description = "The endpoint's id.")), request_body = NewTokenBody,
    responses(
        (status = 201, body = NewToken, headers(("Location" = String, description = "The token's path."))),
        (status = 400, body = rest::ErrorBody),
        (status = 404, body = rest::ErrorBody, description = "No such endpoint in that application."),
        (status = 409, body = rest::ErrorBody, description = "The token is taken."),
        (status = 429, body = rest::ErrorBody), (status = 503, body = rest::ErrorBody),
    ),
)]
pub(super) async fn create(
    State(api): State<Api>,
    caller: Caller,
    Path(endpoint_id): Path<EndpointId>,
    Json(body): Json<NewTokenBody>,
) -> Result<Created<NewToken>, Error> {
    let correlation_id = caller.correlation_id.as_str();
    api.endpoints.check(correlation_id, &caller.tenant, &endpoint_id, &body.application_name).await?;
    let owner = Owner { tenant: caller.tenant, application: body.application_name, endpoint_id };
    let created = api.registry.create(&owner, body.token, false).await?;
    let token = created.token;
    let body = NewToken {
        token: created.text.as_str().to_owned(),
        status: token.status,
        created_date: token.created_date,
        application_name: token.application_name,
        endpoint_token_id: token.endpoint_token_id,
    };
    let location = format!("/cm/api/v1/endpoints/{}/tokens/{}", owner.endpoint_id, body.endpoint_token_id);
    Ok(Created { location, body })
}

/// Lists the tokens of an endpoint, without their texts.
#[utoipa::path(
    get, path = "/cm/api/v1/endpoints/{endpointId}/tokens", tag = "endpoint tokens",
    params(
        ("endpointId" = String, Path, description = "The endpoint's id."),
        ("status" = Option<Vec<Status>>, Query, description = "Only tokens of these; repeated or by comma."),
        ("order" = Option<String>, Query, description = "`DESC` (default): newest first; `ASC`: oldest first."),
        Page,
    ),
    responses(
        (status = 200, body = PageOf<Token>),
        (status = 400, body = rest::ErrorBody), (status = 404, body = rest::ErrorBody),
    ),
)]
pub(super) async fn list(
    State(api): State<Api>,
    caller: Caller,
    Path(endpoint_id): Path<EndpointId>,
    page: Page,
    parameters: Parameters,
) -> Result<Json<PageOf<Token>>, Error> {
    let filter = filter(&parameters)?;
    let store = api.registry.store();
    let (total_elements, content) =
        store.tokens(&caller.tenant, &endpoint_id, &filter, page.offset.into(), page.limit.into()).await?;
    // An endpoint that has tokens exists; of others the register is asked, so that a wrong id is no empty
    // list.
    if total_elements == 0 && !store.knows(&caller.tenant, &endpoint_id).await? {
        api.endpoints.application_of(caller.correlation_id.as_str(), &caller.tenant, &endpoint_id).await?;
    }
    Ok(Json(PageOf { total_elements, content }))
}

/// One token, without its text.
#[utoipa::path(
    get, path = "/cm/api/v1/endpoints/{endpointId}/tokens/{endpointTokenId}", tag = "endpoint tokens",
    params(
        ("endpointId" = String, Path, description = "The endpoint's id."),
        ("endpointTokenId" = String, Path, description = "The token's id, which is not its text."),
    ),
    responses((status = 200, body = Token), (status = 404, body = rest::ErrorBody)),
)]
pub(super) async fn get(
    State(api): State<Api>,
    caller: Caller,
    Path((endpoint_id, token_id)): Path<(EndpointId, TokenId)>,
) -> Result<Json<Token>, Error> {
    Ok(Json(api.registry.store().token(&caller.tenant, &endpoint_id, &token_id).await?))
}

fn filter(parameters: &Parameters) -> Result<Filter, Error> {
    let oldest_first = match parameters.text("order")? {
        None | Some("DESC") => false,
        Some("ASC") => true,
        Some(_) => return Err(Error::bad_request("order must be ASC or DESC")),
    };
    Ok(Filter { statuses: parameters.list("status")?, oldest_first })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(parameters: &[(&str, &str)]) -> Result<Filter, String> {
        filter(&parameters.iter().copied().collect()).map_err(|error| error.message().to_owned())
    }

    #[test]
    fn statuses_may_be_repeated_and_joined_by_commas() {
        let found = read(&[("status", "Active,Inactive"), ("status", "Revoked"), ("order", "ASC")]).unwrap();
        assert_eq!(found.statuses, [Status::Active, Status::Inactive, Status::Revoked]);
        assert!(found.oldest_first);
        assert_eq!(read(&[("order", "DESC"), ("other", "x")]), Ok(Filter::default()));
    }

    #[test]
    fn bad_parameters_are_refused() {
        assert!(read(&[("status", "active")]).unwrap_err().contains("Inactive, Active"));
        assert!(read(&[("order", "up")]).unwrap_err().contains("ASC or DESC"));
    }
}
