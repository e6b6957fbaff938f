"""The life of an endpoint token: revoked in the moment, issued anew for the same endpoint and its history."""

import json

import pytest

from devices import V5, Device
from processes import eventually
from rest import request


def tokens(endpoint):
    path = f"/cm/api/v1/endpoints/{endpoint.id}/tokens"
    return endpoint.application.api.call("GET", path, expect=200)["content"]


def set_status(endpoint, token_id, status):
    path = f"/cm/api/v1/endpoints/{endpoint.id}/tokens/{token_id}/status"
    endpoint.application.api.call("PUT", path, expect=200, body={"status": status})


def post(platform, endpoint, value):
    body = json.dumps({"n": value}).encode()
    return request("POST", f"{platform.http}/{endpoint.topic('json')}", body=body).status


def test_revoked_and_issued_anew(platform, endpoint):
    with Device(platform.mqtt_port) as device:
        device.send(endpoint.topic("json"), b'{"n": 1}')
        (token,) = tokens(endpoint)
        assert token["status"] == "Active" and "token" not in token
        set_status(endpoint, token["endpointTokenId"], "Revoked")
        device.ended(within=5)
    assert post(platform, endpoint, 2) == 403
    path = f"/cm/api/v1/endpoints/{endpoint.id}/tokens"
    body = {"applicationName": endpoint.application.name}
    made = endpoint.application.api.call("POST", path, expect=201, body=body)
    endpoint.token = made["token"]
    assert post(platform, endpoint, 3) == 200
    assert endpoint.values("auto~n") == [1, 3]
    assert sorted(one["status"] for one in tokens(endpoint)) == ["Active", "Revoked"]


def test_suspended_and_active_again(platform, endpoint, protocol):
    assert tokens(endpoint)[0]["status"] == "Inactive"
    with Device(platform.mqtt_port, protocol) as device:
        device.send(endpoint.topic("json"), b'{"n": 1}')
        set_status(endpoint, tokens(endpoint)[0]["endpointTokenId"], "Suspended")
        device.ended(within=5)
    with Device(platform.mqtt_port, V5) as device:
        topic = endpoint.topic("json/1")
        assert device.receipt(device.publish(topic, b'{"n": 2}')).is_failure
        assert json.loads(device.message(f"{topic}/error").payload)["statusCode"] == 403
    set_status(endpoint, tokens(endpoint)[0]["endpointTokenId"], "Active")
    # Only good news may take its time: the gateway remembers a refusal for kpc.tokens.refused_ttl_ms.
    eventually("the token is taken again", lambda: post(platform, endpoint, 3) == 200, within=5)
    assert endpoint.values("auto~n") == [1, 3]


def test_deleted(platform, endpoint):
    assert post(platform, endpoint, 1) == 200
    (token,) = tokens(endpoint)
    path = f"/cm/api/v1/endpoints/{endpoint.id}/tokens/{token['endpointTokenId']}"
    endpoint.application.api.call("DELETE", path, expect=204)
    assert tokens(endpoint) == []
    # The gateway hears of it a moment after it was confirmed.
    eventually("the token is unknown", lambda: post(platform, endpoint, 2) == 401, within=2, every=0)


@pytest.mark.parametrize("status", ["Active", "Suspended"])
def test_revoked_is_for_ever(endpoint, status):
    (token,) = tokens(endpoint)
    set_status(endpoint, token["endpointTokenId"], "Revoked")
    path = f"/cm/api/v1/endpoints/{endpoint.id}/tokens/{token['endpointTokenId']}/status"
    answer = endpoint.application.api.ask("PUT", path, body={"status": status})
    assert answer.status == 409 and "Revoked" in answer.json()["message"]


def test_an_endpoint_goes_with_all_that_is_its_own(platform, endpoint):
    """Deleting the endpoint ends its connection and makes its token unknown."""
    with Device(platform.mqtt_port) as device:
        device.send(endpoint.topic("json"), b'{"n": 1}')
        endpoint.application.api.call("DELETE", f"/epr/api/v1/endpoints/{endpoint.id}", expect=204)
        device.ended(within=5)
    assert post(platform, endpoint, 2) == 401
    endpoint.application.api.call("GET", f"/epr/api/v1/endpoints/{endpoint.id}", expect=404)
