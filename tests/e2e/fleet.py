"""Many devices that execute commands, well and badly, each a paho-mqtt client: a few threads drive all of them."""

import collections
import heapq
import json
import random
import selectors
import socket
import threading
import time
import zlib

import paho.mqtt.client as mqtt
from paho.mqtt.enums import CallbackAPIVersion

# How a device behaves towards a command; the command's name decides, so that it is the same whenever it comes.
PROMPT, TWICE, LATE, FAILING, MUTE = "prompt", "twice", "late", "failing", "mute"
HABITS = [MUTE] + [TWICE] * 2 + [LATE] * 3 + [FAILING] * 2 + [PROMPT] * 12

Name = collections.namedtuple("Name", "endpoint type id")


def habit(name):
    return HABITS[zlib.crc32(f"{name.endpoint}/{name.type}/{name.id}".encode()) % len(HABITS)]


class Member:
    """One device. Only the thread that drives it touches its client."""

    def __init__(self, fleet, endpoint, index):
        self.fleet = fleet
        self.endpoint = endpoint
        self.random = random.Random(index)
        self.results = {}
        self.client = mqtt.Client(
            CallbackAPIVersion.VERSION2,
            client_id=f"member-{index}-{endpoint.id}",
            protocol=mqtt.MQTTv5,
            reconnect_on_failure=False,
        )
        self.client.on_connect = self._connected
        self.client.on_message = self._message
        self.client.on_publish = self._acknowledged

    def connect(self):
        port = self.random.choice(self.fleet.ports)
        try:
            self.client.connect("127.0.0.1", port, keepalive=20)
        except OSError:
            self.fleet.later(self.random.uniform(0.2, 1.0), self.connect, self)
            return
        self.fleet.register(self)

    def _connected(self, client, userdata, flags, reason, properties):
        if not reason.is_failure:
            # From its first message on the endpoint belongs to the connection; the answer holds what is outstanding.
            client.publish(self.endpoint.topic("command/1", extension="cex"), "{}", 1)

    def _message(self, client, userdata, message):
        _, _, extension, _, *path = message.topic.split("/")
        if extension != "cex" or path[0] != "command" or path[-1] != "status":
            return
        for command in json.loads(message.payload):
            command_type = command.get("type", path[1])
            name = Name(self.endpoint.id, command_type, command["id"])
            self.fleet.received.append((time.time(), name, command.get("payload")))
            self._execute(name, command.get("payload"))

    def _execute(self, name, payload):
        kind = habit(name)
        if kind == MUTE:
            return
        times = 2 if kind == TWICE else 1
        delay = self.random.uniform(0.2, 1.5) if kind == LATE else 0
        for _ in range(times):
            self.fleet.later(delay, lambda: self._report(name, payload, kind), self)

    def _report(self, name, payload, kind):
        status = 409 if kind == FAILING else 200
        result = [{"id": name.id, "statusCode": status, "payload": {"did": payload}}]
        info = self.client.publish(
            self.endpoint.topic(f"result/{name.type}", extension="cex"), json.dumps(result), 1
        )
        self.results[info.mid] = (name, status)

    def _acknowledged(self, client, userdata, mid, reason, properties):
        if (reported := self.results.pop(mid, None)) and not reason.is_failure:
            name, status = reported
            self.fleet.acknowledged[name] = status

    def cut(self):
        """Loses its connection without a word, and comes back."""
        if one := self.client.socket():
            try:
                one.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass


class Fleet:
    """All devices. What they get and what is acknowledged to them is kept."""

    def __init__(self, endpoints, ports, threads=4):
        self.ports = ports
        # (when, name, payload) of each delivery.
        self.received = collections.deque()
        # What the platform has acknowledged: the status of the result by the command's name.
        self.acknowledged = {}
        self._stopping = threading.Event()
        self._drivers = [_Driver(self, self._stopping) for _ in range(threads)]
        self.members = [Member(self, endpoint, index) for index, endpoint in enumerate(endpoints)]
        for index, member in enumerate(self.members):
            member.driver = self._drivers[index % threads]
            self.later(0, member.connect, member)

    def start(self):
        for driver in self._drivers:
            driver.start()
        return self

    def stop(self):
        self._stopping.set()
        for driver in self._drivers:
            driver.join()

    def later(self, delay, call, member):
        member.driver.later(delay, call)

    def register(self, member):
        member.driver.add(member)


class _Driver(threading.Thread):
    """Drives some of the devices' clients, which therefore need no threads of their own."""

    def __init__(self, fleet, stopping):
        super().__init__(daemon=True)
        self._stopping = stopping
        self._members = {}
        self._due = []
        self._number = 0
        self._lock = threading.Lock()
        self._random = random.Random(id(self))

    def later(self, delay, call):
        with self._lock:
            self._number += 1
            heapq.heappush(self._due, (time.monotonic() + delay, self._number, call))

    def add(self, member):
        self._members[member] = member.client.socket()

    def run(self):
        next_misc = 0
        while not self._stopping.is_set():
            self._call_due()
            self._serve()
            if time.monotonic() > next_misc:
                next_misc = time.monotonic() + 1
                for member in list(self._members):
                    member.client.loop_misc()
                    # Devices lose their connection now and then.
                    if self._random.random() < 0.03:
                        member.cut()

    def _call_due(self):
        while True:
            with self._lock:
                if not self._due or self._due[0][0] > time.monotonic():
                    return
                _, _, call = heapq.heappop(self._due)
            call()

    def _serve(self):
        with selectors.DefaultSelector() as selector:
            for member, known in list(self._members.items()):
                now = member.client.socket()
                if now is None or now is not known or now.fileno() < 0:
                    del self._members[member]
                    self.later(self._random.uniform(0.1, 1.0), member.connect)
                    continue
                wanted = selectors.EVENT_READ | (
                    selectors.EVENT_WRITE if member.client.want_write() else 0
                )
                selector.register(now, wanted, member)
            if not selector.get_map():
                self._stopping.wait(0.02)
                return
            for key, events in selector.select(0.02):
                if events & selectors.EVENT_READ:
                    key.data.client.loop_read()
                if events & selectors.EVENT_WRITE and key.data.client.socket():
                    key.data.client.loop_write()
