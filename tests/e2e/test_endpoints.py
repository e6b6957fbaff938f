"""Endpoints as an application developer works with them: registered, found, filtered, changed, deleted."""

import json

import pytest

from devices import Device
from processes import eventually
from rest import ENDPOINTS, request

CITIES = {"sensor-a": "Kyiv", "sensor-b": "Kyiv", "sensor-c": "Lviv"}


@pytest.fixture
def town(platform):
    """An application of this test's own, with endpoints in two cities."""
    application = platform.api.create_application()
    application.endpoints = {
        name: application.create_endpoint(metadata={"name": name, "city": city, "floor": floor})
        for floor, (name, city) in enumerate(CITIES.items())
    }
    return application


def names(page):
    return [one["metadata"]["name"] for one in page["content"]]


def find(application, **query):
    query = {"applicationName": application.name, "include": "metadata", **query}
    return application.api.call("GET", ENDPOINTS, expect=200, query=query)


def search(application, **body):
    body = {"applicationName": application.name, "include": ["metadata"], **body}
    return application.api.call("POST", f"{ENDPOINTS}/search", expect=200, body=body)


class Filter:
    """A filter of an application."""

    def __init__(self, application, name, query):
        self.application = application
        path = f"/epr/api/v1/applications/{application.name}/filters"
        made = application.api.call("POST", path, expect=201, body={"name": name, "mongoQuery": query})
        assert made["status"] == "PENDING"
        self.id, self.path = made["id"], f"{path}/{made['id']}"
        self.active()

    def active(self):
        eventually(f"the filter {self.id} is active", lambda: self.get()["status"] == "ACTIVE")

    def get(self):
        return self.application.api.call("GET", self.path, expect=200)

    def counts(self, wanted):
        eventually(
            f"the filter matches {wanted}", lambda: self.get()["matchedEndpointsCount"] == wanted, within=5
        )


def in_city(name):
    return {"metadata": {"$elemMatch": {"key": "city", "value": name}}}


def test_many_are_registered_at_once(platform):
    """A factory's order: ids and tokens of its own where it has some; each token opens its endpoint."""
    application = platform.api.create_application()
    taken = application.create_endpoint()
    wished = [{"endpointId": f"{application.name}-{n}", "metadata": {"serial": n}} for n in range(50)]
    wished[0]["endpointToken"] = "burnt-in-at-the-factory"
    wished.append({"endpointId": taken.id})
    order = {"appVersion": {"name": application.version}, "endpoints": wished}
    answer = application.api.ask("POST", f"{ENDPOINTS}/batch", body=order)
    assert answer.status == 202 and answer.json()["taskId"] in answer.headers["Location"]
    path = answer.headers["Location"]

    def finished():
        status = application.api.call("GET", path, expect=200)
        return status if status["pendingCount"] == 0 else None

    status = eventually("the batch is done", finished, within=60)
    assert (status["createdCount"], status["failedCount"]) == (50, 1)
    assert {one["endpointId"] for one in status["created"]} == {one["endpointId"] for one in wished[:-1]}
    (failed,) = status["failed"]
    assert failed["endpointId"] == taken.id and failed["statusReason"]
    assert find(application, limit=1)["totalElements"] == 51
    for one in (status["created"][0], status["created"][-1]):
        url = f"{platform.http}/kp1/{application.version}/epmx/{one['endpointToken']}/get"
        assert request("POST", url, body=b"").json() == one["metadata"]


def test_found_by_parameters(town):
    assert names(find(town)) == ["sensor-a", "sensor-b", "sensor-c"], "oldest first"
    assert names(find(town, sort="createdDate,desc")) == ["sensor-c", "sensor-b", "sensor-a"]
    assert names(find(town, metadataFilter="city:Kyiv")) == ["sensor-a", "sensor-b"]
    assert names(find(town, metadataFilter=["city:Kyiv", "floor:1"])) == ["sensor-b"]
    assert names(find(town, multiFilter="LVI")) == ["sensor-c"]
    assert names(find(town, multiFilter="sensor-[ac]", regex="true")) == ["sensor-a", "sensor-c"]
    one, two = town.endpoints["sensor-c"].id, town.endpoints["sensor-a"].id
    assert names(find(town, endpointId=[one, two])) == ["sensor-a", "sensor-c"]
    assert names(find(town, applicationVersionName=town.version)) == list(CITIES)
    assert "metadata" not in find(town, include="")["content"][0]


