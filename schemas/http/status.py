"""The state of the whole system over HTTP (/v1/admin/status), for operators."""

from __future__ import annotations

from datetime import datetime

from pydantic import BaseModel, Field

from schemas.http.common import at_most

WORKERS_SHOWN_MAX = 1_024
PARTITIONS_MAX = 1_024
PARTS_MAX = 10


class PartStatus(BaseModel):
    """A part of Meterline: whether it can do its work, and why not."""

    name: str = Field(examples=["kafka", "worker", "accounts", "history"])
    is_ready: bool
    why: str = Field(description="Empty where it can")


class WorkerStatus(BaseModel):
    """A worker in its group, with the partitions of intake that it decides."""

    name: str = Field(description="METERLINE_WORKER_NAME")
    version: str = Field(description="Empty where the worker does not tell")
    host: str
    partitions: list[int] = at_most(PARTITIONS_MAX)


class LagStatus(BaseModel):
    """A topic's readers: how many records they have yet to take, and for how long."""

    topic: str = Field(examples=["usage", "intake", "journal", "dead_letters", "notices"])
    records: int
    oldest_seconds: int = Field(description="How long the oldest of them has waited")
    still_seconds: int = Field(description="How long none was taken while some wait")


class DiskStatus(BaseModel):
    """A disk, or the part of one that something takes."""

    name: str = Field(examples=["api", "kafka", "clickhouse default"])
    used_bytes: int | None = None
    free_bytes: int | None = None
    total_bytes: int | None = None


class SystemStatus(BaseModel):
    """The state of the system, as this API process sees it from beside the flow. `wrong` is empty where all is well."""

    wrong: list[str] = at_most(20)
    version: str = Field(description="Of the API process that answers")
    clickhouse_version: str | None = Field(description="Null where it can't be asked")
    api_name: str
    up_since: datetime
    parts: list[PartStatus] = at_most(PARTS_MAX)
    workers: list[WorkerStatus] = at_most(WORKERS_SHOWN_MAX)
    historians: int = Field(description="Members of the group that writes the journal into ClickHouse")
    cashiers: int
    couriers: int
    partitions: int
    lags: list[LagStatus] = at_most(PARTS_MAX)
    accounts_lag_seconds: int = Field(description="How old this process's copy of the accounts may be")
    last_decision_seconds: int | None = Field(description="Since a decision was last seen here; null where none was")
    worker_starts: int = Field(
        description="Workers that joined since this API looks: more than you started are restarts"
    )
    balances_checked: int = Field(description="Balances that this process has compared with the history")
    drifting_projects: int = Field(description="Projects whose balance and history differ; `meterline verify` says how")
    disks: list[DiskStatus] = at_most(20)
