//! Who may listen and speak where.

use ism::topics::PUBLISH_REQUEST;
use ism::{TopicPublishRequest, TopicPublishResponse};
use runtime::now_ms;
use serde_json::json;
use testbed::OTHER;

use super::{APPLICATION, DEVICE, FILTER, OTHER_DEVICE, REQUESTS, RESPONSES, Site, packet};

#[tokio::test]
async fn a_device_listens_and_speaks_for_itself_only() {
    let site = Site::start(&[]).await;
    for filter in
        ["cmd/device2/req", "cmd/m1/req", "cmd/+/req", RESPONSES, "floor/response", "cmd/nobody/req"]
    {
        assert_eq!(site.subscribe(DEVICE, filter).await, 403, "{filter}");
    }
    for topic in ["cmd/device2/resp", REQUESTS, "floor/request"] {
        assert_eq!(site.publish(DEVICE, topic, "x", packet(1)).await, 403, "{topic}");
    }
    for filter in ["+/request", "cmd/a/b/req", "elsewhere"] {
        assert_eq!(site.subscribe(DEVICE, filter).await, 400, "{filter}");
    }
    assert_eq!(site.subscribe(DEVICE, "floor/request").await, 200);
    assert_eq!(site.subscribe(OTHER_DEVICE, "cmd/device2/req").await, 200);
    site.stop().await;
}

#[tokio::test]
async fn an_application_commands_where_it_may() {
    let site = Site::start(&[]).await;
    for filter in [REQUESTS, "floor/request", "cmd/+/req"] {
        assert_eq!(site.subscribe(APPLICATION, filter).await, 403, "{filter}");
    }
    assert_eq!(site.publish(APPLICATION, RESPONSES, "x", packet(1)).await, 403);
    for filter in [RESPONSES, "cmd/+/resp", "floor/response"] {
        assert_eq!(site.subscribe(APPLICATION, filter).await, 200, "{filter}");
    }
    let commander = format!("/cex/api/v1/commanders/{APPLICATION}");
    let limited = json!({"applicationNames": ["elsewhere"]});
    site.acme().put(&commander, &limited).await.expect(200);
    let by_id = format!("{FILTER}/request");
    for topic in [REQUESTS, "cmd/m1/req", "floor/request", by_id.as_str()] {
        assert_eq!(site.publish(APPLICATION, topic, "x", packet(2)).await, 403, "{topic}");
    }
    let by_id = format!("{FILTER}/response");
    for filter in [RESPONSES, "cmd/+/resp", "floor/response", by_id.as_str()] {
        assert_eq!(site.subscribe(APPLICATION, filter).await, 403, "{filter}");
    }
    assert_eq!(site.publish(APPLICATION, "cmd/e1/req", "x", packet(3)).await, 200);
    assert_eq!(site.subscribe(APPLICATION, "cmd/e1/resp").await, 200);
    // The endpoint of another tenant is none.
    assert_eq!(site.publish(APPLICATION, "cmd/f1/req", "x", packet(4)).await, 404);
    site.acme().delete(&commander).await.expect(204);
    assert_eq!(site.publish(APPLICATION, "cmd/e1/req", "x", packet(5)).await, 403);
    site.stop().await;
}

#[tokio::test]
async fn credentials_count_in_their_tenant_only() {
    let site = Site::start(&[]).await;
    let request = TopicPublishRequest {
        correlation_id: "correlation-1".to_owned(),
        timestamp: now_ms(),
        timeout: 10_000,
        tenant_id: OTHER.id.to_owned(),
        client_id: "app1".to_owned(),
        credentials_ids: vec![APPLICATION.to_owned()],
        topic: REQUESTS.to_owned(),
        payload: "x".into(),
        packet_id: Some(1),
        is_duplicate: false,
        correlation_data: None,
        response_topic: None,
    };
    let publish = async |request: &TopicPublishRequest| {
        let answer: TopicPublishResponse = site.testbed.ask(PUBLISH_REQUEST.at("cex"), request).await;
        answer.status_code
    };
    assert_eq!(publish(&request).await, 403);
    site.other().put(&format!("/cex/api/v1/commanders/{APPLICATION}"), &json!({})).await.expect(200);
    // There is neither such a thing nor such an endpoint in that tenant.
    assert_eq!(publish(&request).await, 404);
    let named = TopicPublishRequest { topic: "cmd/m1/req".to_owned(), ..request.clone() };
    assert_eq!(publish(&named).await, 404);
    let own = TopicPublishRequest { topic: "cmd/f1/req".to_owned(), ..request };
    assert_eq!(publish(&own).await, 200);
    let elsewhere = TopicPublishRequest { response_topic: Some("mine".to_owned()), ..own };
    assert_eq!(publish(&elsewhere).await, 400);
    site.stop().await;
}
