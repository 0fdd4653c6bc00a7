"""HTTP answers of the API and of gateways: their request ids, and their errors, which are RFC 9457 problems."""

from __future__ import annotations

import re
import secrets
from collections.abc import Container
from typing import Any

import msgspec
from starlette.responses import Response
from starlette.types import Scope

from schemas.facts import is_decision_id
from schemas.problems import CODES, PROBLEM_TYPE_BASE, Rejection
from streams.core.replies import check_key

_encode_json = msgspec.json.Encoder().encode
_REQUEST_ID = re.compile(r"[A-Za-z0-9._:-]{1,128}")
# Of two headers of these names each program between a caller and us could take another one.
_SINGLE = {b"authorization": "Authorization", b"content-type": "Content-Type", b"idempotency-key": "Idempotency-Key"}


def check_headers(scope: Scope, names: Container[bytes] = _SINGLE) -> None:
    """Check that a request has at most one of each header of which only one makes sense, and that its Idempotency-Key,
    if any, can be one; with `names`, only these. Raises Rejection `invalid_request`, which names the header."""
    found: dict[bytes, bytes] = {}
    for name, value in scope["headers"]:
        if name in names:
            if name in found:
                header = _SINGLE[name]
                raise Rejection("invalid_request", f"`{header}` is there more than once; send one", header)
            found[name] = value
    if b"idempotency-key" in found:
        check_key(found[b"idempotency-key"].decode("latin-1"))


def request_id_for(scope: Scope) -> str:
    """The id of a request: its own x-request-id if there is one, and well-formed, or a new one. Puts the id into the
    scope. One that looks like the id of a decision is not taken: each leads to its own receipt."""
    given = [value.decode("latin-1") for name, value in scope["headers"] if name == b"x-request-id"]
    is_taken = len(given) == 1 and _REQUEST_ID.fullmatch(given[0]) and not is_decision_id(given[0])
    request_id = given[0] if is_taken else f"req_{secrets.token_hex(8)}"
    scope["meterline.request_id"] = request_id
    return request_id


def problem_of(
    request_id: str,
    code: str,
    detail: str,
    *,
    field: str | None = None,
    errors: list[dict[str, Any]] | None = None,
    extra: dict[str, Any] | None = None,
) -> dict[str, Any]:
    """The members of the problem that tells of an error, in the API's words: what is wrong, and the code's remedy.
    `extra` are the members of this problem type alone."""
    kind = CODES[code]
    told = f"{detail.rstrip('.')}. {kind.remedy}"
    return problem_told(request_id, code, kind.title, told, field=field, errors=errors, extra=extra)


def problem_told(
    request_id: str,
    code: str,
    title: str,
    detail: str,
    *,
    field: str | None = None,
    errors: list[dict[str, Any]] | None = None,
    extra: dict[str, Any] | None = None,
) -> dict[str, Any]:
    """The members of the problem that tells of an error in these words: `schemas.http.problems.Problem`, made without
    pydantic, which a gateway's service need not have. See `problem_of`."""
    problem: dict[str, Any] = {
        "type": PROBLEM_TYPE_BASE + code,
        "title": title,
        "status": CODES[code].status,
        "code": code,
        "detail": detail,
        "instance": request_id,
    }
    if field is not None:
        problem["field"] = field
    if errors is not None:
        problem["errors"] = errors
    return problem | (extra or {})


def response_of(problem: dict[str, Any], headers: dict[str, str] | None = None) -> Response:
    """The answer with a problem; `headers` are added to those of its status."""
    of_status = {401: {"www-authenticate": "Bearer"}, 503: {"retry-after": "1"}}.get(problem["status"], {})
    return Response(_encode_json(problem), problem["status"], (headers or {}) | of_status, "application/problem+json")


def problem_response(
    request_id: str,
    code: str,
    detail: str,
    *,
    field: str | None = None,
    errors: list[dict[str, Any]] | None = None,
    extra: dict[str, Any] | None = None,
    headers: dict[str, str] | None = None,
) -> Response:
    """The answer with the problem that tells of an error; see `problem_of`."""
    return response_of(problem_of(request_id, code, detail, field=field, errors=errors, extra=extra), headers)
