//! User names and passwords.

use serde_json::{Value, json};
use testbed::ACME;

use crate::{BASIC, log_in, log_in_at, set_state, start, text};

fn status(answer: &ism::cap::ClientBasicAuthenticationResponse) -> i32 {
    answer.status_code
}

#[tokio::test]
async fn a_client_logs_in_with_a_generated_password() {
    let bed = start(&[]).await;
    let rest = bed.rest(ACME);
    let made = rest.post(BASIC, &json!({"username": "boiler"})).await;
    let location = made.location.clone().unwrap();
    let made = made.expect(201);
    let (id, password) = (text(&made["id"]), text(&made["password"]));
    assert_eq!(
        (&made["username"], &made["login"], &made["state"]),
        (&json!("boiler"), &json!("boiler@acme"), &json!("Inactive"))
    );
    assert!(password.len() == 32 && location.ends_with(&id));
    let kept = rest.get(&location).await.expect(200);
    assert_eq!(
        (kept.get("password"), kept.get("lastUseDate"), &kept["state"]),
        (None, None, &json!("Inactive"))
    );

    for _ in 0..2 {
        let answer = log_in(&bed, "boiler", &password).await;
        assert_eq!((status(&answer), answer.credentials_id.as_deref()), (200, Some(id.as_str())));
        assert_eq!(answer.client_id, answer.credentials_id);
    }
    let used = rest.get(&location).await.expect(200);
    assert_eq!(used["state"], "Active");
    assert!(used["lastUseDate"].is_string() && used["updatedDate"].as_str() > used["createdDate"].as_str());
    bed.stop().await;
}

#[tokio::test]
async fn a_chosen_password_works_and_nothing_tells_which_names_exist() {
    let bed = start(&[("ccm.login_failures_max", "1000")]).await;
    let rest = bed.rest(ACME);
    let body = json!({"username": "ünïcode@name", "password": "correct horse"});
    let made = rest.post(BASIC, &body).await.expect(201);
    assert_eq!((made.get("password"), &made["login"]), (None, &json!("ünïcode@name@acme")));
    assert_eq!(status(&log_in(&bed, "ünïcode@name", "correct horse").await), 200);

    let wrong = log_in(&bed, "ünïcode@name", "wrong").await;
    let unknown = log_in(&bed, "nobody", "correct horse").await;
    let elsewhere = log_in_at(&bed, "other", "ünïcode@name", "correct horse").await;
    let nowhere = log_in_at(&bed, "NO TENANT", "ünïcode@name", "correct horse").await;
    let odd = log_in(&bed, "a\0b", "\0").await;
    for answer in [unknown, elsewhere, nowhere, odd] {
        assert_eq!((answer.status_code, &answer.reason_phrase), (401, &wrong.reason_phrase));
        assert_eq!((answer.credentials_id, answer.client_id), (None, None));
    }
    assert_eq!((wrong.status_code, wrong.credentials_id), (401, None));
    bed.stop().await;
}

#[tokio::test]
async fn states_lead_where_they_may() {
    let bed = start(&[]).await;
    let rest = bed.rest(ACME);
    let made = rest.post(BASIC, &json!({"username": "u"})).await.expect(201);
    let (id, password) = (text(&made["id"]), text(&made["password"]));
    let state_path = format!("{BASIC}/{id}/state");
    assert_eq!(set_state(&rest, BASIC, &id, "Suspended").await["state"], "Suspended");
    let refused = log_in(&bed, "u", &password).await;
    assert_eq!(
        (refused.status_code, refused.reason_phrase.as_deref(), refused.credentials_id.as_deref()),
        (403, Some("the credentials are suspended"), Some(id.as_str()))
    );
    // Who does not know the password learns nothing.
    assert_eq!(status(&log_in(&bed, "u", "wrong").await), 401);
    set_state(&rest, BASIC, &id, "Suspended").await;
    set_state(&rest, BASIC, &id, "Active").await;
    assert_eq!(status(&log_in(&bed, "u", &password).await), 200);
    let message = rest.put(&state_path, &json!({"state": "Inactive"})).await.refused(409);
    assert!(message.contains("from Active to Inactive"), "{message}");
    rest.put(&state_path, &json!({"state": "active"})).await.refused(400);
    rest.put(&state_path, &json!({"state": "Active", "more": 1})).await.refused(400);
    set_state(&rest, BASIC, &id, "Revoked").await;
    assert_eq!(
        log_in(&bed, "u", &password).await.reason_phrase.as_deref(),
        Some("the credentials are revoked")
    );
    rest.put(&state_path, &json!({"state": "Active"})).await.refused(409);
    rest.put(&format!("{BASIC}/{id}/password"), &json!({})).await.refused(409);
    assert_eq!(rest.delete(&format!("{BASIC}/{id}")).await.status, 204);
    rest.delete(&format!("{BASIC}/{id}")).await.refused(404);
    assert_eq!(status(&log_in(&bed, "u", &password).await), 401);
    bed.stop().await;
}

