//! Relations between endpoints.

use serde_json::{Value, json};
use testbed::{ACME, OTHER, Testbed};

use crate::{Cm, ENDPOINTS, PlayedCm, number, register, start};

const LINK: &str = "/epr/api/v1/relations/link";
const UNLINK: &str = "/epr/api/v1/relations/unlink";

fn contains(pairs: &[(&str, &str)]) -> Value {
    pairs.iter().map(|(from, to)| json!({"type": "contains", "from": from, "to": to})).collect()
}

async fn relations(bed: &Testbed, endpoint_id: &str) -> Value {
    bed.rest(ACME).get(&format!("{ENDPOINTS}/{endpoint_id}/relations?relation=contains")).await.expect(200)
}

#[tokio::test]
async fn endpoints_contain_others_and_never_themselves() {
    let (bed, _tekton) = start(&[]).await;
    let _cm = PlayedCm::start(&bed, Cm::Makes).await;
    for endpoint_id in ["a", "b", "c", "d"] {
        register(&bed, "app-v1", endpoint_id, json!({})).await;
    }
    register(&bed, "foreign-v1", "x", json!({})).await;
    let rest = bed.rest(ACME);
    rest.put(LINK, &contains(&[("a", "b"), ("b", "c")])).await.expect(204);
    rest.put(LINK, &contains(&[("a", "b")])).await.expect(204);
    assert_eq!(relations(&bed, "b").await, contains(&[("a", "b"), ("b", "c")]));
    assert_eq!(relations(&bed, "c").await, contains(&[("b", "c")]));
    for (pairs, status) in [
        (&[("c", "a")][..], 409),
        (&[("b", "a")], 409),
        (&[("c", "d"), ("d", "a")], 409),
        (&[("a", "a")], 400),
        (&[("a", "x")], 404),
        (&[("a", "z")], 404),
    ] {
        rest.put(LINK, &contains(pairs)).await.refused(status);
    }
    rest.put(LINK, &json!([{"type": "likes", "from": "a", "to": "b"}])).await.refused(400);
    assert_eq!(relations(&bed, "d").await, json!([]));
    // The same endpoint may be contained in several.
    rest.put(LINK, &contains(&[("a", "c"), ("d", "c")])).await.expect(204);
    rest.put(UNLINK, &contains(&[("b", "c"), ("c", "d")])).await.expect(204);
    bed.rest(OTHER).put(UNLINK, &contains(&[("a", "c")])).await.expect(204);
    assert_eq!(relations(&bed, "c").await, contains(&[("a", "c"), ("d", "c")]));
    bed.rest(OTHER).get(&format!("{ENDPOINTS}/c/relations")).await.refused(404);
    rest.get(&format!("{ENDPOINTS}/c/relations?relation=likes")).await.refused(400);
    // They go with the endpoint.
    rest.delete(&format!("{ENDPOINTS}/c")).await.expect(204);
    assert_eq!(relations(&bed, "d").await, json!([]));
    assert_eq!(number(&bed, "SELECT count(*) FROM epr.endpoint_relations").await, 1);
    bed.stop().await;
}

#[tokio::test]
async fn a_new_endpoint_comes_with_its_relations() {
    let (bed, _tekton) = start(&[]).await;
    let cm = PlayedCm::start(&bed, Cm::Makes).await;
    register(&bed, "app-v1", "gateway", json!({})).await;
    register(&bed, "app-v1", "probe", json!({})).await;
    let body = |relations: Value| json!({"appVersion": {"name": "app-v1"}, "endpointId": "e", "relations": relations});
    let rest = bed.rest(ACME);
    let within = json!({"type": "contains", "from": "gateway"});
    let around = json!({"type": "contains", "to": "probe"});
    rest.post(ENDPOINTS, &body(json!([{"type": "contains", "to": "z"}]))).await.refused(404);
    rest.post(ENDPOINTS, &body(json!([{"type": "contains", "from": "gateway", "to": "probe"}])))
        .await
        .refused(400);
    assert_eq!(cm.asked.lock().unwrap().len(), 2);
    // Through the new endpoint the gateway would contain itself.
    let circle = json!([within, {"type": "contains", "to": "gateway"}]);
    assert!(rest.post(ENDPOINTS, &body(circle)).await.refused(409).contains("itself"));
    rest.get(&format!("{ENDPOINTS}/e")).await.refused(404);
    rest.post(ENDPOINTS, &body(json!([within, around]))).await.expect(201);
    assert_eq!(relations(&bed, "e").await, contains(&[("e", "probe"), ("gateway", "e")]));
    bed.stop().await;
}

#[tokio::test]
async fn relations_are_bounded_and_two_at_once_make_no_circle() {
    let (bed, _tekton) = start(&[("epr.relations_per_endpoint_max", "2")]).await;
    let _cm = PlayedCm::start(&bed, Cm::Makes).await;
    for endpoint_id in ["a", "b", "c", "d"] {
        register(&bed, "app-v1", endpoint_id, json!({})).await;
    }
    let rest = bed.rest(ACME);
    let message = rest.put(LINK, &contains(&[("a", "b"), ("a", "c"), ("a", "d")])).await.refused(400);
    assert!(message.contains("epr.relations_per_endpoint_max"), "{message}");
    for _ in 0..10 {
        let (one, other) = (contains(&[("a", "b"), ("c", "d")]), contains(&[("b", "c"), ("d", "a")]));
        let (one, other) = tokio::join!(rest.put(LINK, &one), rest.put(LINK, &other));
        let mut statuses = [one.status, other.status];
        statuses.sort_unstable();
        assert_eq!(statuses, [204, 409]);
        rest.put(UNLINK, &contains(&[("a", "b"), ("c", "d"), ("b", "c"), ("d", "a")])).await.expect(204);
    }
    bed.stop().await;
}
