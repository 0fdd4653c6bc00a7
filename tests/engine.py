"""Fixtures of the real ClickHouse engine, embedded and behind its HTTP front.

A process can have one directory open, and each opening leaves some threads and file descriptors behind. So the tests of
a module share an engine, and each test leaves it empty.
"""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest
import uvicorn
from starlette.applications import Starlette

from streams.clickhouse.client import ClickHouse
from streams.embedded.clickhouse_front import create_front
from streams.settings import Settings

Serve = Callable[[Starlette], str]


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("data")


@pytest.fixture(scope="module")
def engine(data_dir: Path) -> Iterator[ClickHouse]:
    clickhouse = ClickHouse(Settings(data_dir=data_dir, clickhouse_url=None))
    yield clickhouse
    clickhouse.close()


@pytest.fixture
def embedded(engine: ClickHouse) -> Iterator[ClickHouse]:
    """The embedded engine, without tables."""
    yield engine
    for (table,) in engine.query("SELECT name FROM system.tables WHERE database = currentDatabase()"):
        engine.command("DROP TABLE {table:Identifier}", {"table": table})


@pytest.fixture(scope="module")
def serve() -> Iterator[Serve]:
    """A function that serves an app on a free loopback port and returns its URL."""
    with ExitStack() as servers:
        yield lambda app: servers.enter_context(running(app))


@pytest.fixture(scope="module")
def over_http(engine: ClickHouse, serve: Serve) -> Iterator[ClickHouse]:
    """The engine, asked over HTTP as a server is."""
    url = serve(create_front(engine, read_only=False, token="let me in"))
    clickhouse = ClickHouse(Settings(clickhouse_url=f"{url.replace('://', '://default:let%20me%20in@')}/default"))
    yield clickhouse
    clickhouse.close()


@pytest.fixture(params=["embedded", "over_http"])
def clickhouse(request: pytest.FixtureRequest, embedded: ClickHouse) -> ClickHouse:
    """The engine without tables: a test that asks for it runs embedded and over HTTP."""
    found = request.getfixturevalue(request.param)
    assert isinstance(found, ClickHouse)
    return found


@contextmanager
def running(app: Starlette) -> Iterator[str]:
    listener = socket.create_server(("127.0.0.1", 0))
    server = uvicorn.Server(uvicorn.Config(app, log_level="warning"))
    thread = threading.Thread(target=server.run, args=([listener],), daemon=True)
    thread.start()
    deadline = time.monotonic() + 60
    while not server.started:
        assert thread.is_alive() and time.monotonic() < deadline, "the front did not start"
        time.sleep(0.01)
    yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    server.should_exit = True
    thread.join(timeout=10)
    listener.close()
