"""Slow, half-open and too many connections on real sockets: they end in time, and callers beside them do not notice."""

from __future__ import annotations

import asyncio
import logging
import resource
import socket
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from ipaddress import ip_network
from typing import Any, cast

import httpx
import pytest
import uvicorn
from fastapi import FastAPI, Request
from hypothesis import given
from hypothesis import strategies as st
from starlette.responses import Response, StreamingResponse

from api import errors
from api.answers import KeptAnswers
from api.busyness import Busyness
from api.callers.calls import keep_refusal
from api.callers.keys import Caller
from api.connections import HEAD_BYTES_MAX, ConnectionLimits, Connections, Crowd
from api.middleware import Front
from streams import open_files
from streams.kafka.publisher import Publisher
from streams.open_files import raise_open_files
from streams.settings import Settings

HEAD, BODY, READ = 0.5, 0.7, 0.8
GOOD, BAD, PROXY = "127.0.0.1", "127.0.0.2", "127.0.0.3"
LIMITS = ConnectionLimits(HEAD, BODY, READ, 150, 60, [ip_network(f"{PROXY}/32")])
REQUEST = b"GET /fast HTTP/1.1\r\nhost: x\r\n\r\n"
POST = b"POST /echo HTTP/1.1\r\nhost: x\r\ncontent-length: 200000\r\n\r\n"
CHUNKED = b"POST /echo HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n"


def app_of() -> FastAPI:
    app = FastAPI()
    errors.install(app)

    @app.get("/fast")
    async def fast() -> str:
        return "fast"

    @app.post("/echo")
    async def echo(request: Request) -> Response:
        return Response(str(len(await request.body())))

    @app.post("/early")
    async def early() -> Response:
        """Answer without a look at the body, as a refusal does."""
        return Response("no", 429)

    @app.get("/slow")
    async def slow() -> StreamingResponse:
        """Take longer than any limit, with an answer that comes bit by bit."""

        async def bits() -> AsyncIterator[bytes]:
            for _ in range(10):
                await asyncio.sleep((HEAD + BODY + READ) / 8)
                yield b"bit"

        return StreamingResponse(bits())

    @app.get("/large")
    async def large() -> StreamingResponse:
        async def blocks() -> AsyncIterator[bytes]:
            for _ in range(600):
                yield bytes(64 * 1024)

        return StreamingResponse(blocks())

    app.state.busyness = Busyness(50)
    app.add_middleware(Front, settings=Settings(public_requests_per_minute=1_000_000, public_burst=1_000_000))
    return app


class Served:
    """A served app, its port, and what guards its connections."""

    def __init__(self, limits: ConnectionLimits) -> None:
        self.connections = Connections(limits)
        self.listener = socket.create_server((GOOD, 0))
        self.port = self.listener.getsockname()[1]
        config = uvicorn.Config(
            app_of(), http=self.connections.protocol(), ws="none", loop="uvloop", log_config=None, timeout_keep_alive=1
        )
        self.server = uvicorn.Server(config)

    def run(self) -> None:
        async def serve() -> None:
            guarding = asyncio.create_task(self.connections.run())
            await self.server.serve(sockets=[self.listener])
            guarding.cancel()

        asyncio.run(serve())

    def connect(self, source: str = BAD) -> socket.socket:
        return socket.create_connection((GOOD, self.port), timeout=5, source_address=(source, 0))


@contextmanager
def serving(limits: ConnectionLimits) -> Iterator[Served]:
    served = Served(limits)
    thread = threading.Thread(target=served.run, daemon=True)
    thread.start()
    deadline = time.monotonic() + 60
    while not served.server.started:
        assert thread.is_alive() and time.monotonic() < deadline
        time.sleep(0.01)
    yield served
    served.server.should_exit = True
    thread.join(timeout=10)


@pytest.fixture(scope="module")
def shared() -> Iterator[Served]:
    with serving(LIMITS) as running:
        yield running


