//! Whether, where and when lanes are pushed to, and what polls get.

use super::*;
use State::{Created, Delivered, Sent};

#[tokio::test]
async fn who_connects_gets_what_is_outstanding_at_once() {
    let bed = Bed::new(Config::default()).await;
    let lane = lane("e", "reboot");
    let (name, claim) = bed.invoke(command(&lane)).await;
    let stale = claim.unwrap();
    bed.ledger.wake(&connected("e", Duration::ZERO)).await.unwrap();
    let claim = bed.ledger.due(10).await.unwrap().pop().unwrap();
    assert_eq!(ids(&claim), [1]);
    assert!(bed.ledger.due(10).await.unwrap().is_empty());
    // The push from before has nothing to say about the lane any more; what it knows of the command counts.
    assert!(bed.ledger.settle(stale, Pushed::Offline).await.unwrap().is_none());
    assert!(bed.ledger.due(10).await.unwrap().is_empty());
    assert!(bed.ledger.settle(claim, Pushed::Delivered).await.unwrap().is_none());
    assert_eq!(bed.states(&name).await, [Created, Sent, Delivered]);
    // Neither end is taken for that of the other.
    assert!(matches!(bed.ledger.cancel(&name, "no").await.unwrap(), Cancelled::Awaited(_)));
}

