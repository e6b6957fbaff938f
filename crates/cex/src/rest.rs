//! The REST interface, at Kaa's paths with Kaa's names.

mod batches;
mod commanders;
mod commands;
mod feed;
mod groups;
mod history;
mod invoke;
mod things;
mod view;

use std::sync::Arc;

use axum::Router;
use ids::ApplicationName;
use rest::{Caller, Rule, Scope, rule};
use runtime::LookupError;
use tokio::sync::{Semaphore, SemaphorePermit};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::batches::Batches;
use crate::changes::Changes;
use crate::config::Config;
use crate::connected::KnownApplications;
use crate::invocation::Invoker;
use crate::ledger::Ledger;
use crate::topics::Topics;

pub(crate) use view::{CommandDescriptor, iso8601};

const OF_APPLICATION: Scope = Scope::Path("applicationName");
const INVOKE: &str = "/cex/api/v1/endpoints/{endpointId}/commands/{commandType}";
const COMMAND: &str = "/cex/api/v1/endpoints/{endpointId}/commands/{commandType}/{commandId}";
const LAST: &str = "/cex/api/v1/endpoints/{endpointId}/commands/{commandType}/last";
const HISTORY: &str = "/cex/api/v1/endpoints/commands/{applicationName}";
const BATCH: &str = "/cex/api/v1/endpoints/commands/{commandType}/batch";
const BATCH_BY_FILTER: &str = "/cex/api/v1/endpoints/commands/{commandType}/batch/by-filter";
const BATCH_BY_ENDPOINTS: &str = "/cex/api/v1/endpoints/commands/{commandType}/batch/by-endpoints";
const TASKS: &str = "/cex/api/v1/endpoints/commands/batch/tasks";
const TASK: &str = "/cex/api/v1/endpoints/commands/batch/tasks/{taskId}";
const TASK_RESULTS: &str = "/cex/api/v1/endpoints/commands/batch/tasks/{taskId}/results";
const THING: &str = "/cex/api/v1/things/{thingName}";
const GROUP: &str = "/cex/api/v1/groups/{groupName}";
const COMMANDER: &str = "/cex/api/v1/commanders/{credentialsId}";
const FEED: &str = "/cex/api/v1/applications/{applicationName}/events";

/// How long a request that waits for a device may take, in s: more than `cex.await_timeout_max_s` may be.
const WAITING_S: u16 = 90;

/// Lists of commands that are read at once: fewer than there are connections to the database (`postgres.max_connections`, 8),
/// of which all others need some.
pub(crate) const LISTS_MAX: usize = 3;
/// Feeds that read the ledger at once; likewise.
pub(crate) const FEED_READS_MAX: usize = 2;

/// What each route needs.
pub const ROUTES: &[Rule] = &[
    rule("POST", INVOKE, "endpoint:update", Scope::Handler).within_s(WAITING_S),
    rule("GET", COMMAND, "endpoint:read", Scope::Handler),
    rule("DELETE", COMMAND, "endpoint:update", Scope::Handler).within_s(WAITING_S),
    rule("GET", LAST, "endpoint:read", Scope::Handler),
    rule("GET", "/cex/api/v1/endpoints/commands", "endpoint:read", Scope::Handler),
    rule("POST", "/cex/api/v1/endpoints/commands/last", "endpoint:read", Scope::Handler),
    rule("GET", HISTORY, "application:endpoint-command:read", OF_APPLICATION),
    rule("POST", BATCH, "endpoint:update", Scope::Handler).within_s(WAITING_S),
    rule("POST", BATCH_BY_FILTER, "endpoint:update", Scope::Handler).within_s(WAITING_S),
    rule("POST", BATCH_BY_ENDPOINTS, "endpoint:update", Scope::Handler).within_s(WAITING_S),
    rule("GET", TASKS, "application:endpoint-command:read", Scope::Handler),
    rule("GET", TASK, "application:endpoint-command:read", Scope::Handler),
    rule("GET", TASK_RESULTS, "application:endpoint-command:read", Scope::Handler),
    rule("DELETE", TASK, "endpoint:update", Scope::Handler).within_s(WAITING_S),
    rule("PUT", THING, "endpoint:update", Scope::Handler),
    rule("GET", THING, "endpoint:read", Scope::Handler),
    rule("DELETE", THING, "endpoint:update", Scope::Handler),
    rule("GET", "/cex/api/v1/things", "endpoint:read", Scope::Handler),
    rule("PUT", GROUP, "endpoint:update", Scope::Handler),
    rule("GET", GROUP, "endpoint:read", Scope::Handler),
    rule("DELETE", GROUP, "endpoint:update", Scope::Handler),
    rule("GET", "/cex/api/v1/groups", "endpoint:read", Scope::Handler),
    rule("PUT", COMMANDER, "tenant:commander:create", Scope::Tenant),
    rule("GET", COMMANDER, "tenant:commander:read", Scope::Tenant),
    rule("DELETE", COMMANDER, "tenant:commander:delete", Scope::Tenant),
    rule("GET", "/cex/api/v1/commanders", "tenant:commander:read", Scope::Tenant),
    rule("GET", FEED, "application:endpoint-command:read", OF_APPLICATION),
];

