"""Commands are never lost and always accounted for, whatever dies.

Applications invoke 10,000 commands on 200 devices, and cancel some, while the devices lose their connections, answer late,
twice or never, and each process is killed at random. In the end each command has exactly one final state, and that is true.
"""

import collections
import concurrent.futures
import datetime
import random
import secrets
import time

import pytest

import fleet as devices
from cluster import Cluster
from conftest import make_directory
from fleet import Fleet, Name
from processes import eventually

COMMANDS = 10_000
DEVICES = 200
CALLERS = 12
TYPES = ["reboot", "zero", "set-point"]
VICTIMS = ["cex", "cex-1", "kpc", "kpc-1", "nats-server", "postgres"]
FINAL = {"EXECUTED", "EXPIRED", "UNDELIVERED", "CANCELLED"}
# Results that must be acknowledged after a kill before the next one.
RESULTS_BETWEEN = 50
RECOVERS_WITHIN_S = 60
# After the last kill: a push to a device that is away lasts 10 s, and may be repeated twice.
SETTLES_WITHIN_S = 120
# Short ones expire while devices are away; long ones outlive everything that happens here.
SHORT_TTL_MS, LONG_TTL_MS = (300, 3_000), 180_000


@pytest.fixture
def cluster(workplace, request):
    cluster = Cluster(make_directory(workplace, request.node.name), gateways=2, replicas={"cex": 2})
    yield cluster
    cluster.stop()


class Caller:
    """Invokes commands and cancels some; repeats each request until it has a definite answer."""

    def __init__(self, api, endpoints):
        self.api = api
        self.endpoints = endpoints
        # What was invoked: name to payload, time to live and moment.
        self.invoked = {}
        # When the platform has confirmed that a command is cancelled.
        self.cancelled = {}

    def invoke(self, number):
        chance = random.Random(number)
        endpoint, command_type = chance.choice(self.endpoints), chance.choice(TYPES)
        payload = {"number": number, "nonce": chance.getrandbits(32)}
        ttl = chance.randint(*SHORT_TTL_MS) if chance.random() < 0.1 else LONG_TTL_MS
        # The device's habit is not known before the id is; what nobody answers is cancelled at the end.
        path = f"/cex/api/v1/endpoints/{endpoint.id}/commands/{command_type}"
        answer = self._definite(
            "POST",
            path,
            {200, 202},
            body=payload,
            query={"awaitTimeout": 0, "commandTtl": ttl},
            headers={"Idempotency-Key": f"kill-test-{number}"},
        )
        name = Name(endpoint.id, command_type, int(answer.headers["Location"].rsplit("/", 1)[1]))
        self.invoked[name] = payload
        if chance.random() < 0.05:
            time.sleep(chance.uniform(0, 0.5))
            if self._definite("DELETE", f"{path}/{name.id}", {202, 204, 409}).status == 204:
                self.cancelled[name] = time.time()

    def _definite(self, method, path, wanted, **request):
        def answer():
            given = self.api.ask(method, path, **request)
            if given.status in wanted:
                return given
            assert given.status in (429, 500, 502, 503, 504), f"{method} {path}: {given.status} {given.body}"
            time.sleep(0.2)
            return None

        return eventually(f"a definite answer to {method} {path}", answer, within=120, every=0.1)


def ledger(application):
    """All commands of the application, as its history has them."""
    found, page = [], 0
    while True:
        query = {"page": page, "size": 500, "sort": "createdAt,asc"}
        path = f"/cex/api/v1/endpoints/commands/{application.name}"
        content = application.api.call("GET", path, expect=200, query=query)["content"]
        if not content:
            return {Name(c["endpointId"], c["commandType"], c["commandId"]): c for c in found}
        found += content
        page += 1


def test_each_command_has_one_true_end(cluster):
    application = cluster.api.create_application()
    endpoints = [application.create_endpoint() for _ in range(DEVICES)]
    fleet = Fleet(endpoints, cluster.mqtt_ports).start()
    caller = Caller(cluster.api, endpoints)
    victims = random.Random(secrets.randbits(32)).sample(VICTIMS * 2, k=2 * len(VICTIMS))
    try:
        with concurrent.futures.ThreadPoolExecutor(CALLERS) as pool:
            invoking = [pool.submit(caller.invoke, number) for number in range(COMMANDS)]
            for victim in victims:
                wait_for_results(fleet, f"before the end of {victim}", invoking)
                cluster.processes[victim].kill()
            for done in invoking:
                done.result()
        for victim in VICTIMS:
            cluster.processes[victim].kill()
        commands = settled(application)
    finally:
        fleet.stop()

    assert set(commands) == set(caller.invoked), "each invocation is one command"
    check_ledger(commands)
    check_deliveries(commands, caller, fleet)
    check_results(commands, fleet)


