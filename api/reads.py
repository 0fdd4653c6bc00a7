"""Reads of the history for callers: in threads of their own, a few at once for each caller, within limits.

The loop decides on admissions meanwhile, so nothing that grows with the number of rows happens on it: a thread asks the
question and makes the answer into bytes. One caller's heavy questions wait for each other, and nobody else waits for
them (docs/decisions/0034).
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import Counter
from collections.abc import Callable, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from tempfile import SpooledTemporaryFile
from typing import IO, TypeVar

from pydantic import BaseModel
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from schemas.problems import Rejection
from streams.clickhouse.client import ClickHouse
from streams.clickhouse.limits import ANSWER_BYTES_MAX, limits_of_callers, too_much
from streams.settings import Settings

log = logging.getLogger(__name__)

WAIT_SECONDS_MAX = 5.0
WAITING_MAX = 16
WAITING_OF_ALL_MAX = 64
# A file is complete before its first byte is sent: a slow download keeps a file open, and no query.
FILE_IN_MEMORY_BYTES_MAX = 1024 * 1024
DOWNLOADS_PER_CALLER_MAX = 4
DOWNLOAD_SECONDS_MAX = 300.0
_CHUNK_BYTES = 64 * 1024
_TURN_SECONDS = 0.0002

T = TypeVar("T")
Free = Callable[[], None]


class HistoryReads:
    """HistoryReads asks the history for callers, whom it knows by name. A caller that asks too much at once is refused
    `too_many_queries`."""

    def __init__(self, settings: Settings, clickhouse: ClickHouse) -> None:
        self._limits = limits_of_callers(settings)
        self._clickhouse = clickhouse
        self._callers = _Places(settings.queries_per_caller_max, WAITING_MAX, "Questions of this caller are running")
        self._all = _Places(settings.queries_at_once_max, WAITING_OF_ALL_MAX, "The history is busy with others")
        self._downloads = _Places(DOWNLOADS_PER_CALLER_MAX, 0, "Files of this caller are being downloaded")
        self._threads = ThreadPoolExecutor(settings.queries_at_once_max, thread_name_prefix="history")

    async def ask(self, caller: str, question: Callable[[ClickHouse], T]) -> T:
        """Have a thread answer a question, once it is the caller's turn. All queries of the question together may take
        `query_seconds_max`. Raises Rejection `too_many_queries` or `too_much_history`."""
        free_caller = await self._callers.take(caller)
        try:
            free_one = await self._all.take("")
        except BaseException:
            free_caller()
            raise
        running = self._threads.submit(self._answer, question)
        loop = asyncio.get_running_loop()

        def ended(_: Future[T]) -> None:
            # A question whose asker has left runs on to its limit, and keeps its places until then.
            with suppress(RuntimeError):  # the loop is closed: nobody needs a place any more
                loop.call_soon_threadsafe(lambda: (free_caller(), free_one()))

        running.add_done_callback(ended)
        return await asyncio.wrap_future(running)

    async def json(self, caller: str, question: Callable[[ClickHouse], BaseModel]) -> Response:
        """The answer to a question, encoded as JSON in the thread."""
        return await self.ask(caller, lambda clickhouse: json_of(question(clickhouse)))

    async def csv(self, caller: str, name: str, question: Callable[[ClickHouse], Iterable[bytes]]) -> Response:
        """The answer to a question, as a CSV file to download. It is refused whole where it meets a limit."""
        return await self.file(caller, f"{name}.csv", "text/csv", question)

    async def file(
        self, caller: str, name: str, media_type: str, question: Callable[[ClickHouse], Iterable[bytes]]
    ) -> Response:
        """The answer to a question, as a file to download. It is refused whole where it meets a limit."""
        free = await self._downloads.take(caller)
        try:
            file, size = await self.ask(caller, lambda clickhouse: _spooled(question(clickhouse)))
        except BaseException:
            free()
            raise
        return _Download(file, size, name, media_type, free)

    def close(self) -> None:
        """Take no more questions; those that run go on to their limits."""
        self._threads.shutdown(wait=False, cancel_futures=True)

    def _answer(self, question: Callable[[ClickHouse], T]) -> T:
        return question(self._clickhouse.limited(self._limits, time.monotonic() + self._limits.seconds))


def json_of(answer: BaseModel) -> Response:
    """The answer as JSON. Call it in a thread where the answer may be large."""
    return Response(answer.model_dump_json(by_alias=True), media_type="application/json")


class _Places:
    """Places of which each caller has a few; at most `waiting_max` more of a caller wait for one."""

    def __init__(self, each: int, waiting_max: int, taken: str) -> None:
        self._each, self._waiting_max, self._taken = each, waiting_max, taken
        self._places: dict[str, asyncio.Semaphore] = {}
        self._users = Counter[str]()

    async def take(self, name: str) -> Free:
        """Take a place, or wait for one; gives the function that frees it. Raises Rejection `too_many_queries`."""
        if self._users[name] >= self._each + self._waiting_max:
            raise Rejection("too_many_queries", self._taken)
        place = self._places.setdefault(name, asyncio.Semaphore(self._each))
        self._users[name] += 1
        try:
            async with asyncio.timeout(WAIT_SECONDS_MAX):
                await place.acquire()
        except TimeoutError:
            self._leave(name)
            raise Rejection("too_many_queries", self._taken) from None
        except BaseException:
            self._leave(name)
            raise

        def free() -> None:
            place.release()
            self._leave(name)

        return free

    def _leave(self, name: str) -> None:
        self._users[name] -= 1
        if not self._users[name]:
            del self._users[name], self._places[name]


class _Download(Response):
    """A download of a file that is ready. One that takes too long is cut: less than its `content-length` is sent."""

    def __init__(self, file: IO[bytes], size: int, name: str, media_type: str, free: Free) -> None:
        disposition = f'attachment; filename="{name}"'
        super().__init__(headers={"vary": "accept", "content-disposition": disposition}, media_type=media_type)
        self.headers["content-length"] = str(size)
        self._file, self._free = file, free

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the file, as fast as its client takes it."""
        try:
            async with asyncio.timeout(DOWNLOAD_SECONDS_MAX):
                await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
                while piece := self._file.read(_CHUNK_BYTES):
                    await send({"type": "http.response.body", "body": piece, "more_body": True})
                await send({"type": "http.response.body", "body": b""})
        except TimeoutError:
            # An answer that is left incomplete makes the server close the connection.
            log.warning("a download took more than %g seconds and was cut", DOWNLOAD_SECONDS_MAX)
        finally:
            self._file.close()
            self._free()


def _spooled(pieces: Iterable[bytes]) -> tuple[IO[bytes], int]:
    file = SpooledTemporaryFile[bytes](FILE_IN_MEMORY_BYTES_MAX)
    size = 0
    for piece in pieces:
        size += len(piece)
        if size > ANSWER_BYTES_MAX:
            file.close()
            raise too_much(f"more than the {ANSWER_BYTES_MAX} bytes that a file may have")
        file.write(piece)
        # This is a thread, but the event loop could not run while Python made the piece.
        time.sleep(_TURN_SECONDS)
    file.seek(0)
    return file, size
