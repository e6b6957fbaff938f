"""The books balance under kill -9.

While devices publish, each process is killed again and again, without warning and at any moment, or restarted. A
message counts as received when the device has its positive receipt, and every received message must be in the database
exactly once. The devices behave as QoS 1 clients do: they connect again and resend what was not acknowledged.
"""

import collections
import json
import signal
import subprocess
import threading

import pytest

from cluster import Cluster
from conftest import make_directory
from processes import Hopeless, Supervised, bench, eventually, spawn

VICTIMS = ["kpc", "kpc-1", "dcx", "epts", "tekton", "epr", "cm", "nats-server", "postgres"]
# Messages per second: enough that every kill hits messages in flight, few enough to catch up after it.
RATE = 500
# Receipts that must come after a kill before the next one: more than the messages that were in flight.
RECEIPTS_BETWEEN = 400
# A replica's clients wait for the gateway's deadline of 10 s at most, and then connect again.
RECOVERS_WITHIN_S = 60
SERIES_PER_MESSAGE = 3


class Load:
    """The running load generator."""

    def __init__(self, cluster, profile):
        directory = cluster.directory
        self.ledger = directory / "ledger.csv"
        self.log = directory / "bench.log"
        command = [bench(), "--data", cluster.data, "--url", cluster.http]
        gateways = ",".join(f"127.0.0.1:{port}" for port in cluster.mqtt_ports)
        command += ["--mqtt", gateways, "--profile", profile, "--rate", RATE]
        command += ["--seconds", 3600, "--warm-up", 0, "--drain", RECOVERS_WITHIN_S, "--ledger", self.ledger]
        command += ["--progress", "--json", "--output", directory / "results"]
        self._process = spawn(command, self.log, stdout=subprocess.PIPE)
        self.totals = {"receipts": 0}
        self.report = None
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self):
        for line in self._process.stdout:
            record = json.loads(line)
            if "progress" in record:
                self.totals = record["progress"]
            else:
                self.report = record

    def wait_for_more(self, after):
        """Waits until receipts flow again."""
        wanted = self.totals["receipts"] + RECEIPTS_BETWEEN

        def flows():
            if self._process.poll() is not None:
                raise Hopeless(f"bench ended: {self.log.read_text()}")
            return self.totals["receipts"] >= wanted

        eventually(f"{RECEIPTS_BETWEEN} more receipts after {after}", flows, within=RECOVERS_WITHIN_S)

    def finish(self):
        """Ends the load, lets it check its own books, and gives back its exit code."""
        self._process.send_signal(signal.SIGINT)
        code = self._process.wait(timeout=RECOVERS_WITHIN_S + 300)
        self._reader.join()
        return code

    def kill(self):
        self._process.kill()
        self._process.wait()


@pytest.fixture
def cluster(workplace, request):
    cluster = Cluster(make_directory(workplace, request.node.name), gateways=2)
    yield cluster
    cluster.stop()


@pytest.mark.parametrize(
    ("profile", "end", "rounds"),
    [
        ("smart-meter", Supervised.kill, 3),
        ("http", Supervised.kill, 1),
        ("smart-meter", Supervised.restart, 1),
    ],
    ids=["mqtt-killed", "http-killed", "mqtt-restarted"],
)
def test_every_receipt_is_true_whatever_dies(cluster, profile, end, rounds):
    load = Load(cluster, profile)
    try:
        load.wait_for_more("the start")
        for round_number in range(rounds):
            for victim in VICTIMS:
                end(cluster.processes[victim])
                load.wait_for_more(f"the end of {victim} in round {round_number}")
        for victim in VICTIMS:
            cluster.processes[victim].kill()
        load.wait_for_more("the death of all, one right after the other")
        code = load.finish()
    except BaseException:
        load.kill()
        raise
    report = load.report
    assert report, load.log.read_text()
    totals = report["totals"]
    assert (
        report["receipts_without_row"]
        == report["duplicates"]
        == report["incomplete"]
        == report["wrong_points"]
        == 0
    )
    assert totals["contradictions"] == 0, "a message with a receipt must not get an error too"
    assert totals["stalls"] == 0, "the gateway either answers or closes the connection"
    assert not totals["refused"], f"no message was bad: {totals}"
    assert totals["receipts"] == totals["sent"], "in the end every message was received"
    assert code == 0, load.log.read_text()
    assert totals["reconnects"] > 0 or totals["failed"], "the kills were felt"

    ledger = [tuple(line.split(",")) for line in load.ledger.read_text().splitlines()]
    assert len(ledger) == len(set(ledger)) == totals["receipts"]
    stored = stored_messages(cluster, {endpoint for endpoint, _ in ledger})
    missing = [message for message in ledger if stored[message] != SERIES_PER_MESSAGE]
    assert not missing, f"{len(missing)} of {len(ledger)}, for example {missing[:5]}"
    assert stored.keys() == set(ledger), "nothing is stored that was not sent"


def stored_messages(cluster, endpoints):
    """How many points the database holds for each (endpoint, timestamp), read past the platform."""
    rows = cluster.query(
        """SELECT s.endpoint_id, (extract(epoch FROM p.ts) * 1000)::bigint, count(*)
           FROM epts.point p JOIN epts.series s USING (series_id) GROUP BY 1, 2"""
    )
    counts = {
        (endpoint, timestamp): int(count) for endpoint, timestamp, count in rows if endpoint in endpoints
    }
    return collections.Counter(counts)
