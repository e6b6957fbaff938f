//! Which extensions there are.
//!
//! Extension instances announce themselves in a NATS key-value bucket; the gateway watches it, so a new
//! extension needs neither configuration nor a restart here. What was last known stays known while NATS is
//! away, and an extension whose process has died stays known too: messages for it are answered with 503, not
//! 404. When NATS has lost the bucket, extensions announce themselves again within half a minute; so one that
//! is missing without having been deleted stays known for a while.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use async_nats::jetstream::kv::{self, Operation};
use extension::Registration;
use futures::StreamExt as _;
use ids::InstanceName;
use ism::subject::instance;
use kp1::{TopicFilter, TopicPattern};
use parking_lot::RwLock;
use tokio::sync::Notify;
use tokio::time::{Instant, MissedTickBehavior, interval_at};
use tokio_util::sync::CancellationToken;

use crate::limits::Backoff;

/// How often the whole bucket is read again, in case a change was missed.
const READ_AGAIN: Duration = Duration::from_secs(60);
/// How long an extension that is missing in the bucket stays known, at least: twice the time in which it
/// would announce itself again.
const MISSING_KEPT: Duration = Duration::from_secs(60);
/// Topic patterns of one extension; more are ignored.
const TOPICS_MAX: usize = 64;

/// What is known of an extension.
pub(crate) enum Known {
    Extension(Arc<Registration>),
    /// No instance of that name has announced itself, and others have.
    Unknown,
    /// The bucket has not been read yet, or no extension has announced itself: NATS is new or has lost its
    /// store, and the extensions are about to. So nothing can be said.
    NotYet,
}

/// Topics outside of 1/KP that an extension serves.
#[derive(Debug)]
pub(crate) struct Served {
    pub(crate) extension: InstanceName,
    pub(crate) pattern: TopicPattern,
    /// The extension's payload limit.
    pub(crate) max_payload_bytes: Option<usize>,
}

/// Who serves topics outside of 1/KP.
pub(crate) enum Server {
    Extension(Arc<Served>),
    Nobody,
    /// As [`Known::NotYet`].
    NotYet,
}

/// The extensions that have announced themselves.
#[derive(Default)]
pub(crate) struct Registry {
    /// None before the bucket has been read.
    extensions: RwLock<Option<HashMap<InstanceName, Entry>>>,
    /// The platform's own extensions first, then by name: of two that serve the same topic the first does, so
    /// no extension takes a topic from the platform. Written under the lock of the extensions.
    topics: RwLock<Arc<[Arc<Served>]>>,
    again: Notify,
}

/// A known extension.
struct Entry {
    registration: Arc<Registration>,
    /// Since when the bucket is known not to hold it.
    missing_since: Option<Instant>,
}

impl Entry {
    fn new(registration: Registration) -> Self {
        Self { registration: Arc::new(registration), missing_since: None }
    }
}

impl Registry {
    /// What is known of an extension instance.
    pub(crate) fn look_up(&self, name: &InstanceName) -> Known {
        match &*self.extensions.read() {
            None => Known::NotYet,
            Some(extensions) if extensions.is_empty() => Known::NotYet,
            Some(extensions) => extensions
                .get(name)
                .map_or(Known::Unknown, |entry| Known::Extension(entry.registration.clone())),
        }
    }

    /// Who serves a topic outside of 1/KP.
    pub(crate) fn server_of_topic(&self, topic: &str) -> Server {
        self.server(|pattern| pattern.takes(topic))
    }

    /// Who serves the topics that a filter reaches, outside of 1/KP.
    pub(crate) fn server_of_filter(&self, filter: &TopicFilter) -> Server {
        self.server(|pattern| pattern.admits(filter))
    }

    fn server(&self, is_served: impl Fn(&TopicPattern) -> bool) -> Server {
        if self.extensions.read().as_ref().is_none_or(HashMap::is_empty) {
            return Server::NotYet;
        }
        let topics = self.topics.read().clone();
        let first = topics.iter().find(|served| is_served(&served.pattern));
        first.map_or(Server::Nobody, |served| Server::Extension(served.clone()))
    }

    /// The filters by which clients may have subscribed to a topic of an extension; none when it is not one
    /// of its topics.
    pub(crate) fn filters(&self, extension: &str, topic: &str) -> BTreeSet<String> {
        let topics = self.topics.read().clone();
        let own = topics.iter().filter(|served| served.extension.as_str() == extension);
        own.filter(|served| served.pattern.takes(topic))
            .flat_map(|served| served.pattern.filters(topic))
            .collect()
    }

