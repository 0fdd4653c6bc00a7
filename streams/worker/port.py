"""A worker's port: `/healthz` for whoever supervises it, and `/metrics` for Prometheus.

It is served by threads of its own. The worker's loop decides, and what hangs it must not hang the answer.
"""

from __future__ import annotations

import json
import logging
import threading
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Collection, Iterator
from dataclasses import dataclass, field
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib.metadata import version
from socket import socket
from typing import Any

from prometheus_client import CONTENT_TYPE_LATEST, GCCollector, PlatformCollector, ProcessCollector, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector, CollectorRegistry

from streams.errors import OperatorError
from streams.settings import Settings

log = logging.getLogger(__name__)

# Of requests at once; those above it are let go.
REQUESTS_MAX = 16
REQUEST_SECONDS_MAX = 5.0


@dataclass(slots=True)
class Figures:
    """The figures of a worker, written by its loop: the records it has taken, by topic, when it took the last, and when
    the loop was last seen to run, by the monotonic clock."""

    records: Counter[str] = field(default_factory=Counter)
    taken_at: float | None = None
    ran_at: float | None = None

    def counting(
        self, topic: str, apply: Callable[[list[Any]], Awaitable[None]]
    ) -> Callable[[list[Any]], Awaitable[None]]:
        """A function that applies events as `apply` does, and counts them once that is done."""

        async def apply_and_count(events: list[Any]) -> None:
            await apply(events)
            self.records[topic] += len(events)
            self.taken_at = time.monotonic()

        return apply_and_count


class WorkerPort:
    """A WorkerPort answers at `metrics_host`, `worker_metrics_port`; `port` is the one it has.

    `assigned` gives the worker's partitions, as topic and number. /healthz is 503 where the worker's loop has not run
    for `stall_seconds`: then a supervisor may end it. A worker that is starting is well.
    """

    def __init__(
        self, settings: Settings, figures: Figures, assigned: Callable[[], Collection[tuple[str, int]]]
    ) -> None:
        self._settings = settings
        self._figures = figures
        self._assigned = assigned
        registry = CollectorRegistry(auto_describe=False)
        for collector in (ProcessCollector, PlatformCollector, GCCollector):
            collector(registry=registry)
        registry.register(_Worker(settings, figures, assigned))
        self._registry = registry
        assert settings.worker_metrics_port is not None
        address = (settings.metrics_host, settings.worker_metrics_port)
        try:
            self._server = _Server(address, self._handler())
        except OSError as error:
            raise OperatorError(
                f"Port {address[1]} of {address[0]} can't be used ({error.strerror}): give each worker of a machine "
                "its own METERLINE_WORKER_METRICS_PORT, or 0 for any"
            ) from None
        self.port = int(self._server.server_address[1])

    def start(self) -> None:
        """Answer from now on, until the process ends."""
        threading.Thread(target=self._server.serve_forever, name="port", daemon=True).start()
        log.info("/healthz and /metrics are at http://%s:%d", self._settings.metrics_host, self.port)

    def stop(self) -> None:
        """Answer no more."""
        self._server.shutdown()
        self._server.server_close()

    def health(self) -> tuple[HTTPStatus, dict[str, Any]]:
        """The answer of /healthz: its status, and its members."""
        ran_at, settings = self._figures.ran_at, self._settings
        status = "starting" if ran_at is None else "ok"
        code = HTTPStatus.OK
        if ran_at is not None and time.monotonic() - ran_at > settings.stall_seconds:
            status = f"its loop has not run for {time.monotonic() - ran_at:.0f} s"
            code = HTTPStatus.SERVICE_UNAVAILABLE
        numbers = sorted({number for _, number in self._assigned()})
        told = {
            "status": status,
            "worker": settings.worker_name,
            "version": version("meterline"),
            "partitions": numbers,
        }
        return code, told

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        port = self

        class Handler(BaseHTTPRequestHandler):
            timeout = REQUEST_SECONDS_MAX

            def do_GET(self) -> None:
                if self.path == "/healthz":
                    code, told = port.health()
                    self._answer(code, "application/json", json.dumps(told).encode())
                elif self.path == "/metrics":
                    self._answer(HTTPStatus.OK, CONTENT_TYPE_LATEST, generate_latest(port._registry))
                else:
                    self._answer(HTTPStatus.NOT_FOUND, "text/plain", b"there are /healthz and /metrics\n")

            def log_message(self, format: str, *args: Any) -> None:
                log.debug(format, *args)

            def _answer(self, code: HTTPStatus, kind: str, body: bytes) -> None:
                self.send_response(code)
                self.send_header("content-type", kind)
                self.send_header("content-length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

        return Handler


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, address: tuple[str, int], handler: type[BaseHTTPRequestHandler]) -> None:
        self._places = threading.BoundedSemaphore(REQUESTS_MAX)
        super().__init__(address, handler)

    def process_request(self, request: Any, client_address: Any) -> None:
        if not self._places.acquire(blocking=False):
            self.shutdown_request(request)
            return
        super().process_request(request, client_address)

    def process_request_thread(self, request: socket | tuple[bytes, socket], client_address: Any) -> None:
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._places.release()

    def handle_error(self, request: Any, client_address: Any) -> None:
        log.debug("a request of %s failed", client_address, exc_info=True)


class _Worker(Collector):
    def __init__(
        self, settings: Settings, figures: Figures, assigned: Callable[[], Collection[tuple[str, int]]]
    ) -> None:
        self._settings = settings
        self._figures = figures
        self._assigned = assigned

    def collect(self) -> Iterator[Metric]:
        now, figures = time.monotonic(), self._figures
        info = GaugeMetricFamily("meterline_worker_info", "1, with the worker's name", labels=["name", "version"])
        info.add_metric([self._settings.worker_name, version("meterline")], 1)
        yield info
        yield GaugeMetricFamily(
            "meterline_worker_partitions",
            "Partitions that this worker has",
            len({number for _, number in self._assigned()}),
        )
        records = CounterMetricFamily(
            "meterline_worker_records",
            "Records that this worker has taken, and all that follows written",
            labels=["topic"],
        )
        for topic, count in sorted(figures.records.copy().items()):
            records.add_metric([topic], count)
        yield records
        if figures.taken_at is not None:
            yield GaugeMetricFamily(
                "meterline_worker_last_record_age_seconds", "Since this worker took a record", now - figures.taken_at
            )
        if figures.ran_at is not None:
            yield GaugeMetricFamily(
                "meterline_worker_loop_age_seconds", "Since this worker's loop was seen to run", now - figures.ran_at
            )
