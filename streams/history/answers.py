"""Answers from the history: what the HTTP service told a request, found by the request's id."""

from __future__ import annotations

import json
from collections.abc import Iterable
from datetime import datetime
from typing import Any

from schemas.answers import Answer
from schemas.http.receipts import ANSWERS_SHOWN_MAX, ENTRIES_OF_AN_ANSWER_MAX, KeptAnswer, RequestReceipt
from schemas.problems import Rejection
from schemas.times import utc
from streams.clickhouse.client import ClickHouse
from streams.core.foreign import UnreadableError, read

_FIELDS = (
    "request_id, toUnixTimestamp64Milli(answered_at), toUnixTimestamp64Milli(kept_until), operation, status, project, "
    "environment, key_id, code, reply, entry_ids"
)


def answers_of(
    clickhouse: ClickHouse, request_id: str, project: str | None, environment: str | None, now: datetime
) -> list[Answer]:
    """The answers to requests of this id that are kept at `now`, the newest first: those of a project, and of an
    environment, where they are named."""
    conditions = ["request_id = {request:String}", "kept_until > {now:DateTime64(3)}"]
    parameters: dict[str, Any] = {"request": request_id, "now": now}
    for column, value in (("project", project), ("environment", environment)):
        if value is not None:
            conditions.append(f"{column} = {{{column}:String}}")
            parameters[column] = value
    rows = clickhouse.query(
        f"SELECT {_FIELDS} FROM answers WHERE {' AND '.join(conditions)} ORDER BY answered_at DESC "
        f"LIMIT {ANSWERS_SHOWN_MAX:d}",
        parameters,
    )
    return [Answer(*row) for row in rows]


def request_receipt(request_id: str, *found: Iterable[Answer]) -> RequestReceipt:
    """The receipt of a request, of answers that may have been found twice. Raises Rejection `unknown_receipt` where
    there are none."""
    newest = {
        (each.answered_at_ms, each.project, each.operation, each.status, *each.entry_ids): each
        for some in found
        for each in some
    }
    answers = sorted(newest.values(), key=lambda each: each.answered_at_ms, reverse=True)
    if not answers:
        raise Rejection("unknown_receipt", f"Nothing is kept of a decision or a request {request_id!r}")
    return RequestReceipt(request_id=request_id, answers=[_shown(each) for each in answers[:ANSWERS_SHOWN_MAX]])


def _shown(answer: Answer) -> KeptAnswer:
    return KeptAnswer(
        answered_at=utc(answer.answered_at_ms),
        operation=answer.operation,
        status=answer.status,
        code=answer.code or None,
        project=answer.project or None,
        environment=answer.environment or None,
        key_id=answer.key_id or None,
        problem=_problem(answer.reply),
        entry_ids=answer.entry_ids[:ENTRIES_OF_AN_ANSWER_MAX],
    )


def _problem(reply: str) -> dict[str, Any] | None:
    """The members of a refusal; None where its text was cut, or where there is none."""
    try:
        problem = read(json.loads, reply)
    except UnreadableError:
        return None
    return problem if isinstance(problem, dict) else None
