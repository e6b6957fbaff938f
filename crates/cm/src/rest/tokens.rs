//! `/endpoints/{endpointId}/tokens`

use axum::extract::State;
use axum::http::StatusCode;
use axum::response::Response;
use chrono::{DateTime, Utc};
use ids::{ApplicationName, EndpointId, EndpointToken, TokenId};
use rest::{Caller, Created, Error, IfNoneMatch, Json, Page, PageOf, Parameters, Path, not_modified, tagged};
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
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

/// Bytes of a list's digest that make its tag.
const TAG_BYTES: usize = 16;

impl Api {
    /// A token of an endpoint whose application the caller reaches.
    async fn token(
        &self,
        caller: &Caller,
        endpoint_id: &EndpointId,
        token_id: &TokenId,
    ) -> Result<Token, Error> {
        let token = self.registry.store().token(&caller.tenant, endpoint_id, token_id).await?;
        let application = ApplicationName::parse(&token.application_name).map_err(Error::internal)?;
        caller.check_application(&application)?;
        Ok(token)
    }
}

/// Makes a token for an endpoint. Its older tokens stay as they are.
#[utoipa::path(
    post, path = "/cm/api/v1/endpoints/{endpointId}/tokens", tag = "endpoint tokens",
    params(("endpointId" = String, Path, description = "The endpoint's id.")), request_body = NewTokenBody,
    responses(
        (status = 201, body = NewToken, headers(("Location" = String, description = "The token's path."))),
        (status = 400, body = rest::ErrorBody), (status = 403, body = rest::ErrorBody),
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
    caller.check_application(&body.application_name)?;
    let correlation_id = caller.correlation_id.as_str();
    api.endpoints.check(correlation_id, &caller.tenant, &endpoint_id, &body.application_name).await?;
    let owner = Owner {
        tenant: caller.tenant.clone(),
        application: body.application_name.clone(),
        endpoint_id: endpoint_id.clone(),
    };
    let created = api.registry.create(&owner, body.token, false).await?;
    let token = created.token;
    // An endpoint that was deleted between the two looks has taken its tokens with it, but not this one.
    let still = api.endpoints.check(correlation_id, &owner.tenant, &endpoint_id, &owner.application).await;
    if let Err(gone) = still {
        let id = token.endpoint_token_id;
        api.registry.delete(correlation_id, &owner.tenant, &endpoint_id, id).await?;
        return Err(gone.into());
    }
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
        ("If-None-Match" = Option<String>, Header, description = "The tag of what the caller has."),
        Page,
    ),
    responses(
        (status = 200, body = PageOf<Token>, headers(("ETag" = String, description = "The tag of this state."))),
        (status = 304, description = "The caller has it."), (status = 400, body = rest::ErrorBody),
        (status = 403, body = rest::ErrorBody), (status = 404, body = rest::ErrorBody),
        (status = 503, body = rest::ErrorBody),
    ),
)]
pub(super) async fn list(
    State(api): State<Api>,
    caller: Caller,
    Path(endpoint_id): Path<EndpointId>,
    page: Page,
    parameters: Parameters,
    known: IfNoneMatch,
) -> Result<Response, Error> {
    let filter = filter(&parameters)?;
    let store = api.registry.store();
    // An endpoint that has tokens exists; of others the register is asked, so that a wrong id is no empty
    // list.
    let application = match store.application_of(&caller.tenant, &endpoint_id).await? {
        Some(application) => application,
        None => {
            let correlation_id = caller.correlation_id.as_str();
            api.endpoints.application_of(correlation_id, &caller.tenant, &endpoint_id).await?
        }
    };
    caller.check_application(&application)?;
    let (total_elements, content) =
        store.tokens(&caller.tenant, &endpoint_id, &filter, page.offset.into(), page.limit.into()).await?;
    let list = PageOf { total_elements, content };
    let tag = tag(&list)?;
    if known.matches(&tag) {
        return Ok(not_modified(&tag));
    }
    Ok(tagged(&tag, Json(list)))
}

/// The same for the same list.
fn tag(list: &PageOf<Token>) -> Result<String, Error> {
    let digest = Sha256::digest(serde_json::to_vec(list).map_err(Error::internal)?);
    Ok(digest.iter().take(TAG_BYTES).map(|byte| format!("{byte:02x}")).collect())
}

/// One token, without its text.
#[utoipa::path(
    get, path = "/cm/api/v1/endpoints/{endpointId}/tokens/{endpointTokenId}", tag = "endpoint tokens",
    params(
        ("endpointId" = String, Path, description = "The endpoint's id."),
        ("endpointTokenId" = String, Path, description = "The token's id, which is not its text."),
    ),
    responses(
        (status = 200, body = Token), (status = 403, body = rest::ErrorBody),
        (status = 404, body = rest::ErrorBody),
    ),
)]
pub(super) async fn get(
    State(api): State<Api>,
    caller: Caller,
    Path((endpoint_id, token_id)): Path<(EndpointId, TokenId)>,
) -> Result<Json<Token>, Error> {
    Ok(Json(api.token(&caller, &endpoint_id, &token_id).await?))
}

/// Deletes a token. If it could be used, its sessions end at once; from then on it is unknown.
#[utoipa::path(
    delete, path = "/cm/api/v1/endpoints/{endpointId}/tokens/{endpointTokenId}", tag = "endpoint tokens",
    params(
        ("endpointId" = String, Path, description = "The endpoint's id."),
        ("endpointTokenId" = String, Path, description = "The token's id, which is not its text."),
    ),
    responses(
        (status = 204, description = "It is deleted."), (status = 403, body = rest::ErrorBody),
        (status = 404, body = rest::ErrorBody),
    ),
)]
pub(super) async fn delete(
    State(api): State<Api>,
    caller: Caller,
    Path((endpoint_id, token_id)): Path<(EndpointId, TokenId)>,
) -> Result<StatusCode, Error> {
    let token = api.token(&caller, &endpoint_id, &token_id).await?;
    let correlation_id = caller.correlation_id.as_str();
    api.registry.delete(correlation_id, &caller.tenant, &endpoint_id, token.endpoint_token_id).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// The status that a token is to have.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct StatusBody {
    status: Status,
}

/// Suspends, reactivates or revokes a token. One that is suspended or revoked is refused from then on, and its
/// sessions end at once. To ask for the status that it has already is fine.
#[utoipa::path(
    put, path = "/cm/api/v1/endpoints/{endpointId}/tokens/{endpointTokenId}/status", tag = "endpoint tokens",
    params(
        ("endpointId" = String, Path, description = "The endpoint's id."),
        ("endpointTokenId" = String, Path, description = "The token's id, which is not its text."),
    ),
    request_body = StatusBody,
    responses(
        (status = 200, body = Token), (status = 400, body = rest::ErrorBody),
        (status = 403, body = rest::ErrorBody), (status = 404, body = rest::ErrorBody),
        (status = 409, body = rest::ErrorBody, description = "Its present status does not lead there."),
    ),
)]
pub(super) async fn put_status(
    State(api): State<Api>,
    caller: Caller,
    Path((endpoint_id, token_id)): Path<(EndpointId, TokenId)>,
    Json(body): Json<StatusBody>,
) -> Result<Json<Token>, Error> {
    let id = api.token(&caller, &endpoint_id, &token_id).await?.endpoint_token_id;
    let correlation_id = caller.correlation_id.as_str();
    let moved =
        api.registry.set_status(correlation_id, &caller.tenant, &endpoint_id, id, body.status).await?;
    Ok(Json(moved))
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
