//! What is kept, across restarts, and what is not.

use std::panic::AssertUnwindSafe;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, STANDARD_NO_PAD};
use futures::FutureExt as _;
use rustls::pki_types::PrivatePkcs8KeyDer;
use rustls::pki_types::pem::PemObject as _;
use serde_json::json;
use sqlx::{AssertSqlSafe, Connection as _, PgConnection};
use testbed::ACME;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::certificates::issue;
use crate::{AUTHORITIES, BASIC, KEY, log_in, show_issued, start, text};

#[tokio::test]
async fn the_database_knows_no_password_and_no_private_key() {
    let bed = start(&[]).await;
    let rest = bed.rest(ACME);
    let generated = text(&rest.post(BASIC, &json!({"username": "g"})).await.expect(201)["password"]);
    let chosen = "a-very-recognisable-password";
    rest.post(BASIC, &json!({"username": "c", "password": chosen})).await.expect(201);
    let private_key = text(&issue(&rest, "device").await["privateKey"]);
    let private_key = PrivatePkcs8KeyDer::from_pem_slice(private_key.as_bytes()).unwrap();
    let private_key = private_key.secret_pkcs8_der();

    let mut secrets = vec![];
    for secret in [generated.as_bytes(), chosen.as_bytes(), KEY.as_bytes(), &private_key[36..68]] {
        let hex: String = secret.iter().map(|byte| format!("{byte:02x}")).collect();
        secrets.extend([hex, STANDARD.encode(secret), STANDARD_NO_PAD.encode(secret)]);
    }
    secrets.extend([generated.clone(), chosen.to_owned(), KEY.to_owned(), "PRIVATE KEY".to_owned()]);
    // The beginning of every private key of an authority in the clear: PKCS#8 with an elliptic curve.
    secrets.push("301306072a8648ce3d020106082a8648ce3d030107046d".to_owned());

    let mut connection = PgConnection::connect(&bed.database.url).await.unwrap();
    let tables: Vec<String> = sqlx::query_scalar(
        "SELECT table_name::text FROM information_schema.tables WHERE table_schema = 'ccm'",
    )
    .fetch_all(&mut connection)
    .await
    .unwrap();
    assert!(tables.len() >= 6, "{tables:?}");
    let mut rows = 0;
    for table in tables {
        let sql = format!("SELECT to_jsonb(one)::text FROM ccm.{table} AS one");
        let all: Vec<String> =
            sqlx::query_scalar(AssertSqlSafe(sql)).fetch_all(&mut connection).await.unwrap();
        rows += all.len();
        for row in all {
            for secret in &secrets {
                assert!(!row.contains(secret.as_str()), "{table}: {secret} in {row}");
            }
        }
    }
    assert!(rows >= 6, "{rows}");
    bed.stop().await;
}

#[tokio::test]
async fn a_restart_keeps_authorities_and_credentials() {
    let database = testkit::database().await;
    let settings = [("postgres.url", database.url.as_str())];
    let bed = start(&settings).await;
    let rest = bed.rest(ACME);
    let password = text(&rest.post(BASIC, &json!({"username": "u"})).await.expect(201)["password"]);
    rest.post(BASIC, &json!({"username": "c", "password": "correct horse"})).await.expect(201);
    let before = issue(&rest, "before").await;
    bed.stop().await;

    let bed = start(&settings).await;
    let rest = bed.rest(ACME);
    let after = issue(&rest, "after").await;
    assert_eq!(after["issuer"], before["issuer"]);
    let tail = |issued: &serde_json::Value| {
        let chain = text(&issued["certificateChain"]);
        chain.strip_prefix(issued["certificate"].as_str().unwrap()).unwrap().to_owned()
    };
    assert_eq!(tail(&after), tail(&before));
    assert_eq!(show_issued(&bed, &before).await.status_code, 200);
    assert_eq!(log_in(&bed, "u", &password).await.status_code, 200);
    assert_eq!(log_in(&bed, "c", "correct horse").await.status_code, 200);
    bed.stop().await;
}

