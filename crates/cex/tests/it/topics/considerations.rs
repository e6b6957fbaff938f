//! What may go wrong between an application and a device: duplicates, order, lost messages, a device that is away.

use super::{APPLICATION, DEVICE, OTHER_DEVICE, Packet, REQUESTS, RESPONSES, Site, packet};

#[tokio::test]
async fn a_command_that_comes_again_is_one_command() {
    let mut site = Site::start(&[]).await;
    assert_eq!(site.subscribe(DEVICE, REQUESTS).await, 200);
    // The acknowledgement was lost; the client says so.
    site.command("step", packet(7)).await;
    site.command("step", packet(7).again()).await;
    site.command("step", packet(7).again()).await;
    assert_eq!(site.next(REQUESTS).await.correlation_data.as_deref(), Some(&b"1"[..]));
    assert_eq!(site.answer("ok", packet(1)).await, 200);
    // A packet id is used again for another message, also one of the same content: that is another command.
    site.command("step", packet(7)).await;
    assert_eq!(site.next(REQUESTS).await.correlation_data.as_deref(), Some(&b"2"[..]));
    assert_eq!(site.answer("ok", packet(2)).await, 200);
    // The first time got lost on the way: what comes again is new here.
    site.command("jump", packet(8).again()).await;
    assert_eq!(site.next(REQUESTS).await.payload, "jump");
    assert_eq!(site.answer("ok", packet(3)).await, 200);
    assert_eq!(site.last("m1", "cmd", "EXECUTED").await["commandId"], 3);
    site.stop().await;
}

#[tokio::test]
async fn an_id_of_the_applications_own_makes_its_command_one_and_comes_back_with_the_answer() {
    let mut site = Site::start(&[]).await;
    assert_eq!(site.subscribe(DEVICE, REQUESTS).await, 200);
    assert_eq!(site.subscribe(APPLICATION, RESPONSES).await, 200);
    let first = packet(1).correlated("tid-1");
    site.command("step", first).await;
    site.command("step", Packet { id: Some(2), ..first }).await;
    for (id, tid) in [("1", "tid-1"), ("2", "tid-2")] {
        assert_eq!(site.next(REQUESTS).await.correlation_data.as_deref(), Some(id.as_bytes()));
        assert_eq!(site.answer("ok", Packet::default()).await, 200);
        // The next command and the answer to this one do not wait for each other.
        assert_eq!(site.next(RESPONSES).await.correlation_data.as_deref(), Some(tid.as_bytes()));
        if id == "1" {
            site.command("step", packet(3).correlated("tid-2")).await;
        }
    }
    assert_eq!(site.last("m1", "cmd", "EXECUTED").await["commandId"], 2);
    site.stop().await;
}

#[tokio::test]
async fn an_answer_that_comes_again_is_not_that_of_the_next_command() {
    let mut site = Site::start(&[]).await;
    assert_eq!(site.subscribe(DEVICE, REQUESTS).await, 200);
    site.command("first", packet(1)).await;
    site.next(REQUESTS).await;
    assert_eq!(site.answer("ok", packet(1)).await, 200);
    site.command("second", packet(2)).await;
    site.next(REQUESTS).await;
    site.last("m1", "cmd", "DELIVERED").await;
    assert_eq!(site.answer("ok", packet(1).again()).await, 200);
    assert_eq!(site.last("m1", "cmd", "DELIVERED").await["commandId"], 2);
    // By its id the answer is that of the command that it names, however often it comes.
    for _ in 0..2 {
        assert_eq!(site.answer("ok", packet(2).correlated("2")).await, 200);
    }
    site.last("m1", "cmd", "EXECUTED").await;
    // Nothing is outstanding: the same once more is a repetition, another answer is one to nothing.
    assert_eq!(site.answer("ok", packet(3)).await, 200);
    assert_eq!(site.answer("and another thing", packet(4)).await, 409);
    assert_eq!(site.answer("ok", packet(5).correlated("9")).await, 404);
    assert_eq!(site.answer("ok", packet(6).correlated("tid")).await, 400);
    site.stop().await;
}

#[tokio::test]
async fn commands_come_in_order_and_one_at_a_time() {
    let mut site = Site::start(&[]).await;
    for (number, text) in (1..).zip(["A", "B", "C"]) {
        site.command(text, packet(number)).await;
    }
    assert_eq!(site.subscribe(DEVICE, REQUESTS).await, 200);
    for (number, text) in (1..).zip(["A", "B", "C"]) {
        assert_eq!(site.next(REQUESTS).await.payload, text);
        site.last_is_untouched(number).await;
        assert_eq!(site.answer(&format!("{text} done"), packet(number)).await, 200);
    }
    assert_eq!(site.last("m1", "cmd", "EXECUTED").await["responsePayload"], "C done");
    site.stop().await;
}

