"""The OpenAPI documents in proto-schemas/ are those that the services serve.

After a change of a REST interface: BANDAR_UPDATE=1 .tools/venv/bin/pytest tests/e2e/test_openapi.py
"""

import json
import os
import pathlib

import pytest

from rest import request

DOCUMENTS = pathlib.Path(__file__).parents[2] / "proto-schemas" / "openapi"


@pytest.mark.parametrize("service", ["tekton", "epr", "cm", "epts"])
def test_the_document_is_what_is_served(platform, service):
    response = request("GET", f"{platform.http}/{service}/api/v1/openapi.json")
    assert response.status == 200
    served = response.json()
    document = DOCUMENTS / f"{service}.json"
    if os.environ.get("BANDAR_UPDATE"):
        document.parent.mkdir(exist_ok=True)
        document.write_text(json.dumps(served, indent=2, sort_keys=True) + "\n")
    assert json.loads(document.read_text()) == served, "update the document, as this file says"


def test_every_operation_is_described(platform):
    for service in ["tekton", "epr", "cm", "epts"]:
        document = json.loads((DOCUMENTS / f"{service}.json").read_text())
        for path, operations in document["paths"].items():
            for method, operation in operations.items():
                if method not in {"get", "post", "put", "patch", "delete"}:
                    continue
                where = f"{method.upper()} {path}"
                assert operation.get("summary") or operation.get("description"), where
                assert any(status.startswith("2") for status in operation["responses"]), where
