"""Usage of a project, rolled up from the history by operation, environment, metadata and time."""

from __future__ import annotations

import base64
import codecs
import csv
from collections.abc import Iterable, Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass
from datetime import datetime
from functools import cache
from hashlib import blake2b
from typing import Any, NamedTuple
from zoneinfo import ZoneInfo, available_timezones

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
    "hour": "formatDateTime({at}, '%Y-%m-%dT%H:00:00Z', 'UTC')",
    "day": "formatDateTime({at}, '%Y-%m-%d', 'UTC')",
    "month": "formatDateTime({at}, '%Y-%m', 'UTC')",
}
# Days, weeks and months begin at midnight of the zone, and are named by their date there.
_DATES = {
    "day": "toString(toDate({at}, {{tz:String}}))",
    "week": "toString(toStartOfWeek({at}, 1, {{tz:String}}))",
    "month": "formatDateTime({at}, '%Y-%m', {{tz:String}})",
}
# Shorter periods begin when a clock of the zone shows a full hour or quarter. An hour that comes twice, in autumn, is
# two periods: they are told apart, and put in order, by their instant.
_SECONDS = {"15m": 900, "hour": 3_600}
_INSTANT = (
    "formatDateTime(toDateTime(toUnixTimestamp({at}) - positiveModulo(toUnixTimestamp({at}) + "
    "timeZoneOffset(toTimeZone({at}, {{tz:String}})), {seconds}), 'UTC'), '%Y-%m-%dT%H:%i:%SZ', 'UTC')"
)
GRANULARITIES = (*_SECONDS, *_DATES)
# The name of the dimension that has the periods of a granularity.
PERIOD = "period"
_TIMES = ("hour", "day", "month")
# What orders a use in time, and the SQL that its periods are made of. Whatever was booked is known by the quarter hour.
_CLOCKS = {"booked_at": "t", "occurred_at": "toDateTime(occurred_at, 'UTC')"}
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
    """A question for the charged usage of a project in [since, until), by group: all of it, or `limit` groups
    after those of an earlier page.

    A correction counts at the time it was booked. `environment` None is all of the project. `granularity` makes periods
    of the time in the zone `tz` the first group. `by` "occurred_at" takes a use at the time it happened, so that a late
    one changes a past period. `where` are groups, other than times, with the one value of each that counts.
    """

    project: str
    group_by: list[str]
    since: datetime
    until: datetime
    environment: str | None = None
    limit: int | None = None
    after: list[str] | None = None
    granularity: str | None = None
    tz: str = "UTC"
    by: str = "booked_at"
    where: tuple[tuple[str, str], ...] = ()

    @property
    def columns(self) -> list[str]:
        """The names of the groups of each row, in order."""
        return self.group_by if self.granularity is None else [PERIOD, *self.group_by]

    def sql(self, promoted: Mapping[str, str] = BUILT_IN) -> tuple[str, dict[str, Any]]:
        """The query and its parameters; `promoted` are the metadata keys that have a column. Raises Rejection for a
        group, zone, granularity or filter that is unknown, and for those that don't go together.

        What is booked in whole quarter hours comes from a projection, where it has all groups.
        """
        parameters: dict[str, Any] = {"project": self.project}
        expressions = self._expressions(promoted, parameters)
        groups = ", ".join(f"g{number}" for number in range(len(expressions)))
        conditions = self._conditions(promoted, parameters)
        parts = [self._part(expressions, groups, [when, *conditions]) for when in self._spans(parameters)]
        parts.append(self._backfilled(groups, parameters))
        sql = (
            f"SELECT {groups + ', ' if groups else ''}sum(u) AS uses, sum(q) AS quantity_sum, sum(m) AS microcredits "
            f"FROM ({' UNION ALL '.join(parts)})"
        )
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
        """The metadata keys that it groups or filters by."""
        names = [*self.group_by, *(name for name, _ in self.where)]
        return [name.partition(".")[2] for name in names if name.startswith("metadata.")]

    def _expressions(self, promoted: Mapping[str, str], parameters: dict[str, Any]) -> list[str]:
        if len(self.group_by) > GROUPS_MAX:
            raise Rejection("invalid_request", f"At most {GROUPS_MAX} groups", "group_by")
        twice = next((group for number, group in enumerate(self.group_by) if group in self.group_by[:number]), None)
        if twice is not None:
            raise Rejection("invalid_request", f"`group_by` has {twice[:80]!r} twice; name each group once", "group_by")
        expressions = self._period(parameters)
        for number, group in enumerate(self.group_by):
            expression = self._expression(group, f"key{number}", promoted, parameters)
            if expression is None:
                raise Rejection(
                    "invalid_request",
                    f"No group {group[:80]!r}; there are {', '.join(_GROUPS)} and metadata.<key>",
                    "group_by",
                )
            expressions.append(expression)
        return expressions

    def _period(self, parameters: dict[str, Any]) -> list[str]:
        """The SQL of the period that a use is in, or nothing where none is asked for. Raises Rejection."""
        zone_named(self.tz)
        if self.by not in _CLOCKS:
            raise Rejection("invalid_request", f"`by` is one of {', '.join(_CLOCKS)}", "by")
        time = next((group for group in self.group_by if group in _TIMES), None)
        if time is not None and self.tz != "UTC":
            what = f"The group {time!r} is of UTC; for another zone leave it out and ask for `granularity`={time}"
            raise Rejection("invalid_request", what, "group_by")
        if self.granularity is None:
            return []
        if self.granularity not in GRANULARITIES:
            raise Rejection("invalid_request", f"`granularity` is one of {', '.join(GRANULARITIES)}", "granularity")
        if time is not None:
            what = f"`granularity` does not go with the group {time!r}; leave one of them out"
            raise Rejection("invalid_request", what, "granularity")
        parameters["tz"] = self.tz
        form = _DATES.get(self.granularity, _INSTANT)
        return [form.format(at=_CLOCKS[self.by], seconds=_SECONDS.get(self.granularity))]

    def _expression(
        self, name: str, parameter: str, promoted: Mapping[str, str], parameters: dict[str, Any]
    ) -> str | None:
        """The SQL of a group; the key of metadata is bound as `parameter`. None where there is no such group."""
        if (expression := _GROUPS.get(name)) is not None:
            return expression.format(at=_CLOCKS[self.by])
        kind, _, key = name.partition(".")
        if kind != "metadata" or not 1 <= len(key) <= 64:
            return None
        if key in promoted:
            return f"`{promoted[key]}`"
        parameters[parameter] = key
        return value_of("metadata", f"{{{parameter}:String}}")

    def _conditions(self, promoted: Mapping[str, str], parameters: dict[str, Any]) -> list[str]:
        """The SQL of the filters, with names and values bound. Raises Rejection for what is no filter."""
        conditions = []
        if self.environment is not None:
            parameters["environment"] = self.environment
            conditions.append("environment = {environment:String}")
        for number, (name, value) in enumerate(self.where):
            expression = self._expression(name, f"where{number}", promoted, parameters)
            if expression is None or name in _TIMES:
                raise Rejection("invalid_request", "Filter by operation, customer_id or metadata.<key>", name[:80])
            parameters[f"is{number}"] = value
            conditions.append(f"{expression} = {{is{number}:String}}")
        return conditions

    @property
    def _when(self) -> str:
        """The SQL condition that a row counts in [since, until)."""
        return f"{self.by} >= {{since:DateTime64(3, 'UTC')}} AND {self.by} < {{until:DateTime64(3, 'UTC')}}"

    def _spans(self, parameters: dict[str, Any]) -> list[str]:
        """SQL conditions that divide [since, until): what a projection serves, and what is read from the rows."""
        parameters |= {"since": self.since, "until": self.until}
        quarters = quarters_within(self.since, self.until)
        names = {*self.group_by, *(name for name, _ in self.where)}
        if quarters is None or self.by != "booked_at" or not names <= _KEPT:
            return [self._when]
        begin, end = quarters
        kept, bounds = booked_in_quarters(begin, end)
        parameters |= bounds
        spans = [kept]
        if self.since < begin:
            spans.append("booked_at >= {since:DateTime64(3, 'UTC')} AND booked_at < {quarter_from:DateTime('UTC')}")
        if end < self.until:
            spans.append("booked_at >= {quarter_to:DateTime('UTC')} AND booked_at < {until:DateTime64(3, 'UTC')}")
        return spans

    def _backfilled(self, groups: str, parameters: dict[str, Any]) -> str:
        """The SQL of the part that comes from before Meterline. It is small beside the rest, and has no columns of
        promoted keys."""
        expressions, conditions = self._expressions(BUILT_IN, parameters), self._conditions(BUILT_IN, parameters)
        return self._part(expressions, groups, [self._when, *conditions], "backfilled")

    def _part(self, expressions: list[str], groups: str, conditions: list[str], table: str = "facts") -> str:
        selected = "".join(f"{expression} AS g{number}, " for number, expression in enumerate(expressions))
        sql = (
            f"SELECT {selected}sum(uses) AS u, sum(quantity) AS q, -sum(amount) AS m FROM {table} "
            f"WHERE project = {{project:String}} AND {kind_in(*USAGE_KINDS)} "
            f"AND {' AND '.join(conditions)}"
        )
        return f"{sql} GROUP BY {groups}" if groups else sql

    def fingerprint(self) -> bytes:
        """A fingerprint of what is asked, apart from the time and the page."""
        asked = [self.project, self.environment, self.group_by, self.granularity, self.tz, self.by, self.where]
        return blake2b(msgspec.msgpack.encode(asked), digest_size=8).digest()

    def named(self, period: str) -> str:
        """A period as its zone names it, of the text that the query gives: a date, or a time with its offset."""
        if self.granularity not in _SECONDS or self.tz == "UTC":
            return period
        return datetime.fromisoformat(period).astimezone(zone_named(self.tz)).isoformat()

    def group_of(self, values: Iterable[str]) -> dict[str, str]:
        """The group with these values, as the query gives them."""
        group = dict(zip(self.columns, values, strict=True))
        return group if self.granularity is None else group | {PERIOD: self.named(group[PERIOD])}

    def cursor_after(self, values: Iterable[str]) -> str:
        """The cursor of the page that comes after the group with these values, as the query gives them."""
        return UsageCursor(self.fingerprint(), self.since, self.until, list(values)).text()

    def check(self, cursor: UsageCursor) -> None:
        """Check that a cursor is of this question. Raises Rejection."""
        asked = (self.fingerprint(), self.since, self.until, len(self.columns))
        if asked != (cursor.question, cursor.since, cursor.until, len(cursor.values)):
            raise _no_cursor()


