"""All REST operations of all services, as they document themselves."""

import dataclasses
import json
import re

from rest import request

METHODS = ("get", "post", "put", "patch", "delete")
# Of administrators alone.
OF_ADMINS = ("tenant:user:", "tenant:api-key:")
# What operators may change in the whole tenant.
OF_OPERATORS = ("tenant:application:", "tenant:basic-credentials:", "tenant:x509-credentials:")


@dataclasses.dataclass(frozen=True)
class Operation:
    service: str
    method: str
    path: str
    permission: str
    scope: str
    description: dict = dataclasses.field(repr=False, hash=False, compare=False)

    def __str__(self):
        return f"{self.method} {self.path}"

    @property
    def is_public(self):
        return self.scope == "public"

    @property
    def reads(self):
        return self.permission.endswith(":read")

    @property
    def parameters(self):
        """The names of the parameters in the path."""
        return set(re.findall(r"{(\w+)}", self.path))

    @property
    def query(self):
        """The names of the parameters in the query, and whether each must be there."""
        parameters = self.description.get("parameters", [])
        return {one["name"]: one.get("required", False) for one in parameters if one["in"] == "query"}

    @property
    def needs_example(self):
        """Whether the path alone does not make a good request."""
        return "requestBody" in self.description or any(self.query.values())

    def is_for(self, role):
        """Whether a role in the whole tenant holds the permission."""
        name = self.permission
        if name.startswith("kaa:"):
            return False
        reads = self.reads and not name.startswith(OF_ADMINS)
        return {
            "viewer": reads,
            "operator": reads or not name.startswith("tenant:") or name.startswith(OF_OPERATORS),
            "admin": True,
        }[role]


def services(platform):
    """The names of all services that run, those without a REST interface too."""
    return sorted(request("GET", f"{platform.http}/ready").json()["services"])


def document(platform, service):
    """The OpenAPI document of a service; None when it has no REST interface."""
    answer = request("GET", f"{platform.http}/{service}/api/v1/openapi.json")
    assert answer.status in (200, 404), f"{service}: {answer.status} {answer.body}"
    return answer.json() if answer.status == 200 else None


def written(document):
    """A document as it is kept."""
    return json.dumps(document, indent=2, sort_keys=True) + "\n"


def operations(platform):
    """All operations, by path and method."""
    found = []
    for service in services(platform):
        paths = (document(platform, service) or {"paths": {}})["paths"]
        for path, item in paths.items():
            for method in METHODS:
                if method in item:
                    found.append(_operation(service, method.upper(), path, item[method]))
    return sorted(found, key=lambda one: (one.path, one.method))


def _operation(service, method, path, description):
    if description.get("security") == []:
        return Operation(service, method, path, "-", "public", description)
    permission, scope = description.get("x-permission"), description.get("x-scope")
    assert permission and scope, f"{method} {path} neither is public nor names a permission and a scope"
    return Operation(service, method, path, permission, scope, description)
