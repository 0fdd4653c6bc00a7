"""`meterline bench dashboard` measures the dashboard in a real browser, for a project with a long history, and what
many open live ledgers cost: the API's processor time, and how soon admissions beside them are answered.

Browser, stack and callers share the machine. Pages are opened with nothing kept of them, on a screen of 1280 by 900.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import msgspec

from api.cli.test import BROWSERS, NO_BROWSER
from api.stack import Stack, settings_apart
from streams.clickhouse.client import ClickHouse
from streams.clickhouse.limits import LONG
from streams.clickhouse.migrations import migrate
from streams.errors import OperatorError
from streams.settings import Settings
from tests.benchmarks.admission.callers import Level, LoadPlan, key_of, run_callers
from tests.benchmarks.admission.run import PROJECTS, open_projects
from tests.benchmarks.dashboard.screen import LEDGER, kept_of, painted, rows_on_screen, weights
from tests.benchmarks.flow import UsageFlow
from tests.benchmarks.history.facts import DAYS, LARGEST, fill
from tests.benchmarks.idle import idle_share
from tests.benchmarks.machine import describe
from tests.benchmarks.streams import OpenStreams
from tests.benchmarks.workload import Workload
from tests.calls import Operator
from tests.dashboard.browser import launched
from tests.dashboard.story import told, with_announced_prices
from tests.dashboard.visitors import all_signed_in
from tests.dashboard.walked import WALKED, get_routes

PAINT_MS_GOAL, PAGE_BYTES_GOAL, ROW_MS_GOAL = 500.0, 60 * 1024, 1000.0
STREAMS_PERCENT_GOAL, P99_RATIO_GOAL = 20.0, 1.1
FLOW_RATE, CALLERS = 200, 64
_RATE_NAMES = ("idle", "flowing", "flowing fast")
# The stack has partition 0 alone; rows of others are none that its historian would take for its own.
_FOREIGN_PARTITION = 1000
# Those that show what a long history could make slow; of them, those that there are.
_PAINTED = ("/dashboard", "/dashboard/usage", LEDGER, "/dashboard/limits", "/dashboard/invoices")


@dataclass(frozen=True, slots=True)
class DashboardSizes:
    """The sizes of a run. `opens` is how often each page is opened, `decisions` how many rows are watched to come,
    `fast_rate` the events a second that flow in the last look at what streams cost; `pages_weighed` of the walked pages
    are weighed, or as many as there are."""

    rows: int
    opens: int
    decisions: int
    streams: int
    settle_seconds: float
    stream_seconds: float
    fast_rate: int
    pages_weighed: int
    admission_seconds: float


FULL = DashboardSizes(1_000_000, 9, 200, 500, 10.0, 30.0, 20_000, 10_000, 10.0)
QUICK = DashboardSizes(20_000, 2, 10, 25, 0.5, 2.0, 1_000, 6, 0.8)


def measure(sizes: DashboardSizes, tell: Callable[[str], None]) -> dict[str, Any]:
    """Run the benchmark, and return its figures. Times are milliseconds. Raises OperatorError without a browser."""
    chromium = next((found for name in BROWSERS if (found := shutil.which(name))), None)
    if chromium is None:
        raise OperatorError(NO_BROWSER)
    load_before = os.getloadavg()[0]
    with tempfile.TemporaryDirectory(prefix="meterline-bench-") as directory, ExitStack() as ends:
        settings = settings_apart(Path(directory), partitions=1, price_lead_seconds=0)
        tell(f"making {sizes.rows:,} rows of one project")
        _make_history(settings, sizes.rows)
        stack = ends.enter_context(Stack(settings, tell=tell))
        live = stack.settings.model_copy(update={"clickhouse_url": stack.clickhouse_url})
        tell(f"opening {PROJECTS:,} projects")
        open_projects(live, stack.url, (LARGEST, *Workload(0, PROJECTS).project_ids()))
        # What flows for the streams is millions of facts, and the engine merges them for minutes.
        screen = _measure_screen(stack, chromium, sizes, tell)
        streams = _measure_streams(stack, live, sizes, tell)
    result = {"rows": sizes.rows, **screen, **streams}
    return {
        **result,
        "targets": targets(result),
        "load_average": {"before": round(load_before, 2), "after": round(os.getloadavg()[0], 2)},
        "machine": describe(),
    }


def passed(result: dict[str, Any]) -> bool:
    """Whether all pages were answered well and without a fault, and every decision became a row. The times are for
    people to judge."""
    pages = [each["status"] == 200 and not each["faults"] for each in result["pages"]]
    return all(pages) and result["decision_to_row"]["missed"] == 0


def targets(result: dict[str, Any]) -> dict[str, bool]:
    """The targets of this benchmark, and whether this run reached them."""
    row = result["decision_to_row"]["ms"]["p95"]
    return {
        f"first paint with data under {PAINT_MS_GOAL:g} ms, each page": all(
            each["first_paint_with_data_ms"]["p50"] < PAINT_MS_GOAL for each in result["pages"]
        ),
        "each page at most 60 KB": max(result["page_bytes"].values()) <= PAGE_BYTES_GOAL,
        f"decision to row: p95 under {ROW_MS_GOAL:g} ms": row is not None and row < ROW_MS_GOAL,
        **{
            f"streams: under {STREAMS_PERCENT_GOAL:g}% of a core, {name}": share["by_streams"] < STREAMS_PERCENT_GOAL
            for name, share in result["streams"]["api_percent_of_a_core"].items()
        },
        "admissions beside streams: p99 within 10%": result["admissions"]["p99 with/without"] <= P99_RATIO_GOAL,
    }


def _make_history(settings: Settings, rows: int) -> None:
    """Make the history of one project, of the last 90 days, before the stack starts: its tables are nobody's yet."""
    begin = datetime.now(UTC) - timedelta(days=DAYS)
    with closing(ClickHouse(settings)) as clickhouse:
        migrate(clickhouse)
        fill(clickhouse.limited(LONG), rows, 1, lambda _text: None, begin, _FOREIGN_PARTITION)


