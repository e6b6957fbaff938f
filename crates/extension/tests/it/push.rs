//! Pushes, with the gateway played by the test.

use bytes::Bytes;
use futures::StreamExt as _;
use ids::{InstanceName, ReplicaId};
use ism::esp::{CLIENT_DATA, EXTENSION_DATA};
use ism::{DeliveryReport, ExtensionData, Record as _};
use runtime::now_ms;

use crate::{Running, message, start, text};

/// A subject of the gateway at which the test reports on pushes; it tells what was pushed.
struct Played {
    pushes: tokio::sync::mpsc::Receiver<ExtensionData>,
}

impl Running {
    /// Answers every push at a subject with these reports.
    async fn play(&self, subject: String, reports: &'static [i32]) -> Played {
        let mut heard = self.client.subscribe(subject).await.unwrap();
        let (client, (sender, pushes)) = (self.client.clone(), tokio::sync::mpsc::channel(16));
        tokio::spawn(async move {
            while let Some(push) = heard.next().await {
                let data = ExtensionData::decode(&push.payload).unwrap();
                let reply = push.reply.unwrap();
                for status_code in reports {
                    let report = DeliveryReport {
                        correlation_id: data.correlation_id.clone(),
                        timestamp: now_ms(),
                        timeout: 0,
                        status_code: *status_code,
                        reason_phrase: None,
                    };
                    client.publish(reply.clone(), report.encode()).await.unwrap();
                }
                let _ = sender.send(data).await;
            }
        });
        Played { pushes }
    }

    /// Has the extension push to an endpoint that has just spoken through a replica; returns what became of it.
    async fn push_through(&self, replica: &ReplicaId, timeout_ms: u64) -> String {
        let reply = EXTENSION_DATA.by(&echo()).reply(replica, 7);
        let mut answers = self.client.subscribe(reply.clone()).await.unwrap();
        let asked = message("/push", &timeout_ms.to_string(), 60_000).encode();
        self.client.publish_with_reply(CLIENT_DATA.at("echo"), reply, asked).await.unwrap();
        text(&ExtensionData::decode(&answers.next().await.unwrap().payload).unwrap()).to_owned()
    }

    /// As [`push_through`](Self::push_through), for an endpoint of which it is not known who holds it.
    async fn push(&self, timeout_ms: u64) -> String {
        text(&self.ask("/push", &timeout_ms.to_string(), 60_000).await).to_owned()
    }
}

impl Played {
    fn count(&mut self) -> usize {
        std::iter::from_fn(|| self.pushes.try_recv().ok()).count()
    }
}

fn echo() -> InstanceName {
    InstanceName::parse("echo").unwrap()
}

fn replica(name: &str) -> ReplicaId {
    ReplicaId::parse(name).unwrap()
}