def wait_for_results(fleet, when, invoking):
    wanted = len(fleet.acknowledged) + RESULTS_BETWEEN
    eventually(
        f"{RESULTS_BETWEEN} more results {when}",
        lambda: len(fleet.acknowledged) >= wanted or all(done.done() for done in invoking),
        within=RECOVERS_WITHIN_S,
    )


def settled(application):
    """The ledger, once all that devices answer has ended. What they do not answer is cancelled."""
    left = collections.Counter()

    def outstanding():
        commands = ledger(application)
        pending = [name for name, command in commands.items() if command["status"] == "PENDING"]
        left.clear()
        left.update((devices.habit(name), commands[name]["deliveryState"]) for name in pending)
        return commands, pending

    def cancel(name):
        path = f"/cex/api/v1/endpoints/{name.endpoint}/commands/{name.type}/{name.id}"
        return application.api.ask("DELETE", path).status in (202, 204, 409)

    def answered():
        _, pending = outstanding()
        return all(devices.habit(name) == devices.MUTE for name in pending)

    def ended():
        commands, pending = outstanding()
        return None if pending else commands

    try:
        eventually("all that is answered has ended", answered, within=SETTLES_WITHIN_S, every=1)
        # Each waits until no attempt can deliver it any more.
        _, mute = outstanding()
        with concurrent.futures.ThreadPoolExecutor(CALLERS * 4) as pool:
            cancelled = pool.map(
                lambda name: eventually(f"{name} is cancelled", lambda: cancel(name), within=60), mute
            )
            assert all(cancelled)
        return eventually("what nobody answers has ended", ended, within=SETTLES_WITHIN_S, every=1)
    except AssertionError as error:
        raise AssertionError(f"{error}; outstanding: {dict(left)}") from error


def check_ledger(commands):
    for name, command in commands.items():
        states = [transition["state"] for transition in command["transitions"]]
        ends = [state for state in states if state in FINAL]
        assert ends == [command["deliveryState"]] == states[-1:], f"{name}: {states}"
        assert states[0] == "CREATED" and len(set(states)) == len(states), f"{name}: {states}"
    lanes = collections.defaultdict(list)
    for name in commands:
        lanes[name.endpoint, name.type].append(name.id)
    for lane, ids in lanes.items():
        assert sorted(ids) == list(range(1, len(ids) + 1)), f"{lane}: ids are given once, from 1 on"


def check_deliveries(commands, caller, fleet):
    ends = {name: epoch(command["transitions"][-1]["at"]) for name, command in commands.items()}
    for when, name, payload in fleet.received:
        command = commands.get(name)
        assert command, f"{name} was delivered and is in no ledger"
        assert payload == command["requestPayload"] == caller.invoked[name], f"{name}: {payload}"
        if confirmed := caller.cancelled.get(name):
            assert when <= confirmed, f"{name} came {when - confirmed:.3f} s after its cancellation"
        if command["deliveryState"] in ("EXPIRED", "CANCELLED"):
            late = when - ends[name]
            assert late <= 0, f"{name} came {late:.3f} s after it was {command['deliveryState']}"


def check_results(commands, fleet):
    delivered = {name for _, name, _ in fleet.received}
    executed = {name for name, command in commands.items() if command["deliveryState"] == "EXECUTED"}
    for name in executed:
        assert name in delivered and devices.habit(name) != devices.MUTE, f"{name} was never answered"
        command = commands[name]
        status = 409 if devices.habit(name) == devices.FAILING else 200
        assert command["statusCode"] == status, f"{name}: {command}"
        assert command["responsePayload"] == {"did": command["requestPayload"]}, f"{name}: {command}"
    for name in fleet.acknowledged:
        assert name in executed, f"the result of {name} was acknowledged, and it is {commands[name]}"
    assert len(executed) > COMMANDS / 2, "most commands are executed"


def epoch(text):
    return datetime.datetime.fromisoformat(text.replace("Z", "+00:00")).timestamp()
