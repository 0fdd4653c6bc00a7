"""Parts of a page: those that are there soon come with it, and the browser asks for the others."""

from __future__ import annotations

import asyncio
import time

from markupsafe import Markup
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from api.callers.keys import Caller
from api.dashboard.asking import OwnApi, PagePart
from api.dashboard.sessions import Session, session_of, share_session

_CALLER = Caller("acme", "key_1", "production", ("*",))
_SESSION = Session("id", "acme", "key_1", "production", 2**40)


def test_parts_that_are_late_fail_or_lead_elsewhere_are_left_to_the_browser() -> None:
    asyncio.run(_ask_for_parts())


async def _ask_for_parts() -> None:
    was_left = asyncio.Event()

    async def quick(request: Request) -> Response:
        assert session_of(request.scope) == _SESSION and request.headers["hx-request"] == "true"
        return PlainTextResponse(f"{request.query_params['a']} of {request.base_url}")

    async def late(_: Request) -> Response:
        try:
            await asyncio.Event().wait()
        finally:
            was_left.set()
        raise AssertionError

    async def failing(_: Request) -> Response:
        raise RuntimeError("not today")

    async def elsewhere(_: Request) -> Response:
        return Response(headers={"hx-redirect": "/dashboard/sign-in"})

    routes = [Route(f"/{each.__name__}", each) for each in (quick, late, failing, elsewhere)]
    scope = {"type": "http", "headers": [(b"host", b"meter.example")], "scheme": "https"}
    share_session({"meterline.session": _SESSION}, scope)
    api = OwnApi(Starlette(routes=routes), scope, _CALLER)
    urls = {"quick": "/quick?a=%3Cb%3E%26", "late": "/late", "failing": "/failing", "elsewhere": "/elsewhere"}
    began = time.monotonic()
    parts = await api.parts(urls, 0.5)
    assert 0.5 <= time.monotonic() - began < 5
    assert parts.pop("quick") == PagePart(urls["quick"], Markup("<b>& of https://meter.example/"))
    assert parts == {name: PagePart(urls[name]) for name in ("late", "failing", "elsewhere")}
    await asyncio.wait_for(was_left.wait(), 5)
