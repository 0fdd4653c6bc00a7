"""Dead letters on the whole stack: what strangers send on Kafka is listed with its reason, and shown in full."""

import asyncio
import json
import secrets
from collections import Counter
from datetime import UTC, datetime

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


def test_dead_letters_are_an_operators(operator: Operator) -> None:
    _, client = operator.customer()
    assert client.get("/v1/admin/dead-letters").json()["code"] == "missing_scope"
    assert client.get("/v1/admin/dead-letters/usage:0:0:0").json()["code"] == "missing_scope"
    for wrong in ("nothing", "a:b:c:d", "usage:0:0:-1", "usage:0:0:99999999999999999999", "usage:0:0:\u0663", "::::"):
        assert operator.http.get(f"/v1/admin/dead-letters/{wrong}").json()["code"] == "unknown_dead_letter"
    for cursor in ("nothing", "W10", "WzEsImEiLDEsMSwxLDFd", "\U0001f600"):
        answer = operator.http.get("/v1/admin/dead-letters", params={"cursor": cursor})
        assert (answer.status_code, answer.json()["field"]) == (422, "cursor")
