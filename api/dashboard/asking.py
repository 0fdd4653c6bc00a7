"""Questions of a page to this process's own API: the same routes, scopes, roles and walls as for anybody else, and no
connection. And parts of the page, before a browser asks for them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any
from urllib.parse import parse_qsl, quote, unquote, urlencode, urlsplit

import orjson
from markupsafe import Markup
from starlette.datastructures import Headers
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from api.callers.calls import begin_inner_call
from api.callers.keys import Caller
from api.dashboard import pages
from api.dashboard.sessions import share_session
from streams.core.foreign import read
from streams.http_answers import request_id_for

# How a problem of the API is told, as its members.
Tell = Callable[[Mapping[str, Any]], Response]


@dataclass(frozen=True, slots=True)
class ShownProblem:
    """The problem that the API answered with, as a page tells it: a title, what is wrong and how to mend it, the code,
    the request's id."""

    status: int
    code: str
    title: str
    detail: str
    field: str = ""
    request_id: str = ""


@dataclass(frozen=True, slots=True)
class ApiAnswer:
    """An answer of the API: `data` of JSON, or a `problem`. True where it has data."""

    status: int
    data: Any = None
    problem: ShownProblem | None = None

    def __bool__(self) -> bool:
        return self.problem is None


@dataclass(frozen=True, slots=True)
class PagePart:
    """A part of a page, which a browser would ask for at `url`; `text` is what it has, or None where the browser is to
    ask, since it was not there in time."""

    url: str
    text: Markup | None = None


class OwnApi:
    """The API, asked by a page for its caller. Paths are those of the API, with their parameters filled in by
    `api_path`; None leaves a query parameter out."""

    def __init__(self, app: ASGIApp, outer: Scope, caller: Caller) -> None:
        self._app, self._outer, self._caller = app, outer, caller

    async def get(self, path: str, **query: Any) -> ApiAnswer:
        """Ask for what is at a path. A parameter whose name is a keyword or has a dot comes in a dict, by `**`."""
        return await self.call("GET", path, query)

    async def parts(self, urls: Mapping[str, str], seconds: float) -> dict[str, PagePart]:
        """Ask for parts of a page, all at once, and wait for them for so long. What is not there by then is given up,
        though a question to the history runs on to its end."""
        asked = {name: asyncio.ensure_future(self._part(url)) for name, url in urls.items()}
        await asyncio.wait(asked.values(), timeout=seconds)
        for part in asked.values():
            part.cancel()
        return {name: PagePart(urls[name], part.result() if _is_there(part) else None) for name, part in asked.items()}

    async def _part(self, url: str) -> Markup | None:
        split = urlsplit(url)
        host = Headers(scope=self._outer).get("host", "")
        scope = self._scope("GET", split.path, dict(parse_qsl(split.query)), {"hx-request": "true", "host": host})
        share_session(self._outer, scope)
        sent: list[Message] = []

        async def send(message: Message) -> None:
            sent.append(message)

        await self._app(scope, _receive(b""), send)
        # One that leads elsewhere is for the browser to follow.
        if "hx-redirect" in Headers(raw=sent[0]["headers"]):
            return None
        return Markup(b"".join(each.get("body", b"") for each in sent[1:]).decode())

    async def call(
        self, method: str, path: str, query: Mapping[str, Any] | None = None, body: Any = None, key: str = ""
    ) -> ApiAnswer:
        """Make a call, with a body as JSON where there is one, under an Idempotency-Key where `key` is one."""
        sent: list[Message] = []

        async def send(message: Message) -> None:
            sent.append(message)

        headers = {"accept": "application/json"} | ({"idempotency-key": key} if key else {})
        content = b"" if body is None else orjson.dumps(body)
        if body is not None:
            headers["content-type"] = "application/json"
        scope = self._scope(method, path, query or {}, headers)
        await self._app(scope, _receive(content), send)
        status: int = sent[0]["status"]
        answer = b"".join(each.get("body", b"") for each in sent[1:])
        data = read(orjson.loads, answer) if answer else None
        if status < 400:
            return ApiAnswer(status, data)
        return ApiAnswer(status, problem=_problem(status, data if isinstance(data, dict) else {}))

    async def lines(self, method: str, path: str, body: Any) -> ApiAnswer | AsyncIterator[Any]:
        """Make a call that answers with JSON lines, and give them as they come; or the answer that has a problem. The
        call ends once nobody reads the lines."""
        pieces: asyncio.Queue[Message] = asyncio.Queue(maxsize=16)
        headers = {"accept": "application/x-ndjson", "content-type": "application/json"}
        scope = self._scope(method, path, {}, headers)
        running = asyncio.ensure_future(self._app(scope, _receive_until_left(orjson.dumps(body)), pieces.put))
        # An answer always begins: what fails in a route is a problem.
        status: int = (await pieces.get())["status"]
        if status < 400:
            return _lines_of(pieces, running)
        answer = b""
        while (piece := await pieces.get()).get("more_body", False):
            answer += piece.get("body", b"")
        data = read(orjson.loads, answer + piece.get("body", b""))
        await running
        return ApiAnswer(status, problem=problem_of_answer(data if isinstance(data, dict) else {}))

    def passed_on(self, path: str, query: Mapping[str, Any], accept: str, told: Tell) -> Response:
        """The API's answer to a GET as the answer to the page's own request: a file, as it comes, under the headers of
        pages; what is refused as `told`."""
        return _PassedOn(self._app, self._scope("GET", path, query, {"accept": accept}), told)

    def _scope(self, method: str, path: str, query: Mapping[str, Any], headers: Mapping[str, str]) -> Scope:
        given = [(name, _text(value)) for name, value in query.items() if value not in (None, "")]
        scope: Scope = {
            "type": "http",
            "asgi": self._outer.get("asgi", {"version": "3.0"}),
            "http_version": "1.1",
            "method": method,
            "scheme": self._outer.get("scheme", "http"),
            "path": unquote(path),
            "raw_path": path.encode(),
            "root_path": "",
            "query_string": urlencode(given).encode(),
            "headers": [(name.encode(), value.encode("latin-1", "replace")) for name, value in headers.items()],
            "client": self._outer.get("client"),
            "server": self._outer.get("server"),
        }
        request_id_for(scope)
        begin_inner_call(scope, self._caller)
        return scope


