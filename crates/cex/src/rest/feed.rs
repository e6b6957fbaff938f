//! `GET /applications/{applicationName}/events`: what happens in an application, as it happens (server-sent events).

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use axum::extract::State;
use axum::http::{HeaderMap, HeaderName, HeaderValue};
use axum::response::sse::{Event, Sse};
use axum::response::{IntoResponse, Response};
use futures::stream;
use ids::{ApplicationName, CommandType, EndpointId, TenantId};
use rest::{Caller, Error, ErrorBody, Parameters, Path, Stopping};
use serde::Serialize;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio::time::Instant;
use utoipa::ToSchema;

use super::{Api, commands, iso8601};
use crate::changes::Changes;
use crate::domain::{Happening, Transition};
use crate::ledger::Ledger;
use crate::ledger::feed::{FeedEvent, FeedItem, Position};

/// Endpoints that a feed is narrowed to.
const ENDPOINTS_MAX: usize = 100;
/// What is read from the ledger at once.
const BATCH_MAX: i64 = 500;
/// Events that wait for a slow client, beside what its connection buffers.
const EVENTS_WAITING_MAX: usize = 64;
/// Something is sent at least so often, so that both ends see that the other is there.
const HEARTBEAT_EVERY: Duration = Duration::from_secs(15);
/// How often is looked into the ledger, should nobody tell of a change.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// What happens meanwhile is read together.
const READ_PAUSE: Duration = Duration::from_millis(100);
/// A feed ends then, so that its caller's permissions are looked at anew. Clients resume by themselves.
const ENDS_AFTER: Duration = Duration::from_secs(600);
/// How much later it ends when the client does not read.
const SEND_PATIENCE: Duration = Duration::from_secs(15);
/// How soon a client shall resume.
const RESUME_AFTER: Duration = Duration::from_secs(1);
/// Of the browser's `EventSource`, when it resumes.
const LAST_EVENT_ID: &str = "last-event-id";

/// A command reached a state.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(super) struct CommandEvent {
    command_id: i32,
    command_type: String,
    endpoint_id: String,
    /// `PENDING`, `EXECUTED` or `EXPIRED`.
    status: &'static str,
    /// As `deliveryState` of a command.
    state: &'static str,
    reason: Option<String>,
    #[schema(format = DateTime)]
    at: String,
    /// Of the device's result, once there is one.
    #[serde(skip_serializing_if = "Option::is_none")]
    status_code: Option<i32>,
}

/// An endpoint connected or disconnected.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(super) struct ConnectivityEvent {
    endpoint_id: String,
    connected: bool,
    #[schema(format = DateTime)]
    at: String,
}

impl CommandEvent {
    fn new(happening: &Happening, status_code: Option<i32>) -> Self {
        let Transition { state, reason, at } = &happening.transition;
        let lane = &happening.name.lane;
        Self {
            command_id: happening.name.command_id,
            command_type: lane.command_type.to_string(),
            endpoint_id: lane.endpoint_id.to_string(),
            status: state.status().as_str(),
            state: state.as_str(),
            reason: reason.clone(),
            at: iso8601(*at),
            status_code,
        }
    }
}

