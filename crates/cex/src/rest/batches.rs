//! `/endpoints/commands/.../batch...`: commands for many endpoints.

mod view;

use axum::body::Bytes;
use axum::extract::State;
use axum::extract::rejection::BytesRejection;
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse as _, Response};
use ids::{ApplicationName, CommandType, EndpointId};
use rest::{Caller, Error, ErrorBody, Json, Page, PageOf, Parameters, Path};
use serde::Deserialize;
use serde_json::value::RawValue;
use utoipa::ToSchema;
use uuid::Uuid;

use super::invoke::REPLAYED;
use super::invoke::request::{Request, digest, idempotency_key, media_type, parts_of, payload};
use super::{Api, CommandDescriptor};
use crate::batches::{NewBatch, Order, Selection, Sort, Targets};
use crate::domain::{Idempotency, Payload};
use view::{BatchTask, TaskId, TaskStatus};

/// Batch tasks, or commands of one, in one answer.
const PAGE_MAX: u32 = 100;
/// Bytes of a filter's id.
const FILTER_ID_BYTES_MAX: usize = 128;
/// Endpoints of a batch task in one answer.
const ENTRIES_MAX: i64 = 10_000;

/// Endpoints, and what they are to do.
#[derive(Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct EndpointsBody {
    /// What goes to each device: any JSON; with `payloadContentType` `text/plain` a string. Absent or null: no payload.
    #[serde(default)]
    #[schema(value_type = Option<Value>)]
    payload: Option<Box<RawValue>>,
    /// `application/json` (also when absent) or `text/plain`.
    payload_content_type: Option<String>,
    /// 1 to `cex.batch_endpoints_max` (10000), all of one application.
    #[schema(value_type = Vec<String>)]
    endpoint_ids: Vec<EndpointId>,
}

/// What a request for a batch says beside its targets.
struct Wish<'a> {
    api: &'a Api,
    caller: Caller,
    command_type: CommandType,
    parameters: &'a Parameters,
    headers: &'a HeaderMap,
}

impl Wish<'_> {
    async fn create(self, targets: Targets, payload: Option<Payload>) -> Result<Response, Error> {
        let request = Request::read(self.parameters, &self.api.config)?;
        let rate_per_second = self.parameters.one("ratePerSecond")?;
        let abort_failed_percent = self.parameters.one("abortFailedPercent")?;
        let key = idempotency_key(self.headers)?;
        let idempotency = key.map(|key| {
            let settings = format!("{:?} {rate_per_second:?} {abort_failed_percent:?}", request.ttl_ms);
            let digest = digest_of(&self.command_type, &settings, &targets, payload.as_ref());
            Idempotency { key, digest }
        });
        let created = self.api.batches.create(NewBatch {
            tenant: self.caller.tenant.clone(),
            applications: self.caller.applications().cloned(),
            command_type: self.command_type,
            targets,
            payload,
            ttl: request.ttl,
            rate_per_second,
            abort_failed_percent,
            idempotency,
            response_topic: None,
            correlation_id: self.caller.correlation_id.clone(),
        });
        let created = created.await?;
        let task_id = created.task_id;
        let application = created.application;
        let location = format!("/cex/api/v1/endpoints/commands/batch/tasks/{task_id}?appName={application}");
        let mut response =
            (StatusCode::ACCEPTED, [(header::LOCATION, location)], Json(TaskId::from(task_id)))
                .into_response();
        if created.is_repeated {
            response.headers_mut().insert(REPLAYED, HeaderValue::from_static("true"));
        }
        Ok(response)
    }
}

fn digest_of(
    command_type: &CommandType,
    settings: &str,
    targets: &Targets,
    payload: Option<&Payload>,
) -> [u8; 32] {
    let (kind, bytes) = parts_of(payload);
    let mut parts: Vec<&[u8]> =
        vec![b"batch", command_type.as_str().as_bytes(), settings.as_bytes(), kind, bytes];
    match targets {
        Targets::Filter(filter_id) => parts.extend([&b"filter"[..], filter_id.as_bytes()]),
        Targets::Endpoints(endpoints) => {
            parts.push(b"endpoints");
            parts.extend(endpoints.iter().map(|endpoint| endpoint.as_str().as_bytes()));
        }
    }
    digest(&parts)
}

