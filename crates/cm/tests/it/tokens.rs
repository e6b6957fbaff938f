//! Tokens over REST, and what the database knows of them.

use serde_json::json;
use sqlx::{Connection as _, PgConnection};
use testbed::{ACME, OTHER};

use axum::http::Method;

use crate::{creation, start, text, tokens_of};

#[tokio::test]
async fn an_endpoint_gets_further_tokens_whose_text_is_told_once() {
    let bed = start(&[]).await;
    let rest = bed.rest(ACME);
    let (app, id) = ("app", "e-1");
    bed.endpoint(id, app, Some("first")).await;
    let made = rest.post(&tokens_of(id), &json!({"applicationName": app, "token": "sécond"})).await;
    let location = made.location.clone().unwrap();
    let made = made.expect(201);
    assert_eq!(
        (&made["token"], &made["status"], &made["applicationName"]),
        (&json!("sécond"), &json!("Inactive"), &json!(app))
    );
    assert_eq!(location, format!("{}/{}", tokens_of(id), text(&made["endpointTokenId"])));
    let one = rest.get(&location).await.expect(200);
    assert_eq!((one.get("token"), &one["createdDate"]), (None, &made["createdDate"]));
    let generated =
        text(&rest.post(&tokens_of(id), &json!({"applicationName": app})).await.expect(201)["token"]);
    assert!(
        generated.len() == 24 && generated.bytes().all(|byte| byte.is_ascii_alphanumeric()),
        "{generated}"
    );
    let list = rest.get(&tokens_of(id)).await.expect(200);
    assert_eq!(list["totalElements"], 3);
    assert!(!list.to_string().contains("sécond"));
    bed.stop().await;
}

#[tokio::test]
async fn lists_are_filtered_ordered_and_paged() {
    let bed = start(&[]).await;
    let rest = bed.rest(ACME);
    let (app, id) = ("app", "e-1");
    bed.endpoint(id, app, None).await;
    for _ in 0..3 {
        rest.post(&tokens_of(id), &json!({"applicationName": app})).await.expect(201);
    }
    let ids = async |query: &str| {
        let list = rest.get(&format!("{}{query}", tokens_of(id))).await.expect(200);
        let content = list["content"].as_array().unwrap().iter().map(|token| text(&token["endpointTokenId"]));
        (list["totalElements"].as_i64().unwrap(), content.collect::<Vec<_>>())
    };
    let (total, newest_first) = ids("").await;
    let mut oldest_first = newest_first.clone();
    oldest_first.reverse();
    assert_eq!((total, newest_first.len()), (4, 4));
    assert_eq!(ids("?order=ASC").await, (4, oldest_first.clone()));
    assert_eq!(
        ids("?order=ASC&offset=1&limit=2&status=Inactive,Active").await,
        (4, oldest_first[1..3].to_vec())
    );
    assert_eq!(ids("?status=Active&status=Revoked").await, (0, vec![]));
    for query in ["?status=active", "?order=down", "?limit=0", "?offset=x"] {
        rest.get(&format!("{}{query}", tokens_of(id))).await.refused(400);
    }
    bed.stop().await;
}

#[tokio::test]
async fn a_token_belongs_to_one_endpoint_of_an_application() {
    let bed = start(&[]).await;
    let rest = bed.rest(ACME);
    bed.endpoint("e-1", "app", Some("same")).await;
    bed.register("e-2", "app");
    assert_eq!(bed.create(&creation("app", "e-2", Some("same"))).await.status_code, 409);
    // Over REST also the endpoint's own token is taken: who asks twice has told nobody the first.
    for id in ["e-1", "e-2"] {
        let message =
            rest.post(&tokens_of(id), &json!({"applicationName": "app", "token": "same"})).await.refused(409);
        assert!(message.contains("taken"), "{message}");
    }
    bed.endpoint("e-3", "app2", Some("same")).await;
    let elsewhere = rest.post(&tokens_of("e-1"), &json!({"applicationName": "app2"})).await.refused(404);
    assert!(elsewhere.contains("application app,"), "{elsewhere}");
    bed.stop().await;
}

