"""Who is connected: as metadata and as a time series, for devices of their own and behind a gateway."""

import pytest

from devices import Device
from processes import eventually


@pytest.fixture(scope="module")
def watched(platform):
    """An application whose endpoints' connectivity is written down."""
    application = platform.api.create_application()
    keys = {"state": "connected", "state-ts": "stateUpdateTs"}
    block = {
        "connectivity": {"metadata-keys": keys, "time-series": {"name": "connectivity"}}
    }
    config = {"epl": {"kaa": {"applications": {application.name: {"versions": {application.version: block}}}}}}
    path = f"/tekton/api/v1/app-configs/applications/{application.name}"
    platform.api.put(path, config)
    return application


def state(endpoint):
    path = f"/epr/api/v1/endpoints/{endpoint.id}/metadata"
    return endpoint.application.api.call("GET", path, expect=200)


def becomes(endpoint, connected):
    eventually(f"connected is {connected}", lambda: state(endpoint).get("connected") is connected, within=15)


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
