"""What devices send and what is stored of it. A receipt means committed and readable: nothing here waits for data."""

import json
import socket

import pytest

from devices import V5
from processes import eventually
from rest import request

SAMPLE = {"temperature": 21, "humidity": 73}

# The settings that the batch of the MQTT device API asks for: a timestamp in `ts`, and `location` as a series.
HISTORY = {
    "time-series": {
        "auto-extract": True,
        "timestamp": {"path": "ts", "format": "iso8601", "fallback-strategy": "fail"},
        "names": {
            "location": {
                "values": [
                    {"path": "$.location.lat", "name": "lat", "type": "number"},
                    {"path": "$.location.lon", "name": "lon", "type": "number"},
                ]
            }
        },
    }
}
PLACE = {"lat": 34.1340258, "lon": -118.3238652}
BATCH = [
    {"ts": "2019-04-26T15:41:07+0000", "temperature": 21, "humidity": 73, "location": PLACE},
    {"ts": "2019-04-26T16:41:07+0000", "temperature": 21.5, "humidity": 67, "location": PLACE},
]


def post(platform, topic, payload):
    """The device's HTTP binding; the path is the topic."""
    return request("POST", f"{platform.http}/{topic}", body=payload.encode())


@pytest.fixture(scope="module")
def history(platform):
    return platform.api.create_application(epts=HISTORY)


@pytest.fixture(scope="module")
def relaxed(platform):
    """An application as the documentation of plain data asks for it."""
    return platform.api.create_application(dcx={"relaxed-resource-path-validation": {"enabled": True}})


@pytest.mark.parametrize("qos", [1, 2])
def test_a_receipt_means_readable(device, endpoint, protocol, qos):
    client = device(protocol)
    for number in range(10):
        client.send(endpoint.topic("json"), json.dumps({"n": number}), qos)
        assert endpoint.values("auto~n") == list(range(number + 1))
    assert not client.messages, "without a request id there is no response"


@pytest.mark.parametrize("request_id", [0, 1, 42, 100_000])
def test_a_request_id_brings_a_status(device, endpoint, protocol, request_id):
    client = device(protocol)
    topic = endpoint.topic(f"json/{request_id}")
    client.send(topic, json.dumps(SAMPLE))
    status = client.message(f"{topic}/status")
    assert status.payload == b"" and status.qos == 1, "empty, with the request's QoS"
    assert endpoint.values("auto~temperature") == [21]
    assert endpoint.values("auto~humidity") == [73]


def test_qos_0_gets_its_status_after_the_commit(device, endpoint, protocol):
    client = device(protocol)
    topic = endpoint.topic("json/7")
    client.publish(topic, json.dumps(SAMPLE), qos=0)
    assert client.message(f"{topic}/status").qos == 0
    assert endpoint.values("auto~temperature") == [21]


def test_http_answers_exactly_200_after_the_commit(platform, endpoint):
    for path in ("json", "json/3"):
        response = post(platform, endpoint.topic(path), json.dumps(SAMPLE))
        assert (response.status, response.body) == (200, b"")
    assert endpoint.values("auto~temperature") == [21, 21], "two samples without a timestamp are two points"


def test_a_batch_without_timestamps_keeps_every_sample_and_their_order(device, endpoint, protocol):
    device(protocol).send(endpoint.topic("json/1"), json.dumps([{"n": number} for number in range(100)]))
    assert endpoint.values("auto~n") == list(range(100))


@pytest.mark.parametrize("transport", ["mqtt", "http"])
def test_a_batch_with_timestamps_of_its_own(platform, device, history, transport):
    endpoint = history.create_endpoint()
    for _ in range(2):  # a resend changes nothing
        if transport == "mqtt":
            device().send(endpoint.topic("json/1"), json.dumps(BATCH, indent=2))
        else:
            assert post(platform, endpoint.topic("json/1"), json.dumps(BATCH)).status == 200
    points = endpoint.points("auto~temperature", "auto~humidity", "location")
    times = ["2019-04-26T15:41:07Z", "2019-04-26T16:41:07Z"]
    assert points["auto~temperature"] == list(zip(times, [{"value": 21}, {"value": 21.5}]))
    assert points["auto~humidity"] == list(zip(times, [{"value": 73}, {"value": 67}]))
    assert points["location"] == [(time, PLACE) for time in times]


