"""Usage of a project, rolled up from the history by operation, environment, metadata and time."""

from __future__ import annotations

import base64
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from hashlib import blake2b
from typing import Any, NamedTuple

import msgspec

from schemas.facts import LIMITED_AT_EDGE, USAGE_KINDS
from schemas.http.usage import GROUPS_MAX
from schemas.problems import Rejection
from streams.clickhouse.client import ClickHouse
from streams.clickhouse.limits import too_much
from streams.clickhouse.promoted import BUILT_IN, promoted_keys, value_of
from streams.core.foreign import UnreadableError, read
from streams.history.facts import kind_in
from streams.history.periods import (
    GRANULARITIES,
    PERIOD,
    period_key_sql,
    period_named,
    period_sql,
    shift_between,
    span_before,
    zone_named,
)
from streams.history.quarters import booked_in_quarters, quarters_within

# The groups of usage that need no parameter; the key of `metadata.<key>` is passed as one.
_GROUPS = {
    "operation": "toString(operation)",
    "environment": "toString(environment)",
    "customer_id": "customer_id",
    "metadata.customer_id": "customer_id",
    "outcome": f"multiIf(NOT ({kind_in('refusal')}), 'charged', "
    f"reason IN ('rate_limited', '{LIMITED_AT_EDGE}'), 'limited', 'refused')",
    "hour": "formatDateTime({at}, '%Y-%m-%dT%H:00:00Z', 'UTC')",
    "day": "formatDateTime({at}, '%Y-%m-%d', 'UTC')",
    "month": "formatDateTime({at}, '%Y-%m', 'UTC')",
}
_TIMES = ("hour", "day", "month")
# The value of every group in the row that has all but the `top` ones. A field beside it tells it from a name.
OTHER = "other"
TOP_MAX = 100
_DECIDED = kind_in(*USAGE_KINDS, "refusal")
# Nothing was used before, and the engine knows no much earlier time.
_EARLIEST = datetime(1971, 1, 1, tzinfo=UTC)
# What orders a use in time, and the SQL that its periods are made of. Whatever was booked is known by the quarter hour;
# shorter periods are made of its own time.
_CLOCKS = {"booked_at": "t", "occurred_at": "toDateTime(occurred_at, 'UTC')"}
_SHORT = {"minute": "toDateTime({by}, 'UTC')"}
# The groups that a projection has; all others are read from the rows.
_KEPT = frozenset({"operation", "environment", "outcome", "hour", "day", "month"})
OUTCOMES = ("charged", "refused", "limited")
# The largest has five texts of 512 characters outside ASCII.
CURSOR_CHARS_MAX = 16_384
# Those of the times that a question may be about, and of 30 days before.
_YEARS = range(1970, 2201)


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
            cursor = read(decode, text)
        except UnreadableError:
            raise _no_cursor() from None
        if not all(at.tzinfo is not None and at.year in _YEARS for at in (cursor.since, cursor.until)):
            raise _no_cursor()
        return cursor


_decode_cursor = msgspec.msgpack.Decoder(UsageCursor).decode


def _no_cursor() -> Rejection:
    return Rejection("invalid_request", "`cursor` is not one that a page of this question gave", "cursor")