#[tokio::test]
async fn who_connects_does_not_get_again_what_came_since() {
    let bed = Bed::new(Config::default()).await;
    let (reboot, zero) = (lane("e", "reboot"), lane("e", "zero"));
    let delivered = bed.invoke(command(&reboot)).await.1.unwrap();
    assert!(bed.ledger.settle(delivered, Pushed::Delivered).await.unwrap().is_none());
    let under_way = bed.invoke(command(&zero)).await.1.unwrap();
    bed.ledger.wake(&connected("none", Duration::ZERO)).await.unwrap();
    bed.ledger.wake(&connected("e", Duration::from_secs(5))).await.unwrap();
    assert!(bed.ledger.due(10).await.unwrap().is_empty());
    // What did not reach it is tried at once, though.
    assert!(bed.ledger.settle(under_way, Pushed::Offline).await.unwrap().is_none());
    bed.ledger.wake(&connected("e", Duration::from_secs(5))).await.unwrap();
    let claims = bed.ledger.due(10).await.unwrap();
    assert_eq!(claims.iter().map(|claim| claim.lane.clone()).collect::<Vec<_>>(), [zero]);
    // The next connection gets both.
    testkit::eventually("what was attempted lies behind", Duration::from_secs(5), async || {
        bed.ledger.wake(&connected("e", Duration::ZERO)).await.unwrap();
        let claims = bed.ledger.due(10).await.unwrap();
        (claims.len() == 2).then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_lease_that_nobody_gives_back_ends() {
    let bed = Bed::new(Config::default()).await;
    let (_, claim) = bed.invoke(command(&lane("e", "reboot"))).await;
    drop(claim);
    assert!(bed.ledger.due(10).await.unwrap().is_empty());
    bed.sql("UPDATE lanes SET leased_until = now(), due_at = now()").await;
    bed.sql("UPDATE commands SET attempt_until = now(), next_attempt_at = now()").await;
    assert_eq!(ids(&bed.ledger.due(10).await.unwrap()[0]), [1]);
}

#[tokio::test]
async fn a_device_says_whether_it_is_pushed_to() {
    let bed = Bed::new(Config::default()).await;
    let (reboot, zero) = (lane("e", "reboot"), lane("e", "zero"));
    let observe = async |command_type: Option<&str>, observe| {
        let command_type = command_type.map(|name| CommandType::parse(name).unwrap());
        let (tenant, endpoint) = (&reboot.tenant, &reboot.endpoint_id);
        bed.ledger.observe(tenant, endpoint, &application(), command_type.as_ref(), observe).await.unwrap();
    };
    observe(None, true).await;
    let lanes: i64 = sqlx::query_scalar("SELECT count(*) FROM lanes").fetch_one(&bed.pool).await.unwrap();
    assert_eq!(lanes, 0, "nothing has changed");
    observe(Some("reboot"), false).await;
    assert!(bed.invoke(command(&reboot)).await.1.is_none());
    assert!(bed.invoke(command(&zero)).await.1.is_some());
    assert!(bed.ledger.due(10).await.unwrap().is_empty());
    observe(Some("reboot"), true).await;
    assert_eq!(ids(&bed.ledger.due(10).await.unwrap()[0]), [1]);
    // All types, those that come later among them.
    observe(None, false).await;
    assert!(bed.invoke(command(&lane("e", "new"))).await.1.is_none());
    observe(None, true).await;
    assert_eq!(bed.ledger.due(10).await.unwrap().len(), 1);
    observe(Some("later"), false).await;
    observe(None, true).await;
    assert!(bed.invoke(command(&lane("e", "later"))).await.1.is_some());
}

#[tokio::test]
async fn polls_get_all_that_is_outstanding_until_its_result() {
    let bed = Bed::new(Config { poll_bytes_max: 30, ..Config::default() }).await;
    let (reboot, zero) = (lane("e", "reboot"), lane("e", "zero"));
    let poll = async |command_type: Option<&CommandType>| {
        let window = Duration::from_secs(5);
        let (tenant, endpoint) = (&reboot.tenant, &reboot.endpoint_id);
        let handed_out = bed.ledger.hand_out(tenant, endpoint, command_type, window).await.unwrap();
        handed_out
            .into_iter()
            .map(|command| format!("{}/{}", command.command_type, command.command_id))
            .collect::<Vec<_>>()
    };
    assert!(poll(None).await.is_empty());
    for lane in [&reboot, &zero, &reboot] {
        bed.ledger.invoke(vec![command(lane)], false).await.unwrap();
    }
    // An answer has its limit.
    assert_eq!(poll(None).await, ["reboot/1", "zero/1"]);
    assert_eq!(poll(Some(&zero.command_type)).await, ["zero/1"]);
    // A push does not double what a poll has just got.
    let claims = bed.ledger.due(10).await.unwrap();
    assert_eq!(claims.iter().map(ids).collect::<Vec<_>>(), [[2]]);
    let name = CommandName { lane: zero.clone(), command_id: 1 };
    assert_eq!(bed.states(&name).await, [Created, Sent]);
    assert!(matches!(bed.ledger.cancel(&name, "no").await.unwrap(), Cancelled::Awaited(_)));
    assert_eq!(poll(None).await, ["reboot/1", "reboot/2"]);
    assert_eq!(bed.result(&reboot, 1).await, ResultTaken::Taken);
    assert_eq!(poll(None).await, ["reboot/2"]);
    let once = NewCommand { ttl: Ttl::Once, ..command(&zero) };
    bed.ledger.invoke(vec![once], false).await.unwrap();
    assert_eq!(poll(Some(&zero.command_type)).await, ["zero/2"]);
    assert!(poll(Some(&zero.command_type)).await.is_empty());
}

#[tokio::test]
async fn who_listens_at_a_topic_gets_one_command_after_the_other_and_none_twice() {
    let bed = Bed::new(Config { result_pause_ms: 0, ..Config::default() }).await;
    let lane = lane("e", "cmd");
    for _ in 0..2 {
        bed.ledger.invoke(vec![command(&lane)], false).await.unwrap();
    }
    bed.ledger.listen(&lane, &application(), Some("cmd/e/req")).await.unwrap();
    let claim = bed.ledger.due(10).await.unwrap().pop().unwrap();
    assert_eq!((ids(&claim), claim.topic.as_deref()), (vec![1], Some("cmd/e/req")));
    assert!(bed.ledger.settle(claim, Pushed::Delivered).await.unwrap().is_none());
    bed.ledger.wake(&connected("e", Duration::ZERO)).await.unwrap();
    assert!(bed.ledger.due(10).await.unwrap().is_empty());
    assert_eq!(bed.ledger.oldest_unanswered(&lane).await.unwrap(), Some(1));
    assert_eq!(bed.result(&lane, 1).await, ResultTaken::Taken);
    let claim = bed.ledger.due(10).await.unwrap().pop().unwrap();
    assert_eq!(ids(&claim), [2]);
    // What is on its way is not sent again because its device connects, only when it listens anew.
    bed.ledger.wake(&connected("e", Duration::ZERO)).await.unwrap();
    assert!(bed.ledger.due(10).await.unwrap().is_empty());
    bed.ledger.listen(&lane, &application(), Some("cmd/e/req")).await.unwrap();
    assert_eq!(ids(&bed.ledger.due(10).await.unwrap()[0]), [2]);
    bed.ledger.listen(&lane, &application(), None).await.unwrap();
    assert_eq!(bed.ledger.due(10).await.unwrap()[0].topic, None);
}
