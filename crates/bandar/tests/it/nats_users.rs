//! Each service is a NATS user of its own, and may speak only as itself.

use std::sync::Arc;

use async_nats::{Client, ConnectOptions, Event};
use futures::StreamExt as _;
use testkit::{Nats, eventually};
use tokio::sync::Mutex;

use crate::platform::{PATIENCE, bandar};

const PASSWORD: &str = "password-of-a-test";

/// A nats-server with the users that `bandar nats-config` prints.
async fn server() -> Nats {
    let printed = bandar(&["nats-config", "--extension", "echo"]).output().unwrap();
    assert!(printed.status.success(), "{printed:?}");
    let config = String::from_utf8(printed.stdout).unwrap();
    // In a cluster the passwords are in the server's environment.
    let mut text = String::new();
    for word in config.split_inclusive('\n') {
        match word.split_once("$BANDAR_NATS_") {
            Some((before, _)) => text.push_str(&format!("{before}{PASSWORD}\n")),
            None => text.push_str(word),
        }
    }
    testkit::nats_with(&text).await
}

type Refusals = Arc<Mutex<Vec<String>>>;

/// A connection as a service, and what the server refuses it.
async fn connect(nats: &Nats, user: &str) -> (Client, Refusals) {
    let refusals = Refusals::default();
    let noted = refusals.clone();
    let client = ConnectOptions::with_user_and_password(user.to_owned(), PASSWORD.to_owned())
        .custom_inbox_prefix(format!("_INBOX_{user}"))
        .event_callback(move |event| {
            let noted = noted.clone();
            async move {
                if let Event::ServerError(error) = event {
                    noted.lock().await.push(error.to_string().to_lowercase());
                }
            }
        })
        .connect(&nats.url)
        .await
        .unwrap();
    (client, refusals)
}

async fn refused(refusals: &Refusals, subject: &str) {
    let subject = subject.to_lowercase();
    eventually("NATS refuses", PATIENCE, async || {
        let refusals = refusals.lock().await;
        let found = |text: &&String| text.contains("permissions violation") && text.contains(&subject);
        refusals.iter().find(found).map(drop)
    })
    .await;
}

#[tokio::test]
async fn no_service_speaks_as_another() {
    let nats = server().await;
    let (kpc, _) = connect(&nats, "kpc").await;
    let (cm, cm_refusals) = connect(&nats, "cm").await;
    let (dcx, dcx_refusals) = connect(&nats, "dcx").await;
    let revoked = "kaa.v1.events.cm.endpoint.token.revoked";
    let mut heard = kpc.subscribe("kaa.v1.events.*.endpoint.token.revoked").await.unwrap();
    kpc.flush().await.unwrap();

    // As cm: its event, and the answer to whose a token is.
    let answer = "kaa.v1.replica.kpc-0.ecap.1.ep-token-response";
    for subject in [revoked, answer] {
        dcx.publish(subject, "false".into()).await.unwrap();
        refused(&dcx_refusals, subject).await;
    }
    // In cm's place.
    let request = "kaa.v1.service.cm.ecap.ep-token-request";
    let _stolen = dcx.queue_subscribe(request, "cm".to_owned()).await.unwrap();
    refused(&dcx_refusals, request).await;
    // What others are told.
    let _overheard = dcx.subscribe("kaa.v1.replica.*.tokens.>").await.unwrap();
    refused(&dcx_refusals, "kaa.v1.replica.*.tokens.>").await;
    let _everything = dcx.subscribe(">").await.unwrap();
    refused(&dcx_refusals, "\">\"").await;

    cm.publish(revoked, "true".into()).await.unwrap();
    cm.publish(answer, "true".into()).await.unwrap();
    let message = tokio::time::timeout(PATIENCE, heard.next()).await.unwrap().unwrap();
    assert_eq!(message.payload, "true", "what dcx sent as cm must not arrive");
    assert!(cm_refusals.lock().await.is_empty());
}

/// JetStream answers to whatever subject the asker names, and asks nobody whether he may publish there. So nobody may ask for
/// bytes that he can choose.
#[tokio::test]
async fn no_extension_speaks_through_jetstream() {
    let nats = server().await;
    let (kpc, kpc_refusals) = connect(&nats, "kpc").await;
    let bucket = extension::bucket(&kpc).await.unwrap();
    let revoked = "kaa.v1.events.cm.endpoint.token.revoked";
    let mut heard = kpc.subscribe("kaa.v1.events.*.endpoint.token.revoked").await.unwrap();
    let (cex, _) = connect(&nats, "cex").await;
    cex.publish("$KV.extensions.cex", "{}".into()).await.unwrap();
    eventually("the other key is there", PATIENCE, async || bucket.get("cex").await.unwrap()).await;
    for user in ["dcx", "epmx", "echo"] {
        let (extension, refusals) = connect(&nats, user).await;
        let key = format!("$KV.extensions.{user}");
        extension.publish(key.clone(), "forged".into()).await.unwrap();
        eventually("the key is there", PATIENCE, async || bucket.get(user).await.unwrap()).await;
        for ask in [
            format!("$JS.API.DIRECT.GET.KV_extensions.{key}"),
            "$JS.API.DIRECT.GET.KV_extensions".to_owned(),
            "$JS.API.STREAM.CREATE.KV_extensions".to_owned(),
            "$JS.API.STREAM.DELETE.connectivity".to_owned(),
            "$JS.API.CONSUMER.MSG.NEXT.connectivity.epl".to_owned(),
        ] {
            let question = format!(r#"{{"last_by_subj": "{key}"}}"#);
            extension.publish_with_reply(ask.clone(), revoked, question.into()).await.unwrap();
            refused(&refusals, &ask).await;
        }
        // A header that takes away all other keys.
        let headers = async_nats::HeaderMap::from_iter([(
            async_nats::HeaderName::from_static("Nats-Rollup"),
            async_nats::HeaderValue::from("all"),
        )]);
        extension.publish_with_headers(key.clone(), headers, "rolled up".into()).await.unwrap();
        extension.publish(key.clone(), "after".into()).await.unwrap();
        eventually("the key is changed", PATIENCE, async || {
            (bucket.get(user).await.unwrap()? == "after").then_some(())
        })
        .await;
        assert!(bucket.get("cex").await.unwrap().is_some(), "{user} took away another's key");
        // Not another's key either.
        extension.publish("$KV.extensions.cex", "{}".into()).await.unwrap();
        refused(&refusals, "$KV.extensions.cex").await;
    }
    let (cm, _) = connect(&nats, "cm").await;
    cm.publish(revoked, "true".into()).await.unwrap();
    let message = tokio::time::timeout(PATIENCE, heard.next()).await.unwrap().unwrap();
    assert_eq!(message.payload, "true", "what an extension had JetStream say must not arrive");
    assert!(kpc_refusals.lock().await.is_empty());
}

#[tokio::test]
async fn nobody_comes_in_without_a_password() {
    let nats = server().await;
    assert!(async_nats::connect(&nats.url).await.is_err());
    let wrong = ConnectOptions::with_user_and_password("cm".to_owned(), "wrong".to_owned());
    assert!(wrong.connect(&nats.url).await.is_err());
}
