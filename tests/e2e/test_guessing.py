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
# Defaults in [kpc.throttle]: failed_logins_per_minute_per_address, unknown_tokens_per_minute_per_address, and
# ..._per_connection.
LOGINS, TOKENS, TOKENS_OF_CONNECTION = 300, 1000, 100
BAD_PASSWORD, THROTTLED = 0x86, 0x9F


@pytest.fixture
def address():
    return next(ADDRESSES)


@pytest.fixture(scope="module")
def tenant(platform):
    return create_tenant(platform, "guessing")


def right_login(tenant):
    """A user name and password that the platform has made."""
    body = {"username": f"u{secrets.token_hex(4)}"}
    made = tenant.call("POST", "/ccm/api/v1/basic-credentials", expect=201, body=body)
    return made["login"], made["password"]


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


def test_one_password_of_a_device(platform, address, tenant):
    """Pauses between attempts for one user name; the device, which knows its password, is let in all the same."""
    right = right_login(tenant)
    seen = [connect(platform, address, right[0], f"guess {number}") for number in range(15)]
    assert seen[:5] == [BAD_PASSWORD] * 5 and seen.count(THROTTLED) >= 5, seen
    assert set(seen) == {BAD_PASSWORD, THROTTLED}
    assert connect(platform, next(ADDRESSES), *right) == 0


def test_passwords_of_many_devices(platform, address, tenant):
    """Whoever guesses gets in not even with what is right; those who were right there before do."""
    known, found = right_login(tenant), right_login(tenant)
    assert connect(platform, address, *known) == 0
    names = (f"nobody{number}@{tenant.tenant}" for number in itertools.count())
    counts = collections.Counter()

    def is_not_listened_to():
        with concurrent.futures.ThreadPoolExecutor(4) as guessers:
            attempts = [
                guessers.submit(connect, platform, address, next(names), "guessed") for _ in range(20)
            ]
        counts.update(attempt.result() for attempt in attempts)
        # If it is let in, because the block was over, it is known from then on.
        return counts[THROTTLED] and connect(platform, address, *right_login(tenant)) == THROTTLED

    eventually("the address is not listened to", is_not_listened_to, within=60)
    assert set(counts) == {BAD_PASSWORD, THROTTLED} and counts[BAD_PASSWORD] >= LOGINS, counts
    assert connect(platform, address, *known) == 0
    with Device(platform.mqtt_port, login=found):
        pass
    eventually("the address is listened to again", lambda: connect(platform, address, *found) == 0, within=60)


def test_tokens_over_mqtt(platform, address, endpoint):
    """A connection that shows many unknown tokens is closed; the endpoint's own connection goes on."""
    with (
        Device(platform.mqtt_port, V5, source=address) as own,
        Device(platform.mqtt_port, V5, source=address) as guesser,
    ):
        own.send(endpoint.topic("json"), b'{"n": 1}')
        for _ in range(TOKENS_OF_CONNECTION + 50):
            # One after the other: what is still on its way when the gateway closes takes the reason with it.
            guess = guesser.publish(
                f"kp1/{endpoint.application.version}/dcx/{secrets.token_hex(12)}/json", b"{}"
            )
            guesser.wait("an answer", lambda guess=guess: guesser.disconnected or guess in guesser.receipts)
            if guesser.disconnected:
                break
        assert guesser.ended(within=30).value == 0x97, "quota exceeded"
        own.send(endpoint.topic("json"), b'{"n": 2}')
    assert endpoint.values("auto~n") == [1, 2]


def test_tokens_over_http(platform, address, application, endpoint):
    connection = http.client.HTTPConnection(
        "127.0.0.1", int(platform.http.rpartition(":")[2]), timeout=20, source_address=(address, 0)
    )

    def post(token):
        connection.request("POST", f"/kp1/{application.version}/dcx/{token}/json", b'{"n": 1}')
        answer = connection.getresponse()
        answer.read()
        return answer

    with Device(platform.mqtt_port, source=address) as device:
        device.send(endpoint.topic("json"), b'{"n": 1}')
        found, seen = application.create_endpoint(), collections.Counter()

        def is_not_listened_to():
            """Whoever guesses is not even listened to when he has found one."""
            seen.update(post(secrets.token_hex(12)).status for _ in range(100))
            if not seen[429]:
                return False
            answer = post(application.create_endpoint().token)
            return answer.status == 429 and int(answer.headers["Retry-After"]) >= 1

        eventually("the address is not listened to", is_not_listened_to, within=60)
        assert set(seen) == {401, 429} and seen[401] >= TOKENS, seen
        # What the device has shown there goes on, and from elsewhere all is as ever.
        device.send(endpoint.topic("json"), b'{"n": 2}')
        assert post(endpoint.token).status == 200
        url = f"{platform.http}/{found.topic('json')}"
        assert request("POST", url, body=b'{"n": 3}').status == 200
    eventually("the address is listened to again", lambda: post(found.token).status == 200, within=60)
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