    /// Reads the topics anew out of the registrations.
    fn gather_topics(&self, extensions: &HashMap<InstanceName, Entry>) {
        let mut by_name: Vec<_> = extensions.iter().collect();
        by_name.sort_by_key(|(name, _)| (!instance::EXTENSIONS.contains(&name.as_str()), *name));
        let declared = by_name.iter().flat_map(|(name, entry)| {
            let topics = entry.registration.topics.iter().take(TOPICS_MAX);
            topics.map(move |text| (*name, &entry.registration, text))
        });
        let parsed = declared.filter_map(|(extension, registration, text)| {
            let pattern = TopicPattern::parse(text)
                .inspect_err(|error| tracing::debug!(%extension, text, %error, "a topic pattern is ignored"))
                .ok()?;
            let max_payload_bytes = registration.max_payload_bytes;
            Some(Arc::new(Served { extension: extension.clone(), pattern, max_payload_bytes }))
        });
        let topics: Arc<[_]> = parsed.collect();
        let before = std::mem::replace(&mut *self.topics.write(), topics.clone());
        let same = |one: &Arc<Served>, other: &Arc<Served>| {
            one.extension == other.extension && one.pattern == other.pattern
        };
        // Registrations are read again and again; what they say is told when it is news.
        if before.len() != topics.len() || !before.iter().zip(&*topics).all(|(one, other)| same(one, other)) {
            tell_overlaps(&topics);
        }
    }

    /// Reads the bucket anew: changes may have been missed.
    pub(crate) fn read_again(&self) {
        self.again.notify_one();
    }

    fn put(&self, key: &str, value: &[u8]) {
        if let Some((name, registration)) = read(key, value)
            && let Some(extensions) = &mut *self.extensions.write()
        {
            extensions.insert(name, Entry::new(registration));
            self.gather_topics(extensions);
        }
    }

    /// Takes over all that the bucket holds. What it does not hold is forgotten only if it is missing for
    /// long.
    fn replace(&self, found: HashMap<InstanceName, Registration>, now: Instant) {
        let mut known = self.extensions.write();
        let mut extensions = known.take().unwrap_or_default();
        extensions.retain(|name, entry| {
            if found.contains_key(name) {
                return true;
            }
            let since = *entry.missing_since.get_or_insert_with(|| {
                tracing::warn!(extension = %name, "an extension is missing in the register; keeping it for a while");
                now
            });
            now.saturating_duration_since(since) < MISSING_KEPT
        });
        extensions.extend(found.into_iter().map(|(name, registration)| (name, Entry::new(registration))));
        self.gather_topics(&extensions);
        *known = Some(extensions);
    }

    fn remove(&self, key: &str) {
        if let Some(extensions) = &mut *self.extensions.write() {
            extensions.remove(key);
            self.gather_topics(extensions);
        }
    }

    /// Follows the bucket until `stopping` is cancelled; whatever fails is tried again.
    pub(crate) async fn follow(&self, client: async_nats::Client, stopping: CancellationToken) {
        let mut backoff = Backoff::new();
        loop {
            let followed = tokio::select! {
                followed = self.follow_once(&client, &mut backoff) => followed,
                () = stopping.cancelled() => return,
            };
            if let Err(error) = followed {
                tracing::warn!(
                    error = format!("{error:#}"),
                    "the register of extensions cannot be read; trying again"
                );
            }
            tokio::select! {
                () = tokio::time::sleep(backoff.next()) => {}
                () = stopping.cancelled() => return,
            }
        }
    }

