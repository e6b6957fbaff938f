//! The OpenAPI document of a service.

use utoipa::openapi::content::ContentBuilder;
use utoipa::openapi::extensions::Extensions;
use utoipa::openapi::path::Operation;
use utoipa::openapi::security::{ApiKey, ApiKeyValue, HttpAuthScheme, HttpBuilder, SecurityScheme};
use utoipa::openapi::{Components, Info, OpenApi, Ref, ResponseBuilder, SecurityRequirement};
use utoipa::{PartialSchema as _, ToSchema as _};

use crate::{ErrorBody, Rule, Scope};

/// The operations of a document, as method and path.
pub(crate) fn operations(document: &OpenApi) -> Vec<(&'static str, String)> {
    let mut operations = Vec::new();
    for (path, item) in &document.paths.paths {
        let methods = [
            ("GET", &item.get),
            ("PUT", &item.put),
            ("POST", &item.post),
            ("DELETE", &item.delete),
            ("PATCH", &item.patch),
        ];
        let defined = methods.into_iter().filter(|(_, operation)| operation.is_some());
        operations.extend(defined.map(|(method, _)| (method, path.clone())));
    }
    operations
}

/// Completes the document by what all services share, and writes it as JSON.
pub(crate) fn describe(mut document: OpenApi, name: &str, rules: &[Rule]) -> String {
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
    for (path, item) in &mut document.paths.paths {
        let operations = [
            ("GET", &mut item.get),
            ("PUT", &mut item.put),
            ("POST", &mut item.post),
            ("DELETE", &mut item.delete),
            ("PATCH", &mut item.patch),
        ];
        for (method, operation) in operations {
            let Some(operation) = operation else { continue };
            // Left alone it is the handler's name, which handlers of one service often share. It must be unique.
            let chosen = operation.operation_id.take();
            let chosen = chosen.filter(|id| id.contains(|character: char| character.is_ascii_uppercase()));
            operation.operation_id = Some(chosen.unwrap_or_else(|| operation_id(name, method, path)));
            describe_failure(operation);
            if let Some(rule) = rules.iter().find(|rule| rule.method == method && rule.path == path) {
                describe_rule(operation, rule);
            }
        }
    }
    document.to_json().unwrap_or_default()
}

/// What programs call an operation, for example `getEndpointsEndpointIdMetadata`.
fn operation_id(service: &str, method: &str, path: &str) -> String {
    let own = path.strip_prefix(&format!("/{service}/api/v1/")).unwrap_or(path);
    let mut id = method.to_ascii_lowercase();
    for word in own.split(|character: char| !character.is_ascii_alphanumeric()) {
        let mut characters = word.chars();
        id.extend(characters.next().map(|first| first.to_ascii_uppercase()));
        id.push_str(characters.as_str());
    }
    id
}

/// What the caller needs, in words of the platform; a public operation needs nothing.
fn describe_rule(operation: &mut Operation, rule: &Rule) {
    if let Some(limit) = rule.time_limit {
        let limit = Extensions::builder().add("x-time-limit-s", limit.as_secs()).build();
        operation.extensions.get_or_insert_with(Extensions::default).merge(limit);
    }
    if rule.scope == Scope::Public {
        operation.security = Some(Vec::new());
        return;
    }
    let extensions = Extensions::builder()
        .add("x-permission", rule.permission.to_string())
        .add("x-scope", rule.scope.to_string())
        .build();
    operation.extensions.get_or_insert_with(Extensions::default).merge(extensions);
}

/// Every operation fails in the same form.
fn describe_failure(operation: &mut Operation) {
    let body = ContentBuilder::new().schema(Some(Ref::from_schema_name(ErrorBody::name()))).build();
    let failure =
        ResponseBuilder::new().description("the cause and the fix").content("application/json", body);
    operation.responses.responses.entry("default".to_owned()).or_insert_with(|| failure.build().into());
}

#[cfg(test)]
mod tests {
    use super::operation_id;

    #[test]
    fn an_operation_is_named_by_method_and_path() {
        let id = |path| operation_id("epr", "GET", path);
        assert_eq!(id("/epr/api/v1/endpoints"), "getEndpoints");
        let keys = "/epr/api/v1/endpoints/{endpointId}/metadata-keys";
        assert_eq!(id(keys), "getEndpointsEndpointIdMetadataKeys");
        let realm = "/auth/realms/{realm}/.well-known/openid-configuration";
        assert_eq!(id(realm), "getAuthRealmsRealmWellKnownOpenidConfiguration");
    }
}
