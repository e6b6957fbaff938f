"""Guessing passwords and tokens is slowed down, and keeps nobody else out.

The gateway counts by address, so each test guesses from a loopback address of its own.
"""

import collections
import concurrent.futures
import http.client
import itertools
import secrets
import socket

import pytest

from devices import V5, Device
from processes import eventually
from rest import request
from tenants import PASSWORD, create_tenant, create_user, login

# Addresses that nothing else in the tests comes from.
ADDRESSES = (f"127.0.{secrets.randbelow(250) + 1}.{last}" for last in itertools.count(1))
# Defaults: kpc.throttle.failed_logins_per_minute_per_address, .unknown_tokens_per_minute_per_address and ..._per_connection.
LOGINS, TOKENS, TOKENS_OF_CONNECTION = 300, 1000, 100
BAD_PASSWORD, THROTTLED = 0x86, 0x9F


@pytest.fixture
def address():
    return next(ADDRESSES)


@pytest.fixture(scope="module")
def tenant(platform):
    return create_tenant(platform, "guessing")


@pytest.fixture
def credentials(tenant):
    body = {"username": f"u{secrets.token_hex(4)}"}
    return tenant.call("POST", "/ccm/api/v1/basic-credentials", expect=201, body=body)


def connect(platform, address, login, password):
    """The reason code of CONNACK (MQTT 5) for a login from an address."""
    texts = (b"guess" + secrets.token_hex(4).encode(), login.encode(), password.encode())
    fields = b"".join(len(text).to_bytes(2) + text for text in texts)
    body = b"\x00\x04MQTT\x05\xc2\x00\x3c\x00" + fields
    assert len(body) < 128, "the length is one byte"
    with socket.create_connection(
        ("127.0.0.1", platform.mqtt_port), timeout=20, source_address=(address, 0)
    ) as connection:
        connection.sendall(bytes([0x10, len(body)]) + body)
        answer = connection.recv(64)
    assert answer and answer[0] == 0x20, answer
    return answer[3]


def test_one_password_of_a_device(platform, address, credentials):
    """Pauses between attempts for one user name; the device, which knows its password, is let in all the same."""
    right = (credentials["login"], credentials["password"])
    seen = [connect(platform, address, credentials["login"], "guessed") for _ in range(15)]
    assert seen[:5] == [BAD_PASSWORD] * 5 and seen.count(THROTTLED) >= 5, seen
    assert set(seen) == {BAD_PASSWORD, THROTTLED}
    assert connect(platform, address, *right) == 0


def test_passwords_of_many_devices(platform, address, credentials):
    right = (credentials["login"], credentials["password"])
    assert connect(platform, address, *right) == 0
    names = (f"nobody{number}@{credentials['login'].partition('@')[2]}" for number in itertools.count())
    counts = collections.Counter()

    def is_not_listened_to():
        """Whoever guesses gets in not even with what is right."""
        with concurrent.futures.ThreadPoolExecutor(4) as guessers:
            attempts = [
                guessers.submit(connect, platform, address, next(names), "guessed") for _ in range(20)
            ]
        counts.update(attempt.result() for attempt in attempts)
        return counts[THROTTLED] and connect(platform, address, *right) == THROTTLED

    eventually("the address is not listened to", is_not_listened_to, within=60)
    assert set(counts) == {BAD_PASSWORD, THROTTLED} and counts[BAD_PASSWORD] >= LOGINS, counts
    with Device(platform.mqtt_port, login=right):
        pass
    eventually("the address is listened to again", lambda: connect(platform, address, *right) == 0, within=60)


def test_tokens_over_mqtt(platform, address, endpoint):
    """A connection that shows many unknown tokens is closed; the endpoint's own connection goes on."""
    with (
        Device(platform.mqtt_port, V5, source=address) as own,
        Device(platform.mqtt_port, V5, source=address) as guesser,
    ):
        own.send(endpoint.topic("json"), b'{"n": 1}')
        for _ in range(TOKENS_OF_CONNECTION + 50):
            guesser.publish(
                f"kp1/{endpoint.application.version}/dcx/{secrets.token_hex(12)}/json", b"{}", qos=0
            )
        assert guesser.ended(within=30).value == 0x97, "quota exceeded"
        own.send(endpoint.topic("json"), b'{"n": 2}')
    assert endpoint.values("auto~n") == [1, 2]


def test_tokens_over_http(platform, address, endpoint):
    connection = http.client.HTTPConnection(
        "127.0.0.1", int(platform.http.rpartition(":")[2]), timeout=20, source_address=(address, 0)
    )

    def post(token):
        connection.request("POST", f"/kp1/{endpoint.application.version}/dcx/{token}/json", b'{"n": 1}')
        answer = connection.getresponse()
        answer.read()
        return answer

    with Device(platform.mqtt_port, source=address) as device:
        device.send(endpoint.topic("json"), b'{"n": 1}')
        seen = []
        for _ in range(2 * TOKENS):
            seen.append(post(secrets.token_hex(12)).status)
            if seen.count(429) == 20:
                break
        assert set(seen) == {401, 429}, "refused at first, then not listened to"

        def is_throttled():
            answer = post(endpoint.token)
            return answer.status == 429 and int(answer.headers["Retry-After"]) >= 1

        eventually("the right token is not listened to from there", is_throttled)
        # What the device has shown before goes on, and from elsewhere all is as ever.
        device.send(endpoint.topic("json"), b'{"n": 2}')
        url = f"{platform.http}/{endpoint.topic('json')}"
        assert request("POST", url, body=b'{"n": 3}').status == 200
    eventually("the address is listened to again", lambda: post(endpoint.token).status == 200, within=60)
    connection.close()


def test_passwords_of_people(platform, tenant):
    """The name is locked for longer and longer, whether there is such a user or not; other names are not."""
    user, other = create_user(tenant, role="viewer"), create_user(tenant, role="viewer")
    for name in (user["username"], f"nobody-{secrets.token_hex(4)}"):
        seen = []
        while 429 not in seen and len(seen) < 20:
            seen.append(login(platform, tenant.tenant, name, "guessed").status)
        assert seen == [401] * (len(seen) - 1) + [429], seen
        locked = login(platform, tenant.tenant, name, "guessed")
        assert locked.status == 429 and int(locked.headers["Retry-After"]) >= 1
    assert login(platform, tenant.tenant, other["username"]).status == 200
    eventually(
        "the right password is taken after the pause",
        lambda: login(platform, tenant.tenant, user["username"], PASSWORD).status == 200,
        within=30,
        every=0.2,
    )


def test_keys_that_are_guessed_take_no_right_one_away(platform, tenant):
    for _ in range(200):
        guessed = tenant.with_credentials(
            {"x-iamcore-api-key": f"bdr_{secrets.token_hex(8)}_{secrets.token_hex(16)}"}
        )
        assert guessed.ask("GET", "/tm/api/v1/me").status == 401
    assert tenant.ask("GET", "/tm/api/v1/me").status == 200
