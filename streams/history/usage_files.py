"""Usage by group as a file: all rows, streamed."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import closing

from streams.clickhouse.client import ClickHouse, sql_name
from streams.history.periods import named_sql
from streams.history.usage import UsageQuestion, asked, narrowed


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
    time before. Texts are as they are, also those that a spreadsheet would run."""
    sql, parameters, promoted = asked(clickhouse, question)
    sql = f"SELECT {', '.join(_values_of(question))} FROM ({sql})"
    with narrowed(question, promoted), closing(clickhouse.stream_csv(sql, parameters, crlf=True)) as pieces:
        next(pieces)  # the engine's own names of the columns
        yield from pieces


def usage_parquet(clickhouse: ClickHouse, question: UsageQuestion) -> Generator[bytes, None, None]:
    """A Parquet file of usage by group, in pieces: groups are texts, `other` a boolean, uses and quantities integers of
    64 bits, credits Decimal(38, 6)."""
    sql, parameters, promoted = asked(clickhouse, question)
    values, columns = _values_of(question), columns_of(question)
    if question.top is not None:
        values[columns.index("other")] = "toBool(is_other)"
    # No column's value is computed from another's name, whatever a metadata key is called.
    inner = ", ".join(f"{value} AS c{number}" for number, value in enumerate(values))
    named = ", ".join(f"c{number} AS {sql_name(name)}" for number, name in enumerate(columns))
    sql = f"SELECT {named} FROM (SELECT {inner} FROM ({sql}))"
    with narrowed(question, promoted), closing(clickhouse.stream_parquet(sql, parameters)) as pieces:
        yield from pieces


def _values_of(question: UsageQuestion) -> list[str]:
    """SQL for the value of each column, of the rows of a question."""
    groups = [f"g{number}" for number in range(len(question.columns))]
    if question.granularity is not None:
        groups[0] = named_sql(question.granularity, groups[0], question.tz)
    if question.top is not None:
        groups.append("is_other")
    sums = [f"toDecimal128({name}, 6) / 1000000" if "microcredits" in name else name for name in question.sums]
    return [*groups, *sums]