#[tokio::test]
async fn a_new_password_replaces_the_old_at_once() {
    let bed = start(&[]).await;
    let rest = bed.rest(ACME);
    let made = rest.post(BASIC, &json!({"username": "u", "password": "correct horse"})).await.expect(201);
    let path = format!("{BASIC}/{}/password", text(&made["id"]));
    assert_eq!(status(&log_in(&bed, "u", "correct horse").await), 200);
    let generated = text(&rest.put(&path, &json!({})).await.expect(200)["password"]);
    assert_eq!(status(&log_in(&bed, "u", "correct horse").await), 401);
    assert_eq!(status(&log_in(&bed, "u", &generated).await), 200);
    let chosen = rest.put(&path, &json!({"password": "battery staple"})).await.expect(200);
    assert_eq!((chosen.get("password"), &chosen["state"]), (None, &json!("Active")));
    assert_eq!(status(&log_in(&bed, "u", &generated).await), 401);
    assert_eq!(status(&log_in(&bed, "u", "battery staple").await), 200);
    rest.put(&path, &json!({"password": "short"})).await.refused(400);
    bed.stop().await;
}

#[tokio::test]
async fn two_replicas_agree_without_an_event() {
    let first = start(&[]).await;
    // A NATS of its own: no event of the first comes here.
    let second = start(&[("postgres.url", &first.database.url)]).await;
    let rest = first.rest(ACME);
    let made = rest.post(BASIC, &json!({"username": "u", "password": "correct horse"})).await.expect(201);
    let id = text(&made["id"]);
    for bed in [&first, &second] {
        assert_eq!(status(&log_in(bed, "u", "correct horse").await), 200);
        assert_eq!(status(&log_in(bed, "u", "correct horse").await), 200);
    }
    rest.put(&format!("{BASIC}/{id}/password"), &json!({"password": "battery staple"})).await.expect(200);
    assert_eq!(status(&log_in(&second, "u", "correct horse").await), 401);
    assert_eq!(status(&log_in(&second, "u", "battery staple").await), 200);
    set_state(&rest, BASIC, &id, "Revoked").await;
    assert_eq!(status(&log_in(&second, "u", "battery staple").await), 403);
    second.stop().await;
    first.stop().await;
}

#[tokio::test]
async fn guessing_is_throttled_and_does_not_lock_the_device_out() {
    let bed = start(&[("ccm.login_failures_max", "2")]).await;
    let rest = bed.rest(ACME);
    let password = text(&rest.post(BASIC, &json!({"username": "u"})).await.expect(201)["password"]);
    for username in ["u", "nobody"] {
        let mut codes = Vec::new();
        for _ in 0..4 {
            codes.push(status(&log_in(&bed, username, "guess").await));
        }
        assert_eq!(codes, [401, 401, 429, 429], "{username}");
    }
    let throttled = log_in(&bed, "u", "guess").await;
    assert!(throttled.reason_phrase.unwrap().contains("try again in"));
    assert_eq!(status(&log_in(&bed, "u", &password).await), 200);
    assert_eq!(status(&log_in(&bed, "u", "guess").await), 401);
    bed.stop().await;
}

