"""One TLS port for MQTT, HTTPS and WebSocket: what the client offers (ALPN) decides what it gets."""

import http.client
import socket
import ssl
import time

import pytest

from certificates import issue_trusted
from devices import V5, V311, Device
from test_curl import curl

AMAZON = "x-amzn-mqtt-ca"
# kpc.mqtt.tls.handshake_timeout_s is 5, and a busy machine is slow.
GIVEN_UP = 30


def context(platform, *protocols, certificate=None, key=None):
    made = platform.tls(certificate, key)
    if protocols:
        made.set_alpn_protocols(list(protocols))
    return made


def connect(platform):
    return socket.create_connection(("127.0.0.1", platform.tls_port), timeout=GIVEN_UP)


@pytest.mark.parametrize("protocols", [[AMAZON], ["mqtt"], []], ids=["aws", "mqtt", "none"])
@pytest.mark.parametrize("version", [V311, V5], ids=["mqtt-3.1.1", "mqtt-5"])
def test_mqtt(platform, endpoint, protocols, version):
    with Device(platform.tls_port, version, tls=context(platform, *protocols)) as device:
        device.send(endpoint.topic("json"), '{"temperature": 21}')
    assert endpoint.values("auto~temperature") == [21]


def test_mqtt_with_a_client_certificate(platform, endpoint, tmp_path):
    """As the device SDKs of AWS connect at port 443."""
    _, chain, key = issue_trusted(platform, platform.api, tmp_path, commonName="kettle")
    with Device(platform.tls_port, V311, tls=context(platform, AMAZON, certificate=chain, key=key)) as device:
        device.send(endpoint.topic("json"), '{"temperature": 22}')
    assert endpoint.values("auto~temperature") == [22]


@pytest.mark.parametrize("protocol", [AMAZON, "mqtt", "http/1.1"])
def test_the_server_confirms_what_was_offered(platform, protocol):
    tls = context(platform, protocol)
    with tls.wrap_socket(connect(platform), server_hostname="localhost") as secured:
        assert secured.selected_alpn_protocol() == protocol


def test_http_and_rest(platform, endpoint):
    connection = http.client.HTTPSConnection(
        "127.0.0.1", platform.tls_port, context=context(platform, "http/1.1"), timeout=20
    )
    topic = endpoint.topic("json")
    connection.request("POST", f"/{topic}", '{"temperature": 23}')
    answer = connection.getresponse()
    assert (answer.status, answer.read() is not None) == (200, True)
    connection.request("GET", "/ready")
    assert connection.getresponse().status == 200
    connection.close()
    assert endpoint.values("auto~temperature") == [23]


def test_curl(platform):
    arguments = ["--cacert", platform.root_certificate, "-H", f"x-iamcore-api-key: {platform.api.key}"]
    url = f"https://localhost:{platform.tls_port}/tekton/api/v1/applications"
    assert curl(*arguments, url)[0] == 200


@pytest.mark.parametrize("path", ["/mqtt", "/ws"])
def test_websocket(platform, endpoint, path):
    with Device(platform.tls_port, V5, tls=context(platform, "http/1.1"), path=path) as device:
        device.send(endpoint.topic("json"), '{"temperature": 24}')
    assert endpoint.values("auto~temperature") == [24]


@pytest.mark.parametrize("protocol", ["h2", "mqtts", "spdy/3"])
def test_a_protocol_that_is_not_served(platform, protocol):
    tls = context(platform, protocol)
    with pytest.raises(ssl.SSLError) as refused, connect(platform) as plain:
        tls.wrap_socket(plain, server_hostname="localhost")
    assert "NO_APPLICATION_PROTOCOL" in str(refused.value).upper().replace(" ", "_")


def test_a_first_message_in_parts(platform):
    """A client hello that comes byte by byte is waited for."""
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    client = context(platform, AMAZON).wrap_bio(incoming, outgoing, server_hostname="localhost")
    with connect(platform) as plain:
        plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        while True:
            try:
                client.do_handshake()
                break
            except ssl.SSLWantReadError:
                data = outgoing.read()
                for at in range(0, len(data), 50):
                    plain.sendall(data[at : at + 50])
                    time.sleep(0.01)
                incoming.write(plain.recv(65_536))
        assert client.selected_alpn_protocol() == AMAZON


@pytest.mark.parametrize(
    "garbage",
    [b"GET / HTTP/1.1\r\n\r\n", b"\x10\x0c\x00\x04MQTT\x04\x02\x00\x3c\x00\x00", b"\xff" * 5_000],
    ids=["http", "mqtt", "noise"],
)
def test_what_is_no_tls_is_closed(platform, garbage):
    with connect(platform) as plain:
        plain.sendall(garbage)
        answer = ended(plain)
    assert not answer or answer[0] == 0x15, "an alert at most"


def test_who_says_nothing_is_closed(platform):
    with connect(platform) as silent, connect(platform) as half:
        half.sendall(b"\x16\x03\x01\x02\x00\x01")
        assert ended(silent) == b""
        ended(half)


def ended(plain):
    """What comes until the other end closes."""
    data = b""
    try:
        while part := plain.recv(4_096):
            data += part
    except ConnectionResetError:
        pass
    return data
