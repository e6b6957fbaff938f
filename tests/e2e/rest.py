"""A client of the REST API, on the standard library alone, and what the tests make with it."""

import dataclasses
import json
import urllib.error
import urllib.parse
import urllib.request

EPTS = "/epts/api/v1/applications"


@dataclasses.dataclass
class Response:
    status: int
    headers: object
    body: bytes

    def json(self):
        return json.loads(self.body)


def request(method, url, *, body=None, headers=None, timeout=30):
    """Any HTTP request; an error status is a response like another."""
    data = body if body is None or isinstance(body, bytes) else json.dumps(body).encode()
    headers = {"Content-Type": "application/json", **(headers or {})} if data is not None else (headers or {})
    try:
        with urllib.request.urlopen(
            urllib.request.Request(url, data, headers, method=method), timeout=timeout
        ) as response:
            return Response(response.status, response.headers, response.read())
    except urllib.error.HTTPError as error:
        with error:
            return Response(error.code, error.headers, error.read())


class Api:
    """The platform's REST API with one tenant's key."""

    def __init__(self, base, key, tenant=None):
        self.base = base
        self.key = key
        self.tenant = tenant

    def call(self, method, path, *, expect, body=None, query=None):
        url = self.base + path + (f"?{urllib.parse.urlencode(query)}" if query else "")
        response = request(method, url, body=body, headers={"x-iamcore-api-key": self.key})
        assert response.status == expect, f"{method} {path}: {response.status} {response.body.decode()}"
        return response.json() if response.body else None

    def put(self, path, body):
        """Replaces something; the answer may have a body or none."""
        response = request("PUT", self.base + path, body=body, headers={"x-iamcore-api-key": self.key})
        assert response.status in (200, 204), f"PUT {path}: {response.status} {response.body.decode()}"

    def create_application(self, *, epts=None, dcx=None):
        """An application with one version; `epts` and `dcx` are the services' settings for it."""
        name = self.call("POST", "/tekton/api/v1/applications", expect=201, body={"displayName": "e2e"})[
            "name"
        ]
        versions = f"/tekton/api/v1/applications/{name}/app-versions"
        version = self.call("POST", versions, expect=201, body={})["name"]
        blocks = {instance: block for instance, block in (("epts", epts), ("dcx", dcx)) if block is not None}
        if blocks:
            config = {
                instance: {"kaa": {"applications": {name: block}}} for instance, block in blocks.items()
            }
            self.put(f"/tekton/api/v1/app-configs/applications/{name}", config)
        return Application(self, name, version)


@dataclasses.dataclass
class Application:
    api: Api
    name: str
    version: str

    def create_endpoint(self):
        body = {"appVersion": {"name": self.version}}
        created = self.api.call("POST", "/epr/api/v1/endpoints", expect=201, body=body)
        return Endpoint(self, created["endpointId"], created["token"])


@dataclasses.dataclass
class Endpoint:
    application: Application
    id: str
    token: str

    def topic(self, path, *, extension="dcx"):
        """The topic of a resource, `json/1` for example."""
        return f"kp1/{self.application.version}/{extension}/{self.token}/{path}"

    def points(self, *series, start="1970-01-01T00:00:00Z", end="now"):
        """The stored points as {series: [(timestamp, values)]}, oldest first."""
        query = {
            "timeSeriesName": ",".join(series),
            "endpointId": self.id,
            "fromDate": start,
            "toDate": end,
            "includeTime": "both",
        }
        path = f"{EPTS}/{self.application.name}/time-series/data"
        found = self.application.api.call("GET", path, expect=200, query=query)
        stored = {name: points for one in found for name, points in one.get(self.id, {}).items()}
        return {
            name: [(point["timestamp"], point["values"]) for point in points]
            for name, points in stored.items()
        }

    def values(self, series):
        """The values called `value` of one series, oldest first."""
        return [values["value"] for _, values in self.points(series).get(series, [])]
