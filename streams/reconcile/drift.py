"""The drift check goes on for ever: a few projects at a time, does their history add up to their balances?

`meterline verify` compares everything, once. The drift check compares accounts with ClickHouse only, costs a query
every few seconds, and gets round all projects in time. Its figures are on `/metrics`.
"""

from __future__ import annotations

import asyncio
import logging
import time
from dataclasses import dataclass, field
from itertools import islice

from clickhouse_connect.driver.exceptions import OperationalError

from streams.clickhouse.client import ClickHouse, ClickHouseError
from streams.clickhouse.limits import LONG
from streams.state.accounts_view import AccountsView

log = logging.getLogger(__name__)

EVERY_SECONDS = 10.0
PROJECTS_AT_ONCE = 500
# History follows the accounts; a fact that it has not got after this long is missing.
GRACE_SECONDS = 120.0

_SQL = """
SELECT project, toInt64(sum(amount)) FROM facts
WHERE project IN {projects:Array(String)}
AND offset <= transform(project, {projects:Array(String)}, {offsets:Array(UInt64)}, toUInt64(0))
GROUP BY project
"""


@dataclass(frozen=True, slots=True)
class _Snapshot:
    """The balance of an account, in microcredits, once the intake record at `offset` was applied."""

    offset: int
    microcredits: int
    taken_at: float


@dataclass(slots=True)
class DriftCheck:
    """A DriftCheck compares balances with history. `drift_microcredits` has, by project, the difference that lasts too
    long."""

    accounts: AccountsView
    clickhouse: ClickHouse
    grace_seconds: float = GRACE_SECONDS
    projects_checked: int = 0
    passes: int = 0
    failures: int = 0
    drift_microcredits: dict[str, int] = field(default_factory=dict)
    _suspects: dict[str, _Snapshot] = field(default_factory=dict)
    _after: str = ""

    async def run(self) -> None:
        """Check for ever. A check that fails is counted, and the next one is tried."""
        while True:
            await asyncio.sleep(EVERY_SECONDS)
            if not self.accounts.is_ready:
                continue
            try:
                await self.check_some()
            except asyncio.CancelledError:
                raise
            except (ClickHouseError, OperationalError) as error:
                self.failures += 1
                log.warning("balances could not be compared with the history: %s", error)
            except Exception:
                self.failures += 1
                log.exception("balances could not be compared with the history")

    async def check_some(self, count: int = PROJECTS_AT_ONCE) -> None:
        """Compare `count` projects: those that did not agree before, then the next in line."""
        now = time.monotonic()
        snapshots = dict(self._suspects)
        # Where the history is far behind, the projects that wait for it are enough to ask for at once.
        if (room := count - len(snapshots)) > 0:
            snapshots = self._next_snapshots(room, now) | snapshots
        if snapshots:
            self._judge(snapshots, await asyncio.to_thread(self._history, snapshots), now)

    def _next_snapshots(self, count: int, now: float) -> dict[str, _Snapshot]:
        accounts = list(islice(self.accounts.after(self._after), count))
        self._after = accounts[-1].project if accounts else ""
        self.passes += not accounts
        return {
            account.project: _Snapshot(account.last_offset, sum(grant.remaining for grant in account.grants), now)
            for account in accounts
        }

    def _history(self, snapshots: dict[str, _Snapshot]) -> dict[str, int]:
        parameters = {"projects": list(snapshots), "offsets": [each.offset for each in snapshots.values()]}
        return {row[0]: int(row[1]) for row in self.clickhouse.limited(LONG).query(_SQL, parameters)}

    def _judge(self, snapshots: dict[str, _Snapshot], history: dict[str, int], now: float) -> None:
        for project, snapshot in snapshots.items():
            drift = snapshot.microcredits - history.get(project, 0)
            if not drift:
                self._suspects.pop(project, None)
                self.drift_microcredits.pop(project, None)
                self.projects_checked += 1
                continue
            # The snapshot stays: the history must come to agree with this snapshot, not with a newer one.
            self._suspects[project] = snapshot
            if now - snapshot.taken_at >= self.grace_seconds and project not in self.drift_microcredits:
                self.drift_microcredits[project] = drift
                log.error(
                    "project %s: its balance is %+d microcredits off its history at offset %d; run `meterline verify`",
                    project,
                    drift,
                    snapshot.offset,
                )
