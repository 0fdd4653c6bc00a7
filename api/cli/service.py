"""A client of the HTTP service for the commands: it calls with the operator's key, and retries under one idempotency
key."""

from __future__ import annotations

import json
import secrets
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from api.cli.words import words_of
from schemas.problems import Rejection
from streams.core.foreign import UnreadableError, read
from streams.core.replies import check_key
from streams.embedded.running import find_running
from streams.errors import OperatorError
from streams.settings import Settings

RETRIES = 4


class ApiError(OperatorError):
    """The HTTP service refused a call; `code` is its problem's, or "" where it told none."""

    def __init__(self, sentence: str, code: str) -> None:
        super().__init__(sentence)
        self.code = code


class Api:
    """Api calls the HTTP service with the operator's key. Raises OperatorError where there is none."""

    def __init__(self, url: str | None = None, admin_key: str | None = None) -> None:
        settings = Settings()
        running = find_running(settings)
        self.url = url or settings.api_url or (running.api_url if running else None)
        self.url = self.url or f"http://{settings.api_host}:{settings.api_port}"
        local_key = settings.data_dir / "admin-key"
        known = settings.admin_key.get_secret_value() if settings.admin_key else ""
        key = admin_key or known or (local_key.read_text().strip() if local_key.exists() else "")
        if not key:
            raise OperatorError("There is no admin key: set METERLINE_ADMIN_KEY, or start `meterline up` here first")
        self._client = httpx.Client(base_url=self.url, headers={"authorization": f"Bearer {key}"}, timeout=60.0)

    def call(
        self, method: str, path: str, body: object = None, *, key: str | None = None, **params: Any
    ) -> httpx.Response:
        """Send a request. Where its outcome is unknown, it is sent again under the same key. Raises OperatorError."""
        if key is not None:
            _check_key(key)
        headers = {"idempotency-key": key if key is not None else f"cli-{secrets.token_hex(12)}"}
        sent = {name: value for name, value in params.items() if value is not None}
        for attempt in range(RETRIES):
            try:
                response = self._client.request(method, path, json=body, params=sent, headers=headers)
            except httpx.TransportError as error:
                if attempt + 1 == RETRIES:
                    raise OperatorError(f"{self.url} can't be reached: {error}. Is `meterline up` running?") from None
            else:
                if response.is_success:
                    return response
                if response.status_code != 503 or attempt + 1 == RETRIES:
                    raise _error(response)
            time.sleep(0.3 * 2**attempt)
        raise AssertionError

    def download(self, path: str, **params: Any) -> Iterator[bytes]:
        """GET a file once, in pieces as they come. Raises OperatorError, also where less comes than was announced."""
        sent = {name: value for name, value in params.items() if value is not None}
        try:
            with self._client.stream("GET", path, params=sent) as response:
                if not response.is_success:
                    response.read()
                    raise _error(response)
                yield from response.iter_bytes()
        except httpx.TransportError as error:
            raise OperatorError(f"{self.url} can't be reached: {error}. Is `meterline up` running?") from None

    def follow(self, path: str, body: object) -> Iterator[Any]:
        """POST a body once, and give each JSON line of the answer as it comes. Raises OperatorError."""
        headers = {"accept": "application/x-ndjson"}
        try:
            with self._client.stream("POST", path, json=body, headers=headers) as response:
                if not response.is_success:
                    response.read()
                    raise _error(response)
                for line in response.iter_lines():
                    yield read(json.loads, line)
        except UnreadableError as error:
            raise OperatorError(f"{self.url} answers what is no JSON: {error}") from None
        except httpx.TransportError as error:
            raise OperatorError(f"{self.url} can't be reached: {error}. Is `meterline up` running?") from None

    def events(self, path: str, last_id: str, **params: Any) -> Iterator[SentEvent]:
        """GET a stream of server-sent events once, after the event of this id, and give each event as it comes. Raises
        ApiError where it is refused, and httpx.TransportError where it is cut."""
        headers = {"last-event-id": last_id} if last_id else {}
        sent = {name: value for name, value in params.items() if value is not None}
        with self._client.stream("GET", path, params=sent, headers=headers) as response:
            if not response.is_success:
                response.read()
                raise _error(response)
            event = {"id": last_id}
            for line in response.iter_lines():
                name, _, value = line.partition(": ")
                if name:
                    event[name] = value
                    continue
                yield SentEvent(event.get("event", "message"), event["id"], event.get("data", ""))
                event = {"id": event["id"]}


@dataclass(frozen=True, slots=True)
class SentEvent:
    """A server-sent event: its name, the id to come back with, and its data, which is "" where only the id is new."""

    name: str
    id: str
    data: str


def _check_key(key: str) -> None:
    try:
        check_key(key, "--idempotency-key")
    except Rejection as rejection:
        raise OperatorError(rejection.detail) from None


def read_json(file: Path) -> Any:
    """Read a JSON file. Raises OperatorError."""
    try:
        return read(json.loads, file.read_bytes())
    except OSError as error:
        raise OperatorError(f"{file} can't be read: {error.strerror}") from None
    except UnreadableError as error:
        raise OperatorError(f"{file} is no JSON: {error}") from None


def _error(response: httpx.Response) -> ApiError:
    try:
        problem = response.json()
        return ApiError(words_of(problem), str(problem.get("code", "")))
    except (ValueError, KeyError, TypeError, AttributeError):
        return ApiError(f"{response.status_code}: {response.text[:500]}", "")
