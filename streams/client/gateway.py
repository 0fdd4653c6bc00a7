"""The gateway is plain ASGI middleware: a request runs once Meterline has admitted it, and is charged by its outcome.

    app = Gateway(
        service,
        admissions=KafkaAdmissions(settings),
        producer=KafkaProducer(settings),
        routes=[Route("POST", "/v1/images", operation="image")],
        project_of=lambda scope: scope["state"]["project"],
    )

A refused request is answered here, with a problem and the limit headers, and never reaches the service. An admitted
request has its `Charge` in `scope["meterline"]`. An answer below 500 captures the request's hold: a failure that is the
client's own is charged. An answer of 500 or more, or an exception, releases the hold.

A client's own `Idempotency-Key` names the usage event, together with the request's method, path and details: a request
sent again is charged once. A repeat of a released request runs again. A repeat of a charged one gets the answer of the
first time (see `streams.client.replayed_answers`), or a 409 where it is not kept. Where `repeats` is "run" it runs
again for nothing; use that only before a service that itself tells a repeat by its key.
"""

from __future__ import annotations

import asyncio
import inspect
import logging
import secrets
import sqlite3
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from decimal import Decimal
from hashlib import blake2b
from types import TracebackType
from typing import Any, Literal, Self, cast

import msgspec
from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Match
from starlette.routing import Route as StarletteRoute
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from schemas.events import Name
from schemas.problems import CODES, Rejection
from streams.client.admissions import Admissions, Decision, Details, MeterlineAway
from streams.client.amounts import credits_of
from streams.client.arguments import ArgumentError, check
from streams.client.away import Away
from streams.client.away_journal import Asked, Outcome
from streams.client.charges import Charge, quantity_of
from streams.client.customer_words import decided_words, own_words
from streams.client.producer import Producer
from streams.client.replayed_answers import Exchange, ReplayedAnswers
from streams.client.routes import DETAIL_FIELDS, Computed, Route, known
from streams.http_answers import check_headers, problem_told, request_id_for, response_of

log = logging.getLogger(__name__)

_encode_json = msgspec.json.Encoder().encode

_OWED_MAX = 10_000
_EVENTS_SENDING_MAX = 10_000
_STOP_SECONDS_MAX = 10.0
# The code for a repeat of a request that was charged.
_REPEATED = "idempotency_reply_expired"


@dataclass(slots=True)
class _Run:
    """The course of a request, as the gateway saw it while it ran."""

    exchange: Exchange
    status: int | None = None
    is_complete: bool = False
    is_disconnected: bool = False
    has_failed: bool = False

    def outcome(self) -> Outcome:
        """The outcome by the service's answer: a capture for one below 500 that the service did not break off, else a
        release. A client that goes away is no failure of the platform's."""
        if self.status is None:
            return "capture" if self.is_disconnected and not self.has_failed else "release"
        is_cut = self.has_failed and not self.is_complete and not self.is_disconnected
        return "release" if self.status >= 500 or is_cut else "capture"

    def receiving(self, receive: Receive) -> Receive:
        async def receive_noted() -> Message:
            message = await receive()
            if message["type"] == "http.disconnect" and not self.is_complete:
                self.is_disconnected = True
            self.exchange.note_request(message)
            return message

        return receive_noted

    def sending(self, send: Send) -> Send:
        async def send_noted(message: Message) -> None:
            if message["type"] == "http.response.start":
                self.status = message["status"]
            self.exchange.note_answer(message)
            try:
                await send(message)
            except OSError:
                self.is_disconnected = True
                raise
            if message["type"] == "http.response.body" and not message.get("more_body", False):
                self.is_complete = True

        return send_noted


