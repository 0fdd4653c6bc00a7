"""A replay sends a trace through a running Meterline, watches it arrive in ClickHouse, and reports what came of it."""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from typing import Any

import httpx
import orjson

from api.demo.listener import Listener
from api.demo.trace import Trace, events_of, projects_of
from schemas.events import UsageEvent
from streams.clickhouse.client import ClickHouse
from streams.clickhouse.limits import LONG
from streams.client.kafka_producer import KafkaProducer
from streams.core.booking import FACTS_PER_SLOT
from streams.errors import OperatorError
from streams.history.facts import kind_in
from streams.reconcile.verify import verify
from streams.settings import Settings

STALLED_SECONDS = 120.0
NOTICE_SECONDS_MAX = 15.0
# What a project's endpoint has heard once nothing is left.
TOLD_WHEN_EMPTY = ("project.credits_low", "project.credits_exhausted")


class ReplayError(OperatorError):
    """The replay did not come to its end; the message says what is missing and where to look."""


@dataclass(slots=True)
class Progress:
    """The counts of a replay so far. Events are billed, refused or otherwise decided once ClickHouse holds that."""

    sent: int = 0
    acknowledged: int = 0
    billed: int = 0
    refused: int = 0
    duplicate: int = 0
    dead_lettered: int = 0
    stage: str = ""

    @property
    def decided(self) -> int:
        """How many events have their outcome in ClickHouse."""
        return self.billed + self.refused + self.duplicate + self.dead_lettered


@dataclass(slots=True)
class Report:
    """The report of a replay. Its counts are of this run; the drift is over all grants, accounts against ClickHouse."""

    events_sent: int = 0
    events_billed: int = 0
    events_refused: int = 0
    events_duplicate: int = 0
    events_dead_lettered: int = 0
    ledger_entries_in_clickhouse: int = 0
    balance_drift_microcredits: int = 0
    seconds_to_first_charge: float = 0.0
    events_per_second: float = 0.0
    projects: int = 0
    first_refusal: dict[str, Any] | None = None
    balances: list[dict[str, Any]] = field(default_factory=list)
    usage_by_customer: list[dict[str, Any]] = field(default_factory=list)
    usage_project: str = ""
    notices: list[dict[str, Any]] = field(default_factory=list)

    def as_json(self) -> dict[str, Any]:
        """The report as one JSON object."""
        return asdict(self)


@dataclass(frozen=True, slots=True)
class Target:
    """A running Meterline to replay into: its settings (with a Kafka URL), its URLs and its admin key."""

    settings: Settings
    url: str
    clickhouse_url: str
    admin_key: str


async def replay(
    target: Target,
    trace: Trace,
    *,
    project_count: int,
    rounds: int,
    spoil: bool,
    started_at: float,
    progress: Progress,
    on_progress: Callable[[], None],
    listener: Listener | None = None,
) -> Report:
    """Replay a trace: open the projects, charge once by HTTP, send the trace by Kafka, wait until all of it is in
    ClickHouse, and report. A `listener` hears the notices of the first project.

    `spoil` adds a malformed event to every 200 good ones. `started_at` is the `time.monotonic()` from which the first
    charge is timed. Raises ReplayError where events stop arriving.
    """
    report = Report(projects=project_count)
    named = projects_of(trace.name, project_count)
    projects = [project for project, _ in named]
    clickhouse = await asyncio.to_thread(
        ClickHouse, target.settings.model_copy(update={"clickhouse_url": target.clickhouse_url})
    )
    headers = {"authorization": f"Bearer {target.admin_key}"}
    # A connection is given up before the API, which keeps it for 5 s, closes it under a request.
    limits = httpx.Limits(max_connections=32, keepalive_expiry=2.0)
    try:
        async with httpx.AsyncClient(base_url=target.url, headers=headers, limits=limits, timeout=30.0) as client:
            progress.stage = "opening projects"
            await _open_projects(client, named[:1], on_progress)
            await _first_charge(client, projects[0])
            report.seconds_to_first_charge = round(time.monotonic() - started_at, 3)
            await _open_projects(client, named[1:], on_progress)
            endpoint = "" if listener is None else await _listen(client, projects[0], listener)
            progress.stage = "sending"
            before = await _counts(clickhouse, trace.name)
            events = events_of(trace, projects, datetime.now(UTC), rounds)
            began_at = time.monotonic()
            await _send_and_wait(
                target, clickhouse, trace.name, projects[0], events, spoil, before, progress, on_progress
            )
            report.events_per_second = round(progress.sent / (time.monotonic() - began_at), 1)
            progress.stage = "reconciling"
            on_progress()
            report.events_sent = progress.sent
            report.events_billed = progress.billed
            report.events_refused = progress.refused
            report.events_duplicate = progress.duplicate
            report.events_dead_lettered = progress.dead_lettered
            report.first_refusal = await _first_refusal(client, clickhouse, projects)
            # `verify` waits until ClickHouse has all of the journal, the facts of our own HTTP calls included.
            verdict = await verify(target.settings, clickhouse)
            report.balance_drift_microcredits = verdict.drift_microcredits
            report.ledger_entries_in_clickhouse = await _entry_count(clickhouse)
            for project in (projects[0], projects[min(4, len(projects) - 1)], projects[-1]):
                report.balances.append((await _get(client, "/v1/balance", project=project)).json())
            report.usage_project = projects[0]
            usage = await _get(client, "/v1/usage", project=projects[0], group_by="customer_id")
            report.usage_by_customer = usage.json()["rows"]
            if listener is not None and endpoint:
                await _heard(client, projects[0], listener)
                report.notices = list(listener.heard.values())
                await client.delete(f"/v1/webhook-endpoints/{endpoint}", params={"project": projects[0]})
    finally:
        await asyncio.to_thread(clickhouse.close)
    return report


