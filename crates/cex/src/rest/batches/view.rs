//! Batch tasks as REST shows them.

use serde::Serialize;
use serde_json::value::RawValue;
use utoipa::ToSchema;
use uuid::Uuid;

use crate::batches::{Child, Task};
use crate::domain::{State, Status};
use crate::rest::iso8601;
use crate::rest::view::to_json;

/// A batch task that was taken.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(in crate::rest) struct TaskId {
    task_id: Uuid,
}

/// A batch task, and how far it is: `pendingCount`, `executedCount` and `expiredCount` together are `total`.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(in crate::rest) struct BatchTask {
    task_id: Uuid,
    /// Null: the endpoints were listed.
    filter_id: Option<String>,
    command_type: String,
    /// Any JSON; null when there is none.
    #[schema(value_type = Option<Value>)]
    request_payload: Option<Box<RawValue>>,
    #[schema(format = DateTime)]
    created_at: String,
    /// When it reached its state.
    #[schema(format = DateTime)]
    updated_at: String,
    /// When the last of its commands had ended; null before.
    #[schema(format = DateTime)]
    ended_at: Option<String>,
    /// `RUNNING`, `COMPLETED`, `ABORTED` (too many commands failed) or `CANCELLED`.
    state: &'static str,
    /// Why it was aborted or cancelled.
    reason: Option<String>,
    /// Its endpoints.
    total: i64,
    /// Endpoints whose command has not ended, or is still to be invoked.
    pending_count: i64,
    /// Endpoints that reported a result.
    executed_count: i64,
    /// Endpoints whose command ended without a result, or was never invoked.
    expired_count: i64,
    /// Endpoints without a command; they are pending, or expired when none will be invoked any more.
    not_invoked_count: i64,
    rate_per_second: Option<i32>,
    abort_failed_percent: Option<i32>,
}

/// A batch task with its endpoints.
#[derive(Serialize, ToSchema)]
pub(in crate::rest) struct TaskStatus {
    #[serde(flatten)]
    task: BatchTask,
    executed: Vec<Entry>,
    pending: Vec<Entry>,
    expired: Vec<Entry>,
}

/// One endpoint of a batch task.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(in crate::rest) struct Entry {
    endpoint_id: String,
    /// Null: there is no command.
    command_id: Option<i32>,
    /// The command's; null: there is none.
    delivery_state: Option<&'static str>,
    /// Why there is no command and never will be.
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<String>,
}

impl From<Uuid> for TaskId {
    fn from(task_id: Uuid) -> Self {
        Self { task_id }
    }
}

impl From<Task> for BatchTask {
    fn from(task: Task) -> Self {
        Self {
            task_id: task.task_id,
            filter_id: task.filter_id,
            command_type: task.command_type,
            request_payload: task.payload.as_ref().map(to_json),
            created_at: iso8601(task.created_at),
            updated_at: iso8601(task.updated_at),
            ended_at: task.ended_at.map(iso8601),
            state: task.state.as_str(),
            reason: task.reason,
            total: task.total,
            pending_count: task.pending,
            executed_count: task.executed,
            expired_count: task.expired,
            not_invoked_count: task.not_invoked,
            rate_per_second: task.rate_per_second,
            abort_failed_percent: task.abort_failed_percent,
        }
    }
}

impl TaskStatus {
    pub(super) fn new(task: Task, children: Vec<Child>) -> Self {
        let mut status =
            Self { task: task.into(), executed: Vec::new(), pending: Vec::new(), expired: Vec::new() };
        for child in children {
            let of = match child.command {
                Some((_, state)) => state.status(),
                None if child.reason.is_some() => Status::Expired,
                None => Status::Pending,
            };
            let (command_id, state) = child.command.unzip();
            let entry = Entry {
                endpoint_id: child.endpoint_id,
                command_id,
                delivery_state: state.map(State::as_str),
                reason: child.reason,
            };
            match of {
                Status::Executed => status.executed.push(entry),
                Status::Pending => status.pending.push(entry),
                Status::Expired => status.expired.push(entry),
            }
        }
        status
    }
}
