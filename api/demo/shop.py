"""The shop of `demo --stay`: a project whose customers go on using it, so that there is something to watch."""

from __future__ import annotations

import random
import secrets
import threading
import time
from collections import deque
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from types import TracebackType
from typing import Any, Self

import httpx

PROJECT = "acme"
_CUSTOMERS = {"globex": 9, "initech": 6, "umbrella": 3, "hooli": 2, "stark": 1}
_OPERATIONS = {"chat.message": 12, "page.edit": 5, "translation": 4, "image": 4, "social_post.text": 3, "website": 1}
_JOBS = {"blog_post": 3, "video.budget": 1}
_PAUSE_SECONDS = 0.8
_JOB_SECONDS = 12.0
_JOBS_OPEN_MAX = 5


class Shop:
    """The shop is open while it is entered: a thread uses the project about once a second, holds credits for jobs that
    end some seconds later, and buys a bundle when the credits are gone. `key` is the project's."""

    def __init__(self, url: str, admin_key: str) -> None:
        self.key = ""
        self._admin = httpx.Client(base_url=url, headers={"authorization": f"Bearer {admin_key}"}, timeout=10)
        self._closing = threading.Event()
        self._jobs: deque[tuple[float, str]] = deque()
        self._thread = threading.Thread(target=self._run, name="shop", daemon=True)

    def __enter__(self) -> Self:
        # A data directory that is kept has the shop already.
        self._admin.post("/v1/admin/projects", json={"project": PROJECT, "name": "Acme", "plan": "build"})
        made = self._admin.post(f"/v1/admin/projects/{PROJECT}/keys", json={"name": "demo"}).raise_for_status()
        self.key = made.json()["key"]
        ends = (datetime.now(UTC) + timedelta(days=21)).isoformat()
        self._give("grants", amount="1200", reason="welcome", expires_at=ends)
        self._give("top-ups", bundle_usd=20)
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._closing.set()
        self._thread.join(5)
        self._admin.close()

    def _give(self, what: str, **body: Any) -> None:
        headers = {"idempotency-key": secrets.token_hex(8)}
        self._admin.post(f"/v1/admin/projects/{PROJECT}/{what}", json=body, headers=headers).raise_for_status()

    def _run(self) -> None:
        with httpx.Client(
            base_url=self._admin.base_url, headers={"authorization": f"Bearer {self.key}"}, timeout=10
        ) as client:
            while not self._closing.wait(random.uniform(0.3, 1.7) * _PAUSE_SECONDS):
                # A stack that starts a part again is back in a moment.
                with suppress(httpx.HTTPError):
                    self._use(client)
                    self._end_jobs(client)

    def _use(self, client: httpx.Client) -> None:
        is_job = len(self._jobs) < _JOBS_OPEN_MAX and random.random() < 0.12
        kinds = _JOBS if is_job else _OPERATIONS
        asked: dict[str, Any] = {"operation": _one_of(kinds), "metadata": {"customer_id": _one_of(_CUSTOMERS)}}
        if is_job:
            asked |= {"hold": True, "job_id": secrets.token_hex(6)}
        answer = client.post("/v1/admissions", json=asked)
        if answer.status_code == 402:
            self._give("top-ups", bundle_usd=20)
        elif is_job and answer.status_code == 200:
            self._jobs.append((time.monotonic() + random.uniform(0.3, 2) * _JOB_SECONDS, answer.json()["hold_id"]))

    def _end_jobs(self, client: httpx.Client) -> None:
        while self._jobs and self._jobs[0][0] < time.monotonic():
            _, job = self._jobs.popleft()
            client.post(f"/v1/holds/{job}/{'release' if random.random() < 0.15 else 'capture'}", json={})


def _one_of(weights: dict[str, int]) -> str:
    return random.choices(list(weights), list(weights.values()))[0]
