"""Commands as Kaa's tutorial has them, over HTTP and MQTT, and what applications do with them over REST."""

import concurrent.futures
import json
import os
import pathlib
import re
import secrets
import subprocess
import sys
import urllib.request

import pytest

from devices import V5, Device
from processes import ROOT, eventually
from rest import request

PAHO_1 = pathlib.Path(os.environ.get("BANDAR_PAHO1", ROOT / ".tools/paho1"))
CEX = "/cex/api/v1/endpoints"
HOUR_MS = 3_600_000


class Commands:
    """The commands of one endpoint, over REST and as the device asks for them over HTTP."""

    def __init__(self, platform, endpoint):
        self.api, self.base, self.endpoint = platform.api, platform.http, endpoint

    def path(self, command_type, *rest):
        return "/".join([CEX, self.endpoint.id, "commands", command_type, *map(str, rest)])

    def ask(self, command_type, body=None, *, headers=None, **query):
        return self.api.ask("POST", self.path(command_type), body=body, query=query, headers=headers)

    def invoke(self, command_type, body=None, **query):
        """Invokes without waiting; gives back the id."""
        answer = self.ask(command_type, body, **{"awaitTimeout": 0, "commandTtl": HOUR_MS, **query})
        assert answer.status == 202, f"{answer.status} {answer.body}"
        location = answer.headers["Location"]
        assert re.fullmatch(re.escape(self.path(command_type)) + r"/\d+", location), location
        return int(location.rsplit("/", 1)[1])

    def get(self, command_type, command_id):
        return self.api.call("GET", self.path(command_type, command_id), expect=200)

    def until(self, command_type, command_id, state):
        def reached():
            command = self.get(command_type, command_id)
            return command if command["deliveryState"] == state else None

        return eventually(f"{command_type} {command_id} is {state}", reached, within=15)

    def device(self, resource, body=b"{}", headers=None):
        """What the device posts over HTTP, and its answer."""
        url = f"{self.base}/{self.endpoint.topic(resource, extension='cex')}"
        return request("POST", url, body=body, headers=headers)

    def poll(self, resource):
        answer = self.device(resource)
        assert answer.status == 200, answer.body
        return answer.json()

    def history(self, **query):
        path = f"{CEX}/commands/{self.endpoint.application.name}"
        return self.api.call("GET", path, expect=200, query=query)


@pytest.fixture
def commands(platform, endpoint):
    return Commands(platform, endpoint)


def test_the_tutorial_over_http(commands):
    assert commands.poll("command/reboot") == []
    command_id = commands.invoke("reboot", {"delay": 5})
    expected = [{"id": command_id, "payload": {"delay": 5}}]
    assert commands.poll("command/reboot") == expected
    # It comes again until there is a result.
    assert commands.poll("command/reboot") == expected
    assert commands.poll("command/zero") == []
    assert commands.poll("command") == [{**expected[0], "type": "reboot"}]
    assert commands.get("reboot", command_id)["status"] == "PENDING"

    result = {"id": command_id, "statusCode": 200, "reasonPhrase": "OK", "payload": "Success"}
    assert commands.device("result/reboot", json.dumps([result]).encode()).status == 200
    # A result that comes again changes nothing.
    assert commands.device("result/reboot", json.dumps([result]).encode()).status == 200
    assert commands.poll("command/reboot") == []
    done = commands.get("reboot", command_id)
    assert (done["status"], done["deliveryState"]) == ("EXECUTED", "EXECUTED")
    assert (done["statusCode"], done["reasonPhrase"], done["responsePayload"]) == (200, "OK", "Success")
    assert [step["state"] for step in done["transitions"]] == ["CREATED", "SENT", "EXECUTED"]
    last = commands.api.call("GET", commands.path("reboot", "last"), expect=200)
    assert last["commandId"] == command_id


