//! Client credentials on real NATS and PostgreSQL.
#![expect(clippy::unwrap_used, reason = "in a test a panic is the report")]

mod authorities;
mod basic;
mod certificates;
mod events;
mod handshake;
mod secrets;
mod tenants;

use ccm::Ccm;
use ids::InstanceName;
use ism::Secret;
use ism::cap::{
    BASIC_REQUEST, CERTIFICATE_REQUEST, ClientBasicAuthenticationRequest, ClientBasicAuthenticationResponse,
    ClientCertificateAuthenticationRequest, ClientCertificateAuthenticationResponse,
};
use serde_json::{Value, json};
use sqlx::{AssertSqlSafe, Connection as _, PgConnection};
use testbed::{ACME, Rest, Testbed};

const KEY: &str = "c0ffee00c0ffee00c0ffee00c0ffee00c0ffee00c0ffee00c0ffee00c0ffee00";
const BASIC: &str = "/ccm/api/v1/basic-credentials";
const X509: &str = "/ccm/api/v1/x509-credentials";
const AUTHORITIES: &str = "/ccm/api/v1/x509-credentials/authorities";

async fn start(settings: &[(&str, &str)]) -> Testbed {
    let mut all = vec![
        ("ccm.key_encryption_key", KEY),
        // Tests need no strong hashes.
        ("ccm.argon2_memory_kib", "64"),
        ("ccm.argon2_passes", "1"),
    ];
    all.extend(settings);
    Testbed::start(&[runtime::entry::<Ccm>()], &all).await
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or_else(|| panic!("no text: {value}")).to_owned()
}

fn instance() -> InstanceName {
    InstanceName::parse("ccm").unwrap()
}

async fn log_in(bed: &Testbed, username: &str, password: &str) -> ClientBasicAuthenticationResponse {
    log_in_at(bed, ACME.id, username, password).await
}

async fn log_in_at(
    bed: &Testbed,
    tenant: &str,
    username: &str,
    password: &str,
) -> ClientBasicAuthenticationResponse {
    let request = ClientBasicAuthenticationRequest {
        correlation_id: "c".to_owned(),
        timestamp: runtime::now_ms(),
        timeout: 10_000,
        tenant_id: tenant.to_owned(),
        username: username.to_owned(),
        password: Secret::from(password),
    };
    bed.ask(BASIC_REQUEST.service(&instance()), &request).await
}

async fn show(bed: &Testbed, issuer: &str, serial_number: &str) -> ClientCertificateAuthenticationResponse {
    let request = ClientCertificateAuthenticationRequest {
        correlation_id: "c".to_owned(),
        timestamp: runtime::now_ms(),
        timeout: 10_000,
        issuer: issuer.to_owned(),
        serial_number: serial_number.to_owned(),
    };
    bed.ask(CERTIFICATE_REQUEST.service(&instance()), &request).await
}

/// Shows a certificate that was issued.
async fn show_issued(bed: &Testbed, issued: &Value) -> ClientCertificateAuthenticationResponse {
    show(bed, &text(&issued["issuer"]), &text(&issued["serialNumber"])).await
}

async fn set_state(rest: &Rest, list: &str, id: &str, state: &str) -> Value {
    rest.put(&format!("{list}/{id}/state"), &json!({"state": state})).await.expect(200)
}

/// One value out of the database.
async fn scalar<T>(bed: &Testbed, sql: &str) -> T
where
    T: for<'r> sqlx::Decode<'r, sqlx::Postgres> + sqlx::Type<sqlx::Postgres> + Send + Unpin,
{
    scalar_of(&bed.database, sql).await
}

/// One value out of a database that several starts share.
async fn scalar_of<T>(database: &testkit::Database, sql: &str) -> T
where
    T: for<'r> sqlx::Decode<'r, sqlx::Postgres> + sqlx::Type<sqlx::Postgres> + Send + Unpin,
{
    let mut connection = PgConnection::connect(&database.url).await.unwrap();
    sqlx::query_scalar(AssertSqlSafe(sql.to_owned())).fetch_one(&mut connection).await.unwrap()
}
