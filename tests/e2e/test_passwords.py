"""Clients with a user name and a password: every answer to CONNECT, and what happens when they are taken away."""

import secrets

import pytest

from devices import V5, V311, Device, refusal
from processes import eventually
from tenants import require_of_clients

BASIC = "/ccm/api/v1/basic-credentials"


@pytest.fixture
def credentials(platform):
    """Fresh credentials, whose password the platform has made."""
    return platform.api.call("POST", BASIC, expect=201, body={"username": f"u{secrets.token_hex(4)}"})


def set_state(platform, credentials, state):
    path = f"{BASIC}/{credentials['id']}/state"
    platform.api.call("PUT", path, expect=200, body={"state": state})


@pytest.mark.parametrize("transport", ["tcp", "tls", "ws", "wss"])
def test_the_login_opens_every_transport(platform, endpoint, credentials, transport, protocol):
    port, options = platform.transport(transport)
    with Device(port, protocol, login=(credentials["login"], credentials["password"]), **options) as device:
        device.send(endpoint.topic("json"), b'{"temperature": 21}')
    assert endpoint.values("auto~temperature") == [21]
    (listed,) = [one for one in platform.api.call("GET", BASIC, expect=200) if one["id"] == credentials["id"]]
    assert listed["state"] == "Active" and "password" not in listed


def test_a_chosen_password(platform, credentials):
    body = {"username": f"{credentials['username']}x", "password": "a password of people"}
    created = platform.api.call("POST", BASIC, expect=201, body=body)
    assert "password" not in created
    with Device(platform.mqtt_port, login=(created["login"], "a password of people")):
        pass


def test_each_refusal_has_its_code(platform, credentials):
    login, password = credentials["login"], credentials["password"]
    for protocol in (V311, V5):
        for wrong in [
            (login, "wrong"),
            ("nobody@" + login.split("@")[1], password),
            (f"{credentials['username']}@elsewhere", password),
        ]:
            assert refusal(platform.mqtt_port, protocol, login=wrong) == "Bad user name or password", wrong
    set_state(platform, credentials, "Suspended")
    for protocol in (V311, V5):
        assert refusal(platform.mqtt_port, protocol, login=(login, password)) == "Not authorized"


def test_a_user_name_of_no_tenant_counts_as_nothing(platform, endpoint, credentials, protocol):
    """Programs that must show something, whatever it is, are as those that show nothing."""
    for login in [("anything", "anything"), (credentials["username"], credentials["password"])]:
        with Device(platform.mqtt_port, protocol, login=login) as device:
            device.send(endpoint.topic("json"), b'{"n": 1}')
    path = f"{BASIC}/{credentials['id']}"
    assert platform.api.call("GET", path, expect=200)["state"] == "Inactive"


@pytest.mark.parametrize("state", ["Suspended", "Revoked"])
def test_taken_away_at_once(platform, endpoint, credentials, state, protocol):
    login = (credentials["login"], credentials["password"])
    with Device(platform.mqtt_port, protocol, login=login) as device, Device(platform.mqtt_port) as other:
        device.send(endpoint.topic("json"), b'{"n": 1}')
        set_state(platform, credentials, state)
        assert device.ended(within=5).value == 0x98 or protocol != V5, "administrative action"
        other.send(endpoint.topic("json"), b'{"n": 2}')
    assert refusal(platform.mqtt_port, protocol, login=login) == "Not authorized"


def test_required_passwords(platform, other_tenant):
    endpoint = other_tenant.create_application().create_endpoint()
    created = other_tenant.call("POST", BASIC, expect=201, body={"username": "required"})
    login = (created["login"], created["password"])
    with Device(platform.mqtt_port, login=login) as known, Device(platform.mqtt_port) as unknown:
        known.send(endpoint.topic("json"), b'{"n": 1}')
        unknown.send(endpoint.topic("json"), b'{"n": 2}')
        require_of_clients(other_tenant, {"tcp": {"basic-auth": {"required": True}}})
        try:
            unknown.ended(within=5)
            known.send(endpoint.topic("json"), b'{"n": 3}')
        finally:
            require_of_clients(other_tenant, {"tcp": {"basic-auth": {"required": False}}})

    def is_let_in():
        with Device(platform.mqtt_port) as unknown:
            sent = unknown.publish(endpoint.topic("json"), b'{"n": 4}')
            unknown.wait("receipt or end", lambda: sent in unknown.receipts or unknown.disconnected)
            return sent in unknown.receipts

    # Only good news may take its time.
    eventually("unknown clients are let in again", is_let_in, within=5)


def test_credentials_of_one_tenant_open_no_endpoint_of_another(platform, endpoint, other_tenant):
    created = other_tenant.call("POST", BASIC, expect=201, body={"username": "stranger"})
    with Device(platform.mqtt_port, V5, login=(created["login"], created["password"])) as device:
        assert device.receipt(device.publish(endpoint.topic("json"), b'{"n": 1}')).is_failure
        assert device.subscribe(endpoint.topic("#"))  # whatever the code, it must not be granted
    assert endpoint.values("auto~n") == []


def test_a_duplicate_name_is_told(platform, credentials):
    answer = platform.api.ask("POST", BASIC, body={"username": credentials["username"]})
    assert answer.status == 409 and "taken" in answer.json()["message"]
