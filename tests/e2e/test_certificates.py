"""Kaa's TLS tutorials: the certificate authority is downloaded, then TLS one way, then both ways, then a revocation."""

import json
import ssl
import urllib.request

import pytest

from certificates import NEW_KEY, X509, issue_trusted, openssl
from devices import V5, V311, Device
from rest import request
from tenants import require_of_clients


def state(platform, issued):
    return platform.api.call("GET", f"{X509}/{issued['id']}", expect=200)["state"]


def test_one_way_tls_with_the_downloaded_authority(platform, endpoint, tmp_path, protocol):
    downloaded = request("GET", f"{platform.http}/kpc/api/v1/certificates/root")
    assert downloaded.status == 200
    root = tmp_path / "ca.pem"
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


def test_two_way_tls_until_the_certificate_is_revoked(platform, endpoint, tmp_path, protocol):
    issued, chain, key = issue_trusted(platform, platform.api, tmp_path, commonName="kettle")
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
    refused = platform.api.ask("PUT", f"{X509}/{issued['id']}/state", body={"state": "Active"})
    assert refused.status == 409, "revoked is for ever"


def test_a_certificate_of_nobody_is_refused(platform, tmp_path):
    key, chain = tmp_path / "key", tmp_path / "pem"
    openssl("req", "-x509", *NEW_KEY, "-keyout", key, "-out", chain, "-subj", "/CN=nobody", "-days", "2")
    with Device(platform.mqtt_tls_port, tls=platform.tls(chain, key), refused=True) as device:
        assert device.ended() and not device.connack, "TLS itself refuses it"


def test_a_certificate_of_another_tenant_opens_no_endpoint(platform, endpoint, tmp_path, other_tenant):
    _, chain, key = issue_trusted(platform, other_tenant, tmp_path, commonName="stranger")
    with Device(platform.mqtt_tls_port, V5, tls=platform.tls(chain, key)) as device:
        topic = endpoint.topic("json/1")
        assert device.receipt(device.publish(topic, b'{"temperature": 1}')).is_failure
        assert json.loads(device.message(f"{topic}/error").payload)["statusCode"] == 403
    assert endpoint.values("auto~temperature") == []


def test_required_certificates(platform, other_tenant, tmp_path):
    """Per tenant and transport: whoever has not shown who it is, is ended when that becomes required."""
    endpoint = other_tenant.create_application().create_endpoint()
    _, chain, key = issue_trusted(platform, other_tenant, tmp_path, commonName="known")
    with (
        Device(platform.mqtt_tls_port, V311, tls=platform.tls()) as anonymous,
        Device(platform.mqtt_port, V311) as plain,
        Device(platform.mqtt_tls_port, V311, tls=platform.tls(chain, key)) as known,
    ):
        for device in (anonymous, plain, known):
            device.send(endpoint.topic("json"), b'{"n": 1}')
        require_of_clients(other_tenant, {"tls": {"x509-auth": {"required": True}}})
        try:
            anonymous.ended(within=5)
            known.send(endpoint.topic("json"), b'{"n": 2}')
            plain.send(endpoint.topic("json"), b'{"n": 3}')

            with Device(platform.mqtt_tls_port, V5, tls=platform.tls()) as unknown:
                topic = endpoint.topic("json")
                unknown.publish(topic, b'{"n": 4}')
                error = json.loads(unknown.message(f"{topic}/error").payload)
                assert error["statusCode"] == 401 and "certificate" in error["reasonPhrase"]
                assert unknown.ended().value == 0x87, "not authorized"
        finally:
            require_of_clients(other_tenant, {"tls": {"x509-auth": {"required": False}}})
    assert sorted(endpoint.values("auto~n")) == [1, 1, 1, 2, 3]
