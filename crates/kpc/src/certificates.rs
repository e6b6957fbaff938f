//! What clients download to trust the gateway: its certificates, over REST.

use std::sync::Arc;

use axum::extract::State;
use axum::http::{HeaderName, header};
use rest::{Error, Rule, Scope, rule};
use tls::Certificates;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

/// The permissions of the gateway's REST routes.
pub const ROUTES: &[Rule] = &[
    rule("GET", "/kpc/api/v1/certificates/server", "", Scope::Public),
    rule("GET", "/kpc/api/v1/certificates/root", "", Scope::Public),
];

/// PEM, and what it is.
type Pem = ([(HeaderName, &'static str); 1], String);
const PEM: (HeaderName, &str) = (header::CONTENT_TYPE, "application/x-pem-file");

/// The certificates that MQTT over TLS is served with; none without TLS.
type Served = Option<Arc<Certificates>>;

/// The router of the gateway's REST interface.
pub(crate) fn router(served: Served) -> axum::Router {
    let routes = OpenApiRouter::new().routes(routes!(server)).routes(routes!(root)).with_state(served);
    rest::service("kpc", ROUTES, routes)
}

/// The certificate chain with which the gateway serves MQTT over TLS, the server's own certificate first.
#[utoipa::path(
    get,
    path = "/kpc/api/v1/certificates/server",
    responses(
        (status = 200, description = "PEM", body = String, content_type = "application/x-pem-file"),
        (status = 404, description = "the gateway serves no TLS", body = rest::ErrorBody),
    )
)]
async fn server(State(served): State<Served>) -> Result<Pem, Error> {
    Ok(([PEM], of(served)?.chain_pem()))
}

/// The root certificate that clients must trust to connect to the gateway over TLS.
#[utoipa::path(
    get,
    path = "/kpc/api/v1/certificates/root",
    responses(
        (status = 200, description = "PEM", body = String, content_type = "application/x-pem-file"),
        (status = 404, description = "the gateway serves no TLS", body = rest::ErrorBody),
    )
)]
async fn root(State(served): State<Served>) -> Result<Pem, Error> {
    Ok(([PEM], of(served)?.root_pem()))
}

fn of(served: Served) -> Result<Arc<Certificates>, Error> {
    let reason = "this gateway serves no TLS: set kpc.mqtt.tls.certificate_file and kpc.mqtt.tls.key_file";
    served.ok_or_else(|| Error::not_found(reason))
}
