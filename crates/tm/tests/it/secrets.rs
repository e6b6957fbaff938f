//! No secret lies in any table in the clear.

use serde_json::json;
use sqlx::{Connection as _, PgConnection};

use crate::bed::{ADA_PASSWORD, Bed, PLATFORM_KEY, ROOT_PASSWORD, text};

#[tokio::test]
async fn no_secret_is_stored_in_the_clear() {
    let bed = Bed::start().await;
    let admin = bed.tenant("acme").await;
    let tokens = bed.login("acme", "ada", ADA_PASSWORD).await;
    let key = admin.post("/tm/api/v1/api-keys", &json!({"name": "k", "role": "viewer"})).await.expect(201);
    bed.platform().post("/tm/api/v1/signing-keys", &json!({})).await.expect(201);
    let (key, access) = (text(&key["key"]), text(&tokens["access_token"]));
    let secret = key.rsplit('_').next().unwrap().to_owned();
    let secrets = [
        ADA_PASSWORD.to_owned(),
        ROOT_PASSWORD.to_owned(),
        PLATFORM_KEY.to_owned(),
        key,
        secret,
        text(&tokens["refresh_token"]),
        access.rsplit('.').next().unwrap().to_owned(),
    ];

    let mut database = PgConnection::connect(&bed.testbed.database.url).await.unwrap();
    let tables: Vec<String> = sqlx::query_scalar(
        "SELECT table_name::text FROM information_schema.tables WHERE table_schema = 'tm'",
    )
    .fetch_all(&mut database)
    .await
    .unwrap();
    assert!(tables.len() > 8, "{tables:?}");
    let mut rows = 0;
    for table in tables {
        let select = sqlx::AssertSqlSafe(format!("SELECT t::text FROM tm.{table} t"));
        let texts: Vec<String> = sqlx::query_scalar(select).fetch_all(&mut database).await.unwrap();
        rows += texts.len();
        for text in texts {
            for secret in &secrets {
                let hex: String = secret.bytes().map(|byte| format!("{byte:02x}")).collect();
                assert!(!text.contains(secret.as_str()) && !text.contains(&hex), "{table}: {text}");
            }
        }
    }
    assert!(rows > 10, "{rows}");
    // A PKCS #8 key for P-256 holds the name of its algorithm; an encrypted one does not.
    let name_of_algorithm = "2a8648ce3d0201";
    let keys: Vec<String> = sqlx::query_scalar("SELECT encode(private_key, 'hex') FROM tm.signing_keys")
        .fetch_all(&mut database)
        .await
        .unwrap();
    assert_eq!(keys.len(), 2);
    assert!(keys.iter().all(|key| !key.contains(name_of_algorithm)));
}