    /// Follows the bucket until that fails, or until it shall be read anew.
    async fn follow_once(&self, client: &async_nats::Client, backoff: &mut Backoff) -> anyhow::Result<()> {
        let bucket = extension::bucket(client).await.context("opening the bucket (is JetStream on?)")?;
        // The watch stands before the bucket is read, so that no change falls between the two.
        let mut changes = bucket.watch_all().await.context("watching the bucket")?;
        self.read_all(&bucket).await?;
        *backoff = Backoff::new();
        let mut again = interval_at(Instant::now() + READ_AGAIN, READ_AGAIN);
        again.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                _ = again.tick() => self.read_all(&bucket).await?,
                () = self.again.notified() => return Ok(()),
                change = changes.next() => {
                    let entry = change.context("the watch has ended")?.context("reading a change")?;
                    match entry.operation {
                        Operation::Put => self.put(&entry.key, &entry.value),
                        Operation::Delete | Operation::Purge => self.remove(&entry.key),
                    }
                }
            }
        }
    }

    async fn read_all(&self, bucket: &kv::Store) -> anyhow::Result<()> {
        let mut extensions = HashMap::new();
        let mut keys = bucket.keys().await.context("listing the bucket")?;
        while let Some(key) = keys.next().await {
            let key = key.context("listing the bucket")?;
            let value = bucket.get(&key).await.with_context(|| format!("reading {key}"))?;
            extensions.extend(value.and_then(|value| read(&key, &value)));
        }
        self.replace(extensions, Instant::now());
        Ok(())
    }
}

fn tell_overlaps(topics: &[Arc<Served>]) {
    for (at, first) in topics.iter().enumerate() {
        for other in &topics[at + 1..] {
            if first.extension != other.extension && first.pattern.overlaps(&other.pattern) {
                tracing::warn!(
                    serves = %first.extension,
                    pattern = first.pattern.as_str(),
                    does_not = %other.extension,
                    other = other.pattern.as_str(),
                    "two extensions serve the same topics; the platform's own, else the one whose name comes first, is asked"
                );
            }
        }
    }
}

