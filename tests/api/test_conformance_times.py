"""The conformance cases that take days, by HTTP: the intake log is written with their times, all else is real."""

import asyncio
import json
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest

from api.callers.keys import hash_key
from api.stack import Stack
from schemas.accounts import Limits
from schemas.commands import AnyCommand, CountRequest, CreateKey, CreateProject, SetLimits, SetStanding, Tick, TopUp
from schemas.times import DAY_MS
from streams.client.http_producer import HttpProducer
from streams.client.producer import usage_event
from streams.core.limits import CEILING_MAX
from streams.embedded.broker import EmbeddedBroker
from streams.kafka.codecs import encode_intake
from streams.settings import Settings
from tests.calls import Operator, eventually
from tests.core.builders import addressed, admit, usage
from tests.kafka.written_log import create_intake, write_intake

CONFORMANCE = Path(__file__).parent.parent / "conformance"
RATE_LIMITS = json.loads((CONFORMANCE / "rate_limit.json").read_text())["cases"]
RENEWALS = json.loads((CONFORMANCE / "renewal.json").read_text())["cases"]
REFUNDS = json.loads((CONFORMANCE / "refund.json").read_text())["cases"]
TIME_OF_DAY_MS = 15 * 3_600_000
# The time that the stack is given to read what is written.
LATER_MS = 10_000
# The bursts age out one after the other: however late a test comes to them, one is about to age out.
BURSTS = 60


def burst_ms(number: int) -> int:
    """The time at which a burst comes, in ms from the beginning."""
    return 5_000 * number - 50_000


def day_ms(text: str) -> int:
    return int(datetime.fromisoformat(text).replace(tzinfo=UTC).timestamp() * 1000)


def until_later(operator: Operator) -> None:
    while time.time_ns() // 1_000_000 < operator.began_ms + LATER_MS:
        time.sleep(0.02)