async def _listen(client: httpx.AsyncClient, project: str, listener: Listener) -> str:
    """Make the listener an endpoint of a project; gives its id, or "" where endpoints on this machine are not
    delivered to."""
    asked = {"target": listener.url, "event_types": ["project.*"], "description": "A demo's listener"}
    made = await client.post("/v1/webhook-endpoints", params={"project": project}, json=asked)
    if made.status_code != 201:
        return ""
    listener.trust(made.json()["secret"])
    return str(made.json()["id"])


async def _heard(client: httpx.AsyncClient, project: str, listener: Listener) -> None:
    """Wait until the listener has heard what its project has to be told, where that is without credits; not for long:
    the report says what came."""
    balance = (await _get(client, "/v1/balance", project=project)).json()
    deadline = time.monotonic() + NOTICE_SECONDS_MAX
    while balance["available"] == "0" and not set(TOLD_WHEN_EMPTY) <= set(listener.types()):
        if time.monotonic() > deadline:
            return
        await asyncio.sleep(0.05)


NOT_JSON = b'{"specversion": "1.0", "id": '


def spoiled_events(project: str) -> Iterator[bytes]:
    """Malformed events, of each kind in turn, for ever: they become dead letters."""
    good = {"specversion": "1.0", "type": "demo", "source": "/demo/spoiled", "subject": project}
    image = {"operation": "image"}
    for number in itertools.count():
        named = good | {"id": f"spoiled-{number}"}
        yield orjson.dumps(named | {"data": {"operation": "hologram"}})
        yield orjson.dumps(named | {"data": image | {"quantity": -3}})
        yield orjson.dumps(good | {"data": image})
        yield orjson.dumps(named | {"data": image, "time": "1999-12-31T23:59:59Z"})
        yield orjson.dumps(named | {"data": image | {"metadata": {"prompt": "x" * 5_000}}})
        yield orjson.dumps(named | {"data": image, "subject": "no_such_project"})


async def _open_projects(
    client: httpx.AsyncClient, named: list[tuple[str, str]], on_progress: Callable[[], None]
) -> None:
    async def open_one(project: str, plan: str) -> None:
        body: dict[str, Any] = {"project": project, "name": f"Demo {project[-4:]}", "plan": plan}
        if plan == "enterprise":
            body["contract_credits"] = 500_000
        response = await client.post("/v1/admin/projects", json=body, headers={"idempotency-key": f"open-{project}"})
        if response.status_code not in (201, 409):
            raise ReplayError(f"Project {project} could not be opened: {response.text}")
        on_progress()

    await asyncio.gather(*(open_one(project, plan) for project, plan in named))


async def _first_charge(client: httpx.AsyncClient, project: str) -> None:
    response = await client.post("/v1/admissions", json={"project": project, "operation": "chat.message"})
    if response.status_code not in (200, 402):
        raise ReplayError(f"The first charge failed: {response.text}")


