//! What single commands go through.

use super::*;
use State::{Cancelled as CancelledState, Created, Delivered, Executed, Expired, Sent, Undelivered};

/// Pauses as a test can wait for them.
fn quick() -> Config {
    Config { retry_pause_ms: 1, result_pause_ms: 1, retry_pause_max_ms: 1, ..Config::default() }
}

#[tokio::test]
async fn a_command_is_pushed_acknowledged_and_executed() {
    let bed = Bed::new(Config::default()).await;
    let lane = lane("e", "reboot");
    let (name, claim) = bed.invoke(command(&lane)).await;
    let claim = claim.unwrap();
    assert_eq!((ids(&claim), claim.topic.as_deref()), (vec![1], None));
    assert_eq!(claim.commands[0].payload.as_ref().unwrap().bytes(), "{\"on\": true}");
    // What comes meanwhile waits for the end of the push.
    let (second, none) = bed.invoke(command(&lane)).await;
    assert!(none.is_none() && bed.ledger.due(10).await.unwrap().is_empty());
    let next = bed.ledger.settle(claim, Pushed::Delivered).await.unwrap().unwrap();
    assert_eq!(ids(&next), [2]);
    assert_eq!(bed.states(&name).await, [Created, Sent, Delivered]);
    assert_eq!(bed.result(&lane, 1).await, ResultTaken::Taken);
    assert_eq!(bed.result(&lane, 1).await, ResultTaken::Repeated);
    assert_eq!(bed.states(&name).await, [Created, Sent, Delivered, Executed]);
    let executed = bed.ledger.get(&name).await.unwrap().unwrap();
    assert_eq!((executed.status_code, executed.reason_phrase.as_deref()), (Some(200), Some("OK")));
    assert_eq!(executed.result.unwrap().bytes(), "\"\\u0000 done\"");
    // A result may be faster than the acknowledgement; the end stays.
    assert_eq!(bed.result(&lane, 2).await, ResultTaken::Taken);
    assert!(bed.ledger.settle(next, Pushed::Delivered).await.unwrap().is_none());
    assert_eq!(bed.states(&second).await, [Created, Executed]);
    assert_eq!(bed.result(&lane, 3).await, ResultTaken::Unknown);
    let other = Lane { tenant: TenantId::parse("other").unwrap(), ..lane };
    assert_eq!(bed.result(&other, 1).await, ResultTaken::Unknown);
}

#[tokio::test]
async fn what_was_not_acknowledged_is_pushed_alone_and_the_others_go_on() {
    let bed = Bed::new(Config { retry_pause_ms: 1, ..Config::default() }).await;
    let lane = lane("e", "reboot");
    let invoked = bed.ledger.invoke(vec![command(&lane), command(&lane)], true).await.unwrap();
    let claim = invoked.into_iter().find_map(Invoked::into_claim).unwrap();
    assert_eq!(ids(&claim), [1, 2]);
    // Nobody got it: they stay together.
    let mut next = bed.ledger.settle(claim, Pushed::Offline).await.unwrap();
    let claim = bed.next(&mut next).await;
    assert_eq!(ids(&claim), [1, 2]);
    next = bed.ledger.settle(claim, Pushed::Unknown).await.unwrap();
    // Until the attempt is over for sure, neither is pushed.
    assert!(next.is_none() && bed.ledger.due(10).await.unwrap().is_empty());
    bed.sql("UPDATE commands SET attempt_until = now(), next_attempt_at = now()").await;
    bed.sql("UPDATE lanes SET due_at = now()").await;
    let (name, mut next) = bed.invoke(command(&lane)).await;
    let mut pushed = Vec::new();
    while pushed.len() < 3 {
        let claim = bed.next(&mut next).await;
        pushed.push(ids(&claim));
        next = bed.ledger.settle(claim, Pushed::Delivered).await.unwrap();
    }
    assert_eq!(pushed, [[1], [2], [3]]);
    assert_eq!(bed.states(&name).await.last(), Some(&Delivered));
}

#[tokio::test]
async fn a_command_without_time_to_live_is_tried_once() {
    let bed = Bed::new(quick()).await;
    let once = |endpoint| NewCommand { ttl: Ttl::Once, ..command(&lane(endpoint, "reboot")) };
    let (away, claim) = bed.invoke(once("away")).await;
    assert!(bed.ledger.settle(claim.unwrap(), Pushed::Offline).await.unwrap().is_none());
    assert_eq!(bed.states(&away).await, [Created, Undelivered]);
    let (silent, claim) = bed.invoke(once("silent")).await;
    assert!(bed.ledger.settle(claim.unwrap(), Pushed::Unknown).await.unwrap().is_none());
    // It may still get it.
    assert_eq!(bed.states(&silent).await, [Created, Sent]);
    bed.sql("UPDATE commands SET attempt_until = now(), expires_at = now()").await;
    bed.ledger.end(10).await.unwrap();
    assert_eq!(bed.states(&silent).await, [Created, Sent, Undelivered]);
    let (there, claim) = bed.invoke(once("there")).await;
    assert!(bed.ledger.settle(claim.unwrap(), Pushed::Delivered).await.unwrap().is_none());
    bed.ledger.wake(&connected("there", Duration::ZERO)).await.unwrap();
    assert!(bed.ledger.due(10).await.unwrap().is_empty());
    let command = bed.ledger.get(&there).await.unwrap().unwrap();
    assert!(command.expires_at > command.created_at + quick_result());
    bed.sql("UPDATE commands SET expires_at = now()").await;
    bed.ledger.end(10).await.unwrap();
    assert_eq!(bed.states(&there).await, [Created, Sent, Delivered, Expired]);
}

fn quick_result() -> Duration {
    Duration::from_millis(Config::default().once_result_timeout_ms - 1)
}

