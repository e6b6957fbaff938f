"""Who is connected: as metadata and as a time series, for devices of their own and behind a gateway."""

import pytest

from devices import Device
from processes import eventually


def watch(api):
    """An application whose endpoints' connectivity is written down."""
    application = api.create_application()
    keys = {"state": "connected", "state-ts": "stateUpdateTs"}
    block = {"connectivity": {"metadata-keys": keys, "time-series": {"name": "connectivity"}}}
    application.configure(epl={"versions": {application.version: block}})
    return application


@pytest.fixture(scope="module")
def watched(platform):
    return watch(platform.api)


def state(endpoint):
    path = f"/epr/api/v1/endpoints/{endpoint.id}/metadata"
    return endpoint.application.api.call("GET", path, expect=200)


def becomes(endpoint, connected, within=15):
    eventually(f"connected is {connected}", lambda: state(endpoint).get("connected") is connected, within)


def test_a_device_comes_and_goes(platform, watched):
    endpoint = watched.create_endpoint()
    with Device(platform.mqtt_port) as device:
        device.send(endpoint.topic("json"), b'{"n": 1}')
        becomes(endpoint, True)
        assert state(endpoint)["stateUpdateTs"].endswith("Z")
    becomes(endpoint, False)
    eventually(
        "both transitions are in the series", lambda: endpoint.values("connectivity") == [1, 0], within=15
    )


def test_two_connections_of_one_endpoint(platform, watched):
    endpoint = watched.create_endpoint()
    with Device(platform.mqtt_port) as first:
        first.send(endpoint.topic("json"), b'{"n": 1}')
        becomes(endpoint, True)
        with Device(platform.mqtt_port) as second:
            second.send(endpoint.topic("json"), b'{"n": 2}')
        first.send(endpoint.topic("json"), b'{"n": 3}')
        assert state(endpoint)["connected"] is True
    becomes(endpoint, False)


def test_a_gateway_speaks_for_many(platform, watched):
    endpoints = [watched.create_endpoint() for _ in range(5)]
    with Device(platform.mqtt_port) as gateway:
        for endpoint in endpoints:
            gateway.send(endpoint.topic("json"), b'{"n": 1}')
        for endpoint in endpoints:
            becomes(endpoint, True)
    for endpoint in endpoints:
        becomes(endpoint, False)


def test_an_endpoint_that_moves_between_gateways(cluster):
    """What the old gateway says late does not count against the new one."""
    endpoint = watch(cluster.api).create_endpoint()
    first, second = (Device(port) for port in cluster.mqtt_ports)
    with second:
        with first:
            first.send(endpoint.topic("json"), b'{"n": 1}')
            becomes(endpoint, True)
            second.send(endpoint.topic("json"), b'{"n": 2}')
        for number in range(20):
            second.send(endpoint.topic("json"), b'{"n": 3}')
            assert state(endpoint)["connected"] is True, number
    becomes(endpoint, False)
    assert endpoint.values("connectivity") == [1, 0]


def test_a_gateway_that_dies(cluster):
    """It says nothing any more, and so its endpoints are offline; those of the other one are not."""
    application = watch(cluster.api)
    lost, kept = application.create_endpoint(), application.create_endpoint()
    with Device(cluster.mqtt_ports[0]) as one, Device(cluster.mqtt_ports[1]) as other:
        other.send(lost.topic("json"), b'{"n": 1}')
        one.send(kept.topic("json"), b'{"n": 1}')
        becomes(lost, True)
        becomes(kept, True)
        cluster.processes["kpc-1"].kill()
        becomes(lost, False, within=90)
        assert state(kept)["connected"] is True
