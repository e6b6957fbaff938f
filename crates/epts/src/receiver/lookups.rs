//! Messages that wait for their application to be looked up.

use std::collections::HashMap;
use std::collections::hash_map::Entry;

use ids::AppVersionName;
use parking_lot::Mutex;
use tokio_util::task::TaskTracker;

/// Messages by application version, in order, and those who ask.
pub(super) struct Lookups<M> {
    waiting: Mutex<Waiting<M>>,
    messages_max: usize,
    asking: TaskTracker,
}

struct Waiting<M> {
    by_version: HashMap<AppVersionName, Vec<M>>,
    count: usize,
}

/// Whether somebody asks for an application already.
pub(super) enum Asked {
    Before,
    NotYet,
}

impl<M> Lookups<M> {
    pub(super) fn new(messages_max: usize) -> Self {
        let waiting = Mutex::new(Waiting { by_version: HashMap::new(), count: 0 });
        Self { waiting, messages_max, asking: TaskTracker::new() }
    }

    /// Whether messages of the version wait, so that the next one must wait behind them.
    pub(super) fn is_waiting(&self, name: &AppVersionName) -> bool {
        self.waiting.lock().by_version.contains_key(name)
    }

    /// Puts a message aside; one that finds no room comes back.
    pub(super) fn set_aside(&self, name: &AppVersionName, message: M) -> Result<Asked, M> {
        let mut waiting = self.waiting.lock();
        if waiting.count >= self.messages_max {
            return Err(message);
        }
        waiting.count += 1;
        match waiting.by_version.entry(name.clone()) {
            Entry::Occupied(mut others) => {
                others.get_mut().push(message);
                Ok(Asked::Before)
            }
            Entry::Vacant(first) => {
                first.insert(vec![message]);
                Ok(Asked::NotYet)
            }
        }
    }

    /// The messages of the version that wait now; none when there are no more, and then the next one need not wait.
    pub(super) fn take(&self, name: &AppVersionName) -> Option<Vec<M>> {
        let mut waiting = self.waiting.lock();
        let taken = waiting.by_version.get_mut(name).map(std::mem::take).unwrap_or_default();
        waiting.count -= taken.len();
        if taken.is_empty() {
            waiting.by_version.remove(name);
            return None;
        }
        Some(taken)
    }

    /// Runs who asks.
    pub(super) fn spawn(&self, asking: impl Future<Output = ()> + Send + 'static) {
        self.asking.spawn(asking);
    }

    /// Waits until all who have asked so far are done.
    pub(super) async fn finished(&self) {
        self.asking.close();
        self.asking.wait().await;
    }
}