#[tokio::test]
async fn a_cancellation_is_confirmed_when_nothing_can_deliver_any_more() {
    let bed = Bed::new(Config::default()).await;
    let lane = lane("e", "reboot");
    let (first, claim) = bed.invoke(command(&lane)).await;
    let cancel = async |name: &CommandName| bed.ledger.cancel(name, "no more").await.unwrap();
    assert!(matches!(cancel(&first).await, Cancelled::Awaited(_)));
    assert_eq!(bed.ledger.end(10).await.unwrap(), 0);
    let (second, _) = bed.invoke(command(&lane)).await;
    assert_eq!(cancel(&second).await, Cancelled::Confirmed);
    assert_eq!(cancel(&second).await, Cancelled::Confirmed);
    assert_eq!(bed.states(&second).await, [Created, CancelledState]);
    // The end of the push is the end of the waiting.
    assert!(bed.ledger.settle(claim.unwrap(), Pushed::Delivered).await.unwrap().is_none());
    assert_eq!(bed.states(&first).await, [Created, Sent, Delivered, CancelledState]);
    assert_eq!(bed.result(&lane, 1).await, ResultTaken::Late(CancelledState));
    let late = bed.ledger.get(&first).await.unwrap().unwrap().late_result.unwrap();
    assert_eq!((&late["statusCode"], &late["payload"]), (&200.into(), &"\0 done".into()));

    let (third, claim) = bed.invoke(command(&lane)).await;
    cancel(&third).await;
    // It did run.
    assert_eq!(bed.result(&lane, 3).await, ResultTaken::Taken);
    assert_eq!(cancel(&third).await, Cancelled::Ended(Executed));
    assert!(bed.ledger.settle(claim.unwrap(), Pushed::Unknown).await.unwrap().is_none());
    let (fourth, claim) = bed.invoke(command(&lane)).await;
    cancel(&fourth).await;
    bed.ledger.settle(claim.unwrap(), Pushed::Unknown).await.unwrap();
    assert_eq!((bed.ledger.end(10).await.unwrap(), bed.state(&fourth).await), (0, Sent));
    bed.sql("UPDATE commands SET attempt_until = now()").await;
    assert_eq!((bed.ledger.end(10).await.unwrap(), bed.state(&fourth).await), (1, CancelledState));
    let unknown = CommandName { command_id: 9, ..fourth };
    assert_eq!(cancel(&unknown).await, Cancelled::Unknown);
}

#[tokio::test]
async fn a_result_after_the_time_to_live_is_late() {
    let bed = Bed::new(Config::default()).await;
    let lane = lane("e", "reboot");
    let (first, claim) = bed.invoke(command(&lane)).await;
    bed.sql("UPDATE commands SET expires_at = now()").await;
    // The attempt may still deliver it: so it has not ended.
    assert_eq!(bed.result(&lane, 1).await, ResultTaken::Late(Expired));
    assert_eq!((bed.ledger.end(10).await.unwrap(), bed.state(&first).await), (0, Created));
    bed.ledger.settle(claim.unwrap(), Pushed::Offline).await.unwrap();
    assert_eq!((bed.ledger.end(10).await.unwrap(), bed.state(&first).await), (1, Expired));
    let (second, claim) = bed.invoke(command(&lane)).await;
    bed.ledger.settle(claim.unwrap(), Pushed::Delivered).await.unwrap();
    bed.sql("UPDATE commands SET expires_at = now()").await;
    assert_eq!(bed.result(&lane, 2).await, ResultTaken::Late(Expired));
    assert_eq!(bed.states(&second).await, [Created, Sent, Delivered, Expired]);
    assert_eq!(bed.result(&lane, 2).await, ResultTaken::Late(Expired));
    let reasons = bed.ledger.get(&second).await.unwrap().unwrap().transitions;
    assert_eq!(
        reasons.last().unwrap().reason.as_deref(),
        Some("its time to live ended; it was delivered and no result came")
    );
}

#[tokio::test]
async fn results_are_told_where_they_are_awaited_and_old_things_go() {
    let bed = Bed::new(Config { commands_kept_ms: 0, responses_kept_ms: 0, ..Config::default() }).await;
    let lane = lane("e", "cmd");
    let response_topic = Some("cmd/e/resp".to_owned());
    let (name, _) = bed.invoke(NewCommand { response_topic, ..command(&lane) }).await;
    assert_eq!(bed.ledger.oldest_unanswered(&lane).await.unwrap(), Some(1));
    assert_eq!(bed.result(&lane, 1).await, ResultTaken::Taken);
    let told: Vec<(String, Vec<u8>, i64)> =
        sqlx::query_as("SELECT topic, payload, command_key FROM responses")
            .fetch_all(&bed.pool)
            .await
            .unwrap();
    assert_eq!((told.len(), &*told[0].0, &*told[0].1), (1, "cmd/e/resp", b"\"\\u0000 done\"".as_slice()));
    while bed.ledger.purge(10).await.unwrap() > 0 {}
    assert!(bed.ledger.get(&name).await.unwrap().is_none());
    let left: i64 = sqlx::query_scalar("SELECT count(*) FROM responses").fetch_one(&bed.pool).await.unwrap();
    assert_eq!(left, 0);
    assert_eq!(bed.invoke(command(&lane)).await.0.command_id, 2);
}

impl Bed {
    /// The claim that was given, or the next that is due.
    async fn next(&self, given: &mut Option<Claim>) -> Claim {
        if let Some(claim) = given.take() {
            return claim;
        }
        testkit::eventually("something is due", Duration::from_secs(10), async || {
            self.ledger.due(1).await.unwrap().pop()
        })
        .await
    }
}
