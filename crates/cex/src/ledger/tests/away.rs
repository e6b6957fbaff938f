//! Devices that come back, those that a command kills, and endpoints that are registered anew.

use super::*;
use State::{Cancelled as CancelledState, Created};

#[tokio::test]
async fn the_end_of_an_endpoint_is_not_that_of_the_next_with_its_id() {
    let bed = Bed::new(Config::default()).await;
    let (old, new) = (lane("e", "reboot"), lane("e", "zero"));
    let (gone, claim) = bed.invoke(command(&old)).await;
    bed.ledger.settle(claim.unwrap(), Pushed::Offline).await.unwrap();
    let deleted_at = Utc::now();
    bed.ledger.forget(&old.endpoint_id, deleted_at).await.unwrap();
    assert_eq!(bed.state(&gone).await, CancelledState);
    // It is registered anew; then the end of the first is told again.
    tokio::time::sleep(Duration::from_millis(2)).await;
    bed.ledger.observe(&new.tenant, &new.endpoint_id, &application(), None, false).await.unwrap();
    let (alive, claim) = bed.invoke(command(&new)).await;
    assert!(claim.is_none());
    bed.ledger.forget(&old.endpoint_id, deleted_at).await.unwrap();
    assert_eq!(bed.states(&alive).await, [Created]);
    // It still wants no pushes.
    assert!(bed.invoke(command(&lane("e", "new"))).await.1.is_none());
}

#[tokio::test]
async fn who_connects_is_not_killed_by_the_same_command_for_ever() {
    let bed = Bed::new(Config::default()).await;
    let lane = lane("e", "reboot");
    let (_, claim) = bed.invoke(command(&lane)).await;
    let mut claim = claim.unwrap();
    bed.invoke(command(&lane)).await;
    for _ in 0..2 {
        // It gets the first command, dies of it, and comes back.
        assert!(
            bed.ledger.settle(claim, Pushed::Unknown).await.unwrap().is_none_or(|next| ids(&next) == [2])
        );
        claim = testkit::eventually("it is due", Duration::from_secs(5), async || {
            bed.ledger.wake(&connected("e", Duration::ZERO)).await.unwrap();
            bed.ledger.due(1).await.unwrap().pop()
        })
        .await;
        assert_eq!(ids(&claim), [1]);
    }
    bed.ledger.settle(claim, Pushed::Unknown).await.unwrap();
    bed.ledger.wake(&connected("e", Duration::ZERO)).await.unwrap();
    let claim = bed.ledger.due(1).await.unwrap().pop().unwrap();
    assert_eq!(ids(&claim), [2], "the other one has its turn");
    assert!(bed.ledger.settle(claim, Pushed::Delivered).await.unwrap().is_none());
    let (unacknowledged, pauses): (i32, i32) =
        sqlx::query_as("SELECT unacknowledged, pauses FROM commands WHERE command_id = 1")
            .fetch_one(&bed.pool)
            .await
            .unwrap();
    assert_eq!((unacknowledged, pauses), (3, 1), "its pauses grow from now on");
}

#[tokio::test]
async fn who_connects_goes_before_those_who_are_away_and_begins_with_short_pauses() {
    let bed = Bed::new(Config::default()).await;
    for endpoint in ["a", "b", "c"] {
        let (_, claim) = bed.invoke(command(&lane(endpoint, "reboot"))).await;
        assert!(bed.ledger.settle(claim.unwrap(), Pushed::Offline).await.unwrap().is_none());
    }
    let pauses = async || -> Vec<i32> {
        let pauses = sqlx::query_scalar("SELECT pauses FROM commands ORDER BY command_key");
        pauses.fetch_all(&bed.pool).await.unwrap()
    };
    assert_eq!(pauses().await, [1, 1, 1]);
    bed.sql("UPDATE commands SET next_attempt_at = now() - interval '1 minute'").await;
    bed.sql("UPDATE lanes SET due_at = now() - interval '1 minute'").await;
    bed.ledger.wake(&connected("c", Duration::ZERO)).await.unwrap();
    assert_eq!(pauses().await, [1, 1, 0]);
    let claim = bed.ledger.due(1).await.unwrap().pop().unwrap();
    assert_eq!(claim.lane.endpoint_id.as_str(), "c");
}

#[tokio::test]
async fn who_connects_does_not_wait_for_a_push_to_nobody() {
    let bed = Bed::new(Config::default()).await;
    let lane = lane("e", "reboot");
    let (first, claim) = bed.invoke(command(&lane)).await;
    let to_nobody = claim.unwrap();
    // The device polls, answers, and connects; the push is still under way.
    assert_eq!(bed.result(&lane, first.command_id).await, ResultTaken::Taken);
    assert!(bed.invoke(command(&lane)).await.1.is_none(), "one push at a time");
    assert_eq!(bed.result(&lane, first.command_id + 1).await, ResultTaken::Taken);
    bed.ledger.wake(&connected("e", Duration::ZERO)).await.unwrap();
    let (third, claim) = bed.invoke(command(&lane)).await;
    assert_eq!(ids(&claim.unwrap()), [third.command_id]);
    assert!(bed.ledger.settle(to_nobody, Pushed::Offline).await.unwrap().is_none());
    assert_eq!(bed.states(&third).await, [Created]);
}

#[tokio::test]
async fn the_next_command_of_a_topic_is_told_of_when_it_can_be_claimed() {
    let bed = Bed::new(Config::default()).await;
    let lane = lane("e", "cmd");
    bed.ledger.listen(&lane, &application(), Some("cmd/e/req")).await.unwrap();
    let work = bed.ledger.work();
    let (_, claim) = bed.invoke(command(&lane)).await;
    let mut claim = claim.unwrap();
    for id in 1..=20 {
        bed.invoke(command(&lane)).await;
        assert_eq!(ids(&claim), [id]);
        assert!(bed.ledger.settle(claim, Pushed::Delivered).await.unwrap().is_none());
        // What was told before is over.
        while futures::FutureExt::now_or_never(work.notified()).is_some() {}
        let ledger = bed.ledger.clone();
        let looking = tokio::spawn({
            let work = work.clone();
            async move {
                work.notified().await;
                ledger.due(1).await.unwrap().pop()
            }
        });
        tokio::task::yield_now().await;
        assert_eq!(bed.result(&lane, id).await, ResultTaken::Taken);
        claim = looking.await.unwrap().expect("it is due at the moment when it is told of");
    }
}
