"""Every kind of bad request has a status and words of its own, on every transport, and harms nothing else."""

import json

import pytest

from devices import V5, V311
from rest import request

GOOD = b'{"temperature": 1}'
UNKNOWN_TOKEN = "no-such-token"

# What is asked, what is sent, and the answer: status, words that name the cause, MQTT 5 reason codes.
CASES = {
    "bad JSON": (lambda e: e.topic("json/1"), b'{"temperature": ', 400, ["JSON"], {0x99}),
    "wrong path": (lambda e: e.topic("jsom/1"), GOOD, 404, ["jsom"], {0x90}),
    "unknown version": (
        lambda e: e.topic("json/1").replace(e.application.version, "nosuchapp-v1"), GOOD, 404, ["version"], {0x90}
    ),
    "unknown token": (lambda e: e.topic("json/1").replace(e.token, UNKNOWN_TOKEN), GOOD, 401, ["token"], {0x87}),
    "unknown extension": (lambda e: e.topic("json/1", extension="nosuch"), GOOD, 404, ["extension", "nosuch"], {0x90}),
    "payload too large": (
        lambda e: e.topic("json/1"), b'{"blob":"' + b"x" * 1_000_000 + b'"}', 413, ["983040", "bytes"], {0x95, 0x97}
    ),
}  # fmt: skip


@pytest.fixture(params=CASES, ids=[name.replace(" ", "-") for name in CASES])
def case(request, endpoint):
    make_topic, payload, status, words, reasons = CASES[request.param]
    return make_topic(endpoint), payload, status, words, reasons


def check(body, status, words):
    error = json.loads(body)
    assert set(error) == {"statusCode", "reasonPhrase"}
    assert error["statusCode"] == status, error
    for word in words:
        assert word.lower() in error["reasonPhrase"].lower(), error
    assert UNKNOWN_TOKEN not in error["reasonPhrase"], "tokens are secrets"


def test_over_mqtt_3_1_1_it_is_acknowledged_and_answered(device, endpoint, case):
    topic, payload, status, words, _ = case
    client = device(V311)
    client.send(topic, payload)
    check(client.message(f"{topic}/error").payload, status, words)
    assert [m.topic for m in client.messages] == [f"{topic}/error"]
    client.send(endpoint.topic("json"), GOOD)
    assert endpoint.values("auto~temperature") == [1], "the connection goes on, and nothing bad was stored"
    assert client.disconnected is None


def test_over_mqtt_5_the_acknowledgement_says_why(device, endpoint, case):
    topic, payload, status, words, reasons = case
    client = device(V5)
    message_id = client.publish(topic, payload)
    assert client.receipt(message_id).value in reasons
    phrase = client.reason_string(message_id)
    assert phrase and all(word.lower() in phrase.lower() for word in words), phrase
    check(client.message(f"{topic}/error").payload, status, words)
    client.send(endpoint.topic("json"), GOOD)
    assert endpoint.values("auto~temperature") == [1]


def test_over_mqtt_with_qos_0_only_the_error_comes(device, endpoint, case):
    topic, payload, status, words, _ = case
    client = device(V311)
    client.publish(topic, payload, qos=0)
    check(client.message(f"{topic}/error").payload, status, words)


def test_over_http_it_is_the_status(platform, endpoint, case):
    topic, payload, status, words, _ = case
    response = request("POST", f"{platform.http}/{topic}", body=payload)
    assert response.status == status
    assert response.headers.get_content_type() == "application/json"
    check(response.body, status, words)


def test_each_has_words_of_its_own(platform, endpoint):
    phrases = [
        request("POST", f"{platform.http}/{make_topic(endpoint)}", body=payload).json()["reasonPhrase"]
        for make_topic, payload, *_ in CASES.values()
    ]
    assert len(set(phrases)) == len(CASES), phrases


def test_a_client_that_writes_its_whole_payload_first_hears_that_it_is_too_large(platform, endpoint):
    """Most clients read nothing before all is written: a gateway that hangs up meanwhile takes the answer with it."""
    for _ in range(50):
        response = request("POST", f"{platform.http}/{endpoint.topic('json')}", body=b"x" * 1_000_000)
        assert response.status == 413


def test_an_error_comes_without_a_request_id_too(device, endpoint):
    client = device()
    client.send(endpoint.topic("json"), "{")
    check(client.message(endpoint.topic("json/error")).payload, 400, ["JSON"])


@pytest.mark.parametrize("topic", ["kp1", "kp1/v", "kp2/a/dcx/t/json/1", "anything", "kp1//dcx/t/json"])
def test_a_topic_outside_the_protocol(device, endpoint, topic):
    client = device(V5)
    assert client.receipt(client.publish(topic, GOOD)).value == 0x90
    client.send(endpoint.topic("json"), GOOD)


def test_a_token_of_another_application(platform, device, endpoint):
    other = platform.api.create_application()
    topic = endpoint.topic("json/1").replace(endpoint.application.version, other.version)
    client = device(V5)
    assert client.receipt(client.publish(topic, GOOD)).value == 0x87
    assert json.loads(client.message(f"{topic}/error").payload)["statusCode"] == 401


def test_only_post_is_answered_over_http(platform, endpoint):
    for method in ("GET", "PUT", "DELETE"):
        assert request(method, f"{platform.http}/{endpoint.topic('json')}").status == 405


def test_no_key_no_rest(platform):
    for path in ("/tekton/api/v1/applications", "/epr/api/v1/endpoints", "/epts/api/v1/time-series/config"):
        response = request("GET", platform.http + path)
        assert response.status == 401
        assert "message" in response.json()
        assert request("GET", platform.http + path, headers={"Authorization": "Bearer wrong"}).status == 401
