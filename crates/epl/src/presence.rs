//! When an endpoint is connected: while any gateway replica says so.
//!
//! Pure: what is told in which order decides, and no clock. What one replica says of an endpoint is ordered by that
//! replica's own clock; what different replicas say is not compared.

use std::collections::BTreeMap;

use ids::{AppVersionName, EndpointId, ReplicaId};

/// What is known of one endpoint.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Endpoint {
    pub(crate) app_version: AppVersionName,
    /// None until the first transition.
    pub(crate) is_connected: Option<bool>,
    /// The time of the last transition, in ms.
    pub(crate) changed_ms: i64,
    pub(crate) transitions: i64,
    pub(crate) presences: BTreeMap<ReplicaId, Presence>,
}

/// What one gateway replica said last.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Presence {
    pub(crate) is_up: bool,
    /// When, by the replica's clock, in ms.
    pub(crate) event_ms: i64,
}

/// Something that happened to an endpoint at a gateway replica.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Change {
    pub(crate) endpoint: EndpointId,
    pub(crate) replica: ReplicaId,
    /// When, by the replica's clock, in ms.
    pub(crate) at_ms: i64,
    pub(crate) what: What,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum What {
    /// It connected, with this application version.
    Connected(AppVersionName),
    /// It disconnected.
    Disconnected(AppVersionName),
    /// The replica died, and was alive last at that time.
    Died,
}

/// A change of the state that the world is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Transition {
    pub(crate) is_connected: bool,
    pub(crate) at_ms: i64,
}

/// What became of a change.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Applied {
    /// The replica said something newer before.
    Outdated,
    /// It is noted, and the endpoint's state is as before.
    Noted,
    /// The state changed.
    Changed(Transition),
}

impl Endpoint {
    pub(crate) fn new(app_version: AppVersionName) -> Self {
        let presences = BTreeMap::new();
        Self { app_version, is_connected: None, changed_ms: 0, transitions: 0, presences }
    }

