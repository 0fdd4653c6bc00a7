"""Usage of a project, rolled up from the history by operation, environment, metadata and time."""

from __future__ import annotations

import base64
import codecs
import csv
from collections.abc import Iterable, Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass
from datetime import datetime
from hashlib import blake2b
from typing import Any, NamedTuple

import msgspec

from schemas.facts import USAGE_KINDS
from schemas.http.usage import GROUPS_MAX
from schemas.problems import Rejection
from streams.clickhouse.client import ClickHouse
from streams.clickhouse.promoted import BUILT_IN, promoted_keys, value_of
from streams.core.foreign import UnreadableError, read
from streams.history.facts import kind_in
from streams.history.quarters import booked_in_quarters, quarters_within

# The groups of usage that need no parameter; the key of `metadata.<key>` is passed as one.
_GROUPS = {
    "operation": "toString(operation)",
    "environment": "toString(environment)",
    "customer_id": "customer_id",
    "metadata.customer_id": "customer_id",
    "hour": "formatDateTime(t, '%Y-%m-%dT%H:00:00Z', 'UTC')",
    "day": "formatDateTime(t, '%Y-%m-%d', 'UTC')",
    "month": "formatDateTime(t, '%Y-%m', 'UTC')",
}
# The groups that a projection has; all others are read from the rows.
_KEPT = frozenset({"operation", "environment", "hour", "day", "month"})
# The largest has five texts of 512 characters outside ASCII.
CURSOR_CHARS_MAX = 16_384


class UsageCursor(NamedTuple):
    """A usage cursor says where the next page begins: after the group with these values, of the same question about the
    same time. `question` is the fingerprint of what was asked."""

    question: bytes
    since: datetime
    until: datetime
    values: list[str]

    def text(self) -> str:
        """The cursor as opaque text."""
        return base64.urlsafe_b64encode(msgspec.msgpack.encode(self)).decode().rstrip("=")

    @classmethod
    def parse(cls, text: str) -> UsageCursor:
        """Read a cursor. Raises Rejection."""

        def decode(text: str) -> UsageCursor:
            return read(_decode_cursor, base64.urlsafe_b64decode(text + "=" * (-len(text) % 4)))

        try:
            return read(decode, text)
        except UnreadableError:
            raise _no_cursor() from None


_decode_cursor = msgspec.msgpack.Decoder(UsageCursor).decode


def _no_cursor() -> Rejection:
    return Rejection("invalid_request", "`cursor` is not one that a page of this question gave", "cursor")


