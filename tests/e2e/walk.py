"""A tenant that has one of everything, and requests of all kinds of callers for it."""

import json
import re
import secrets

from devices import Device
from examples import EXAMPLES
from processes import eventually
from tenants import PASSWORD, as_user, create_key, create_tenant, create_user

# What changes by being looked at, or by itself.
PASSING = {
    "lastUsedAt",
    "lastUseDate",
    "lastLoginDate",
    "announcedDate",
    "registrationCode",
    "validUntil",
    "attempts",
}

# Names that say nothing of a tenant.
UNTELLING = {"key", "name", "commandId"}


class World:
    """A tenant with one of everything that REST operations are about."""

    def __init__(self, platform):
        self.platform = platform
        # In all names and values of the tenant, and nowhere else.
        self.mark = f"walk{secrets.token_hex(6)}"
        self.admin = create_tenant(platform, self.mark)
        self.tenant = self.admin.tenant
        self.application = self.admin.create_application()
        self.elsewhere = self.admin.create_application()
        name = {"displayName": self.mark}
        self.admin.call(
            "PATCH", f"/tekton/api/v1/applications/{self.application.name}", expect=200, body=name
        )
        self.names = {
            "tenantId": self.tenant,
            "newTenantId": f"{self.mark}-new",
            "appName": self.application.name,
            "applicationName": self.application.name,
            "appVersionName": self.application.version,
            "otherVersionName": self.application.create_version(),
            "key": "name",
            "name": "epts",
            **self._endpoints(),
            **self._people(),
            **self._credentials(),
        }

    def _endpoints(self):
        of_application = f"/epr/api/v1/applications/{self.application.name}"
        metadata = {"name": self.mark}
        endpoint = self.application.create_endpoint(metadata=metadata)
        spare = self.application.create_endpoint(metadata=metadata)
        doomed = self.application.create_endpoint(metadata=metadata)
        contained = self.application.create_endpoint(
            metadata=metadata, relations=[{"type": "contains", "from": endpoint.id}]
        )
        with Device(self.platform.mqtt_port) as device:
            device.send(endpoint.topic("json"), b'{"n": 1}')
            eventually("the connection is noted", lambda: self._is_known(endpoint), within=15)
        query = {"metadata": {"$elemMatch": {"key": "name", "value": self.mark}}}
        made = {"name": self.mark, "mongoQuery": query}
        filter_id = self.admin.call("POST", f"{of_application}/filters", expect=201, body=made)["id"]
        active = f"{of_application}/filters/{filter_id}"
        eventually(
            "the filter is active", lambda: self.admin.call("GET", active, expect=200)["status"] == "ACTIVE"
        )
        batch = {"appVersion": {"name": self.application.version}, "endpoints": [{"metadata": metadata}]}
        task = self.admin.call("POST", "/epr/api/v1/endpoints/batch", expect=202, body=batch)["taskId"]
        status = {"appName": self.application.name, "taskId": task}
        eventually(
            "the batch is done",
            lambda: self.admin.call("GET", "/epr/api/v1/endpoints/batch/status", expect=200, query=status)[
                "createdCount"
            ],
        )
        tokens = self.admin.call("GET", f"/cm/api/v1/endpoints/{endpoint.id}/tokens", expect=200)
        # No device answers: it stays outstanding.
        invoked = f"/cex/api/v1/endpoints/{endpoint.id}/commands/{self.mark}"
        query = {"awaitTimeout": "0", "commandTtl": "3600000"}
        command = self.admin.call("POST", invoked, expect=202, query=query, body={"name": self.mark})
        thing = {"endpointId": endpoint.id}
        self.admin.call("PUT", f"/cex/api/v1/things/{self.mark}", expect=200, body=thing)
        group = {"filterId": filter_id, "applicationName": self.application.name}
        self.admin.call("PUT", f"/cex/api/v1/groups/{self.mark}", expect=200, body=group)
        return {
            "thingName": self.mark,
            "groupName": self.mark,
            # As the other tasks are those of epr.
            "batch/tasks/{taskId}": self._commanded(spare),
            "commandType": self.mark,
            "commandId": str(command["commandId"]),
            "endpointId": endpoint.id,
            "spareEndpointId": spare.id,
            "doomedEndpointId": doomed.id,
            "containedEndpointId": contained.id,
            "endpointTokenId": tokens["content"][0]["endpointTokenId"],
            "filterId": filter_id,
            "taskId": task,
        }

    def _commanded(self, endpoint):
        """The path of a batch of commands that goes on, as no device answers."""
        batches = f"/cex/api/v1/endpoints/commands/{self.mark}/batch/by-endpoints"
        body = {"payload": {"name": self.mark}, "endpointIds": [endpoint.id]}
        query = {"commandTtl": "3600000"}
        task = self.admin.call("POST", batches, expect=202, query=query, body=body)["taskId"]
        path = f"/cex/api/v1/endpoints/commands/batch/tasks/{task}"
        query = {"appName": self.application.name}
        eventually(
            "the command is invoked",
            lambda: self.admin.call("GET", path, expect=200, query=query)["notInvokedCount"] == 0,
        )
        return f"batch/tasks/{task}"

    def _is_known(self, endpoint):
        path = f"/epl/api/v1/endpoints/{endpoint.id}/connectivity"
        return self.admin.ask("GET", path).status == 200

    def _people(self):
        user = create_user(self.admin, role="viewer", name=self.mark)
        return {"userId": user["id"], "keyId": create_key(self.admin, role="viewer", name=self.mark)["id"]}

    def _credentials(self):
        basic = self.admin.call(
            "POST", "/ccm/api/v1/basic-credentials", expect=201, body={"username": self.mark}
        )
        x509 = self.admin.call(
            "POST", "/ccm/api/v1/x509-credentials", expect=201, body={"commonName": self.mark}
        )
        self.admin.call("PUT", f"/cex/api/v1/commanders/{basic['id']}", expect=200, body={})
        return {
            "commanders/{credentialsId}": f"commanders/{basic['id']}",
            "basic-credentials/{credentialsId}": f"basic-credentials/{basic['id']}",
            "x509-credentials/{credentialsId}": f"x509-credentials/{x509['id']}",
            "authorityId": x509["authorityId"],
        }

    def fill(self, text):
        """Puts the names of things where their placeholders are."""
        for place, name in self.names.items():
            text = text.replace(place if "/" in place else f"{{{place}}}", name)
        return text

    def request(self, operation):
        """The arguments of `Api.ask` for a good request."""
        example = EXAMPLES.get(str(operation), {})
        path = self.fill(operation.path)
        assert "{" not in path, f"the walk has nothing for {operation}: make one in walk.py"
        filled = json.loads(self.fill(json.dumps(example)))
        return {"method": operation.method, "path": path, **filled}

    def ask(self, caller, operation, **more):
        return caller.ask(**{**self.request(operation), **more})

    def snapshot(self, operations):
        """All that the tenant's administrator can read."""
        seen = {}
        for operation in operations:
            if operation.method == "GET" and operation.scope not in ("public", "platform"):
                answer = self.ask(self.admin, operation)
                assert answer.status == 200, f"{operation}: {answer.status} {answer.body}"
                seen[str(operation)] = _lasting(answer.json()) if _is_json(answer) else _text(answer)
        return seen

    def leaks(self, request, answer):
        """What of the tenant is in an answer and was not in the request."""
        asked, told = json.dumps(request), answer.body.decode()
        ids = [name.rpartition("/")[2] for place, name in self.names.items() if place not in UNTELLING]
        return [name for name in [self.mark, *ids] if name in told and name not in asked]

    def names_something(self, request):
        """Whether a request names anything of the tenant."""
        asked = json.dumps(request)
        ids = [name.rpartition("/")[2] for place, name in self.names.items() if place not in UNTELLING]
        return any(name in asked for name in ids)

    def a_user(self, **rights):
        """A caller who has logged in."""
        user = create_user(self.admin, **rights)
        return as_user(self.platform, self.tenant, user["username"], PASSWORD)


def _is_json(answer):
    return re.match(r"application/(.+\+)?json", answer.headers.get("Content-Type", ""))


def _text(answer):
    # A feed begins with where it is, which passes.
    is_feed = answer.headers.get("Content-Type", "").startswith("text/event-stream")
    return b"" if is_feed else answer.body


def _lasting(value):
    if isinstance(value, dict):
        return {name: _lasting(one) for name, one in value.items() if name not in PASSING}
    if isinstance(value, list):
        return [_lasting(one) for one in value]
    return value