fn read(key: &str, value: &[u8]) -> Option<(InstanceName, Registration)> {
    let name = InstanceName::parse(key).ok()?;
    match serde_json::from_slice(value) {
        Ok(registration) => Some((name, registration)),
        Err(error) => {
            tracing::warn!(extension = key, %error, "an extension's registration cannot be read; it is ignored");
            None
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn registration(endpoint_aware: bool) -> Vec<u8> {
        let json = serde_json::json!({
            "name": "x", "version": "1", "protocol": "esp", "endpointAware": endpoint_aware, "maxPayloadBytes": 10,
        });
        serde_json::to_vec(&json).unwrap()
    }

    #[test]
    fn nothing_is_unknown_before_an_extension_has_announced_itself() {
        let registry = Registry::default();
        let dcx = InstanceName::parse("dcx").unwrap();
        registry.put("dcx", &registration(true));
        assert!(matches!(registry.look_up(&dcx), Known::NotYet), "the bucket has not been read");
        registry.replace(HashMap::new(), Instant::now());
        assert!(matches!(registry.look_up(&dcx), Known::NotYet), "the bucket is empty");
        registry.put("cex", &registration(true));
        assert!(matches!(registry.look_up(&dcx), Known::Unknown));
        registry.put("dcx", &registration(false));
        assert!(matches!(registry.look_up(&dcx), Known::Extension(found) if !found.endpoint_aware));
        registry.remove("dcx");
        assert!(matches!(registry.look_up(&dcx), Known::Unknown));
        registry.remove("cex");
        assert!(matches!(registry.look_up(&dcx), Known::NotYet));
    }

    fn serving(topics: &[&str]) -> Vec<u8> {
        let json = serde_json::json!({
            "name": "x", "version": "1", "protocol": "esp", "endpointAware": true, "topics": topics,
        });
        serde_json::to_vec(&json).unwrap()
    }

    #[test]
    fn topics_are_served_by_the_first_that_names_them() {
        let registry = Registry::default();
        let asked = |topic: &str| match registry.server_of_topic(topic) {
            Server::Extension(served) => served.extension.to_string(),
            Server::Nobody => "nobody".to_owned(),
            Server::NotYet => "not yet".to_owned(),
        };
        assert_eq!(asked("cmd/t/req"), "not yet");
        registry.replace(HashMap::new(), Instant::now());
        assert_eq!(asked("cmd/t/req"), "not yet");
        registry.put("dcx", &registration(true));
        assert_eq!(asked("cmd/t/req"), "nobody");
        registry.put("b", &serving(&["cmd/{thing}/req", "cmd/{thing}/resp", "kp1/{a}", "{a}"]));
        registry.put("a", &serving(&["cmd/x/{what}"]));
        assert_eq!([asked("cmd/t/req"), asked("cmd/x/req"), asked("kp1/a")], ["b", "a", "nobody"]);
        let filter = TopicFilter::parse("cmd/+/req").unwrap();
        assert!(
            matches!(registry.server_of_filter(&filter), Server::Extension(one) if one.extension.as_str() == "b")
        );
        let filters = |extension| registry.filters(extension, "cmd/x/req").into_iter().collect::<Vec<_>>();
        assert_eq!(filters("b"), ["cmd/+/req", "cmd/x/req"]);
        assert_eq!(filters("a"), ["cmd/x/+", "cmd/x/req"]);
        assert!(filters("dcx").is_empty() && registry.filters("a", "cmd/y/req").is_empty());
        registry.remove("a");
        assert_eq!(asked("cmd/x/req"), "b");
        // The bucket knows nothing of it any more: it is kept for a while.
        let dcx: HashMap<_, _> = read("dcx", &registration(true)).into_iter().collect();
        registry.replace(dcx, Instant::now());
        assert_eq!(asked("cmd/x/req"), "b");
        // Nobody takes a topic from the platform's own.
        registry.put("a", &serving(&["cmd/x/{what}"]));
        registry.put("cex", &serving(&["cmd/{thing}/req"]));
        assert_eq!([asked("cmd/x/req"), asked("cmd/x/resp")], ["cex", "a"]);
    }

    fn is_known(registry: &Registry, name: &str) -> bool {
        matches!(registry.look_up(&InstanceName::parse(name).unwrap()), Known::Extension(_))
    }

    #[test]
    fn what_is_missing_without_having_been_deleted_stays_known_for_a_while() {
        let registry = Registry::default();
        let start = Instant::now();
        let bucket =
            |names: &[&str]| names.iter().filter_map(|name| read(name, &registration(true))).collect();
        registry.replace(bucket(&["dcx", "cex", "epmx"]), start);
        registry.replace(bucket(&["epmx"]), start);
        assert!(is_known(&registry, "dcx") && is_known(&registry, "cex") && is_known(&registry, "epmx"));
        registry.remove("cex");
        assert!(!is_known(&registry, "cex"));
        let almost = start + MISSING_KEPT.checked_sub(Duration::from_millis(1)).unwrap();
        registry.replace(bucket(&["epmx"]), almost);
        assert!(is_known(&registry, "dcx"));
        registry.replace(bucket(&["epmx"]), start + MISSING_KEPT);
        assert!(!is_known(&registry, "dcx") && is_known(&registry, "epmx"));
    }

    #[test]
    fn what_is_announced_again_is_not_missing_any_more() {
        let registry = Registry::default();
        let start = Instant::now();
        let one: HashMap<_, _> = read("dcx", &registration(true)).into_iter().collect();
        registry.replace(one.clone(), start);
        for (back, minutes) in [("in the bucket", 0), ("as a change", 10)] {
            let lost = start + Duration::from_secs(60 * minutes);
            registry.replace(HashMap::new(), lost);
            match back {
                "as a change" => registry.put("dcx", &registration(true)),
                _ => registry.replace(one.clone(), lost),
            }
            registry.replace(HashMap::new(), lost + MISSING_KEPT * 2);
            assert!(is_known(&registry, "dcx"), "{back}");
            registry.replace(one.clone(), lost + MISSING_KEPT * 2);
        }
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_lost_bucket_loses_no_extension() {
        let nats = testkit::nats().await;
        let client = nats.client().await;
        let registry = Arc::new(Registry::default());
        let announce = async |name: &'static str| {
            let bucket = extension::bucket(&client).await.unwrap();
            bucket.put(name, registration(true).into()).await.unwrap();
        };
        announce("dcx").await;
        let (following, stopping) = (registry.clone(), CancellationToken::new());
        let _stop = stopping.clone().drop_guard();
        let its_client = nats.client().await;
        tokio::spawn(async move { following.follow(its_client, stopping).await });
        let known = async |name: &'static str| {
            testkit::eventually("the extension is known", Duration::from_secs(20), async || {
                is_known(&registry, name).then_some(())
            })
            .await;
        };
        known("dcx").await;
        let jetstream = async_nats::jetstream::new(client.clone());
        jetstream.delete_key_value(extension::BUCKET).await.unwrap();
        announce("cex").await;
        registry.read_again();
        known("cex").await;
        assert!(is_known(&registry, "dcx"));
    }

    #[test]
    fn a_registration_that_cannot_be_read_is_ignored() {
        assert!(read("a.b", &registration(true)).is_none());
        assert!(read("dcx", b"{}").is_none());
    }
}