/// What the handlers work with. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Api {
    pub(crate) config: Arc<Config>,
    pub(crate) ledger: Ledger,
    pub(crate) invoker: Invoker,
    pub(crate) changes: Arc<Changes>,
    pub(crate) applications: KnownApplications,
    pub(crate) batches: Batches,
    pub(crate) topics: Topics,
    /// One permit for each feed that is followed.
    pub(crate) feeds: Arc<Semaphore>,
    /// One permit for each feed that reads the ledger.
    pub(crate) feed_reads: Arc<Semaphore>,
    /// One permit for each list of commands that is read: they may be large, and others wait.
    pub(crate) lists: Arc<Semaphore>,
}

/// The routes of the service.
pub(crate) fn router(api: Api) -> Router {
    let routes = OpenApiRouter::new()
        .routes(routes!(invoke::invoke))
        .routes(routes!(commands::get, commands::cancel))
        .routes(routes!(commands::last))
        .routes(routes!(commands::list))
        .routes(routes!(commands::last_of_list))
        .routes(routes!(history::history))
        .routes(routes!(batches::by_filter))
        .routes(routes!(batches::by_filter_1_4))
        .routes(routes!(batches::by_endpoints))
        .routes(routes!(batches::tasks))
        .routes(routes!(batches::task, batches::cancel))
        .routes(routes!(batches::results))
        .routes(routes!(things::put, things::get, things::delete))
        .routes(routes!(things::list))
        .routes(routes!(groups::put, groups::get, groups::delete))
        .routes(routes!(groups::list))
        .routes(routes!(commanders::put, commanders::get, commanders::delete))
        .routes(routes!(commanders::list))
        .routes(routes!(feed::follow))
        .with_state(api);
    rest::service("cex", ROUTES, routes)
}

impl Api {
    /// The right to read a list of commands.
    async fn list_permit(&self) -> Result<SemaphorePermit<'_>, rest::Error> {
        self.lists.acquire().await.map_err(rest::Error::internal)
    }

    /// The caller's application of that name. When the register does not answer it passes: what is stored is found by
    /// tenant and name alone, and so can still be read.
    async fn application(&self, caller: &Caller, application: &ApplicationName) -> Result<(), rest::Error> {
        match self.applications.application(application).await {
            Ok(found) if found.tenant_id == caller.tenant => Ok(()),
            Err(LookupError::Unavailable(_)) => Ok(()),
            Ok(_) | Err(LookupError::Unknown) => {
                Err(rest::Error::not_found(format!("the application {application} does not exist")))
            }
        }
    }
}

/// Whether the caller reaches an application on this route.
fn reaches(caller: &Caller, application: &ApplicationName) -> bool {
    caller.applications().is_none_or(|applications| applications.contains(application))
}
