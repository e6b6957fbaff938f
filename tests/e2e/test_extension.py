"""An extension service of one's own joins a running platform, and leaves it. Nothing else is started again."""

import signal

from devices import Device
from processes import echo, eventually, free_ports, spawn
from rest import request


def post(cluster, endpoint, body):
    return request(
        "POST", f"{cluster.http}/{endpoint.topic('json', extension='echo')}", body=body, timeout=30
    )


def test_an_extension_joins_and_leaves(cluster):
    endpoint = cluster.api.create_application().create_endpoint()
    starts = {name: process.starts for name, process in cluster.processes.items()}
    unknown = post(cluster, endpoint, b"1")
    assert unknown.status == 404 and "echo" in unknown.json()["reasonPhrase"]

    (port,) = free_ports(1)
    environment = {
        "NATS_URL": cluster.environment["NATS_URL"],
        "BANDAR__NATS__USERS__ECHO": cluster.nats_passwords["echo"],
        "BANDAR__HTTP__LISTEN": f"127.0.0.1:{port}",
    }
    process = spawn([echo()], cluster.directory / "echo.log", environment=environment)
    try:
        eventually("the extension is known", lambda: post(cluster, endpoint, b"1").status == 200, within=30)
        assert request("GET", f"http://127.0.0.1:{port}/ready").status == 200
        answer = post(cluster, endpoint, b'{"ship": "Santa Maria"}')
        assert (answer.status, answer.json()) == (200, {"ship": "Santa Maria"})
        refused = post(cluster, endpoint, b"null")
        assert refused.status == 400 and "may not be null" in refused.json()["reasonPhrase"]
        with Device(cluster.mqtt_ports[1]) as device:
            topic = endpoint.topic("json/7", extension="echo")
            device.publish(topic, b"[1, 2]", qos=1)
            assert device.message(f"{topic}/status").payload == b"[1,2]"
    finally:
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=30) == 0

    gone = post(cluster, endpoint, b"1")
    assert gone.status == 503, "known, and not running"
    assert starts == {name: process.starts for name, process in cluster.processes.items()}
