"""The gateway is no broker: who may subscribe to what, what is announced, and whom a response reaches."""

import json

import pytest

from devices import V5

GOOD = '{"temperature": 1}'
FAILED = range(0x80, 0x100)


def test_topics_of_a_valid_token_are_granted(device, endpoint, protocol):
    client = device(protocol)
    for topic in ("json/1/status", "json/+/status", "json/#", "#", "+/1/status"):
        assert client.subscribe(endpoint.topic(topic)).value == 1, topic
    any_extension = f"kp1/{endpoint.application.version}/+/{endpoint.token}/#"
    assert client.subscribe(any_extension, qos=0).value == 0


def test_anything_else_fails(device, endpoint, protocol):
    client, version = device(protocol), endpoint.application.version
    for topic in (
        "#",
        "kp1/#",
        f"kp1/{version}/dcx/+/json/#",
        f"kp1/{version}/dcx/no-such-token/json/#",
        f"kp1/nosuchapp-v1/dcx/{endpoint.token}/json/#",
        f"kp1/+/dcx/{endpoint.token}/#",
        "$SYS/#",
        "anything",
    ):
        assert client.subscribe(topic).value in FAILED, topic
    client.send(endpoint.topic("json"), GOOD)


def test_what_a_broker_would_offer_is_announced_as_absent(device):
    properties = device(V5).connack[1]
    assert properties.RetainAvailable == 0
    assert properties.SharedSubscriptionAvailable == 0
    assert properties.SubscriptionIdentifierAvailable == 0
    assert properties.AssignedClientIdentifier


def test_clients_do_not_hear_each_other(device, endpoint, application):
    listener, speaker, stranger = device(), device(), device()
    assert listener.subscribe(endpoint.topic("#")).value == 1
    assert stranger.subscribe(application.create_endpoint().topic("#")).value == 1
    topic = endpoint.topic("json/1")
    speaker.send(topic, GOOD)
    listener.message(f"{topic}/status")
    speaker.message(f"{topic}/status")
    assert [m.topic for m in listener.messages] == [f"{topic}/status"], "the response, not the message"
    assert stranger.silence() and not stranger.messages


def test_an_unsubscribed_connection_gets_no_more(device, endpoint):
    listener, speaker = device(), device()
    listener.subscribe(endpoint.topic("json/#"))
    speaker.send(endpoint.topic("json/1"), GOOD)
    listener.message(endpoint.topic("json/1/status"))
    listener.client.unsubscribe(endpoint.topic("json/#"))
    listener.client.subscribe(endpoint.topic("plain/#"))
    listener.wait("both are acknowledged", lambda: len(listener.grants) == 2)
    speaker.send(endpoint.topic("json/2"), GOOD)
    speaker.message(endpoint.topic("json/2/status"))
    assert listener.silence()


def test_the_response_comes_once_to_a_subscriber_that_asks_itself(device, endpoint, protocol):
    client = device(protocol)
    client.subscribe(endpoint.topic("json/#"))
    client.send(endpoint.topic("json/1"), GOOD)
    client.message(endpoint.topic("json/1/status"))
    assert client.silence() and len(client.messages) == 1


def test_mqtt_5_response_topic_and_correlation_data(device, endpoint):
    from paho.mqtt.packettypes import PacketTypes
    from paho.mqtt.properties import Properties

    client = device(V5)
    properties = Properties(PacketTypes.PUBLISH)
    properties.ResponseTopic = "my/own/answers"
    properties.CorrelationData = b"\x00\x07"
    client.publish(endpoint.topic("json/1"), GOOD, properties=properties)
    response = client.message("my/own/answers")
    assert response.properties.CorrelationData == b"\x00\x07"
    client.message(endpoint.topic("json/1/status"))


@pytest.mark.parametrize("same", [True, False], ids=["same-client-id", "other-client-id"])
def test_a_client_id_has_one_connection(device, endpoint, protocol, same):
    name = f"e2e-{endpoint.id}"
    older = device(protocol, client_id=name)
    newer = device(protocol, client_id=name if same else f"{name}-b")
    if same:
        reason = older.wait("the older connection is closed", lambda: older.disconnected)
        assert protocol != V5 or reason.value == 0x8E, "session taken over"
        older.client.disconnect()
    newer.send(endpoint.topic("json/1"), json.dumps({"n": 1}))
    newer.message(endpoint.topic("json/1/status"))
    assert newer.disconnected is None
    assert same or older.disconnected is None