    /// Takes a change in; `now_ms` is the present, which no transition may lie after.
    pub(crate) fn apply(&mut self, change: &Change, now_ms: i64) -> Applied {
        let known = self.presences.get(&change.replica).copied();
        let presence = match &change.what {
            What::Died => match known {
                Some(known) if known.is_up => {
                    Presence { is_up: false, event_ms: known.event_ms.max(change.at_ms) }
                }
                _ => return Applied::Outdated,
            },
            What::Connected(_) | What::Disconnected(_) => {
                if known.is_some_and(|known| change.at_ms < known.event_ms) {
                    return Applied::Outdated;
                }
                let is_up = matches!(change.what, What::Connected(_));
                Presence { is_up, event_ms: change.at_ms }
            }
        };
        self.presences.insert(change.replica.clone(), presence);
        if let What::Connected(app_version) = &change.what {
            self.app_version = app_version.clone();
        }
        let is_connected = self.presences.values().any(|presence| presence.is_up);
        if self.is_connected == Some(is_connected) {
            return Applied::Noted;
        }
        self.is_connected = Some(is_connected);
        self.transitions += 1;
        // Clocks of replicas differ. Whatever they say, transitions follow each other, or the last state would not be the
        // newest one.
        self.changed_ms = presence.event_ms.min(now_ms).max(self.changed_ms.saturating_add(1));
        Applied::Changed(Transition { is_connected, at_ms: self.changed_ms })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const NOW: i64 = 1_000_000;

    fn version(name: &str) -> AppVersionName {
        AppVersionName::parse(name).unwrap()
    }

    fn change(replica: &str, at_ms: i64, what: What) -> Change {
        let replica = ReplicaId::parse(replica).unwrap();
        Change { endpoint: EndpointId::parse("e").unwrap(), replica, at_ms, what }
    }

    fn up(replica: &str, at_ms: i64) -> Change {
        change(replica, at_ms, What::Connected(version("v1")))
    }

    fn down(replica: &str, at_ms: i64) -> Change {
        change(replica, at_ms, What::Disconnected(version("v1")))
    }

    fn run(changes: &[Change]) -> Vec<(bool, i64)> {
        let mut endpoint = Endpoint::new(version("v1"));
        let applied = changes.iter().map(|change| endpoint.apply(change, NOW));
        applied
            .filter_map(|applied| match applied {
                Applied::Changed(transition) => Some((transition.is_connected, transition.at_ms)),
                Applied::Noted | Applied::Outdated => None,
            })
            .collect()
    }

    #[test]
    fn an_endpoint_comes_and_goes() {
        assert_eq!(run(&[up("a", 5), down("a", 9), up("a", 12)]), [(true, 5), (false, 9), (true, 12)]);
        assert_eq!(run(&[down("a", 9)]), [(false, 9)], "it was connected before anybody listened");
    }

    #[test]
    fn a_repeat_is_no_transition() {
        assert_eq!(
            run(&[up("a", 5), up("a", 5), up("a", 7), down("a", 9), down("a", 9)]),
            [(true, 5), (false, 9)]
        );
    }

    #[test]
    fn the_end_of_an_old_session_is_not_the_end_of_a_newer_one() {
        assert_eq!(run(&[up("a", 5), up("b", 8), down("a", 10)]), [(true, 5)]);
        assert_eq!(run(&[up("a", 5), up("b", 8), down("a", 10), down("b", 11)]), [(true, 5), (false, 11)]);
    }

    #[test]
    fn what_a_replica_said_before_does_not_count_any_more() {
        assert_eq!(run(&[down("a", 9), up("a", 5)]), [(false, 9)]);
        assert_eq!(run(&[up("a", 5), up("a", 9), down("a", 7)]), [(true, 5)]);
    }

    #[test]
    fn a_dead_replica_holds_nobody() {
        let died = |at_ms| change("a", at_ms, What::Died);
        assert_eq!(run(&[up("a", 5), died(20), died(30)]), [(true, 5), (false, 20)]);
        assert_eq!(
            run(&[up("a", 25), died(20)]),
            [(true, 25), (false, 26)],
            "it came after the last sign of life"
        );
        assert_eq!(run(&[up("a", 5), up("b", 6), died(20)]), [(true, 5)]);
        assert_eq!(run(&[died(20)]), []);
        assert_eq!(
            run(&[up("a", 5), died(20), up("a", 7), up("a", 40)]),
            [(true, 5), (false, 20), (true, 40)]
        );
    }

    #[test]
    fn transitions_follow_each_other_whatever_the_clocks_say() {
        assert_eq!(run(&[up("a", 50), down("a", 60), up("b", 10)]), [(true, 50), (false, 60), (true, 61)]);
        assert_eq!(run(&[up("a", NOW + 500), down("a", NOW + 900)]), [(true, NOW), (false, NOW + 1)]);
        assert_eq!(run(&[up("a", i64::MIN)]), [(true, 1)]);
    }

    #[test]
    fn the_application_version_is_that_of_the_newest_connection() {
        let mut endpoint = Endpoint::new(version("v1"));
        endpoint.apply(&change("a", 5, What::Connected(version("v2"))), NOW);
        endpoint.apply(&change("b", 6, What::Disconnected(version("v1"))), NOW);
        endpoint.apply(&change("a", 4, What::Connected(version("v3"))), NOW);
        assert_eq!(endpoint.app_version, version("v2"));
    }

    proptest! {
        /// Two replicas, whose events come in any order between them and each in its own: the state in the end is that of
        /// their last words, and transitions alternate and follow each other in time.
        #[test]
        fn the_last_words_decide(events in proptest::collection::vec((0..2_usize, any::<bool>(), 0..1_000_i64), 1..40)) {
            let replicas = ["a", "b"];
            let mut clocks = [0, 500];
            let mut last = [None; 2];
            let changes: Vec<Change> = events.iter().map(|(replica, is_up, step)| {
                clocks[*replica] += step;
                last[*replica] = Some(*is_up);
                let at = clocks[*replica];
                if *is_up { up(replicas[*replica], at) } else { down(replicas[*replica], at) }
            }).collect();
            let transitions = run(&changes);
            prop_assert_eq!(transitions.last().map(|(state, _)| *state), Some(last.contains(&Some(true))));
            // Coming again as a whole, as after a lost acknowledgement, changes nothing in the end.
            let twice: Vec<Change> = changes.iter().chain(&changes).cloned().collect();
            prop_assert_eq!(run(&twice).last().map(|(state, _)| *state), transitions.last().map(|(state, _)| *state));
            let follow = |pair: &[(bool, i64)]| pair[0].0 != pair[1].0 && pair[0].1 < pair[1].1;
            prop_assert!(transitions.windows(2).all(follow), "{:?}", transitions);
        }
    }
}
