"""Old usage: uses from before Meterline come from a file into the table `backfilled`, each once, and into no balance.

The engine reads the file into a table of its own, as texts, and looks at every line there. Only where all are right
does it go on, a part at a time: what is known already is left out, so a run that was ended is gone on with by another.
Memory grows far less than the file.
"""

from __future__ import annotations

import csv
import re
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NamedTuple

from clickhouse_connect.driver.exceptions import Error as DriverError

from schemas.events import METADATA_VALUE_CHARS_MAX, PROJECT_ID_PATTERN
from schemas.problems import Rejection
from streams.clickhouse.client import ClickHouse, ClickHouseError, sql_literal
from streams.clickhouse.erasures import erase_backfilled
from streams.clickhouse.limits import LONG
from streams.core.foreign import UnreadableError, read
from streams.errors import OperatorError

ROWS_A_PART = 200_000
NAMED_MAX = 20
_POLL_SECONDS = 0.2

# What a file may have of each use; those that it must have first.
NEEDED = ("project", "source", "id", "time", "operation", "credits")
OPTIONAL = ("quantity", "environment", "customer_id", "metadata")
COLUMNS = (*NEEDED, *OPTIONAL)
# Far more than all of their names take.
_HEADER_CHARS_MAX = 4_096
_FORMATS = {".csv": "CSVWithNames", ".parquet": "Parquet"}

_STAGED = "backfill_staging"
# One block at a time, in order: that is how lines get their numbers, and how little memory it takes.
_READING = {
    "max_threads": 1,
    "max_insert_threads": 1,
    "max_insert_block_size": 65_536,
    "min_insert_block_size_rows": 65_536,
    "min_insert_block_size_bytes": 0,
    "async_insert": 0,
    "input_format_parallel_parsing": 0,
    "input_format_csv_skip_trailing_empty_lines": 1,
    "input_format_parquet_preserve_order": 1,
    "input_format_parquet_allow_missing_columns": 1,
    "max_execution_time": 0,
}
_LOADING = {"max_partitions_per_insert_block": 0, "async_insert": 0, "max_execution_time": 0}
# What a check keeps beside the rows goes to disk above this.
_CHECKING = "max_execution_time = 0, max_bytes_before_external_group_by = 268435456, max_threads = 2"

_TIME = "parseDateTime64BestEffortOrNull(time, 3, 'UTC')"
# Each number of a time is looked at, since the engine takes 25:00, a month 00 and an offset of 99 hours too.
_CLOCK = r"([01]\d|2[0-3]):[0-5]\d"
_TIME_TEXT = rf"^\d{{4}}-(0[1-9]|1[0-2])-(0[1-9]|[12]\d|3[01])[T ]{_CLOCK}(:[0-5]\d(\.\d{{1,9}})?)?"
_ZONE = rf"(Z|[+-]{_CLOCK})"
_OPERATION = sql_literal(r"^[a-z0-9_.-]{1,64}$")
_CREDITS = sql_literal(r"^\d{1,12}(\.\d{1,6}0*)?$")
_QUANTITY = sql_literal(r"^([1-9]\d{0,8}|1000000000)$")
_METADATA_BYTES_MAX = 32_768
_OPENED = f"""
SELECT project AS opened, min(booked_at) AS opened_at FROM facts
WHERE kind = {sql_literal("project")} AND project IN (SELECT project FROM {_STAGED}) GROUP BY project
"""


class OldUsageError(OperatorError):
    """A file of old usage can't be loaded, and nothing of it was; the message names lines and fields."""


class Loaded(NamedTuple):
    """The outcome for a file: its rows, those that were loaded now, and those that were known before or came twice."""

    rows: int
    loaded: int
    known: int


def load_old_usage(clickhouse: ClickHouse, file: Path, tell: Callable[[str, int, int], None]) -> Loaded:
    """Load a file of old usage, CSV with a header or Parquet; all of it, or nothing where a line is wrong.

    `tell` hears what is being done, how much of it is done, and of how much, 0 where that is not known. A use is known
    by (project, source, id): one that was loaded before, or stands in the file before, is left out. One run at a time.
    Raises OldUsageError.
    """
    data_format = _FORMATS.get(file.suffix.lower())
    if data_format is None:
        raise OldUsageError(f"{file.name} is neither a .csv nor a .parquet file")
    clickhouse = clickhouse.limited(LONG)
    columns = _columns_of(file) if data_format == "CSVWithNames" else list(COLUMNS)
    clickhouse.command(f"DROP TABLE IF EXISTS {_STAGED}")
    texts = ", ".join(f"{name} String" for name in COLUMNS)
    clickhouse.command(
        f"CREATE TABLE {_STAGED} (line UInt64, {texts}, name_hash UInt64 MATERIALIZED cityHash64(project, source, id)) "
        "ENGINE = MergeTree ORDER BY name_hash"
    )
    try:
        rows = _stage(clickhouse, file, data_format, columns, tell)
        tell("checking", 0, 0)
        _check(clickhouse, file, data_format)
        loaded = _load(clickhouse, rows, tell)
        erase_backfilled(clickhouse)
        return Loaded(rows, loaded, rows - loaded)
    finally:
        clickhouse.command(f"DROP TABLE IF EXISTS {_STAGED}")


