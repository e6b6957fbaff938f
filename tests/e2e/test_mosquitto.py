"""The data collection requests of Kaa's MQTT device API, with the mosquitto programs as the page uses them:
one program publishes, another one subscribes on a connection of its own, a third does both."""

import json
import subprocess

import pytest

from processes import eventually, program

SAMPLE = """{
  "temperature": 21,
  "humidity": 73
}"""
BATCH = """[
  {"ts": "2019-04-26T15:41:07+0000", "temperature": 21, "humidity": 73},
  {"ts": "2019-04-26T16:41:07+0000", "temperature": 21.5, "humidity": 67}
]"""
WITHIN_S = 20
# mosquitto_rr prints the topic too, and gives up after 10 s.
SHOW = ["-v", "-W", "10"]


def mosquitto(name):
    return program(name, variable="BANDAR_MOSQUITTO", install="install the package mosquitto-clients")


def run(platform, name, *arguments):
    address = ["-h", "127.0.0.1", "-p", platform.mqtt_port]
    command = [mosquitto(name), *address, *arguments]
    return subprocess.run(
        list(map(str, command)), capture_output=True, text=True, timeout=WITHIN_S, check=True
    ).stdout


class Subscriber:
    """mosquitto_sub, which has its subscription when the constructor is done and ends after one message."""

    def __init__(self, platform, topic, *arguments):
        address = ["-h", "127.0.0.1", "-p", str(platform.mqtt_port)]
        form = ["-d", "-F", "message: %t %q %p", "-C", "1", "-W", str(WITHIN_S)]
        self.process = subprocess.Popen(
            ["stdbuf", "-oL", mosquitto("mosquitto_sub"), *address, "-t", topic, *form, *arguments],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        self.lines = []
        self._read_until("Subscribed")

    def _read_until(self, start):
        for line in self.process.stdout:
            self.lines.append(line.rstrip("\n"))
            if line.startswith(start):
                return line
        raise AssertionError(f"mosquitto_sub ended without {start!r}: {self.lines}")

    def message(self):
        """Topic, QoS and payload of the message."""
        _, topic, qos, payload = (self._read_until("message: ").rstrip("\n") + " ").split(" ", 3)
        self.process.stdout.close()
        assert self.process.wait(WITHIN_S) == 0
        return topic, int(qos), payload.strip()


@pytest.fixture(params=["mqttv311", "mqttv5"])
def version(request):
    return ["-V", request.param]


def test_publish_without_request_id_and_without_waiting(platform, endpoint, version):
    """QoS 0 by default: the program is gone before anything is stored, and the sample is stored all the same."""
    run(platform, "mosquitto_pub", "-t", endpoint.topic("json"), "-m", SAMPLE, *version)
    eventually("the sample is stored", lambda: endpoint.values("auto~temperature") == [21])


def test_publish_with_qos_1_returns_after_the_commit(platform, endpoint, version):
    run(platform, "mosquitto_pub", "-t", endpoint.topic("json/1"), "-m", SAMPLE, "-q", "1", *version)
    assert endpoint.values("auto~humidity") == [73]


@pytest.mark.parametrize("payload", [SAMPLE, BATCH], ids=["single", "batch"])
@pytest.mark.parametrize("topic_filter", ["json/1/status", "json/#", "json/+/status", "#"])
def test_status_on_another_connection(platform, endpoint, topic_filter, payload):
    subscriber = Subscriber(platform, endpoint.topic(topic_filter), "-q", "1")
    run(platform, "mosquitto_pub", "-t", endpoint.topic("json/1"), "-m", payload)
    assert subscriber.message() == (endpoint.topic("json/1/status"), 0, "")
    assert endpoint.values("auto~temperature") == ([21] if payload == SAMPLE else [21, 21.5])


@pytest.mark.parametrize("topic_filter", ["json/1/error", "json/#"])
def test_error_on_another_connection(platform, endpoint, topic_filter, version):
    subscriber = Subscriber(platform, endpoint.topic(topic_filter), *version)
    run(platform, "mosquitto_pub", "-t", endpoint.topic("json/1"), "-m", '{"temperature": ')
    topic, _, payload = subscriber.message()
    assert topic == endpoint.topic("json/1/error")
    assert json.loads(payload)["statusCode"] == 400


def test_plain_data(platform, endpoint, version):
    subscriber = Subscriber(platform, endpoint.topic("plain/temperature/1/status"))
    run(platform, "mosquitto_pub", "-t", endpoint.topic("plain/temperature/1"), "-m", "200", *version)
    assert subscriber.message()[2] == ""
    assert endpoint.values("auto~temperature-value") == [200]


def test_plain_data_without_request_id(platform, endpoint, version):
    run(platform, "mosquitto_pub", "-t", endpoint.topic("plain/temperature"), "-m", "200", *version)
    eventually("the value is stored", lambda: endpoint.values("auto~temperature-value") == [200])


def test_a_batch_with_timestamps_and_locations(platform):
    """The page's batch, with the settings that the page asks for."""
    location = [{"path": "location.lat", "name": "lat"}, {"path": "location.lon", "name": "lon"}]
    series = {"names": {"location": {"values": location}}, "timestamp": {"path": "ts", "format": "iso8601"}}
    endpoint = platform.api.create_application(epts={"time-series": series}).create_endpoint()
    place = {"lat": 34.1340258, "lon": -118.3238652}
    samples = [
        {"ts": "2019-04-26T15:41:07+0000", "temperature": 21, "humidity": 73, "location": place},
        {"ts": "2019-04-26T16:41:07+0000", "temperature": 21.5, "humidity": 67, "location": place},
    ]
    run(platform, "mosquitto_pub", "-q", "1", "-t", endpoint.topic("json/1"), "-m", json.dumps(samples))
    moments = ["2019-04-26T15:41:07Z", "2019-04-26T16:41:07Z"]
    assert endpoint.points("location") == {"location": [(moment, place) for moment in moments]}


def test_an_error_as_the_response(platform, endpoint):
    topic = endpoint.topic("json/1")
    output = run(platform, "mosquitto_rr", "-t", topic, "-e", f"{topic}/error", "-V", "311", "-m", "{", *SHOW)
    assert output.startswith(f"{topic}/error")
    assert json.loads(output.split(" ", 1)[1])["statusCode"] == 400


def test_request_and_response(platform, endpoint):
    """mosquitto_rr as on the page: MQTT 3.1.1, the response on the /status topic that it names."""
    topic = endpoint.topic("json/1")
    output = run(
        platform, "mosquitto_rr", "-t", topic, "-e", f"{topic}/status", "-V", "311", "-m", SAMPLE, *SHOW
    )
    assert output.startswith(f"{topic}/status")
    assert endpoint.values("auto~temperature") == [21]


def test_request_and_response_with_mqtt_5(platform, endpoint):
    """The same with MQTT 5, where the program sets the properties Response Topic and Correlation Data."""
    topic = endpoint.topic("json/1")
    output = run(
        platform, "mosquitto_rr", "-t", topic, "-e", f"{topic}/status", "-V", "5", "-m", SAMPLE, *SHOW
    )
    assert output.startswith(f"{topic}/status")
    assert endpoint.values("auto~temperature") == [21]