#[tokio::test]
async fn another_tenant_finds_nothing() {
    let bed = start(&[]).await;
    let rest = bed.rest(ACME);
    let (app, id) = ("app", "e-1");
    bed.endpoint(id, app, None).await;
    let token_id = text(&rest.get(&tokens_of(id)).await.expect(200)["content"][0]["endpointTokenId"]);
    let other = bed.rest(OTHER);
    other.get(&tokens_of(id)).await.refused(404);
    other.get(&format!("{}/{token_id}", tokens_of(id))).await.refused(404);
    other.post(&tokens_of(id), &json!({"applicationName": app})).await.refused(404);
    other.delete(&format!("{}/{token_id}", tokens_of(id))).await.refused(404);
    let status = format!("{}/{token_id}/status", tokens_of(id));
    other.put(&status, &json!({"status": "Revoked"})).await.refused(404);
    bed.stop().await;
}

#[tokio::test]
async fn bad_input_is_refused_with_the_reason() {
    let bed = start(&[("cm.tokens_per_endpoint_max", "1")]).await;
    let rest = bed.rest(ACME);
    let (app, id) = ("app", "e-1");
    bed.endpoint(id, app, None).await;
    for body in [
        json!({}),
        json!({"applicationName": "A"}),
        json!({"applicationName": app, "token": "a/b"}),
        json!({"applicationName": app, "token": ""}),
    ] {
        rest.post(&tokens_of(id), &body).await.refused(400);
    }
    rest.get(&tokens_of("no-such")).await.refused(404);
    rest.get(&format!("{}/no-uuid", tokens_of(id))).await.refused(404);
    rest.get(&format!("{}/a%20b", tokens_of(id))).await.refused(400);
    let message = rest.post(&tokens_of(id), &json!({"applicationName": app})).await.refused(429);
    assert!(message.contains("cm.tokens_per_endpoint_max"), "{message}");
    bed.stop().await;
}

#[tokio::test]
async fn the_database_does_not_know_the_tokens() {
    let bed = start(&[]).await;
    let wish = "a-very-recognisable-token";
    let (token_id, _) = bed.endpoint("e-1", "app", Some(wish)).await;
    let (_, generated) = bed.endpoint("e-2", "app", None).await;
    let status = format!("{}/{token_id}/status", tokens_of("e-1"));
    bed.rest(ACME).put(&status, &json!({"status": "Suspended"})).await.expect(200);
    let mut connection = PgConnection::connect(&bed.database.url).await.unwrap();
    let rows: Vec<String> = sqlx::query_scalar(
        "SELECT to_jsonb(token)::text FROM cm.tokens AS token
         UNION ALL SELECT to_jsonb(revocation)::text FROM cm.revocations AS revocation",
    )
    .fetch_all(&mut connection)
    .await
    .unwrap();
    assert!(rows.len() >= 2, "{rows:?}");
    let hex = |text: &str| text.bytes().map(|byte| format!("{byte:02x}")).collect::<String>();
    for row in rows {
        for token in [wish, &generated] {
            assert!(!row.contains(token) && !row.contains(&hex(token)), "{row}");
        }
    }
    bed.stop().await;
}

#[tokio::test]
async fn a_list_that_is_known_is_not_sent_again() {
    let bed = start(&[]).await;
    let rest = bed.rest(ACME);
    let (token_id, _) = bed.endpoint("e-1", "app", None).await;
    let path = tokens_of("e-1");
    let first = rest.get(&path).await;
    let tag = first.etag.clone().unwrap();
    let get = async |tag: &str| {
        let answer = rest.call_with(Method::GET, &path, &[("if-none-match", tag)], None).await;
        (answer.status, answer.etag.unwrap())
    };
    assert_eq!(get(&tag).await, (304, tag.clone()));
    rest.put(&format!("{path}/{token_id}/status"), &json!({"status": "Suspended"})).await.expect(200);
    let (status, newer) = get(&tag).await;
    assert!(status == 200 && newer != tag);
    assert_eq!(get(&format!("{tag}, {newer}")).await.0, 304);
    bed.stop().await;
}

#[tokio::test]
async fn the_interface_describes_itself() {
    let bed = start(&[]).await;
    let document = bed.rest(ACME).get("/cm/api/v1/openapi.json").await.expect(200);
    let tokens = &document["paths"]["/cm/api/v1/endpoints/{endpointId}/tokens"]["post"];
    assert!(tokens["requestBody"]["content"]["application/json"].is_object(), "{tokens}");
    bed.stop().await;
}