def test_paged_to_the_end(town):
    """`after` takes one through all, each once, also while endpoints come."""
    seen, after = [], {}
    for _ in range(10):
        page = find(town, limit=1, **after)
        seen += names(page)
        if not (following := page.get("next")):
            break
        after = {"after": following}
        if len(seen) == 1:
            town.create_endpoint(metadata={"name": "late"})
    assert seen == [*CITIES, "late"]
    assert names(find(town, offset=1, limit=2)) == ["sensor-b", "sensor-c"]


@pytest.mark.parametrize(
    ("conditions", "wanted"),
    [
        ([{"key": "city", "value": "Kyiv"}], ["sensor-a", "sensor-b"]),
        ([{"key": "city", "operator": "ne", "value": "Kyiv"}], ["sensor-c"]),
        ([{"key": "floor", "operator": "gte", "value": 1}], ["sensor-b", "sensor-c"]),
        ([{"key": "floor", "operator": "gt", "value": 0}, {"key": "city", "value": "Kyiv"}], ["sensor-b"]),
        ([{"key": "name", "operator": "regex", "value": "-[bc]$"}], ["sensor-b", "sensor-c"]),
        ([{"key": "city", "operator": "exists", "value": False}], []),
    ],
)
def test_found_by_conditions(town, conditions, wanted):
    found = search(town, metadata=conditions)
    assert names(found) == wanted and found["totalElements"] == len(wanted)


def test_a_search_that_cannot_be_is_explained(town):
    for body in ({"metadata": [{"key": "a", "operator": "near"}]}, {"sort": "name"}, {"limit": 100000}):
        answer = town.api.ask("POST", f"{ENDPOINTS}/search", body=body)
        assert answer.status == 400 and answer.json()["message"], body


def test_a_filter_follows_its_endpoints(platform, town):
    """Whoever changes an endpoint, the application or the device itself, the filter knows."""
    kyiv, lviv = Filter(town, "Kyiv", in_city("Kyiv")), Filter(town, "Lviv", in_city("Lviv"))
    moving = town.endpoints["sensor-a"]
    kyiv.counts(2)
    assert names(find(town, filterId=kyiv.id)) == ["sensor-a", "sensor-b"]

    town.api.call("PUT", f"{ENDPOINTS}/{moving.id}/metadata/city", expect=204, body="Lviv")
    kyiv.counts(1)
    lviv.counts(2)
    page = find(town, endpointId=moving.id, include="metadata,filters")
    assert page["content"][0]["filters"] == [lviv.id]

    with Device(platform.mqtt_port) as device:
        device.send(moving.topic("update/keys", extension="epmx"), json.dumps({"city": "Kyiv"}).encode())
    kyiv.counts(2)
    town.api.call("DELETE", f"{ENDPOINTS}/{moving.id}", expect=204)
    kyiv.counts(1)
    assert names(search(town, filterId=kyiv.id)) == ["sensor-b"]


def test_a_filter_by_version_and_numbers(town):
    version = town.create_version()
    both = {
        "$or": [{"application_version": version}, {"metadata": {"$elemMatch": {"key": "floor", "value": 0}}}]
    }
    filter_ = Filter(town, "new or ground floor", both)
    assert names(find(town, filterId=filter_.id)) == ["sensor-a"]
    path = f"{ENDPOINTS}/{town.endpoints['sensor-c'].id}/app-version"
    town.api.call("PUT", path, expect=200, body={"name": version})
    filter_.counts(2)
    assert names(find(town, filterId=filter_.id)) == ["sensor-a", "sensor-c"]


def test_a_filter_is_changed_and_deleted(town):
    filter_ = Filter(town, "Kyiv", in_city("Kyiv"))
    tag = town.api.ask("GET", filter_.path).headers["ETag"]
    change = {"name": "Lviv", "mongoQuery": in_city("Lviv")}
    town.api.call("PATCH", filter_.path, expect=412, body=change, headers={"If-Match": '"other"'})
    town.api.call("PATCH", filter_.path, expect=200, body=change, headers={"If-Match": tag})
    filter_.active()
    assert names(find(town, filterId=filter_.id)) == ["sensor-c"]
    town.api.call("DELETE", filter_.path, expect=412, headers={"If-Match": tag})
    town.api.call("DELETE", filter_.path, expect=204)
    town.api.call("GET", ENDPOINTS, expect=404, query={"filterId": filter_.id})


