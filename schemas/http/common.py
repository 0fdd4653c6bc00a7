"""Types and helpers that the HTTP shapes share."""

from __future__ import annotations

import re
from datetime import datetime
from typing import Annotated, Any, Literal

import msgspec
from pydantic import BeforeValidator, Field

# The most that one page of a list has; a bound that no list of an answer is without (tests/api/test_parameters.py).
PAGE_ITEMS_MAX = 1_000
# What the core lets a project, or the price list, have at most.
KEYS_MAX = 100
ITEMS_MAX = 10
RAISES_MAX = 20
BOOKS_MAX = 200
OPERATIONS_MAX = 500
FACTS_OF_A_DECISION_MAX = 4_096
Credits = Annotated[str, Field(description="Credits as a decimal string", examples=["32", "0.02"])]
EnvironmentName = Literal["production", "preview"]
PlanName = Literal["free", "hobby", "build", "scale", "enterprise"]

_DATE = re.compile(r"\d{4}-\d{2}-\d{2}", re.ASCII)


def _with_its_date(given: Any) -> Any:
    if isinstance(given, datetime) or (isinstance(given, str) and _DATE.match(given)):
        return given
    raise ValueError("give a time with a zone, such as 2026-03-01T09:30:00Z")


# A time as callers give it. A number would be taken for seconds since 1970, or milliseconds: 202603011200 for 1976.
GivenTime = Annotated[datetime, BeforeValidator(_with_its_date)]


def at_most(items: int, **more: Any) -> Any:
    """A field with a list of an answer, whose bound the OpenAPI document states."""
    return Field(json_schema_extra={"maxItems": items}, **more)


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
