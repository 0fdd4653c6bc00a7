"""`meterline bench export` measures files of usage: rows a second of CSV and of Parquet, and how much memory more rows
take. Beside it, how fast a ledger is read by pages, as an export of it does."""

from __future__ import annotations

import csv
import resource
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from contextlib import closing
from datetime import UTC, datetime
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from api.views.usage import usage_csv
from schemas.problems import Rejection
from streams.clickhouse.client import ClickHouse
from streams.clickhouse.limits import LONG, limits_of_callers
from streams.clickhouse.migrations import migrate
from streams.errors import OperatorError
from streams.history.ledger import LedgerQuestion, ledger_page
from streams.history.usage import UsageQuestion
from streams.history.usage_files import usage_parquet
from streams.settings import Settings
from tests.benchmarks.history.facts import LARGEST, fill
from tests.benchmarks.machine import describe

CSV_ROWS_GOAL = 500_000
GROWTH_MB_GOAL = 50
# Of a hundred facts, so many are charged or corrected, and nearly all of these are a row.
_USES_OF_100 = 89
_MB = 1e6
# The memory that a caller's question may have.
_OF_CALLERS = limits_of_callers(Settings(query_memory_mb_max=512))
_LIMITS = LONG._replace(memory_bytes=_OF_CALLERS.memory_bytes, spill_bytes=_OF_CALLERS.spill_bytes)
_QUESTION = UsageQuestion(
    LARGEST,
    ["customer_id", "operation"],
    datetime(2026, 1, 1, tzinfo=UTC),
    datetime(2026, 5, 1, tzinfo=UTC),
    granularity="hour",
    tz="Asia/Kolkata",
)
# What a ledger's export asks for at a time, and how much of it is read here.
_PAGE_ENTRIES, _ENTRIES = 1_000, 100_000
_FORMATS = {"csv": usage_csv, "parquet": usage_parquet}