def test_a_query_that_cannot_be_is_explained(town):
    path = f"/epr/api/v1/applications/{town.name}/filters"
    for query in ({"$where": "true"}, {"colour": "red"}, {"metadata": {"$near": 1}}, [], 7):
        answer = town.api.ask("POST", path, body={"name": "x", "mongoQuery": query})
        assert answer.status == 400 and answer.json()["message"], query


def test_metadata_is_changed_safely(town):
    """Two people with the same page open: the second is told, and nothing of the first is lost."""
    path = f"{ENDPOINTS}/{town.endpoints['sensor-a'].id}/metadata"
    tag = town.api.ask("GET", path).headers["ETag"]
    assert town.api.ask("GET", path, headers={"If-None-Match": tag}).status == 304
    mine = {"name": "mine"}
    town.api.call("PUT", path, expect=200, body=mine, headers={"If-Match": tag})
    town.api.call("PUT", path, expect=412, body={"name": "theirs"}, headers={"If-Match": tag})
    patch = [
        {"op": "test", "path": "/name", "value": "mine"},
        {"op": "add", "path": "/place", "value": {"room": 4}},
        {"op": "replace", "path": "/place/room", "value": 5},
    ]
    media = {"Content-Type": "application/json-patch+json"}
    town.api.call("PATCH", path, expect=200, body=patch, headers=media)
    town.api.call("PATCH", path, expect=409, body=[{**patch[0], "value": "theirs"}], headers=media)
    assert town.api.call("GET", path, expect=200) == {"name": "mine", "place": {"room": 5}}
    assert town.api.call("GET", f"{path}/place", expect=200) == {"room": 5}
    town.api.call("DELETE", f"{path}/place", expect=204)
    town.api.call("GET", f"{path}/place", expect=404)
    keys = town.api.call("GET", f"/epr/api/v1/applications/{town.name}/metadata-keys", expect=200)
    assert keys == {town.version: ["city", "floor", "name"]}


def test_relations(town):
    a, b, c = (endpoint.id for endpoint in town.endpoints.values())
    link = [{"type": "contains", "from": a, "to": b}, {"type": "contains", "from": b, "to": c}]
    town.api.call("PUT", "/epr/api/v1/relations/link", expect=204, body=link)
    town.api.call("PUT", "/epr/api/v1/relations/link", expect=204, body=link)
    found = town.api.call("GET", f"{ENDPOINTS}/{b}/relations", expect=200)
    assert sorted(found, key=lambda one: one["from"] != a) == link
    circle = [{"type": "contains", "from": c, "to": a}]
    town.api.call("PUT", "/epr/api/v1/relations/link", expect=409, body=circle)
    town.api.call("DELETE", f"{ENDPOINTS}/{b}", expect=204)
    assert town.api.call("GET", f"{ENDPOINTS}/{a}/relations", expect=200) == []


def test_many_are_deleted_at_once(platform, town):
    """Each for itself: what is not there is told, the rest is gone with its tokens."""
    a, b, _ = town.endpoints.values()
    body = {"endpointIds": [a.id, b.id, "no-such-endpoint"]}
    answer = town.api.call("POST", f"{ENDPOINTS}/delete", expect=200, body=body)
    assert (answer["deletedCount"], answer["failedCount"]) == (2, 1)
    assert [(one["endpointId"], one["statusCode"]) for one in answer["failed"]] == [("no-such-endpoint", 404)]
    assert names(find(town)) == ["sensor-c"]
    assert request("POST", f"{platform.http}/{a.topic('json')}", body=b"{}").status == 401


def test_an_application_goes_with_all_that_is_its_own(platform, town):
    api, device = town.api, town.endpoints["sensor-a"]
    path = f"/tekton/api/v1/applications/{town.name}"
    api.call("DELETE", path, expect=409)
    api.call("DELETE", path, expect=204, query={"cascade": "true"})
    url = f"{platform.http}/{device.topic('json')}"
    eventually("its devices are refused", lambda: request("POST", url, body=b"{}").status in (401, 404))
    gone = f"{ENDPOINTS}/{device.id}"
    eventually("its endpoints are gone", lambda: api.ask("GET", gone).status == 404, within=30)
