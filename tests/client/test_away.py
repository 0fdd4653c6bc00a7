"""The gateway while Meterline is away lets nothing run, or what a bounded lease covers, and all of it is on record
afterwards.

Worker and API are real, and are stopped and started; a real gateway process is killed.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from decimal import Decimal
from pathlib import Path
from typing import Any

import httpx
import pytest

from api.stack import Stack
from streams.client.admissions import Decision, MeterlineAway
from streams.client.away import Away, AwayCounts
from streams.client.gateway import Gateway, Route
from streams.client.http_admissions import HttpAdmissions
from streams.client.http_producer import HttpProducer
from streams.client.kafka_admissions import KafkaAdmissions
from streams.client.kafka_producer import KafkaProducer
from streams.embedded import lifeline
from streams.errors import OperatorError
from streams.settings import Settings
from tests.calls import Operator, eventually
from tests.client.test_gateway import Service, balance, facts, project_of
from tests.conftest import SESSION_TIMEOUT_SECONDS

CREDIT = 1_000_000
LEASE: dict[str, Any] = {"credits_max": "100", "total_credits_max": "150", "seconds_max": 120.0}
ROUTES = [
    Route("POST", "/v1/messages", operation="chat.message", hold=False),
    Route("POST", "/v1/images", operation="image"),
    Route("POST", "/v1/holograms", operation="hologram"),
    Route("POST", "/v1/premium", operation="video.premium"),
]


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """A stack whose parts these tests stop and start."""
    settings = Settings(
        data_dir=tmp_path_factory.mktemp("away"),
        api_port=0,
        clickhouse_front_port=0,
        session_timeout_seconds=SESSION_TIMEOUT_SECONDS,
    )
    with Stack(settings) as running:
        yield running


@pytest.fixture(scope="module")
def admin(fleet: Stack) -> Operator:
    return Operator(fleet)


@contextmanager
def stopped(fleet: Stack, name: str = "worker-1") -> Iterator[None]:
    """Stop a part of the stack while a block runs."""
    fleet.hold(name)
    try:
        yield
    finally:
        fleet.let_go(name)


def gateway_of(fleet: Stack, service: Service, **changes: Any) -> Gateway:
    parts: dict[str, Any] = {
        "admissions": KafkaAdmissions(fleet.settings, timeout_seconds=1.0),
        "producer": KafkaProducer(fleet.settings),
        "routes": ROUTES,
        "project_of": project_of,
    }
    return Gateway(service.app, **(parts | changes))


@asynccontextmanager
async def client_of(gateway: Gateway, project: str) -> AsyncIterator[httpx.AsyncClient]:
    transport = httpx.ASGITransport(gateway, raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport, base_url="http://service") as client:
        client.headers["x-project"] = project
        # The time of the lease counts from this decision.
        assert (await client.get("/hello")).status_code == 200
        yield client


async def until(check: Callable[[], Any]) -> None:
    await asyncio.to_thread(eventually, check, 60)


def billed(fleet: Stack, admin: Operator, project: str) -> list[str]:
    """The credits that each charged event of a project cost, where it cost anything."""
    sql = (
        f"SELECT event_id, toString(-sum(amount)) FROM facts WHERE project = '{project}' AND kind = 'charge' "
        "AND amount < 0 GROUP BY event_id ORDER BY 2"
    )
    return [amount for _, amount in admin.rows(fleet.clickhouse_url, sql)]


def test_by_default_nothing_runs_and_the_balance_is_as_if_nothing_had_been_asked(fleet: Stack, admin: Operator) -> None:
    project = admin.project()

    async def scenario() -> None:
        service = Service()
        async with gateway_of(fleet, service) as gateway, client_of(gateway, project) as client:
            with stopped(fleet):
                refused = await client.post("/v1/images", headers={"idempotency-key": "k"})
                assert (refused.status_code, refused.json()["code"]) == (503, "admission_unavailable")
                assert refused.headers["content-type"] == "application/problem+json"
                assert refused.headers["retry-after"] == "1"
                assert refused.json()["instance"] == refused.headers["x-request-id"]
                assert service.ran == ["/hello"]
                assert gateway.away.overdraft_max == 0

            async def is_answered() -> bool:
                return (await client.post("/v1/images", headers={"idempotency-key": "k"})).status_code == 200

            # The hold that was asked for while Meterline was away is found, and not placed once more.
            while not await is_answered():
                pass
        await until(lambda: balance(admin, project) == ("218", "0"))

    asyncio.run(scenario())


def test_the_lease_is_exact_however_many_ask_at_once_and_all_of_it_is_billed_once(
    fleet: Stack, admin: Operator, tmp_path: Path
) -> None:
    # With credits for all that is asked at once: requests that the gateway gave up on hold some for a moment.
    one, two = admin.project("hobby"), admin.project("hobby")

    async def scenario() -> None:
        service, away = Service(), Away(tmp_path / "away.sqlite3", **LEASE)
        async with gateway_of(fleet, service, away=away) as gateway, client_of(gateway, one) as client:
            assert away.overdraft_max == 150
            with stopped(fleet):
                answers = await asyncio.gather(*(client.post("/v1/images") for _ in range(20)))
                # The lease is 100 credits a project: three images of 32.
                assert sorted(each.status_code for each in answers) == [200] * 3 + [503] * 17
                others = {"x-project": two}
                answers = await asyncio.gather(*(client.post("/v1/images", headers=others) for _ in range(20)))
                # The lease is 150 credits in all: one more image.
                assert sorted(each.status_code for each in answers) == [200] + [503] * 19
                assert (away.counts.admitted, away.counts.leased) == (4, 4 * 32)
                # An operation without a price is refused, never free; one that needs a plan may not be allowed.
                assert (await client.post("/v1/holograms")).status_code == 503
                assert (await client.post("/v1/premium", headers=others)).status_code == 503
                assert len(service.ran) == 5
            await until(lambda: away.counts.waiting == 0)
            assert (away.counts.leased, away.counts.uncovered) == (0, 0)

    asyncio.run(scenario())
    # The requests that the gateway refused have placed holds all the same: those are released.
    eventually(lambda: balance(admin, one) == (str(5_000 - 3 * 32), "0"))
    eventually(lambda: balance(admin, two) == (str(5_000 - 32), "0"))
    eventually(lambda: billed(fleet, admin, one) == [str(32 * CREDIT)] * 3)
    eventually(lambda: billed(fleet, admin, two) == [str(32 * CREDIT)])


class Listening(KafkaAdmissions):
    """An admission client that notes which events were asked about."""

    def __init__(self, *parts: Any, **named: Any) -> None:
        super().__init__(*parts, **named)
        self.asked: set[str] = set()

    async def admit(self, project: str, operation: str, *, id: str, **said: Any) -> Decision:
        self.asked.add(id)
        return await super().admit(project, operation, id=id, **said)


def test_while_nothing_answers_only_the_first_waits_for_it(fleet: Stack, admin: Operator, tmp_path: Path) -> None:
    project = admin.project()

    async def scenario() -> None:
        service, away = Service(), Away(tmp_path / "away.sqlite3", **LEASE)
        listening = Listening(fleet.settings, timeout_seconds=1.0)
        asked_before_it_ran: list[int] = []

        async def noting(scope: Any, receive: Any, send: Any) -> None:
            if scope["type"] == "http":
                asked_before_it_ran.append(len(listening.asked))
            await service.app(scope, receive, send)

        parts = {"admissions": listening, "producer": KafkaProducer(fleet.settings)}
        gateway = Gateway(noting, routes=ROUTES, project_of=project_of, away=away, **parts)
        async with gateway, client_of(gateway, project) as client:
            asked_before_it_ran.clear()
            listening.asked.clear()
            with stopped(fleet):
                assert not away.is_silent
                for number in range(6):
                    assert (await client.post("/v1/messages")).status_code == 200
                    # Only the first request's own event was asked about; events of earlier ones may be settled already.
                    assert asked_before_it_ran[number] <= max(1, number)
                    assert away.is_silent
            await until(lambda: away.counts.waiting == 0)
            assert not away.is_silent
            assert (await client.post("/v1/messages")).status_code == 200
            assert len(listening.asked) == 7

    asyncio.run(scenario())
    eventually(lambda: balance(admin, project) == (str(250 - 7), "0"))


def test_what_failed_meanwhile_is_released_and_a_part_is_captured_as_a_part(
    fleet: Stack, admin: Operator, tmp_path: Path
) -> None:
    project = admin.project()

    async def scenario() -> None:
        away = Away(tmp_path / "away.sqlite3", **LEASE)
        async with gateway_of(fleet, Service(), away=away) as gateway, client_of(gateway, project) as client:
            with stopped(fleet):
                assert (await client.post("/v1/images", headers={"x-do": "500"})).status_code == 500
                assert (await client.post("/v1/images", headers={"x-do": "part"})).status_code == 200
                assert (await client.post("/v1/messages")).status_code == 200
                keyed = {"x-do": "keep", "idempotency-key": "job"}
                assert (await client.post("/v1/images", headers=keyed)).status_code == 200
                assert (await client.post("/v1/images", headers=keyed)).status_code == 409
            await until(lambda: away.counts.waiting == 0)
        await until(lambda: balance(admin, project) == (str(250 - 10 - 1 - 32), "32"))

    asyncio.run(scenario())
    eventually(lambda: billed(fleet, admin, project) == [str(CREDIT), str(10 * CREDIT)])


def test_without_credits_at_the_end_the_refusal_is_on_record_and_there_is_no_second_lease(
    fleet: Stack, admin: Operator, tmp_path: Path
) -> None:
    project = admin.project()

    async def scenario() -> None:
        away = Away(tmp_path / "away.sqlite3", **LEASE)
        async with gateway_of(fleet, Service(), away=away) as gateway, client_of(gateway, project) as client:
            with stopped(fleet):
                # Another service is before the gateway in the log, and leaves 10 credits.
                async with KafkaAdmissions(fleet.settings, timeout_seconds=1.0) as another:
                    with pytest.raises(MeterlineAway):
                        await another.admit(project, "website", id="w", source="/another")
                assert (await client.post("/v1/images")).status_code == 200
            await until(lambda: away.counts.waiting == 0)
            assert away.counts == AwayCounts(0, Decimal(0), admitted=1, settled=1, uncovered=Decimal(32))
            with stopped(fleet):
                assert (await client.post("/v1/images")).status_code == 503
                # Reads go on working.
                assert (await client.get("/again")).status_code == 200
            await until(lambda: away.counts.waiting == 0)
        await until(lambda: balance(admin, project) == ("10", "0"))

    asyncio.run(scenario())
    # One refusal is the decision's, one is of the same asked again, one of the usage event, and one of the request that
    # the gateway refused.
    eventually(lambda: facts(fleet, admin, project).get("refusal") == 4)


def test_a_hold_that_could_not_be_captured_is_captured_later(fleet: Stack, admin: Operator) -> None:
    project = admin.project()

    async def scenario() -> None:
        service = Service()
        async with gateway_of(fleet, service) as gateway, client_of(gateway, project) as client:
            running = asyncio.create_task(client.post("/v1/images", headers={"x-do": "wait"}))
            await service.entered.wait()
            with stopped(fleet):
                service.go_on.set()
                assert (await running).status_code == 200
                assert gateway.away.counts.waiting == 1
            await until(lambda: gateway.away.counts.waiting == 0)
        await until(lambda: balance(admin, project) == ("218", "0"))

    asyncio.run(scenario())


def test_an_api_that_is_away_is_bridged_too_but_not_for_long(fleet: Stack, admin: Operator, tmp_path: Path) -> None:
    project = admin.project()
    key = admin.key(project)["key"]

    async def scenario() -> None:
        away = Away(tmp_path / "away.sqlite3", **(LEASE | {"seconds_max": 5.0}))
        parts = {
            "admissions": HttpAdmissions(fleet.url, key, timeout_seconds=1.0),
            "producer": HttpProducer(fleet.url, key),
        }
        async with gateway_of(fleet, Service(), away=away, **parts) as gateway, client_of(gateway, project) as client:
            with stopped(fleet, "api"):
                await client.get("/hello")
                assert (await client.post("/v1/images")).status_code == 200

                async def is_refused() -> bool:
                    return (await client.get("/hello")).status_code == 503

                while not await is_refused():
                    await asyncio.sleep(0.2)
            await until(lambda: away.counts.waiting == 0)
            assert away.counts.uncovered == 0

    asyncio.run(scenario())
    eventually(lambda: billed(fleet, admin, project) == [str(32 * CREDIT)], 60)


def test_a_killed_broker_is_bridged_and_the_connections_to_it_are_made_anew(
    fleet: Stack, admin: Operator, tmp_path: Path
) -> None:
    project = admin.project()

    async def scenario() -> None:
        away = Away(tmp_path / "away.sqlite3", **LEASE)
        async with gateway_of(fleet, Service(), away=away) as gateway, client_of(gateway, project) as client:
            restarts = fleet.restarts
            os.kill(fleet.pids()["kafka"], signal.SIGKILL)
            assert (await client.post("/v1/images")).status_code == 200
            assert away.counts.leased == 32
            await until(lambda: fleet.restarts > restarts)
            await until(lambda: away.counts.waiting == 0)
            assert (away.counts.settled, away.counts.uncovered) == (1, 0)
            # Window headers show a decision again, and no lease.
            while "x-ratelimit-limit" not in (await client.get("/hello")).headers:
                pass
        await until(lambda: balance(admin, project) == ("218", "0"))

    asyncio.run(scenario())
    eventually(lambda: billed(fleet, admin, project) == [str(32 * CREDIT)], 60)


GATEWAY = """
import os
from pathlib import Path