#[tokio::test]
async fn a_command_waits_for_a_device_that_is_away() {
    let mut site = Site::start(&[]).await;
    assert_eq!(site.subscribe(DEVICE, REQUESTS).await, 200);
    site.disconnect(DEVICE);
    site.command("light: on", packet(1)).await;
    site.last("m1", "cmd", "CREATED").await;
    assert_eq!(site.subscribe(DEVICE, REQUESTS).await, 200);
    assert_eq!(site.next(REQUESTS).await.payload, "light: on");
    // It goes while it works, and answers when it is back.
    site.disconnect(DEVICE);
    site.last("m1", "cmd", "DELIVERED").await;
    assert_eq!(site.answer("late but done", packet(1)).await, 200);
    site.last("m1", "cmd", "EXECUTED").await;
    site.stop().await;
}

#[tokio::test]
async fn a_command_that_may_not_have_come_is_sent_again_and_one_that_came_is_not() {
    let mut site = Site::start(&[("cex.result_pause_ms", "100")]).await;
    assert_eq!(site.subscribe(DEVICE, REQUESTS).await, 200);
    *site.report.lock().unwrap() = Some(504);
    site.command("step", packet(1)).await;
    for _ in 0..2 {
        // The same, by which a device that was sent it twice knows it.
        assert_eq!(site.next(REQUESTS).await.correlation_data.as_deref(), Some(&b"1"[..]));
    }
    site.last("m1", "cmd", "SENT").await;
    *site.report.lock().unwrap() = Some(200);
    site.last("m1", "cmd", "DELIVERED").await;
    while site.messages.try_recv().is_ok() {}
    // The next one is the next that comes: the first is not sent again, though it has no answer.
    site.command("jump", packet(2)).await;
    assert_eq!(site.answer("ok", packet(1)).await, 200);
    assert_eq!(site.next(REQUESTS).await.payload, "jump");
    site.stop().await;
}

#[tokio::test]
async fn a_command_that_nobody_fetches_expires_and_its_answer_is_late() {
    let mut site = Site::start(&[("cex.command_ttl_ms", "1500")]).await;
    assert_eq!(site.subscribe(DEVICE, REQUESTS).await, 200);
    site.command("step", packet(1)).await;
    site.next(REQUESTS).await;
    let expired = site.last("m1", "cmd", "EXPIRED").await;
    assert_eq!(expired["status"], "EXPIRED");
    assert_eq!(site.answer("too late", packet(1)).await, 409);
    let late = site.last("m1", "cmd", "EXPIRED").await;
    assert_eq!(late["lateResult"]["payload"], "too late");
    site.stop().await;
}

#[tokio::test]
async fn an_answer_waits_for_an_application_that_is_away() {
    let mut site = Site::start(&[]).await;
    assert_eq!(site.subscribe(DEVICE, REQUESTS).await, 200);
    for (number, text) in (1..).zip(["A", "B"]) {
        site.command(text, packet(number)).await;
        site.next(REQUESTS).await;
        assert_eq!(site.answer(text, packet(number)).await, 200);
    }
    assert_eq!(site.subscribe(APPLICATION, "cmd/+/resp").await, 200);
    let mut first = site.next(RESPONSES).await;
    assert_eq!(first.payload, "A");
    // What was on its way just then may come again.
    while first.payload == "A" {
        first = site.next(RESPONSES).await;
    }
    assert_eq!(first.payload, "B");
    // Told is told.
    site.disconnect(APPLICATION);
    assert_eq!(site.subscribe(APPLICATION, RESPONSES).await, 200);
    site.command("C", packet(3)).await;
    site.next(REQUESTS).await;
    assert_eq!(site.answer("C", packet(3)).await, 200);
    assert_eq!(site.next(RESPONSES).await.payload, "C");
    site.stop().await;
}

#[tokio::test]
async fn an_id_may_be_that_of_commands_to_several_things() {
    let mut site = Site::start(&[]).await;
    assert_eq!(site.subscribe(DEVICE, REQUESTS).await, 200);
    assert_eq!(site.subscribe(OTHER_DEVICE, "cmd/device2/req").await, 200);
    assert_eq!(site.subscribe(APPLICATION, "cmd/+/resp").await, 200);
    let (one, other) = (packet(1).correlated("tx-1"), packet(2).correlated("tx-1"));
    site.command("on", one).await;
    site.next(REQUESTS).await;
    assert_eq!(site.publish(APPLICATION, "cmd/device2/req", "on", other).await, 200);
    site.next("cmd/device2/req").await;
    // The acknowledgement of the first was lost: it is no new command, and keeps its id.
    site.command("on", one.again()).await;
    assert_eq!(site.answer("done", packet(1)).await, 200);
    assert_eq!(site.next(RESPONSES).await.correlation_data.as_deref(), Some(&b"tx-1"[..]));
    assert_eq!(site.last("m1", "cmd", "EXECUTED").await["commandId"], 1);
    assert_eq!(site.publish(OTHER_DEVICE, "cmd/device2/resp", "done", packet(1)).await, 200);
    let response = site.next("cmd/device2/resp").await;
    assert_eq!(response.correlation_data.as_deref(), Some(&b"tx-1"[..]));
    site.stop().await;
}

impl Site {
    /// What was commanded after a command does not leave before that has ended.
    async fn last_is_untouched(&self, command_id: i32) {
        if command_id < 3 {
            let last = self.last("m1", "cmd", "CREATED").await;
            assert_eq!(last["commandId"], 3);
        }
    }
}
