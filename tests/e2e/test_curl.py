"""The HTTP binding and REST with curl, as the documentation shows them."""

import json
import subprocess

import pytest

from processes import program


def curl(*arguments):
    """Status and body."""
    command = [program("curl", variable="BANDAR_CURL", install="install the package curl"), "-sS", *arguments]
    command += ["-w", "\n%{http_code}"]
    output = subprocess.run(command, capture_output=True, text=True, timeout=30, check=True).stdout
    body, _, status = output.rpartition("\n")
    return int(status), body


@pytest.mark.parametrize("path", ["json", "json/1"])
@pytest.mark.parametrize("payload", ['{"temperature": 21}', '[{"temperature": 21}]'], ids=["single", "batch"])
def test_post_and_read_back(platform, endpoint, path, payload):
    # curl calls the body a form unless told otherwise; the gateway takes it as it is.
    assert curl("-d", payload, f"{platform.http}/{endpoint.topic(path)}") == (200, "")
    query = f"timeSeriesName=auto~temperature&endpointId={endpoint.id}"
    url = f"{platform.http}/epts/api/v1/applications/{endpoint.application.name}/time-series/last?{query}"
    for header in (f"x-iamcore-api-key: {platform.api.key}", f"Authorization: bearer {platform.api.key}"):
        status, body = curl("-H", header, url)
        assert status == 200
        (point,) = json.loads(body)[0][endpoint.id]["auto~temperature"]
        assert point["values"] == {"value": 21}
        assert point["timestamp"].endswith("Z")


def test_plain_data_and_its_unit(platform):
    unit = {"names": {"unit": {"values": [{"path": "$['temperature-unit']", "type": "string"}]}}}
    endpoint = platform.api.create_application(epts={"time-series": unit}).create_endpoint()
    for payload, value in (("47%", 47), ("200", 200)):
        assert curl("-d", payload, f"{platform.http}/{endpoint.topic('plain/temperature')}") == (200, "")
        assert endpoint.values("auto~temperature-value")[-1] == value
    assert endpoint.values("unit") == ["%", "number"]


def test_a_bad_payload(platform, endpoint):
    status, body = curl("-d", "{", f"{platform.http}/{endpoint.topic('json')}")
    assert status == 400
    assert json.loads(body)["statusCode"] == 400


def test_several_posts_use_one_connection(platform, endpoint):
    url = f"{platform.http}/{endpoint.topic('json')}"
    status, body = curl("-v", "-d", '{"n": 1}', url, url, "--stderr", "-")
    assert status == 200
    assert "Re-using existing connection" in body
    assert endpoint.values("auto~n") == [1, 1]


@pytest.mark.parametrize("path", ["/health", "/ready", "/metrics"])
def test_operators_see_the_state(platform, path):
    status, body = curl(platform.http + path)
    assert status == 200
    assert path != "/metrics" or "bandar_" in body


@pytest.mark.parametrize("service", ["tekton", "epr", "cm", "ccm", "tm", "epts", "epl", "cex", "kpc"])
def test_each_service_documents_its_api(platform, service):
    status, body = curl(f"{platform.http}/{service}/api/v1/openapi.json")
    assert status == 200
    assert json.loads(body)["openapi"].startswith("3.")
