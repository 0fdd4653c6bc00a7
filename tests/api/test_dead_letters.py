"""Dead letters on the whole stack: what strangers send on Kafka is listed with its reason, and shown in full."""

import asyncio
import json
import secrets
from collections import Counter
from datetime import UTC, datetime, timedelta

import orjson
import pytest
from typer.testing import CliRunner

from api.cli.main import app
from api.stack import Stack
from schemas.problems import CODES
from streams.kafka.publisher import Publisher
from streams.kafka.topics import topics_of
from tests.calls import Operator, event, eventually


def send(stack: Stack, *values: bytes) -> None:
    """Put records on the usage topic as they are."""

    async def publish() -> None:
        publisher = Publisher(stack.settings)
        await publisher.start()
        await publisher.send_all(topics_of(stack.settings).usage, 0, [(None, value) for value in values])
        await publisher.stop()

    asyncio.run(publish())


def deep(size: int) -> bytes:
    return b"[" * size + b"]" * size


def test_what_strangers_send_stops_nothing_and_is_listed_with_its_reason(
    stack: Stack, operator: Operator, monkeypatch: pytest.MonkeyPatch
) -> None:
    project, client = operator.customer("hobby")
    mark = secrets.token_hex(4)
    restarts, began_at = stack.restarts, datetime.now(UTC).isoformat()

    def good(number: int) -> bytes:
        return orjson.dumps(event(project, f"{mark}-{number}"))

    nested = good(0)[:-1] + b',"extension":' + deep(2_000) + b"}"
    faults = [b'"\\ud83d"', b'{"id":"\x01"}', b"01", b"NaN", b'"\\x"', b'{"id":"\xff"}', deep(998), nested, b"", b"{"]
    array = b"[" + b",".join(part for number, fault in enumerate(faults, 1) for part in (good(number), fault)) + b"]"
    rubbish = b"[" + b",".join([b"{}"] * 330_000) + b"]"
    send(stack, b"[" * 998, nested, array, rubbish, b"[" + b",".join([b"{}"] * 6_000) + b"]", good(99))
    # Half of a pair of brackets takes what follows it along: no comma can be told from its own.
    charged = len(faults) + 1
    eventually(lambda: client.get("/v1/balance").json()["available"] == str(5_000 - charged))
    assert stack.restarts == restarts

    monkeypatch.setenv("METERLINE_DATA_DIR", str(stack.settings.data_dir))

    def listed(*options: str) -> dict:
        done = CliRunner().invoke(app, ["dead-letters", "--from", began_at, "--json", *options])
        assert done.exit_code == 0, done.output
        return json.loads(done.stdout)

    # Each fault of the array by itself; of six thousand in 18 KB no more than could be events, and one more.
    of_array, of_many = len(faults), 18_001 // 64 + 2
    letters = eventually(
        lambda: len(found := listed("--limit", "1000")["dead_letters"]) >= of_array + of_many + 3 and found, 40
    )
    by_record = Counter(letter["id"].rpartition(":")[0] for letter in letters)
    assert sorted(by_record.values()) == [1, 1, 1, of_array, of_many]
    assert all(letter["remedy"] == CODES[letter["code"]].remedy for letter in letters)
    ids = [letter["id"] for letter in letters]
    assert ids == sorted(ids, key=lambda each: [int(part) for part in each.split(":")[1:]], reverse=True)
    (too_many,) = listed("--code", "too_many_events")["dead_letters"]
    assert "At most 10000 events" in too_many["detail"]
    assert len(too_many["event"]) == 200

    shown = CliRunner().invoke(app, ["dead-letters", too_many["id"], "--json"])
    assert json.loads(shown.stdout)["event"] == rubbish[: 16 * 1024].decode()
    pages, cursor = [], ""
    while cursor is not None:
        page = listed("--limit", "100", *(["--cursor", cursor] if cursor else []))
        pages += [letter["id"] for letter in page["dead_letters"]]
        cursor = page["next_cursor"]
    assert pages == ids
    lines = CliRunner().invoke(app, ["dead-letters", "--from", began_at, "--code", "too_many_events"])
    assert f"{too_many['id']}  too_many_events: " in lines.stdout