@dataclass(frozen=True, slots=True)
class UsageQuestion:
    """A question for the charged usage of a project in [since, until), by group: all of it, or `limit` groups
    after those of an earlier page. Where `outcome` is a group or a filter, the requests that were refused, or limited
    by a request window or a cost ceiling, are counted too; they cost nothing.

    A correction counts at the time it was booked. `environment` None is all of the project. `granularity` makes periods
    of the time in the zone `tz` the first group. `by` "occurred_at" takes a use at the time it happened, so that a late
    one changes a past period. `where` are groups, other than times, with the one value of each that counts.

    `top` leaves as many groups, those with most credits in the whole time and by their values where they have as many,
    and makes one of all others, in each period. `compare` puts the sums of the time before (`previous`) beside each
    group, also of groups that were only then. With `granularity` the first period of that time stands beside the
    first of this, and so on; where it has more of them, the last ones stand beside periods after the end.
    With `period_keys` the query gives what `named_sql` takes in place of a period's text, and there is no `after`.
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
    top: int | None = None
    compare: bool = False
    period_keys: bool = False

    @property
    def columns(self) -> list[str]:
        """The names of the groups of each row, in order."""
        return self.group_by if self.granularity is None else [PERIOD, *self.group_by]

    def sql(self, promoted: Mapping[str, str] = BUILT_IN, *, has_backfilled: bool = True) -> tuple[str, dict[str, Any]]:
        """The query and its parameters; `promoted` are the metadata keys that have a column. Raises Rejection for a
        group, zone, granularity or filter that is unknown, and for those that don't go together.

        What is booked in whole quarter hours comes from a projection, where it has all groups. A row has the groups'
        values as g0, g1, …, with `top` whether it is all others (`is_other`), and its `sums`. Without `has_backfilled`
        what was used before Meterline is left out, where there is none.
        """
        parameters: dict[str, Any] = {"project": self.project}
        expressions = self._expressions(promoted, parameters)
        names = [f"g{number}" for number in range(len(expressions))]
        conditions = self._conditions(promoted, parameters)
        spans = self._spans(self.since, self.until, "", parameters)
        parts = [self._part(expressions, names, [when, *conditions], is_now=True) for when in spans]
        if has_backfilled:
            parts.append(self._backfilled(names, "", parameters, is_now=True))
        if self.compare:
            expressions = self._expressions(promoted, parameters, self._shift())
            spans = self._spans(max(self.previous[0], _EARLIEST), self.previous[1], "previous_", parameters)
            parts += [self._part(expressions, names, [when, *conditions], is_now=False) for when in spans]
            if has_backfilled:
                parts.append(self._backfilled(names, "previous_", parameters, is_now=False))
        # One part is summed up by group already, but for outcomes.
        is_summed = len(parts) == 1 and "outcome" not in self._names
        form = "{} AS {}" if is_summed else "sumIf({}, is_now) AS {}"
        sums = [form.format(name, alias) for name, alias in zip("uqm", self.sums[:3], strict=True)]
        sums += [f"sumIf({name}, NOT is_now) AS {alias}" for name, alias in zip("uqm", self.sums[3:], strict=False)]
        sql = f"SELECT {', '.join([*names, *sums])} FROM ({' UNION ALL '.join(parts)})"
        if names and self.after is not None:
            places = ", ".join(f"{{after{number}:String}}" for number in range(len(self.after)))
            sql += f" WHERE tuple({', '.join(names)}) > tuple({places})"
            parameters |= {f"after{number}": value for number, value in enumerate(self.after)}
        if names and not is_summed:
            sql += f" GROUP BY {', '.join(names)}"
        if self.top is not None:
            sql = self._top_of(sql, names)
        elif names:
            sql += f" ORDER BY {', '.join(names)}"
        if self.limit is not None:
            sql += f" LIMIT {self.limit + 1:d}"
        return sql, parameters

    @property
    def sums(self) -> list[str]:
        """The names of the sums of each row, in order; with `compare` those of the time before come last."""
        sums = ["uses", "quantity_sum", "microcredits"]
        return [*sums, *(f"previous_{name}" for name in sums)] if self.compare else sums

    @property
    def previous(self) -> tuple[datetime, datetime]:
        """The time before, as long in the zone. Raises Rejection where there is no such zone."""
        return span_before(self.since, self.until, zone_named(self.tz))

    @property
    def _is_by_quarters(self) -> bool:
        return self.by == "booked_at" and self.granularity not in _SHORT

    @property
    def _clock(self) -> str:
        return _SHORT.get(self.granularity or "", _CLOCKS[self.by]).format(by=self.by)

    @property
    def _names(self) -> set[str]:
        return {*self.group_by, *(name for name, _ in self.where)}

    def _shift(self) -> int:
        if self.granularity is None:
            return 0
        return shift_between(self.granularity, self.previous[0], self.since, zone_named(self.tz))

    def _top_of(self, sql: str, names: list[str]) -> str:
        """The query that leaves the top groups of another, and one of all others. Raises Rejection."""
        assert self.top is not None
        if not 1 <= self.top <= TOP_MAX:
            raise Rejection("invalid_request", f"`top` is a number from 1 to {TOP_MAX}", "top")
        if self.after is not None:
            raise Rejection("invalid_request", "`top` gives all rows at once; leave `cursor` out", "cursor")
        periods, ranked = (names[:1], names[1:]) if self.granularity is not None else ([], names)
        if not ranked:
            raise Rejection("invalid_request", "`top` leaves so many groups: name them in `group_by`", "top")
        whole = f"sum(microcredits) OVER (PARTITION BY {', '.join(ranked)})"
        placed = f"dense_rank() OVER (ORDER BY whole DESC, {', '.join(ranked)}) AS place"
        sql = f"SELECT *, {placed} FROM (SELECT *, {whole} AS whole FROM ({sql}))"
        is_other = f"place > {self.top:d}"
        # Other names, since an alias goes before a column of the same name.
        folded = [*periods, *(f"if({is_other}, '{OTHER}', {name}) AS h{name}" for name in ranked)]
        sums = [f"sum({name}) AS {name}_of" for name in self.sums]
        sql = (
            f"SELECT {', '.join([*folded, f'{is_other} AS is_other', *sums])}, min(place) AS first FROM ({sql}) "
            f"GROUP BY {', '.join([*periods, *(f'h{name}' for name in ranked), 'is_other'])}"
        )
        renamed = [*periods, *(f"h{name} AS {name}" for name in ranked), "is_other"]
        renamed += [f"{name}_of AS {name}" for name in self.sums]
        return f"SELECT {', '.join(renamed)} FROM ({sql}) ORDER BY {', '.join([*periods, 'first'])}"

    def narrower(self, promoted: Mapping[str, str]) -> list[str]:
        """The ways in which less can be asked for, in words, the best first."""
        days = max(1, round((self.until - self.since).total_seconds() / 86_400))
        ways = [f"a shorter time than {days} days (`from`, `to`)"]
        if raw := [key for key in self.keys() if key not in promoted]:
            ways.append(f"a promoted key ({', '.join(promoted)}) in place of metadata.{raw[0]} (`group_by`)")
        if self.by != "booked_at":
            ways.append("`by`=booked_at")
        if self.granularity in _SHORT:
            ways.append("`granularity`=15m or longer")
        if len(self.group_by) > 1:
            ways.append("fewer groups (`group_by`)")
        if not self.where:
            ways.append("one `operation` or `customer_id`")
        return ways

    def keys(self) -> list[str]:
        """The metadata keys that it groups or filters by."""
        names = [*self.group_by, *(name for name, _ in self.where)]
        return [name.partition(".")[2] for name in names if name.startswith("metadata.")]

    def _expressions(self, promoted: Mapping[str, str], parameters: dict[str, Any], shift: int = 0) -> list[str]:
        if len(self.group_by) > GROUPS_MAX:
            raise Rejection("invalid_request", f"At most {GROUPS_MAX} groups", "group_by")
        twice = next((group for number, group in enumerate(self.group_by) if group in self.group_by[:number]), None)
        if twice is not None:
            raise Rejection("invalid_request", f"`group_by` has {twice[:80]!r} twice; name each group once", "group_by")
        expressions = self._period(parameters, shift)
        for number, group in enumerate(self.group_by):
            expression = self._expression(group, f"key{number}", promoted, parameters)
            if expression is None:
                raise Rejection(
                    "invalid_request",
                    f"No group {group[:80]!r}; there are {', '.join(_GROUPS)} and metadata.<key>; a name with a comma "
                    "is in double quotes",
                    "group_by",
                )
            expressions.append(expression)
        return expressions

    def _period(self, parameters: dict[str, Any], shift: int) -> list[str]:
        """The SQL of the period that a use is in, or nothing where none is asked for. Raises Rejection."""
        zone_named(self.tz)
        if self.by not in _CLOCKS:
            raise Rejection("invalid_request", f"`by` is one of {', '.join(_CLOCKS)}", "by")
        time = next((group for group in self.group_by if group in _TIMES), None)
        if time is not None and self.tz != "UTC":
            what = f"The group {time!r} is of UTC; for another zone leave it out and ask for `granularity`={time}"
            raise Rejection("invalid_request", what, "group_by")
        if time is not None and self.compare:
            what = f"No {time} comes twice; leave the group {time!r} out and ask for `granularity`={time}"
            raise Rejection("invalid_request", what, "compare")
        if self.granularity is None:
            return []
        if self.granularity not in GRANULARITIES:
            raise Rejection("invalid_request", f"`granularity` is one of {', '.join(GRANULARITIES)}", "granularity")
        if time is not None:
            what = f"`granularity` does not go with the group {time!r}; leave one of them out"
            raise Rejection("invalid_request", what, "granularity")
        parameters["tz"] = self.tz
        return [(period_key_sql if self.period_keys else period_sql)(self.granularity, self._clock, shift)]

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
                what = "Filter by operation, customer_id, outcome or metadata.<key>"
                raise Rejection("invalid_request", what, name[:80])
            if name == "outcome" and value not in OUTCOMES:
                raise Rejection("invalid_request", f"`outcome` is one of {', '.join(OUTCOMES)}", name)
            parameters[f"is{number}"] = value
            conditions.append(f"{expression} = {{is{number}:String}}")
        return conditions

    def _spans(self, since: datetime, until: datetime, prefix: str, parameters: dict[str, Any]) -> list[str]:
        """SQL conditions that divide [since, until): what a projection serves, and what is read from the rows. The
        names of their parameters begin with `prefix`."""
        parameters |= {f"{prefix}since": since, f"{prefix}until": until}
        from_since, to_until = self._bounds(prefix)
        quarters = quarters_within(since, until)
        if quarters is None or not self._is_by_quarters or not self._names <= _KEPT:
            return [f"{from_since} AND {to_until}"]
        begin, end = quarters
        kept, bounds = booked_in_quarters(begin, end, prefix)
        parameters |= bounds
        spans = [kept]
        if since < begin:
            spans.append(f"{from_since} AND booked_at < {{{prefix}quarter_from:DateTime('UTC')}}")
        if end < until:
            spans.append(f"booked_at >= {{{prefix}quarter_to:DateTime('UTC')}} AND {to_until}")
        return spans

    def _bounds(self, prefix: str) -> tuple[str, str]:
        """SQL conditions that a row is not before a time, and not after its end."""
        return (
            f"{self.by} >= {{{prefix}since:DateTime64(3, 'UTC')}}",
            f"{self.by} < {{{prefix}until:DateTime64(3, 'UTC')}}",
        )

    def _backfilled(self, names: list[str], prefix: str, parameters: dict[str, Any], *, is_now: bool) -> str:
        """The SQL of the part that comes from before Meterline. It is small beside the rest, and has no columns of
        promoted keys."""
        expressions = self._expressions(BUILT_IN, parameters, 0 if is_now else self._shift())
        conditions = [*self._bounds(prefix), *self._conditions(BUILT_IN, parameters)]
        return self._part(expressions, names, conditions, is_now=is_now, table="backfilled")

    def _part(
        self, expressions: list[str], names: list[str], conditions: list[str], *, is_now: bool, table: str = "facts"
    ) -> str:
        groups = [f"{expression} AS {name}" for expression, name in zip(expressions, names, strict=True)]
        sums = ["sum(uses) AS u", "sum(quantity) AS q", "-sum(amount) AS m"]
        of_project = f"FROM {table} WHERE project = {{project:String}} AND {' AND '.join(conditions)}"
        if "outcome" in self._names:
            # An API process states in one fact how many requests it refused. A refusal of no use is an unpaid month.
            selected = ", ".join([*groups, "kind", "reason", "sum(uses) AS counted", *sums[1:]])
            by = ", ".join([*names, "kind", "reason"])
            sql = f"SELECT {selected} {of_project} AND {_DECIDED} GROUP BY {by}"
            uses = f"if({kind_in('refusal')} AND reason = '{LIMITED_AT_EDGE}', q, counted) AS u"
            selected = ", ".join([*names, uses, "q", "m", f"{is_now:d} AS is_now"])
            return f"SELECT {selected} FROM ({sql}) WHERE NOT ({kind_in('refusal')}) OR counted != 0"
        selected = ", ".join([*groups, *sums, f"{is_now:d} AS is_now"])
        sql = f"SELECT {selected} {of_project} AND {kind_in(*USAGE_KINDS)}"
        return f"{sql} GROUP BY {', '.join(names)}" if names else sql

    def fingerprint(self) -> bytes:
        """A fingerprint of what is asked, apart from the time and the page."""
        form = (self.group_by, self.granularity, self.tz, self.by, self.top, self.compare)
        asked = (self.project, self.environment, form, self.where)
        return blake2b(msgspec.msgpack.encode(asked), digest_size=8).digest()

    def named(self, period: str) -> str:
        """A period as its zone names it, of the text that the query gives."""
        return period if self.granularity is None else period_named(self.granularity, period, self.tz)

    def group_of(self, values: Iterable[str]) -> dict[str, str]:
        """The group with these values, as the query gives them."""
        group = dict(zip(self.columns, values, strict=True))
        return group if self.granularity is None else group | {PERIOD: self.named(group[PERIOD])}

    def cursor_after(self, values: Iterable[str]) -> str:
        """The cursor of the page that comes after the group with these values, as the query gives them."""
        return UsageCursor(self.fingerprint(), self.since, self.until, list(values)).text()

    def check(self, cursor: UsageCursor) -> None:
        """Check that a cursor is of this question. Raises Rejection."""
        # In UTC: Python takes no time in which clocks are changed for equal to one of another zone.
        asked = (self.fingerprint(), self.since.astimezone(UTC), self.until.astimezone(UTC), len(self.columns))
        if asked != (cursor.question, cursor.since, cursor.until, len(cursor.values)):
            raise _no_cursor()


class UsageSums(NamedTuple):
    """The sums of usage; `microcredits` have their sign turned: what is spent is above 0."""

    uses: int
    quantity: int
    microcredits: int


class UsageOfGroup(NamedTuple):
    """The usage of one group, as in `UsageSums`. `is_other` says that it is that of all groups that are not among the
    top ones. `previous` is that of the time before, where it was asked for."""

    group: dict[str, str]
    uses: int
    quantity: int
    microcredits: int
    is_other: bool = False
    previous: UsageSums | None = None


class UsagePage(NamedTuple):
    """A page of usage, by the groups' values, and the cursor of the page after it, or None at the end. `rows_read` is
    that of `Found`."""

    rows: list[UsageOfGroup]
    next_cursor: str | None
    rows_read: int | None


def usage_page(clickhouse: ClickHouse, question: UsageQuestion) -> UsagePage:
    """The usage of each group of a page. Raises Rejection `too_much_history` where the top groups of all periods are
    more than a page may have."""
    sql, parameters, promoted = asked(clickhouse, question)
    with narrowed(question, promoted):
        rows, rows_read = clickhouse.find(sql, parameters)
    is_last = question.limit is None or len(rows) <= question.limit
    if not is_last and question.top is not None:
        raise too_much(f"more than {question.limit} rows; ask for longer periods, a lower `top` or a file")
    kept = rows if is_last else rows[: question.limit]
    count = len(question.columns)
    found = [_of_group(question, row[:count], row[count:]) for row in kept]
    return UsagePage(found, None if is_last else question.cursor_after(kept[-1][:count]), rows_read)


def _of_group(question: UsageQuestion, values: Sequence[str], sums: Sequence[int]) -> UsageOfGroup:
    is_other, sums = (False, sums) if question.top is None else (bool(sums[0]), sums[1:])
    previous = UsageSums(*sums[3:]) if question.compare else None
    return UsageOfGroup(question.group_of(values), sums[0], sums[1], sums[2], is_other, previous)


@contextmanager
def narrowed(question: UsageQuestion, promoted: Mapping[str, str]) -> Iterator[None]:
    """A context in which the refusal of a question that asks too much says what to narrow."""
    try:
        yield
    except Rejection as refused:
        if refused.code != "too_much_history":
            raise
        ways = ", or ".join(question.narrower(promoted))
        raise Rejection(refused.code, f"{refused.detail}. Ask for {ways}") from None


class UsageSources(NamedTuple):
    """Sources of usage that change how it is asked for: the metadata keys that have a column, as far as the
    question needs to know, and whether the project has uses of before Meterline."""

    promoted: Mapping[str, str]
    has_backfilled: bool


def usage_sources(clickhouse: ClickHouse, question: UsageQuestion) -> UsageSources:
    """The sources of usage that this history has for a question."""
    asks_metadata = not BUILT_IN.keys() >= set(question.keys())
    promoted = promoted_keys(clickhouse) if asks_metadata else BUILT_IN
    rows = clickhouse.query(
        "SELECT 1 FROM backfilled WHERE project = {project:String} LIMIT 1", {"project": question.project}
    )
    return UsageSources(promoted, bool(rows))


def asked(clickhouse: ClickHouse, question: UsageQuestion) -> tuple[str, dict[str, Any], Mapping[str, str]]:
    """The query of a question and its parameters, by what this history has; and the metadata keys that have a column
    in it, as far as the question needs to know."""
    known = usage_sources(clickhouse, question)
    return *question.sql(known.promoted, has_backfilled=known.has_backfilled), known.promoted
