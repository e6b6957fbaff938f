//! What the resources of service configuration have in common.
//!
//! `PUT` replaces all that the resource holds: what the body does not name is removed, so `GET`, edit, `PUT`
//! does what it looks like. `PATCH` is a JSON merge patch (RFC 7396) to the blocks of the named service
//! instances; `null` removes. Both answer what `GET` at the same address answers after them, with its `ETag`,
//! and hold to `If-Match`.

use std::time::Duration;

use axum::response::Response;
use ids::{InstanceName, TenantId};
use rest::{Caller, Error, IfMatch, IfNoneMatch, Json, Parameters, not_modified, tagged};
use serde_json::Value;

use super::Api;
use crate::document::{Blocks, Nodes, Scope, tag};
use crate::error::Error as Failure;

/// How often it is looked whether a service has announced itself meanwhile.
const LOOK_EVERY: Duration = Duration::from_millis(100);

pub(super) fn instances(parameters: &Parameters) -> Result<Vec<InstanceName>, Error> {
    parameters.list("serviceInstanceName")
}

/// A resource, and whose it is.
pub(super) struct Resource {
    pub(super) tenant: TenantId,
    pub(super) scope: Scope,
}

impl Resource {
    /// A resource of the caller's own tenant.
    pub(super) fn own(caller: &Caller, scope: Scope) -> Self {
        Self { tenant: caller.tenant.clone(), scope }
    }
}

impl Api {
    pub(super) async fn read(
        &self,
        resource: &Resource,
        parameters: &Parameters,
        known: &IfNoneMatch,
    ) -> Result<Response, Error> {
        let blocks = self.store.blocks(&resource.tenant, &resource.scope, &instances(parameters)?).await?;
        let document = resource.scope.document(blocks);
        let tag = tag(&document);
        if known.matches(&tag) {
            return Ok(not_modified(&tag));
        }
        Ok(tagged(&tag, Json(document)))
    }

    pub(super) async fn replace(
        &self,
        caller: &Caller,
        resource: &Resource,
        expected: &IfMatch,
        body: Value,
    ) -> Result<Response, Error> {
        let nodes = resource.scope.nodes(body).map_err(Failure::from)?;
        self.await_announced(&nodes).await?;
        self.change(caller, resource, expected, &[], |_, versions| resource.scope.replace(nodes, versions))
            .await
    }

    pub(super) async fn merge(
        &self,
        caller: &Caller,
        resource: &Resource,
        expected: &IfMatch,
        parameters: &Parameters,
        body: Value,
    ) -> Result<Response, Error> {
        let named = instances(parameters)?;
        if named.is_empty() {
            return Err(Error::bad_request("name the service instances to change in serviceInstanceName"));
        }
        let nodes = resource.scope.patch_nodes(&named, body).map_err(Failure::from)?;
        self.await_announced(&nodes).await?;
        let merge = |blocks, versions: &[String]| resource.scope.merge(blocks, nodes, versions);
        self.change(caller, resource, expected, &named, merge).await
    }

    /// Changes a resource, of which the caller sees the named service instances (all if none is named).
    async fn change<F>(
        &self,
        caller: &Caller,
        resource: &Resource,
        expected: &IfMatch,
        named: &[InstanceName],
        change: F,
    ) -> Result<Response, Error>
    where
        F: FnOnce(Blocks, &[String]) -> Result<Blocks, crate::document::Fault> + Send,
    {
        let Resource { tenant, scope } = resource;
        let seen = |mut blocks: Blocks| {
            blocks.retain(|(instance, _), _| named.is_empty() || named.contains(instance));
            scope.document(blocks)
        };
        let checked = |before: Blocks, versions: &[String]| {
            let tag = tag(&seen(before.clone()));
            if !expected.allows(&tag) {
                return Err(Failure::Changed(tag));
            }
            Ok(change(before, versions)?)
        };
        let (blocks, changes) = self.store.change_blocks(tenant, scope, checked).await?;
        self.events.changed(caller.correlation_id.as_str(), tenant, scope, &changes).await;
        let document = seen(blocks);
        Ok(tagged(&tag(&document), Json(document)))
    }

    /// Gives services that start together with this one the time to announce themselves, so that configuration
    /// that comes right after the start is not refused for an unknown name.
    pub(super) async fn await_announced(&self, nodes: &Nodes) -> Result<(), Error> {
        let set = nodes.iter().filter(|(_, node)| !node.is_null());
        let names: Vec<&str> = set.map(|(instance, _)| instance.as_str()).collect();
        while tokio::time::Instant::now() < self.grace_until && !self.store.knows(&names).await? {
            tokio::time::sleep(LOOK_EVERY).await;
        }
        Ok(())
    }
}
