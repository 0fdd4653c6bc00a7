"""Usage by group as a file: all rows, streamed."""

from __future__ import annotations

import codecs
import csv
from collections.abc import Iterable, Iterator
from contextlib import closing

from streams.clickhouse.client import ClickHouse
from streams.history.usage import UsageQuestion, sql_of


def columns_of(question: UsageQuestion) -> list[str]:
    """The names of a file's columns, in order. `other` is 1 in the rows of all groups that are not among the top
    ones."""
    sums = ["uses", "quantity", "credits"]
    if question.compare:
        sums += [f"previous_{name}" for name in sums]
    return [*question.columns, *(["other"] if question.top is not None else []), *sums]


def usage_rows(clickhouse: ClickHouse, question: UsageQuestion) -> Iterator[list[str]]:
    """The rows of usage by group, streamed, as texts: the group's values, with `top` whether it is all others (1 or 0),
    uses, quantity, and credits as an exact decimal, then with `compare` those of the time before."""
    sql, parameters = sql_of(clickhouse, question)
    groups = [f"g{number}" for number in range(len(question.columns))]
    if question.top is not None:
        groups.append("is_other")
    sums = [f"toDecimal128({name}, 6) / 1000000" if "microcredits" in name else name for name in question.sums]
    pieces = clickhouse.stream_csv(f"SELECT {', '.join([*groups, *sums])} FROM ({sql})", parameters)
    with closing(pieces):
        rows = csv.reader(_lines(pieces))
        next(rows)  # the engine's own names of the columns
        for values in rows:
            if question.granularity is not None:
                values[0] = question.named(values[0])
            yield values


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
