"""The probe measures how long a stack under faults gives no service. It sends a free request to each partition, about
five times a second."""

from __future__ import annotations

import asyncio
import time
from collections import defaultdict
from collections.abc import Iterable
from contextlib import suppress
from itertools import pairwise
from typing import Any

import httpx

from api.stack import Stack
from streams.kafka.topics import partition_of

PROBE_SECONDS = 0.2
PROBE_SECONDS_MAX = 5.0
PROBES_A_MINUTE_MAX = 10_000
# A gap between two decisions that is shorter than this is the probe's own rhythm.
OUTAGE_SECONDS_MIN = 1.0


class Prober:
    """A prober asks the partitions for decisions until it is cancelled. A partition is served while decisions come."""

    def __init__(self, stack: Stack) -> None:
        self._partitions = stack.settings.partitions
        self.projects = [self._project_of(partition) for partition in range(self._partitions)]
        # When each decision was asked for and when it came, in monotonic seconds, by partition.
        self._decided: list[list[tuple[float, float]]] = [[] for _ in range(self._partitions)]
        self._http = httpx.AsyncClient(
            base_url=stack.url,
            headers={"authorization": f"Bearer {stack.admin_key}"},
            timeout=PROBE_SECONDS_MAX,
            limits=httpx.Limits(max_connections=400),
        )

    async def open_projects(self) -> None:
        """Open a project in each partition, with room in its window for every probe: a 429 is no outage."""
        for project in self.projects:
            (await self._http.post("/v1/admin/projects", json={"project": project})).raise_for_status()
            limits = {"requests_per_minute": PROBES_A_MINUTE_MAX, "burst": PROBES_A_MINUTE_MAX, "reason": "probe"}
            (await self._http.put(f"/v1/admin/projects/{project}/limits", json=limits)).raise_for_status()

    async def run(self) -> None:
        """Ask until cancelled, without waiting for earlier answers."""
        asking: set[asyncio.Task[None]] = set()
        try:
            while True:
                for partition in range(self._partitions):
                    task = asyncio.create_task(self._ask(partition))
                    asking.add(task)
                    task.add_done_callback(asking.discard)
                await asyncio.sleep(PROBE_SECONDS)
        finally:
            for task in asking:
                task.cancel()
            await asyncio.gather(*asking, return_exceptions=True)
            await self._http.aclose()

    async def _ask(self, partition: int) -> None:
        asked_at = time.monotonic()
        with suppress(httpx.TransportError):
            body = {"project": self.projects[partition], "operation": "read"}
            if (await self._http.post("/v1/admissions", json=body)).status_code == 200:
                self._decided[partition].append((asked_at, time.monotonic()))

    def served_since(self, moment: float) -> float | None:
        """The time by which all partitions had decided something asked after `moment`; None where one has not yet."""
        firsts = []
        for decided in self._decided:
            came_at = [came for asked, came in decided if asked >= moment]
            if not came_at:
                return None
            firsts.append(min(came_at))
        return max(firsts)

    def figures(self, began_at: float, ended_at: float, faults: Iterable[tuple[float, str]]) -> dict[str, Any]:
        """The figures of the outages between two moments, and how long after each kind of fault all partitions were
        served again."""
        gaps = []
        for decided in self._decided:
            came_at = sorted(came for _, came in decided if began_at <= came <= ended_at)
            gaps += [after - before for before, after in pairwise([began_at, *came_at, ended_at])]
        outages = sorted(gap for gap in gaps if gap >= OUTAGE_SECONDS_MIN)
        recoveries: dict[str, list[float]] = defaultdict(list)
        for at, kind in faults:
            served_at = self.served_since(at)
            if served_at is not None:
                recoveries[kind].append(served_at - at)
        return {
            "longest_seconds_without_service": round(max(gaps), 2),
            "seconds_without_service": {
                "outages_of_a_partition": len(outages),
                "p50": _quantile(outages, 0.5),
                "p90": _quantile(outages, 0.9),
                "share_of_the_time": round(sum(outages) / (ended_at - began_at) / self._partitions, 3),
            },
            "seconds_until_served_by_fault": {
                kind: {"count": len(each), "p50": _quantile(sorted(each), 0.5), "max": round(max(each), 2)}
                for kind, each in sorted(recoveries.items())
            },
        }

    def _project_of(self, partition: int) -> str:
        number = 0
        while partition_of(f"chaos-probe-{number}", self._partitions) != partition:
            number += 1
        return f"chaos-probe-{number}"


def _quantile(ordered: list[float], share: float) -> float | None:
    return round(ordered[min(len(ordered) - 1, int(share * len(ordered)))], 2) if ordered else None
