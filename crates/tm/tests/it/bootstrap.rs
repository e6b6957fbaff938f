//! What the first start makes.

use serde_json::json;

use crate::bed::{Bed, PLATFORM, PLATFORM_KEY, ROOT_PASSWORD, text};

#[tokio::test]
async fn a_second_start_changes_nothing() {
    let bed = Bed::start().await;
    let root = bed.logged_in(PLATFORM, "root", ROOT_PASSWORD).await;
    assert_eq!(root.get("/tm/api/v1/me").await.expect(200)["platformAdministrator"], true);
    let change = json!({"currentPassword": ROOT_PASSWORD, "newPassword": "changed-by-root"});
    root.put("/tm/api/v1/me/password", &change).await.expect(204);
    let root = bed.logged_in(PLATFORM, "root", "changed-by-root").await;
    let key = &root.get("/tm/api/v1/api-keys").await.expect(200)["content"][0];
    assert_eq!((&key["name"], &key["createdBy"]), (&json!("bootstrap"), &json!("configuration")));
    root.delete(&format!("/tm/api/v1/api-keys/{}", text(&key["id"]))).await.expect(204);

    let again = Bed::start_with(&[("postgres.url", &bed.testbed.database.url)]).await;
    again.try_login(PLATFORM, "root", ROOT_PASSWORD).await.refused(401);
    again.login(PLATFORM, "root", "changed-by-root").await;
    again.with(PLATFORM_KEY).get("/tm/api/v1/me").await.refused(401);
    // A token of before: the keys were kept.
    again.with(root.credential()).get("/tm/api/v1/me").await.expect(200);
}
