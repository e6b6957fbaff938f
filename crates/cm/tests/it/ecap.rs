//! What services are answered.

use ism::ecap::{
    EP_TOKEN_STATUS_TRANSITION_REQUEST, EndpointTokenRevokedEvent, EndpointTokenStatusTransitionRequest,
    EndpointTokenStatusTransitionResponse,
};
use ism::tokens::{CREATE_REQUEST, EndpointTokenCreateRequest};
use ism::{Record as _, Secret};
use serde_json::json;
use testbed::{ACME, Events};

use crate::{REVOKED, Site, creation, instance, start, tokens_of};

async fn transit(bed: &Site, application: &str, token: &str, target: &str) -> (i32, Option<String>) {
    let request = EndpointTokenStatusTransitionRequest {
        correlation_id: "c".to_owned(),
        timestamp: runtime::now_ms(),
        timeout: 10_000,
        app_name: application.to_owned(),
        token: Secret::from(token),
        target_status: target.to_owned(),
    };
    let subject = EP_TOKEN_STATUS_TRANSITION_REQUEST.service(&instance());
    let response: EndpointTokenStatusTransitionResponse = bed.ask(subject, &request).await;
    (response.status_code, response.reason_phrase)
}

async fn status(bed: &Site, endpoint_id: &str) -> String {
    let list = bed.rest(ACME).get(&tokens_of(endpoint_id)).await.expect(200);
    crate::text(&list["content"][0]["status"])
}

#[tokio::test]
async fn a_token_leads_to_its_endpoint_and_becomes_active_by_its_first_use() {
    let bed = start(&[]).await;
    let (app, id) = ("app".to_owned(), "e-1".to_owned());
    let (_, token) = bed.endpoint(&id, &app, None).await;
    assert_eq!(token.len(), 24);
    assert_eq!(status(&bed, &id).await, "Inactive");
    for _ in 0..2 {
        let answer = bed.validate(&app, &token).await;
        assert_eq!((answer.status_code, answer.endpoint_id.as_ref()), (200, Some(&id)), "{answer:?}");
        assert_eq!(answer.correlation_id, "c");
        assert!(answer.token_id.is_some());
        assert_eq!(status(&bed, &id).await, "Active");
    }
    for (app, token) in [(app.as_str(), "unknown"), ("elsewhere", token.as_str())] {
        let answer = bed.validate(app, token).await;
        assert_eq!((answer.status_code, answer.token_id, answer.endpoint_id), (404, None, None));
    }
    assert_eq!(bed.validate(&app, "a.b").await.status_code, 400);
    assert_eq!(bed.validate("A", &token).await.status_code, 400);
    bed.stop().await;
}

#[tokio::test]
async fn a_suspended_or_revoked_token_is_refused_and_everybody_is_told() {
    let bed = start(&[]).await;
    let (app, id) = ("app".to_owned(), "e-1".to_owned());
    let (_, token) = bed.endpoint(&id, &app, None).await;
    let mut revoked = Events::listen(&bed.client, REVOKED).await;
    let token_id = bed.validate(&app, &token).await.token_id.unwrap();

    assert_eq!(transit(&bed, &app, &token, "Suspended").await.0, 200);
    let (subject, event) = revoked.next::<EndpointTokenRevokedEvent>().await;
    assert_eq!(subject, "kaa.v1.events.cm.endpoint.token.revoked");
    assert_eq!((&event.app_name, &event.endpoint_id, &event.token_ids), (&app, &id, &vec![token_id.clone()]));
    let refused = bed.validate(&app, &token).await;
    assert_eq!(
        (refused.status_code, refused.reason_phrase.as_deref()),
        (403, Some("the endpoint token is suspended"))
    );

    assert_eq!(transit(&bed, &app, &token, "Active").await.0, 200);
    assert_eq!(bed.validate(&app, &token).await.status_code, 200);
    assert_eq!(transit(&bed, &app, &token, "Inactive").await.0, 409);
    assert_eq!(transit(&bed, &app, &token, "Revoked").await.0, 200);
    // The reactivation said nothing: the next event is that of the revocation.
    assert_eq!(revoked.next::<EndpointTokenRevokedEvent>().await.1.token_ids, [token_id]);
    assert_eq!(bed.validate(&app, &token).await.status_code, 403);
    let (code, reason) = transit(&bed, &app, &token, "Active").await;
    assert_eq!(
        (code, reason.as_deref()),
        (409, Some("an endpoint token cannot be moved from Revoked to Active"))
    );
    assert_eq!(transit(&bed, &app, &token, "Revoked").await.0, 200);
    assert_eq!(transit(&bed, &app, &token, "revoked").await.0, 400);
    assert_eq!(transit(&bed, &app, "unknown", "Revoked").await.0, 404);
    bed.stop().await;
}