@pytest.mark.parametrize("paho", ["paho-mqtt-1", "paho-mqtt-2"])
def test_the_tutorial_over_mqtt(platform, commands, paho):
    environment = {**os.environ, **({"PYTHONPATH": str(PAHO_1)} if paho == "paho-mqtt-1" else {})}
    endpoint = commands.endpoint
    program = pathlib.Path(__file__).with_name("commanded_client.py")
    arguments = [platform.mqtt_port, endpoint.application.version, endpoint.token, 3]
    # One waits for the device, two come while it is there.
    first = commands.invoke("reboot", {"n": 1})
    device = subprocess.Popen(
        [sys.executable, str(program), *map(str, arguments)],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        commands.until("reboot", first, "EXECUTED")
        answer = commands.ask("reboot", {"n": 2}, awaitTimeout=20)
        assert (answer.status, answer.json()) == (200, "Success"), answer.body
        zero = commands.ask("zero", awaitTimeout=20)
        assert zero.status == 200
        printed, errors = device.communicate(timeout=30)
    finally:
        device.kill()
    assert device.returncode == 0, errors
    executed = [json.loads(line) for line in printed.splitlines()]
    assert executed == [
        {"type": "reboot", "id": first, "payload": {"n": 1}},
        {"type": "reboot", "id": first + 1, "payload": {"n": 2}},
        {"type": "zero", "id": 1},
    ]
    assert endpoint.values("auto~fuelLevel") == [100, 0]
    history = commands.history(commandTypes="reboot,zero", endpointId=endpoint.id)
    assert [(c["commandType"], c["status"]) for c in history["content"]] == [
        ("zero", "EXECUTED"),
        ("reboot", "EXECUTED"),
        ("reboot", "EXECUTED"),
    ]
    # It was pushed, so the device's own acknowledgement is in the books, unless the result came first.
    assert all(c["attempts"] >= 1 for c in history["content"])


def test_commands_come_in_order_and_at_most_once_while_all_is_well(platform, commands, device):
    client = device(V5)
    client.send(commands.endpoint.topic("command/1", extension="cex"), "{}")
    ids = [commands.invoke("step", {"n": n}) for n in range(20)]
    topic = commands.endpoint.topic("command/step/status", extension="cex")

    def got():
        payloads = [json.loads(m.payload) for m in client.messages if m.topic == topic]
        return [command for payload in payloads for command in payload]

    client.wait("all commands", lambda: len(got()) >= 20)
    assert got() == [{"id": i, "payload": {"n": n}} for n, i in enumerate(ids)]
    commands.until("step", ids[-1], "DELIVERED")
    results = [{"id": i, "statusCode": 200} for i in ids]
    client.send(commands.endpoint.topic("result/step/9", extension="cex"), json.dumps(results))
    assert {commands.get("step", i)["status"] for i in ids} == {"EXECUTED"}


def test_known_results_are_taken_and_unknown_ones_named(commands, device):
    client = device()
    command_id = commands.invoke("reboot")
    results = [{"id": command_id, "statusCode": 200}, {"id": 77, "statusCode": 200}]
    topic = commands.endpoint.topic("result/reboot/5", extension="cex")
    client.publish(topic, json.dumps(results))
    error = json.loads(client.message(f"{topic}/error").payload)
    assert error["statusCode"] == 404 and "77" in error["reasonPhrase"], error
    assert commands.get("reboot", command_id)["status"] == "EXECUTED"


def test_a_device_that_does_not_want_pushes_gets_none(commands, device):
    client = device(V5)
    ask = commands.endpoint.topic("command/quiet/1", extension="cex")
    client.send(ask, json.dumps({"observe": False}))
    command_id = commands.invoke("quiet", 1)
    assert client.message(f"{ask}/status").payload == b"[]"
    topic = commands.endpoint.topic("command/quiet/status", extension="cex")
    assert client.silence(1.0) and not [m for m in client.messages if m.topic == topic]
    client.send(ask.replace("/1", "/2"), json.dumps({"observe": True}))
    assert json.loads(client.message(f"{ask.replace('/1', '/2')}/status").payload) == [
        {"id": command_id, "payload": 1}
    ]
    later = commands.invoke("quiet", 2)
    client.wait("a push", lambda: any(f'"id":{later}' in m.payload.decode() for m in client.messages))


def test_a_poll_may_wait(commands):
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        polling = pool.submit(commands.device, "command/reboot", b"{}", {"Prefer": "wait=20"})
        command_id = commands.invoke("reboot", "now")
        answer = polling.result(timeout=25)
    assert answer.status == 200 and answer.json() == [{"id": command_id, "payload": "now"}]


def test_a_command_that_nobody_takes_expires(commands):
    command_id = commands.invoke("reboot", commandTtl=300)
    done = commands.until("reboot", command_id, "EXPIRED")
    assert done["status"] == "EXPIRED"
    assert commands.poll("command/reboot") == []
    result = json.dumps([{"id": command_id, "statusCode": 200, "payload": "late"}]).encode()
    answer = commands.device("result/reboot", result)
    assert answer.status in (404, 409) and str(command_id) in answer.json()["reasonPhrase"], answer.body
    after = commands.get("reboot", command_id)
    assert after["status"] == "EXPIRED" and after["lateResult"]["payload"] == "late"


def test_a_command_without_time_to_live_is_tried_once(commands, device):
    first = commands.invoke("reboot", commandTtl=0)
    assert commands.until("reboot", first, "UNDELIVERED")["status"] == "EXPIRED"
    client = device(V5)
    client.send(commands.endpoint.topic("command/1", extension="cex"), "{}")
    second = commands.invoke("reboot", commandTtl=0)
    topic = commands.endpoint.topic("command/reboot/status", extension="cex")
    assert json.loads(client.message(topic).payload) == [{"id": second}]


def test_a_cancelled_command_is_not_delivered(commands, device):
    command_id = commands.invoke("reboot", {"n": 1})
    path = commands.path("reboot", command_id)
    commands.api.call("DELETE", path, expect=204)
    commands.api.call("DELETE", path, expect=204)
    assert commands.poll("command/reboot") == []
    assert commands.get("reboot", command_id)["deliveryState"] == "CANCELLED"
    done = commands.invoke("reboot", {"n": 2})
    commands.device("result/reboot", json.dumps([{"id": done, "statusCode": 200}]).encode())
    assert "EXECUTED" in commands.api.ask("DELETE", commands.path("reboot", done)).json()["message"]


def test_a_repeated_invocation_is_the_same_command(commands):
    key = {"Idempotency-Key": secrets.token_hex(8)}
    answers = [commands.ask("reboot", {"n": 1}, headers=key, awaitTimeout=0) for _ in range(3)]
    assert {answer.status for answer in answers} == {202}
    assert len({answer.headers["Location"] for answer in answers}) == 1
    assert commands.ask("reboot", {"n": 2}, headers=key, awaitTimeout=0).status == 409
    assert commands.history(endpointId=commands.endpoint.id)["totalElements"] == 1


def test_text_goes_as_text_and_older_names_of_parameters_work(commands):
    text = {"Content-Type": "text/plain"}
    query = {"waitTimeout": 0, "commandRetentionTtl": 1}
    answer = commands.api.ask("POST", commands.path("say"), body=b"light: on", query=query, headers=text)
    assert answer.status == 202, answer.body
    assert commands.poll("command/say") == [{"id": 1, "payload": "light: on"}]
    bad = commands.api.ask(
        "POST", commands.path("say"), body=b"{", headers={"Content-Type": "application/json"}
    )
    assert bad.status == 400
    assert commands.ask("say", awaitTimeout=61).status == 400


@pytest.mark.parametrize("kind", ["by-endpoints", "by-filter"])
def test_one_command_for_many(platform, application, kind):
    mark = secrets.token_hex(4)
    endpoints = [application.create_endpoint(metadata={"mark": mark}) for _ in range(5)]
    body, query = {"volume": 3}, {"commandTtl": HOUR_MS}
    path = f"{CEX}/commands/siren/batch/{kind}"
    if kind == "by-filter":
        filters = f"/epr/api/v1/applications/{application.name}/filters"
        wanted = {"metadata": {"$elemMatch": {"key": "mark", "value": mark}}}
        made = platform.api.call("POST", filters, expect=201, body={"name": mark, "mongoQuery": wanted})
        query["filterId"] = made["id"]
        eventually(
            "the filter is active",
            lambda: platform.api.call("GET", f"{filters}/{made['id']}", expect=200)["status"].upper()
            == "ACTIVE",
        )
    else:
        body = {"payload": body, "endpointIds": [endpoint.id for endpoint in endpoints]}
    answer = platform.api.ask("POST", path, body=body, query=query)
    assert answer.status in (200, 202), answer.body
    task = f"{CEX}/commands/batch/tasks/{answer.json()['taskId']}"
    app = {"appName": application.name}

    def invoked():
        pending = platform.api.call("GET", task, expect=200, query=app)["pending"]
        return pending if len([one for one in pending if one["commandId"]]) == len(endpoints) else None

    pending = eventually("all commands are invoked", invoked)
    assert {one["endpointId"] for one in pending} == {endpoint.id for endpoint in endpoints}
    for endpoint in endpoints[:3]:
        commands = Commands(platform, endpoint)
        (command,) = commands.poll("command/siren")
        assert command["payload"] == {"volume": 3}
        commands.device("result/siren", json.dumps([{"id": command["id"], "statusCode": 200}]).encode())
    counts = platform.api.call("GET", task, expect=200, query=app)
    assert [len(counts[state]) for state in ("executed", "pending", "expired")] == [3, 2, 0]
    assert platform.api.ask("DELETE", task, query=app).status == 202

    def accounts():
        counts = platform.api.call("GET", task, expect=200, query=app)
        return [len(counts[state]) for state in ("executed", "pending", "expired")]

    # Each is cancelled once no push can deliver it any more.
    eventually("all has ended", lambda: accounts() == [3, 0, 2], within=20)


class Feed:
    """The live feed of an application, read event by event."""

    def __init__(self, api, application, after=None):
        headers = {**api.credentials, **({"Last-Event-ID": after} if after else {})}
        url = f"{api.base}/cex/api/v1/applications/{application.name}/events"
        self._response = urllib.request.urlopen(urllib.request.Request(url, headers=headers), timeout=20)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self._response.close()

    def next(self):
        """(id, kind, data) of the next event."""
        fields = {}
        for line in self._response:
            line = line.decode().rstrip("\r\n")
            if not line and "data" in fields:
                return fields.get("id"), fields.get("event"), json.loads(fields["data"])
            if line and not line.startswith(":"):
                name, _, value = line.partition(":")
                fields[name] = value.removeprefix(" ")
        raise AssertionError("the feed ended")

    def until(self, *wanted):
        """All events until there was one of each kind that is wanted."""
        seen = []
        while not all(any(map(is_wanted, seen)) for is_wanted in wanted):
            seen.append(self.next())
        return seen


def test_the_live_feed_tells_what_happens_and_goes_on_where_it_was_left(platform, device):
    application = platform.api.create_application()
    commands = Commands(platform, application.create_endpoint())
    with Feed(platform.api, application) as feed:
        client = device()
        client.send(commands.endpoint.topic("command/1", extension="cex"), "{}")
        first = commands.invoke("reboot")
        commands.device("result/reboot", json.dumps([{"id": first, "statusCode": 200}]).encode())
        # That the device is there comes another way than what it does.
        seen = feed.until(
            lambda event: event[2].get("state") == "EXECUTED", lambda event: event[2].get("connected")
        )
    states = [data["state"] for _, kind, data in seen if kind == "command"]
    assert (states[0], states[-1]) == ("CREATED", "EXECUTED"), states
    second = commands.invoke("reboot")
    with Feed(platform.api, application, after=seen[-1][0]) as feed:
        later = feed.until(lambda event: event[2].get("commandId") == second)
    assert all(data.get("commandId") != first for _, _, data in later), "nothing comes twice"


def test_nobody_sees_or_commands_what_is_another_tenants(platform, other_tenant, commands):
    command_id = commands.invoke("reboot")
    theirs = commands.path("reboot", command_id)
    assert other_tenant.ask("GET", theirs).status == 404
    assert other_tenant.ask("DELETE", theirs).status == 404
    assert other_tenant.ask("POST", commands.path("reboot"), body={}).status == 404
    feed = f"/cex/api/v1/applications/{commands.endpoint.application.name}/events"
    assert other_tenant.ask("GET", feed).status in (403, 404)
    assert commands.get("reboot", command_id)["status"] == "PENDING"


def test_a_command_finds_its_device_behind_any_gateway(cluster):
    """The invocation reaches the device wherever it is, and again after it has moved."""
    application = cluster.api.create_application()
    endpoint = application.create_endpoint()
    commands = Commands(cluster, endpoint)
    for port in [*cluster.mqtt_ports, cluster.mqtt_ports[0]]:
        with Device(port, V5) as client:
            client.send(endpoint.topic("command/1", extension="cex"), "{}")
            command_id = commands.invoke("reboot")
            topic = endpoint.topic("command/reboot/status", extension="cex")
            assert json.loads(client.message(topic).payload)[-1]["id"] == command_id
            result = json.dumps([{"id": command_id, "statusCode": 200}])
            client.send(endpoint.topic("result/reboot", extension="cex"), result)
            assert commands.get("reboot", command_id)["status"] == "EXECUTED"
