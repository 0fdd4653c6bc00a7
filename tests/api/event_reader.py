"""A reader of server-sent events for tests: it parses as WHATWG's HTML says, and can leave and come back."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import httpx

STREAM = "/v1/ledger/stream"


@dataclass
class Event:
    """An event as a page's script sees it."""

    name: str
    id: str
    data: Any


@dataclass
class Reader:
    """A Reader follows a stream in a thread. It notes each event, and counts heartbeats."""

    client: httpx.Client
    params: dict[str, Any] = field(default_factory=dict)
    path: str = STREAM
    last_id: str = ""
    events: list[Event] = field(default_factory=list)
    heartbeats: int = 0
    opened: threading.Event = field(default_factory=threading.Event)
    ended: threading.Event = field(default_factory=threading.Event)
    error: BaseException | None = None
    _thread: threading.Thread | None = None
    _response: httpx.Response | None = None

    @property
    def entries(self) -> list[dict[str, Any]]:
        """The entries that were told."""
        return [event.data for event in self.events if event.name == "message"]

    @property
    def gaps(self) -> list[str]:
        """The reasons of the gaps that were told."""
        return [event.data["reason"] for event in self.events if event.name == "gap"]

    def open(self, until: Callable[[Reader], bool] = lambda reader: False) -> None:
        """Open the stream, after the last event if there was one, and follow it until `until`, or its end."""
        self.opened.clear(), self.ended.clear()
        self._thread = threading.Thread(target=self._follow, args=(until,), daemon=True)
        self._thread.start()
        assert self.opened.wait(30), "the stream was not opened"
        if self.error is not None:
            raise self.error

    def close(self) -> None:
        """Wait until the stream has ended."""
        assert self._thread is not None
        self._thread.join(30)
        assert not self._thread.is_alive(), "the stream did not end"

    def _follow(self, until: Callable[[Reader], bool]) -> None:
        headers = {"last-event-id": self.last_id} if self.last_id else {}
        timeout = httpx.Timeout(30.0)
        try:
            with self.client.stream("GET", self.path, params=self.params, headers=headers, timeout=timeout) as response:
                if not response.is_success:
                    response.read()
                    raise AssertionError(response.text)
                for event in self._parsed(response.iter_lines()):
                    if event is not None:
                        self.events.append(event)
                    if until(self):
                        return
        except httpx.TransportError:
            pass  # it was cut: whoever reads comes back
        except BaseException as error:
            self.error = error
        finally:
            self.opened.set(), self.ended.set()

    def _parsed(self, lines: Iterator[str]) -> Iterator[Event | None]:
        name, data, last_id = "message", list[str](), self.last_id
        for line in lines:
            self.opened.set()
            if not line:
                # Of an event that was cut short nothing counts, its id neither.
                self.last_id = last_id
                if data:
                    yield Event(name, self.last_id, json.loads("\n".join(data)))
                else:
                    self.heartbeats += 1
                    yield None
                name, data = "message", []
            elif not line.startswith(":"):
                label, _, value = line.partition(": ")
                if label == "id":
                    last_id = value
                elif label == "event":
                    name = value
                elif label == "data":
                    data.append(value)


@contextmanager
def reading(client: httpx.Client, **params: Any) -> Iterator[Reader]:
    """A reader of the stream while the block runs: it goes once anything comes after that."""
    reader = Reader(client, params)
    is_over = threading.Event()
    reader.open(lambda _: is_over.is_set())
    try:
        yield reader
    finally:
        is_over.set()
