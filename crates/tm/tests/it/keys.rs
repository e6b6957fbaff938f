//! The keys that sign tokens.

use serde_json::json;

use crate::bed::{ADA_PASSWORD, Bed};

#[tokio::test]
async fn a_new_key_signs_and_the_old_one_still_verifies() {
    let bed = Bed::start().await;
    let before = bed.tenant("acme").await;
    let kid = |token: &str| jsonwebtoken::decode_header(token).unwrap().kid.unwrap();
    let keys = bed.platform().post("/tm/api/v1/signing-keys", &json!({})).await.expect(201);
    assert_eq!(keys.as_array().unwrap().len(), 2, "{keys}");
    assert!(keys[0]["retiresAt"].is_null() && keys[1]["retiresAt"].is_string(), "{keys}");
    assert_eq!(keys[1]["kid"], kid(before.credential()));
    let after = bed.logged_in("acme", "ada", ADA_PASSWORD).await;
    assert_eq!(keys[0]["kid"], kid(after.credential()));
    for caller in [&before, &after] {
        caller.get("/tm/api/v1/me").await.expect(200);
    }
    let public = bed.nobody().get("/tm/api/v1/jwks").await.expect(200);
    assert_eq!(public["keys"].as_array().unwrap().len(), 2);
    // A tenant's administrator has nothing to say here.
    after.post("/tm/api/v1/signing-keys", &json!({})).await.refused(403);
    after.get("/tm/api/v1/signing-keys").await.refused(403);
}
