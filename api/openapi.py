"""The OpenAPI document: FastAPI's own, with the problems and headers that any call may answer added."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi

from schemas.http.problems import Problem
from schemas.problems import CODES

_PROBLEM_REF = f"#/components/schemas/{Problem.__name__}"
# Statuses that authentication, limits and bounds may answer on any call of the API.
_ANY_CALL = ("401", "403", "413", "422", "429", "503")
_METHODS = ("get", "put", "post", "delete", "patch")
_INTEGER = {"type": "integer", "minimum": 0}
_LIMIT_HEADERS = {
    "X-RateLimit-Limit": ("Requests a minute that this project, or address, may make", _INTEGER),
    "X-RateLimit-Remaining": ("How many of them are left of the last 60 seconds", _INTEGER),
    "X-RateLimit-Reset": ("The Unix second at which the window is full again", _INTEGER),
    "x-request-id": ("The request's id, as it was sent or made here", {"type": "string"}),
}


def describe(app: FastAPI) -> dict[str, Any]:
    """The OpenAPI document of an app, built once."""
    if app.openapi_schema is None:
        document = get_openapi(
            title=app.title,
            version=app.version,
            summary=app.summary,
            description=app.description,
            routes=app.routes,
        )
        for path, operation in _operations(document):
            responses = operation["responses"]
            # This is FastAPI's own answer to an invalid request; ours is a problem.
            if responses.get("422", {}).get("description") == "Validation Error":
                del responses["422"]
            if path.startswith("/v1/"):
                for status in _ANY_CALL:
                    responses.setdefault(status, {})
                if "requestBody" in operation:
                    responses.setdefault("400", {})
            for status, response in responses.items():
                _describe_response(status, response)
            operation["responses"] = dict(sorted(responses.items()))
        for unused in ("HTTPValidationError", "ValidationError"):
            document["components"]["schemas"].pop(unused, None)
        app.openapi_schema = document
    return app.openapi_schema


def _operations(document: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            if method in _METHODS:
                yield path, operation


def _describe_response(status: str, response: dict[str, Any]) -> None:
    content = response.get("content", {})
    if status >= "400":
        codes = sorted(code for code, kind in CODES.items() if str(kind.status) == status)
        response["description"] = f"A problem: {', '.join(f'`{code}`' for code in codes)}"
        if not content or not {"application/json", "text/event-stream"}.isdisjoint(content):
            response["content"] = {"application/problem+json": {"schema": {"$ref": _PROBLEM_REF}}}
    headers = response.setdefault("headers", {})
    for name, (description, schema) in _LIMIT_HEADERS.items():
        headers.setdefault(name, {"description": description, "schema": schema})
    if status == "429":
        description = "Seconds after which the same request would pass"
        headers.setdefault("Retry-After", {"description": description, "schema": {"type": "integer", "minimum": 1}})
