"""A listener: a receiver of webhooks on this machine, for a demo. It verifies what it gets, and keeps what was told."""

from __future__ import annotations

import threading
import time
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any, Self

from streams.client.webhooks import WebhookError, verify_webhook

# A webhook may come before its sender has told the secret.
_SECRET_SECONDS_MAX = 5.0
_BODY_BYTES_MAX = 20_000


class Listener:
    """A listener hears webhooks at its `url` while it is open. `heard` are those that were good, by id and in order;
    `refused_count` counts the others."""

    def __init__(self) -> None:
        self.heard: dict[str, dict[str, Any]] = {}
        self.refused_count = 0
        self._secret = ""
        self._has_secret = threading.Event()
        self._http = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self._http.daemon_threads = True

    @property
    def url(self) -> str:
        """The URL to send webhooks to."""
        return f"http://127.0.0.1:{self._http.server_port}/notices"

    def trust(self, secret: str) -> None:
        """Take what this secret signs for good."""
        self._secret = secret
        self._has_secret.set()

    def types(self) -> list[str]:
        """The types of what was heard, in order."""
        return [told["type"] for told in list(self.heard.values())]

    def __enter__(self) -> Self:
        threading.Thread(target=self._http.serve_forever, args=(0.1,), name="listener", daemon=True).start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._http.shutdown()
        self._http.server_close()

    def _take(self, body: bytes, headers: dict[str, str]) -> bool:
        self._has_secret.wait(_SECRET_SECONDS_MAX)
        try:
            told = verify_webhook(body, headers, self._secret)
        except WebhookError:
            self.refused_count += 1
            return False
        self.heard.setdefault(str(told["id"]), told | {"heard_at": time.time()})
        return True

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        listener = self

        class ListenerHandler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                length = self.headers.get("content-length", "")
                size = int(length) if length.isascii() and length.isdigit() else _BODY_BYTES_MAX
                with suppress(OSError):
                    is_good = size < _BODY_BYTES_MAX and listener._take(self.rfile.read(size), dict(self.headers))
                    self.send_response(204 if is_good else 400)
                    self.send_header("content-length", "0")
                    self.end_headers()

            def log_message(self, format: str, *args: object) -> None:
                """Log nothing: the report says what came."""

        return ListenerHandler