@pytest.fixture
def served(shared: Served) -> Iterator[Served]:
    """The server, and after the test the proof that no connection of it is left."""
    yield shared
    deadline = time.monotonic() + 5
    while shared.connections.crowd.count:
        assert time.monotonic() < deadline, shared.connections.crowd
        time.sleep(0.02)
    assert not shared.connections.crowd.by_address and not shared.connections._open


@contextmanager
def good_caller(served: Served) -> Iterator[list[float]]:
    """A caller that goes on all the while; each of its answers is 200, and how long each took is noted."""
    took: list[float] = []
    ended = threading.Event()
    failures: list[object] = []

    def call() -> None:
        with httpx.Client(base_url=f"http://{GOOD}:{served.port}", timeout=5) as client:
            while not ended.is_set() or len(took) < 10:
                began_at = time.monotonic()
                try:
                    status = client.get("/fast").status_code
                except httpx.HTTPError as error:
                    status = repr(error)
                took.append(time.monotonic() - began_at)
                if status != 200:
                    failures.append(status)
                time.sleep(0.01)

    thread = threading.Thread(target=call)
    thread.start()
    while not took and thread.is_alive():
        time.sleep(0.01)
    try:
        yield took
    finally:
        ended.set()
        thread.join()
    assert not failures
    assert max(took) < 1.0, max(took)


def trickled(connection: socket.socket, begin: bytes, drip: Callable[[int], bytes], seconds: float) -> bytes:
    """Send `begin`, then a drip every 20 ms until the server ends it; gives all that it said. Fails where it goes on
    for longer than `seconds`."""
    said, number, deadline = b"", 0, time.monotonic() + seconds
    connection.settimeout(0.02)
    if begin:
        connection.sendall(begin)
    while time.monotonic() < deadline:
        try:
            found = connection.recv(65536)
            if not found:
                return said
            said += found
        except TimeoutError:
            pass
        except ConnectionError:
            return said
        try:
            if bits := drip(number):
                connection.sendall(bits)
        except ConnectionError:
            pass
        number += 1
    pytest.fail(f"it was not ended within {seconds} s; it said {said!r}")


SLOW_HEADS = {
    "nothing is sent": (b"", lambda _: b"", b""),
    "a part is sent": (b"GET /fast HT", lambda _: b"", b"408"),
    "a byte now and then": (b"G", lambda number: (b"ET /" + b"a" * 1000)[number : number + 1], b"408"),
    "headers without an end": (b"GET / HTTP/1.1\r\n", lambda number: b"x-%d: 1\r\n" % number, b"408"),
    "empty lines": (b"", lambda _: b"\r\n", b"408"),
    "a second request that never ends": (REQUEST + b"GET /", lambda _: b"a", b"408"),
    "a second request, later": (REQUEST, lambda number: b"GET /fast" if number == 5 else b"", b"408"),
}


@pytest.mark.parametrize("name", SLOW_HEADS)
def test_a_slow_head_is_ended(served: Served, name: str) -> None:
    begin, drip, told = SLOW_HEADS[name]
    before = served.connections.ended["head"]
    with good_caller(served), closing(served.connect()) as connection:
        said = trickled(connection, begin, drip, HEAD + 1.5)
    assert told in said, said
    if told:
        assert said.endswith(b"}") and b'"code":"request_timeout"' in said and b"connection: close" in said
    assert served.connections.ended["head"] == before + 1


SLOW_BODIES = {
    "nothing of it": (POST, lambda _: b""),
    "a byte now and then": (POST, lambda _: b"a"),
    "chunks without an end": (CHUNKED, lambda _: b"1\r\na\r\n"),
    "a part of a chunk": (CHUNKED + b"ffff\r\n", lambda _: b"a"),
}