/// Follows what happens in an application: server-sent events.
///
/// Events: `command` with a `CommandEvent`, `connectivity` with a `ConnectivityEvent`, `gap` with `{}`. All that is committed
/// comes, in the order of the commits, at least once. Each event has an `id`; a client that gives the last one that it got
/// (`Last-Event-ID`, as browsers do by themselves, or `after`) goes on behind it, with any replica of the service. Without an id
/// the feed begins now. A `gap` first says that the id is older than what is kept (`cex.connectivity_kept_ms`,
/// `cex.commands_kept_ms`), so that something may be missing. An idle feed sends an `id` without an event every 15 s. After 10
/// minutes the feed ends, and the client resumes it.
#[utoipa::path(
    get, path = "/cex/api/v1/applications/{applicationName}/events", tag = "events",
    params(
        ("applicationName" = String, Path, description = "The application."),
        ("endpointId" = Option<Vec<String>>, Query, description = "Only of these endpoints, up to 100; repeated or by comma."),
        ("commandTypes" = Option<Vec<String>>, Query, description = "Commands only of these types, up to 100."),
        ("kinds" = Option<Vec<String>>, Query, description = "`command`, `connectivity`; default both."),
        ("duration" = Option<u16>, Query,
            description = "Seconds after which the feed ends; 600 at most, and by default. 0: what there is, at once."),
        ("after" = Option<String>, Query, description = "The `id` of an event: begin behind it. The header wins."),
        ("Last-Event-ID" = Option<String>, Header, description = "The same."),
    ),
    responses(
        (status = 200, body = CommandEvent, content_type = "text/event-stream"),
        (status = 400, body = ErrorBody),
        (status = 404, body = ErrorBody, description = "The tenant has no such application."),
        (status = 503, body = ErrorBody, description = "`cex.feeds_max` feeds are followed."),
    ),
)]
pub(super) async fn follow(
    State(api): State<Api>,
    caller: Caller,
    stopping: Stopping,
    Path(application): Path<ApplicationName>,
    parameters: Parameters,
    headers: HeaderMap,
) -> Result<Response, Error> {
    api.application(&caller, &application).await?;
    let given = position(&headers, &parameters)?;
    let following = Following::read(&parameters)?;
    let duration = duration(&parameters)?;
    let permit = api.feeds.clone().try_acquire_owned().map_err(|_| {
        let max = api.config.feeds_max;
        Error::unavailable(format!("{max} feeds are followed already (cex.feeds_max); try again later"))
    })?;
    let (ledger, tenant) = (api.ledger.clone(), caller.tenant.clone());
    let end = ledger.feed_end().await?;
    let (at, has_gap) = match given {
        // Out of a database that has come further, and of which this is an older copy.
        Some(given) if given > end => (Position::default(), true),
        Some(given) => (given, ledger.feed_has_gap(&tenant, &application, &given).await?),
        None => (end, false),
    };
    let (changes, reads) = (api.changes.clone(), api.feed_reads.clone());
    let feed = Feed { ledger, reads, changes, tenant, application, following, at };
    Ok(feed.serve(has_gap, duration, stopping, permit))
}

/// A feed that is followed.
struct Feed {
    ledger: Ledger,
    reads: Arc<Semaphore>,
    changes: Arc<Changes>,
    tenant: TenantId,
    application: ApplicationName,
    following: Following,
    /// Behind what was sent.
    at: Position,
}

/// What is to be sent.
type Events = mpsc::Sender<Result<Event, Infallible>>;

/// The client has gone, or what it is sent does not leave.
struct Gone;

impl Feed {
    /// The stream. A task of its own fills it: it ends in time also when the client reads nothing.
    fn serve(
        self,
        has_gap: bool,
        duration: Duration,
        stopping: Stopping,
        permit: OwnedSemaphorePermit,
    ) -> Response {
        let (events, mut waiting) = mpsc::channel(EVENTS_WAITING_MAX);
        tokio::spawn(async move {
            let _permit = permit;
            let gone = events.clone();
            tokio::select! {
                _ = self.run(has_gap, Instant::now() + duration, &events) => {}
                () = tokio::time::sleep(duration + SEND_PATIENCE) => {}
                () = stopping.begun() => {}
                () = gone.closed() => {}
            }
        });
        let stream = stream::poll_fn(move |context| waiting.poll_recv(context));
        // Proxies shall hand on each event at once.
        let unbuffered = (HeaderName::from_static("x-accel-buffering"), HeaderValue::from_static("no"));
        ([unbuffered], Sse::new(stream)).into_response()
    }

    async fn run(mut self, has_gap: bool, ends_at: Instant, events: &Events) -> Result<(), Gone> {
        send(events, Event::default().retry(RESUME_AFTER).id(self.at.to_string())).await?;
        if has_gap {
            send(events, Event::default().event("gap").id(self.at.to_string()).data("{}")).await?;
        }
        let mut change = self.changes.feed_of(self.tenant.clone(), self.application.clone());
        let (mut look_after, mut heartbeat_at) = (LOOK_EVERY, Instant::now() + HEARTBEAT_EVERY);
        loop {
            let (found, end) = self.read(Instant::now() >= heartbeat_at).await.unwrap_or_else(|error| {
                tracing::warn!(%error, "the ledger cannot be read for a feed; trying again");
                (Vec::new(), None)
            });
            let is_full = found.len() >= usize::try_from(BATCH_MAX).unwrap_or(usize::MAX);
            for item in found {
                self.at = item.position;
                if self.following.includes(&item.event) {
                    send(events, self.event(&item)?).await?;
                    heartbeat_at = Instant::now() + HEARTBEAT_EVERY;
                }
            }
            if let Some(end) = end.filter(|_| !is_full) {
                self.at = self.at.max(end);
            }
            if Instant::now() >= heartbeat_at {
                send(events, Event::default().comment("idle").id(self.at.to_string())).await?;
                heartbeat_at = Instant::now() + HEARTBEAT_EVERY;
            }
            if is_full {
                continue;
            }
            if Instant::now() >= ends_at {
                return Ok(());
            }
            tokio::time::sleep(READ_PAUSE).await;
            let look_at = ends_at.min(Instant::now() + look_after);
            let woken = tokio::time::timeout_at(look_at, change.woken()).await.is_ok();
            // What was committed is read once all transactions before it have ended, which may be a little later.
            look_after = if woken { READ_PAUSE } else { (look_after * 2).min(LOOK_EVERY) };
        }
    }

