//! The feed and the history.

use super::*;
use crate::ledger::feed::{FeedEvent, InvalidPosition, Position};

async fn read(bed: &Bed, after: &mut Position, limit: i64) -> Vec<String> {
    let tenant = TenantId::parse("acme").unwrap();
    let items = bed.ledger.feed(&tenant, &application(), after, &[], &[], limit).await.unwrap();
    items
        .into_iter()
        .map(|item| {
            *after = item.position.to_string().parse().unwrap();
            match item.event {
                FeedEvent::Command { happening, status_code } => {
                    format!("{} {} {status_code:?}", happening.name, happening.transition.state.as_str())
                }
                FeedEvent::Connectivity { endpoint_id, is_connected, .. } => {
                    format!("{endpoint_id} {is_connected}")
                }
            }
        })
        .collect()
}

#[tokio::test]
async fn a_reader_goes_on_where_it_was_and_misses_nothing() {
    let bed = Bed::new(Config { connectivity_kept_ms: 0, ..Config::default() }).await;
    let mut after = bed.ledger.feed_end().await.unwrap();
    let lane = lane("e", "reboot");
    bed.invoke(command(&lane)).await;
    // Nothing is read that a transaction may still come before; other tests of this server have some.
    let mut late = bed.pool.begin().await.unwrap();
    sqlx::query(
        "INSERT INTO connectivity (tenant_id, application_name, endpoint_id, is_connected, at)
         VALUES ('acme', 'meters', 'late', true, now())",
    )
    .execute(&mut *late)
    .await
    .unwrap();
    assert_eq!(bed.result(&lane, 1).await, ResultTaken::Taken);
    let first = testkit::eventually("the first", Duration::from_secs(30), async || {
        Some(read(&bed, &mut after, 10).await).filter(|items| !items.is_empty())
    })
    .await;
    assert_eq!(first, ["e/reboot/1 CREATED None"]);
    late.commit().await.unwrap();
    let mut others = Vec::new();
    testkit::eventually("the others", Duration::from_secs(30), async || {
        others.extend(read(&bed, &mut after, 1).await);
        (others.len() == 2).then_some(())
    })
    .await;
    assert_eq!(others, ["late true", "e/reboot/1 EXECUTED Some(200)"]);
    let (tenant, application) = (TenantId::parse("acme").unwrap(), application());
    assert!(!bed.ledger.feed_has_gap(&tenant, &application, &after).await.unwrap());
    let old: Position = "1-0-0".parse().unwrap();
    assert!(!bed.ledger.feed_has_gap(&tenant, &application, &old).await.unwrap());
    while bed.ledger.purge(10).await.unwrap() > 0 {}
    assert!(bed.ledger.feed_has_gap(&tenant, &application, &old).await.unwrap());
    for bad in ["", "1", "1-2", "1-2-3-4", "a-1-1", "1--1", "+1-1-1", "99999999999999999999-1-1"] {
        assert_eq!(bad.parse::<Position>(), Err(InvalidPosition), "{bad:?}");
    }
}

#[tokio::test]
async fn histories_have_pages_and_filters() {
    let bed = Bed::new(Config::default()).await;
    let lanes = [lane("a", "reboot"), lane("b", "zero")];
    for lane in lanes.iter().cycle().take(6) {
        bed.ledger.invoke(vec![command(lane)], false).await.unwrap();
    }
    bed.result(&lanes[0], 2).await;
    let all = History {
        tenant: lanes[0].tenant.clone(),
        application: application(),
        endpoints: Vec::new(),
        command_types: Vec::new(),
        statuses: Vec::new(),
        from: None,
        to: None,
        ascending: false,
        offset: 0,
        limit: 4,
    };
    let found = async |history: History| {
        let (total, commands) = bed.ledger.history(&history).await.unwrap();
        (total, commands.iter().map(|command| command.name.to_string()).collect::<Vec<_>>())
    };
    let (total, page) = found(all.clone()).await;
    assert_eq!(
        (total, page),
        (6, ["b/zero/3", "a/reboot/3", "b/zero/2", "a/reboot/2"].map(String::from).to_vec())
    );
    let (_, page) = found(History { ascending: true, offset: 4, ..all.clone() }).await;
    assert_eq!(page, ["a/reboot/3", "b/zero/3"]);
    let executed = History { statuses: vec![Status::Executed], ..all.clone() };
    assert_eq!(found(executed).await, (1, vec!["a/reboot/2".to_owned()]));
    let narrow = History {
        statuses: vec![Status::Pending],
        endpoints: vec![lanes[1].endpoint_id.clone()],
        command_types: vec![lanes[1].command_type.clone()],
        from: Some(Utc::now() - Duration::from_secs(60)),
        to: Some(Utc::now() + Duration::from_secs(60)),
        ..all.clone()
    };
    assert_eq!(found(narrow).await.0, 3);
    let other = History { tenant: TenantId::parse("other").unwrap(), ..all };
    assert_eq!(found(other).await.0, 0);
    let (tenant, endpoints) =
        (&lanes[0].tenant, [lanes[0].endpoint_id.clone(), lanes[1].endpoint_id.clone()]);
    let names = |commands: Vec<crate::domain::Command>| {
        commands.iter().map(|command| command.name.to_string()).collect::<Vec<_>>()
    };
    assert_eq!(names(bed.ledger.last_of(tenant, &endpoints, &[]).await.unwrap()), ["a/reboot/3", "b/zero/3"]);
    let of = bed.ledger.of_endpoints(tenant, &endpoints, &[lanes[0].command_type.clone()], 2).await.unwrap();
    assert_eq!(names(of), ["a/reboot/3", "a/reboot/2"]);
    assert_eq!(bed.ledger.last(&lanes[0]).await.unwrap().unwrap().name.command_id, 3);
}
