//! With a user of NATS of its own, the service is allowed all that it needs.

use epl::Epl;
use runtime::{entry, now_ms};
use serde_json::json;
use testbed::{ACME, OTHER, Testbed};

use crate::bed::{Shared, connected, epr, has_points, receiver, shows, tekton};

#[tokio::test(flavor = "multi_thread")]
async fn its_own_subjects_are_enough() {
    let bed = Testbed::start(&[entry::<Epl>()], &[]).await;
    let world = Shared::default();
    let (_tekton, _epr, _receiver) =
        tokio::join!(tekton(&bed.client), epr(&bed.client, &world), receiver(&bed.client, &world));
    let t = now_ms() - 60_000;
    connected(&bed.client, "kpc-a", t, &["e"]).await;
    shows(&world, "e", true, t).await;
    has_points(&world, "e", &[(t, 1)]).await;
    let path = "/epl/api/v1/endpoints/e/connectivity";
    assert_eq!(bed.rest(ACME).get(path).await.expect(200)["connected"], json!(true));
    bed.rest(OTHER).get(path).await.refused(404);
    bed.stop().await;
}
