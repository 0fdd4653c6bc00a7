"""Usage by group as a file: all rows, streamed."""

from __future__ import annotations

from collections.abc import Callable, Generator
from contextlib import closing
from dataclasses import replace
from datetime import datetime, timedelta
from io import BytesIO
from typing import Any

from streams.clickhouse.client import ClickHouse, sql_name
from streams.history.periods import named_sql, period_begin, zone_named
from streams.history.usage import UsageQuestion, UsageSources, narrowed, usage_sources

# Few enough lines to be grouped and sorted in the processor's cache: of twice as many each took half as long again, and
# half as many cost more queries.
SPAN_BYTES = 4 * 1024 * 1024
# A Parquet file's spans are its row groups.
_SPAN_ROWS = 100_000
# The first span is so small a part of the time that it has few rows also of a hundred million; and each is so many
# times as long as the one before at most.
_SPANS_FIRST = 4096
_GROWTH_MAX = 8.0


def columns_of(question: UsageQuestion) -> list[str]:
    """The names of a file's columns, in order. `other` is true, in CSV 1, in the rows of all groups that are not among
    the top ones."""
    sums = ["uses", "quantity", "credits"]
    if question.compare:
        sums += [f"previous_{name}" for name in sums]
    return [*question.columns, *(["other"] if question.top is not None else []), *sums]


def usage_lines(clickhouse: ClickHouse, question: UsageQuestion) -> Generator[bytes, None, None]:
    """The lines of a CSV of usage by group, in pieces, without a header: the group's values in quotes, with `top`
    whether it is all others (1 or 0), uses, quantity, and credits as an exact decimal, then with `compare` those of the
    time before. Texts are as they are, also those that a spreadsheet would run.

    Periods are asked for a few at a time, so many that their lines have some SPAN_BYTES: the engine puts in order, and
    has in memory, no more than those.
    """
    known = usage_sources(clickhouse, question)

    def read(span: UsageQuestion) -> Generator[bytes, None, int]:
        size = 0
        for piece in _lines(clickhouse, span, known):
            size += len(piece)
            yield piece
        return size

    yield from _in_spans(question, known, SPAN_BYTES, read)


def _in_spans(
    question: UsageQuestion,
    known: UsageSources,
    wanted: int,
    read: Callable[[UsageQuestion], Generator[bytes, None, int]],
) -> Generator[bytes, None, None]:
    """Pieces that `read` gives of a question, span by span; it returns a span's size, of which about so much is
    wanted."""
    since, seconds = question.since, (question.until - question.since).total_seconds() / _SPANS_FIRST
    with narrowed(question, known.promoted):
        while True:
            until = _end_of_span(question, since, seconds)
            size = yield from read(replace(question, since=since, until=until))
            seconds = (until - since).total_seconds() * min(_GROWTH_MAX, wanted / max(size, 1))
            since = until
            if since >= question.until:
                return


def _end_of_span(question: UsageQuestion, since: datetime, seconds: float) -> datetime:
    """The end of the periods from `since` on that are asked for together: of about so many seconds, one at least."""
    granularity = question.granularity
    # Rows lie in the order of `booked_at`; what is compared, or is not among the top, is known at the end only.
    if granularity is None or question.by != "booked_at" or question.compare or question.top is not None:
        return question.until
    zone = zone_named(question.tz)
    wanted = timedelta(seconds=max(seconds, 1))
    while since + wanted < question.until:
        end = period_begin(granularity, since + wanted, zone)
        # An hour in which clocks are changed by less is named by a time of the one before it, which is not cut there.
        while (begin := period_begin(granularity, end, zone)) < end:
            end = begin
        if end > since:
            return end
        wanted *= 2
    return question.until


def _lines(clickhouse: ClickHouse, question: UsageQuestion, known: UsageSources) -> Generator[bytes, None, None]:
    sql, parameters = _sql_of(question, known)
    sql = f"SELECT {', '.join(_values_of(question))} FROM ({sql})"
    with closing(clickhouse.stream_csv(sql, parameters, header=False, crlf=True)) as pieces:
        yield from pieces


def usage_parquet(clickhouse: ClickHouse, question: UsageQuestion) -> Generator[bytes, None, None]:
    """A Parquet file of usage by group, in pieces: groups are texts, `other` a boolean, uses and quantities integers of
    64 bits, credits Decimal(38, 6). Periods are asked for a few at a time, as for CSV; each such span is a row
    group."""
    known = usage_sources(clickhouse, question)
    with _ParquetFile() as file:

        def read(span: UsageQuestion) -> Generator[bytes, None, int]:
            rows = file.add(b"".join(_parquet(clickhouse, span, known)))
            yield file.taken()
            return rows

        yield from _in_spans(question, known, _SPAN_ROWS, read)
    yield file.taken()


class _ParquetFile:
    """A Parquet file that is put together of others with the same columns; what was written is taken from it as it
    comes."""

    def __init__(self) -> None:
        # Loaded when it is needed first: it takes 40 MB.
        from pyarrow import parquet

        self._parquet = parquet
        self._written = BytesIO()
        self._writer: Any = None

    def __enter__(self) -> _ParquetFile:
        return self

    def __exit__(self, *_: object) -> None:
        if self._writer is not None:
            self._writer.close()

    def add(self, content: bytes) -> int:
        """Add the rows of a file, as a row group; gives their number."""
        table = self._parquet.read_table(BytesIO(content), use_threads=False)
        if self._writer is None:
            self._writer = self._parquet.ParquetWriter(self._written, table.schema, compression="zstd")
        if table.num_rows:
            self._writer.write_table(table)
        return int(table.num_rows)

    def taken(self) -> bytes:
        """The bytes that were written since they were taken last."""
        content = self._written.getvalue()
        self._written.seek(0)
        self._written.truncate()
        return content


def _parquet(clickhouse: ClickHouse, question: UsageQuestion, known: UsageSources) -> Generator[bytes, None, None]:
    sql, parameters = _sql_of(question, known)
    values, columns = _values_of(question), columns_of(question)
    if question.top is not None:
        values[columns.index("other")] = "toBool(is_other)"
    # No column's value is computed from another's name, whatever a metadata key is called.
    inner = ", ".join(f"{value} AS c{number}" for number, value in enumerate(values))
    named = ", ".join(f"c{number} AS {sql_name(name)}" for number, name in enumerate(columns))
    sql = f"SELECT {named} FROM (SELECT {inner} FROM ({sql}))"
    with closing(clickhouse.stream_parquet(sql, parameters)) as pieces:
        yield from pieces


def _sql_of(question: UsageQuestion, known: UsageSources) -> tuple[str, dict[str, Any]]:
    return replace(question, period_keys=True).sql(known.promoted, has_backfilled=known.has_backfilled)


def _values_of(question: UsageQuestion) -> list[str]:
    """SQL for the value of each column, of the rows that `_sql_of` gives."""
    groups = [f"g{number}" for number in range(len(question.columns))]
    if question.granularity is not None:
        groups[0] = named_sql(question.granularity, groups[0], question.tz)
    if question.top is not None:
        groups.append("is_other")
    sums = [f"toDecimal128({name}, 6) / 1000000" if "microcredits" in name else name for name in question.sums]
    return [*groups, *sums]