def _columns_of(file: Path) -> list[str]:
    """The columns of a CSV file. Raises OldUsageError for a header that is not right."""
    try:
        with file.open(encoding="utf-8-sig", newline="") as lines:
            first = read(lambda lines: lines.readline(_HEADER_CHARS_MAX), lines)
            header = read(lambda line: next(csv.reader([line.rstrip("\r\n")]), []), first)
    except OSError as error:
        raise OldUsageError(f"{file} can't be read: {error.strerror}") from None
    except UnreadableError as error:
        raise OldUsageError(f"{file.name} is no CSV in UTF-8: {error}") from None
    if first.endswith("\r"):
        # The engine would take such a file for one long header.
        raise OldUsageError(f"{file.name}: its lines end in CR alone; save it with lines that end in LF or CRLF")
    for name in header:
        if name not in COLUMNS:
            raise OldUsageError(f"{file.name}, line 1: no column {name[:64]!r}; there are {', '.join(COLUMNS)}")
        if header.count(name) > 1:
            raise OldUsageError(f"{file.name}, line 1: the column {name!r} is there twice")
    if missing := [name for name in NEEDED if name not in header]:
        raise OldUsageError(f"{file.name}, line 1: the column {missing[0]!r} is missing")
    return header


def _stage(
    clickhouse: ClickHouse, file: Path, data_format: str, columns: list[str], tell: Callable[[str, int, int], None]
) -> int:
    """Have the engine read the file; gives its rows."""
    first = 2 if data_format == "CSVWithNames" else 1
    structure = ", ".join(f"{name} Nullable(String)" for name in columns)
    values = ", ".join(f"ifNull({name}, '')" for name in columns)
    sql = (
        f"INSERT INTO {_STAGED} (line, {', '.join(columns)}) SELECT rowNumberInAllBlocks() + {first}, {values} "
        f"FROM input({sql_literal(structure)})"
    )
    count = f"SELECT toInt64(count()) FROM {_STAGED}"
    with _telling(lambda: tell("reading", clickhouse.query(count)[0][0], 0)):
        try:
            clickhouse.insert_file(sql, file, data_format, _READING)
        except DriverError as error:
            raise OldUsageError(_reading_failed(file, data_format, str(error))) from None
    return int(clickhouse.query(count)[0][0])


def _reading_failed(file: Path, data_format: str, text: str) -> str:
    row = re.search(r"at row (\d+)", text)
    if row is not None and data_format == "CSVWithNames":
        return f"{file.name}, line {int(row[1]) + 1}: its fields are not those of the header. Nothing was loaded"
    found = re.search(r"DB::Exception: (.*?)(?:: While|: \(|\. \(|$)", text, re.DOTALL)
    why = " ".join((found[1] if found else text).split())[:200]
    return f"{file.name} can't be read: {why}. Nothing was loaded"


# A field, what is wrong with it, and the SQL condition that it is; the first of a line is told.
def _faults(data_format: str) -> list[tuple[str, str, str]]:
    # The engine writes the times of Parquet as texts without a zone.
    time_text = sql_literal(f"{_TIME_TEXT}{_ZONE}{'' if data_format == 'CSVWithNames' else '?'}$")
    project = f"NOT match(project, {sql_literal(PROJECT_ID_PATTERN)})"
    return [
        *((name, "is missing", f"{name} = ''") for name in NEEDED),
        *((name, "is not in UTF-8: save the file anew, in UTF-8", f"NOT isValidUTF8({name})") for name in COLUMNS),
        ("project", "is no project id", project),
        ("project", "is no project that was opened", "opened = ''"),
        ("source", "has more than 256 characters", "lengthUTF8(source) > 256"),
        ("id", "has more than 256 characters", "lengthUTF8(id) > 256"),
        (
            "time",
            "is no time as in 2026-01-31T23:59:59Z, with its zone",
            f"NOT match(time, {time_text}) OR {_TIME} IS NULL OR toYear({_TIME}) < 1971",
        ),
        ("time", "is not before the project was opened: what came after is Meterline's own", f"{_TIME} >= opened_at"),
        ("operation", "has other than a-z, 0-9, _, . and -", f"NOT match(operation, {_OPERATION})"),
        ("credits", "are no decimal such as 0.02, with at most 6 decimals", f"NOT match(credits, {_CREDITS})"),
        (
            "quantity",
            "is no whole number from 1 to 1000000000",
            f"quantity != '' AND NOT match(quantity, {_QUANTITY})",
        ),
        ("environment", "is neither production nor preview", "environment NOT IN ('', 'production', 'preview')"),
        (
            "metadata",
            "is no JSON object of at most 32 KiB",
            f"metadata != '' AND (JSONType(metadata) != 'Object' OR length(metadata) > {_METADATA_BYTES_MAX})",
        ),
        (
            "customer_id",
            f"has more than {METADATA_VALUE_CHARS_MAX} characters",
            f"lengthUTF8(customer_id) > {METADATA_VALUE_CHARS_MAX}",
        ),
        (
            "customer_id",
            "is another than the metadata's",
            "customer_id != '' AND JSONHas(metadata, 'customer_id') "
            "AND JSONExtractString(metadata, 'customer_id') != customer_id",
        ),
    ]


