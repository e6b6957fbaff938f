"""The exchange of Kaa's tutorial clients, which never send SUBSCRIBE and rely on getting their responses."""

import json
import os
import pathlib
import subprocess
import sys

import pytest

from processes import ROOT

PAHO_1 = pathlib.Path(os.environ.get("BANDAR_PAHO1", ROOT / ".tools/paho1"))
SAMPLES = 5


@pytest.fixture(params=["paho-mqtt-1", "paho-mqtt-2"])
def environment(request):
    if request.param == "paho-mqtt-2":
        return dict(os.environ)
    assert (PAHO_1 / "paho").is_dir(), (
        f"paho-mqtt 1 is missing in {PAHO_1}: deploy/prerequisites.sh test installs it "
        "(pip install --target .tools/paho1 paho-mqtt==1.6.1), or name its directory with BANDAR_PAHO1"
    )
    return {**os.environ, "PYTHONPATH": str(PAHO_1)}


@pytest.mark.parametrize("timestamps", ["server", "device"])
def test_a_device_that_never_subscribes_gets_its_responses(platform, environment, timestamps):
    rule = {"path": "timestamp", "format": "millis-unix-epoch", "fallback-strategy": "server-timestamp"}
    settings = {"time-series": {"auto-extract": True, "timestamp": rule}}
    application = platform.api.create_application(epts=settings if timestamps == "device" else None)
    endpoint = application.create_endpoint()
    program = pathlib.Path(__file__).with_name("never_subscribes.py")
    arguments = [platform.mqtt_port, application.version, endpoint.token, SAMPLES]
    result = subprocess.run(
        [sys.executable, str(program), *map(str, arguments)],
        env=environment,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert result.returncode == 0, result.stderr
    responses = [json.loads(line) for line in result.stdout.splitlines()]
    assert responses == [{"topic": endpoint.topic("json/32/status"), "payload": ""}] * SAMPLES
    assert endpoint.values("auto~temperature") == list(range(SAMPLES))
    assert len(endpoint.values("auto~fuelLevel")) == SAMPLES