def test_a_resend_with_another_value_wins(device, history):
    endpoint, client = history.create_endpoint(), device()
    for temperature in (20, 30):
        client.send(endpoint.topic("json/1"), json.dumps({**BATCH[0], "temperature": temperature}))
    assert endpoint.values("auto~temperature") == [30]


def test_one_bad_sample_refuses_the_whole_batch(device, history):
    endpoint, client = history.create_endpoint(), device(V5)
    topic = endpoint.topic("json/9")
    message_id = client.publish(topic, json.dumps([BATCH[0], {"temperature": 5}]))
    assert client.receipt(message_id).is_failure
    error = json.loads(client.message(f"{topic}/error").payload)
    assert error["statusCode"] == 400
    assert "1" in error["reasonPhrase"] and "ts" in error["reasonPhrase"], "it names the sample and the path"
    assert endpoint.points("auto~temperature") in ({}, {"auto~temperature": []}), (
        "nothing of the batch is stored"
    )


@pytest.mark.parametrize("path", ["plain/temperature", "plain/temperature/5"])
def test_plain_numbers(platform, device, relaxed, protocol, path):
    endpoint, client = relaxed.create_endpoint(), device(protocol)
    client.send(endpoint.topic(path), "200")
    assert post(platform, endpoint.topic(path), "-1.5").status == 200
    assert endpoint.values("auto~temperature-value") == [200, -1.5]
    if path.endswith("/5"):
        assert client.message(endpoint.topic(path) + "/status").payload == b""


def test_plain_data_needs_no_setting(device, endpoint):
    device().send(endpoint.topic("plain/temperature"), "200")
    assert endpoint.values("auto~temperature-value") == [200]


def test_a_plain_value_with_a_unit(device, endpoint):
    device().send(endpoint.topic("plain/temperature/1"), "21.5C")
    assert endpoint.values("auto~temperature-value") == [21.5]


@pytest.mark.parametrize(
    "sample", ["15", '"text"', "true", "null", "[[85, 34]]", '{"nested": {"a": 1}}', "[]"]
)
def test_a_sample_may_be_any_json(device, endpoint, sample):
    client = device()
    client.send(endpoint.topic("json/1"), sample)
    assert client.message(endpoint.topic("json/1/status")).payload == b""


def test_one_connection_speaks_for_many_endpoints(device, application, protocol):
    endpoints, client = [application.create_endpoint() for _ in range(5)], device(protocol)
    for number, endpoint in enumerate(endpoints):
        client.send(endpoint.topic("json/1"), json.dumps({"n": number}))
        client.message(endpoint.topic("json/1/status"))
    assert [endpoint.values("auto~n") for endpoint in endpoints] == [[number] for number in range(5)]


def test_many_messages_in_flight_are_answered_each(device, endpoint, protocol):
    client = device(protocol)
    ids = [client.publish(endpoint.topic(f"json/{n}"), json.dumps({"n": n})) for n in range(200)]
    assert all(not client.receipt(message_id, within=30).is_failure for message_id in ids)
    client.wait("all responses", lambda: len(client.messages) == 200, within=30)
    assert {m.topic for m in client.messages} == {endpoint.topic(f"json/{n}/status") for n in range(200)}
    assert sorted(endpoint.values("auto~n")) == list(range(200))


def test_a_will_is_a_message_like_another(device, endpoint):
    dying = device(will=(endpoint.topic("json"), json.dumps({"gone": 1}), 1))
    dying.client.socket().shutdown(socket.SHUT_RDWR)  # an end without DISCONNECT
    eventually("the will is stored", lambda: endpoint.values("auto~gone") == [1], within=20)