    /// What has happened since, and up to where all of it is known if there is no more. Who follows a part must know that,
    /// or he would look through all the rest again with the next read.
    async fn read(&self, is_idle: bool) -> sqlx::Result<(Vec<FeedItem>, Option<Position>)> {
        let Self { ledger, tenant, application, .. } = self;
        let Following { command_types, endpoints, .. } = &self.following;
        // Never closed.
        let _permit = self.reads.acquire().await;
        let is_narrowed = !command_types.is_empty() || !endpoints.is_empty();
        let end = if is_narrowed || is_idle { Some(ledger.feed_end().await?) } else { None };
        let found = ledger.feed(tenant, application, &self.at, command_types, endpoints, BATCH_MAX).await?;
        Ok((found, end))
    }

    fn event(&self, item: &FeedItem) -> Result<Event, Gone> {
        let event = Event::default().id(self.at.to_string());
        let event = match &item.event {
            FeedEvent::Command { happening, status_code } => {
                event.event("command").json_data(CommandEvent::new(happening, *status_code))
            }
            FeedEvent::Connectivity { endpoint_id, is_connected, at } => {
                event.event("connectivity").json_data(ConnectivityEvent {
                    endpoint_id: endpoint_id.to_string(),
                    connected: *is_connected,
                    at: iso8601(*at),
                })
            }
        };
        event.map_err(|error| {
            tracing::error!(%error, "an event cannot be written");
            Gone
        })
    }
}

async fn send(events: &Events, event: Event) -> Result<(), Gone> {
    events.send(Ok(event)).await.map_err(|_| Gone)
}

/// The position behind which the caller wants to go on.
fn position(headers: &HeaderMap, parameters: &Parameters) -> Result<Option<Position>, Error> {
    let given = match headers.get(LAST_EVENT_ID) {
        Some(id) => Some(id.to_str().unwrap_or("?")),
        None => parameters.text("after")?,
    };
    let parse = |id: &str| {
        id.parse().map_err(|_| {
            Error::bad_request(
                "Last-Event-ID, or after, is not the id of an event of this feed; leave it out to begin now",
            )
        })
    };
    given.filter(|id| !id.is_empty()).map(parse).transpose()
}

/// How long the feed is followed.
fn duration(parameters: &Parameters) -> Result<Duration, Error> {
    let given = parameters.one::<u64>("duration")?.map_or(ENDS_AFTER, Duration::from_secs);
    if given > ENDS_AFTER {
        let max = ENDS_AFTER.as_secs();
        return Err(Error::bad_request(format!(
            "duration may be {max} s: resume the feed when it has ended"
        )));
    }
    Ok(given)
}

/// What the caller wants of the feed. Empty lists narrow nothing.
#[derive(Debug)]
struct Following {
    commands: bool,
    connectivity: bool,
    endpoints: Vec<EndpointId>,
    command_types: Vec<CommandType>,
}

impl Following {
    fn read(parameters: &Parameters) -> Result<Self, Error> {
        let kinds: Vec<String> = parameters.list("kinds")?;
        if let Some(other) = kinds.iter().find(|kind| !matches!(kind.as_str(), "command" | "connectivity")) {
            return Err(Error::bad_request(format!(
                "kinds may be command and connectivity, and not {other}"
            )));
        }
        let wants = |kind: &str| kinds.is_empty() || kinds.iter().any(|given| given == kind);
        let endpoints: Vec<EndpointId> = parameters.list("endpointId")?;
        if endpoints.len() > ENDPOINTS_MAX {
            return Err(Error::bad_request(format!("endpointId may name {ENDPOINTS_MAX} endpoints")));
        }
        Ok(Self {
            commands: wants("command"),
            connectivity: wants("connectivity"),
            endpoints,
            command_types: commands::types("commandTypes", parameters.list("commandTypes")?)?,
        })
    }

    fn includes(&self, event: &FeedEvent) -> bool {
        match event {
            FeedEvent::Command { .. } => self.commands,
            FeedEvent::Connectivity { .. } => self.connectivity,
        }
    }
}
