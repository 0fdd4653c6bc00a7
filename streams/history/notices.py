"""Notices of a project, read from the history, a page at a time."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from schemas.facts import FACT_KINDS, Fact
from schemas.notices import Notice, NoticeType
from streams.clickhouse.client import ClickHouse, sql_literal
from streams.core.notices import notice_facts, notice_of
from streams.core.price_list import PRICES_ID
from streams.history.cursor import after_cursor, encode_cursor
from streams.history.facts import kind_in, newest_facts

_MILLISECONDS = "fromUnixTimestamp64Milli({{{}:Int64}}, 'UTC')"


@dataclass(frozen=True, slots=True)
class NoticeQuestion:
    """A question for one page of a project's notices, newest first; `environment` None is both, and what has none.

    Price books are announced to every project, once in each partition: a project is told by that of its own
    `partition`, of those that were announced once it was there (`opened_at_ms`), whatever the environment. Times are
    those of booking, in [since_ms, until_ms); None is no bound.
    """

    project: str
    environment: str | None
    limit: int
    cursor: str | None = None
    type: NoticeType | None = None
    since_ms: int | None = None
    until_ms: int | None = None
    partition: int = 0
    opened_at_ms: int = 0

    def condition(self) -> tuple[str, dict[str, Any]]:
        """The SQL condition of the project's own facts, and its parameters. Raises Rejection for a cursor that no page
        gave."""
        conditions = ["project = {project:String}", _may_be(self.type)]
        parameters: dict[str, Any] = {"project": self.project}
        if self.environment is not None:
            conditions.append("environment = {environment:String}")
            parameters["environment"] = self.environment
        return self._paged(conditions, parameters, self.since_ms)

    def price_condition(self) -> tuple[str, dict[str, Any]]:
        """The SQL condition of the price books that the project is told of, and its parameters. Raises Rejection as
        `condition` does."""
        conditions = ["project = {prices:String}", kind_in("price_book"), "partition = {own:UInt16}"]
        since_ms = max(self.opened_at_ms, self.since_ms or 0)
        return self._paged(conditions, {"prices": PRICES_ID, "own": self.partition}, since_ms)

    def _paged(
        self, conditions: list[str], parameters: dict[str, Any], since_ms: int | None
    ) -> tuple[str, dict[str, Any]]:
        for name, comparison, at_ms in (("since", ">=", since_ms), ("until", "<", self.until_ms)):
            if at_ms is not None:
                conditions.append(f"booked_at {comparison} {_MILLISECONDS.format(name)}")
                parameters[name] = at_ms
        if self.cursor is not None:
            condition, place = after_cursor(self.cursor)
            conditions.append(condition)
            parameters |= place
        return " AND ".join(f"({each})" for each in conditions), parameters


def notice_page(clickhouse: ClickHouse, question: NoticeQuestion) -> tuple[list[Notice], str | None]:
    """The notices of a page, and the cursor of the page after them, or None at the end."""
    found: list[tuple[int, Fact]] = []
    if question.type != "price.announced":
        found = newest_facts(clickhouse, *question.condition(), question.limit + 1)
    if question.type in (None, "price.announced"):
        # A question of its own, so that each reads its rows in the order in which they lie.
        found += newest_facts(clickhouse, *question.price_condition(), question.limit + 1)
        found.sort(key=lambda each: (each[1].booked_at_ms, each[0], each[1].offset, each[1].index), reverse=True)
    shown = found[: question.limit]
    notices = [notice for partition, fact in shown if (notice := notice_of(partition, fact)) is not None]
    if len(found) <= question.limit:
        return notices, None
    partition, last = shown[-1]
    return notices, encode_cursor(last.booked_at_ms, partition, last.offset, last.index)


def _may_be(notice_type: NoticeType | None) -> str:
    """The SQL condition that a project's fact may be a notice. Some are none (`streams.core.notices.notice_of`), so a
    page may be shorter than its limit."""
    told = notice_facts(notice_type)
    return " OR ".join(
        kind_in(kind) if reason is None else f"({kind_in(kind)} AND reason = {sql_literal(reason)})"
        for kind in FACT_KINDS
        for of_kind, reason in told
        if of_kind == kind and kind != "price_book"
    )
