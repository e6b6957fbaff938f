"""What is asked of a replica that is just starting: try again later. Never that there is no such thing."""

import pytest

from processes import Supervised, eventually
from rest import request
from tenants import with_key

ABSENT = "no-such-endpoint"
# Half-open connections of the dying process, no listener, and answers that ask to come back.
PASSING = {503, 504}


def ask_until(method, url, wanted, headers=None, body=None):
    """The statuses that were seen until the wanted one came. A refused or lost connection is none."""
    seen = []

    def asked():
        seen.append(request(method, url, headers=headers, body=body, timeout=15).status)
        return seen[-1] == wanted

    eventually(f"{method} {url} answers {wanted}", asked, within=60, every=0.001)
    return seen


@pytest.mark.parametrize("end", [Supervised.kill, Supervised.restart], ids=["killed", "restarted"])
def test_a_gateway_that_starts(cluster, end):
    endpoint = cluster.api.create_application().create_endpoint()
    url = f"http://127.0.0.1:{cluster.http_ports['kpc']}/{endpoint.topic('json')}"
    for _ in range(3):
        end(cluster.processes["kpc"])
        seen = ask_until("POST", url, 200, body=b'{"temperature": 1}')
        assert set(seen[:-1]) <= PASSING, seen


@pytest.mark.parametrize(
    ("service", "path"),
    [
        ("tekton", "/tekton/api/v1/applications"),
        ("epr", "/epr/api/v1/endpoints"),
        ("epts", "/epts/api/v1/time-series/config"),
        ("cm", f"/cm/api/v1/endpoints/{ABSENT}/tokens"),
        ("ccm", "/ccm/api/v1/basic-credentials"),
        ("epl", f"/epl/api/v1/endpoints/{ABSENT}/connectivity"),
        ("cex", f"/cex/api/v1/endpoints/{ABSENT}/commands/reboot/1"),
        ("tm", "/tm/api/v1/me"),
    ],
)
def test_a_service_that_starts(cluster, service, path):
    url = f"http://127.0.0.1:{cluster.http_ports[service]}{path}"
    wanted = 404 if ABSENT in path else 200
    for _ in range(3):
        cluster.processes[service].kill()
        seen = ask_until("GET", url, wanted, headers=cluster.api.credentials)
        assert set(seen[:-1]) <= PASSING, seen


def test_nobody_is_taken_for_a_stranger_while_credentials_cannot_be_checked(cluster):
    """Without the tenant manager whoever is known goes on; whoever is not is asked to come back, never refused."""
    url = f"http://127.0.0.1:{cluster.http_ports['epr']}/epr/api/v1/endpoints"
    known, fresh = cluster.api, with_key(cluster.api, role="viewer")
    assert request("GET", url, headers=known.credentials).status == 200
    cluster.processes["tm"].kill()
    assert request("GET", url, headers=known.credentials).status == 200
    seen = ask_until("GET", url, 200, headers=fresh.credentials)
    assert set(seen[:-1]) <= PASSING, seen
