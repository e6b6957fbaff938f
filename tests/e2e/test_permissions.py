"""Who may call what: the table of all routes of all services, and a walk over them as all kinds of callers.

After a change of a route: BANDAR_UPDATE=1 .tools/venv/bin/pytest tests/e2e/test_permissions.py -k table
"""

import contextlib
import os
import pathlib

import pytest

import operations as documents
from examples import EXAMPLES
from rest import bearer
from tenants import create_tenant, encoded, with_key
from walk import World

TABLE = pathlib.Path(__file__).parents[2] / "proto-schemas" / "permissions.txt"
HEAD = """\
# Every REST route of the platform: what the caller's role must hold, and how far it must reach.
#   public          nobody needs credentials
#   platform        an administrator of the platform's tenant
#   tenant          a role in the whole tenant
#   application {x} a role in the whole tenant, or in the application that the path names
#   application     the same for what the request turns out to be about; lists hold what the caller reaches
# Roles: viewer: what ends in :read, but tenant:user: and tenant:api-key:; operator: also all that does not begin with
# tenant: or kaa:, and tenant:application:, tenant:basic-credentials:, tenant:x509-credentials:; admin: all but kaa:.
"""
REFUSED = (403, 404)


@pytest.fixture(scope="module")
def operations(platform):
    return documents.operations(platform)


@pytest.fixture(scope="module")
def world(platform):
    return World(platform)


@contextlib.contextmanager
def untouched(world, operations):
    """Whatever is asked for within, nothing of the tenant may be another afterwards."""
    before = world.snapshot(operations)
    yield
    assert world.snapshot(operations) == before


def guarded(operations):
    return [operation for operation in operations if not operation.is_public]


def of_others(operations):
    """Without those about the caller himself."""
    return [operation for operation in guarded(operations) if operation.permission != "account:read"]


def faults(answers):
    """The answers that are none of those expected, all at once, because one explains another."""
    return [f"{where}: {answer.status} {answer.body.decode()[:300]}" for where, answer in answers]


def is_refused(answer):
    """Whether nothing was done, be it for the request as a whole or for each thing that it names."""
    if answer.status == 200 and b'"failed"' in answer.body:
        failed = answer.json()["failed"]
        return answer.json()["deletedCount"] == 0 and all(one["statusCode"] in REFUSED for one in failed)
    return answer.status in REFUSED


def test_the_table_is_what_is_served(operations):
    columns = [(one.method, one.path, one.permission, one.scope) for one in operations]
    widths = [max(len(row[column]) for row in columns) for column in range(3)]
    rows = ["  ".join([*map(str.ljust, row[:3], widths), row[3]]) for row in columns]
    table = HEAD + "".join(f"{row}\n" for row in rows)
    if os.environ.get("BANDAR_UPDATE"):
        TABLE.write_text(table)
    assert TABLE.read_text() == table, (
        "routes have changed: look at them, and update the table as this file says"
    )


def test_every_operation_has_an_example(operations):
    known = {str(operation) for operation in operations}
    missing = [str(one) for one in guarded(operations) if one.needs_example and str(one) not in EXAMPLES]
    assert not missing, "add good requests for these to examples.py"
    assert not EXAMPLES.keys() - known, "there are no such operations: take them out of examples.py"


def test_nobody_without_credentials(world, operations):
    unknown = {
        "nothing": {},
        "a wrong key": {"x-iamcore-api-key": "no-such-key-of-anybody"},
        "a key of the right form": {"x-iamcore-api-key": f"bdr_{'a' * 16}_{'b' * 32}"},
        "a wrong bearer": {"Authorization": "Bearer no-such-token"},
        "an unsigned token": bearer(unsigned(world)),
        "a password": {"Authorization": "Basic YWRtaW46YSBwYXNzd29yZCBvZiBwZW9wbGU="},
    }
    with untouched(world, operations):
        answers = [
            (f"{operation} with {what}", world.ask(world.admin.with_credentials(credentials), operation))
            for operation in guarded(operations)
            for what, credentials in unknown.items()
        ]
    assert not faults((where, answer) for where, answer in answers if answer.status != 401)


def unsigned(world):
    claims = {
        "iss": "bandar",
        "aud": "bandar",
        "sub": "a",
        "tenant": world.tenant,
        "role": "admin",
        "exp": 2**33,
    }
    return f"{encoded({'alg': 'none', 'typ': 'JWT'})}.{encoded(claims)}."


