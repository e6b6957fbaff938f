//! The OpenAPI document of a service.

use utoipa::openapi::content::ContentBuilder;
use utoipa::openapi::path::Operation;
use utoipa::openapi::security::{ApiKey, ApiKeyValue, HttpAuthScheme, HttpBuilder, SecurityScheme};
use utoipa::openapi::{Components, Info, OpenApi, Ref, ResponseBuilder, SecurityRequirement};
use utoipa::{PartialSchema as _, ToSchema as _};

use crate::ErrorBody;

/// Completes the document by what all services share, and writes it as JSON.
pub(crate) fn describe(mut document: OpenApi, name: &str) -> String {
    document.info = Info::new(name, env!("CARGO_PKG_VERSION"));
    let components = document.components.get_or_insert_with(Components::new);
    components.schemas.insert(ErrorBody::name().into_owned(), ErrorBody::schema());
    let key = SecurityScheme::ApiKey(ApiKey::Header(ApiKeyValue::new("x-iamcore-api-key")));
    let bearer = SecurityScheme::Http(HttpBuilder::new().scheme(HttpAuthScheme::Bearer).build());
    components.add_security_scheme("apiKey", key);
    components.add_security_scheme("bearer", bearer);
    let no_scopes: [&str; 0] = [];
    document.security =
        Some(["apiKey", "bearer"].map(|scheme| SecurityRequirement::new(scheme, no_scopes)).to_vec());
    for item in document.paths.paths.values_mut() {
        let operations = [&mut item.get, &mut item.put, &mut item.post, &mut item.delete, &mut item.patch];
        operations.into_iter().flatten().for_each(describe_failure);
    }
    document.to_json().unwrap_or_default()
}

/// Every operation fails in the same form.
fn describe_failure(operation: &mut Operation) {
    let body = ContentBuilder::new().schema(Some(Ref::from_schema_name(ErrorBody::name()))).build();
    let failure =
        ResponseBuilder::new().description("the cause and the fix").content("application/json", body);
    operation.responses.responses.entry("default".to_owned()).or_insert_with(|| failure.build().into());
}