#[tokio::test]
async fn a_first_use_never_undoes_a_revocation() {
    let bed = start(&[]).await;
    let rest = bed.rest(ACME);
    let race = async |number: u32| {
        let username = format!("u{number}");
        let made = rest.post(BASIC, &json!({"username": username})).await.expect(201);
        let (id, password) = (text(&made["id"]), text(&made["password"]));
        let (_, answer) =
            tokio::join!(set_state(&rest, BASIC, &id, "Revoked"), log_in(&bed, &username, &password));
        assert!([200, 403].contains(&answer.status_code), "{answer:?}");
        assert_eq!(rest.get(&format!("{BASIC}/{id}")).await.expect(200)["state"], "Revoked");
        assert_eq!(status(&log_in(&bed, &username, &password).await), 403);
    };
    futures::future::join_all((0..30).map(race)).await;
    bed.stop().await;
}

#[tokio::test]
async fn lists_are_arrays_filtered_and_paged() {
    let bed = start(&[]).await;
    let rest = bed.rest(ACME);
    let mut ids = Vec::new();
    for number in 0..4 {
        let body = json!({"username": format!("u{number}")});
        ids.push(text(&rest.post(BASIC, &body).await.expect(201)["id"]));
    }
    set_state(&rest, BASIC, &ids[1], "Suspended").await;
    let listed = async |query: &str| {
        let list = rest.get(&format!("{BASIC}{query}")).await.expect(200);
        list.as_array().unwrap().iter().map(|one: &Value| text(&one["id"])).collect::<Vec<_>>()
    };
    assert_eq!(listed("").await, ids);
    assert_eq!(listed("?offset=1&limit=2").await, ids[1..3]);
    assert_eq!(listed("?state=Suspended").await, [ids[1].clone()]);
    assert_eq!(listed("?state=Active,Revoked").await, Vec::<String>::new());
    for bad in ["?limit=0", "?limit=1001", "?offset=x", "?state=inactive"] {
        rest.get(&format!("{BASIC}{bad}")).await.refused(400);
    }
    bed.stop().await;
}

#[tokio::test]
async fn bad_input_is_refused_with_the_reason() {
    let bed = start(&[("ccm.basic_credentials_max", "2")]).await;
    let rest = bed.rest(ACME);
    for body in [
        json!({}),
        json!({"username": ""}),
        json!({"username": " u"}),
        json!({"username": "x".repeat(129)}),
        json!({"username": "u", "password": "1234567"}),
        json!({"username": "username", "password": "username"}),
        json!({"username": "u", "password": "x".repeat(257)}),
        json!({"username": "u", "passwort": "correct horse"}),
    ] {
        rest.post(BASIC, &body).await.refused(400);
    }
    let id = text(&rest.post(BASIC, &json!({"username": "u"})).await.expect(201)["id"]);
    rest.post(BASIC, &json!({"username": "u"})).await.refused(409);
    rest.post(BASIC, &json!({"username": "v"})).await.expect(201);
    let message = rest.post(BASIC, &json!({"username": "w"})).await.refused(429);
    assert!(message.contains("ccm.basic_credentials_max"), "{message}");
    assert_eq!(rest.delete(&format!("{BASIC}/{id}")).await.status, 204);
    rest.post(BASIC, &json!({"username": "w"})).await.expect(201);
    for path in [format!("{BASIC}/{id}"), format!("{BASIC}/no-uuid")] {
        rest.get(&path).await.refused(404);
    }
    bed.stop().await;
}

#[tokio::test]
async fn the_limit_holds_against_many_at_once() {
    let bed = start(&[("ccm.basic_credentials_max", "5")]).await;
    let rest = bed.rest(ACME);
    let make = async |number: u32| rest.post(BASIC, &json!({"username": format!("u{number}")})).await.status;
    let statuses = futures::future::join_all((0..20).map(make)).await;
    assert_eq!(statuses.iter().filter(|status| **status == 201).count(), 5, "{statuses:?}");
    assert_eq!(statuses.iter().filter(|status| **status == 429).count(), 15, "{statuses:?}");
    bed.stop().await;
}
