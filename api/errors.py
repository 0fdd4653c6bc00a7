"""Errors as the HTTP service answers them: each as RFC 9457 problem details, with the request's id."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

from clickhouse_connect.driver.exceptions import OperationalError
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.responses import Response
from starlette.routing import Match

from schemas.problems import Rejection
from streams.clickhouse.client import ClickHouseError
from streams.http_answers import problem_of, response_of
from streams.state.damage import DamagedError

log = logging.getLogger(__name__)

_METHODS = ("DELETE", "GET", "HEAD", "PATCH", "POST", "PUT")
_CODE_OF_STATUS = {404: "not_found", 405: "method_not_allowed", 413: "body_too_large", 415: "unsupported_media_type"}


class Refused(Rejection):
    """A refusal that was decided by the project's owner; `extra` are its problem's members beside the usual ones."""

    def __init__(self, code: str, detail: str, extra: dict[str, Any], field: str | None = None) -> None:
        super().__init__(code, detail, field)
        self.extra = extra


def problem_of_rejection(request_id: str, rejection: Rejection) -> dict[str, Any]:
    """The members of a rejection's problem."""
    extra = rejection.extra if isinstance(rejection, Refused) else None
    return problem_of(request_id, rejection.code, rejection.detail, field=rejection.field, extra=extra)


def problem_of_failure(request_id: str, error: BaseException) -> dict[str, Any]:
    """The members of the problem `internal_error` for a failure of ours. The failure is logged."""
    log.error("request %s failed", request_id, exc_info=error)
    return problem_of(request_id, "internal_error", "Something went wrong on our side")


def request_id_of(request: Request) -> str:
    """The id that api.middleware.Front gave this request."""
    return str(request.scope.get("meterline.request_id", ""))


def _answer_in_json(_request: Request, problem: dict[str, Any]) -> Response:
    return response_of(problem)


def _methods_of(request: Request) -> list[str]:
    """The methods that a request's path has. Each is a route of its own, and Starlette tells those of one."""

    def has(method: str) -> bool:
        asked = {**request.scope, "method": method}
        return any(route.matches(asked)[0] is Match.FULL for route in request.app.routes)

    return [method for method in _METHODS if has(method)]


def install(app: FastAPI, answer: Callable[[Request, dict[str, Any]], Response] = _answer_in_json) -> None:
    """Make every error of this app a problem, told as `answer` does."""

    def answer_with(request: Request, code: str, detail: str, *, field: str | None = None) -> Response:
        return answer(request, problem_of(request_id_of(request), code, detail, field=field))

    @app.exception_handler(Rejection)
    async def _rejected(request: Request, rejection: Rejection) -> Response:
        return answer(request, problem_of_rejection(request_id_of(request), rejection))

    @app.exception_handler(RequestValidationError)
    async def _invalid(request: Request, error: RequestValidationError) -> Response:
        first = error.errors()[0]
        if first["type"] == "json_invalid":
            return answer_with(request, "malformed_json", "The body is not JSON")
        field = ".".join(str(part) for part in first["loc"] if part != "body")
        return answer_with(request, "invalid_request", f"`{field}`: {first['msg']}", field=field)

    @app.exception_handler(DamagedError)
    async def _damaged(request: Request, error: DamagedError) -> Response:
        log.error("request %s met damage; this process ends, and rebuilds its accounts", request_id_of(request))
        return answer_with(request, "not_ready", "This process rebuilds its copy of the accounts")

    @app.exception_handler(ClickHouseError)
    @app.exception_handler(OperationalError)
    async def _history_away(request: Request, error: Exception) -> Response:
        log.warning("request %s: history can't be asked: %s", request_id_of(request), error)
        return answer_with(request, "history_unavailable", "The history in ClickHouse can't be asked now")

    @app.exception_handler(HTTPException)
    async def _http(request: Request, error: HTTPException) -> Response:
        code = _CODE_OF_STATUS.get(
            error.status_code, "invalid_request" if error.status_code < 500 else "internal_error"
        )
        response = answer_with(request, code, f"{request.method} {request.url.path}: {error.detail}")
        if error.status_code == 405:
            response.headers["allow"] = ", ".join(_methods_of(request))
        return response

    # An error that a route raises is answered further in, by api.middleware.Front. This handler is outside of all our
    # layers, for errors in those.
    @app.exception_handler(Exception)
    async def _failed(request: Request, error: Exception) -> Response:
        response = answer(request, problem_of_failure(request_id_of(request), error))
        response.headers["x-request-id"] = request_id_of(request)
        return response
