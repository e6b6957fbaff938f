//! Two replicas and many tasks that do at random what there is to do; afterwards the ledger must be consistent.

use std::collections::{HashMap, HashSet};

use parking_lot::Mutex;

use super::*;

/// Woken at random: whoever connects is pushed to, whatever else is under way.
const WOKEN: &str = "woken";
const TASKS: u64 = 12;
const STEPS: usize = 60;

/// What the tasks know.
#[derive(Default)]
struct Known {
    invoked: Vec<CommandName>,
    /// Commands whose end was confirmed: they may not be pushed any more.
    ended: HashSet<CommandName>,
    /// How many pushes of a command are under way.
    pushed: HashMap<CommandName, u32>,
    executed: HashSet<CommandName>,
}

struct Chance {
    ledgers: [Ledger; 2],
    known: Mutex<Known>,
}

/// Numbers that are the same in each run.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: usize) -> usize {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        usize::try_from(self.0 >> 33).unwrap() % sides
    }

    fn endpoint(&mut self) -> &'static str {
        ["a", "b", WOKEN][self.roll(3)]
    }

    fn lane(&mut self) -> Lane {
        lane(self.endpoint(), ["reboot", "zero"][self.roll(2)])
    }

    fn pushed(&mut self) -> Pushed {
        [Pushed::Delivered, Pushed::Delivered, Pushed::Offline, Pushed::Unknown][self.roll(4)]
    }
}

impl Chance {
    fn ledger(&self, dice: &mut Dice) -> &Ledger {
        &self.ledgers[dice.roll(2)]
    }

    /// Pushes a claim, as far as the dice say, and those that follow.
    async fn push(&self, dice: &mut Dice, claim: Option<Claim>, ended: &HashSet<CommandName>) {
        let mut next = claim;
        let mut ended = ended.clone();
        while let Some(claim) = next.take() {
            let names: Vec<CommandName> = claim
                .commands
                .iter()
                .map(|due| CommandName { lane: claim.lane.clone(), command_id: due.command_id })
                .collect();
            {
                let mut known = self.known.lock();
                for name in &names {
                    assert!(!ended.contains(name), "{name} was pushed after its end was confirmed");
                    let pushed = known.pushed.entry(name.clone()).or_default();
                    *pushed += 1;
                    assert!(
                        *pushed == 1 || name.lane.endpoint_id.as_str() == WOKEN,
                        "{name} is pushed twice"
                    );
                }
            }
            for _ in 0..dice.roll(20) {
                tokio::task::yield_now().await;
            }
            // Some results are faster than the end of the push.
            if dice.roll(4) == 0 {
                self.report(dice, &claim.lane, names[0].command_id).await;
            }
            {
                let mut known = self.known.lock();
                for name in &names {
                    *known.pushed.get_mut(name).unwrap() -= 1;
                }
                ended = known.ended.clone();
            }
            let pushed = dice.pushed();
            next = self.ledger(dice).settle(claim, pushed).await.unwrap();
        }
    }

    async fn report(&self, dice: &mut Dice, lane: &Lane, command_id: i32) {
        let results = vec![result(command_id), result(command_id), result(i32::MAX)];
        let taken = self.ledger(dice).results(lane, results).await.unwrap();
        assert_eq!(taken[2], ResultTaken::Unknown);
        let name = CommandName { lane: lane.clone(), command_id };
        if taken[0] == ResultTaken::Taken {
            assert_eq!(taken[1], ResultTaken::Repeated);
            assert!(self.known.lock().executed.insert(name.clone()), "{name} was executed twice");
        } else {
            assert_eq!(taken[0], taken[1]);
        }
    }