fn everybody() -> String {
    EXTENSION_DATA.by(&echo()).at("kpc")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_push_says_where_it_goes_and_in_whose_name() {
    let running = start().await;
    assert_eq!(running.push(5_000).await, "Offline", "there is no gateway");
    let mut all = running.play(everybody(), &[102, 200]).await;
    assert_eq!(running.push(5_000).await, "Delivered");
    let data = all.pushes.recv().await.unwrap();
    assert_eq!(
        (data.resource_path.as_str(), data.request_id, data.timeout),
        ("/command/reboot", None, 5_000)
    );
    assert_eq!(data.endpoint_id.as_deref(), Some("endpoint-1"));
    assert_eq!(data.extension_instance_name.as_deref(), Some("echo"));
    assert_eq!(data.payload, Some(Bytes::from_static(b"[]")));
}

#[tokio::test(flavor = "multi_thread")]
async fn offline_is_certain_and_everything_else_is_not() {
    for (reports, expected) in [
        (&[200][..], "Delivered"),
        (&[404], "Offline"),
        (&[], "Offline"),
        (&[504], "Unknown"),
        (&[102], "Unknown"),
        (&[102, 504], "Unknown"),
        (&[102, 404], "Offline"),
        // The device has left an old connection behind on one replica.
        (&[102, 102, 504, 200], "Delivered"),
        (&[102, 102, 504], "Unknown"),
        (&[599], "Unknown"),
    ] {
        let running = start().await;
        let _all = running.play(everybody(), reports).await;
        assert_eq!(running.push(300).await, expected, "{reports:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn silence_says_nothing_when_nats_was_away() {
    let mut running = start().await;
    let mut all = running.play(everybody(), &[]).await;
    let reply = running.client.new_inbox();
    let mut answers = running.client.subscribe(reply.clone()).await.unwrap();
    let asked = message("/push", "1500", 60_000).encode();
    running.client.publish_with_reply(CLIENT_DATA.at("echo"), reply, asked).await.unwrap();
    all.pushes.recv().await.unwrap();
    running.nats.restart().await;
    let answer = answers.next().await.unwrap();
    assert_eq!(text(&ExtensionData::decode(&answer.payload).unwrap()), "Unknown");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_replica_that_spoke_last_is_asked_first() {
    let running = start().await;
    let mut all = running.play(everybody(), &[102, 200]).await;
    let by_echo = |name: &str| EXTENSION_DATA.by(&echo()).replica(&replica(name));
    let mut holder = running.play(by_echo("kpc-1"), &[102, 200]).await;
    assert_eq!(running.push_through(&replica("kpc-1"), 5_000).await, "Delivered");
    assert_eq!((holder.count(), all.count()), (1, 0));
    // The endpoint has left it, or the replica has gone.
    let mut former = running.play(by_echo("kpc-2"), &[404]).await;
    assert_eq!(running.push_through(&replica("kpc-2"), 5_000).await, "Delivered");
    assert_eq!((former.count(), all.count()), (1, 1));
    assert_eq!(running.push_through(&replica("kpc-3"), 5_000).await, "Delivered");
    assert_eq!(all.count(), 1);
    // The device may have it: nothing is pushed a second time.
    let mut slow = running.play(by_echo("kpc-4"), &[102, 504]).await;
    assert_eq!(running.push_through(&replica("kpc-4"), 5_000).await, "Unknown");
    assert_eq!((slow.count(), all.count()), (1, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_device_that_takes_its_time_is_waited_for_and_a_silent_replica_is_not() {
    let running = start().await;
    let mut all = running.play(everybody(), &[404]).await;
    let by_echo = |name: &str| EXTENSION_DATA.by(&echo()).replica(&replica(name));
    // For longer than a replica may be silent.
    let _slow = running.play(by_echo("kpc-1"), &[102]).await;
    assert_eq!(running.push_through(&replica("kpc-1"), 2_500).await, "Unknown");
    assert_eq!(all.count(), 0);
    let _silent = running.play(by_echo("kpc-2"), &[]).await;
    // It may deliver the push yet.
    assert_eq!(running.push_through(&replica("kpc-2"), 5_000).await, "Unknown");
    assert_eq!(all.count(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn nats_lets_an_extension_speak_in_its_own_name_only() {
    const PASSWORD: &str = "secret-of-the-tests";
    let user = runtime::NatsUser::new(&echo(), &extension::subjects());
    let users = runtime::nats_authorization(&[user], |_| PASSWORD.to_owned());
    let test = format!("    {{ user: test, password: {PASSWORD} }}\n");
    let nats = testkit::nats_with(&format!("authorization {{\n  users: [\n{users}{test}  ]\n}}\n")).await;
    let listener = nats.client_as("test", PASSWORD).await;
    let mut heard = listener.subscribe("kaa.v1.>").await.unwrap();
    listener.flush().await.unwrap();
    let extension = nats.client_as("echo", PASSWORD).await;
    let (echo, other, to) = (echo(), InstanceName::parse("other").unwrap(), replica("kpc-0"));
    let (own, forged) = (EXTENSION_DATA.by(&echo), EXTENSION_DATA.by(&other));
    let refused = [
        forged.at("kpc"),
        forged.replica(&to),
        forged.reply(&to, 7),
        // RFC 4's own, where any name would be believed.
        EXTENSION_DATA.at("kpc"),
        EXTENSION_DATA.replica(&to),
        EXTENSION_DATA.reply(&to, 7),
        ism::esp::FORWARDED_DATA.at("kpc"),
        ism::esp::FORWARDED_DATA.replica(&to),
        // What every service may send to itself is nothing else.
        format!("kaa.v1.replica.{to}.runtime.ExtensionData"),
        format!("kaa.v1.replica.{to}.runtime.x.ForwardedData"),
    ];
    let allowed = [own.at("kpc"), own.replica(&to), own.reply(&to, 7)];
    for subject in refused.iter().chain(&allowed) {
        extension.publish(subject.clone(), Bytes::new()).await.unwrap();
    }
    // In their order: had one of the former been let through, it would be among them.
    for subject in allowed {
        assert_eq!(heard.next().await.unwrap().subject.as_str(), subject);
    }
}
