"""An asyncio loop without time, sockets or threads: callbacks run in order until none is left, then it returns.

All awaiting ends at a future of the simulated world, which alone decides what happens next. So the real agents and the
real historian run on this loop unchanged, and a seed gives the same run every time.
"""

from __future__ import annotations

import asyncio
import contextvars
from collections import deque
from collections.abc import Callable, Coroutine
from typing import Any

Process = set[asyncio.Task[Any]]

_process: contextvars.ContextVar[Process | None] = contextvars.ContextVar("process", default=None)


class Loop(asyncio.AbstractEventLoop):
    """An event loop with as much as tasks, futures, locks and queues need."""

    def __init__(self) -> None:
        self._ready: deque[tuple[Callable[..., Any], tuple[Any, ...], contextvars.Context]] = deque()

    def call_soon(self, callback: Callable[..., Any], *args: Any, context: Any = None) -> Any:
        self._ready.append((callback, args, context or contextvars.copy_context()))

    def call_later(self, delay: float, callback: Callable[..., Any], *args: Any, context: Any = None) -> Any:
        """Call back as soon as the callbacks before it are done: waiting takes no time here."""
        handle = asyncio.Handle(callback, args, self, context)
        self.call_soon(lambda: handle.cancelled() or handle._run())
        return handle

    def create_future(self) -> asyncio.Future[Any]:
        return asyncio.Future(loop=self)

    def create_task(self, coro: Any, *, name: str | None = None, context: Any = None) -> asyncio.Task[Any]:
        task: asyncio.Task[Any] = asyncio.Task(coro, loop=self, context=context)
        process = _process.get()
        if process is not None:
            process.add(task)
        return task

    def get_debug(self) -> bool:
        return False

    def is_running(self) -> bool:
        return True

    def is_closed(self) -> bool:
        return False

    def call_exception_handler(self, context: dict[str, Any]) -> None:
        """Do nothing: a task of a process that died has nobody to tell of its error."""

    def start(self, process: Process, coro: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
        """Begin a task of a process; tasks that it begins in turn belong to the process too."""
        context = contextvars.copy_context()
        context.run(_process.set, process)
        return context.run(self.create_task, coro)

    def kill(self, process: Process) -> None:
        """End a process at the point that it has come to."""
        for task in [each for each in process if not each.done()]:
            task.cancel()
        self.drain()
        process.clear()

    def drain(self) -> None:
        """Run all tasks until they all wait for the world."""
        ready = self._ready
        if not ready:
            return
        asyncio._set_running_loop(self)
        try:
            while ready:
                callback, args, context = ready.popleft()
                context.run(callback, *args)
        finally:
            asyncio._set_running_loop(None)
