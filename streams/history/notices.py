"""Notices of a project, read from the history, a page at a time."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from schemas.facts import FACT_KINDS
from schemas.notices import Notice
from streams.clickhouse.client import ClickHouse, sql_literal
from streams.core.notices import NOTICE_FACTS, notice_of
from streams.history.cursor import after_cursor, encode_cursor
from streams.history.facts import kind_in, newest_facts

# The facts that may be a notice. Some are none (`streams.core.notices.notice_of`), so a page may be shorter than its
# limit.
_MAY_BE = " OR ".join(
    kind_in(kind) if reason is None else f"({kind_in(kind)} AND reason = {sql_literal(reason)})"
    for kind in FACT_KINDS
    for told, reason in NOTICE_FACTS
    if told == kind
)


@dataclass(frozen=True, slots=True)
class NoticeQuestion:
    """A question for one page of a project's notices, newest first; `environment` None is both, and what has none."""

    project: str
    environment: str | None
    limit: int
    cursor: str | None = None

    def condition(self) -> tuple[str, dict[str, Any]]:
        """The SQL condition and its parameters. Raises Rejection for a cursor that no page gave."""
        conditions = ["project = {project:String}", _MAY_BE]
        parameters: dict[str, Any] = {"project": self.project}
        if self.environment is not None:
            conditions.append("environment = {environment:String}")
            parameters["environment"] = self.environment
        if self.cursor is not None:
            condition, place = after_cursor(self.cursor)
            conditions.append(condition)
            parameters |= place
        return " AND ".join(f"({each})" for each in conditions), parameters


def notice_page(clickhouse: ClickHouse, question: NoticeQuestion) -> tuple[list[Notice], str | None]:
    """The notices of a page, and the cursor of the page after them, or None at the end."""
    found = newest_facts(clickhouse, *question.condition(), question.limit + 1)
    shown = found[: question.limit]
    notices = [notice for partition, fact in shown if (notice := notice_of(partition, fact)) is not None]
    if len(found) <= question.limit:
        return notices, None
    partition, last = shown[-1]
    return notices, encode_cursor(last.booked_at_ms, partition, last.offset, last.index)
