"""Structured logging for every process: readable lines, or one JSON object a line."""

from __future__ import annotations

import logging
import sys

import structlog

from streams.settings import Settings

# Chatty at INFO, and silent about nothing we act on.
# Classes of Faust's log under the module that derives from them, so four modules of ours stand here.
_QUIET = (
    *("aiokafka", "faust", "mode", "httpx", "httpcore", "clickhouse_connect", "uvicorn", "stripe", "urllib3"),
    *("streams.app", "streams.recovery", "streams.tables", "streams.transport"),
)


def configure(settings: Settings, process: str) -> None:
    """Send every log record of this process to standard error."""
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
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[_add_process(process), structlog.stdlib.ProcessorFormatter.remove_processors_meta, renderer],
        )
    )
    root = logging.getLogger()
    root.handlers = [handler]
    root.setLevel(settings.log_level)
    for name in _QUIET:
        logging.getLogger(name).setLevel(max(logging.WARNING, root.level))


def _add_process(process: str) -> structlog.types.Processor:
    def add(_logger: object, _method: str, event: structlog.types.EventDict) -> structlog.types.EventDict:
        event["process"] = process
        return event

    return add
