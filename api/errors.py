"""Every error as RFC 9457 problem details, with the request's id."""

from __future__ import annotations

import logging

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.responses import Response

from schemas.problems import Rejection
from streams.problems import problem_of, problem_response

__all__ = ["install", "problem_of", "problem_response", "request_id_of"]

log = logging.getLogger(__name__)

_CODE_OF_STATUS = {404: "not_found", 405: "method_not_allowed", 413: "body_too_large", 415: "unsupported_media_type"}


def request_id_of(request: Request) -> str:
    """The id that RequestIds gave this request."""
    return str(request.scope.get("meterline.request_id", ""))


def install(app: FastAPI) -> None:
    """Make every error of this app a problem."""

    @app.exception_handler(Rejection)
    async def _rejected(request: Request, rejection: Rejection) -> Response:
        return problem_response(request_id_of(request), rejection.code, rejection.detail, field=rejection.field)

    @app.exception_handler(RequestValidationError)
    async def _invalid(request: Request, error: RequestValidationError) -> Response:
        first = error.errors()[0]
        if first["type"] == "json_invalid":
            return problem_response(request_id_of(request), "malformed_json", "The body is not JSON")
        field = ".".join(str(part) for part in first["loc"] if part != "body")
        return problem_response(request_id_of(request), "invalid_request", f"`{field}`: {first['msg']}", field=field)

    @app.exception_handler(HTTPException)
    async def _http(request: Request, error: HTTPException) -> Response:
        code = _CODE_OF_STATUS.get(
            error.status_code, "invalid_request" if error.status_code < 500 else "internal_error"
        )
        return problem_response(request_id_of(request), code, f"{request.method} {request.url.path}: {error.detail}")

    @app.exception_handler(Exception)
    async def _failed(request: Request, error: Exception) -> Response:
        log.error("request %s failed", request_id_of(request), exc_info=error)
        return problem_response(request_id_of(request), "internal_error", "Something went wrong on our side")