def _check(clickhouse: ClickHouse, file: Path, data_format: str) -> None:
    """Look at every line. Raises OldUsageError where one is wrong."""
    faults = _faults(data_format)
    found = ", ".join(f"{condition}, {number}" for number, (_, _, condition) in enumerate(faults, 1))
    sql = (
        f"SELECT line, multiIf({found}, 0) AS fault FROM {_STAGED} LEFT JOIN ({_OPENED}) AS known ON project = opened "
        "WHERE fault"
    )
    ((wrong,),) = clickhouse.query(f"SELECT count() FROM ({sql}) SETTINGS {_CHECKING}")
    if not wrong:
        return
    what = "line" if data_format == "CSVWithNames" else "row"
    told = []
    for line, number in clickhouse.query(f"{sql} ORDER BY line LIMIT {NAMED_MAX} SETTINGS {_CHECKING}"):
        name, problem, _ = faults[number - 1]
        told.append(f"{what} {line}: `{name}` {problem}")
    more = f"\n… and {wrong - len(told):,} more" if wrong > len(told) else ""
    raise OldUsageError(
        f"{file.name}: {wrong:,} {what}{'s are' if wrong > 1 else ' is'} wrong, so nothing was loaded\n"
        + "\n".join(told)
        + more
    )


# A customer in a column of its own stands in the metadata like any other.
_METADATA = (
    "multiIf(customer_id = '' OR JSONHas(metadata, 'customer_id'), metadata, "
    "empty(JSONExtractKeys(metadata)), concat('{\"customer_id\":', toJSONString(customer_id), '}'), "
    "concat('{\"customer_id\":', toJSONString(customer_id), ',', substring(metadata, position(metadata, '{') + 1)))"
)


def _load(clickhouse: ClickHouse, rows: int, tell: Callable[[str, int, int], None]) -> int:
    """Copy what is not known yet, a part of the names at a time; gives the number of rows."""
    parts = max(1, -(-rows // ROWS_A_PART))
    count = "SELECT toInt64(count()) FROM backfilled"
    before = clickhouse.query(count)[0][0]
    settings = ", ".join(f"{name} = {value}" for name, value in _LOADING.items())
    for number in range(parts):
        tell("loading", number * rows // parts, rows)
        first, last = (number << 64) // parts, ((number + 1 << 64) // parts) - 1
        of_part = f"name_hash BETWEEN {first} AND {last}"
        clickhouse.command(
            "INSERT INTO backfilled "
            "(project, environment, operation, quantity, amount, source, event_id, occurred_at, metadata) "
            "SELECT project, if(environment = '', 'production', environment), operation, "
            "if(quantity = '', 1, toInt64OrZero(quantity)), -toInt64(toDecimal128(credits, 6) * 1000000), source, id, "
            f"assumeNotNull({_TIME}), {_METADATA} FROM {_STAGED} WHERE {of_part} "
            f"AND (project, source, id) NOT IN (SELECT project, source, event_id FROM backfilled WHERE {of_part}) "
            f"ORDER BY line LIMIT 1 BY project, source, id SETTINGS {settings}"
        )
    tell("loading", rows, rows)
    return int(clickhouse.query(count)[0][0] - before)


@contextmanager
def _telling(tell: Callable[[], None]) -> Iterator[None]:
    """Call `tell` from time to time while something goes on that does not come back before it is done."""
    done = threading.Event()

    def go_on() -> None:
        while not done.wait(_POLL_SECONDS):
            # Whatever keeps ClickHouse from answering, what goes on meets it too, and says so.
            with suppress(DriverError, ClickHouseError, Rejection):
                tell()

    thread = threading.Thread(target=go_on, daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()
