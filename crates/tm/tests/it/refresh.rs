//! Refresh tokens: each is good for one use, and one that is shown twice ends the session.

use serde_json::{Value, json};

use crate::bed::{ADA_PASSWORD, Answer, Bed, text};

async fn refresh(bed: &Bed, realm: &str, token: &str) -> Answer {
    let fields = [("grant_type", "refresh_token"), ("refresh_token", token)];
    bed.nobody().form(realm, "token", &fields).await
}

fn token(tokens: &Value) -> String {
    text(&tokens["refresh_token"])
}

#[tokio::test]
async fn a_token_is_good_for_one_use() {
    let bed = Bed::start().await;
    bed.tenant("acme").await;
    bed.tenant("other").await;
    let first = token(&bed.login("acme", "ada", ADA_PASSWORD).await);
    refresh(&bed, "other", &first).await.expect(400);
    let tokens = refresh(&bed, "acme", &first).await.expect(200);
    bed.with(&text(&tokens["access_token"])).get("/tm/api/v1/me").await.expect(200);
    let second = token(&tokens);
    assert_ne!(first, second);
    let third = token(&refresh(&bed, "acme", &second).await.expect(200));

    // Whoever shows a used one may have stolen it: nobody goes on with that session.
    assert_eq!(refresh(&bed, "acme", &first).await.expect(400)["error"], "invalid_grant");
    refresh(&bed, "acme", &third).await.expect(400);
    refresh(&bed, "acme", "guess").await.expect(400);
}

#[tokio::test]
async fn of_two_at_once_one_wins() {
    let bed = Bed::start().await;
    bed.tenant("acme").await;
    let first = token(&bed.login("acme", "ada", ADA_PASSWORD).await);
    let answers = futures::future::join_all((0..5).map(|_| refresh(&bed, "acme", &first))).await;
    let won: Vec<&Answer> = answers.iter().filter(|answer| answer.status == 200).collect();
    assert_eq!(won.len(), 1, "{answers:?}");
    refresh(&bed, "acme", &token(&won[0].body)).await.expect(400);
}

#[tokio::test]
async fn a_logout_ends_the_session_and_no_other() {
    let bed = Bed::start().await;
    bed.tenant("acme").await;
    let (one, two, three) = tokio::join!(
        bed.login("acme", "ada", ADA_PASSWORD),
        bed.login("acme", "ada", ADA_PASSWORD),
        bed.login("acme", "ada", ADA_PASSWORD),
    );
    bed.nobody().form("acme", "logout", &[("refresh_token", &token(&one))]).await.expect(204);
    bed.nobody().post("/tm/api/v1/logout", &json!({"refreshToken": token(&two)})).await.expect(204);
    bed.nobody().post("/tm/api/v1/logout", &json!({"refreshToken": token(&two)})).await.expect(204);
    refresh(&bed, "acme", &token(&one)).await.expect(400);
    refresh(&bed, "acme", &token(&two)).await.expect(400);
    refresh(&bed, "acme", &token(&three)).await.expect(200);
}

#[tokio::test]
async fn sessions_are_bounded_and_end_with_the_user() {
    let bed = Bed::start_with(&[("tm.sessions_per_user_max", "2")]).await;
    let admin = bed.tenant("acme").await;
    let bob = json!({"username": "bob", "password": "password-of-bob", "role": "viewer"});
    let id = admin.user(bob).await;
    let mut sessions = Vec::new();
    for _ in 0..3 {
        sessions.push(token(&bed.login("acme", "bob", "password-of-bob").await));
    }
    refresh(&bed, "acme", &sessions[0]).await.expect(400);
    let next = token(&refresh(&bed, "acme", &sessions[1]).await.expect(200));
    admin.put(&format!("/api/v2/users/{id}"), &json!({"enabled": false})).await.expect(200);
    refresh(&bed, "acme", &next).await.expect(400);
    admin.put(&format!("/api/v2/users/{id}"), &json!({"enabled": true})).await.expect(200);
    refresh(&bed, "acme", &sessions[2]).await.expect(400);
}

#[tokio::test]
async fn a_login_that_races_with_a_new_password_leaves_nothing_behind() {
    let bed = Bed::start_with(&[("tm.password_checks_max", "8")]).await;
    let admin = bed.tenant("acme").await;
    let id = admin.user(json!({"username": "bob", "password": "password-0", "role": "viewer"})).await;
    let path = format!("/api/v2/users/{id}/password");
    for round in 0..20 {
        let old = format!("password-{round}");
        let logins = futures::future::join_all((0..4).map(|_| bed.try_login("acme", "bob", &old)));
        let new = json!({"newPassword": format!("password-{}", round + 1)});
        let (logins, changed) = tokio::join!(logins, admin.put(&path, &new));
        changed.expect(204);
        for login in logins.into_iter().filter(|login| login.status == 200) {
            refresh(&bed, "acme", &token(&login.body)).await.expect(400);
            bed.with(&text(&login.body["access_token"])).get("/tm/api/v1/me").await.expect(401);
        }
    }
}
