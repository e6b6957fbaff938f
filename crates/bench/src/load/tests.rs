//! Loads against a gateway that does what a test tells it to.

use tokio::io::AsyncWriteExt;
use tokio::net::{TcpListener, TcpStream};

use super::*;
use crate::fake::next_packet;

/// A message as the gateway received it.
#[derive(Debug, Clone, PartialEq)]
struct Seen {
    number: u32,
    again: bool,
    payload: Vec<u8>,
}

/// What the gateway does with a message.
enum Answer {
    /// `/status`, then PUBACK.
    Receipt,
    /// `/error` with this status, then PUBACK.
    Refuse(u16),
    /// PUBACK, then `/error`.
    ReceiptThenError,
    /// `/error` with this status, then the end of the connection.
    FailAndClose(u16),
}

fn publish(topic: &str, payload: &[u8], answer: &mut Vec<u8>) {
    crate::mqtt::write_publish(answer, topic, 7, payload, false).unwrap();
}

/// Serves one connection until it ends; the messages go to `seen`.
async fn serve(mut stream: TcpStream, seen: Rc<RefCell<Vec<Seen>>>, answer: impl Fn(&Seen) -> Answer) {
    while let Some((first, body)) = next_packet(&mut stream).await {
        let mut out = Vec::new();
        match first >> 4 {
            1 => {
                assert!(body.ends_with(b"\0\x0ameter@acme\0\x06secret"), "the device logs in: {body:?}");
                out.extend([0x20, 2, 0, 0]);
            }
            3 => {
                let topic_end = 2 + usize::from(u16::from_be_bytes([body[0], body[1]]));
                let topic = String::from_utf8(body[2..topic_end].to_vec()).unwrap();
                let packet_id = u16::from_be_bytes([body[topic_end], body[topic_end + 1]]);
                let number = topic.strip_prefix("kp1/v1/dcx/token/json/").unwrap().parse().unwrap();
                let message = Seen { number, again: first & 8 != 0, payload: body[topic_end + 2..].to_vec() };
                seen.borrow_mut().push(message.clone());
                let error = |status: u16| format!(r#"{{"statusCode":{status},"reasonPhrase":"because"}}"#);
                let (status_topic, error_topic) = (format!("{topic}/status"), format!("{topic}/error"));
                match answer(&message) {
                    Answer::Receipt => {
                        publish(&status_topic, b"", &mut out);
                        crate::mqtt::write_puback(&mut out, packet_id);
                    }
                    Answer::Refuse(status) => {
                        publish(&error_topic, error(status).as_bytes(), &mut out);
                        crate::mqtt::write_puback(&mut out, packet_id);
                    }
                    Answer::ReceiptThenError => {
                        crate::mqtt::write_puback(&mut out, packet_id);
                        publish(&error_topic, error(500).as_bytes(), &mut out);
                    }
                    Answer::FailAndClose(status) => {
                        publish(&error_topic, error(status).as_bytes(), &mut out);
                        stream.write_all(&out).await.unwrap();
                        return;
                    }
                }
            }
            4 => assert_eq!(body, [0, 7], "the client acknowledges what it was sent"),
            14 => return,
            other => panic!("a packet of type {other}"),
        }
        if stream.write_all(&out).await.is_err() {
            return;
        }
    }
}

fn plan(gateway: SocketAddr, messages_max: u32) -> Plan {
    Plan {
        profile: Profile::Single,
        warm_up: Duration::ZERO,
        measured: Duration::from_secs(20),
        drain: Duration::from_secs(20),
        messages_max,
        rate: None,
        progress: false,
        gateways: vec![gateway],
        app_version: "v1".to_owned(),
        pids: vec![],
    }
}

/// Runs a load of `messages` against a gateway that answers as told.
async fn outcome(messages: u32, answer: impl Fn(&Seen) -> Answer + Clone + 'static) -> (Outcome, Vec<Seen>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let plan = plan(listener.local_addr().unwrap(), messages);
    let seen = Rc::new(RefCell::new(Vec::new()));
    let endpoint = Endpoint { id: "id".to_owned(), token: "token".to_owned(), base_ms: 1_763_600_000_000 };
    let login = Login::new("meter@acme", "secret");
    let gateway = async {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            serve(stream, seen.clone(), answer.clone()).await;
        }
    };
    let outcome = tokio::select! {
        outcome = run(plan, vec![endpoint], vec![login], std::future::pending()) => outcome.unwrap(),
        () = gateway => unreachable!("the gateway serves for ever"),
    };
    let seen = seen.borrow().clone();
    (outcome, seen)
}

#[tokio::test]
async fn every_message_gets_its_receipt() {
    let (outcome, seen) = outcome(300, |_| Answer::Receipt).await;
    let totals = &outcome.totals;
    assert_eq!((totals.sent, totals.receipts, totals.status_responses), (300, 300, 300), "{totals:?}");
    assert_eq!((totals.reconnects, totals.reasons.len()), (0, 0));
    assert!((1..=300).contains(&outcome.measured.receipts), "some came before the measurement began");
    assert!(outcome.measured.latencies.max_ms() > 0.0);
    assert_eq!(outcome.devices[0].log.borrow().receipts.len(), 300);
    assert!(seen.iter().zip(0..).all(|(message, number)| message.number == number && !message.again));
    let mut expected = Vec::new();
    crate::sample::write(&mut expected, 299, 1_763_600_000_299);
    assert_eq!(seen[299].payload, expected);
}

#[tokio::test]
async fn what_was_not_acknowledged_is_sent_again_as_it_was() {
    let (outcome, seen) = outcome(10, |message| {
        if message.number == 4 && !message.again { Answer::FailAndClose(503) } else { Answer::Receipt }
    })
    .await;
    let totals = &outcome.totals;
    assert_eq!(
        (totals.sent, totals.receipts, totals.reconnects, totals.stalls),
        (10, 10, 1, 0),
        "{totals:?}"
    );
    assert_eq!(totals.failed, [(503, 1)].into());
    assert_eq!(totals.first_loss.as_deref(), Some("the gateway closed the connection"));
    let copies: Vec<_> = seen.iter().filter(|message| message.number == 4).collect();
    assert_eq!(copies.len(), 2);
    assert_eq!(copies[0].payload, copies[1].payload, "same timestamp, same values");
    assert!(copies[1].again);
}

#[tokio::test]
async fn an_error_is_no_receipt_whether_it_comes_before_the_acknowledgement_or_after() {
    let (outcome, _) = outcome(6, |message| match message.number {
        1 => Answer::Refuse(400),
        3 => Answer::ReceiptThenError,
        _ => Answer::Receipt,
    })
    .await;
    let totals = &outcome.totals;
    assert_eq!((totals.sent, totals.receipts, totals.contradictions), (6, 4, 1), "{totals:?}");
    assert_eq!(totals.refused, [(400, 1)].into());
    assert_eq!(outcome.devices[0].log.borrow().receipts.iter().collect::<Vec<_>>(), [0, 2, 4, 5]);
    assert!(totals.reasons[&400].contains("because"));
}
