"""Fixtures: a platform started by `bandar up`, and what a test makes in it."""

import json
import pathlib
import signal
import ssl
import tempfile
import urllib.parse

import pytest

from cluster import Cluster
from devices import V5, V311, Device
from processes import Hopeless, bandar, eventually, nats_server, spawn
from rest import Api, request
from tenants import create_tenant


@pytest.fixture(scope="session")
def workplace():
    """A directory that PostgreSQL's own user can reach, unlike those of pytest."""
    with tempfile.TemporaryDirectory(prefix="bandar-e2e-", ignore_cleanup_errors=True) as name:
        directory = pathlib.Path(name)
        directory.chmod(0o755)
        yield directory


def make_directory(parent, name):
    """A directory that others can reach, whatever the umask."""
    directory = parent / name
    directory.mkdir()
    directory.chmod(0o755)
    return directory


def port_of(address):
    """The port in `host:port` or `scheme://host:port/path`."""
    return urllib.parse.urlsplit(address if "://" in address else f"//{address}").port


class Up:
    """A running `bandar up`."""

    def __init__(self, directory):
        data, log = directory / "data", directory / "bandar.log"
        any_port = ["--listen-http", "127.0.0.1:0", "--listen-mqtt", "127.0.0.1:0", "--tls-port", "0"]
        environment = {"BANDAR_NATS_SERVER": nats_server()}
        self.process = spawn([bandar(), "up", "--data", data, *any_port], log, environment=environment)
        try:
            running = eventually("bandar up notes its addresses", lambda: self._running(data), within=90)
            self.http, self.https = running["http"], running["https"]
            self.mqtt_port = port_of(running["mqtt"])
            self.mqtt_tls_port = port_of(running["mqttTls"])
            self.mqtt_ws_port = port_of(running["mqttWs"])
            self.mqtt_wss_port = port_of(running["mqttWss"])
            self.tls_port = port_of(running["tlsPort"])
            self.root_certificate = running["rootCertificate"]
            eventually(
                "bandar up is ready", lambda: request("GET", f"{self.http}/ready").status == 200, within=60
            )
        except AssertionError as error:
            self.stop()
            raise AssertionError(f"{error}\n{log.read_text()[-4000:]}") from error
        self.data = data
        self.credentials = json.loads((data / "credentials.json").read_text())
        self.api = Api(self.http, self.credentials["apiKey"], self.credentials["tenant"])

    def tls(self, certificate=None, key=None):
        """What a client trusts, and how it shows who it is."""
        context = ssl.create_default_context(cafile=self.root_certificate)
        if certificate:
            context.load_cert_chain(certificate, key)
        return context

    def transport(self, name):
        """Port and options of a device that connects over `tcp`, `tls`, `ws` or `wss`."""
        return {
            "tcp": (self.mqtt_port, {}),
            "tls": (self.mqtt_tls_port, {"tls": self.tls()}),
            "ws": (self.mqtt_ws_port, {"path": "/mqtt"}),
            "wss": (self.mqtt_wss_port, {"tls": self.tls(), "path": "/ws"}),
        }[name]

    def _running(self, data):
        if self.process.poll() is not None:
            raise Hopeless(f"it ended with {self.process.returncode}")
        return json.loads((data / "running.json").read_text())

    def stop(self):
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGINT)
        return self.process.wait(timeout=60)


@pytest.fixture(scope="session")
def platform(workplace):
    up = Up(make_directory(workplace, "up"))
    yield up
    assert up.stop() == 0, "bandar up must stop cleanly on Ctrl-C"


@pytest.fixture(scope="session")
def other_tenant(platform):
    """The REST API as an administrator of another tenant has it."""
    return create_tenant(platform, "other")


@pytest.fixture(scope="session")
def application(platform):
    """An application as it is after its creation, without any settings."""
    return platform.api.create_application()


@pytest.fixture
def endpoint(application):
    """An endpoint of this test's own."""
    return application.create_endpoint()


@pytest.fixture(scope="session")
def cluster(workplace):
    """The platform as separate processes, with two replicas of the gateway."""
    cluster = Cluster(make_directory(workplace, "cluster"), gateways=2)
    yield cluster
    cluster.stop()


@pytest.fixture
def device(platform):
    """Makes connected devices and disconnects them at the end."""
    devices = []

    def connect(protocol=V311, **options):
        devices.append(Device(platform.mqtt_port, protocol, **options))
        return devices[-1]

    yield connect
    for one in devices:
        one.__exit__()


@pytest.fixture(params=[pytest.param(V311, id="mqtt-3.1.1"), pytest.param(V5, id="mqtt-5")])
def protocol(request):
    return request.param
