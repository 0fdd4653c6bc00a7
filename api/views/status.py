"""The state of the whole system, put together from what this process sees."""

from __future__ import annotations

import shutil
import time
from collections.abc import Collection
from importlib.metadata import version

from api.services import Services
from schemas.http.status import DiskStatus, LagStatus, PartStatus, SystemStatus, WorkerStatus
from schemas.times import utc
from streams.clickhouse.client import ClickHouse

# Of a disk, this share must be free: of a small one this much at least, of a large one no more than is enough.
FREE_BYTES_MIN = 1024**3
FREE_BYTES_ENOUGH = 10 * 1024**3
FREE_SHARE_MIN = 0.05


def clickhouse_facts(clickhouse: ClickHouse, is_embedded: bool) -> tuple[str, list[DiskStatus]]:
    """The version of ClickHouse, and its disks; the embedded one's is that of the data directory."""
    told = str(clickhouse.query("SELECT version()")[0][0])
    if is_embedded:
        return told, []
    rows = clickhouse.query("SELECT name, free_space, total_space FROM system.disks ORDER BY name LIMIT 10")
    return told, [
        DiskStatus(name=f"clickhouse {name}", free_bytes=free, total_bytes=total, used_bytes=total - free)
        for name, free, total in rows
    ]


def system_status(services: Services, clickhouse_version: str | None, disks: list[DiskStatus]) -> SystemStatus:
    """The state of the system. `disks` are those of ClickHouse."""
    pipeline, settings, now = services.pipeline, services.settings, time.monotonic()
    parts = [PartStatus(name=name, is_ready=not why, why=why) for name, why in pipeline.waiting().items()]
    here = shutil.disk_usage(settings.data_dir)
    disks = [
        DiskStatus(name="api", used_bytes=here.used, free_bytes=here.free, total_bytes=here.total),
        *([DiskStatus(name="kafka", used_bytes=sum(pipeline.topic_bytes.values()))] if pipeline.topic_bytes else []),
        *disks,
    ]
    decided = [at for at in (services.commands.answered_at, services.accounts.read_at) if at is not None]
    return SystemStatus(
        wrong=wrong_with(parts, pipeline.workers, settings.partitions, disks, len(services.drift.drift_microcredits)),
        version=version("meterline"),
        clickhouse_version=clickhouse_version,
        api_name=settings.api_name,
        up_since=utc(services.started_at_ms),
        parts=parts,
        workers=sorted(pipeline.workers, key=lambda worker: worker.name),
        historians=pipeline.historians,
        cashiers=1 if services.cashier is not None else pipeline.cashiers,
        couriers=pipeline.couriers,
        partitions=settings.partitions,
        lags=[
            LagStatus(
                topic=name,
                records=flow.records,
                oldest_seconds=round(flow.waiting_seconds(now)),
                still_seconds=round(flow.still_seconds(now)),
            )
            for name, flow in pipeline.flows.items()
        ],
        accounts_lag_seconds=round(max(services.accounts.lags().values(), default=0.0)),
        last_decision_seconds=round(now - max(decided)) if decided else None,
        worker_starts=pipeline.members.joins,
        balances_checked=services.drift.projects_checked,
        drifting_projects=len(services.drift.drift_microcredits),
        disks=disks,
    )


def wrong_with(
    parts: Collection[PartStatus],
    workers: Collection[WorkerStatus],
    partitions: int,
    disks: Collection[DiskStatus],
    drifting: int,
) -> list[str]:
    """Say what is wrong, a sentence each, the worst first; nothing where all is well."""
    wrong = [f"{part.name}: {part.why}" for part in parts if not part.is_ready]
    owned = {number for worker in workers for number in worker.partitions}
    without = sorted(set(range(partitions)) - owned)
    # Where no worker is there, the part says so.
    if workers and without:
        wrong.append(f"no worker decides partition {', '.join(map(str, without[:20]))}{'…' if without[20:] else ''}")
    if drifting:
        wrong.append(f"balances of {drifting} projects differ from the history: run `meterline verify`")
    for disk in disks:
        if disk.free_bytes is None or disk.total_bytes is None:
            continue
        needed = max(FREE_BYTES_MIN, min(FREE_SHARE_MIN * disk.total_bytes, FREE_BYTES_ENOUGH))
        if disk.free_bytes < needed and disk.total_bytes:
            wrong.append(f"the disk of {disk.name} is nearly full: {disk.free_bytes / 1024**3:.1f} GiB are free")
    return wrong
