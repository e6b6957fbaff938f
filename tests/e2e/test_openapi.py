"""The OpenAPI documents in proto-schemas/ are those that the services serve.

After a change of a REST interface: BANDAR_UPDATE=1 .tools/venv/bin/pytest tests/e2e/test_openapi.py
"""

import json
import os
import pathlib

import pytest

from operations import METHODS, document, services, written

DOCUMENTS = pathlib.Path(__file__).parents[2] / "proto-schemas" / "openapi"


@pytest.fixture(scope="module")
def served(platform):
    """The documents of all services that have a REST interface."""
    documents = {service: document(platform, service) for service in services(platform)}
    documents = {service: found for service, found in documents.items() if found}
    if os.environ.get("BANDAR_UPDATE"):
        for old in DOCUMENTS.glob("*.json"):
            old.unlink()
        for service, found in documents.items():
            (DOCUMENTS / f"{service}.json").write_text(written(found))
    return documents


def test_each_document_is_what_is_served(served):
    kept = {file.stem: json.loads(file.read_text()) for file in DOCUMENTS.glob("*.json")}
    assert kept.keys() == served.keys(), "update the documents, as this file says"
    assert [service for service in served if kept[service] != served[service]] == [], "update these documents"


def operations(documents):
    for service, found in documents.items():
        for path, item in found["paths"].items():
            for method in METHODS:
                if method in item:
                    yield f"{service}: {method.upper()} {path}", path, item[method]


def test_every_operation_is_described(served):
    for where, path, operation in operations(served):
        assert operation.get("summary") or operation.get("description"), where
        assert any(status.startswith("2") for status in operation["responses"]), where
        described = {one["name"] for one in operation.get("parameters", []) if one["in"] == "path"}
        assert described == {part[1:-1] for part in path.split("/") if part.startswith("{")}, where


def test_operations_have_names_of_their_own(served):
    """Generated clients name their functions after them."""
    for service, found in served.items():
        ids = [operation["operationId"] for _, _, operation in operations({service: found})]
        assert len(ids) == len(set(ids)), f"{service}: {sorted(one for one in ids if ids.count(one) > 1)}"
