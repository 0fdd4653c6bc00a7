"""The conformance cases that take days, by HTTP: the log is written with their times, the rest is the real thing."""

import asyncio
import json
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest

from api.stack import Stack
from schemas.commands import AnyCommand, CreateProject, SetStanding, Tick, TopUp
from streams.broker import EmbeddedBroker
from streams.codecs import encode
from streams.settings import Settings
from tests.client import Operator, eventually
from tests.core.builders import addressed, admit, usage
from tests.streams.written_log import write_intake

CONFORMANCE = Path(__file__).parent.parent / "conformance"
RATE_LIMITS = json.loads((CONFORMANCE / "rate_limit.json").read_text())["cases"]
RENEWALS = json.loads((CONFORMANCE / "renewal.json").read_text())["cases"]
REFUNDS = json.loads((CONFORMANCE / "refund.json").read_text())["cases"]
DAY_MS = 86_400_000
TIME_OF_DAY_MS = 15 * 3_600_000
# For the stack to start and to read what is written.
LATER_MS = 20_000


def day_ms(text: str) -> int:
    return int(datetime.fromisoformat(text).replace(tzinfo=UTC).timestamp() * 1000)


def create(project: str) -> AnyCommand:
    return CreateProject(project=project, name="", plan="free", contract_allowance=0, **addressed(project))


@pytest.fixture(scope="module")
def operator(broker: EmbeddedBroker, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Operator]:
    """One partition, so that one log holds it all in order of time."""
    now_ms = time.time_ns() // 1_000_000
    records: list[tuple[int, object]] = []
    for number, case in enumerate(RENEWALS):
        project = f"renewal_{number}"
        records.append((day_ms(case["signed_up"]) + TIME_OF_DAY_MS, create(project)))
        records += [(day_ms(day) + TIME_OF_DAY_MS + 1, Tick([project])) for day in case["renewals"]]
    for number, case in enumerate(REFUNDS):
        project = f"refund_{number}"
        # A minute short of the day, for the time until the refund is asked for.
        bought_ms = now_ms - case["days"] * DAY_MS + (60_000 if case["refundable"] else 0)
        bundle = TopUp(project=project, environment="preview", bundle_usd=20, reference="", **addressed(f"t{number}"))
        records += [(bought_ms, create(project)), (bought_ms, bundle)]
        if not case.get("good_standing", True):
            bad = SetStanding(project=project, is_good=False, reason="unpaid", **addressed(f"s{number}"))
            records.append((bought_ms, bad))
    for number, case in enumerate(RATE_LIMITS):
        project = f"limit_{number}"
        records.append((now_ms - 300_000, create(project)))
        *steps, last = case["steps"]
        for step in steps:
            # The last step is made by HTTP, about now; the ones before it happened as long ago as the case says.
            at_ms = now_ms + LATER_MS - round((last["t"] - step["t"]) * 1000)
            names = [f"{number}-{step['t']}-{each}" for each in range(step["n"])]
            records += [(at_ms, admit(usage(name, project, operation="read"), name)) for name in names]
    settings = Settings(
        kafka_url=broker.url,
        topic_prefix="conformance",
        partitions=1,
        data_dir=tmp_path_factory.mktemp("conformance"),
        api_port=0,
        clickhouse_front_port=0,
        tick_seconds=0,
    )
    records.sort(key=lambda record: record[0])
    asyncio.run(write_intake(settings, [(0, at_ms, encode(body)) for at_ms, body in records]))
    with Stack(settings) as stack:
        operator = Operator(stack)
        operator.began_ms = now_ms
        yield operator


@pytest.mark.parametrize("number", range(len(RATE_LIMITS)), ids=[case["name"] for case in RATE_LIMITS])
def test_conformance_rate_limits(operator: Operator, number: int) -> None:
    case, project = RATE_LIMITS[number], f"limit_{number}"
    *steps, last = case["steps"]
    while time.time_ns() // 1_000_000 < operator.began_ms + LATER_MS:
        time.sleep(0.02)
    answers = [
        operator.http.post("/v1/admissions", json={"project": project, "operation": "read"}) for _ in range(last["n"])
    ]
    assert sum(answer.status_code == 200 for answer in answers) == last["admitted"]
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
        sql = (
            f"SELECT countIf(kind = 'charge'), countIf(reason = 'rate_limited') FROM facts WHERE project = '{project}'"
        )
        ((charged, limited),) = operator.rows(operator.clickhouse_url, sql)
        return int(charged), int(limited)

    asked = sum(step["n"] for step in case["steps"])
    eventually(lambda: sum(told()) == asked)
    assert told() == (expected, asked - expected)


@pytest.mark.parametrize("number", range(len(RENEWALS)), ids=[case["name"] for case in RENEWALS])
def test_conformance_renewals(operator: Operator, number: int) -> None:
    case = RENEWALS[number]

    def allowances() -> list[str]:
        entries = operator.http.get("/v1/ledger", params={"project": f"renewal_{number}"}).json()["entries"]
        return [entry["occurred_at"] for entry in reversed(entries) if entry["kind"] == "grant"]

    days = [f"{day}T15:00:00Z" for day in (case["signed_up"], *case["renewals"])]
    eventually(lambda: len(allowances()) >= len(days))
    # Renewals that are due by today's clock are booked once somebody asks for more than to read.
    assert allowances()[: len(days)] == days


@pytest.mark.parametrize("number", range(len(REFUNDS)), ids=[case["name"] for case in REFUNDS])
def test_conformance_refunds(operator: Operator, number: int) -> None:
    case, project = REFUNDS[number], f"refund_{number}"
    preview = {"project": project, "environment": "preview"}
    if int(case["used"]):
        body = {**preview, "operation": "chat.message", "quantity": int(case["used"])}
        assert operator.http.post("/v1/admissions", json=body).status_code == 200
    (bundle,) = operator.http.get("/v1/balance", params=preview).json()["top_ups"]
    answer = operator.http.post(f"/v1/admin/projects/{project}/refunds", json={"grant_id": bundle["grant_id"]})
    if case["refundable"]:
        assert (answer.status_code, answer.json()["taken_back"]) == (201, "3000")
    else:
        assert (answer.status_code, answer.json()["code"]) == (409, "not_refundable")
