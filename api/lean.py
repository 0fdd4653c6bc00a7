"""Lean routes: some calls come thousands of times a second, and have nothing on their way that they do not need.
FastAPI reads their signatures all the same, and documents them."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Coroutine, Iterable, Mapping
from typing import Any

from fastapi import Request
from fastapi.dependencies.models import Dependant
from fastapi.exceptions import RequestValidationError
from fastapi.params import Param, ParamTypes
from fastapi.routing import APIRoute
from fastapi.security.base import SecurityBase
from starlette.requests import ClientDisconnect
from starlette.responses import Response
from starlette.routing import BaseRoute
from starlette.types import ASGIApp, Receive, Scope, Send

_PARAMETERS = (ParamTypes.query, ParamTypes.header)


class LeanRoute(APIRoute):
    """A LeanRoute reads the same signature as FastAPI, but only what our signatures have: dependencies that are
    coroutines, and optional query parameters and headers of the endpoint itself. The endpoint returns its answer as
    JSON's bytes.

    FastAPI's own way looks for all that a signature could have, again for each request; that took longer than to
    decide on an admission.
    """

    def __init__(self, path: str, endpoint: Callable[..., Any], **options: Any) -> None:
        super().__init__(path, endpoint, **options)
        self._parameters = [_Parameter(each) for each in (*self.dependant.query_params, *self.dependant.header_params)]
        _check_nothing_else(self.dependant)

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """The handler that FastAPI's router calls, for a request whose route LeanRoutes has not found."""

        async def answered(request: Request) -> Response:
            return Response(await self.answer(request), media_type="application/json")

        return answered

    async def answer(self, request: Request) -> bytes:
        """The endpoint's answer to a request. Raises what the dependencies and the endpoint raise, and
        RequestValidationError where a parameter is not valid."""
        arguments = await _solved(self.dependant, request)
        errors: list[Any] = []
        for parameter in self._parameters:
            parameter.read(request, arguments, errors)
        if errors:
            raise RequestValidationError(errors)
        answer: bytes = await self.endpoint(**arguments)
        return answer


class LeanRoutes:
    """LeanRoutes is the layer that finds lean routes by method and path; all other requests go on to FastAPI's router,
    which tries one pattern after the other."""

    def __init__(self, app: ASGIApp, routes: Iterable[BaseRoute]) -> None:
        self.app = app
        lean = [route for route in routes if isinstance(route, LeanRoute)]
        self._routes = {(method, route.path): route for route in lean for method in route.methods or ()}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one request."""
        route = self._routes.get((scope["method"], scope["path"])) if scope["type"] == "http" else None
        if route is None:
            await self.app(scope, receive, send)
            return
        scope["route"] = route
        request = Request(scope, receive)
        try:
            body = await route.answer(request)
        except Exception as error:
            handler = _handler_of(scope["app"].exception_handlers, error)
            if handler is None:
                raise
            response: Response = await handler(request, error)
            await response(scope, receive, send)
            return
        headers = [(b"content-length", b"%d" % len(body)), (b"content-type", b"application/json")]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": body})


async def body_of(request: Request) -> bytes:
    """The body of a request, which nobody else reads. Raises ClientDisconnect."""
    pieces = []
    while True:
        message = await request.receive()
        if message["type"] == "http.disconnect":
            raise ClientDisconnect
        pieces.append(message.get("body", b""))
        if not message.get("more_body", False):
            return b"".join(pieces)


class _Parameter:
    """An optional query parameter or header, read and checked as FastAPI does; the endpoint's own default stands for
    one that is not there."""

    def __init__(self, field: Any) -> None:
        info = field.field_info
        assert isinstance(info, Param) and not info.is_required(), f"{field.name} is no optional parameter"
        self._field = field
        self._is_query = info.in_ is ParamTypes.query
        self._place = (info.in_.value, field.alias)

    def read(self, request: Request, arguments: dict[str, Any], errors: list[Any]) -> None:
        """Add the parameter's value to `arguments`, or to `errors` what is wrong with it."""
        if self._is_query:
            given = request.query_params.get(self._field.alias) if request.scope["query_string"] else None
        else:
            given = request.headers.get(self._field.alias)
        if given is None:
            return
        value, wrong = self._field.validate(given, loc=self._place)
        if wrong:
            errors += wrong
        else:
            arguments[self._field.name] = value


async def _solved(dependant: Dependant, request: Request) -> dict[str, Any]:
    """The arguments that are no parameters: the request, and what dependencies return."""
    arguments: dict[str, Any] = {}
    if dependant.request_param_name:
        arguments[dependant.request_param_name] = request
    for each in dependant.dependencies:
        if each.name is None or each.call is None:
            continue
        # A security scheme is there for the document: api.middleware has found the caller.
        is_scheme = isinstance(each.call, SecurityBase)
        arguments[each.name] = None if is_scheme else await each.call(**await _solved(each, request))
    return arguments


def _check_nothing_else(dependant: Dependant, *, is_endpoint: bool = True) -> None:
    """Assert that a signature has nothing that a lean route would pass over."""
    passed_over = [dependant.path_params, dependant.cookie_params, dependant.body_params]
    if not is_endpoint:
        passed_over += [dependant.query_params, dependant.header_params]
    assert not any(passed_over), f"{dependant.call} has parameters that a lean route does not read"
    for each in dependant.dependencies:
        assert each.name is not None, f"{dependant.call} has a dependency without a name"
        _check_nothing_else(each, is_endpoint=False)


def _handler_of(
    handlers: Mapping[Any, Callable[..., Any]], error: Exception
) -> Callable[[Request, Exception], Awaitable[Response]] | None:
    """The app's own handler of this error; None where only that for all errors is left, which is outside of our
    layers."""
    kinds = (kind for kind in type(error).__mro__ if kind in handlers and kind is not Exception)
    return next((handlers[kind] for kind in kinds), None)
