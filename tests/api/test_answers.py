"""Answers are kept within bounds: a flood of one caller leaves room for the others, and nothing grows without end."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Iterable
from typing import Any, cast

import pytest

from api.answers import RECENT_MAX, REPLY_CHARS_MAX, UNDECIDED_OF_A_CALLER_MAX, WAITING_MAX, KeptAnswers
from schemas.times import DAY_MS, HOUR_MS
from streams.kafka.codecs import RECORD_BYTES_MAX
from streams.kafka.publisher import Publisher
from streams.settings import Settings


class _Log:
    """A stand-in for the publisher that notes the records it is sent, or fails."""

    def __init__(self) -> None:
        self.records: list[bytes] = []
        self.fails = False

    async def send_all(self, topic: str, partition: int, records: Iterable[tuple[bytes | None, bytes]]) -> None:
        if self.fails:
            raise ConnectionError("away")
        assert (topic, partition) == ("meterline.answers", 3)
        self.records += [value for _, value in records]

    def sent(self) -> list[dict[str, Any]]:
        return [each for record in self.records for each in json.loads(record)]


def kept_by(log: _Log, **settings: object) -> KeptAnswers:
    return KeptAnswers(Settings.model_validate(settings), cast(Publisher, log), 3)


def test_a_flood_of_one_caller_leaves_room_for_the_others_and_is_counted() -> None:
    log = _Log()
    answers = kept_by(log)
    for number in range(10_000):
        answers.add(f"flood-{number}", "GET /v1/balance", 429, caller="noisy", project="noisy")
    answers.add("one", "GET /v1/balance", 404, caller="quiet", project="quiet")
    asyncio.run(answers.send())
    sent = log.sent()
    assert len(sent) == UNDECIDED_OF_A_CALLER_MAX + 1
    assert [each["request_id"] for each in sent if each["project"] == "quiet"] == ["one"]
    assert answers.not_kept == 10_000 - UNDECIDED_OF_A_CALLER_MAX
    answers.add("again", "GET /v1/balance", 429, caller="noisy")
    asyncio.run(answers.send())
    assert log.sent()[-1]["request_id"] == "again", "the next second has room again"


def test_decisions_leave_room_for_refusals_and_no_second_has_more_than_its_bound() -> None:
    log = _Log()
    answers = kept_by(log)
    for number in range(5 * WAITING_MAX):
        answers.add(f"a{number}", "POST /v1/admissions", 200, caller="p", project="p", entry_ids=["0-1-0"])
    for number in range(5 * WAITING_MAX):
        answers.add(f"r{number}", "POST /v1/admissions", 402, caller="p", project="p", entry_ids=["0-1-0"])
    asyncio.run(answers.send())
    statuses = [each["status"] for each in log.sent()]
    assert (statuses.count(200), statuses.count(402)) == (WAITING_MAX // 2, WAITING_MAX // 2)


def test_what_kafka_does_not_take_waits_within_the_bound_and_is_found_here_meanwhile() -> None:
    log = _Log()
    answers = kept_by(log)
    log.fails = True
    for number in range(3):
        for each in range(WAITING_MAX):
            answers.add(f"{number}-{each}", "POST /v1/admissions", 402, caller="p", project="p", entry_ids=["0-1-0"])
        asyncio.run(answers.send())
    assert answers.find("0-0", "p", None)
    log.fails = False
    asyncio.run(answers.send())
    assert [each["request_id"] for each in log.sent()] == [f"0-{each}" for each in range(WAITING_MAX)]
    assert all(len(record) <= RECORD_BYTES_MAX for record in log.records)


def test_the_newest_are_found_by_whom_they_were_given_to() -> None:
    answers = kept_by(_Log())
    answers.add("same", "GET /", 404, caller="a", project="a", environment="production")
    answers.add("same", "GET /", 403, caller="a", project="a", environment="preview")
    answers.add("same", "GET /", 401, caller="192.0.2.1")
    assert [each.status for each in answers.find("same", None, None)] == [401, 403, 404]
    assert [each.status for each in answers.find("same", "a", None)] == [403, 404]
    assert [each.status for each in answers.find("same", "a", "preview")] == [403]
    assert answers.find("same", "b", None) == []
    for number in range(RECENT_MAX + 10):
        answers.add(f"n{number}", "GET /", 402, caller="b", entry_ids=["0-1-0"])
        if number % WAITING_MAX == WAITING_MAX - 1:
            asyncio.run(answers.send())
    assert answers.find("same", None, None) == []


@pytest.mark.parametrize(
    ("status", "entry_ids", "days", "kept_ms"),
    [
        (404, (), 400, 24 * HOUR_MS),
        (200, ("0-1-0",), 400, 24 * HOUR_MS),
        (402, ("0-1-0",), 400, 400 * DAY_MS),
        (402, ("0-1-0",), 0, 36_500 * DAY_MS),
    ],
)
def test_an_answer_is_kept_as_long_as_what_it_tells_of(
    status: int, entry_ids: tuple[str, ...], days: int, kept_ms: int
) -> None:
    answers = kept_by(_Log(), passing_facts_days=days)
    answers.add("x", "GET /", status, caller="p", reply="y" * 100_000, entry_ids=entry_ids)
    (answer,) = answers.find("x", None, None)
    assert answer.kept_until_ms - answer.answered_at_ms == kept_ms
    assert len(answer.reply) == REPLY_CHARS_MAX


@pytest.mark.parametrize("is_logged", [True, False])
def test_each_decision_and_each_refusal_is_a_line_of_the_log_with_its_request_id(
    is_logged: bool, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "meterline.answers")
    answers = kept_by(_Log(), log_decisions=is_logged)
    answers.add("req_1", "POST /v1/admissions", 200, caller="p", project="p", key_id="key_1", entry_ids=["0-7-0"])
    for _ in range(UNDECIDED_OF_A_CALLER_MAX + 5):
        answers.add("req_2", "GET /v1/balance", 429, caller="p", project="p", code="rate_limited")
    asyncio.run(answers.send())
    assert len(caplog.records) == (2 if is_logged else 0)
    if is_logged:
        lines = vars(caplog.records[0])["rows"]
        assert len(lines) == UNDECIDED_OF_A_CALLER_MAX + 1
        told = {name: lines[0][name] for name in ("request_id", "status", "project", "key_id", "entry_ids")}
        assert told == {
            "request_id": "req_1",
            "status": 200,
            "project": "p",
            "key_id": "key_1",
            "entry_ids": "0-7-0",
        }
        assert (lines[1]["request_id"], lines[1]["code"]) == ("req_2", "rate_limited")
        assert caplog.records[1].getMessage() == "5 answers of a flood are only counted"