async def _send_and_wait(
    target: Target,
    clickhouse: ClickHouse,
    source: str,
    project: str,
    events: Iterable[UsageEvent],
    spoil: bool,
    before: Progress,
    progress: Progress,
    on_progress: Callable[[], None],
) -> None:
    async with KafkaProducer(target.settings) as producer:

        async def send() -> None:
            wrong = spoiled_events(project)
            for number, event in enumerate(events):
                await producer.send(event)
                progress.sent += 1
                if spoil and number % 200 == 0:
                    await producer.send(next(wrong))
                    progress.sent += 1
                progress.acknowledged = producer.acknowledged
            if spoil:
                # Text that is not JSON is sent alone: it would spoil the whole record that it is packed into.
                await producer.flush()
                await producer.send(NOT_JSON)
                progress.sent += 1
            await producer.flush()
            progress.acknowledged = producer.acknowledged

        sending = asyncio.create_task(send())
        try:
            moved_at, last = time.monotonic(), -1
            while not (sending.done() and progress.decided >= progress.sent):
                await asyncio.sleep(0.1)
                if sending.done():
                    sending.result()
                    progress.stage = "deciding"
                    if producer.errors:
                        raise ReplayError(f"Events were not acknowledged: {dict(producer.errors)}")
                now = await _counts(clickhouse, source)
                progress.billed = now.billed - before.billed
                progress.refused = now.refused - before.refused
                progress.duplicate = now.duplicate - before.duplicate
                progress.dead_lettered = now.dead_lettered - before.dead_lettered
                on_progress()
                if progress.decided + progress.acknowledged != last:
                    last, moved_at = progress.decided + progress.acknowledged, time.monotonic()
                elif time.monotonic() - moved_at > STALLED_SECONDS:
                    raise ReplayError(
                        f"{progress.sent - progress.decided} events did not reach ClickHouse; nothing has arrived for "
                        f"{STALLED_SECONDS:g} seconds. See the worker's and the API's log."
                    )
        finally:
            if not sending.done():
                sending.cancel()
                await asyncio.gather(sending, return_exceptions=True)


async def _counts(clickhouse: ClickHouse, source: str) -> Progress:
    """The counts of events decided so far. An event with two entries counts once: its facts share a slot."""
    rows = await _rows(
        clickhouse,
        f"SELECT kind, uniqExact(partition, offset, intDiv(position, {FACTS_PER_SLOT})) FROM facts "
        f"WHERE source = {{source:String}} AND {kind_in('charge', 'refusal', 'duplicate')} GROUP BY kind",
        {"source": f"/{source}"},
    )
    counts = {row[0]: int(row[1]) for row in rows}
    dead = await _rows(clickhouse, "SELECT uniqExact(topic, partition, offset, position) FROM dead_letters")
    return Progress(
        billed=counts.get("charge", 0),
        refused=counts.get("refusal", 0),
        duplicate=counts.get("duplicate", 0),
        dead_lettered=int(dead[0][0]),
    )


async def _first_refusal(
    client: httpx.AsyncClient, clickhouse: ClickHouse, projects: list[str]
) -> dict[str, Any] | None:
    """The 402 that the first project to run out of credits is answered now, or None where no project has run out."""
    rows = await _rows(
        clickhouse,
        f"SELECT project, operation, quantity FROM facts WHERE {kind_in('refusal')} "
        "AND startsWith(project, {prefix:String}) ORDER BY booked_at, partition, offset, position LIMIT 1",
        {"prefix": projects[0].rpartition("_")[0]},
    )
    if not rows:
        return None
    project, operation, quantity = rows[0]
    response = await client.post(
        "/v1/admissions", json={"project": project, "operation": operation, "quantity": int(quantity)}
    )
    body: dict[str, Any] = response.json()
    return body if response.status_code == 402 else None


async def _entry_count(clickhouse: ClickHouse) -> int:
    rows = await _rows(clickhouse, "SELECT count() FROM ledger_entries")
    return int(rows[0][0])


async def _get(client: httpx.AsyncClient, path: str, **parameters: str) -> httpx.Response:
    response = await client.get(path, params=parameters)
    if response.status_code != 200:
        raise ReplayError(f"GET {path} failed: {response.text}")
    return response


async def _rows(clickhouse: ClickHouse, sql: str, parameters: dict[str, Any] | None = None) -> Sequence[Sequence[Any]]:
    return await asyncio.to_thread(clickhouse.limited(LONG).query, sql, parameters)
