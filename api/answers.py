"""Answers that this process keeps: what it told whom, so that the request id that a refused caller holds leads to why.

They go to Kafka once a second, and from there into the history (docs/decisions/0054).
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import Counter, deque
from collections.abc import Sequence

from schemas.answers import Answer
from schemas.times import DAY_MS
from streams.kafka.clock import now_ms
from streams.kafka.codecs import encode_json, packed
from streams.kafka.publisher import Publisher
from streams.kafka.topics import topics_of
from streams.settings import Settings

log = logging.getLogger("meterline.answers")

EVERY_SECONDS = 1.0
# Of a second, or of all that waits while Kafka is away; those that allowed something have half of it.
WAITING_MAX = 1_000
# Refusals of one caller in a second that no owner decided: a flood is counted, and told in part.
UNDECIDED_OF_A_CALLER_MAX = 20
# They are found here until the history has them.
RECENT_MAX = 5_000
REPLY_CHARS_MAX = 4_096
_FOREVER_MS = 36_500 * DAY_MS


class KeptAnswers:
    """KeptAnswers keeps those that refused a request or told of a decision: refusals with their text.

    What was decided is kept as long as refusals are in the history, all else as long as replies are kept for a repeat.
    A process that is killed loses those of its last second. `not_kept` counts those for which there was no room.
    """

    def __init__(self, settings: Settings, publisher: Publisher, partition: int) -> None:
        self.not_kept = 0
        self._publisher = publisher
        self._topic, self._partition = topics_of(settings).answers, partition
        self._is_logged = settings.log_decisions
        self._undecided_ms = settings.kept_for.key_ms
        self._decided_ms = max(self._undecided_ms, settings.passing_facts_days * DAY_MS or _FOREVER_MS)
        self._waiting: list[Answer] = []
        self._recent: deque[Answer] = deque(maxlen=RECENT_MAX)
        self._undecided: Counter[str] = Counter()
        self._untold = 0

    def add(
        self,
        request_id: str,
        operation: str,
        status: int,
        *,
        caller: str,
        project: str = "",
        environment: str = "",
        key_id: str = "",
        code: str = "",
        reply: str = "",
        entry_ids: Sequence[str] = (),
    ) -> None:
        """Keep an answer, if there is room: `caller` is the name of whoever shares its room."""
        is_refused = status >= 400
        if is_refused and not entry_ids:
            self._undecided[caller] += 1
        if (
            len(self._waiting) >= (WAITING_MAX if is_refused else WAITING_MAX // 2)
            or self._undecided[caller] > UNDECIDED_OF_A_CALLER_MAX
        ):
            self.not_kept += 1
            self._untold += 1
            return
        at_ms = now_ms()
        kept_ms = self._decided_ms if is_refused and entry_ids else self._undecided_ms
        answer = Answer(
            request_id,
            at_ms,
            at_ms + kept_ms,
            operation,
            status,
            project,
            environment,
            key_id,
            code,
            reply[:REPLY_CHARS_MAX],
            list(entry_ids),
        )
        self._waiting.append(answer)
        self._recent.append(answer)

    def find(self, request_id: str, project: str | None, environment: str | None) -> list[Answer]:
        """The answers of this id that this process gave of late, the newest first: those of a project, and of an
        environment, where they are named."""
        return [
            each
            for each in reversed(self._recent)
            if each.request_id == request_id
            and project in (None, each.project)
            and environment in (None, each.environment)
        ]

    async def run(self) -> None:
        """Send what waits every second, until cancelled."""
        while True:
            began_at = time.monotonic()
            await self.send()
            await asyncio.sleep(max(0.0, EVERY_SECONDS - (time.monotonic() - began_at)))

    async def send(self) -> None:
        """Send and log what waits. What can't be sent waits on, as long as there is room."""
        waiting, self._waiting = self._waiting, []
        untold, self._untold = self._untold, 0
        self._undecided.clear()
        if self._is_logged:
            _log(waiting, untold)
        if not waiting:
            return
        try:
            async with asyncio.timeout(5.0):
                records = [(None, value) for value in packed(waiting, encode_json)]
                await self._publisher.send_all(self._topic, self._partition, records)
        except Exception as error:
            log.warning("%d answers are sent later: %r", len(waiting), error)
            self._waiting = (waiting + self._waiting)[:WAITING_MAX]


def _log(answers: Sequence[Answer], untold: int) -> None:
    """Write one line an answer, all at once."""
    rows = [
        {
            "request_id": each.request_id,
            "operation": each.operation,
            "status": each.status,
            "code": each.code or "-",
            "project": each.project or "-",
            "key_id": each.key_id or "-",
            "entry_ids": ",".join(each.entry_ids) or "-",
            "answered_at_ms": each.answered_at_ms,
        }
        for each in answers
    ]
    if rows:
        log.info("answered", extra={"rows": rows})
    if untold:
        log.info("%d answers of a flood are only counted", untold)
