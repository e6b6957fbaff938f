//! `/service-instances`: what can be configured.

use axum::extract::State;
use ids::InstanceName;
use rest::{Caller, Error, Json, Parameters, Path};

use super::Api;
use crate::instances::{Include, ServiceInstance};

fn include(parameters: &Parameters) -> Result<Include, Error> {
    let mut include = Include::default();
    for name in parameters.list::<String>("include")? {
        match name.as_str() {
            "appConfigurationSchema" => include.app = true,
            "appVersionConfigurationSchema" => include.app_version = true,
            "tenantConfigurationSchema" => include.tenant = true,
            _ => {
                return Err(Error::bad_request(
                    "include must name appConfigurationSchema, appVersionConfigurationSchema or tenantConfigurationSchema",
                ));
            }
        }
    }
    Ok(include)
}

/// Lists the service instances that have announced themselves, by name.
#[utoipa::path(
    get, path = "/tekton/api/v1/service-instances", tag = "service instances",
    params((
        "include" = Option<Vec<String>>, Query,
        description = "Schemas to show: `appConfigurationSchema`, `appVersionConfigurationSchema`, \
                       `tenantConfigurationSchema`; repeated or by comma."
    )),
    responses((status = 200, body = Vec<ServiceInstance>), (status = 400, body = rest::ErrorBody)),
)]
pub(super) async fn list(
    State(api): State<Api>,
    _caller: Caller,
    parameters: Parameters,
) -> Result<Json<Vec<ServiceInstance>>, Error> {
    let include = include(&parameters)?;
    let instances = api.store.instances().await?;
    let shown = instances.into_iter().map(|(described, at)| ServiceInstance::new(described, at, include));
    Ok(Json(shown.collect()))
}

/// One service instance.
#[utoipa::path(
    get, path = "/tekton/api/v1/service-instances/{name}", tag = "service instances",
    params(
        ("name" = String, Path, description = "The instance's name."),
        (
            "include" = Option<Vec<String>>, Query,
            description = "Schemas to show: `appConfigurationSchema`, `appVersionConfigurationSchema`, \
                           `tenantConfigurationSchema`; repeated or by comma."
        ),
    ),
    responses(
        (status = 200, body = ServiceInstance),
        (status = 400, body = rest::ErrorBody), (status = 404, body = rest::ErrorBody),
    ),
)]
pub(super) async fn get(
    State(api): State<Api>,
    _caller: Caller,
    Path(name): Path<InstanceName>,
    parameters: Parameters,
) -> Result<Json<ServiceInstance>, Error> {
    let include = include(&parameters)?;
    let (described, at) = api.store.instance(&name).await?;
    Ok(Json(ServiceInstance::new(described, at, include)))
}
