"""What many open live ledgers cost while events flow: the API's processor time, how soon an entry is told, and how much
later an admission is answered beside them."""

from __future__ import annotations

import asyncio
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec
import psutil

from api.stack import Stack, settings_apart
from streams.client.kafka_producer import KafkaProducer
from streams.settings import Settings
from tests.benchmarks.admission.callers import LoadPlan, run_callers
from tests.benchmarks.admission.run import open_projects
from tests.benchmarks.dashboard import stream_readers
from tests.benchmarks.dashboard.stream_readers import ReadPlan, Told
from tests.benchmarks.rivals.rival import BenchChild
from tests.benchmarks.workload import Workload

PROJECTS = 1_000
STREAMS = 500
RATE = 20_000
CALLERS = 4
SHARE_MAX, P99_RATIO_MAX, ROW_P95_MS_MAX = 20.0, 1.1, 1_000.0
_WARM_SECONDS = 3.0
_TICK_SECONDS = 0.05


def measure(quick: bool, tell: Callable[[str], None]) -> dict[str, Any]:
    """Run the benchmark on a stack of its own, and return its figures. `quick` is for a look."""
    with (
        tempfile.TemporaryDirectory(prefix="meterline-bench-") as directory,
        Stack(settings_apart(Path(directory)), tell=tell) as stack,
    ):
        live = stack.settings.model_copy(update={"clickhouse_url": stack.clickhouse_url})
        tell(f"opening {PROJECTS:,} projects")
        open_projects(live, Workload(0, PROJECTS).project_ids())
        return measure_on(stack, live, quick, tell)


def measure_on(stack: Stack, live: Settings, quick: bool, tell: Callable[[str], None]) -> dict[str, Any]:
    """Measure on a stack in which the workload's projects are open. Shares are of one core, in percent."""
    rate, streams, seconds = (2_000, 50, 4.0) if quick else (RATE, STREAMS, 15.0)
    address = stack.url.removeprefix("http://")
    callers = LoadPlan("http", [CALLERS], seconds, PROJECTS, 7, address)
    api = psutil.Process(stack.pids()["api"])
    shares, levels = {}, {}
    told: Told | None = None
    with _flow(live, rate):
        tell(f"{rate:,} events a second")
        run_callers(live, msgspec.structs.replace(callers, seconds=_WARM_SECONDS, seed=6))
        shares["without streams"] = _share(api, seconds)
        levels["without streams"] = run_callers(live, callers)[0]
        tell(f"{streams} streams beside them")
        plan = ReadPlan(address, PROJECTS, streams, 3 * seconds)
        with BenchChild(
            stream_readers.__name__, live.kafka_url or "", live.topic_prefix, msgspec.json.encode(plan).decode()
        ) as child:
            child.result(stream_readers.OPENED, 60.0)
            shares["with streams"] = _share(api, seconds)
            levels["with streams"] = run_callers(live, msgspec.structs.replace(callers, seed=8))[0]
            told = msgspec.json.decode(child.result(stream_readers.RESULT, 4 * seconds), type=Told)
    share = round(shares["with streams"] - shares["without streams"], 1)
    ratio = round(levels["with streams"].p99_ms / levels["without streams"].p99_ms, 3)
    return {
        "events_per_second": rate,
        "streams": streams,
        "api_percent_of_a_core": shares | {"streams alone": share},
        "admissions": {name: msgspec.to_builtins(level) for name, level in levels.items()},
        "admission_p99_ratio": ratio,
        "told": msgspec.to_builtins(told),
        "targets": {
            f"streams under {SHARE_MAX:g} % of a core": share < SHARE_MAX,
            f"admissions' p99 within {P99_RATIO_MAX:g} of without": ratio <= P99_RATIO_MAX,
            f"decision to row p95 under {ROW_P95_MS_MAX:g} ms": 0 < told.p95_ms < ROW_P95_MS_MAX,
        },
    }


def _share(process: psutil.Process, seconds: float) -> float:
    spent, began_at = sum(process.cpu_times()[:2]), time.monotonic()
    time.sleep(seconds)
    return round(100 * (sum(process.cpu_times()[:2]) - spent) / (time.monotonic() - began_at), 1)


@contextmanager
def _flow(settings: Settings, rate: int) -> Iterator[None]:
    """Send events at an even rate while the block runs."""
    is_over = threading.Event()
    thread = threading.Thread(target=lambda: asyncio.run(_send(settings, rate, is_over)), daemon=True)
    thread.start()
    try:
        yield
    finally:
        is_over.set()
        thread.join()


async def _send(settings: Settings, rate: int, is_over: threading.Event) -> None:
    texts = iter(Workload(1_000_000_000, PROJECTS))
    began_at, sent = time.monotonic(), 0
    async with KafkaProducer(settings, events_per_pack=100, linger_ms=20, events_pending_max=5 * rate) as producer:
        while not is_over.is_set():
            due = int((time.monotonic() - began_at) * rate)
            while sent < due:
                await producer.send(next(texts)[1])
                sent += 1
            await asyncio.sleep(_TICK_SECONDS)