#[tokio::test]
async fn a_token_wished_for_is_given_again_to_the_same_endpoint_until_it_is_used() {
    let bed = start(&[("cm.tokens_per_endpoint_max", "2")]).await;
    let wish = creation("app", "e", Some("wish"));
    let first = bed.create(&wish).await;
    assert_eq!((first.status_code, first.status.as_deref()), (201, Some("Inactive")), "{first:?}");
    assert_eq!(first.token.as_ref().map(Secret::as_str), Some("wish"));
    let again = bed.create(&wish).await;
    assert_eq!((again.status_code, again.token_id), (201, first.token_id));
    assert_eq!(bed.create(&creation("app", "f", Some("wish"))).await.status_code, 409);
    let foreign =
        EndpointTokenCreateRequest { tenant_id: "other".to_owned(), ..creation("app", "e", Some("wish")) };
    assert_eq!(bed.create(&foreign).await.status_code, 409);
    // The same text in another application is another token.
    assert_eq!(bed.create(&creation("app2", "g", Some("wish"))).await.status_code, 201);

    assert_eq!(bed.validate("app", "wish").await.endpoint_id.as_deref(), Some("e"));
    assert_eq!(bed.create(&wish).await.status_code, 409);

    let second = bed.create(&creation("app", "e", None)).await;
    assert_eq!((second.status_code, second.token.map(|token| token.as_str().len())), (201, Some(24)));
    assert_eq!(bed.create(&creation("app", "e", None)).await.status_code, 429);
    assert_eq!(transit(&bed, "app", "wish", "Revoked").await.0, 200);
    assert_eq!(bed.create(&creation("app", "e", None)).await.status_code, 201);
    assert_eq!(bed.create(&creation("app", "a/b", None)).await.status_code, 400);
    bed.stop().await;
}

#[tokio::test]
async fn many_validations_run_at_once() {
    let bed = start(&[]).await;
    let made = bed.create(&creation("app", "e", Some("wish"))).await;
    let answers = (0..300).map(|number| bed.validate("app", if number % 3 == 0 { "other" } else { "wish" }));
    let answers = futures::future::join_all(answers).await;
    let valid: Vec<_> = answers.iter().filter(|answer| answer.status_code == 200).collect();
    assert_eq!(valid.len(), 200);
    assert!(valid.iter().all(|answer| answer.token_id == made.token_id));
    assert!(answers.iter().all(|answer| [200, 404].contains(&answer.status_code)));
    bed.stop().await;
}

#[tokio::test]
async fn a_database_that_was_away_is_used_again() {
    let bed = start(&[]).await;
    bed.create(&creation("app", "e", Some("wish"))).await;
    bed.database.terminate_connections().await;
    let recovered = async || {
        let code = bed.validate("app", "wish").await.status_code;
        assert!([200, 503].contains(&code), "{code}");
        (code == 200).then_some(())
    };
    testkit::eventually("a valid answer", testbed::PATIENCE, recovered).await;
    bed.stop().await;
}

#[tokio::test]
async fn expired_and_unreadable_requests_get_no_answer_and_do_no_harm() {
    let bed = start(&[]).await;
    let subject = CREATE_REQUEST.service(&instance());
    let late = EndpointTokenCreateRequest { timestamp: 1, timeout: 1, ..creation("app", "e", Some("late")) };
    for payload in [late.encode(), "nonsense".into()] {
        let inbox = bed.client.new_inbox();
        bed.client.publish_with_reply(subject.clone(), inbox, payload).await.unwrap();
    }
    // Requests are taken up in order: when this one is answered, those before it were.
    assert_eq!(bed.create(&creation("app", "e", Some("timely"))).await.status_code, 201);
    assert_eq!(bed.validate("app", "late").await.status_code, 404);
    let list = bed.rest(ACME).get(&tokens_of("e")).await.expect(200);
    assert_eq!(list["totalElements"], json!(1));
    bed.stop().await;
}
