"""Types and helpers that the HTTP shapes share."""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec
from pydantic import Field

Credits = Annotated[str, Field(description="Credits as a decimal string", examples=["32", "0.02"])]
EnvironmentName = Literal["production", "preview"]
PlanName = Literal["free", "hobby", "build", "scale", "enterprise"]


def request_schema(kind: type[msgspec.Struct] | object) -> dict[str, object]:
    """The JSON schema of a request body that msgspec decodes, self-contained for OpenAPI."""
    (schema,), definitions = msgspec.json.schema_components([kind], ref_template="#/$defs/{name}")
    return _inlined(schema, definitions)


def _inlined(schema: object, definitions: dict[str, object]) -> dict[str, object]:
    def walk(node: object) -> object:
        if isinstance(node, dict):
            reference = node.get("$ref")
            if isinstance(reference, str):
                return walk(definitions[reference.rpartition("/")[2]])
            return {key: walk(value) for key, value in node.items()}
        if isinstance(node, list):
            return [walk(value) for value in node]
        return node

    found = walk(schema)
    assert isinstance(found, dict)
    return found
