"""What every HTTP answer of ours has, the API's and a gateway's: a request id, and RFC 9457 problems for errors."""

from __future__ import annotations

import re
import secrets
from typing import Any

from starlette.datastructures import Headers
from starlette.responses import Response
from starlette.types import Scope

from schemas.problems import CODES, PROBLEM_TYPE_BASE, EventError, Problem
from streams.codecs import encode_json

_REQUEST_ID = re.compile(r"[A-Za-z0-9._:-]{1,128}")


def request_id_for(scope: Scope) -> str:
    """The request's well-formed x-request-id, or a new one; kept in the scope."""
    given = Headers(scope=scope).get("x-request-id", "")
    request_id = given if _REQUEST_ID.fullmatch(given) else f"req_{secrets.token_hex(8)}"
    scope["meterline.request_id"] = request_id
    return request_id


def problem_response(
    request_id: str,
    code: str,
    detail: str,
    *,
    field: str | None = None,
    errors: list[EventError] | None = None,
    extra: dict[str, Any] | None = None,
    headers: dict[str, str] | None = None,
) -> Response:
    """The answer for an error code. `extra` are members of this problem type alone, `headers` of this answer."""
    kind = CODES[code]
    problem = problem_of(request_id, code, detail, field=field, errors=errors)
    headers = dict(headers or {}) | ({"www-authenticate": "Bearer"} if kind.status == 401 else {})
    if kind.status == 503:
        headers["retry-after"] = "1"
    body = problem.model_dump(exclude_none=True) | (extra or {})
    return Response(encode_json(body), kind.status, headers, "application/problem+json")


def problem_of(
    request_id: str, code: str, detail: str, *, field: str | None = None, errors: list[EventError] | None = None
) -> Problem:
    """What an error code says, with its remedy."""
    kind = CODES[code]
    return Problem(
        type=PROBLEM_TYPE_BASE + code,
        title=kind.title,
        status=kind.status,
        code=code,
        detail=f"{detail.rstrip('.')}. {kind.remedy}",
        instance=request_id,
        field=field,
        errors=errors,
    )
