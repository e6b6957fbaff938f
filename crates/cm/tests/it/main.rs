//! Endpoint tokens on real NATS and PostgreSQL; the endpoint register is played by the test.
#![expect(clippy::unwrap_used, reason = "in a test a panic is the report")]

mod ecap;
mod grants;
mod life;
mod removal;
mod tokens;

use std::collections::HashMap;
use std::ops::Deref;
use std::sync::{Arc, Mutex};

use cm::Cm;
use ids::InstanceName;
use ism::ecap::{EP_TOKEN_REQUEST, EndpointTokenValidationRequest, EndpointTokenValidationResponse};
use ism::endpoints::GET_REQUEST;
use ism::tokens::{CREATE_REQUEST, EndpointTokenCreateRequest, EndpointTokenCreateResponse};
use ism::{EndpointGetRequest, EndpointGetResponse, Secret};
use serde_json::Value;
use testbed::{ACME, Responder, Testbed};

const KEY: &str = "c0ffee00c0ffee00c0ffee00c0ffee00c0ffee00c0ffee00c0ffee00c0ffee00";
/// Where revoked events come.
const REVOKED: &str = "kaa.v1.events.*.endpoint.token.revoked";

/// An endpoint that is deleted when it was asked for once.
const VANISHING: &str = "vanishing";

/// Endpoint to application, of the tenant `acme`.
type Endpoints = Arc<Mutex<HashMap<String, String>>>;

/// The service, with an endpoint register beside it.
struct Site {
    bed: Testbed,
    endpoints: Endpoints,
    _register: Responder,
}

impl Deref for Site {
    type Target = Testbed;

    fn deref(&self) -> &Testbed {
        &self.bed
    }
}

async fn start(settings: &[(&str, &str)]) -> Site {
    let mut all = vec![("cm.token_key", KEY)];
    all.extend(settings);
    let bed = Testbed::start(&[runtime::entry::<Cm>()], &all).await;
    let endpoints = Endpoints::default();
    let known = endpoints.clone();
    let answer = move |request: EndpointGetRequest| {
        let mut known = known.lock().unwrap();
        let app_name = known.get(&request.endpoint_id).cloned();
        if request.endpoint_id == VANISHING {
            known.remove(VANISHING);
        }
        let app_name = app_name.filter(|_| request.tenant_id == ACME.id);
        Some(EndpointGetResponse {
            correlation_id: request.correlation_id,
            timestamp: runtime::now_ms(),
            timeout: 0,
            status_code: if app_name.is_some() { 200 } else { 404 },
            app_version_name: app_name.as_ref().map(|name| format!("{name}-v1")),
            app_name,
            reason_phrase: None,
        })
    };
    let register = Responder::start(&bed.client, GET_REQUEST.at("epr"), answer).await;
    Site { bed, endpoints, _register: register }
}

impl Site {
    /// Registers an endpoint without a token.
    fn register(&self, endpoint_id: &str, application: &str) {
        self.endpoints.lock().unwrap().insert(endpoint_id.to_owned(), application.to_owned());
    }

    /// Registers an endpoint with a token: the token's id and text.
    async fn endpoint(&self, endpoint_id: &str, application: &str, token: Option<&str>) -> (String, String) {
        self.register(endpoint_id, application);
        let made = self.create(&creation(application, endpoint_id, token)).await;
        assert_eq!(made.status_code, 201, "{made:?}");
        (made.token_id.unwrap(), made.token.unwrap().as_str().to_owned())
    }

    async fn create(&self, request: &EndpointTokenCreateRequest) -> EndpointTokenCreateResponse {
        self.ask(CREATE_REQUEST.service(&instance()), request).await
    }

    async fn validate(&self, application: &str, token: &str) -> EndpointTokenValidationResponse {
        let request = EndpointTokenValidationRequest {
            correlation_id: "c".to_owned(),
            timestamp: runtime::now_ms(),
            timeout: 10_000,
            app_name: application.to_owned(),
            token: Secret::from(token),
        };
        self.ask(EP_TOKEN_REQUEST.service(&instance()), &request).await
    }

    async fn stop(self) {
        self.bed.stop().await;
    }
}

fn instance() -> InstanceName {
    InstanceName::parse("cm").unwrap()
}

fn creation(application: &str, endpoint_id: &str, token: Option<&str>) -> EndpointTokenCreateRequest {
    EndpointTokenCreateRequest {
        correlation_id: "c".to_owned(),
        timestamp: runtime::now_ms(),
        timeout: 10_000,
        tenant_id: ACME.id.to_owned(),
        app_name: application.to_owned(),
        endpoint_id: endpoint_id.to_owned(),
        token: token.map(Secret::from),
    }
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or_else(|| panic!("no text: {value}")).to_owned()
}

fn tokens_of(endpoint_id: &str) -> String {
    format!("/cm/api/v1/endpoints/{endpoint_id}/tokens")
}