def test_no_administrator_of_another_tenant(platform, world, operations):
    """What is named is not there for him. What he may call without a name is about his own tenant alone."""
    stranger = create_tenant(platform, "stranger")
    found = []
    with untouched(world, operations):
        for operation in of_others(operations):
            request, answer = world.request(operation), world.ask(stranger, operation)
            is_ok = is_refused(answer)
            is_own = not operation.parameters - {"name"} or "/commanders/" in operation.path
            if operation.scope != "platform" and is_own:
                # Lists, and what he does in his own tenant; nobody has foreign credentials there.
                is_ok = is_ok and world.names_something(request) or _is_own(world, request, answer)
            if not is_ok:
                found.append((operation, answer))
    assert not faults(found)


def _is_own(world, request, answer):
    return answer.status < 300 and not world.leaks(request, answer)


def test_no_other_tenant_is_selected(platform, world, operations):
    stranger = create_tenant(platform, "stranger")
    selecting = [one for one in guarded(operations) if "tenantId" in one.query]
    with untouched(world, operations):
        answers = [
            (f"{one}?tenantId=", world.ask(stranger, one, query={"tenantId": world.tenant}))
            for one in selecting
        ]
    assert len(answers) >= 5
    assert not faults((where, answer) for where, answer in answers if answer.status != 403)


@pytest.mark.parametrize("role", ["viewer", "operator"])
@pytest.mark.parametrize("kind", ["key", "user"])
def test_no_role_that_does_not_hold_it(world, operations, role, kind):
    caller = with_key(world.admin, role=role) if kind == "key" else world.a_user(role=role)
    with untouched(world, operations):
        answers = [(one, world.ask(caller, one)) for one in guarded(operations) if not one.is_for(role)]
    assert len(answers) >= 15
    assert not faults((where, answer) for where, answer in answers if answer.status != 403)


def test_a_viewer_reads(world, operations):
    caller = with_key(world.admin, role="viewer")
    reading = [one for one in guarded(operations) if one.is_for("viewer") and one.method == "GET"]
    with untouched(world, operations):
        answers = [(one, world.ask(caller, one)) for one in reading]
    assert len(answers) >= 30
    assert not faults((where, answer) for where, answer in answers if answer.status != 200)


def test_no_role_in_another_application(world, operations):
    caller = with_key(world.admin, grants={world.elsewhere.name: "operator"})
    found = []
    with untouched(world, operations):
        for operation in of_others(operations):
            request, answer = world.request(operation), world.ask(caller, operation)
            is_ok = answer.status == 403
            if operation.scope == "application":
                is_ok = is_refused(answer)
                if not operation.parameters - {"name"}:
                    is_ok = is_ok or _is_own(world, request, answer)
            if not is_ok:
                found.append((operation, answer))
    assert not faults(found)


def test_a_role_in_the_application_reaches_no_further(world, operations):
    """A viewer of one application reads there, changes nothing, and sees nothing of the tenant as a whole."""
    caller = with_key(world.admin, grants={world.application.name: "viewer"})
    found = []
    with untouched(world, operations):
        for operation in of_others(operations):
            is_allowed = operation.scope.startswith("application") and operation.is_for("viewer")
            answer = world.ask(caller, operation)
            if answer.status != (200 if is_allowed else 403):
                found.append((operation, answer))
    assert not faults(found)


def test_who_may_gets_through(platform, operations):
    """Every example is a good request: so each refusal above was for who asked, and not for what."""
    world = World(platform)
    everything = guarded(operations)
    reading = [one for one in everything if one.method == "GET"]
    changing = [one for one in everything if one.method not in ("GET", "DELETE")]
    deleting = [one for one in everything if one.method == "DELETE"]
    # What is deeper first; what takes others with it last: an authority its certificates, and the tenant all.
    deleting.sort(
        key=lambda one: (one.scope == "platform", "authorityId" in one.path, -one.path.count("/"), one.path)
    )
    user = world.a_user(role="admin")
    answers = []
    for operation in [*reading, *changing, *deleting]:
        caller = platform.api if operation.scope == "platform" else world.admin
        caller = user if operation.permission == "account:read" else caller
        answers.append((operation, world.ask(caller, operation)))
    assert not faults((where, answer) for where, answer in answers if answer.status >= 300)
    assert world.admin.ask("GET", "/epr/api/v1/endpoints").status == 401, "the tenant is gone"