class _PassedOn(Response):
    def __init__(self, app: ASGIApp, inner: Scope, told: Tell) -> None:
        super().__init__()
        self._app, self._inner, self._told = app, inner, told

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        is_refused, problem = False, b""

        async def passed(message: Message) -> None:
            nonlocal is_refused, problem
            if message["type"] == "http.response.start":
                is_refused = message["status"] >= 400
                # A file is as private as its page: no cache on the way may keep it, by its name's end or otherwise.
                headers = Headers(raw=message["headers"])
                more = {name: value for name, value in pages.HEADERS.items() if name not in headers}
                message = {**message, "headers": [*headers.raw, *Headers(more).raw]}
            if not is_refused:
                await send(message)
            elif message["type"] == "http.response.body":
                problem += message.get("body", b"")

        await self._app(self._inner, receive, passed)
        if is_refused:
            await self._told(read(orjson.loads, problem))(scope, receive, send)


def _is_there(part: asyncio.Future[Markup | None]) -> bool:
    return part.done() and not part.cancelled() and part.exception() is None


def api_path(template: str, **parameters: str) -> str:
    """A path of the API with its parameters filled in, each as one segment."""
    return template.format(**{name: quote(value, safe="") for name, value in parameters.items()})


def _receive(content: bytes) -> Receive:
    async def receive() -> Message:
        return {"type": "http.request", "body": content, "more_body": False}

    return receive


def _receive_until_left(content: bytes) -> Receive:
    """A receive that gives a body, and then waits: whoever listens for the reader's leaving is cancelled with it."""
    given: list[Message] = [{"type": "http.request", "body": content, "more_body": False}]

    async def receive() -> Message:
        if given:
            return given.pop()
        await asyncio.Event().wait()
        return {"type": "http.disconnect"}

    return receive


async def _lines_of(pieces: asyncio.Queue[Message], running: asyncio.Future[None]) -> AsyncIterator[Any]:
    rest = b""
    try:
        while True:
            piece = await pieces.get()
            *lines, rest = (rest + piece.get("body", b"")).split(b"\n")
            for line in lines:
                yield read(orjson.loads, line)
            if not piece.get("more_body", False):
                return
    finally:
        running.cancel()


def _text(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def problem_of_answer(data: Mapping[str, Any]) -> ShownProblem:
    """The problem that an answer's data tells."""
    return _problem(int(data.get("status", 500)), data)


def _problem(status: int, data: Mapping[str, Any]) -> ShownProblem:
    title = data.get("title") or HTTPStatus(status).phrase
    return ShownProblem(
        status,
        str(data.get("code", "")),
        str(title),
        str(data.get("detail", "")),
        str(data.get("field") or ""),
        str(data.get("instance", "")),
    )