@pytest.mark.parametrize("name", SLOW_BODIES)
def test_a_slow_body_is_ended(served: Served, name: str, caplog: pytest.LogCaptureFixture) -> None:
    begin, drip = SLOW_BODIES[name]
    before = served.connections.ended["body"]
    with good_caller(served), closing(served.connect()) as connection:
        said = trickled(connection, begin, drip, BODY + 1.5)
    assert said.startswith(b"HTTP/1.1 408 ") and b"did not come within 0.7 seconds" in said
    assert served.connections.ended["body"] == before + 1
    assert [each for each in caplog.records if each.levelno >= logging.ERROR] == [], "nobody failed but the client"


@pytest.mark.parametrize(("begin", "is_begun"), [(POST, True), (b"GET /fast HT", False)])
def test_a_request_that_is_given_up_is_told_with_the_id_of_its_answer(
    served: Served, begin: bytes, is_begun: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[tuple[Any, str, int, bytes]] = []
    monkeypatch.setattr(served.connections, "on_refused", lambda *refused: told.append(refused))
    with closing(served.connect()) as connection:
        said = trickled(connection, begin, lambda _: b"", BODY + 1.5)
    ((scope, address, status, body),) = told
    assert (address, status, said.endswith(body)) == (BAD, 408, True)
    assert f"x-request-id: {scope['meterline.request_id']}\r\n".encode() in said
    answers = KeptAnswers(Settings(), cast(Publisher, None), 0)
    if is_begun:
        scope["meterline.call"].caller = Caller("p", "key_1", "production", ("*",))
    keep_refusal(answers, scope, address, status, body)
    (answer,) = answers.find(scope["meterline.request_id"], "p" if is_begun else "", None)
    assert (answer.status, answer.code, answer.reply) == (408, "request_timeout", body.decode())
    assert answer.operation == ("POST /echo" if is_begun else "* *")


def test_a_body_that_goes_on_after_its_answer_is_ended_too(served: Served) -> None:
    with closing(served.connect()) as connection:
        said = trickled(connection, POST.replace(b"/echo", b"/early"), lambda _: b"a", BODY + 2.5)
    assert said.startswith(b"HTTP/1.1 429 ") and said.count(b"HTTP/1.1 ") == 1
    # One whose body ends after its answer rests then, and no timer of uvicorn's runs for it.
    whole = b"POST /early HTTP/1.1\r\nhost: x\r\ncontent-length: 5\r\n\r\n"
    with closing(served.connect()) as connection:
        trickled(connection, whole, lambda number: b"a" if number < 5 else b"", 4.0)


def test_a_head_without_an_end_is_refused_by_its_size(served: Served) -> None:
    with good_caller(served), closing(served.connect()) as connection:
        said = trickled(
            connection, b"GET / HTTP/1.1\r\n", lambda number: b"x-%d: %s\r\n" % (number, b"a" * 20_000), 3.0
        )
    assert HEAD_BYTES_MAX < 100_000
    assert said == b"" or b'"code":"head_too_large"' in said


@pytest.mark.parametrize("reads", [0, 1_000], ids=["never", "a little"])
def test_who_does_not_read_is_ended(served: Served, reads: int) -> None:
    before = served.connections.ended["read"]
    with good_caller(served), closing(socket.socket()) as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        connection.bind((BAD, 0))
        connection.connect((GOOD, served.port))
        connection.sendall(REQUEST.replace(b"/fast", b"/large"))
        deadline = time.monotonic() + READ + 3
        while served.connections.ended["read"] == before:
            assert time.monotonic() < deadline
            time.sleep(0.05)
            if reads:
                connection.recv(reads)


def test_what_we_take_our_time_for_is_not_ended(served: Served) -> None:
    with httpx.Client(base_url=f"http://{GOOD}:{served.port}", timeout=20) as client:
        assert client.get("/slow").text == "bit" * 10
        assert len(client.get("/large").content) == 600 * 64 * 1024
        assert client.post("/echo", content=bytes(3_000_000)).text == "3000000"
        time.sleep(HEAD + 0.2)
        assert client.get("/fast").status_code == 200, "it rested for less than the keep-alive"


def test_half_open_connections_by_the_hundred_take_no_room_of_others(served: Served) -> None:
    refused = served.connections.refused
    with good_caller(served), ExitStack() as opened:
        silent = [opened.enter_context(closing(served.connect())) for _ in range(200)]
        assert served.connections.crowd.by_address[BAD] <= LIMITS.per_address_max
        said = silent[-1].recv(4096)
        assert said.startswith(b"HTTP/1.1 503 ") and b'"code":"too_many_connections"' in said and b"retry-after" in said
        # A proxy that is trusted stands for many callers.
        proxied = [opened.enter_context(closing(served.connect(PROXY))) for _ in range(LIMITS.per_address_max + 10)]
        proxied[-1].sendall(REQUEST)
        assert proxied[-1].recv(4096).startswith(b"HTTP/1.1 200 ")
    assert served.connections.refused == refused + 140


def test_where_all_room_is_taken_the_heaviest_makes_room() -> None:
    # Nobody leaves by being slow: on a busy machine it takes a while to open them all.
    patient = ConnectionLimits(60, 60, 60, 150, 60, [ip_network(f"{PROXY}/32")])
    with serving(patient) as served, good_caller(served), ExitStack() as opened:
        for source in (BAD, "127.0.0.4", "127.0.0.5", "127.0.0.6"):
            for _ in range(50):
                opened.enter_context(closing(served.connect(source)))
        assert served.connections.crowd.count <= LIMITS.connections_max
        quiet = opened.enter_context(closing(served.connect("127.0.0.7")))
        quiet.sendall(REQUEST)
        assert quiet.recv(4096).startswith(b"HTTP/1.1 200 ")
        by_address = served.connections.crowd.by_address
        with closing(served.connect(max(by_address, key=lambda each: by_address[each]))) as heavy:
            assert heavy.recv(4096).startswith(b"HTTP/1.1 503 ")
    assert served.connections.ended["made_room"] >= 1


ADDRESSES = st.sampled_from(["", "a", "b", "c", "d"])


@given(st.integers(1, 12), st.integers(1, 6), st.lists(st.tuples(st.booleans(), ADDRESSES), max_size=60))
def test_no_more_come_in_than_may_and_the_lightest_never_make_room(most, each_most, steps) -> None:
    crowd = Crowd(most, each_most)
    for comes, address in steps:
        if not comes:
            if crowd.by_address[address] or (not address and crowd.count > crowd.by_address.total()):
                crowd.leave(address)
            continue
        if crowd.full_for(address) is not None and crowd.count >= most:
            heaviest = crowd.heaviest_beside(address)
            if heaviest is not None:
                assert crowd.by_address[heaviest] == max(crowd.by_address.values()) > crowd.by_address[address] + 1
                crowd.leave(heaviest)
        if crowd.full_for(address) is None:
            crowd.enter(address)
        assert crowd.count <= most
        assert all(count <= each_most for count in crowd.by_address.values())


def test_a_process_may_open_as_many_files_as_the_system_lets_it(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    given_up: list[tuple[int, int]] = []
    monkeypatch.setattr(open_files.resource, "setrlimit", lambda _what, both: given_up.append(both))
    for limits, raised, is_told in (
        ((1024, 65_536), 65_536, False),
        ((1024, 2_048), 2_048, True),
        ((65_536, 65_536), 65_536, False),
        ((1024, resource.RLIM_INFINITY), 1 << 20, False),
        ((resource.RLIM_INFINITY, resource.RLIM_INFINITY), 1 << 20, False),
    ):
        caplog.clear()
        monkeypatch.setattr(open_files.resource, "getrlimit", lambda _what, limits=limits: limits)
        assert raise_open_files() == raised
        assert ("ulimit -Hn" in caplog.text) == is_told
    assert given_up == [(65_536, 65_536), (2_048, 2_048), (1 << 20, resource.RLIM_INFINITY)]
