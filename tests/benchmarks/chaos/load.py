"""The load of `meterline bench chaos`: usage by Kafka and by HTTP, with poison among it, admissions and top-ups, and
what each was answered.

The load repeats everything until there is a definite answer, as a careful client does: events under their own ids,
requests under their own idempotency key. So whatever it holds as acknowledged must be in the history exactly once.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections import Counter, deque
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any

import httpx

from api.stack import Stack
from schemas.commands import ADMISSION_SOURCE
from schemas.events import UsageEvent
from schemas.prices import FIRST_PRICE_BOOK, MICROCREDITS_PER_CREDIT
from schemas.problems import Rejection
from streams.client.http_producer import HttpProducer
from streams.client.kafka_producer import KafkaProducer
from streams.client.producer import Producer, usage_event
from streams.kafka.publisher import Publisher
from streams.kafka.topics import topics_of
from tests.benchmarks.poison import poisons

EVENT_SOURCE = "/chaos"
SPENDERS = 10
TICK_SECONDS = 0.05
RETRY_SECONDS = 0.1
REQUEST_SECONDS_MAX = 8.0
TOP_UP_USD = 20
RECENT_EVENTS = 2_000
EVENTS_AT_ONCE = 500
# Poisoned records come this often, and every other one has a good event in it.
POISON_SECONDS = 0.25

# (operation, quantity). An operation that costs nothing is decided and recorded all the same.
_MIX = (("chat.message", 1), ("page.edit", 1), ("social_post.text", 1), ("translation", 2), ("image", 1), ("read", 1))
_SHARES = (50, 20, 10, 6, 8, 6)


@dataclass(frozen=True, slots=True)
class Told:
    """The answer to an admission: its status, the microcredits charged, and the entry that says so."""

    project: str
    cost: int
    status: int
    microcredits: int
    entry_id: str


@dataclass(slots=True)
class Book:
    """The book of what was acknowledged. `events` has (project, cost in microcredits) by id, `admissions` the answers
    by (source, event id), `top_ups` projects by reference. `unexpected` describes answers that should never occur.
    `poisoned_records` counts the records that were sent and are no usage, or not only that. `timings` has, for each
    request, the monotonic time at which it was asked and the seconds to its definite answer."""

    events: dict[str, tuple[str, int]] = field(default_factory=dict)
    admissions: dict[tuple[str, str], Told] = field(default_factory=dict)
    top_ups: dict[str, str] = field(default_factory=dict)
    # The decision is definite, but there is no answer to compare with: the reply is no longer kept.
    expired_replies: set[str] = field(default_factory=set)
    duplicates_sent: int = 0
    poisoned_records: int = 0
    timings: list[tuple[float, float]] = field(default_factory=list)
    retries: Counter[str] = field(default_factory=Counter)
    statuses: Counter[int] = field(default_factory=Counter)
    unexpected: list[str] = field(default_factory=list)


def microcredits(credits: str) -> int:
    """The microcredits in a decimal string of credits, exact."""
    return int(Decimal(credits) * MICROCREDITS_PER_CREDIT)


class Load:
    """A load runs between `start` and `finish`; `finish` returns once all requests have their definite answer.

    `spenders` ask for admissions, a few times a second each. `impatient` is the share of requests whose caller gives
    the first try up at once and asks again.
    """

    def __init__(
        self,
        stack: Stack,
        projects: int,
        events_per_second: float,
        seed: int,
        *,
        spenders: int = SPENDERS,
        impatient: float = 0.05,
    ) -> None:
        self.book = Book()
        self.projects = [f"chaos-{number:03d}" for number in range(projects)]
        # Half of the projects have a contract that lasts. The others have as little as the free plan gives, and run out
        # of credits again and again.
        self.poor = self.projects[1::2]
        self._stack = stack
        self._events_per_second = events_per_second
        self._seed = seed
        self._spenders = spenders
        self._impatient = impatient
        self._chance = random.Random(seed)
        self._admin = {"authorization": f"Bearer {stack.admin_key}"}
        self._keys: dict[str, str] = {}
        self._recent: deque[UsageEvent] = deque(maxlen=RECENT_EVENTS)
        self._waiting: dict[type[Producer], deque[tuple[UsageEvent, int]]] = {
            KafkaProducer: deque(),
            HttpProducer: deque(),
        }
        self._numbers = 0
        self._stopping = asyncio.Event()
        # Once nobody is left who could still have an event to send.
        self._all_told = asyncio.Event()
        self._delivering: list[asyncio.Task[None]] = []
        self._tasks: list[asyncio.Task[None]] = []
        self._http = self._client()

    def _client(self) -> httpx.AsyncClient:
        # Each spender has one: a pool of httpx goes through all its connections at every request.
        return httpx.AsyncClient(base_url=self._stack.url, timeout=REQUEST_SECONDS_MAX, verify=False, trust_env=False)

    async def open_projects(self) -> None:
        """Open the projects, each third one with a key of its own, before anything is broken."""
        await asyncio.gather(*(self._open(number, project) for number, project in enumerate(self.projects)))

    async def _open(self, number: int, project: str) -> None:
        plan = {"plan": "enterprise", "contract_credits": 250 if project in self.poor else 10_000_000}
        opened = await self._http.post("/v1/admin/projects", json={"project": project} | plan, headers=self._admin)
        opened.raise_for_status()
        # The load is about credits: no limit stops it, however busy its busiest projects are.
        limits = {"requests_per_minute": 1_000_000, "burst": 2_000_000, "cost_ceiling": "1000000"}
        lifted = await self._http.put(f"/v1/admin/projects/{project}/limits", json=limits, headers=self._admin)
        lifted.raise_for_status()
        if number % 3 == 0:
            made = await self._http.post(f"/v1/admin/projects/{project}/keys", json={}, headers=self._admin)
            self._keys[project] = made.raise_for_status().json()["key"]

    def start(self, *, poisoned: bool = True) -> None:
        """Start the load, with poison among its usage or without."""
        kafka_settings = self._stack.settings
        makers: dict[type[Producer], Callable[[], Producer]] = {
            KafkaProducer: lambda: KafkaProducer(kafka_settings, events_per_pack=20, linger_ms=5),
            HttpProducer: lambda: HttpProducer(self._stack.url, self._stack.admin_key, attempts_max=3),
        }
        self._tasks = [
            asyncio.create_task(self._make_events()),
            asyncio.create_task(self._top_up_now_and_then()),
            *(asyncio.create_task(self._spend()) for _ in range(self._spenders)),
        ]
        if poisoned:
            self._tasks.append(asyncio.create_task(self._poison()))
        self._delivering = [asyncio.create_task(self._deliver(kind, make)) for kind, make in makers.items()]
        self._tasks += self._delivering

    async def finish(self) -> None:
        """Ask nothing new, and wait for the requests that are under way, and then for the events of their jobs."""
        self._stopping.set()
        await asyncio.gather(*(task for task in self._tasks if task not in self._delivering))
        self._all_told.set()
        await asyncio.gather(*self._delivering)

    async def close(self) -> None:
        """Stop the load at once."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._http.aclose()

    def check(self) -> None:
        """Raise the error that ended a part of the load, where there is one."""
        for task in self._tasks:
            if task.done() and not task.cancelled():
                task.result()

    @property
    def unanswered(self) -> int:
        """How many events are not acknowledged yet."""
        return sum(map(len, self._waiting.values()))

    async def available_at_the_end(self) -> dict[str, tuple[int, int]]:
        """The available microcredits of each project, as (the owner's figure, the figure of the API's own copy)."""
        found = {}
        for project in self.projects:
            answer = await self._admit(self._http, project, "read", 1, f"final-{project}", "", "")
            query = {"project": project, "min_offset": answer["offset"]}
            shown = await self._http.get("/v1/balance", params=query, headers=self._admin)
            found[project] = (
                microcredits(answer["available"]),
                microcredits(shown.raise_for_status().json()["available"]),
            )
        return found

    async def _make_events(self) -> None:
        owed = 0.0
        while not self._stopping.is_set():
            owed += self._events_per_second * TICK_SECONDS
            while owed >= 1:
                owed -= 1
                kind = HttpProducer if self._chance.random() < 0.15 else KafkaProducer
                if self._recent and self._chance.random() < 0.04:
                    self.book.duplicates_sent += 1
                    self._waiting[kind].append((self._chance.choice(self._recent), -1))
                    continue
                operation, quantity = self._operation()
                event = usage_event(
                    self._project(), operation, quantity=quantity, id=self._name("event"), source=EVENT_SOURCE
                )
                self._recent.append(event)
                self._waiting[kind].append((event, FIRST_PRICE_BOOK.rates[operation] * quantity))
            await asyncio.sleep(TICK_SECONDS)

    async def _deliver(self, kind: type[Producer], make: Callable[[], Producer]) -> None:
        """Send the waiting events, over a new connection whenever the last one has failed."""
        waiting = self._waiting[kind]
        while waiting or not self._all_told.is_set():
            try:
                async with make() as producer:
                    while waiting or not self._all_told.is_set():
                        if not waiting:
                            await asyncio.sleep(TICK_SECONDS)
                            continue
                        await self._deliver_some(producer, waiting)
            except Exception as error:
                self.book.retries[f"{kind.__name__}: {type(error).__name__}"] += 1
                await asyncio.sleep(RETRY_SECONDS)

    async def _poison(self) -> None:
        """Write records to usage that are no usage events, or not only: a good one among bad ones is billed."""
        numbers = 0

        def good() -> UsageEvent | None:
            nonlocal numbers
            numbers += 1
            if numbers % 2:
                return None
            operation, quantity = self._operation()
            return usage_event(
                self._project(), operation, quantity=quantity, id=self._name("poisoned"), source=EVENT_SOURCE
            )

        topic, partitions = topics_of(self._stack.settings).usage, self._stack.settings.partitions
        for poison, event in poisons(self._seed, good):
            while not await self._written(topic, self._chance.randrange(partitions), poison.value):
                await asyncio.sleep(RETRY_SECONDS)
            self.book.poisoned_records += 1
            if event is not None:
                cost = FIRST_PRICE_BOOK.rates[event.data.operation] * (event.data.quantity or 1)
                self.book.events[event.id] = (event.subject, cost)
            if self._stopping.is_set():
                return
            await asyncio.sleep(POISON_SECONDS)

    async def _written(self, topic: str, partition: int, value: bytes) -> bool:
        """Write one record, over a connection of its own. Returns False where the broker is away."""
        publisher = Publisher(self._stack.settings)
        try:
            await publisher.start()
            await (await publisher.send(topic, partition, value))
        except Exception as error:
            self.book.retries[f"poison: {type(error).__name__}"] += 1
            return False
        finally:
            with suppress(Exception):
                await publisher.stop()
        return True

    async def _deliver_some(self, producer: Producer, waiting: deque[tuple[UsageEvent, int]]) -> None:
        some = [waiting.popleft() for _ in range(min(len(waiting), EVENTS_AT_ONCE))]
        sent = [await producer.send(event) for event, _ in some]
        failure: Exception | None = None
        for (event, cost), each in zip(some, sent, strict=True):
            try:
                await each
            except Rejection as error:
                self.book.unexpected.append(f"{event.id}: {error.code} {error}")
            except Exception as error:
                failure = error
                waiting.append((event, cost))
            else:
                if cost >= 0:
                    self.book.events[event.id] = (event.subject, cost)
        if failure is not None:
            raise failure

    async def _spend(self) -> None:
        async with self._client() as http:
            await self._spend_by(http)

    async def _spend_by(self, http: httpx.AsyncClient) -> None:
        while not self._stopping.is_set():
            operation, quantity = self._operation()
            # The busiest projects are poor ones: that is where callers compete for the last credits.
            project = self._chance.choice(self.poor[:8]) if self._chance.random() < 0.5 else self._project()
            name = self._name("request")
            source = id = ""
            if self._chance.random() < 0.15:
                source, id = EVENT_SOURCE + "/admitted", name
            await self._admit(http, project, operation, quantity, name, source, id)
            told = self.book.admissions.get((source or ADMISSION_SOURCE, id or f"key:{name}"))
            if id and told is not None and told.status == 200:
                # The event that follows an admission names it, and is not billed again.
                event = usage_event(project, operation, quantity=quantity, id=id, source=source)
                self.book.duplicates_sent += 1
                self._waiting[KafkaProducer].append((event, -1))
            if self._chance.random() < 0.05:
                await self._admit(http, project, operation, quantity, name, source, id)
            if self._chance.random() < 0.15:
                await self._hold_and_report(http, operation, quantity)
            await asyncio.sleep(self._chance.uniform(0.02, 0.4))

    async def _admit(
        self, http: httpx.AsyncClient, project: str, operation: str, quantity: int, name: str, source: str, id: str
    ) -> dict[str, Any]:
        body: dict[str, Any] = {"operation": operation, "quantity": quantity}
        key = self._keys.get(project)
        if key is None:
            body["project"] = project
        if id:
            body |= {"source": source, "id": id}
        headers = {"authorization": f"Bearer {key}"} if key else self._admin
        response = await self._ask(http, "/v1/admissions", body, headers | {"idempotency-key": name}, (200, 402, 409))
        answer: dict[str, Any] = response.json()
        self.book.statuses[response.status_code] += 1
        place = (source or ADMISSION_SOURCE, id or f"key:{name}")
        cost = FIRST_PRICE_BOOK.rates[operation] * quantity
        if response.status_code == 409:
            self._take_conflict(name, answer)
            self.book.admissions.setdefault(place, Told(project, cost, 409, 0, ""))
            return answer
        charged = microcredits(answer["credits"]) if response.status_code == 200 else 0
        told = Told(project, cost, response.status_code, charged, answer.get("entry_id", ""))
        before = self.book.admissions.setdefault(place, told)
        if before != told and before.status != 409:
            self.book.unexpected.append(f"{name}: first {before}, then {told}")
        return answer

    async def _hold_and_report(self, http: httpx.AsyncClient, operation: str, quantity: int) -> None:
        """Hold a job's credits, and report the job by its event. Nobody captures the hold: the event does, or it is
        charged like any other where the hold has expired. The project is one whose credits last."""
        name, project = self._name("job"), self._chance.choice(self.projects[::2])
        body = {"project": project, "operation": operation, "quantity": quantity, "source": EVENT_SOURCE, "id": name}
        body |= {"job_id": name, "hold": True, "hold_seconds": self._chance.choice([1, 600])}
        headers = self._admin | {"idempotency-key": name}
        response = await self._ask(http, "/v1/admissions", body, headers, (200, 409))
        if response.status_code == 409:
            self._take_conflict(name, response.json())
        event = usage_event(project, operation, quantity=quantity, id=name, source=EVENT_SOURCE)
        self._waiting[KafkaProducer].append((event, FIRST_PRICE_BOOK.rates[operation] * quantity))

    async def _top_up_now_and_then(self) -> None:
        while not self._stopping.is_set():
            project, name = self._chance.choice(self.poor), self._name("bundle")
            await self._top_up(project, name)
            if self._chance.random() < 0.1:
                await self._top_up(project, name)
            await asyncio.sleep(self._chance.uniform(0.2, 1.0))

    async def _top_up(self, project: str, name: str) -> None:
        body = {"bundle_usd": TOP_UP_USD, "reference": name}
        headers = self._admin | {"idempotency-key": name}
        response = await self._ask(self._http, f"/v1/admin/projects/{project}/top-ups", body, headers, (201, 409))
        if response.status_code == 409:
            self._take_conflict(name, response.json())
        self.book.top_ups[name] = project

    def _take_conflict(self, name: str, answer: dict[str, Any]) -> None:
        if answer.get("code") == "idempotency_reply_expired":
            self.book.expired_replies.add(name)
        else:
            self.book.unexpected.append(f"{name}: {answer}")

    async def _ask(
        self,
        http: httpx.AsyncClient,
        path: str,
        body: dict[str, Any],
        headers: dict[str, str],
        definite: tuple[int, ...],
    ) -> Any:
        """Ask until there is one of the definite answers. Only a 5xx or a broken connection is a reason to repeat."""
        # Some requests give up early, and so are sent again while the first attempt is still under way.
        patience = 0.03 if self._chance.random() < self._impatient else REQUEST_SECONDS_MAX
        asked_at = time.monotonic()
        while True:
            try:
                response = await http.post(path, json=body, headers=headers, timeout=patience)
                if response.status_code in definite:
                    self.book.timings.append((asked_at, time.monotonic() - asked_at))
                    return response
                if response.status_code < 500:
                    self.book.unexpected.append(f"{path}: {response.status_code} {response.text}")
                self.book.retries[str(response.status_code)] += 1
            except httpx.TransportError as error:
                self.book.retries[type(error).__name__] += 1
            patience = REQUEST_SECONDS_MAX
            await asyncio.sleep(RETRY_SECONDS)

    def _project(self) -> str:
        return self.projects[min(int(self._chance.expovariate(6 / len(self.projects))), len(self.projects) - 1)]

    def _operation(self) -> tuple[str, int]:
        return self._chance.choices(_MIX, _SHARES)[0]

    def _name(self, what: str) -> str:
        self._numbers += 1
        return f"{what}-{self._numbers:07d}"