class Gateway:
    """A Gateway stands before a service: it admits requests, and charges them by their outcome. It starts and stops
    `admissions`, `producer` and `away` with the service's lifespan, or with `async with` where the service has none.

    `project_of` gives the project of a request's scope, or "" where there is none: then a request of a route
    gets 401, and any other passes. The first route that matches counts. A request that matches none is admitted as the
    operation `read` (GET, HEAD) or `write`, which cost nothing and count as requests, unless `others` is "pass".
    WebSockets pass. `source` is the source of the usage events. Raises ArgumentError for what can't be.
    """

    def __init__(
        self,
        app: ASGIApp,
        *,
        admissions: Admissions,
        routes: Sequence[Route],
        project_of: Callable[[Scope], str | Awaitable[str]],
        producer: Producer | None = None,
        away: Away | None = None,
        others: Literal["count", "pass"] = "count",
        repeats: Literal["refuse", "run"] = "refuse",
        source: str = "/gateway",
    ) -> None:
        check("others", others, Literal["count", "pass"])
        check("repeats", repeats, Literal["refuse", "run"])
        check("source", source, Name)
        for route in routes:
            if not isinstance(route, Route):
                raise ArgumentError("routes", f"{route!r:.80} is no Route")
        self._app = app
        self._admissions = admissions
        self._routes = [(route, StarletteRoute(route.path, _nowhere, methods=[route.method])) for route in routes]
        self._project_of = project_of
        self._producer = producer
        self.away = away or Away()
        self._others = others
        self._repeats = repeats
        self._source = source
        self._running: set[tuple[str, str]] = set()
        self._answers = ReplayedAnswers()
        # Requests that were charged, and not answered well: the next repeat is paid for.
        self._owed: OrderedDict[tuple[str, str], None] = OrderedDict()
        self._finishing: set[asyncio.Task[None]] = set()
        self._sending: set[asyncio.Task[None]] = set()
        self._parts = AsyncExitStack()

    async def __aenter__(self) -> Self:
        await self._parts.enter_async_context(self._admissions)
        if self._producer is not None:
            producer = self._producer
            self._parts.push_async_callback(_stopped, producer)
            try:
                await producer.__aenter__()
            except Exception as error:
                log.warning("the producer is not connected yet: %r", error)
        try:
            await self.away.start(self._admissions, self._producer)
        except BaseException:
            await self._parts.aclose()
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._finishing or self._sending:
            await asyncio.wait(self._finishing | self._sending, timeout=_STOP_SECONDS_MAX)
        await self.away.stop()
        await self._parts.aclose()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one ASGI connection. HTTP requests other than OPTIONS are admitted first; all else passes."""
        if scope["type"] == "lifespan":
            await self._lifespan(scope, receive, send)
        elif scope["type"] == "http" and scope["method"] != "OPTIONS":
            await self._request(scope, receive, send)
        else:
            await self._app(scope, receive, send)

    async def _request(self, scope: Scope, receive: Receive, send: Send) -> None:
        request_id = request_id_for(scope)
        send = _with_headers(send, {"x-request-id": request_id})
        project = self._project_of(scope)
        if not isinstance(project, str):
            project = await project
        route, parameters = self._route_of(scope)
        if route is None or (not project and route in (_READ, _WRITE)):
            await self._app(scope, receive, send)
            return
        try:
            if not project:
                raise Rejection("unauthenticated", "Who sends this request is not known")
            asked, is_named, receive = await self._asked({**scope, "path_params": parameters}, receive, project, route)
            if (project, asked.id) in self._running:
                raise Rejection("already_running", "A request with this Idempotency-Key is running")
        except ArgumentError:
            # The platform's own code is at fault, and no customer could mend it.
            raise
        except Rejection as rejection:
            await (await self._rejected(request_id, project, rejection))(scope, receive, send)
            return
        self._running.add((project, asked.id))
        try:
            decision, entry = await self._decision(asked, is_named)
            if decision.allowed:
                await self._run(scope, receive, send, asked, is_named, decision, entry)
            else:
                await self._refuse(request_id, asked, decision, scope, receive, send)
        finally:
            self._running.discard((project, asked.id))

    async def _rejected(self, request_id: str, project: str, rejection: Rejection) -> Response:
        """The answer to a request that is not asked about. It counts as one of its project's all the same, if there is
        a project, and Meterline is there to count it."""
        headers: dict[str, str] = {}
        if project and not self.away.is_silent:
            request = f"req:{secrets.token_hex(12)}"
            counted = Asked(
                project=project,
                operation=_WRITE.operation,
                id=request,
                source=self._source,
                idempotency_key=f"gateway:{request}",
                occurred_at=datetime.now(UTC).isoformat(),
            )
            try:
                decision = await self.away.ask(counted)
                if decision.code == "rate_limited":
                    return _refusal(request_id, decision)
                headers = decision.headers()
            except MeterlineAway as error:
                log.warning("a request of project %s is not counted: %s", project, error)
        if rejection.code == "already_running":
            headers["Retry-After"] = "1"
        return _rejection(request_id, rejection, headers)

    async def _refuse(
        self, request_id: str, asked: Asked, decision: Decision, scope: Scope, receive: Receive, send: Send
    ) -> None:
        """Answer a request that may not run: a repeat of one that was charged by the answer of the first time."""
        try:
            is_repeat = decision.code == _REPEATED
            kept = await self._answers.answer_to((asked.project, asked.id), scope, receive) if is_repeat else None
        except Rejection as rejection:
            await _rejection(request_id, rejection, decision.headers())(scope, receive, send)
            return
        if kept is None:
            await _refusal(request_id, decision)(scope, receive, send)
            return
        send = _with_headers(send, decision.headers() | {"idempotent-replayed": "true"})
        await send({"type": "http.response.start", "status": kept.status, "headers": kept.headers})
        await send({"type": "http.response.body", "body": kept.body})

    def _route_of(self, scope: Scope) -> tuple[Route | None, dict[str, Any]]:
        """The first route that matches a request, with its path's parameters. Where none does, `_READ` or `_WRITE`, or
        None where such a request passes."""
        for route, matcher in self._routes:
            match, child_scope = matcher.matches(scope)
            if match is Match.FULL:
                return route, child_scope["path_params"]
        if self._others == "pass":
            return None, {}
        return _READ if scope["method"] in ("GET", "HEAD") else _WRITE, {}

    async def _asked(self, scope: Scope, receive: Receive, project: str, route: Route) -> tuple[Asked, bool, Receive]:
        """The question to Meterline about a request, whether the client gave the request a key, and a `receive` that
        has the body for the service to read. Raises Rejection."""
        check_headers(scope, (b"idempotency-key",))
        key = Headers(scope=scope).get("idempotency-key", "")
        computed, receive = await _computed(route, scope, receive)
        details = {name: computed[name] for name in DETAIL_FIELDS if computed.get(name) is not None}
        said = {name: value for name, value in computed.items() if name not in DETAIL_FIELDS}
        event_id = f"req:{secrets.token_hex(12)}"
        if key:
            # Another request under the same key is another event: it must not run for nothing.
            where = (scope["method"], scope["path"], scope["query_string"].decode("latin-1"))
            what = (route.operation, said.get("environment"), sorted(details.items()))
            event_id = f"key:{blake2b(_encode_json((key, where, what)), digest_size=16).hexdigest()}"
        if route.hold:
            said = {"hold": True, "hold_seconds": route.hold_seconds, "job_id": event_id} | said
        asked = Asked(
            project=project,
            operation=route.operation,
            id=event_id,
            source=self._source,
            idempotency_key=f"gateway:{secrets.token_hex(12)}",
            occurred_at=datetime.now(UTC).isoformat(),
            details=cast(Details, details),
            **said,
        )
        return asked, bool(key), receive

    async def _decision(self, asked: Asked, is_named: bool) -> tuple[Decision, int | None]:
        """The decision on a request, and the number of its entry in the away journal where the gateway itself admitted
        it."""
        undecided = Decision(
            status=200,
            code="",
            detail="",
            project=asked.project,
            operation=asked.operation,
            credits=Decimal(0),
            available=Decimal(0),
            entry_id="",
            offset=-1,
        )
        if self._repeats == "refuse" and self.away.has_succeeded(asked):
            return _repeated(undecided), None
        self.away.take_up(asked)
        if self.away.is_silent and (leased := await self.away.admit(asked)) is not None:
            return _leased(undecided, *leased)
        try:
            decision = await self.away.ask(asked)
        except MeterlineAway as error:
            if (leased := await self.away.admit(asked)) is not None:
                return _leased(undecided, *leased)
            log.warning("a request of project %s is refused, since there is no decision: %s", asked.project, error)
            if not error.is_unsent:
                self.away.abandon(asked)
                self._owe(asked, is_named)
            detail = "It can't be decided now whether this may run"
            return replace(undecided, status=503, code="admission_unavailable", detail=detail), None
        is_owed = self._is_owed(asked)
        is_repeat = decision.already_decided and not decision.hold_id
        if is_repeat and self._repeats == "refuse" and not is_owed:
            return _repeated(decision), None
        return decision, None

    async def _run(
        self,
        scope: Scope,
        receive: Receive,
        send: Send,
        asked: Asked,
        is_named: bool,
        decision: Decision,
        entry: int | None,
    ) -> None:
        is_held = bool(decision.hold_id) or (entry is not None and asked.hold)
        charge = scope["meterline"] = Charge(decision, is_held, entry is not None, quantity_of(asked.details))
        run = _Run(Exchange(scope))
        try:
            await self._app(scope, run.receiving(receive), run.sending(_with_headers(send, decision.headers())))
        except BaseException:
            run.has_failed = True
            raise
        finally:
            # A request that is cancelled is charged all the same.
            await asyncio.shield(_kept(self._finishing, self._finish(asked, charge, run, entry, is_named)))

    async def _finish(self, asked: Asked, charge: Charge, run: _Run, entry: int | None, is_named: bool) -> None:
        """Capture or release a request, or leave its hold open: as the service said, or else by the answer."""
        outcome = charge.outcome or run.outcome()
        reason = charge.reason or (f"answered {run.status}" if run.status else "failed")
        decision = charge.decision
        if entry is not None:
            await self.away.finish(entry, outcome, charge.credits, reason)
        elif decision.hold_id and outcome != "keep":
            await self._resolve(asked, decision.hold_id, outcome, charge.credits, reason)
        elif not decision.hold_id and outcome == "release":
            self._owe(asked, is_named)
        elif not decision.hold_id and not decision.already_decided:
            self._send_event(asked)
        if is_named and outcome == "capture":
            self._answers.keep((asked.project, asked.id), run.exchange)

    async def _resolve(
        self, asked: Asked, hold_id: str, outcome: Outcome, credits: Decimal | None, reason: str
    ) -> None:
        try:
            if outcome == "release":
                await self._admissions.release(asked.project, hold_id, reason)
                return
            captured = await self._admissions.capture(asked.project, hold_id, credits)
            if captured.allowed:
                self._send_event(asked)
                return
            log.warning("hold %s was not captured: %s %s", hold_id, captured.code, captured.detail)
        except MeterlineAway as error:
            log.warning("hold %s is resolved later: %s", hold_id, error)
        try:
            await self.away.resolve_later(asked, hold_id, outcome, credits, reason)
        except sqlite3.Error:
            log.exception("hold %s is not resolved: the journal can't be written", hold_id)

    def _owe(self, asked: Asked, is_named: bool) -> None:
        """Note that a request may be charged although it was not answered well: its repeat is to run."""
        if is_named and not asked.hold:
            self._owed[asked.project, asked.id] = None
            if len(self._owed) > _OWED_MAX:
                self._owed.popitem(last=False)

    def _is_owed(self, asked: Asked) -> bool:
        identity = (asked.project, asked.id)
        is_owed = identity in self._owed
        self._owed.pop(identity, None)
        return is_owed

    def _send_event(self, asked: Asked) -> None:
        """Send the usage event of a request that is charged already, without waiting for it."""
        if self._producer is None:
            return
        if len(self._sending) < _EVENTS_SENDING_MAX:
            _kept(self._sending, _sent(self._producer, asked))
        else:
            log.error("too many usage events wait to be sent; this one, which is charged, is not: %s", asked)

    async def _lifespan(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Start the gateway before the service, and stop it after the service."""
        is_started = False

        async def receive_started() -> Message:
            nonlocal is_started
            message = await receive()
            if message["type"] == "lifespan.startup":
                try:
                    await self.__aenter__()
                except Exception as error:
                    await send({"type": "lifespan.startup.failed", "message": str(error)})
                    raise
                is_started = True
            return message

        async def send_stopped(message: Message) -> None:
            nonlocal is_started
            if message["type"] != "lifespan.startup.complete" and is_started:
                is_started = False
                await self.__aexit__(None, None, None)
            await send(message)

        await self._app(scope, receive_started, send_stopped)


