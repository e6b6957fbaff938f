//! The endpoint register on real NATS and PostgreSQL; the test plays `tekton` and `cm`.
#![expect(clippy::unwrap_used, reason = "in a test a panic is the report")]

mod batch;
mod deletion;
mod endpoints;
mod epmmp;
mod filters;
mod grants;
mod metadata;
mod registration;
mod relations;
mod versions;

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use epr::Epr;
use ids::InstanceName;
use ism::Secret;
use ism::config::{CONFIGURATION_REQUEST, ConfigurationRequest, ConfigurationResponse};
use ism::tokens::{
    CREATE_REQUEST, DELETE_REQUEST, EndpointTokenCreateRequest, EndpointTokenCreateResponse,
    EndpointTokensDeleteRequest, EndpointTokensDeleteResponse,
};
use serde_json::{Value, json};
use sqlx::{Connection as _, PgConnection};
use testbed::{ACME, OTHER, Responder, Testbed};

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
    let tekton = play_tekton(&bed, None).await;
    (bed, tekton)
}

/// A `tekton`, in which one application may be missing.
async fn play_tekton(bed: &Testbed, gone: Option<&'static str>) -> Responder {
    let subject = CONFIGURATION_REQUEST.service(&InstanceName::parse("tekton").unwrap());
    Responder::start(&bed.client, subject, move |request: ConfigurationRequest| {
        let found = match (&request.app_version_name, &request.app_name) {
            (Some(version), _) => owner(version),
            (None, Some(application)) => owner(&format!("{application}-v1")),
            (None, None) => None,
        };
        let found = found.filter(|(_, application)| Some(*application) != gone);
        Some(ConfigurationResponse {
            tenant_id: found.map(|(tenant, _)| tenant.to_owned()),
            app_name: found.map(|(_, application)| application.to_owned()),
            status_code: if found.is_some() { 200 } else { 404 },
            ..ConfigurationResponse::default()
        })
    })
    .await
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
    deleted: Arc<Mutex<Vec<EndpointTokensDeleteRequest>>>,
    _responders: [Responder; 2],
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
        let deleted = Arc::<Mutex<Vec<EndpointTokensDeleteRequest>>>::default();
        let (told, heard) = (will.clone(), deleted.clone());
        let subject = DELETE_REQUEST.service(&InstanceName::parse("cm").unwrap());
        let deleter = Responder::start(&bed.client, subject, move |request: EndpointTokensDeleteRequest| {
            heard.lock().unwrap().push(request.clone());
            let status_code = match *told.lock().unwrap() {
                Cm::Silent => return None,
                Cm::Refuses(status_code) => status_code,
                Cm::Makes => 200,
            };
            let correlation_id = request.correlation_id;
            Some(EndpointTokensDeleteResponse {
                correlation_id,
                status_code,
                ..EndpointTokensDeleteResponse::default()
            })
        });
        let (responder, deleter) = tokio::join!(responder, deleter);
        Self { will, asked, deleted, _responders: [responder, deleter] }
    }

    fn now(&self, will: Cm) {
        *self.will.lock().unwrap() = will;
    }
}

/// Registers an endpoint of the first tenant, or of the second for its version.
async fn register(bed: &Testbed, version: &str, endpoint_id: &str, metadata: Value) {
    let tenant = if version.starts_with("foreign") { OTHER } else { ACME };
    let body = json!({"appVersion": {"name": version}, "endpointId": endpoint_id, "metadata": metadata});
    bed.rest(tenant).post(ENDPOINTS, &body).await.expect(201);
}

/// The ids in a list, in its order.
fn ids(list: &Value) -> Vec<&str> {
    list["content"]
        .as_array()
        .unwrap()
        .iter()
        .map(|endpoint| endpoint["endpointId"].as_str().unwrap())
        .collect()
}

async fn connect(bed: &Testbed) -> PgConnection {
    PgConnection::connect(&bed.database.url).await.unwrap()
}

/// Executes a statement as the owner of the database.
async fn execute(bed: &Testbed, statement: &'static str) -> u64 {
    sqlx::query(statement).execute(&mut connect(bed).await).await.unwrap().rows_affected()
}

/// A number out of the database.
async fn number(bed: &Testbed, statement: &'static str) -> i64 {
    sqlx::query_scalar(statement).fetch_one(&mut connect(bed).await).await.unwrap()
}

fn with_id(endpoint_id: &str) -> Value {
    json!({"appVersion": {"name": "app-v1"}, "endpointId": endpoint_id})
}