def _measure_screen(stack: Stack, chromium: str, sizes: DashboardSizes, tell: Callable[[str], None]) -> dict[str, Any]:
    key, operator = key_of(LARGEST), Operator(stack)
    with httpx.Client(base_url=stack.url, headers={"authorization": f"Bearer {key}"}, timeout=30.0) as client:
        client.post("/v1/admissions", json={"operation": "page.edit"}).raise_for_status()
    tell("telling a story, for pages that need one")
    with told(stack) as story, with_announced_prices(operator, story) as story, launched(chromium) as browser:
        watching = kept_of(browser, stack.url, key)
        pages = []
        for path in (each for each in _PAINTED if each in get_routes()):
            tell(f"opening {path} {sizes.opens} times")
            pages.append(painted(browser, stack.url, watching, path, sizes.opens))
        tell("weighing all pages")
        weighed = WALKED[: sizes.pages_weighed]
        page_bytes = weights(browser, stack.url, all_signed_in(browser, stack.url, story), weighed, story)
        tell(f"watching {sizes.decisions} decisions become rows")
        rows = rows_on_screen(browser, stack.url, watching, key, sizes.decisions)
    return {"pages": pages, "page_bytes": page_bytes, "decision_to_row": rows}


def _measure_streams(
    stack: Stack, live: Settings, sizes: DashboardSizes, tell: Callable[[str], None]
) -> dict[str, Any]:
    address = stack.url.removeprefix("http://")
    count = min(sizes.streams, PROJECTS)

    def streams() -> OpenStreams:
        return OpenStreams(live, address, count, PROJECTS)

    def admissions(seed: int, seconds: float = sizes.admission_seconds) -> Level:
        (level,) = run_callers(live, LoadPlan("http", [CALLERS], seconds, PROJECTS, seed, address))
        return level

    def share() -> float:
        return idle_share({"api": stack.pids()["api"]}, sizes.stream_seconds, sizes.settle_seconds)["api"]

    tell("warming up")
    admissions(11, 1.5 * sizes.admission_seconds)
    rates = (0, FLOW_RATE, sizes.fast_rate)
    without, beside, told_by_rate = {}, {}, {}
    for rate in rates:
        tell(f"the API at {rate:,} events a second, without streams")
        with _flow(live, rate, seed=20 + rate):
            without[rate] = share()
    for rate in rates:
        tell(f"the same with {count} streams open")
        with streams() as opened, _flow(live, rate, seed=21 + rate) as flow:
            beside[rate] = share()
            told_by_rate[rate] = msgspec.to_builtins(opened.counts())
            told_by_rate[rate]["events_per_second"] = flow.counts().per_second if flow is not None else 0.0
    tell("admissions, without streams, with them, and without")
    first = admissions(12)
    with streams():
        with_streams = admissions(13)
    levels = {"without, before": first, "with streams": with_streams, "without, after": admissions(14)}
    without_ms = (first.p99_ms + levels["without, after"].p99_ms) / 2
    return {
        "streams": {
            "open": count,
            "api_percent_of_a_core": {
                _RATE_NAMES[number]: _shares(without[rate], beside[rate]) for number, rate in enumerate(rates)
            },
            "told": {_RATE_NAMES[number]: told_by_rate[rate] for number, rate in enumerate(rates)},
        },
        "admissions": {
            "callers": CALLERS,
            "levels": {name: msgspec.to_builtins(level) for name, level in levels.items()},
            "p99 with/without": round(with_streams.p99_ms / without_ms, 3),
        },
    }


@contextmanager
def _flow(live: Settings, rate: int, seed: int) -> Iterator[UsageFlow | None]:
    """A flow of so many events a second while the block runs; none of 0."""
    if not rate:
        yield None
        return
    with UsageFlow(live, rate, PROJECTS, seed) as flow:
        yield flow


def _shares(without: float, with_streams: float) -> dict[str, float]:
    """The API's processor time in percent of a core, without streams and with them, and what they make of it."""
    return {"without": without, "with": with_streams, "by_streams": round(max(0.0, with_streams - without), 2)}
