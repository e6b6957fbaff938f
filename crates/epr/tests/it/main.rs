//! The endpoint register on real NATS and PostgreSQL; the test plays `tekton` and `cm`.
#![expect(clippy::unwrap_used, reason = "in a test a panic is the report")]

mod endpoints;
mod registration;

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use epr::Epr;
use ids::InstanceName;
use ism::Secret;
use ism::config::{CONFIGURATION_REQUEST, ConfigurationRequest, ConfigurationResponse};
use ism::tokens::{CREATE_REQUEST, EndpointTokenCreateRequest, EndpointTokenCreateResponse};
use serde_json::{Value, json};
use testbed::{Responder, Testbed};

pub(crate) const ENDPOINTS: &str = "/epr/api/v1/endpoints";

/// Versions and whose they are: application `app` of the first tenant, `foreign` of the second.
fn owner(version: &str) -> Option<(&'static str, &'static str)> {
    match version {
        "app-v1" | "app-v2" => Some(("acme", "app")),
        "more-v1" => Some(("acme", "more")),
        "foreign-v1" => Some(("other", "foreign")),
        _ => None,
    }
}

/// Starts the service and a `tekton` beside it.
async fn start(settings: &[(&str, &str)]) -> (Testbed, Responder) {
    let bed = Testbed::start(&[runtime::entry::<Epr>()], settings).await;
    let subject = CONFIGURATION_REQUEST.service(&InstanceName::parse("tekton").unwrap());
    let tekton = Responder::start(&bed.client, subject, |request: ConfigurationRequest| {
        let found = request.app_version_name.as_deref().and_then(owner);
        Some(ConfigurationResponse {
            tenant_id: found.map(|(tenant, _)| tenant.to_owned()),
            app_name: found.map(|(_, application)| application.to_owned()),
            status_code: if found.is_some() { 200 } else { 404 },
            ..ConfigurationResponse::default()
        })
    });
    let tekton = tekton.await;
    (bed, tekton)
}

/// What the played `cm` does with a request.
#[derive(Debug, Clone, Copy)]
enum Cm {
    Makes,
    Refuses(i32),
    Silent,
}

/// A `cm` that does as it is told and remembers what it was asked.
struct PlayedCm {
    will: Arc<Mutex<Cm>>,
    asked: Arc<Mutex<Vec<EndpointTokenCreateRequest>>>,
    _responder: Responder,
}

impl PlayedCm {
    async fn start(bed: &Testbed, will: Cm) -> Self {
        let will = Arc::new(Mutex::new(will));
        let asked = Arc::<Mutex<Vec<EndpointTokenCreateRequest>>>::default();
        let made = AtomicUsize::new(0);
        let (told, heard) = (will.clone(), asked.clone());
        let subject = CREATE_REQUEST.service(&InstanceName::parse("cm").unwrap());
        let responder = Responder::start(&bed.client, subject, move |request: EndpointTokenCreateRequest| {
            heard.lock().unwrap().push(request.clone());
            let response = EndpointTokenCreateResponse {
                correlation_id: request.correlation_id.clone(),
                ..EndpointTokenCreateResponse::default()
            };
            match *told.lock().unwrap() {
                Cm::Silent => None,
                Cm::Refuses(status_code) => Some(EndpointTokenCreateResponse {
                    status_code,
                    reason_phrase: Some("no".to_owned()),
                    ..response
                }),
                Cm::Makes => {
                    let number = made.fetch_add(1, Ordering::Relaxed);
                    let token = request.token.unwrap_or_else(|| Secret::from(format!("token{number}")));
                    Some(EndpointTokenCreateResponse {
                        token_id: Some(format!("id{number}")),
                        token: Some(token),
                        status: Some("Inactive".to_owned()),
                        status_code: 201,
                        ..response
                    })
                }
            }
        });
        let responder = responder.await;
        Self { will, asked, _responder: responder }
    }

    fn now(&self, will: Cm) {
        *self.will.lock().unwrap() = will;
    }
}

fn with_id(endpoint_id: &str) -> Value {
    json!({"appVersion": {"name": "app-v1"}, "endpointId": endpoint_id})
}
