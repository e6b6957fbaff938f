"""What roles and keys open, and that they close in the moment that an administrator takes them away."""

import datetime

import pytest

from processes import eventually
from rest import ENDPOINTS
from tenants import KEYS, USERS, as_user, create_key, create_tenant, create_user, login, with_key

APPLICATIONS = "/tekton/api/v1/applications"
# One of each service's lists, so that each service is asked.
READS = (APPLICATIONS, ENDPOINTS, "/epts/api/v1/time-series/config", "/ccm/api/v1/basic-credentials")


@pytest.fixture(scope="module")
def tenant(platform):
    """A tenant of this module, as its administrator has it."""
    return create_tenant(platform, "roles")


@pytest.fixture(scope="module")
def application(tenant):
    return tenant.create_application()


def statuses(caller):
    return {caller.ask("GET", path).status for path in READS}


def become(caller, wanted):
    """Waits until every service answers with this status. They hear of a change a moment after it was confirmed."""
    eventually(f"all services answer {wanted}", lambda: statuses(caller) == {wanted}, within=2, every=0)


def new_endpoint(caller, application):
    return caller.ask("POST", ENDPOINTS, body={"appVersion": {"name": application.version}}).status


@pytest.mark.parametrize("kind", ["key", "user"])
def test_roles_in_the_tenant(platform, tenant, application, kind):
    def caller(role):
        if kind == "key":
            return with_key(tenant, role=role)
        return as_user(platform, tenant.tenant, create_user(tenant, role=role)["username"])

    viewer, operator, admin = caller("viewer"), caller("operator"), caller("admin")
    for one in (viewer, operator, admin):
        assert statuses(one) == {200}
    assert new_endpoint(viewer, application) == 403
    assert new_endpoint(operator, application) == new_endpoint(admin, application) == 201
    assert operator.ask("POST", APPLICATIONS, body={}).status == 201
    assert operator.ask("GET", USERS).status == 403
    assert admin.ask("GET", USERS).status == 200
    assert admin.ask("GET", "/api/v2/tenants").status == 403, "of the platform's administrators alone"


def test_a_refusal_names_role_and_permission(tenant, application):
    body = {"appVersion": {"name": application.version}}
    answer = with_key(tenant, role="viewer").ask("POST", ENDPOINTS, body=body)
    assert "viewer" in answer.json()["message"] and "application:endpoint:create" in answer.json()["message"]


@pytest.mark.parametrize("kind", ["key", "user"])
def test_a_role_in_one_application(platform, tenant, application, kind):
    mine, others = tenant.create_application(), application
    endpoint, hidden = mine.create_endpoint(), others.create_endpoint()
    rights = {"grants": {mine.name: "operator"}}
    if kind == "key":
        caller = with_key(tenant, **rights)
    else:
        caller = as_user(platform, tenant.tenant, create_user(tenant, **rights)["username"])

    assert [one["name"] for one in caller.call("GET", APPLICATIONS, expect=200)] == [mine.name]
    listed = caller.call("GET", ENDPOINTS, expect=200)
    assert [one["endpointId"] for one in listed["content"]] == [endpoint.id] and listed["totalElements"] == 1
    assert new_endpoint(caller, mine) == 201
    assert new_endpoint(caller, others) == 403
    assert caller.ask("PUT", f"{ENDPOINTS}/{endpoint.id}/metadata", body={"a": 1}).status == 200
    assert caller.ask("PUT", f"{ENDPOINTS}/{hidden.id}/metadata", body={"a": 1}).status in (403, 404)
    assert caller.ask("DELETE", f"{ENDPOINTS}/{hidden.id}").status in (403, 404)
    for path in ("/ccm/api/v1/basic-credentials", USERS, "/tekton/api/v1/tenant-configs"):
        assert caller.ask("GET", path).status == 403, path
    assert caller.ask("POST", APPLICATIONS, body={}).status == 403
    tenant.call("GET", f"{ENDPOINTS}/{hidden.id}", expect=200)


def test_both_roles_add_up(tenant, application):
    caller = with_key(tenant, role="viewer", grants={application.name: "operator"})
    other = tenant.create_application()
    assert statuses(caller) == {200}
    assert new_endpoint(caller, application) == 201
    assert new_endpoint(caller, other) == 403


