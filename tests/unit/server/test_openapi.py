"""The description names every route and refers to nothing that is not there."""

from __future__ import annotations

from typing import Any

import msgspec

from plait.model.objects import KINDS
from plait.server.api import ROUTES
from plait.server.openapi import describe, render


def references(node: Any) -> set[str]:
    if isinstance(node, dict):
        found = {node["$ref"]} if isinstance(node.get("$ref"), str) else set()
        return found.union(*(references(value) for value in node.values()))
    if isinstance(node, list | tuple):
        return set().union(*(references(value) for value in node))
    return set()


def test_it_is_whole() -> None:
    document = msgspec.json.decode(render(describe(ROUTES, "1.2.3")))
    schemas = document["components"]["schemas"]
    assert references(document) <= {f"#/components/schemas/{name}" for name in schemas}
    assert set(KINDS) <= set(schemas)
    assert "Problem" in schemas
    assert document["info"]["version"] == "1.2.3"
    assert not [path for path in document["paths"] if "{plural}" in path]
    for plural in ("networks", "nodes"):
        assert set(document["paths"][f"/v1/{plural}"]) == {"get", "post"}
        assert set(document["paths"][f"/v1/{plural}/{{name}}"]) == {"get", "put", "delete"}
    assert "/v1/endpoints/{name}" not in document["paths"]
    assert set(document["paths"]["/v1/namespaces/{namespace}/endpoints/{name}"]) == {
        "get",
        "put",
        "delete",
    }


def test_operations_have_names_of_their_own_and_say_what_they_do() -> None:
    document = describe(ROUTES, "1")
    operations = [op for path in document["paths"].values() for op in path.values()]
    names = [op["operationId"] for op in operations]
    assert len(names) == len(set(names))
    assert all(op["description"] for op in operations)


def test_a_field_keeps_its_wire_name_and_its_meaning() -> None:
    schemas = describe(ROUTES, "1")["components"]["schemas"]
    assert "externalIpam" in schemas["NetworkSpec"]["properties"]
    assert schemas["Network"]["additionalProperties"] is False
