//! The other end of NATS: listeners to events, and services that a test plays itself.

use async_nats::{Client, Subscriber};
use futures::StreamExt as _;
use ism::Record;
use tokio::task::JoinHandle;

use crate::PATIENCE;

/// Records that come at a subject.
pub struct Events {
    subject: String,
    subscriber: Subscriber,
}

impl Events {
    /// Listens from now on: what is published after this is heard.
    pub async fn listen(client: &Client, subject: &str) -> Self {
        let subscriber = subscribe(client, subject.to_owned()).await;
        Self { subject: subject.to_owned(), subscriber }
    }

    /// The next record and the subject that it came at.
    ///
    /// # Panics
    /// When none comes, or one of another type.
    pub async fn next<R: Record>(&mut self) -> (String, R) {
        let next = tokio::time::timeout(PATIENCE, self.subscriber.next()).await;
        let message = next.ok().flatten().unwrap_or_else(|| panic!("waited in vain at {}", self.subject));
        let record = R::decode(&message.payload)
            .unwrap_or_else(|error| panic!("{} at {} cannot be read: {error}", R::NAME, message.subject));
        (message.subject.to_string(), record)
    }
}

/// Subscribes and waits until the server knows: it handles what a connection sends in order, so once a
/// message of this connection has come back, the subscription before it stands.
async fn subscribe(client: &Client, subject: String) -> Subscriber {
    let subscriber = client.subscribe(subject).await.expect("NATS takes the subscription");
    let inbox = client.new_inbox();
    let mut echo = client.subscribe(inbox.clone()).await.expect("NATS takes the subscription");
    client.publish(inbox, "".into()).await.expect("NATS takes the message");
    let heard = tokio::time::timeout(PATIENCE, echo.next()).await;
    heard.ok().flatten().expect("NATS answers");
    subscriber
}

/// A service that the test plays: it answers requests until it is dropped.
pub struct Responder {
    task: JoinHandle<()>,
}

impl Responder {
    /// Answers the requests at a subject; `None` leaves one unanswered.
    pub async fn start<Q, R>(
        client: &Client,
        subject: String,
        mut answer: impl FnMut(Q) -> Option<R> + Send + 'static,
    ) -> Self
    where
        Q: Record,
        R: Record + Send,
    {
        let mut requests = subscribe(client, subject).await;
        let client = client.clone();
        let task = tokio::spawn(async move {
            while let Some(message) = requests.next().await {
                let request = Q::decode(&message.payload).expect("the request can be read");
                let (Some(reply), Some(response)) = (message.reply, answer(request)) else { continue };
                client.publish(reply, response.encode()).await.expect("NATS takes the answer");
            }
        });
        Self { task }
    }
}

impl Drop for Responder {
    fn drop(&mut self) {
        self.task.abort();
    }
}
