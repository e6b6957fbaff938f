//! Gateway replicas that die.

use std::time::Duration;

use runtime::now_ms;
use testbed::PATIENCE;
use testkit::eventually;

use crate::bed::Bed;

const FAST: [(&str, &str); 2] = [("epl.gateway_interval_ms", "100"), ("epl.gateway_intervals_max", "3")];

#[tokio::test(flavor = "multi_thread")]
async fn a_dead_replica_holds_nobody() {
    let bed = Bed::new().await;
    let (_epr, _receiver) = (bed.epr().await, bed.receiver().await);
    let epl = bed.start(&FAST).await;
    let t = now_ms() - 60_000;
    bed.alive("kpc-b", t, 2_000).await;
    bed.connected("kpc-a", t, &["e", "both"]).await;
    bed.connected("kpc-b", t, &["both"]).await;
    bed.shows("both", true, t).await;
    bed.shows("e", true, t).await;
    // `a` says once more that it is alive, `b` goes on.
    bed.alive("kpc-a", t + 5_000, 100).await;
    let dead = eventually("the dead one is noticed", PATIENCE, async || {
        bed.alive("kpc-b", now_ms(), 2_000).await;
        (bed.world.lock().states["e"].last() == Some(&false)).then_some(())
    });
    dead.await;
    bed.shows("e", false, t + 5_000).await;
    bed.has_points("e", &[(t, 1), (t + 5_000, 0)]).await;
    assert_eq!(bed.world.lock().states["both"], [true]);
    epl.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn replicas_that_died_while_nobody_listened_are_found_at_the_start() {
    let bed = Bed::new().await;
    let (_epr, _receiver) = (bed.epr().await, bed.receiver().await);
    let t = now_ms() - 60_000;
    let epl = bed.start(&[]).await;
    bed.alive("kpc-b", t, 2_000).await;
    bed.connected("kpc-a", t, &["e"]).await;
    bed.connected("kpc-b", t, &["f"]).await;
    bed.shows("e", true, t).await;
    bed.shows("f", true, t).await;
    epl.stop().await.unwrap();
    let epl = bed.start(&FAST).await;
    eventually("the dead one is noticed", PATIENCE, async || {
        bed.alive("kpc-b", now_ms(), 2_000).await;
        (bed.world.lock().states["e"].last() == Some(&false)).then_some(())
    })
    .await;
    assert_eq!(bed.world.lock().states["f"], [true]);
    epl.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replica_of_epl_that_was_cut_off_judges_nobody() {
    let mut bed = Bed::new().await;
    let (_epr, _receiver) = (bed.epr().await, bed.receiver().await);
    let epl = bed.start(&[("epl.gateway_interval_ms", "1000"), ("epl.gateway_intervals_max", "3")]).await;
    let t = now_ms() - 60_000;
    bed.connected("kpc-a", t, &["e"]).await;
    bed.shows("e", true, t).await;
    bed.alive("kpc-a", t, 1_000).await;
    bed.client.flush().await.unwrap();
    // Longer than a dead replica is waited for: nothing can be observed but that time passes.
    bed.nats.kill();
    tokio::time::sleep(Duration::from_millis(3_500)).await;
    bed.nats.restart().await;
    // The gateway is alive all the time: it is heard again soon after.
    for _ in 0..50 {
        bed.alive("kpc-a", now_ms(), 1_000).await;
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert_eq!(bed.world.lock().states["e"], [true]);
    epl.stop().await.unwrap();
}
