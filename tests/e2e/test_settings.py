"""Settings of services for applications, versions and tenants: checked when they are made, and followed at once."""

import dataclasses

import pytest

from processes import eventually
from rest import request
from tenants import create_tenant

CONFIGS = "/tekton/api/v1/app-configs"


@pytest.fixture
def application(platform):
    """An application of this test's own."""
    return platform.api.create_application()


def status(platform, endpoint, extension="dcx", path="json"):
    url = f"{platform.http}/{endpoint.topic(path, extension=extension)}"
    return request("POST", url, body=b'{"n": 1}' if extension == "dcx" else b"").status


def of_application(application, instance, block):
    return {instance: {"kaa": {"applications": {application.name: block}}}}


def test_extensions_that_devices_may_use(platform, application):
    """A version has its own list; the others have that of the application. No service is started again."""
    newer = dataclasses.replace(application, version=application.create_version())
    endpoints = application.create_endpoint(), newer.create_endpoint()

    def statuses():
        return [(status(platform, one), status(platform, one, "epmx", "get")) for one in endpoints]

    assert statuses() == [(200, 200), (200, 200)]
    block = {
        "allowed-extension-instances": ["dcx"],
        "versions": {newer.version: {"allowed-extension-instances": ["epmx"]}},
    }
    application.configure(kpc=block)
    eventually("both lists are enforced", lambda: statuses() == [(200, 403), (403, 200)], within=5)
    application.configure()
    eventually("everything is allowed again", lambda: statuses() == [(200, 200), (200, 200)], within=5)


@pytest.mark.parametrize(
    ("instance", "block", "named"),
    [
        ("kpc", {"allowed-extension-instances": "dcx"}, "/allowed-extension-instances"),
        ("epmx", {"metadata-keys": {"a": {"write-enabled": "yes"}}}, "/metadata-keys/a/write-enabled"),
        ("epl", {"connectivity": {"no-such-key": 1}}, "no-such-key"),
        ("nobody", {}, "nobody"),
    ],
)
def test_what_a_service_does_not_take_is_refused(application, instance, block, named):
    path = f"{CONFIGS}/applications/{application.name}"
    answer = application.api.ask("PUT", path, body=of_application(application, instance, block))
    assert answer.status == 400 and named in answer.json()["message"], answer.body
    assert application.api.call("GET", path, expect=200) == {}


def test_two_people_do_not_overwrite_each_other(application):
    path = f"{CONFIGS}/applications/{application.name}"
    tag = application.api.ask("GET", path).headers["ETag"]
    block = of_application(application, "epts", {"time-series": {"auto-extract": False}})
    application.api.call("PUT", path, expect=200, body=block, headers={"If-Match": tag})
    application.api.call("PUT", path, expect=412, body={}, headers={"If-Match": tag})
    assert application.api.call("GET", path, expect=200) == block


def test_an_export_is_taken_elsewhere(platform, application):
    """What one application has is loaded into another one, as from one site to another."""
    application.configure(
        epts={"time-series": {"auto-extract": False}}, kpc={"allowed-extension-instances": []}
    )
    query = {"appName": application.name}
    exported = platform.api.call("GET", CONFIGS, expect=200, query=query)
    assert sorted(exported) == ["epts", "kpc"]
    copy = platform.api.create_application()
    loaded = {
        instance: {"kaa": {"applications": {copy.name: blocks["kaa"]["applications"][application.name]}}}
        for instance, blocks in exported.items()
    }
    platform.api.call("POST", CONFIGS, expect=200, body=loaded)
    assert platform.api.call("GET", CONFIGS, expect=200, query={"appName": copy.name}) == loaded


def test_a_change_of_extraction_is_followed(platform, application):
    endpoint = application.create_endpoint()
    assert status(platform, endpoint) == 200
    application.configure(epts={"time-series": {"auto-extract": False}})

    def is_not_extracted():
        before = endpoint.values("auto~n")
        return status(platform, endpoint) == 200 and endpoint.values("auto~n") == before

    eventually("nothing is extracted", is_not_extracted, within=5)


def test_tenants_have_their_own(platform):
    """Nobody sees or sets what is another tenant's; the platform's administrators do for all."""
    tenant = create_tenant(platform, "settings")
    block = {"transports": {"mqtt": {"ws": {"basic-auth": {"required": True}}}}}
    config = {"kpc": {"kaa": {"tenants": {tenant.tenant: {"config": block}}}}}
    path, query = "/tekton/api/v1/tenant-configs", {"tenantId": tenant.tenant}
    assert platform.api.ask("PUT", path, body=config).status == 400, "the tenant's block in another tenant"
    platform.api.call("PUT", path, expect=200, body=config, query=query)
    assert tenant.call("GET", path, expect=200) == config
    assert platform.api.call("GET", path, expect=200) != config
