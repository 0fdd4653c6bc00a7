"""Ports: one process serves several ASGI apps, each on a port of its own."""

from __future__ import annotations

from collections.abc import Mapping

from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from starlette.applications import Starlette
from starlette.datastructures import State
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send


class ByPort:
    """An ASGI app that serves other apps on their ports, and the main one, with its start and stop, on every other."""

    def __init__(self, main: ASGIApp, others: Mapping[int, ASGIApp]) -> None:
        self._main = main
        self._others = others

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one request, by the port that it came to."""
        app = self._main
        if scope["type"] != "lifespan":
            app = self._others.get(scope["server"][1], app)
        await app(scope, receive, send)


def metrics_app(state: State) -> Starlette:
    """An app that has `/metrics` and nothing else, from the registry in `state`."""

    async def metrics(_request: Request) -> Response:
        return Response(generate_latest(state.metrics), media_type=CONTENT_TYPE_LATEST)

    return Starlette(routes=[Route("/metrics", metrics)])
