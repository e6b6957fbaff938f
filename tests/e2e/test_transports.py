"""TLS and WebSocket with the programs that people use: the mosquitto programs, mqtt.js and curl."""

import json
import os
import pathlib
import subprocess

import pytest

from certificates import NEW_KEY, X509, issue_trusted, openssl, trust
from processes import ROOT, eventually, program
from rest import request
from test_curl import curl
from test_metadata import SENSOR, stored
from test_mosquitto import mosquitto

NODE_MODULES = pathlib.Path(os.environ.get("BANDAR_NODE_MODULES", ROOT / ".tools/node/node_modules"))
CLIENT = pathlib.Path(__file__).with_name("mqtt_js_client.js")


def publish(platform, endpoint, *arguments):
    """mosquitto_pub over TLS, with the certificate authority that the platform hands out."""
    command = [mosquitto("mosquitto_pub"), "-h", "localhost", "-p", str(platform.mqtt_tls_port)]
    command += ["-t", endpoint.topic("json"), "-m", '{"temperature": 21}', "-q", "1", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=20)


@pytest.fixture
def root(platform, tmp_path):
    """The authority as a user downloads it."""
    file = tmp_path / "ca.pem"
    assert curl("-o", str(file), f"{platform.http}/kpc/api/v1/certificates/root")[0] == 200
    return file


@pytest.mark.parametrize("version", ["mqttv311", "mqttv5"])
def test_mosquitto_with_the_downloaded_authority(platform, endpoint, root, version):
    done = publish(platform, endpoint, "--cafile", root, "-V", version)
    assert done.returncode == 0, done.stderr
    assert endpoint.values("auto~temperature") == [21]


def test_mosquitto_with_another_authority(platform, endpoint, tmp_path):
    other = tmp_path / "other.pem"
    openssl("req", "-x509", *NEW_KEY, "-keyout", tmp_path / "other.key", "-out", other, "-subj", "/CN=other")
    done = publish(platform, endpoint, "--cafile", other)
    assert done.returncode != 0 and "TLS" in done.stderr
    assert endpoint.values("auto~temperature") == []


def test_mosquitto_with_a_client_certificate(platform, endpoint, root, tmp_path):
    issued, chain, key = issue_trusted(platform, platform.api, tmp_path, commonName="pump")
    arguments = ["--cafile", root, "--cert", chain, "--key", key]
    done = publish(platform, endpoint, *arguments)
    assert done.returncode == 0, done.stderr
    platform.api.call("PUT", f"{X509}/{issued['id']}/state", expect=200, body={"state": "Revoked"})
    refused = publish(platform, endpoint, *arguments)
    assert refused.returncode != 0 and "not authorised" in (refused.stderr + refused.stdout).lower()
    assert endpoint.values("auto~temperature") == [21]


def test_mosquitto_with_a_password(platform, endpoint, root):
    body = {"username": f"u{endpoint.id[:8]}"}
    made = platform.api.call("POST", "/ccm/api/v1/basic-credentials", expect=201, body=body)
    done = publish(platform, endpoint, "--cafile", root, "-u", made["login"], "-P", made["password"])
    assert done.returncode == 0, done.stderr
    wrong = publish(platform, endpoint, "--cafile", root, "-u", made["login"], "-P", "guessed")
    assert wrong.returncode != 0
    assert endpoint.values("auto~temperature") == [21]


def test_a_key_that_never_leaves_the_device(platform, endpoint, root, tmp_path):
    """The device makes its key and a request for a certificate; openssl as in the tutorials."""
    key, wish, chain = tmp_path / "device.key", tmp_path / "device.csr", tmp_path / "device.pem"
    openssl("req", "-new", *NEW_KEY, "-keyout", key, "-out", wish, "-subj", "/CN=meter")
    trust(platform, platform.api, tmp_path)
    body = {"certificateSigningRequest": wish.read_text()}
    issued = platform.api.call("POST", X509, expect=201, body=body)
    assert issued["commonName"] == "meter" and "privateKey" not in issued
    chain.write_text(issued["certificateChain"])
    done = publish(platform, endpoint, "--cafile", root, "--cert", chain, "--key", key)
    assert done.returncode == 0, done.stderr