@dataclass(frozen=True, slots=True)
class UsageQuestion:
    """A question for the charged usage of a project, booked in [since, until), by group: all of it, or `limit` groups
    after those of an earlier page.

    A correction counts at the time it was booked. `environment` None is all of the project.
    """

    project: str
    group_by: list[str]
    since: datetime
    until: datetime
    environment: str | None = None
    limit: int | None = None
    after: list[str] | None = None

    def sql(self, promoted: Mapping[str, str] = BUILT_IN) -> tuple[str, dict[str, Any]]:
        """The query and its parameters; `promoted` are the metadata keys that have a column. Raises Rejection for an
        unknown group.

        What is booked in whole quarter hours comes from a projection, where it has all groups.
        """
        parameters: dict[str, Any] = {"project": self.project}
        expressions = self._expressions(promoted, parameters)
        groups = ", ".join(f"g{number}" for number in range(len(expressions)))
        parts = [self._part(expressions, groups, when) for when in self._spans(parameters)]
        sql = (
            f"SELECT {groups + ', ' if groups else ''}sum(u) AS uses, sum(q) AS quantity_sum, sum(m) AS microcredits "
            f"FROM ({' UNION ALL '.join(parts)})"
        )
        if self.environment is not None:
            parameters["environment"] = self.environment
        if groups and self.after is not None:
            places = ", ".join(f"{{after{number}:String}}" for number in range(len(self.after)))
            sql += f" WHERE tuple({groups}) > tuple({places})"
            parameters |= {f"after{number}": value for number, value in enumerate(self.after)}
        if groups:
            sql += f" GROUP BY {groups} ORDER BY {groups}"
        if self.limit is not None:
            sql += f" LIMIT {self.limit + 1:d}"
        return sql, parameters

    def keys(self) -> list[str]:
        """The metadata keys that it groups by."""
        return [group.partition(".")[2] for group in self.group_by if group.startswith("metadata.")]

    def _expressions(self, promoted: Mapping[str, str], parameters: dict[str, Any]) -> list[str]:
        if len(self.group_by) > GROUPS_MAX:
            raise Rejection("invalid_request", f"At most {GROUPS_MAX} groups", "group_by")
        twice = next((group for number, group in enumerate(self.group_by) if group in self.group_by[:number]), None)
        if twice is not None:
            raise Rejection("invalid_request", f"`group_by` has {twice[:80]!r} twice; name each group once", "group_by")
        expressions = []
        for number, group in enumerate(self.group_by):
            expression = _GROUPS.get(group)
            if expression is None:
                kind, _, key = group.partition(".")
                if kind != "metadata" or not 1 <= len(key) <= 64:
                    raise Rejection(
                        "invalid_request",
                        f"No group {group[:80]!r}; there are {', '.join(_GROUPS)} and metadata.<key>",
                        "group_by",
                    )
                if key in promoted:
                    expression = f"`{promoted[key]}`"
                else:
                    parameters[f"key{number}"] = key
                    expression = value_of("metadata", f"{{key{number}:String}}")
            expressions.append(expression)
        return expressions

    def _spans(self, parameters: dict[str, Any]) -> list[str]:
        """SQL conditions that divide [since, until): what a projection serves, and what is read from the rows."""
        parameters |= {"since": self.since, "until": self.until}
        raw = "booked_at >= {since:DateTime64(3, 'UTC')} AND booked_at < {until:DateTime64(3, 'UTC')}"
        quarters = quarters_within(self.since, self.until)
        if quarters is None or not _KEPT.issuperset(self.group_by):
            return [raw]
        begin, end = quarters
        kept, bounds = booked_in_quarters(begin, end)
        parameters |= bounds
        spans = [kept]
        if self.since < begin:
            spans.append("booked_at >= {since:DateTime64(3, 'UTC')} AND booked_at < {quarter_from:DateTime('UTC')}")
        if end < self.until:
            spans.append("booked_at >= {quarter_to:DateTime('UTC')} AND booked_at < {until:DateTime64(3, 'UTC')}")
        return spans

    def _part(self, expressions: list[str], groups: str, when: str) -> str:
        selected = "".join(f"{expression} AS g{number}, " for number, expression in enumerate(expressions))
        sql = (
            f"SELECT {selected}sum(uses) AS u, sum(quantity) AS q, -sum(amount) AS m FROM facts "
            f"WHERE project = {{project:String}} AND {kind_in(*USAGE_KINDS)} AND {when}"
        )
        if self.environment is not None:
            sql += " AND environment = {environment:String}"
        return f"{sql} GROUP BY {groups}" if groups else sql

    def fingerprint(self) -> bytes:
        """A fingerprint of what is asked, apart from the time and the page."""
        return blake2b(msgspec.msgpack.encode([self.project, self.environment, self.group_by]), digest_size=8).digest()

    def cursor_after(self, group: dict[str, str]) -> str:
        """The cursor of the page that comes after a group."""
        return UsageCursor(self.fingerprint(), self.since, self.until, list(group.values())).text()

    def check(self, cursor: UsageCursor) -> None:
        """Check that a cursor is of this question. Raises Rejection."""
        asked = (self.fingerprint(), self.since, self.until, len(self.group_by))
        if asked != (cursor.question, cursor.since, cursor.until, len(cursor.values)):
            raise _no_cursor()


UsageOfGroup = tuple[dict[str, str], int, int, int]


def usage_page(clickhouse: ClickHouse, question: UsageQuestion) -> tuple[list[UsageOfGroup], str | None]:
    """The (group, uses, quantity, microcredits) of each group of a page, by their values, and the cursor of
    the page after them, or None at the end."""
    sql, parameters = _sql(clickhouse, question)
    count = len(question.group_by)
    found = [
        (dict(zip(question.group_by, row[:count], strict=True)), row[count], row[count + 1], row[count + 2])
        for row in clickhouse.query(sql, parameters)
    ]
    if question.limit is None or len(found) <= question.limit:
        return found, None
    rows = found[: question.limit]
    return rows, question.cursor_after(rows[-1][0])


def usage_rows(clickhouse: ClickHouse, question: UsageQuestion) -> Iterator[list[str]]:
    """The rows of usage by group, streamed, as texts: the group's values, uses, quantity, and credits as an exact
    decimal."""
    sql, parameters = _sql(clickhouse, question)
    groups = "".join(f"g{number}, " for number in range(len(question.group_by)))
    pieces = clickhouse.stream_csv(
        f"SELECT {groups}uses, quantity_sum, toDecimal128(microcredits, 6) / 1000000 FROM ({sql})", parameters
    )
    with closing(pieces):
        rows = csv.reader(_lines(pieces))
        next(rows)  # the engine's own names of the columns
        yield from rows


def _sql(clickhouse: ClickHouse, question: UsageQuestion) -> tuple[str, dict[str, Any]]:
    asks_metadata = not BUILT_IN.keys() >= set(question.keys())
    return question.sql(promoted_keys(clickhouse) if asks_metadata else BUILT_IN)


def _lines(pieces: Iterable[bytes]) -> Iterator[str]:
    """The lines of a text that comes in pieces, with their ends."""
    decode = codecs.getincrementaldecoder("utf-8")("replace").decode
    rest = ""
    for piece in pieces:
        *lines, rest = (rest + decode(piece)).split("\n")
        for line in lines:
            yield f"{line}\n"
    if rest:
        yield rest
