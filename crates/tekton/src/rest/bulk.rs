//! Many applications at once: `/app-configs` and `/bulk`.

use std::collections::{BTreeMap, BTreeSet};

use axum::extract::State;
use axum::response::Response;
use ids::{ApplicationName, TenantId};
use rest::{Caller, Error, Json, Parameters, tagged};
use serde::Serialize;
use serde_json::Value;
use utoipa::ToSchema;

use super::Api;
use super::configs::instances;
use crate::document::{Blocks, Scope, document_of_all, nodes_of_all, tag};
use crate::domain::Application;
use crate::error::Error as Failure;
use crate::store::Selection;

/// The applications that the caller asks for and reaches.
fn select(caller: &Caller, tenant: Option<TenantId>, parameters: &Parameters) -> Result<Selection, Error> {
    let named: BTreeSet<ApplicationName> = parameters.list("appName")?.into_iter().collect();
    for name in &named {
        caller.check_application(name)?;
    }
    let applications = if named.is_empty() { caller.applications().cloned() } else { Some(named) };
    Ok(Selection { tenant, applications, instances: instances(parameters)? })
}

/// Loads the configuration of services for several applications: all of it or, when something is wrong, none.
/// For each application and service instance that the body names, it replaces what there was; the rest stays.
#[utoipa::path(
    post, path = "/tekton/api/v1/app-configs", tag = "service configuration", request_body = Object,
    responses(
        (status = 200, body = Object, description = "What is configured now, for what the body named."),
        (status = 400, body = rest::ErrorBody), (status = 403, body = rest::ErrorBody),
        (status = 404, body = rest::ErrorBody), (status = 413, body = rest::ErrorBody),
    ),
)]
pub(super) async fn load_configs(
    State(api): State<Api>,
    caller: Caller,
    Json(body): Json<Value>,
) -> Result<Json<Value>, Error> {
    let all = nodes_of_all(body).map_err(Failure::from)?;
    for (application, nodes) in &all {
        caller.check_application(application)?;
        api.await_announced(nodes).await?;
    }
    let loaded = api.store.load_applications(&caller.tenant, all).await?;
    let mut now = BTreeMap::new();
    for (application, (blocks, changes)) in loaded {
        let scope = Scope::Application(application.clone());
        api.events.changed(caller.correlation_id.as_str(), &caller.tenant, &scope, &changes).await;
        now.insert(application, blocks);
    }
    Ok(Json(document_of_all(now)))
}

/// Exports the configuration of services for all applications that the caller reaches, as `POST` takes it.
#[utoipa::path(
    get, path = "/tekton/api/v1/app-configs", tag = "service configuration",
    params(
        ("serviceInstanceName" = Option<Vec<String>>, Query, description = "Only these; repeated or by comma."),
        ("appName" = Option<Vec<String>>, Query, description = "Only these applications; repeated or by comma."),
    ),
    responses(
        (status = 200, body = Object, headers(("ETag" = String, description = "The tag of this state."))),
        (status = 400, body = rest::ErrorBody, description = "Also when there is too much to export at once."),
    ),
)]
pub(super) async fn export_configs(
    State(api): State<Api>,
    caller: Caller,
    parameters: Parameters,
) -> Result<Response, Error> {
    let selection = select(&caller, Some(caller.tenant.clone()), &parameters)?;
    let document = document_of_all(api.store.export_applications(&selection).await?);
    Ok(tagged(&tag(&document), Json(document)))
}

/// All that is known of tenants.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct BulkExport {
    /// By id.
    tenants: Vec<TenantExport>,
}

/// A tenant with its applications.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(super) struct TenantExport {
    tenant_id: String,
    /// The configuration of services for the tenant, as `/tenant-configs` has it; with `include=tenantConfigs`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Object>)]
    tenant_configs: Option<Value>,
    /// In the order in which they were made.
    applications: Vec<ApplicationExport>,
}

/// An application with its configuration.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(super) struct ApplicationExport {
    #[serde(flatten)]
    application: Application,
    /// The configuration of services for the application, as `/app-configs/applications/{appName}` has it; with
    /// `include=appConfigs`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Object>)]
    app_configs: Option<Value>,
}

/// What to export beside the applications.
#[derive(Debug, Clone, Copy, Default)]
struct Include {
    app_configs: bool,
    tenant_configs: bool,
}

fn include(parameters: &Parameters) -> Result<Include, Error> {
    let mut include = Include::default();
    for name in parameters.list::<String>("include")? {
        match name.as_str() {
            "appConfigs" => include.app_configs = true,
            "tenantConfigs" => include.tenant_configs = true,
            _ => return Err(Error::bad_request("include must name appConfigs or tenantConfigs")),
        }
    }
    Ok(include)
}

/// Exports tenants and their applications: the caller's own tenant; for administrators of the platform all
/// tenants, unless `tenantId` names one.
#[utoipa::path(
    get, path = "/tekton/api/v1/bulk", tag = "applications",
    params(
        ("serviceInstanceName" = Option<Vec<String>>, Query, description = "Configuration of only these; repeated or by comma."),
        ("appName" = Option<Vec<String>>, Query, description = "Only these applications; repeated or by comma."),
        ("include" = Option<Vec<String>>, Query, description = "`appConfigs`, `tenantConfigs`; repeated or by comma."),
        ("tenantId" = Option<String>, Query, description = "Another tenant: for administrators of the platform."),
    ),
    responses(
        (status = 200, body = BulkExport),
        (status = 400, body = rest::ErrorBody, description = "Also when there is too much to export at once."),
        (status = 403, body = rest::ErrorBody),
    ),
)]
pub(super) async fn export(
    State(api): State<Api>,
    caller: Caller,
    parameters: Parameters,
) -> Result<Json<BulkExport>, Error> {
    let include = include(&parameters)?;
    let tenant = match parameters.one("tenantId")? {
        None if caller.is_platform() => None,
        selected => Some(caller.tenant_or(selected)?),
    };
    let selection = select(&caller, tenant, &parameters)?;
    let mut applications = api.store.all_applications(&selection).await?;
    let mut app_configs = match include.app_configs {
        true => api.store.export_applications(&selection).await?,
        false => BTreeMap::new(),
    };
    // Who has roles in single applications only sees nothing of the tenant as a whole.
    let mut tenant_configs = match include.tenant_configs && caller.applications().is_none() {
        true => api.store.export_tenants(&selection).await?,
        false => BTreeMap::new(),
    };
    let mut tenants: BTreeSet<TenantId> = applications.keys().chain(tenant_configs.keys()).cloned().collect();
    tenants.extend(selection.tenant);
    let tenants = tenants.into_iter().map(|tenant| {
        let own = applications.remove(&tenant).unwrap_or_default();
        TenantExport {
            tenant_id: tenant.to_string(),
            applications: own
                .into_iter()
                .map(|application| with_configs(application, include, &mut app_configs))
                .collect(),
            tenant_configs: tenant_configs
                .remove(&tenant)
                .map(|blocks| Scope::Tenant(tenant).document(blocks)),
        }
    });
    Ok(Json(BulkExport { tenants: tenants.collect() }))
}

fn with_configs(
    application: Application,
    include: Include,
    configs: &mut BTreeMap<ApplicationName, Blocks>,
) -> ApplicationExport {
    let name = ApplicationName::parse(&application.name).ok().filter(|_| include.app_configs);
    let app_configs = name.map(|name| {
        let blocks = configs.remove(&name).unwrap_or_default();
        Scope::Application(name).document(blocks)
    });
    ApplicationExport { application, app_configs }
}
