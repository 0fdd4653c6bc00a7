"""The questions of the benchmark: each as Meterline asks it, and as it would have to be asked of the rows alone."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

from schemas.facts import USAGE_KINDS
from streams.clickhouse.client import sql_literal
from streams.clickhouse.promoted import value_of
from streams.history.facts import kind_in
from streams.history.ledger import LedgerQuestion
from streams.history.quarters import booked_in_quarters
from tests.benchmarks.history.facts import BEGIN, DAYS, LARGEST, MEDIAN, OTHER_KEY, PROMOTED_KEY, day, month

_SUMS = "sum(uses), sum(quantity), -sum(amount)"
_RAW_SUMS = "toInt64(countIf(quantity > 0)) - toInt64(countIf(quantity < 0)), sum(quantity), -sum(amount)"
ROWS_ONLY = "SETTINGS optimize_use_projections = 0, use_skip_indexes = 0"
_ZONE = "'Asia/Kolkata'"


@dataclass(frozen=True, slots=True)
class Question:
    """A question, the same asked of the rows, and what it should take: milliseconds, and the share of rows read."""

    name: str
    sql: str
    raw: str
    goal_ms: float
    share_goal: float | None = None
    parameters: dict[str, Any] = field(default_factory=dict)


def questions(event_id: str) -> list[Question]:
    """All questions; `event_id` is that of a fact of the largest project."""
    of_day, of_month = _times(*day()), _times(*month())
    by_day = f"toDate(t, {_ZONE}) AS day, operation"
    raw_by_day = f"toDate(booked_at, {_ZONE}) AS day, operation"
    value, name = value_of("metadata", sql_literal(PROMOTED_KEY)), value_of("metadata", sql_literal(OTHER_KEY))
    return [
        _sums("platform_day_by_operation", "operation", "operation", of_day, 20, 0.01),
        _sums("platform_month_by_day_and_operation", by_day, raw_by_day, of_month, 30, 0.01),
        _sums("largest_project_month_by_operation_and_day", by_day, raw_by_day, of_month, 20, 0.01, LARGEST),
        _sums("median_project_month_by_operation_and_day", by_day, raw_by_day, of_month, 20, None, MEDIAN),
        _rows("median_project_month_by_promoted_key", f"metadata_{PROMOTED_KEY}", value, of_month, 100, MEDIAN),
        _rows("largest_project_month_by_promoted_key", f"metadata_{PROMOTED_KEY}", value, of_month, 1000, LARGEST),
        _rows("largest_project_month_by_customer", "customer_id", "customer_id", of_month, 1000, LARGEST),
        _rows("largest_project_month_by_other_key", name, name, of_month, 3000, LARGEST),
        _ledger_page(),
        _same(
            "event_look_up",
            f"SELECT kind, offset, amount FROM facts WHERE project = '{LARGEST}' "
            f"AND event_id = {sql_literal(event_id)}",
        ),
    ]


def _times(begin: datetime, end: datetime) -> tuple[str, str, dict[str, Any]]:
    kept, parameters = booked_in_quarters(begin, end)
    raw = "booked_at >= {since:DateTime64(3, 'UTC')} AND booked_at < {until:DateTime64(3, 'UTC')}"
    return kept, raw, {**parameters, "since": begin, "until": end}


def _sums(
    name: str,
    keys: str,
    raw_keys: str,
    times: tuple[str, str, dict[str, Any]],
    goal_ms: float,
    share_goal: float | None,
    project: str = "",
) -> Question:
    kept, raw, parameters = times
    where = f"WHERE {kind_in(*USAGE_KINDS)}" + (f" AND project = '{project}'" if project else "")
    groups = "day, operation" if "day" in keys else keys
    return Question(
        name,
        f"SELECT {keys}, {_SUMS} FROM facts {where} AND {kept} GROUP BY {groups} ORDER BY {groups}",
        f"SELECT {raw_keys}, {_RAW_SUMS} FROM facts {where} AND {raw} GROUP BY {groups} ORDER BY {groups} {ROWS_ONLY}",
        goal_ms,
        share_goal,
        parameters,
    )


def _rows(
    name: str, key: str, raw_key: str, times: tuple[str, str, dict[str, Any]], goal_ms: float, project: str
) -> Question:
    _, raw, parameters = times
    where = f"WHERE {kind_in(*USAGE_KINDS)} AND project = '{project}' AND {raw}"
    return Question(
        name,
        f"SELECT {key} AS k, {_SUMS} FROM facts {where} GROUP BY k ORDER BY k",
        f"SELECT {raw_key} AS k, {_RAW_SUMS} FROM facts {where} GROUP BY k ORDER BY k {ROWS_ONLY}",
        goal_ms,
        parameters=parameters,
    )


def _ledger_page() -> Question:
    page = LedgerQuestion(LARGEST, 100)
    end_ms = round((BEGIN + timedelta(days=DAYS)).timestamp() * 1000)
    (sql, parameters), (raw, _) = page.sql(end_ms), page.sql()
    return Question("ledger_page", sql, f"{raw} {ROWS_ONLY}", 20, parameters=parameters)


def _same(name: str, sql: str) -> Question:
    return Question(name, sql, f"{sql} {ROWS_ONLY}", 20)
