"""A client of the REST API, on the standard library alone, and what the tests make with it."""

import dataclasses
import json
import urllib.error
import urllib.parse
import urllib.request

EPTS = "/epts/api/v1/applications"
ENDPOINTS = "/epr/api/v1/endpoints"


@dataclasses.dataclass
class Response:
    status: int
    headers: object
    body: bytes

    def json(self):
        return json.loads(self.body)


def request(method, url, *, body=None, headers=None, timeout=30):
    """Any HTTP request; an error status is a response like another. What is not bytes goes as JSON."""
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


def bearer(token):
    """The header of an access token, or of an API key where it can go too."""
    return {"Authorization": f"Bearer {token}"}


class Api:
    """The platform's REST API as one caller has it: by default with an API key in Kaa's header."""

    def __init__(self, base, key, tenant=None, *, credentials=None):
        self.base = base
        self.key = key
        self.tenant = tenant
        self.credentials = {"x-iamcore-api-key": key} if credentials is None else credentials

    def with_credentials(self, credentials):
        """The same tenant with other credentials, the headers that show them."""
        return Api(self.base, None, self.tenant, credentials=credentials)

    def ask(self, method, path, *, body=None, query=None, headers=None):
        """Any answer."""
        url = self.base + path + (f"?{urllib.parse.urlencode(query, doseq=True)}" if query else "")
        return request(method, url, body=body, headers={**self.credentials, **(headers or {})})

    def call(self, method, path, *, expect, body=None, query=None, headers=None):
        """What the answer holds, which must have this status."""
        response = self.ask(method, path, body=body, query=query, headers=headers)
        assert response.status == expect, f"{method} {path}: {response.status} {response.body.decode()}"
        return response.json() if response.body else None

    def put(self, path, body):
        """Replaces something; the answer may have a body or none."""
        response = self.ask("PUT", path, body=body)
        assert response.status in (200, 204), f"PUT {path}: {response.status} {response.body.decode()}"

    def create_application(self, **settings):
        """An application with one version; `epts={...}` are the settings of the service instance epts for it."""
        name = self.call("POST", "/tekton/api/v1/applications", expect=201, body={"displayName": "e2e"})[
            "name"
        ]
        application = Application(self, name, "")
        application.version = application.create_version()
        if settings := {instance: block for instance, block in settings.items() if block is not None}:
            application.configure(**settings)
        return application


@dataclasses.dataclass
class Application:
    api: Api
    name: str
    version: str

    def create_version(self):
        """The name of another version."""
        path = f"/tekton/api/v1/applications/{self.name}/app-versions"
        return self.api.call("POST", path, expect=201, body={})["name"]

    def configure(self, **settings):
        """Replaces the settings of all service instances."""
        config = {
            instance: {"kaa": {"applications": {self.name: block}}} for instance, block in settings.items()
        }
        self.api.put(f"/tekton/api/v1/app-configs/applications/{self.name}", config)

    def create_endpoint(self, **body):
        body = {"appVersion": {"name": self.version}, **body}
        created = self.api.call("POST", ENDPOINTS, expect=201, body=body)
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
