//! Nothing is lost, doubled or told in the wrong order while others, or epl itself, are away.

use runtime::now_ms;
use testbed::PATIENCE;
use testkit::eventually;

use crate::bed::Bed;

#[tokio::test(flavor = "multi_thread")]
async fn the_newest_state_and_all_points_are_told_when_the_others_are_back() {
    let bed = Bed::new().await;
    let epl = bed.start(&[]).await;
    let t = now_ms() - 60_000;
    for step in 0..5 {
        bed.connected("kpc-a", t + step * 20, &["e"]).await;
        bed.disconnected("kpc-a", t + step * 20 + 10, &["e"]).await;
    }
    bed.connected("kpc-a", t + 1_000, &["e"]).await;
    eventually("all is taken in", PATIENCE, async || {
        let (_, body) = bed.connectivity(&epl, "e").await;
        (body["changedDate"] == serde_json::json!(crate::bed::iso8601(t + 1_000))).then_some(())
    })
    .await;
    assert!(bed.world.lock().states.is_empty());
    bed.world.lock().receiver_answers = vec![503, 504, 500];
    let (_epr, _receiver) = (bed.epr().await, bed.receiver().await);
    bed.shows("e", true, t + 1_000).await;
    assert_eq!(bed.world.lock().states["e"], [true], "only the newest");
    let mut points: Vec<(i64, i64)> =
        (0..5).flat_map(|step| [(t + step * 20, 1), (t + step * 20 + 10, 0)]).collect();
    points.push((t + 1_000, 1));
    bed.has_points("e", &points).await;
    epl.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn what_happens_while_epl_is_away_is_taken_in_when_it_is_back() {
    let bed = Bed::new().await;
    let (_epr, _receiver) = (bed.epr().await, bed.receiver().await);
    let t = now_ms() - 60_000;
    let epl = bed.start(&[]).await;
    bed.connected("kpc-a", t, &["e", "f"]).await;
    bed.shows("e", true, t).await;
    epl.stop().await.unwrap();
    bed.disconnected("kpc-a", t + 100, &["e"]).await;
    bed.connected("kpc-a", t + 200, &["g"]).await;
    bed.client.flush().await.unwrap();
    // With other bounds, which the stream takes over.
    let epl = bed.start(&[("epl.events_kept_ms", "1800000")]).await;
    bed.shows("e", false, t + 100).await;
    bed.shows("g", true, t + 200).await;
    bed.shows("f", true, t).await;
    epl.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_journal_that_nats_has_lost_is_made_anew() {
    let bed = Bed::new().await;
    let (_epr, _receiver) = (bed.epr().await, bed.receiver().await);
    let epl = bed.start(&[]).await;
    let t = now_ms() - 60_000;
    bed.connected("kpc-a", t, &["e"]).await;
    bed.shows("e", true, t).await;
    async_nats::jetstream::new(bed.client.clone()).delete_stream("connectivity").await.unwrap();
    // What comes while there is no journal is lost, so a gateway is played that says it again and again.
    let mut at = t;
    eventually("it is heard", PATIENCE, async || {
        at += 1;
        bed.disconnected("kpc-a", at, &["e"]).await;
        (bed.world.lock().states["e"].last() == Some(&false)).then_some(())
    })
    .await;
    assert_eq!(bed.world.lock().states["e"], [true, false]);
    epl.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_database_that_was_away_is_used_again() {
    let bed = Bed::new().await;
    let (_epr, _receiver) = (bed.epr().await, bed.receiver().await);
    let epl = bed.start(&[]).await;
    let t = now_ms() - 60_000;
    for step in 0..20 {
        bed.connected("kpc-a", t + step * 20, &["e"]).await;
        bed.database.terminate_connections().await;
        bed.disconnected("kpc-a", t + step * 20 + 10, &["e"]).await;
    }
    bed.connected("kpc-a", t + 1_000, &["e"]).await;
    bed.shows("e", true, t + 1_000).await;
    let mut points: Vec<(i64, i64)> =
        (0..20).flat_map(|step| [(t + step * 20, 1), (t + step * 20 + 10, 0)]).collect();
    points.push((t + 1_000, 1));
    bed.has_points("e", &points).await;
    epl.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn two_replicas_share_the_work_and_agree() {
    let bed = Bed::new().await;
    let (_epr, _receiver) = (bed.epr().await, bed.receiver().await);
    let (first, second) = tokio::join!(bed.start(&[]), bed.start(&[]));
    let t = now_ms() - 600_000;
    let endpoints: Vec<String> = (0..20).map(|number| format!("e{number}")).collect();
    let all: Vec<&str> = endpoints.iter().map(String::as_str).collect();
    for step in 0..50 {
        let replica = if step % 3 == 0 { "kpc-a" } else { "kpc-b" };
        bed.connected(replica, t + step * 100, &all).await;
        if step % 2 == 0 {
            bed.disconnected(replica, t + step * 100 + 50, &all[..10]).await;
        }
    }
    // The last words: the first ten are gone from both, the others stay.
    for replica in ["kpc-a", "kpc-b"] {
        bed.disconnected(replica, t + 10_000, &all[..10]).await;
    }
    eventually("the last states are told", PATIENCE, async || {
        let world = bed.world.lock();
        let told = |id: &String, state: bool| {
            world.states.get(id).and_then(|states| states.last()) == Some(&state)
                && world.points.get(id).and_then(|points| points.last_key_value()).map(|(_, value)| *value)
                    == Some(i64::from(state))
        };
        let right = endpoints[..10].iter().all(|id| told(id, false))
            && endpoints[10..].iter().all(|id| told(id, true));
        right.then_some(())
    })
    .await;
    // Transitions alternate, in the order of their times.
    for points in bed.world.lock().points.values() {
        let values: Vec<i64> = points.values().copied().collect();
        assert!(values.windows(2).all(|pair| pair[0] != pair[1]), "{points:?}");
    }
    tokio::try_join!(first.stop(), second.stop()).unwrap();
}