def test_an_authority_of_ones_own(platform, other_tenant, root, tmp_path):
    """A foreign authority is registered with a proof; its devices are let in, until it is suspended."""
    ca, ca_key, wish, client, client_key = (
        tmp_path / f"plant.{name}" for name in ("pem", "key", "csr", "c", "k")
    )
    # Without extensions openssl makes certificates of version 1, which TLS libraries refuse.
    extensions = tmp_path / "extensions"
    extensions.write_text("extendedKeyUsage = clientAuth\n")

    def sign(name, certificate, key):
        openssl("req", "-new", *NEW_KEY, "-keyout", key, "-out", wish, "-subj", f"/CN={name}")
        by = ["-CA", ca, "-CAkey", ca_key, "-CAcreateserial", "-days", "1", "-extfile", extensions]
        openssl("x509", "-req", "-in", wish, *by, "-out", certificate)

    subject = f"/O=Plant/CN=Plant authority {other_tenant.tenant}"
    openssl("req", "-x509", *NEW_KEY, "-keyout", ca_key, "-out", ca, "-subj", subject, "-days", "2")
    code = other_tenant.call("GET", f"{X509}/authorities/registration-code", expect=200)["registrationCode"]
    sign("press", client, client_key)
    sign(code, tmp_path / "proof.pem", tmp_path / "proof.key")
    body = {"certificate": ca.read_text(), "verificationCertificate": client.read_text()}
    assert other_tenant.ask("POST", f"{X509}/authorities", body=body).status == 400, "that is no proof"
    body["verificationCertificate"] = (tmp_path / "proof.pem").read_text()
    authority = other_tenant.call("POST", f"{X509}/authorities", expect=201, body=body)
    endpoint = other_tenant.create_application().create_endpoint()
    arguments = ["--cafile", root, "--cert", client, "--key", client_key]
    eventually("the device is let in", lambda: publish(platform, endpoint, *arguments).returncode == 0)
    known = other_tenant.call("GET", X509, expect=200)
    assert [one["state"] for one in known if one.get("authorityId") == authority["id"]] == ["Active"]
    path = f"{X509}/authorities/{authority['id']}/state"
    other_tenant.call("PUT", path, expect=200, body={"state": "Suspended"})
    assert publish(platform, endpoint, *arguments).returncode != 0


def mqtt_js(url, requests, *, ca=None, **options):
    """What mqtt.js gets for its requests."""
    assert (NODE_MODULES / "mqtt").is_dir(), (
        f"mqtt.js is missing in {NODE_MODULES}: deploy/prerequisites.sh test installs it, or name the "
        "directory with BANDAR_NODE_MODULES"
    )
    node = program("node", variable="BANDAR_NODE", install="install the package nodejs")
    done = subprocess.run(
        [node, CLIENT],
        input=json.dumps({"url": url, "requests": requests, "options": options, "ca": ca and str(ca)}),
        env={**os.environ, "NODE_PATH": str(NODE_MODULES)},
        capture_output=True,
        text=True,
        timeout=40,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def url(platform, transport, path):
    port, _ = platform.transport(transport)
    return f"{transport}://localhost:{port}{path}"


@pytest.mark.parametrize("version", [4, 5], ids=["mqtt-3.1.1", "mqtt-5"])
@pytest.mark.parametrize("path", ["/mqtt", "/ws"])
@pytest.mark.parametrize("transport", ["ws", "wss"])
def test_mqtt_js(platform, endpoint, root, transport, path, version):
    """A web page's way: metadata and telemetry, without SUBSCRIBE."""
    requests = [
        {"topic": endpoint.topic("update/1", extension="epmx"), "payload": json.dumps(SENSOR)},
        {"topic": endpoint.topic("get/2", extension="epmx"), "payload": ""},
        {"topic": endpoint.topic("json/3"), "payload": '{"temperature": 21}'},
    ]
    got = mqtt_js(url(platform, transport, path), requests, ca=root, protocolVersion=version)
    responses = got["responses"]
    assert [one["topic"] for one in responses] == [f"{one['topic']}/status" for one in requests]
    assert json.loads(responses[1]["payload"]) == stored(endpoint) == SENSOR
    assert endpoint.values("auto~temperature") == [21]


def test_mqtt_js_with_a_password(platform, endpoint, root):
    body = {"username": f"w{endpoint.id[:8]}"}
    made = platform.api.call("POST", "/ccm/api/v1/basic-credentials", expect=201, body=body)
    requests = [{"topic": endpoint.topic("json/1"), "payload": '{"temperature": 21}'}]
    where, login = url(platform, "wss", "/mqtt"), {"username": made["login"], "password": made["password"]}
    assert len(mqtt_js(where, requests, ca=root, **login)["responses"]) == 1
    refused = mqtt_js(where, requests, ca=root, **{**login, "password": "guessed"})
    assert refused["code"] == 4, refused
    assert "Not authorized" in refused["refused"] or "Bad" in refused["refused"]


def test_mqtt_js_does_not_trust_another_authority(platform, endpoint):
    refused = mqtt_js(url(platform, "wss", "/mqtt"), [])
    assert "certificate" in refused["refused"] or "issuer" in refused["refused"], refused


@pytest.mark.parametrize(("path", "status"), [("/mqtt", 426), ("/ws", 426), ("/", 404), ("/kp1", 404)])
def test_what_is_no_websocket_is_told(platform, path, status):
    answer = request("GET", f"http://127.0.0.1:{platform.mqtt_ws_port}{path}")
    assert answer.status == status