def test_a_revoked_key_is_refused_at_once(tenant, application):
    for _ in range(10):
        made = create_key(tenant, role="admin")
        caller = tenant.with_credentials({"x-iamcore-api-key": made["key"]})
        assert statuses(caller) == {200}
        tenant.call("DELETE", f"{KEYS}/{made['id']}", expect=204)
        become(caller, 401)
    listed = tenant.call("GET", f"{KEYS}/{made['id']}", expect=200)
    assert listed["revokedAt"] and listed["lastUsedAt"] and "key" not in listed


def test_a_key_expires(tenant):
    end = datetime.datetime.now(datetime.UTC) + datetime.timedelta(seconds=2)
    made = create_key(tenant, role="viewer", expiresAt=end.isoformat())
    caller = tenant.with_credentials({"x-iamcore-api-key": made["key"]})
    eventually("the key has expired", lambda: statuses(caller) == {401}, within=20, every=0.2)
    assert datetime.datetime.now(datetime.UTC) >= end, "not before its time"


def disable(tenant, user):
    tenant.call("PUT", f"{USERS}/{user['id']}", expect=200, body={"enabled": False})


def delete(tenant, user):
    tenant.call("DELETE", f"{USERS}/{user['id']}", expect=204)


def change_password(tenant, user):
    path = f"{USERS}/{user['id']}/password"
    tenant.call("PUT", path, expect=204, body={"newPassword": "another password"})


@pytest.mark.parametrize("end", [disable, delete, change_password])
def test_a_user_who_is_out_is_out_at_once(platform, tenant, end):
    for _ in range(3):
        user = create_user(tenant, role="admin")
        caller = as_user(platform, tenant.tenant, user["username"])
        assert statuses(caller) == {200}
        end(tenant, user)
        become(caller, 401)
        # Whoever knows the right password is told that the user is disabled.
        refused = login(platform, tenant.tenant, user["username"]).status
        assert refused == (403 if end is disable else 401)


def test_a_role_that_is_taken_away_is_gone_at_once(platform, tenant, application):
    user = create_user(tenant, role="operator")
    caller = as_user(platform, tenant.tenant, user["username"])
    path = f"{USERS}/{user['id']}"
    assert new_endpoint(caller, application) == 201
    tenant.call("PUT", path, expect=200, body={"role": "viewer"})
    eventually("a viewer makes no endpoints", lambda: new_endpoint(caller, application) == 403, within=2)
    assert statuses(caller) == {200}
    tenant.call("PUT", path, expect=200, body={"role": None, "grants": {application.name: "operator"}})
    eventually("an operator does", lambda: new_endpoint(caller, application) == 201, within=2)
    assert caller.ask("GET", "/ccm/api/v1/basic-credentials").status == 403


def test_a_disabled_tenant_is_closed_at_once(platform):
    tenant = create_tenant(platform, "closing")
    user = as_user(platform, tenant.tenant, "admin")
    path = f"/api/v2/tenants/{tenant.tenant}"
    platform.api.call("PUT", path, expect=200, body={"enabled": False})
    become(tenant, 403)
    become(user, 403)
    assert login(platform, tenant.tenant, "admin").status == 403
    platform.api.call("PUT", path, expect=200, body={"enabled": True})
    # Only good news may take its time: refusals are remembered for a moment.
    eventually("it is open again", lambda: statuses(tenant) == {200}, within=10)


def test_a_tenant_does_not_enable_itself(platform):
    tenant = create_tenant(platform, "enabling")
    path = f"/api/v2/tenants/{tenant.tenant}"
    assert tenant.ask("PUT", path, body={"enabled": False}).status == 403
    assert statuses(tenant) == {200}


def test_the_last_administrator_stays(platform):
    tenant = create_tenant(platform, "last")
    (admin,) = tenant.call("GET", USERS, expect=200)["content"]
    for method, body in (("DELETE", None), ("PUT", {"enabled": False}), ("PUT", {"role": "viewer"})):
        answer = tenant.ask(method, f"{USERS}/{admin['id']}", body=body)
        assert answer.status == 409 and "administrator" in answer.json()["message"], (method, body)