def newest(letter: dict) -> tuple:
    """The place of a dead letter among all, by which the newest comes first."""
    topic, *place = letter["id"].rsplit(":", 3)
    return datetime.fromisoformat(letter["received_at"]), topic, *map(int, place)


def test_dead_letters_are_found_by_producer_project_code_and_time_also_page_by_page(
    stack: Stack, operator: Operator, monkeypatch: pytest.MonkeyPatch
) -> None:
    mark = secrets.token_hex(4)
    # Producers may call themselves anything, and name what can't be a project.
    sources, projects = (f"/plain/{mark}", f"it's\t\"{mark}\\' OR 1 \u00e9"), (f"No Project {mark}", f"prj_{mark}")
    letters = [
        {**event(projects[number % 3 // 2], f"{mark}-{number}", "chat.message"), "source": sources[number % 2]}
        for number in range(12)
    ]
    send(stack, *map(orjson.dumps, letters))

    def found(**asked: object) -> list[dict]:
        pages, cursor = [], None
        while not pages or cursor:
            page = operator.http.get("/v1/admin/dead-letters", params=asked | ({"cursor": cursor} if cursor else {}))
            assert page.status_code == 200, page.text
            pages.append(page.json()["dead_letters"])
            cursor = page.json()["next_cursor"]
        assert all(len(each) == asked.get("limit", len(each)) for each in pages[:-1])
        return [each for page in pages for each in page]

    both = eventually(
        lambda: len(all_of := found(source=sources[0]) + found(source=sources[1])) == len(letters) and all_of
    )
    every = sorted(both, key=newest, reverse=True)
    named = {each["id"]: each for each in letters}
    assert {each["event_id"] for each in every} == named.keys()
    assert all(each["source"] == named[each["event_id"]]["source"] for each in every)
    assert all(each["project"] == named[each["event_id"]]["subject"] for each in every)
    codes = {each["code"] for each in every}
    assert len(codes) == 2
    for project in projects:
        of_project = [each for each in every if each["project"] == project]
        assert found(project=project, limit=3) == of_project and of_project
        for source in sources:
            of_both = [each for each in of_project if each["source"] == source]
            assert found(project=project, source=source, limit=1) == of_both and of_both
    for code in codes:
        assert found(source=sources[1], code=code, limit=1) == [
            each for each in every if (each["source"], each["code"]) == (sources[1], code)
        ]
    later = (datetime.fromisoformat(every[0]["received_at"]) + timedelta(milliseconds=1)).isoformat()
    assert found(source=sources[0], **{"from": later}) == [] and found(source="", project=projects[0]) == []
    assert found(source=sources[0], to=later) == [each for each in every if each["source"] == sources[0]]
    monkeypatch.setenv("METERLINE_DATA_DIR", str(stack.settings.data_dir))
    done = CliRunner().invoke(app, ["dead-letters", "--source", sources[1], "--project", projects[1]])
    assert len(done.stdout.splitlines()) == len(
        [e for e in every if (e["source"], e["project"]) == (sources[1], projects[1])]
    )


def test_dead_letters_are_an_operators(operator: Operator) -> None:
    _, client = operator.customer()
    assert client.get("/v1/admin/dead-letters").json()["code"] == "missing_scope"
    assert client.get("/v1/admin/dead-letters/usage:0:0:0").json()["code"] == "missing_scope"
    for wrong in ("nothing", "a:b:c:d", "usage:0:0:-1", "usage:0:0:99999999999999999999", "usage:0:0:\u0663", "::::"):
        assert operator.http.get(f"/v1/admin/dead-letters/{wrong}").json()["code"] == "unknown_dead_letter"
    for cursor in ("nothing", "W10", "WzEsImEiLDEsMSwxLDFd", "\U0001f600"):
        answer = operator.http.get("/v1/admin/dead-letters", params={"cursor": cursor})
        assert (answer.status_code, answer.json()["field"]) == (422, "cursor")