/// Invokes a command on all endpoints that match a filter at this moment.
///
/// 202 means that the batch is durable: its commands are invoked in the background, also after a restart, each endpoint exactly
/// once. The time to live of each command counts from when it is invoked.
#[utoipa::path(
    post, path = "/cex/api/v1/endpoints/commands/{commandType}/batch/by-filter", tag = "batches",
    params(
        ("commandType" = String, Path, description = "The command's type."),
        ("filterId" = String, Query, description = "The id of an endpoint filter that is ACTIVE."),
        ("commandTtl" = Option<u64>, Query,
            description = "Milliseconds for which each command is offered; 0: tried once. At most `cex.command_ttl_max_ms` (31 days), default `cex.command_ttl_ms` (60000)."),
        ("ratePerSecond" = Option<u32>, Query,
            description = "Commands that are invoked in a second, 1 to 10000; absent: as fast as it goes."),
        ("abortFailedPercent" = Option<u8>, Query,
            description = "0 to 99. Once 20 commands (`cex.batch_abort_ended_min`) have ended and more than so many percent of them without a result or with a status code of 400 and above, no more are invoked, and those not yet delivered are cancelled."),
        ("Idempotency-Key" = Option<String>, Header,
            description = "1 to 255 visible ASCII characters. A repeated request with the same key is about the batch of the first."),
    ),
    request_body(description = "What goes to each device: any JSON, or text (UTF-8). Empty: no payload.",
        content((Value = "application/json"), (String = "text/plain"))),
    responses(
        (status = 202, body = TaskId, headers(
            ("Location" = String, description = "The task's path."),
            ("Idempotency-Replayed" = bool, description = "`true` when an earlier request made the batch."))),
        (status = 400, body = ErrorBody, description = "A parameter or the payload is wrong, or over its limit; too many endpoints match."),
        (status = 403, body = ErrorBody), (status = 404, body = ErrorBody, description = "No such filter, or no endpoint matches it."),
        (status = 409, body = ErrorBody, description = "The filter is not active yet, or the key belongs to another request."),
        (status = 429, body = ErrorBody, description = "Too many batches of the tenant have not ended."),
        (status = 503, body = ErrorBody, description = "The endpoint register cannot be asked."),
    ),
)]
pub(super) async fn by_filter(
    State(api): State<Api>,
    caller: Caller,
    Path(command_type): Path<CommandType>,
    parameters: Parameters,
    headers: HeaderMap,
    body: Result<Bytes, BytesRejection>,
) -> Result<Response, Error> {
    let filter_id = filter_id(&parameters)?;
    let filter_id =
        filter_id.ok_or_else(|| Error::bad_request("filterId is missing: name an endpoint filter"))?;
    let targets = Targets::Filter(filter_id);
    let payload = payload(&headers, body)?;
    let wish = Wish { api: &api, caller, command_type, parameters: &parameters, headers: &headers };
    wish.create(targets, payload).await
}

/// Invokes a command on all endpoints that match a filter: the path of Kaa 1.4 for `/batch/by-filter`.
#[utoipa::path(
    post, path = "/cex/api/v1/endpoints/commands/{commandType}/batch", tag = "batches",
    params(
        ("commandType" = String, Path, description = "The command's type."),
        ("filterId" = String, Query, description = "The id of an endpoint filter; other parameters as for `/batch/by-filter`."),
    ),
    request_body(description = "What goes to each device: any JSON, or text (UTF-8). Empty: no payload.",
        content((Value = "application/json"), (String = "text/plain"))),
    responses(
        (status = 202, body = TaskId, headers(("Location" = String, description = "The task's path."))),
        (status = 400, body = ErrorBody), (status = 403, body = ErrorBody), (status = 404, body = ErrorBody),
        (status = 409, body = ErrorBody), (status = 429, body = ErrorBody), (status = 503, body = ErrorBody),
    ),
)]
pub(super) async fn by_filter_1_4(
    state: State<Api>,
    caller: Caller,
    command_type: Path<CommandType>,
    parameters: Parameters,
    headers: HeaderMap,
    body: Result<Bytes, BytesRejection>,
) -> Result<Response, Error> {
    by_filter(state, caller, command_type, parameters, headers, body).await
}

/// Invokes a command on endpoints of one application; otherwise as `/batch/by-filter`.
#[utoipa::path(
    post, path = "/cex/api/v1/endpoints/commands/{commandType}/batch/by-endpoints", tag = "batches",
    params(
        ("commandType" = String, Path, description = "The command's type."),
        ("commandTtl" = Option<u64>, Query, description = "Milliseconds for which each command is offered; 0: tried once."),
        ("ratePerSecond" = Option<u32>, Query, description = "Commands that are invoked in a second, 1 to 10000."),
        ("abortFailedPercent" = Option<u8>, Query, description = "0 to 99; as for `/batch/by-filter`."),
        ("Idempotency-Key" = Option<String>, Header, description = "As for `/batch/by-filter`."),
    ),
    request_body = EndpointsBody,
    responses(
        (status = 202, body = TaskId, headers(
            ("Location" = String, description = "The task's path."),
            ("Idempotency-Replayed" = bool, description = "`true` when an earlier request made the batch."))),
        (status = 400, body = ErrorBody, description = "The endpoints are of several applications or too many, or a parameter is wrong."),
        (status = 403, body = ErrorBody), (status = 404, body = ErrorBody, description = "An endpoint does not exist."),
        (status = 409, body = ErrorBody, description = "The key belongs to another request."),
        (status = 429, body = ErrorBody, description = "Too many batches of the tenant have not ended."),
        (status = 503, body = ErrorBody, description = "The endpoint register cannot be asked."),
    ),
)]
pub(super) async fn by_endpoints(
    State(api): State<Api>,
    caller: Caller,
    Path(command_type): Path<CommandType>,
    parameters: Parameters,
    headers: HeaderMap,
    Json(body): Json<EndpointsBody>,
) -> Result<Response, Error> {
    let payload =
        body.payload.map(|payload| typed(&payload, body.payload_content_type.as_deref())).transpose()?;
    let wish = Wish { api: &api, caller, command_type, parameters: &parameters, headers: &headers };
    wish.create(Targets::Endpoints(body.endpoint_ids), payload).await
}

