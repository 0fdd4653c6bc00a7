"""A rehearsal on a page: a stream of fragments, which tell its progress and at last its result."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from typing import Any

from starlette.responses import Response, StreamingResponse

from api.dashboard import pages
from api.dashboard.asking import ApiAnswer, problem_of_answer
from api.dashboard.view import View, sessions_of


async def rehearsed(view: View, path: str, asked: Mapping[str, Any], template: str, **context: Any) -> Response:
    """Ask the API for a rehearsal, and stream the template with its `done` of `all`, and at last its `result` or
    `problem`, as server-sent events. What is refused at once is told the same way."""
    lines = await view.api.lines("POST", path, asked)
    if isinstance(lines, ApiAnswer):
        return view.fragment(template, status=lines.status, problem=lines.problem, result=None, **context)
    return StreamingResponse(_fragments(view, lines, template, context), 200, pages.HEADERS, "text/event-stream")


async def _fragments(
    view: View, lines: AsyncIterator[Mapping[str, Any]], template: str, context: Mapping[str, Any]
) -> AsyncIterator[bytes]:
    async for line in lines:
        if sessions_of(view.request).is_signed_out(view.session):
            return
        text = view.rendered(
            template,
            done=line.get("done", 0),
            all=line.get("all", 0),
            result=line.get("result"),
            problem=problem_of_answer(line["problem"]) if line.get("problem") else None,
            **context,
        )
        yield b"".join(b"data: " + part.encode() + b"\n" for part in text.splitlines()) + b"\n"
