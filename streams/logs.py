"""Structured logging for every process: readable lines, or one JSON object a line."""

from __future__ import annotations

import logging
import os
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Any, TextIO

import msgspec
import structlog

from schemas.times import utc
from streams.settings import Settings, unknown_variables

log = logging.getLogger(__name__)

# Loggers that are chatty at INFO, and say nothing there that we act on.
# Faust's classes log under the module that derives from them, so four modules of ours stand here.
_QUIET = (
    *("aiokafka", "faust", "mode", "httpx", "httpcore", "clickhouse_connect", "uvicorn", "stripe", "urllib3"),
    *("streams.worker.app", "streams.worker.recovery", "streams.worker.tables", "streams.worker.transport"),
)

# While Kafka is away its client says so ten times a second for each connection.
_REPETITIVE = "aiokafka"
_REPEAT_SECONDS = 10.0
_KINDS_MAX = 1000

LOGS_KEPT = 3


class OnceInAWhile(logging.Filter):
    """A filter for loggers under `name`, which lets one record of a kind through in `seconds`. The next one that passes
    says how many were held back. Records of one kind have the same logger, template and level."""

    def __init__(self, name: str, seconds: float) -> None:
        super().__init__(name)
        self._seconds = seconds
        self._passed: dict[tuple[str, int, object], tuple[float, int]] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        """Whether a record is let through."""
        if not super().filter(record):
            return True
        kind = (record.name, record.levelno, record.msg)
        now = time.monotonic()
        passed_at, held_back = self._passed.get(kind, (None, 0))
        if passed_at is not None and now - passed_at < self._seconds:
            self._passed[kind] = (passed_at, held_back + 1)
            return False
        if len(self._passed) >= _KINDS_MAX:
            self._passed.clear()
        self._passed[kind] = (now, 0)
        if held_back:
            record.msg, record.args = f"{record.getMessage()} (and {held_back} more like it since the last)", ()
        return True


class RotatingStandardError(logging.StreamHandler[TextIO]):
    """A handler that writes to standard error, and makes that a file, which is rotated once it is large.

    Standard output and error are turned to the new file themselves: what an interpreter or an engine says in its last
    moment is in the log too.
    """

    def __init__(self, path: Path, bytes_max: int) -> None:
        super().__init__(sys.stderr)
        self._path = path
        self._bytes_max = bytes_max
        path.parent.mkdir(parents=True, exist_ok=True)
        self._turn()

    def emit(self, record: logging.LogRecord) -> None:
        """Write a record. Where the file is too large then, or somebody moved it away, begin a new one."""
        super().emit(record)
        try:
            if os.fstat(2).st_size > self._bytes_max:
                rotate(self._path)
                self._turn()
        except OSError:
            self.handleError(record)  # the old file goes on

    def _turn(self) -> None:
        descriptor = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        for standard in (1, 2):
            os.dup2(descriptor, standard)
        os.close(descriptor)


def rotate(path: Path) -> None:
    """Rename a log file and those before it, of which the oldest goes: `worker-1.log.1` is younger than `.2`."""
    for number in range(LOGS_KEPT, 0, -1):
        older = path.with_name(f"{path.name}.{number}")
        newer = path.with_name(f"{path.name}.{number - 1}") if number > 1 else path
        with suppress(FileNotFoundError):
            newer.replace(older)


class _Formatter(structlog.stdlib.ProcessorFormatter):
    """A formatter of records that may stand for many lines: one for each of a record's `rows`, which are names with
    values that have no line ends.

    A line takes a few microseconds so. The other way takes a hundred, in the loop that decides on admissions.
    """

    def __init__(self, process: str, is_json: bool, **options: Any) -> None:
        super().__init__(**options)
        self._process = process
        self._is_json = is_json

    def format(self, record: logging.LogRecord) -> str:
        """The text of a record, of one line or many."""
        rows = getattr(record, "rows", None)
        if rows is None:
            return super().format(record)
        level, event, at = record.levelname.lower(), record.getMessage(), utc(round(record.created * 1000)).isoformat()
        if not self._is_json:
            head = f"{at} [{level:9}] {event} [{record.name}] process={self._process}"
            return "\n".join(" ".join([head, *(f"{name}={value}" for name, value in row.items())]) for row in rows)
        shared = {"event": event, "level": level, "logger": record.name, "timestamp": at, "process": self._process}
        return "\n".join(msgspec.json.encode(shared | row).decode() for row in rows)


def configure(settings: Settings, process: str) -> None:
    """Send every log record of this process to standard error, or with `log_file` to that."""
    shared: list[structlog.types.Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        structlog.stdlib.ExtraAdder(),
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.format_exc_info,
    ]
    renderer: structlog.types.Processor = (
        structlog.processors.JSONRenderer()
        if settings.log_json
        else structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty(), pad_event_to=0)
    )
    handler: logging.Handler
    if settings.log_file is not None:
        handler = RotatingStandardError(settings.log_file, settings.log_bytes_max)
    else:
        handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        _Formatter(
            process,
            settings.log_json,
            foreign_pre_chain=shared,
            processors=[_add_process(process), structlog.stdlib.ProcessorFormatter.remove_processors_meta, renderer],
        )
    )
    handler.addFilter(OnceInAWhile(_REPETITIVE, _REPEAT_SECONDS))
    root = logging.getLogger()
    root.handlers = [handler]
    root.setLevel(settings.log_level)
    for name in _QUIET:
        logging.getLogger(name).setLevel(max(logging.WARNING, root.level))
    for sentence in unknown_variables(os.environ):
        log.warning(sentence)


def _add_process(process: str) -> structlog.types.Processor:
    def add(_logger: object, _method: str, event: structlog.types.EventDict) -> structlog.types.EventDict:
        event["process"] = process
        return event

    return add
