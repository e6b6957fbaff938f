"""Kaa's TLS tutorials: the certificate authority is downloaded, then TLS one way, then both ways, then a revocation."""

import json
import ssl
import subprocess
import urllib.request

import pytest

from devices import V5, V311, Device
from processes import eventually
from rest import request

X509 = "/ccm/api/v1/x509-credentials"


@pytest.fixture
def directory(tmp_path):
    return tmp_path


def issue(platform, directory, **body):
    """A client certificate: its resource, and the files of the certificate chain and of its key."""
    issued = platform.api.call("POST", X509, expect=201, body=body)
    chain, key = directory / f"{issued['id']}.pem", directory / f"{issued['id']}.key"
    chain.write_text(issued["certificateChain"])
    key.write_text(issued["privateKey"])
    return issued, chain, key


def state(platform, issued):
    return platform.api.call("GET", f"{X509}/{issued['id']}", expect=200)["state"]


def test_one_way_tls_with_the_downloaded_authority(platform, endpoint, directory, protocol):
    downloaded = request("GET", f"{platform.http}/kpc/api/v1/certificates/root")
    assert downloaded.status == 200
    root = directory / "ca.pem"
    root.write_bytes(downloaded.body)
    context = ssl.create_default_context(cafile=root)
    with Device(platform.mqtt_tls_port, protocol, tls=context) as device:
        device.send(endpoint.topic("json"), b'{"temperature": 21}')
    assert endpoint.values("auto~temperature") == [21]


def test_another_authority_does_not_verify(platform):
    with pytest.raises(ssl.SSLCertVerificationError):
        Device(platform.mqtt_tls_port, tls=ssl.create_default_context())


def test_https(platform, endpoint):
    url = f"{platform.https}/{endpoint.topic('json')}"
    with urllib.request.urlopen(url, b'{"temperature": 22}', context=platform.tls(), timeout=20) as answer:
        assert answer.status == 200
    assert endpoint.values("auto~temperature") == [22]


def test_two_way_tls_until_the_certificate_is_revoked(platform, endpoint, directory, protocol):
    issued, chain, key = issue(platform, directory, commonName="kettle")
    assert issued["serialNumber"].isdigit()
    assert state(platform, issued) == "Inactive"
    tls = {"tls": platform.tls(chain, key)}
    with Device(platform.mqtt_tls_port, protocol, **tls) as device:
        device.send(endpoint.topic("json"), b'{"temperature": 23}')
        assert endpoint.values("auto~temperature") == [23]
        assert state(platform, issued) == "Active"

        platform.api.call("PUT", f"{X509}/{issued['id']}/state", expect=200, body={"state": "Suspended"})
        device.ended(within=5)
    with Device(platform.mqtt_tls_port, protocol, refused=True, **tls) as device:
        assert device.connack and device.connack[0].is_failure

    platform.api.call("PUT", f"{X509}/{issued['id']}/state", expect=200, body={"state": "Active"})
    with Device(platform.mqtt_tls_port, protocol, **tls) as device:
        platform.api.call("PUT", f"{X509}/{issued['id']}/state", expect=200, body={"state": "Revoked"})
        device.ended(within=5)
    with Device(platform.mqtt_tls_port, protocol, refused=True, **tls) as device:
        assert device.connack and device.connack[0].is_failure
    refused = request(
        "PUT",
        f"{platform.http}{X509}/{issued['id']}/state",
        body={"state": "Active"},
        headers={"x-iamcore-api-key": platform.api.key},
    )
    assert refused.status == 409, "revoked is for ever"


def test_a_certificate_of_nobody_is_refused(platform, directory):
    key, chain = directory / "key", directory / "pem"
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"]
        + ["-keyout", key, "-out", chain, "-subj", "/CN=nobody", "-days", "2"],
        check=True,
        capture_output=True,
        timeout=30,
    )
    with pytest.raises((ssl.SSLError, OSError, AssertionError)):
        with Device(platform.mqtt_tls_port, tls=platform.tls(chain, key)) as device:
            device.send("kp1/x/dcx/y/json", b"{}")


def test_a_certificate_of_another_tenant_opens_no_endpoint(platform, endpoint, directory, other_tenant):
    issued = other_tenant.call("POST", X509, expect=201, body={"commonName": "stranger"})
    chain, key = directory / "chain.pem", directory / "key.pem"
    chain.write_text(issued["certificateChain"])
    key.write_text(issued["privateKey"])
    with Device(platform.mqtt_tls_port, V5, tls=platform.tls(chain, key)) as device:
        topic = endpoint.topic("json/1")
        assert device.receipt(device.publish(topic, b'{"temperature": 1}')).is_failure
        assert json.loads(device.message(f"{topic}/error").payload)["statusCode"] == 403
    assert endpoint.values("auto~temperature") == []


def test_required_certificates(platform, other_tenant, directory):
    """Per tenant and transport: whoever has not shown who it is, is ended when that becomes required."""
    endpoint = other_tenant.create_application().create_endpoint()
    issued = other_tenant.call("POST", X509, expect=201, body={"commonName": "known"})
    chain, key = directory / "chain.pem", directory / "key.pem"
    chain.write_text(issued["certificateChain"])
    key.write_text(issued["privateKey"])
    with (
        Device(platform.mqtt_tls_port, V311, tls=platform.tls()) as anonymous,
        Device(platform.mqtt_port, V311) as plain,
        Device(platform.mqtt_tls_port, V311, tls=platform.tls(chain, key)) as known,
    ):
        for device in (anonymous, plain, known):
            device.send(endpoint.topic("json"), b'{"n": 1}')
        require(other_tenant, {"tls": {"x509-auth": {"required": True}}})
        try:
            anonymous.ended(within=5)
            known.send(endpoint.topic("json"), b'{"n": 2}')
            plain.send(endpoint.topic("json"), b'{"n": 3}')

            def is_refused():
                with Device(platform.mqtt_tls_port, V5, tls=platform.tls()) as device:
                    return device.receipt(device.publish(endpoint.topic("json"), b'{"n": 4}')).is_failure

            eventually("an unknown client is refused", is_refused)
        finally:
            require(other_tenant, {"tls": {"x509-auth": {"required": False}}})
    assert 4 not in endpoint.values("auto~n")


def require(api, transports):
    block = {"transports": {"mqtt": transports}}
    config = {"kpc": {"kaa": {"tenants": {api.tenant: {"config": block}}}}}
    api.put("/tekton/api/v1/tenant-configs", config)
