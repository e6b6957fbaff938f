"""Two replicas of the gateway: clients need not know which one they are connected to."""

import json

import pytest

from devices import V5, V311, Device

GOOD = '{"temperature": 1}'


@pytest.fixture(scope="module")
def application(cluster):
    return cluster.api.create_application()


@pytest.fixture(params=[(0, 1), (1, 0)], ids=["first-to-second", "second-to-first"])
def ports(request, cluster):
    return [cluster.mqtt_ports[index] for index in request.param]


def test_a_response_reaches_a_subscriber_on_the_other_replica(ports, endpoint, protocol):
    with Device(ports[0], protocol) as speaker, Device(ports[1]) as listener:
        assert listener.subscribe(endpoint.topic("json/#")).value == 1
        for number in range(20):
            speaker.send(endpoint.topic(f"json/{number}"), json.dumps({"n": number}))
            listener.message(endpoint.topic(f"json/{number}/status"))
            speaker.message(endpoint.topic(f"json/{number}/status"))
        assert listener.silence(), "each response comes once"
        assert len(listener.messages) == 20 and len(speaker.messages) == 20
    assert endpoint.values("auto~n") == list(range(20))


def test_so_does_an_error_and_the_very_first_response(ports, endpoint):
    """The publisher is gone as soon as it has spoken, as mosquitto_pub is."""
    with Device(ports[1]) as listener:
        listener.subscribe(endpoint.topic("json/1/error"))
        with Device(ports[0]) as speaker:
            speaker.publish(endpoint.topic("json/1"), "{", qos=1)
            listener.message(endpoint.topic("json/1/error"))


def test_a_subscription_after_a_while_is_heard_too(ports, endpoint):
    with Device(ports[0]) as speaker:
        for number in range(3):
            speaker.send(endpoint.topic(f"json/{number}"), GOOD)
        with Device(ports[1]) as listener:
            listener.subscribe(endpoint.topic("json/#"))
            speaker.send(endpoint.topic("json/9"), GOOD)
            listener.message(endpoint.topic("json/9/status"))


@pytest.mark.parametrize("older_protocol", [V311, V5], ids=["mqtt-3.1.1", "mqtt-5"])
def test_a_take_over_closes_the_older_connection(ports, endpoint, older_protocol):
    name = f"takeover-{endpoint.id}"
    with Device(ports[0], older_protocol, client_id=name) as older:
        older.send(endpoint.topic("json"), GOOD)
        with Device(ports[1], client_id=name) as newer:
            reason = older.wait("the older connection is closed", lambda: older.disconnected)
            assert older_protocol != V5 or reason.value == 0x8E, "session taken over"
            newer.send(endpoint.topic("json/1"), GOOD)
            newer.message(endpoint.topic("json/1/status"))
            assert newer.disconnected is None


def test_back_and_forth(ports, endpoint):
    """A device that moves between replicas is always connected where it came last."""
    name = f"roaming-{endpoint.id}"
    devices = [Device(ports[0], client_id=name)]
    for port in (ports[1], ports[0], ports[1]):
        devices.append(Device(port, client_id=name))
        devices[-2].wait("the older connection is closed", lambda: devices[-2].disconnected)
        devices[-1].send(endpoint.topic("json"), GOOD)
    assert devices[-1].disconnected is None
    for device in devices:
        device.__exit__()