fn typed(json: &RawValue, content_type: Option<&str>) -> Result<Payload, Error> {
    let Some((media_type, _)) = content_type.map(media_type) else {
        return Ok(Payload::Json(Bytes::copy_from_slice(json.get().as_bytes())));
    };
    match media_type.as_str() {
        "application/json" => Ok(Payload::Json(Bytes::copy_from_slice(json.get().as_bytes()))),
        "text/plain" => {
            let text: String = serde_json::from_str(json.get()).map_err(|_| {
                Error::bad_request("payload must be a string when payloadContentType is text/plain")
            })?;
            Ok(Payload::Text(text.into()))
        }
        _ => Err(Error::bad_request("payloadContentType must be application/json or text/plain")),
    }
}

/// Lists the batch tasks of an application.
#[utoipa::path(
    get, path = "/cex/api/v1/endpoints/commands/batch/tasks", tag = "batches",
    params(
        Page,
        ("appName" = String, Query, description = "The application."),
        ("commandType" = Option<String>, Query, description = "Only tasks with commands of this type."),
        ("filterId" = Option<String>, Query, description = "Only tasks for this filter."),
        ("sortBy" = Option<String>, Query, description = "`commandType`, `filterId`, `createdAt` (default) or `taskId`."),
        ("sortOrder" = Option<String>, Query, description = "`ASC` or `DESC` (default)."),
    ),
    responses((status = 200, body = PageOf<BatchTask>), (status = 400, body = ErrorBody), (status = 403, body = ErrorBody)),
)]
pub(super) async fn tasks(
    State(api): State<Api>,
    caller: Caller,
    page: Page,
    parameters: Parameters,
) -> Result<Json<PageOf<BatchTask>>, Error> {
    let application = application(&api, &caller, &parameters).await?;
    check_page(page)?;
    let selection = Selection {
        command_type: parameters.one("commandType")?,
        filter_id: filter_id(&parameters)?,
        sort: sort(&parameters)?,
        order: order(&parameters)?,
        offset: page.offset.into(),
        limit: page.limit.into(),
    };
    let _permit = api.list_permit().await?;
    let (total_elements, tasks) = api.batches.tasks(&caller.tenant, &application, &selection).await?;
    Ok(Json(PageOf { total_elements, content: tasks.into_iter().map(BatchTask::from).collect() }))
}

/// The filter that a request names. The register knows what an id looks like; a long one or one that is not to be seen is none.
fn filter_id(parameters: &Parameters) -> Result<Option<String>, Error> {
    match parameters.text("filterId")? {
        Some(id) if id.len() > FILTER_ID_BYTES_MAX || !id.bytes().all(|byte| byte.is_ascii_graphic()) => {
            Err(Error::bad_request(format!(
                "filterId must be up to {FILTER_ID_BYTES_MAX} visible ASCII characters"
            )))
        }
        id => Ok(id.map(ToOwned::to_owned)),
    }
}

fn sort(parameters: &Parameters) -> Result<Sort, Error> {
    match parameters.text("sortBy")? {
        None | Some("createdAt") => Ok(Sort::CreatedAt),
        Some("commandType") => Ok(Sort::CommandType),
        Some("filterId") => Ok(Sort::FilterId),
        Some("taskId") => Ok(Sort::TaskId),
        Some(_) => Err(Error::bad_request("sortBy must be commandType, filterId, createdAt or taskId")),
    }
}

fn order(parameters: &Parameters) -> Result<Order, Error> {
    match parameters.text("sortOrder")? {
        None => Ok(Order::Descending),
        Some(order) if order.eq_ignore_ascii_case("DESC") => Ok(Order::Descending),
        Some(order) if order.eq_ignore_ascii_case("ASC") => Ok(Order::Ascending),
        Some(_) => Err(Error::bad_request("sortOrder must be ASC or DESC")),
    }
}