    async fn step(&self, dice: &mut Dice) {
        let (ended, some) = {
            let known = self.known.lock();
            let count = known.invoked.len();
            let some = (count > 0).then(|| known.invoked[dice.roll(count)].clone());
            (known.ended.clone(), some)
        };
        match (dice.roll(12), some) {
            (0..=3, _) | (_, None) => {
                let ttl = if dice.roll(5) == 0 {
                    Ttl::Once
                } else {
                    Ttl::For(Duration::from_millis(u64::try_from(dice.roll(400)).unwrap()))
                };
                let count = 1 + dice.roll(3);
                let commands = (0..count).map(|_| NewCommand { ttl, ..command(&dice.lane()) }).collect();
                let invoked = self.ledger(dice).invoke(commands, dice.roll(2) == 0).await.unwrap();
                for invoked in invoked {
                    let Invoked::New { name, claim, .. } = invoked else { panic!("{invoked:?}") };
                    self.known.lock().invoked.push(name);
                    self.push(dice, claim, &ended).await;
                }
            }
            (4..=5, _) => {
                for claim in self.ledger(dice).due(3).await.unwrap() {
                    self.push(dice, Some(claim), &ended).await;
                }
            }
            (6..=7, Some(name)) => self.report(dice, &name.lane, name.command_id).await,
            (8, Some(name)) => {
                if self.ledger(dice).cancel(&name, "by chance").await.unwrap() == Cancelled::Confirmed {
                    self.known.lock().ended.insert(name);
                }
            }
            (9, Some(name)) => {
                let Lane { tenant, endpoint_id, .. } = &name.lane;
                self.ledger(dice)
                    .hand_out(tenant, endpoint_id, None, Duration::from_millis(50))
                    .await
                    .unwrap();
            }
            (10, _) => self.ledger(dice).wake(&connected(WOKEN, Duration::ZERO)).await.unwrap(),
            (_, Some(_)) => {
                self.ledger(dice).end(5).await.unwrap();
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn whatever_happens_each_command_has_one_end() {
    let config = Config {
        push_timeout_ms: 100,
        retry_pause_ms: 5,
        result_pause_ms: 5,
        retry_pause_max_ms: 50,
        once_result_timeout_ms: 300,
        outstanding_per_endpoint_max: 100_000,
        ..Config::default()
    };
    let bed = Bed::new(config.clone()).await;
    let second = Ledger::new(bed.pool.clone(), Arc::new(config), Arc::default());
    let chance = Arc::new(Chance { ledgers: [bed.ledger.clone(), second], known: Mutex::default() });
    let tasks = (0..TASKS).map(|task| {
        let chance = chance.clone();
        tokio::spawn(async move {
            let mut dice = Dice(task * 7_919 + 1);
            for _ in 0..STEPS {
                chance.step(&mut dice).await;
            }
        })
    });
    for task in futures::future::join_all(tasks).await {
        task.unwrap();
    }
    testkit::eventually("all have ended", Duration::from_secs(60), async || {
        while bed.ledger.end(100).await.unwrap() > 0 {}
        let open: i64 = sqlx::query_scalar(
            "SELECT count(*) FROM commands WHERE state IN ('CREATED', 'SENT', 'DELIVERED')",
        )
        .fetch_one(&bed.pool)
        .await
        .unwrap();
        (open == 0).then_some(())
    })
    .await;
    let executed = chance.known.lock().executed.clone();
    check(&bed, &executed).await;
}

async fn check(bed: &Bed, executed: &HashSet<CommandName>) {
    let history = History {
        tenant: TenantId::parse("acme").unwrap(),
        application: application(),
        endpoints: Vec::new(),
        command_types: Vec::new(),
        statuses: Vec::new(),
        from: None,
        to: None,
        ascending: true,
        offset: 0,
        limit: 100_000,
    };
    let (total, commands) = bed.ledger.history(&history).await.unwrap();
    assert!(total > 100, "{total}");
    let mut ids: HashMap<Lane, Vec<i32>> = HashMap::new();
    let mut ends: HashMap<State, usize> = HashMap::new();
    for command in commands {
        let (name, states) = (&command.name, &command.transitions);
        assert_eq!(states.last().unwrap().state, command.state, "{name}");
        assert_eq!(states.last().unwrap().at, command.updated_at, "{name}");
        assert_eq!(
            states.iter().filter(|transition| transition.state.is_final()).count(),
            1,
            "{name} {states:?}"
        );
        assert!(states.is_sorted_by_key(|transition| transition.state), "{name} {states:?}");
        assert_eq!(executed.contains(name), command.state == State::Executed, "{name}");
        ids.entry(name.lane.clone()).or_default().push(name.command_id);
        *ends.entry(command.state).or_default() += 1;
    }
    for (lane, mut ids) in ids {
        ids.sort_unstable();
        assert!(ids.iter().copied().eq(1..=i32::try_from(ids.len()).unwrap()), "{lane:?} {ids:?}");
    }
    assert_eq!(ends.len(), 4, "each end was met: {ends:?}");
}
