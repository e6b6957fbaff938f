//! Ids, keys and limits of invocations.

use super::*;
use crate::domain::Idempotency;

fn keyed(lane: &Lane, key: &str, digest: u8) -> NewCommand {
    let idempotency = Some(Idempotency { key: key.to_owned(), digest: [digest; 32] });
    NewCommand { idempotency, ..command(lane) }
}

#[tokio::test]
async fn ids_begin_with_one_in_each_lane_and_go_on() {
    let bed = Bed::new(Config::default()).await;
    let (reboot, zero) = (lane("e", "reboot"), lane("e", "zero"));
    let commands = vec![command(&reboot), command(&zero), command(&reboot)];
    let invoked = bed.ledger.invoke(commands, true).await.unwrap();
    let names: Vec<(String, bool)> = invoked
        .iter()
        .map(|invoked| match invoked {
            Invoked::New { name, claim, .. } => (name.to_string(), claim.is_some()),
            other => panic!("{other:?}"),
        })
        .collect();
    // The first of a lane gets the claim, which is of all that is due in it.
    assert_eq!(
        names,
        [("e/reboot/1".to_owned(), true), ("e/zero/1".to_owned(), true), ("e/reboot/2".to_owned(), false)]
    );
    let other = Lane { tenant: TenantId::parse("other").unwrap(), ..reboot.clone() };
    assert_eq!(bed.invoke(command(&other)).await.0.command_id, 1);
    // Nothing of it is given again, not even to an endpoint that is registered anew under its id.
    bed.ledger.forget(&reboot.endpoint_id, Utc::now()).await.unwrap();
    assert_eq!(bed.invoke(command(&reboot)).await.0.command_id, 3);
}

#[tokio::test]
async fn a_key_is_one_command() {
    let bed = Bed::new(Config::default()).await;
    let lane = lane("e", "reboot");
    let same = |invoked: &Invoked| match invoked {
        Invoked::New { name, .. } => format!("new {}", name.command_id),
        Invoked::Repeated { name } => format!("repeated {}", name.command_id),
        Invoked::KeyReused => "reused".to_owned(),
        Invoked::TooMany(_) => "too many".to_owned(),
    };
    let commands =
        vec![keyed(&lane, "k", 1), keyed(&lane, "k", 1), keyed(&lane, "k", 2), keyed(&lane, "l", 1)];
    let invoked = bed.ledger.invoke(commands, false).await.unwrap();
    assert_eq!(invoked.iter().map(same).collect::<Vec<_>>(), ["new 1", "repeated 1", "reused", "new 2"]);
    let commands = vec![keyed(&lane, "k", 2), keyed(&lane, "k", 1), keyed(&lane, "m", 1)];
    let invoked = bed.ledger.invoke(commands, false).await.unwrap();
    assert_eq!(invoked.iter().map(same).collect::<Vec<_>>(), ["reused", "reused", "new 3"]);
    let invoked = bed.ledger.invoke(vec![keyed(&lane, "l", 1)], false).await.unwrap();
    assert_eq!(same(&invoked[0]), "repeated 2");

    // Many at once, through two replicas.
    let second = Ledger::new(bed.pool.clone(), Arc::default(), Arc::default());
    let calls = (0..40).map(|index| {
        let ledger = if index % 2 == 0 { &bed.ledger } else { &second };
        ledger.invoke(vec![keyed(&lane, "n", 1)], false)
    });
    let mut outcomes: Vec<String> = futures::future::join_all(calls)
        .await
        .into_iter()
        .map(|invoked| same(&invoked.unwrap()[0]))
        .collect();
    outcomes.sort_unstable();
    assert_eq!(outcomes[0], "new 4");
    assert!(outcomes[1..].iter().all(|outcome| outcome == "repeated 4"), "{outcomes:?}");
}

#[tokio::test]
async fn an_endpoint_has_no_more_outstanding_commands_than_it_may() {
    let bed = Bed::new(Config { outstanding_per_endpoint_max: 2, ..Config::default() }).await;
    let (reboot, zero) = (lane("e", "reboot"), lane("e", "zero"));
    let commands = vec![command(&reboot), command(&zero), keyed(&zero, "k", 1), keyed(&zero, "k", 1)];
    let invoked = bed.ledger.invoke(commands, false).await.unwrap();
    assert!(matches!(&invoked[2..], [Invoked::TooMany(2), Invoked::TooMany(2)]), "{invoked:?}");
    assert!(matches!(
        bed.ledger.invoke(vec![command(&reboot)], false).await.unwrap()[0],
        Invoked::TooMany(2)
    ));
    assert_eq!(bed.result(&reboot, 1).await, ResultTaken::Taken);
    // The key of what was refused is free.
    let (name, _) = bed.invoke(keyed(&zero, "k", 1)).await;
    assert_eq!(name.command_id, 2);
    assert_eq!(bed.invoke_count().await, 3);
}

#[tokio::test]
async fn what_was_claimed_for_a_caller_that_has_gone_is_due_again() {
    let bed = Bed::new(Config::default()).await;
    let lane = lane("e", "reboot");
    let mut blocker = bed.pool.begin().await.unwrap();
    sqlx::query("LOCK TABLE lanes IN EXCLUSIVE MODE").execute(&mut *blocker).await.unwrap();
    let mut call = Box::pin(bed.ledger.invoke(vec![command(&lane)], true));
    assert!(futures::poll!(&mut call).is_pending());
    drop(call);
    blocker.rollback().await.unwrap();
    let claims = testkit::eventually("the claim is given back", Duration::from_secs(10), async || {
        let claims = bed.ledger.due(10).await.unwrap();
        (!claims.is_empty()).then_some(claims)
    })
    .await;
    assert_eq!(ids(&claims[0]), [1]);
    let attempts = bed.ledger.last(&lane).await.unwrap().unwrap().attempts;
    assert_eq!(attempts, 1);
}

impl Bed {
    async fn invoke_count(&self) -> i64 {
        sqlx::query_scalar("SELECT count(*) FROM commands").fetch_one(&self.pool).await.unwrap()
    }
}