/// How far a batch task is, with its endpoints in order of their ids.
#[utoipa::path(
    get, path = "/cex/api/v1/endpoints/commands/batch/tasks/{taskId}", tag = "batches",
    params(
        ("taskId" = Uuid, Path, description = "The task."),
        ("appName" = String, Query, description = "The task's application."),
        ("offset" = Option<u32>, Query, description = "Endpoints to skip."),
        ("limit" = Option<u32>, Query, description = "Endpoints to return in all three lists together: 0 to 10000 (default)."),
    ),
    responses((status = 200, body = TaskStatus), (status = 400, body = ErrorBody), (status = 403, body = ErrorBody),
        (status = 404, body = ErrorBody)),
)]
pub(super) async fn task(
    State(api): State<Api>,
    caller: Caller,
    Path(task_id): Path<Uuid>,
    parameters: Parameters,
) -> Result<Json<TaskStatus>, Error> {
    let application = application(&api, &caller, &parameters).await?;
    let offset = parameters.one::<u32>("offset")?.unwrap_or(0);
    let limit = parameters.one::<u32>("limit")?.map_or(ENTRIES_MAX, i64::from);
    if limit > ENTRIES_MAX {
        return Err(Error::bad_request(format!("limit must be an integer from 0 to {ENTRIES_MAX}")));
    }
    let _permit = api.list_permit().await?;
    let part = (offset.into(), limit);
    let found = api.batches.task_with_children(&caller.tenant, &application, task_id, part);
    let (task, children) = found.await?;
    Ok(Json(TaskStatus::new(task, children)))
}

/// The commands of a batch task with their results, in order of their endpoints' ids.
#[utoipa::path(
    get, path = "/cex/api/v1/endpoints/commands/batch/tasks/{taskId}/results", tag = "batches",
    params(
        Page,
        ("taskId" = Uuid, Path, description = "The task."),
        ("appName" = String, Query, description = "The task's application."),
    ),
    responses((status = 200, body = PageOf<CommandDescriptor>), (status = 400, body = ErrorBody),
        (status = 403, body = ErrorBody), (status = 404, body = ErrorBody)),
)]
pub(super) async fn results(
    State(api): State<Api>,
    caller: Caller,
    Path(task_id): Path<Uuid>,
    page: Page,
    parameters: Parameters,
) -> Result<Json<PageOf<CommandDescriptor>>, Error> {
    let application = application(&api, &caller, &parameters).await?;
    check_page(page)?;
    let _permit = api.list_permit().await?;
    let task = api.batches.task(&caller.tenant, &application, task_id).await?;
    let commands = api.batches.commands(task.key, page.offset.into(), page.limit.into());
    let (total_elements, commands) = commands.await?;
    Ok(Json(PageOf { total_elements, content: commands.iter().map(CommandDescriptor::from).collect() }))
}

/// Cancels what is not yet delivered of a batch task.
///
/// No command is invoked any more. Those that no device has acknowledged are cancelled, each as soon as no attempt can
/// deliver it any more; what a device has acknowledged goes on. Repeating it does no harm.
#[utoipa::path(
    delete, path = "/cex/api/v1/endpoints/commands/batch/tasks/{taskId}", tag = "batches",
    params(
        ("taskId" = Uuid, Path, description = "The task."),
        ("appName" = String, Query, description = "The task's application."),
    ),
    responses(
        (status = 202, body = BatchTask), (status = 400, body = ErrorBody), (status = 403, body = ErrorBody),
        (status = 404, body = ErrorBody), (status = 409, body = ErrorBody, description = "It has completed."),
    ),
)]
pub(super) async fn cancel(
    State(api): State<Api>,
    caller: Caller,
    Path(task_id): Path<Uuid>,
    parameters: Parameters,
) -> Result<(StatusCode, Json<BatchTask>), Error> {
    let application = application(&api, &caller, &parameters).await?;
    let task = api.batches.cancel(&caller.tenant, &application, task_id).await?;
    Ok((StatusCode::ACCEPTED, Json(task.into())))
}

/// The application that a request is about.
async fn application(api: &Api, caller: &Caller, parameters: &Parameters) -> Result<ApplicationName, Error> {
    let application: Option<ApplicationName> = parameters.one("appName")?;
    let application =
        application.ok_or_else(|| Error::bad_request("appName is missing: name an application"))?;
    caller.check_application(&application)?;
    api.application(caller, &application).await?;
    Ok(application)
}

fn check_page(page: Page) -> Result<(), Error> {
    if page.limit > PAGE_MAX {
        return Err(Error::bad_request(format!("limit must be an integer from 1 to {PAGE_MAX} here")));
    }
    Ok(())
}