#[tokio::test]
async fn replicas_that_start_at_once_make_one_root() {
    let database = testkit::database().await;
    let settings = [("postgres.url", database.url.as_str())];
    let (first, second) = tokio::join!(start(&settings), start(&settings));
    let (a, b) = (issue(&first.rest(ACME), "a").await, issue(&second.rest(ACME), "b").await);
    assert_eq!(a["issuer"], b["issuer"]);
    let root = |issued: &serde_json::Value| {
        let chain = text(&issued["certificateChain"]);
        chain.rsplit("-----BEGIN CERTIFICATE-----").next().unwrap().to_owned()
    };
    assert_eq!(root(&a), root(&b));
    first.stop().await;
    second.stop().await;
}

#[tokio::test]
async fn with_another_key_the_service_does_not_start() {
    let database = testkit::database().await;
    start(&[("postgres.url", &database.url)]).await.stop().await;
    let other = "ff".repeat(32);
    let settings = [("postgres.url", database.url.as_str()), ("ccm.key_encryption_key", &other)];
    let started = AssertUnwindSafe(start(&settings)).catch_unwind().await;
    let panic = started.err().unwrap();
    let message = panic.downcast_ref::<String>().unwrap();
    assert!(message.contains("ccm.key_encryption_key is not the one"), "{message}");
    assert!(!message.contains("ffff"), "{message}");
}

#[tokio::test]
async fn times_of_last_use_survive_an_orderly_stop() {
    let database = testkit::database().await;
    let settings = [("postgres.url", database.url.as_str())];
    let bed = start(&settings).await;
    let rest = bed.rest(ACME);
    let made = rest.post(BASIC, &json!({"username": "u"})).await.expect(201);
    let (path, password) = (format!("{BASIC}/{}", text(&made["id"])), text(&made["password"]));
    log_in(&bed, "u", &password).await;
    // As if the last use were long ago.
    let sql = "UPDATE ccm.basic_credentials SET last_use_at = now() - interval '1 hour' RETURNING last_use_at::text";
    let long_ago: String = crate::scalar_of(&database, sql).await;
    log_in(&bed, "u", &password).await;
    bed.stop().await;
    let bed = start(&settings).await;
    let used = text(&bed.rest(ACME).get(&path).await.expect(200)["lastUseDate"]);
    assert!(used.replace('T', " ") > long_ago, "{used} {long_ago}");
    bed.stop().await;
}

/// The body of an answer that is no JSON.
async fn get_text(address: &str, path: &str, key: Option<&str>) -> (String, String) {
    let mut stream = TcpStream::connect(address).await.unwrap();
    let key = key.map_or_else(String::new, |key| format!("x-iamcore-api-key: {key}\r\n"));
    let request = format!("GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n{key}\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    let reading = stream.read_to_string(&mut answer);
    tokio::time::timeout(Duration::from_secs(20), reading).await.unwrap().unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    (head.to_owned(), body.to_owned())
}

#[tokio::test]
async fn certificates_of_authorities_are_downloaded_as_pem() {
    let port = testkit::Port::reserve();
    let listen = format!("127.0.0.1:{}", port.number());
    let bed = start(&[("http.listen", &listen)]).await;
    let rest = bed.rest(ACME);
    let issued = issue(&rest, "device").await;
    let chain = text(&issued["certificateChain"]);
    let id = text(&rest.get(AUTHORITIES).await.expect(200)[0]["id"]);
    for which in [id.as_str(), "own"] {
        let path = format!("{AUTHORITIES}/{which}/certificate");
        let (head, body) = get_text(&listen, &path, Some(ACME.api_key)).await;
        assert!(head.contains("application/x-pem-file"), "{head}");
        assert_eq!(chain, text(&issued["certificate"]) + &body);
        assert!(get_text(&listen, &path, None).await.0.starts_with("HTTP/1.1 401"));
    }
    // The root is for everybody.
    let (head, root) = get_text(&listen, "/ccm/api/v1/certificates/root", None).await;
    assert!(head.starts_with("HTTP/1.1 200") && chain.ends_with(&root), "{head}");
    assert_eq!(root.matches("BEGIN CERTIFICATE").count(), 1);
    bed.stop().await;
}