_READ = Route("GET", "/", "read", hold=False)
_WRITE = Route("POST", "/", "write", hold=False)


async def _computed(route: Route, scope: Scope, receive: Receive) -> tuple[Computed, Receive]:
    """The route's details, and a `receive` that gives the messages that were read for them once more."""
    if not callable(route.details):
        return route.details or {}, receive
    read: list[Message] = []

    async def receive_noted() -> Message:
        read.append(await receive())
        return read[-1]

    async def receive_again() -> Message:
        return read.pop(0) if read else await receive()

    computed = route.details(Request(scope, receive_noted))
    return known(await computed if inspect.isawaitable(computed) else computed), receive_again


def _with_headers(send: Send, headers: Mapping[str, str]) -> Send:
    async def send_with_headers(message: Message) -> None:
        if message["type"] == "http.response.start":
            MutableHeaders(scope=message).update(headers)
        await send(message)

    return send_with_headers


def _rejection(request_id: str, rejection: Rejection, headers: dict[str, str]) -> Response:
    """The answer to a request that the gateway, or the platform's own code in it, refuses."""
    told = own_words(rejection.code, rejection.detail)
    problem = problem_told(request_id, rejection.code, told.title, told.detail, field=rejection.field)
    return response_of(problem, headers)


def _refusal(request_id: str, decision: Decision) -> Response:
    """The answer to a request that is not allowed, in its sender's words; the platform's remedy goes to the log."""
    told = decided_words(decision.code, decision.detail)
    if told.is_ours:
        what = f"{decision.code}: {decision.detail.rstrip('.')}. {CODES[decision.code].remedy}"
        log.warning("request %s of project %s is refused, %s", request_id, decision.project, what)
    extra = {}
    if decision.status in (402, 429):
        extra = {"project": decision.project, "available": str(decision.available), "entry_id": decision.entry_id}
    problem = problem_told(request_id, decision.code, told.title, told.detail, extra=extra)
    return response_of(problem, decision.headers())


def _leased(undecided: Decision, entry: int, amount: int) -> tuple[Decision, int]:
    return replace(undecided, credits=credits_of(amount)), entry


def _repeated(decision: Decision) -> Decision:
    detail = "A request with this Idempotency-Key ran before, and was charged"
    return replace(decision, status=409, code=_REPEATED, detail=detail)


def _kept(tasks: set[asyncio.Task[None]], work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
    task = asyncio.get_running_loop().create_task(work)
    tasks.add(task)
    task.add_done_callback(tasks.discard)
    return task


async def _sent(producer: Producer, asked: Asked) -> None:
    try:
        await (await producer.send(asked.event()))
    except Exception as error:
        log.warning("the usage event of a request that is charged is not on the log: %s: %s", error, asked)


async def _stopped(producer: Producer) -> None:
    try:
        await asyncio.wait_for(producer.__aexit__(None, None, None), _STOP_SECONDS_MAX)
    except Exception as error:
        log.warning("the producer did not stop well: %r", error)


async def _nowhere(_request: Request) -> Response:
    raise AssertionError("a route is only asked whether it matches")
