"""The baseline `raw aiokafka` consumes packed events and decodes them, nothing else. No Python consumer of one process
can be faster."""

from __future__ import annotations

import time

import msgspec
import uvloop

from schemas.events import UsageEvent
from tests.benchmarks.rivals.rival import PARTITIONS, BaselineResult, BenchKafka, Run, measured, partitions_of
from tests.benchmarks.workload import Workload

NAME = "raw"
EVENTS_PER_RECORD = 500
NOTE = f"the ceiling: aiokafka and msgspec, {EVENTS_PER_RECORD} events a record, nothing charged or stored, one process"

_decode = msgspec.json.Decoder(list[UsageEvent]).decode


def raw_baseline(broker_url: str, workload: Workload, seconds_max: float) -> BaselineResult:
    """Run this baseline: decode the workload."""
    result: BaselineResult = uvloop.run(_measure(broker_url, workload, seconds_max))
    return result


async def _measure(broker_url: str, workload: Workload, seconds_max: float) -> BaselineResult:
    async with BenchKafka(broker_url, NAME) as kafka:
        topic = f"{kafka.prefix}-usage"
        await kafka.create(topic)
        await kafka.produce(
            topic, ((partition, None, value) for partition, value, _ in workload.records(EVENTS_PER_RECORD, PARTITIONS))
        )
        reader = kafka.reader()
        await reader.start()
        try:
            # Time runs from here: the first fetch is a large part of a small workload, and must count.
            begun_at = time.monotonic()
            reader.assign(partitions_of(topic))
            events, seconds = 0, 0.0
            while events < workload.events and seconds < seconds_max:
                for records in (await reader.getmany(timeout_ms=1000)).values():
                    for record in records:
                        events += len(_decode(record.value))
                seconds = time.monotonic() - begun_at
        finally:
            await reader.stop()
    return measured(NAME, workload, Run(events, seconds), NOTE, None)
