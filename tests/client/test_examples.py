"""The example of docs/gateways.md that handles 402 and 429, against a server that gives both."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import pytest
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from streams.client import HttpAdmissions
from streams.embedded import lifeline
from streams.http_answers import problem_response
from tests.docs_blocks import blocks_of

WINDOW = {"X-RateLimit-Limit": "30", "X-RateLimit-Remaining": "0", "X-RateLimit-Reset": "0"}


def example() -> dict[str, Any]:
    """The names of the example, whose import is of the distribution's one name."""
    (block,) = [each for each in blocks_of("docs/gateways.md") if each.file_name == "ask.py"]
    names: dict[str, Any] = {"__name__": "ask"}
    exec(block.text.replace("from meterline import", "from streams.client import"), names)
    return names


@pytest.mark.parametrize("last", ["out_of_credits", ""])
def test_a_429_is_waited_for_and_a_402_is_told(last: str, capsys: pytest.CaptureFixture[str]) -> None:
    asked: list[tuple[float, str]] = []

    async def admissions(request: Request) -> Response:
        asked.append((time.monotonic(), request.headers["idempotency-key"]))
        if len(asked) == 1:
            return problem_response("r", "rate_limited", "Full", headers=WINDOW | {"Retry-After": "1"})
        if last:
            return problem_response("r", last, "image costs 32 credits; 10 are available")
        return Response('{"credits": "32"}', media_type="application/json")

    async def scenario() -> tuple[int, str]:
        port = lifeline.free_port()
        app = Starlette(routes=[Route("/v1/admissions", admissions, methods=["POST"])])
        server = uvicorn.Server(uvicorn.Config(app, port=port, log_level="error"))
        serving = asyncio.create_task(server.serve())
        while not server.started:
            await asyncio.sleep(0.01)
        async with HttpAdmissions(f"http://127.0.0.1:{port}", "k") as client:
            decision = await example()["ask"](client, "p", "image", "order-1")
        server.should_exit = True
        await serving
        return decision.status, decision.code

    assert asyncio.run(scenario()) == ((402, last) if last else (200, ""))
    (first, key), (second, again) = asked
    # Retry-After, and up to a second more so that callers come back apart.
    assert 1 <= second - first < 4
    assert key == again == "order-1"
    told = capsys.readouterr().out
    assert told == ("Top up, or upgrade: image costs 32 credits; 10 are available\n" if last else "")