@cache
def _zones() -> frozenset[str]:
    # `localtime` is this machine's own, which the engine does not know.
    return frozenset(available_timezones()) - {"localtime"}


def zone_named(tz: str) -> ZoneInfo:
    """The IANA zone of a name. Raises Rejection where there is none."""
    if tz not in _zones():
        what = f"No time zone {tz[:80]!r}; name one of the IANA database, such as Asia/Kolkata or UTC"
        raise Rejection("invalid_request", what, "tz")
    return ZoneInfo(tz)


UsageOfGroup = tuple[dict[str, str], int, int, int]


def usage_page(clickhouse: ClickHouse, question: UsageQuestion) -> tuple[list[UsageOfGroup], str | None]:
    """The (group, uses, quantity, microcredits) of each group of a page, by their values, and the cursor of
    the page after them, or None at the end."""
    sql, parameters = _sql(clickhouse, question)
    count = len(question.columns)
    rows = list(clickhouse.query(sql, parameters))
    is_last = question.limit is None or len(rows) <= question.limit
    kept = rows if is_last else rows[: question.limit]
    found = [(question.group_of(row[:count]), row[count], row[count + 1], row[count + 2]) for row in kept]
    return found, None if is_last else question.cursor_after(kept[-1][:count])


def usage_rows(clickhouse: ClickHouse, question: UsageQuestion) -> Iterator[list[str]]:
    """The rows of usage by group, streamed, as texts: the group's values, uses, quantity, and credits as an exact
    decimal."""
    sql, parameters = _sql(clickhouse, question)
    groups = "".join(f"g{number}, " for number in range(len(question.columns)))
    pieces = clickhouse.stream_csv(
        f"SELECT {groups}uses, quantity_sum, toDecimal128(microcredits, 6) / 1000000 FROM ({sql})", parameters
    )
    with closing(pieces):
        rows = csv.reader(_lines(pieces))
        next(rows)  # the engine's own names of the columns
        for values in rows:
            if question.granularity is not None:
                values[0] = question.named(values[0])
            yield values


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
