"""AWS IoT's command pattern: a device and an application on AWS's SDK, with certificates of the platform."""

import json
import pathlib
import subprocess
import sys
import threading

import pytest

from certificates import issue, trust
from devices import V5, Device
from processes import eventually

CLIENT = pathlib.Path(__file__).with_name("aws_client.py")
CEX = "/cex/api/v1"


class Client:
    """A running `aws_client.py`."""

    def __init__(self, platform, role, thing, credentials, port=None):
        _, chain, key = credentials
        arguments = [role, port or platform.mqtt_tls_port, f"{role}-of-{thing}", chain, key]
        command = [sys.executable, CLIENT, *arguments, platform.root_certificate, thing]
        self.process = subprocess.Popen(
            list(map(str, command)), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        self.lines = []
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self):
        for line in self.process.stdout:
            self.lines.append(json.loads(line))

    def subscribed(self):
        line = eventually("the client has subscribed", lambda: self._said("qos"), within=30)
        assert line == [1], self.lines
        return self

    def _said(self, member):
        return [line[member] for line in list(self.lines) if member in line]

    def say(self, text):
        self.process.stdin.write(f"{text}\n")
        self.process.stdin.flush()

    def hears(self, *payloads):
        """This is all that has come."""
        eventually(f"the client hears {payloads}", lambda: self._said("payload") == list(payloads), within=20)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        if not self.process.stdin.closed:
            self.process.stdin.close()
        try:
            self.process.wait(timeout=20)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


class Pattern:
    """An endpoint that is a thing, and an application that may command; each with a certificate."""

    def __init__(self, platform, endpoint, directory):
        self.platform, self.endpoint = platform, endpoint
        trust(platform, platform.api, directory)
        self.thing = f"device-{endpoint.id}"
        self.device = issue(platform.api, directory, commonName=self.thing)
        self.application = issue(platform.api, directory, commonName="app1")
        body = {"endpointId": endpoint.id, "credentialsIds": [self.device[0]["id"]]}
        platform.api.call("PUT", f"{CEX}/things/{self.thing}", expect=200, body=body)
        platform.api.call("PUT", f"{CEX}/commanders/{self.application[0]['id']}", expect=200, body={})

    def client(self, role, **options):
        return Client(self.platform, role, self.thing, getattr(self, role), **options)

    def commands(self):
        path = f"{CEX}/endpoints/commands"
        query = {"endpointId": self.endpoint.id, "commandTypes": "cmd"}
        (listed,) = self.platform.api.call("GET", path, expect=200, query=query)
        assert listed["endpointId"] == self.endpoint.id
        return listed["commands"]

    def last(self):
        path = f"{CEX}/endpoints/{self.endpoint.id}/commands/cmd/last"
        return self.platform.api.call("GET", path, expect=200)


@pytest.fixture
def pattern(platform, endpoint, tmp_path):
    return Pattern(platform, endpoint, tmp_path)


@pytest.mark.parametrize("port", ["mqtt_tls_port", "tls_port"])
def test_the_device_answers_the_application(platform, pattern, port):
    port = getattr(platform, port)
    with (
        pattern.client("device", port=port) as device,
        pattern.client("application", port=port) as application,
    ):
        device.subscribed()
        application.subscribed()
        application.say("light: on")
        device.hears("light: on")
        application.hears("SUCCESS: light: on")
        application.say('{"light": "off"}')
        device.hears("light: on", '{"light": "off"}')
        application.hears("SUCCESS: light: on", 'SUCCESS: {"light": "off"}')
    last = pattern.last()
    assert last["status"] == "EXECUTED"
    assert last["requestPayload"] == {"light": "off"}
    assert last["responsePayload"] == 'SUCCESS: {"light": "off"}'


def test_each_may_be_away(pattern):
    with pattern.client("application") as application:
        application.subscribed()
        application.say("first")
        application.say("second")
        eventually("the commands are in the ledger", lambda: pattern.last()["commandId"] == 2, within=20)
    with pattern.client("device") as device:
        device.subscribed().hears("first", "second")
        eventually("the device has answered", lambda: pattern.last()["status"] == "EXECUTED", within=20)
    with pattern.client("application") as application:
        application.subscribed().hears("SUCCESS: first", "SUCCESS: second")


def test_over_rest_and_with_mqtt_5(platform, pattern):
    _, chain, key = pattern.device
    requests, responses = f"cmd/{pattern.thing}/req", f"cmd/{pattern.thing}/resp"
    with Device(platform.mqtt_tls_port, V5, tls=platform.tls(chain, key)) as device:
        device.subscribe(requests)
        path = f"{CEX}/endpoints/{pattern.endpoint.id}/commands/cmd"
        answer = platform.api.ask("POST", path, body="reboot", query={"awaitTimeout": 0})
        assert answer.status == 202, answer.body
        command = device.message(requests)
        assert command.properties.CorrelationData == b"1"
        assert command.properties.ResponseTopic == responses
        assert not device.receipt(device.publish(responses, b"rebooted")).is_failure
        # Nothing else is outstanding, and another thing's topic is none of its business.
        assert device.receipt(device.publish(responses, b"rebooted again")).is_failure
        assert device.receipt(device.publish("cmd/another/resp", b"rebooted")).is_failure
    assert pattern.last()["responsePayload"] == "rebooted"


def test_a_stranger_neither_listens_nor_commands(platform, pattern, tmp_path):
    _, chain, key = issue(platform.api, tmp_path, commonName="stranger")
    with Device(platform.mqtt_tls_port, V5, tls=platform.tls(chain, key)) as stranger:
        for topic in (f"cmd/{pattern.thing}/req", f"cmd/{pattern.thing}/resp"):
            assert stranger.subscribe(topic).is_failure, topic
            assert stranger.receipt(stranger.publish(topic, b"x")).is_failure, topic
    assert pattern.commands() == []