def aging_burst(operator: Operator) -> tuple[str, str]:
    """The (key, project) of the first burst that has not aged out yet; waits until 3 seconds before it does."""
    aging_ms = operator.began_ms + 60_000 - 3_000
    number = next(each for each in range(BURSTS) if aging_ms + burst_ms(each) > time.time_ns() // 1_000_000)
    while time.time_ns() // 1_000_000 < aging_ms + burst_ms(number):
        time.sleep(0.02)
    return f"mtl_live_waiting_{number}.secret", f"waiting_{number}"


def create(project: str) -> AnyCommand:
    return CreateProject(project=project, name="", plan="free", contract_allowance=0, **addressed(project))


def key_of(project: str) -> AnyCommand:
    """The command that makes the key `mtl_live_<project>.secret`."""
    return CreateKey(
        project=project,
        key_id="key_1",
        key_hash=hash_key(f"mtl_live_{project}.secret"),
        environment="production",
        scopes=["*"],
        **addressed(f"key-{project}"),
    )


def read(project: str, name: str) -> AnyCommand:
    return CountRequest(
        project=project, operation="GET /v1/balance", environment="production", **addressed(f"{project}-{name}")
    )


# Refused by the owner, one by one, or by the API.
LIMITED = "countIf(reason = 'rate_limited') + sumIf(quantity, reason = 'limited_at_edge')"


def log_of(now_ms: int) -> list[tuple[int, object]]:
    """Read the intake log of the time before, and about, `now_ms`: each command with its time, in order."""
    records: list[tuple[int, object]] = []
    for number, case in enumerate(RENEWALS):
        project = f"renewal_{number}"
        records.append((day_ms(case["signed_up"]) + TIME_OF_DAY_MS, create(project)))
        records += [(day_ms(day) + TIME_OF_DAY_MS + 1, Tick([project])) for day in case["renewals"]]
    for number, case in enumerate(REFUNDS):
        project = f"refund_{number}"
        # A refundable bundle is an hour younger than the case says, since the refund is asked for a little later.
        bought_ms = now_ms - case["days"] * DAY_MS + (3_600_000 if case["refundable"] else 0)
        bundle = TopUp(project=project, environment="preview", bundle_usd=20, reference="", **addressed(f"t{number}"))
        records += [(bought_ms, create(project)), (bought_ms, bundle)]
        # The uses cost more than a minute may, so the ceiling is lifted.
        lifted = Limits(0, 0, cost_ceiling=CEILING_MAX)
        limits = SetLimits(project=project, limits=lifted, is_shadow=False, reason="", **addressed(f"l{number}"))
        records.append((bought_ms, limits))
        if not case.get("good_standing", True):
            bad = SetStanding(project=project, is_good=False, reason="unpaid", **addressed(f"s{number}"))
            records.append((bought_ms, bad))
    for number, case in enumerate(RATE_LIMITS):
        project = f"limit_{number}"
        records.append((now_ms - 300_000, create(project)))
        # The same case once more, for calls that are no admissions.
        records.append((now_ms - 300_000, create(f"calls_{number}")))
        records.append((now_ms - 300_000, key_of(f"calls_{number}")))
        *steps, last = case["steps"]
        for step in steps:
            # The last step is made by HTTP, about now; the ones before it happened as long ago as the case says.
            at_ms = now_ms + LATER_MS - round((last["t"] - step["t"]) * 1000)
            names = [f"{number}-{step['t']}-{each}" for each in range(step["n"])]
            uses = [usage(name, project, operation="read", occurred_at_ms=at_ms) for name in names]
            records += [(at_ms, admit(used, used.event_id)) for used in uses]
            records += [(at_ms, read(f"calls_{number}", name)) for name in names]
    for number in range(BURSTS):
        project = f"waiting_{number}"
        records += [(now_ms - 300_000, create(project)), (now_ms - 300_000, key_of(project))]
        records += [(now_ms + burst_ms(number), read(project, f"{each}")) for each in range(60)]
    return sorted(records, key=lambda record: record[0])


@pytest.fixture(scope="module")
def operator(broker: EmbeddedBroker, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Operator]:
    """An operator at a stack whose intake log was written with times of the past. It has one partition, so that one log
    holds everything in order of time."""
    settings = Settings(
        kafka_url=broker.url,
        topic_prefix="conformance",
        partitions=1,
        data_dir=tmp_path_factory.mktemp("conformance"),
        api_port=0,
        clickhouse_front_port=0,
        tick_seconds=0,
        # Some cases are of next year.
        clock_ahead_seconds_max=10 * 365 * 86_400,
    )
    asyncio.run(create_intake(settings))
    with Stack(settings) as stack:
        operator = Operator(stack)
        operator.began_ms = time.time_ns() // 1_000_000
        records = [(0, at_ms, encode_intake(body)) for at_ms, body in log_of(operator.began_ms)]
        asyncio.run(write_intake(settings, records))
        yield operator


@pytest.mark.parametrize("number", range(len(RATE_LIMITS)), ids=[case["name"] for case in RATE_LIMITS])
def test_conformance_rate_limits(operator: Operator, number: int) -> None:
    case, project = RATE_LIMITS[number], f"limit_{number}"
    *steps, last = case["steps"]
    until_later(operator)
    answers = [
        operator.http.post("/v1/admissions", json={"project": project, "operation": "read"}) for _ in range(last["n"])
    ]
    assert sum(answer.status_code == 200 for answer in answers) == last["admitted"], [a.text for a in answers]
    for answer in answers:
        assert answer.headers["x-ratelimit-limit"] == "30"
        assert answer.headers["x-request-id"]
        assert int(answer.headers["x-ratelimit-reset"]) >= operator.began_ms // 1000
        assert ("retry-after" in answer.headers) == (answer.status_code == 429)
        if answer.status_code == 429:
            problem = answer.json()
            assert (problem["code"], problem["instance"]) == ("rate_limited", answer.headers["x-request-id"])
            assert project in problem["detail"]
            assert 1 <= int(answer.headers["retry-after"]) <= 60
    expected = sum(step["admitted"] for step in case["steps"])

    def told() -> tuple[int, int]:
        sql = f"SELECT countIf(kind = 'charge'), {LIMITED} FROM facts WHERE project = '{project}'"
        ((charged, limited),) = operator.rows(operator.clickhouse_url, sql)
        return int(charged), int(limited)

    asked = sum(step["n"] for step in case["steps"])
    eventually(lambda: sum(told()) == asked)
    assert told() == (expected, asked - expected)


@pytest.mark.parametrize("number", range(len(RATE_LIMITS)), ids=[case["name"] for case in RATE_LIMITS])
def test_conformance_rate_limits_of_calls(operator: Operator, number: int) -> None:
    *steps, last = RATE_LIMITS[number]["steps"]
    until_later(operator)
    with operator.client(f"mtl_live_calls_{number}.secret") as client:
        answers = [client.get("/v1/balance") for _ in range(last["n"])]
    assert sum(answer.status_code == 200 for answer in answers) == last["admitted"]
    for answer in answers:
        assert answer.headers["x-ratelimit-limit"] == "30"
        assert ("retry-after" in answer.headers) == (answer.status_code == 429)
    counts = f"countIf(kind = 'request'), {LIMITED}"
    sql = f"SELECT {counts} FROM facts WHERE project = 'calls_{number}'"
    asked, admitted = (sum(step[what] for step in [*steps, last]) for what in ("n", "admitted"))
    wanted = [[str(admitted), str(asked - admitted)]]
    eventually(lambda: operator.rows(operator.clickhouse_url, sql) == wanted)


def test_a_call_passes_after_as_long_as_retry_after_says_and_not_much_before(operator: Operator) -> None:
    key, _ = aging_burst(operator)
    with operator.client(key) as client:
        answer = client.get("/v1/balance")
        assert answer.status_code == 429
        seconds = int(answer.headers["retry-after"])
        told_at = time.monotonic()
        assert 1 <= seconds <= 5
        while time.monotonic() < told_at + seconds - 1.2:
            assert client.get("/v1/balance").status_code == 429
        while time.monotonic() < told_at + seconds:
            time.sleep(0.01)
        assert client.get("/v1/balance").status_code == 200


def test_a_producer_over_its_limit_waits_and_loses_no_event(operator: Operator) -> None:
    key, project = aging_burst(operator)

    async def send() -> HttpProducer:
        async with HttpProducer(operator.url, key, events_per_pack=1, attempts_max=1) as producer:
            for number in range(3):
                await producer.send(usage_event(project, "read", id=str(number), source="/h"))
        return producer

    began_at = time.monotonic()
    producer = asyncio.run(send())
    assert (producer.acknowledged, dict(producer.errors)) == (3, {})
    assert time.monotonic() - began_at > 0.5


def test_a_forwarded_address_is_not_believed_unless_told_so(operator: Operator) -> None:
    with operator.client(None) as client:
        left = [
            int(client.get("/v1/prices", headers={"x-forwarded-for": address}).headers["x-ratelimit-remaining"])
            for address in ("198.51.100.1", "198.51.100.2", "198.51.100.3")
        ]
    assert left == [left[0], left[0] - 1, left[0] - 2]


@pytest.mark.parametrize("number", range(len(RENEWALS)), ids=[case["name"] for case in RENEWALS])
def test_conformance_renewals(operator: Operator, number: int) -> None:
    case = RENEWALS[number]

    def allowances() -> list[str]:
        page = operator.http.get("/v1/ledger", params={"project": f"renewal_{number}"}).json()
        return [entry["occurred_at"] for entry in reversed(page.get("entries", ())) if entry["kind"] == "grant"]

    days = [f"{day}T15:00:00Z" for day in (case["signed_up"], *case["renewals"])]
    eventually(lambda: len(allowances()) >= len(days))
    # Renewals that are due by today's clock are booked once somebody asks for more than to read.
    assert allowances()[: len(days)] == days


@pytest.mark.parametrize("number", range(len(REFUNDS)), ids=[case["name"] for case in REFUNDS])
def test_conformance_refunds(operator: Operator, number: int) -> None:
    case, project = REFUNDS[number], f"refund_{number}"
    preview = {"project": project, "environment": "preview"}
    # What the log was written with is decided soon.
    (bundle,) = eventually(lambda: operator.http.get("/v1/balance", params=preview).json().get("top_ups"))
    if int(case["used"]):
        body = {**preview, "operation": "chat.message", "quantity": int(case["used"])}
        assert operator.http.post("/v1/admissions", json=body).status_code == 200
    answer = operator.http.post(f"/v1/admin/projects/{project}/refunds", json={"grant_id": bundle["grant_id"]})
    if case["refundable"]:
        assert (answer.status_code, answer.json()["taken_back"]) == (201, "3000")
    else:
        assert (answer.status_code, answer.json()["code"]) == (409, "not_refundable")
