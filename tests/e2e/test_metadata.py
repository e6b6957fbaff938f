"""Every metadata request of Kaa's MQTT device API: paho on each transport, mosquitto_rr as written there, HTTP."""

import json
import subprocess

import pytest

from devices import V5, V311, Device
from rest import request
from test_mosquitto import mosquitto

SENSOR = {"deviceModel": "example model", "name": "Sensor 1"}


def stored(endpoint):
    """The metadata as an application sees it."""
    return endpoint.application.api.call("GET", f"/epr/api/v1/endpoints/{endpoint.id}/metadata", expect=200)


@pytest.fixture(params=["tcp", "tls", "ws", "wss"])
def transport(request):
    return request.param


def test_all_requests_with_paho(platform, endpoint, transport, protocol):
    port, options = platform.transport(transport)
    with Device(port, protocol, **options) as device:

        def ask(path, payload=b""):
            topic = endpoint.topic(path, extension="epmx")
            body = payload if isinstance(payload, bytes) else json.dumps(payload).encode()
            device.send(topic, body)
            answer = device.message(f"{topic}/status").payload
            return json.loads(answer) if answer else None

        assert ask("get/1") == {}
        assert ask("update/2", SENSOR) is None
        assert stored(endpoint) == SENSOR
        assert sorted(ask("get/keys/3")) == ["deviceModel", "name"]
        assert (
            ask("update/keys/4", {"deviceModel": "new model", "location": {"lat": 34.1, "lon": None}}) is None
        )
        assert ask("get/5") == {
            "deviceModel": "new model",
            "name": "Sensor 1",
            "location": {"lat": 34.1, "lon": None},
        }
        assert ask("get/6", {"keys": ["name"]}) == {"name": "Sensor 1"}
        assert ask("get/7", {}) == stored(endpoint)
        assert ask("delete/keys/8", ["location", "areaId"]) is None
        assert stored(endpoint) == {"deviceModel": "new model", "name": "Sensor 1"}
        assert ask("update/9", {"name": "Sensor 2"}) is None
        assert stored(endpoint) == {"name": "Sensor 2"}


def test_writes_without_request_id(platform, endpoint, protocol):
    """The acknowledgement alone is the receipt."""
    with Device(platform.mqtt_port, protocol) as device:
        for path, payload in [
            ("update", SENSOR),
            ("update/keys", {"areaId": 7}),
            ("delete/keys", ["name"]),
        ]:
            device.send(endpoint.topic(path, extension="epmx"), json.dumps(payload).encode())
        assert stored(endpoint) == {"deviceModel": "example model", "areaId": 7}


def test_with_mosquitto_rr_as_written(platform, endpoint):
    def ask(path, *message):
        topic = endpoint.topic(f"{path}/1", extension="epmx")
        address = ["-h", "127.0.0.1", "-p", str(platform.mqtt_port)]
        # The page gives no message for a request without a body; this program insists on one.
        command = [mosquitto("mosquitto_rr"), *address, "-e", f"{topic}/status", "-t", topic, "-V", "311"]
        command += ["-W", "15", *(message or ["-n"])]
        return subprocess.run(command, capture_output=True, text=True, timeout=20, check=True).stdout.strip()

    assert ask("update", "-m", json.dumps(SENSOR, indent=2)) == ""
    assert json.loads(ask("get")) == SENSOR
    assert sorted(json.loads(ask("get/keys"))) == ["deviceModel", "name"]
    assert ask("update/keys", "-m", '{\n  "deviceModel": "new model"\n}') == ""
    assert json.loads(ask("get"))["deviceModel"] == "new model"
    assert ask("delete/keys", "-m", '[\n  "location",\n  "areaId"\n]') == ""
    assert ask("delete/keys", "-m", '["name"]') == ""
    assert stored(endpoint) == {"deviceModel": "new model"}


def test_over_http(platform, endpoint):
    def post(path, payload=None):
        url = f"{platform.http}/{endpoint.topic(path, extension='epmx')}"
        body = b"" if payload is None else payload
        answer = request("POST", url, body=body)
        assert answer.status == 200, answer.body
        return answer.json() if answer.body else None

    assert post("update", SENSOR) is None
    assert post("get") == SENSOR
    assert post("get", {"keys": ["name", "deviceModel"]}) == SENSOR
    assert sorted(post("get/keys")) == ["deviceModel", "name"]
    assert post("update/keys", {"name": "Sensor 2"}) is None
    assert post("delete/keys", ["deviceModel"]) is None
    assert stored(endpoint) == {"name": "Sensor 2"}


@pytest.mark.parametrize(
    ("path", "payload"),
    [
        ("update", b"{}"),
        ("update", b"[1]"),
        ("update", b'{"a-b": 1}'),
        ("update", b"nonsense"),
        ("update/keys", b"{}"),
        ("update/keys", b'{"": 1}'),
        ("delete/keys", b"[]"),
        ("delete/keys", b'["a", "a"]'),
        ("delete/keys", b'["a b"]'),
        ("delete/keys", b'{"a": 1}'),
        ("get", b'{"keys": "name"}'),
        ("get", b'{"other": []}'),
    ],
)
def test_what_the_schemas_forbid(platform, endpoint, path, payload):
    endpoint.application.api.call(
        "PUT", f"/epr/api/v1/endpoints/{endpoint.id}/metadata", expect=200, body={"name": "kept"}
    )
    with Device(platform.mqtt_port, V5) as device:
        topic = endpoint.topic(f"{path}/1", extension="epmx")
        reason = device.receipt(device.publish(topic, payload))
        assert reason.is_failure
        error = json.loads(device.message(f"{topic}/error").payload)
        assert error["statusCode"] == 400 and error["reasonPhrase"]
    assert stored(endpoint) == {"name": "kept"}


def test_white_list_and_read_only_keys(platform):
    application = platform.api.create_application()
    keys = {"name": {"write-enabled": True}, "serial": {"write-enabled": False}}
    block = {"versions": {application.version: {"metadata-keys": keys}}}
    application.configure(epmx=block)
    endpoint = application.create_endpoint()
    full = {"name": "a", "serial": "S1", "secret": 1}
    platform.api.call("PUT", f"/epr/api/v1/endpoints/{endpoint.id}/metadata", expect=200, body=full)

    def post(path, payload=b""):
        return request("POST", f"{platform.http}/{endpoint.topic(path, extension='epmx')}", body=payload)

    assert post("get").json() == {"name": "a", "serial": "S1"}
    assert sorted(post("get/keys").json()) == ["name", "serial"]
    assert post("update/keys", {"serial": "S2"}).status == 403
    assert post("update/keys", {"secret": 2}).status == 403
    assert post("delete/keys", ["serial"]).status == 403
    assert post("update", {"name": "b"}).status == 200
    assert stored(endpoint) == {"name": "b", "serial": "S1", "secret": 1}


def test_a_change_from_the_application_is_seen_by_the_device(platform, endpoint):
    path = f"/epr/api/v1/endpoints/{endpoint.id}/metadata"
    api = endpoint.application.api
    api.call("PUT", path, expect=200, body={"name": "a", "count": 1})
    api.call("PUT", f"{path}/count", expect=204, body=2)
    with Device(platform.mqtt_port, V311) as device:
        topic = endpoint.topic("get/1", extension="epmx")
        device.send(topic, b"")
        assert json.loads(device.message(f"{topic}/status").payload) == {"name": "a", "count": 2}