import uvicorn

from streams.client.kafka_admissions import KafkaAdmissions
from streams.client.away import Away
from streams.client.gateway import Gateway
from streams.client.kafka_producer import KafkaProducer
from streams.settings import Settings
from tests.client.test_away import LEASE, ROUTES
from tests.client.test_gateway import Service, project_of

settings = Settings()
gateway = Gateway(
    Service().app,
    admissions=KafkaAdmissions(settings, timeout_seconds=1.0),
    producer=KafkaProducer(settings),
    routes=ROUTES,
    project_of=project_of,
    away=Away(Path(os.environ["AWAY"]), **LEASE),
)
uvicorn.run(gateway, port=int(os.environ["PORT"]))
"""


@contextmanager
def gateway_process(fleet: Stack, journal: Path, log: Path) -> Iterator[tuple[httpx.Client, lifeline.Child]]:
    """A gateway in a process of its own, and a client of it."""
    port = lifeline.free_port()
    env = fleet.settings.as_environment() | {"AWAY": str(journal), "PORT": str(port), "PYTHONPATH": os.getcwd()}
    child = lifeline.start("gateway", [sys.executable, "-c", GATEWAY], log_path=log, env=env)
    try:
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=30.0) as client:

            def is_up() -> bool:
                assert child.poll() is None, log.read_text()
                try:
                    return client.get("/hello").status_code < 600
                except httpx.TransportError:
                    return False

            eventually(is_up, 60)
            yield client, child
    finally:
        child.stop()


def test_a_killed_gateway_settles_what_it_admitted_once_it_is_back(
    fleet: Stack, admin: Operator, tmp_path: Path
) -> None:
    project, journal = admin.project(), tmp_path / "away.sqlite3"
    headers = {"x-project": project}
    with stopped(fleet):
        fleet.let_go("worker-1")
        with gateway_process(fleet, journal, tmp_path / "first.log") as (client, child):
            eventually(lambda: client.get("/hello", headers=headers).status_code == 200, 60)
            fleet.hold("worker-1")
            assert client.post("/v1/images", headers=headers).status_code == 200
            assert client.post("/v1/messages", headers=headers).status_code == 200
            with pytest.raises(httpx.TransportError):
                # This request runs until the kill: nobody knows how it would have ended.
                client.post("/v1/images", headers=headers | {"x-do": "wait"}, timeout=3.0)

            async def share() -> None:
                with pytest.raises(OperatorError, match="needs its own"):
                    await Away(journal, **LEASE).start(KafkaAdmissions(fleet.settings), KafkaProducer(fleet.settings))

            asyncio.run(share())
            os.kill(child.pid, signal.SIGKILL)
            eventually(lambda: child.poll() is not None)

    async def look() -> AwayCounts:
        away = Away(journal, **LEASE)
        async with KafkaAdmissions(fleet.settings) as admissions, KafkaProducer(fleet.settings) as producer:
            await away.start(admissions, producer)
            counts = away.counts
            await until(lambda: away.counts.waiting == 0)
            await away.stop()
        return counts

    counts = asyncio.run(look())
    assert (counts.waiting, counts.leased) == (3, 32 + 1 + 32)
    eventually(lambda: balance(admin, project) == (str(250 - 33), "0"))
    eventually(lambda: billed(fleet, admin, project) == [str(CREDIT), str(32 * CREDIT)])


def test_a_lease_without_a_journal_is_an_error() -> None:
    with pytest.raises(ValueError, match="journal"):
        Away(seconds_max=1.0)
