"""An erasure takes metadata and leaves all else; a history that is written anew from the journal is erased anew."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable, Sequence
from typing import Any

import msgspec
import pytest

from schemas.facts import Fact
from schemas.problems import Rejection
from streams.clickhouse import historian as historian_module
from streams.clickhouse.client import ClickHouse
from streams.clickhouse.erasures import Erasure, erase, unerased
from streams.clickhouse.historian import Historian, dead_letter_sink, journal_sink
from streams.clickhouse.migrations import migrate
from streams.clickhouse.promoted import promote
from streams.core.acceptance import dead_letter
from streams.core.erasures import customer_hash
from streams.kafka.codecs import encode_facts, encode_json
from streams.kafka.publisher import Publisher
from streams.kafka.topic_creation import create_topics
from streams.kafka.topics import topics_of
from streams.settings import Settings
from tests.clickhouse.test_historian import JUNE_MS, writing
from tests.clickhouse.test_projections import agree
from tests.history.lives import insert_facts

# What may be in a customer's name, and in JSON around it.
ODD = ['it\'s "quoted"', "back\\slash", "é ✓ 😀", "a\nb\t", "{x:String}", "%s", ",", "'; DROP TABLE facts; --"]
ROWS = "SELECT * FROM facts ORDER BY partition, offset, position"
SUMS = (
    "SELECT project, environment, operation, toDate(t), kind, sum(amount), sum(quantity), sum(uses), sum(held), "
    "sum(cents), count() FROM facts GROUP BY ALL ORDER BY ALL SETTINGS optimize_use_projections = {}"
)
MARKS = (
    "SELECT partition, max((offset, position)), max(journal_offset) FROM facts GROUP BY partition ORDER BY partition"
)


def text(value: Any) -> str:
    return msgspec.json.encode(value).decode()


def fact(offset: int, metadata: Any, kind: str = "charge", project: str = "p1", **more: Any) -> Fact:
    fields: dict[str, Any] = {
        "offset": offset,
        "index": 0,
        "kind": kind,
        "project": project,
        "environment": "production",
        "operation": f"operation_{offset % 3}",
        "quantity": 1,
        "amount": -offset,
        "balance": 0,
        "grant_id": "g",
        "reason": "",
        "price_version": "v",
        "source": "/s",
        "event_id": f"e{offset}",
        "job_id": "",
        "key_id": "",
        "occurred_at_ms": JUNE_MS,
        "booked_at_ms": JUNE_MS + offset * 60_000,
        "metadata": "" if metadata is None else text(metadata),
    }
    return Fact(**(fields | more))


def asked(offset: int, customer: str = "", project: str = "p1") -> Fact:
    """The fact of an erasure."""
    note = {"customer_sha256": customer_hash(project, customer)} if customer else None
    more = {"operation": "", "amount": 0, "quantity": 0, "source": "", "event_id": ""}
    return fact(offset, note, "erasure", project, reason="customer" if customer else "project", **more)


def erasure(offset: int, customer: str = "", project: str = "p1") -> Erasure:
    name = customer_hash(project, customer) if customer else ""
    return Erasure(project, name, 0, offset, 0, JUNE_MS + offset * 60_000)


def wait_for_mutations(clickhouse: ClickHouse) -> None:
    while clickhouse.query("SELECT count() FROM system.mutations WHERE NOT is_done")[0][0]:
        time.sleep(0.02)


NOTES = {"correction_reason": "wrong / twice", "correction_request": "abc"}
THEIRS = [
    ("charge", {"customer_id": "ann", "city": "Oslo"}, {}, ""),
    ("hold", {"customer_id": "ann"}, {}, ""),
    ("refusal", {"customer_id": "ann"}, {"reason": "out_of_credits"}, ""),
    ("duplicate", {"customer_id": "ann"}, {}, ""),
    ("correction", {"customer_id": "ann", **NOTES}, {"reason": "given_back"}, NOTES),
    ("correction", {"customer_id": "ann"}, {"reason": "charged"}, ""),
]
# Meterline's own notes: they name no customer, or only look as if.
NOTED = [
    ("hold", {"hold": "0-1-1", "seconds": 60}, {"reason": "extended"}),
    ("release", {"hold": "0-1-1", "why": "timed out"}, {"source": "", "reason": "captured"}),
    ("charge", {"month": "2026-06"}, {"source": "", "reason": "recurring"}),
    ("grant", {"reason": "sorry", "expires_at_ms": 9}, {"source": "", "reason": "promotional"}),
    ("key", {"by": "admin:0123"}, {"source": "", "reason": "created"}),
]


def test_one_customers_metadata_goes_and_every_other_byte_stays(clickhouse: ClickHouse) -> None:
    """Names of all sorts, kinds of all sorts; the projections, the marks and the promoted keys with them."""
    migrate(clickhouse)
    promote(clickhouse, "city")
    facts = [fact(n, said, kind, **more) for n, (kind, said, more, _) in enumerate(THEIRS)]
    facts += [fact(20 + n, said, kind, **more) for n, (kind, said, more) in enumerate(NOTED)]
    others = [{"customer_id": name, "city": "Rome"} for name in ["bob", "an", "anna", *ODD]]
    others += [{"customer_id": 7}, {"customer_id": None}, {"note": '"customer_id":"ann"'}, None]
    facts += [fact(40 + n, said) for n, said in enumerate(others)]
    facts += [fact(80, {"customer_id": "ann"}, project="p2"), fact(95, {"customer_id": "ann"})]
    for start in range(0, len(facts), 10):
        insert_facts(clickhouse, facts[start : start + 10])
    before, sums, marks = clickhouse.query(ROWS), clickhouse.query(SUMS.format(0)), clickhouse.query(MARKS)
    found = unerased(clickhouse, erasure(90, "ann"))
    assert found == (len(THEIRS), 0), "those before it, of this project"
    erase(clickhouse, erasure(90, "ann"))
    wait_for_mutations(clickhouse)
    assert unerased(clickhouse, erasure(90, "ann")) == (0, 0)

    after = clickhouse.query(ROWS)
    place = next(n for n, value in enumerate(before[0]) if value == facts[0].metadata)
    for number, (old, new) in enumerate(zip(before, after, strict=True)):
        if number < len(THEIRS):
            left = THEIRS[number][3]
            assert (json.loads(new[place]) if new[place] else "") == left
            old, new = [*old[:place], *old[place + 1 :]], [*new[:place], *new[place + 1 :]]
        assert old == new
    gone = "SELECT count() FROM facts WHERE offset < 20 AND (customer_id != '' OR metadata_city != '')"
    assert clickhouse.query(gone) == [(0,)]
    assert clickhouse.query(SUMS.format(0)) == sums == clickhouse.query(SUMS.format(1))
    assert clickhouse.query(MARKS) == marks
    agree(clickhouse)
    # Once more there is nothing to do; and each odd name is one customer's.
    mutations = "SELECT count() FROM system.mutations WHERE table = 'facts' AND command LIKE '%UPDATE%'"
    begun = clickhouse.query(mutations)
    erase(clickhouse, erasure(91, "ann"))
    assert clickhouse.query(mutations) == begun
    for name in [*ODD, "7"]:
        assert unerased(clickhouse, erasure(90, name)) == (1, 0), name
    erase(clickhouse, erasure(90, ODD[-1]))
    wait_for_mutations(clickhouse)
    left = clickhouse.query("SELECT customer_id FROM facts WHERE customer_id != '' AND offset < 80 ORDER BY offset")
    assert [name for (name,) in left] == ["bob", "an", "anna", *ODD[:-1], "7"]
    erase(clickhouse, erasure(90))
    wait_for_mutations(clickhouse)
    left = clickhouse.query("SELECT offset, project FROM facts WHERE metadata != '' AND source != '' ORDER BY ALL")
    assert [tuple(row) for row in left] == [(4, "p1"), (20, "p1"), (80, "p2"), (95, "p1")]


def letters() -> list[bytes]:
    """Dead letters as they come: those of ann in p1 are the first four."""

    def event(subject: str, customer: Any, **more: Any) -> dict[str, Any]:
        return {"id": "e1", "source": "/s", "subject": subject, "data": {"metadata": {"customer_id": customer}}, **more}

    return [
        encode_json(event("p1", "ann")),
        json.dumps(event("p1", "ann"), indent=2).encode() + b"]",
        encode_json(event("p1", "bob") | {"customer_id": "ann"}),
        b'{"subject":"p1","customer_id" : "ann","data":{"text":"\xff',
        encode_json(event("p1", "bob", note="ann")),
        encode_json(event("p2", "ann")),
        encode_json(event("p1", 7)),
        b"[",
    ]


async def publish(settings: Settings, facts: Sequence[Sequence[Fact]], texts: Sequence[bytes]) -> None:
    publisher = Publisher(settings)
    await publisher.start()
    topics = topics_of(settings)
    for pack in facts:
        await publisher.send_all(topics.journal, 0, [(None, encode_facts(pack))])
    rejection = Rejection("invalid_event", "`subject`: bad", "subject")
    for number, value in enumerate(texts):
        letter = dead_letter(value, rejection, "usage", 0, number, 0, JUNE_MS)
        await publisher.send_all(topics.dead_letters, 0, [(None, encode_json(letter))])
    await publisher.stop()


LETTERS = "SELECT position(event, 'ann') > 0, project, event_id, code FROM dead_letters ORDER BY offset"


@pytest.mark.parametrize("first", ["facts", "dead letters"])
def test_a_history_that_is_written_anew_is_erased_anew_whichever_comes_first(
    settings_for: Callable[..., Settings], embedded: ClickHouse, monkeypatch: pytest.MonkeyPatch, first: str
) -> None:
    """The erasure stands within a record. The historian dies before and after ClickHouse has its order."""
    settings = settings_for(historian_flush_ms=20, partitions=1)
    packs = [
        [fact(1, {"customer_id": "ann"}), fact(2, {"customer_id": "bob"})],
        [fact(3, {"customer_id": "ann"}), asked(4, "ann"), fact(5, {"customer_id": "ann"})],
        [fact(6, {"customer_id": "bob"}), asked(7, "bob", "p2"), asked(8, "nobody")],
    ]
    sinks = [journal_sink(settings), dead_letter_sink(settings)]
    if first != "facts":
        sinks.reverse()
    deaths = ["before", "after"]

    def dying(clickhouse: ClickHouse, erasure: Erasure) -> None:
        death = deaths.pop() if deaths else ""
        if death == "before":
            raise ConnectionError(death)
        erase(clickhouse, erasure)
        if death == "after":
            raise ConnectionError(death)

    monkeypatch.setattr(historian_module, "erase", dying)

    async def write() -> None:
        # The last is killed between a block and what is to be erased of it, perhaps.
        for sink in [*sinks, dead_letter_sink(settings)]:
            count = f"SELECT toInt64(count()) FROM {sink.table}"
            historian = Historian(settings, embedded, sink)
            async with writing(historian), asyncio.timeout(30):
                await historian.ready.wait()
                while embedded.query(count)[0][0] < 8:
                    await asyncio.sleep(0.02)
        await asyncio.to_thread(wait_for_mutations, embedded)

    async def scenario() -> None:
        await publish(settings, packs, letters())
        seen = []
        for _ in range(2):
            migrate(embedded)
            await write()
            seen.append((embedded.query(ROWS), embedded.query(LETTERS)))
            named = embedded.query("SELECT offset, customer_id FROM facts WHERE source != '' ORDER BY offset")
            assert [tuple(row) for row in named] == [(1, ""), (2, "bob"), (3, ""), (5, "ann"), (6, "bob")]
            for table in ("facts", "dead_letters", "erasures", "answers", "backfilled", "schema_migrations"):
                embedded.command(f"DROP TABLE {table}")
        assert seen[0] == seen[1]
        told = [tuple(row) for row in seen[0][1]]
        assert [each[0] for each in told] == [0, 0, 0, 0, 1, 1, 0, 0]
        assert told[0] == (0, "p1", "e1", "invalid_event")

    asyncio.run(create_topics(settings))
    asyncio.run(scenario())
    assert not deaths


def test_a_letter_that_was_erased_is_still_that_of_its_log(
    settings_for: Callable[..., Settings], embedded: ClickHouse
) -> None:
    """The newest dead letter is the historian's mark, and is compared with its topic."""
    settings = settings_for(historian_flush_ms=20, partitions=1)
    migrate(embedded)

    async def scenario() -> None:
        await publish(settings, [], letters()[:1])
        for count in (1, 2):
            historian = Historian(settings, embedded, dead_letter_sink(settings))
            async with writing(historian), asyncio.timeout(30):
                while embedded.query("SELECT toInt64(count()) FROM dead_letters")[0][0] < count:
                    await asyncio.sleep(0.02)
            erase(embedded, erasure(1))
            wait_for_mutations(embedded)
            assert unerased(embedded, erasure(1)) == (0, 0)
            await publish(settings, [], letters()[:1])

    asyncio.run(create_topics(settings))
    asyncio.run(scenario())