def measure(rows: int, tell: Callable[[str], None]) -> dict[str, Any]:
    """Write files of about a tenth of so many rows, and of so many. Each file is written by a process of its own, so
    that its memory is that of this file alone."""
    sizes = [_of_size(each, tell) for each in (max(1, rows // 10), rows)]
    growth = {
        name: round(sizes[1][name]["peak_mb"] - sizes[0][name]["peak_mb"], 1)
        for name in _FORMATS
        if not any("refused" in size[name] for size in sizes)
    }
    return {
        "sizes": sizes,
        "growth_mb": growth,
        "wrong": sum(size["wrong"] for size in sizes),
        "targets": {
            "csv: 500,000 rows a second": sizes[1]["csv"]["rows_per_second"] >= CSV_ROWS_GOAL,
            "csv: ten times the rows in 50 MB more": growth["csv"] < GROWTH_MB_GOAL,
        },
        "machine": describe(),
    }


def _of_size(rows: int, tell: Callable[[str], None]) -> dict[str, Any]:
    with tempfile.TemporaryDirectory(prefix="meterline-bench-") as folder:
        tell(f"{rows:,} rows: making facts")
        facts = -(-rows * 100 // _USES_OF_100)
        _in_a_process(_fill, folder, facts)
        found: dict[str, Any] = {"facts": facts}
        for name in _FORMATS:
            tell(f"{rows:,} rows: writing {name}")
            found[name] = _in_a_process(_write, folder, name)
        tell(f"{rows:,} rows: reading a ledger by pages, and the files")
        found["ledger"] = _in_a_process(_read_ledger, folder)
        counted, wrong = _in_a_process(_check, folder, "refused" in found["parquet"])
    for name in _FORMATS:
        if "refused" not in found[name]:
            found[name]["rows_per_second"] = round(counted / found[name]["seconds"])
            found[name]["rows_per_processor_second"] = round(counted / found[name]["processor_seconds"])
    return {"rows": counted, "wrong": wrong, **found}


def _in_a_process(work: Callable[..., Any], *arguments: Any) -> Any:
    # One process at a time has the engine's directory open.
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as process:
        return process.submit(work, *arguments).result()


def _history(folder: str) -> ClickHouse:
    return ClickHouse(Settings(data_dir=Path(folder), clickhouse_url=None))


def _fill(folder: str, facts: int) -> None:
    with closing(_history(folder)) as clickhouse:
        migrate(clickhouse)
        fill(clickhouse.limited(LONG), facts, 1, lambda _: None)


def _write(folder: str, name: str) -> dict[str, Any]:
    """Write one file; the memory is that of this process with the engine in it, at its highest. A Parquet file that
    the engine has not the memory for is told as refused."""
    with closing(_history(folder)) as clickhouse, (Path(folder) / f"usage.{name}").open("wb") as file:
        clickhouse.query("SELECT count() FROM facts")
        before = _peak_mb()
        began, spent = time.perf_counter(), time.process_time()
        try:
            for piece in _FORMATS[name](clickhouse.limited(_LIMITS), _QUESTION):
                file.write(piece)
        except Rejection as refused:
            if name == "csv":
                raise OperatorError(refused.detail) from None
            return {"refused": refused.detail, "peak_mb": _peak_mb(), "peak_mb_before": before}
        return {
            "seconds": round(time.perf_counter() - began, 2),
            "processor_seconds": round(time.process_time() - spent, 2),
            "mb": round(file.tell() / _MB, 3),
            "peak_mb": _peak_mb(),
            "peak_mb_before": before,
        }


def _read_ledger(folder: str) -> dict[str, Any]:
    """Read the newest entries of a ledger, without the API's HTTP and JSON, which an export has beside it."""
    with closing(_history(folder)) as clickhouse:
        limited = clickhouse.limited(_LIMITS)
        entries, cursor = 0, None
        began, spent = time.perf_counter(), time.process_time()
        while entries < _ENTRIES:
            page, cursor = ledger_page(limited, LedgerQuestion(LARGEST, _PAGE_ENTRIES, cursor))
            entries += len(page)
            if cursor is None:
                break
        return {
            "entries": entries,
            "entries_per_second": round(entries / (time.perf_counter() - began)),
            "entries_per_processor_second": round(entries / (time.process_time() - spent)),
        }


def _check(folder: str, is_csv_alone: bool) -> tuple[int, int]:
    """The rows of the CSV file, and how many of (uses, credits) differ from the facts', in the files that there are."""
    with closing(_history(folder)) as clickhouse:
        ((uses, credits),) = clickhouse.query(
            "SELECT sum(uses), -sum(amount) FROM facts WHERE kind IN ('charge', 'correction')"
        )
        parquet = f"SELECT count(), sum(uses), sum(credits) FROM file('{folder}/usage.parquet')"
        of_parquet = [] if is_csv_alone else clickhouse.query(parquet)
    rows = of_csv = credits_of_csv = 0
    with (Path(folder) / "usage.csv").open(newline="") as file:
        for row in csv.DictReader(file):
            rows += 1
            of_csv += int(row["uses"])
            whole, _, part = row["credits"].lstrip("-").partition(".")
            credits_of_csv += (-1 if row["credits"][0] == "-" else 1) * int(whole + part.ljust(6, "0"))
    wrong = (of_csv != uses) + (credits_of_csv != credits)
    for found in of_parquet:
        of_facts = (rows, uses, credits)
        said = (found[0], found[1], int(found[2] * 1_000_000))
        wrong += sum(one != other for one, other in zip(said, of_facts, strict=True))
    return rows, wrong


def _peak_mb() -> float:
    """The most resident memory of this process. What `getrusage` tells of a new process may be its parent's."""
    status = Path("/proc/self/status")
    if status.exists():
        kib = next(line.split()[1] for line in status.read_text().splitlines() if line.startswith("VmHWM:"))
        return round(int(kib) * 1024 / _MB, 1)
    return round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / _MB, 1)
