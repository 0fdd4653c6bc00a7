"""The display of a replay in a terminal: live counts while it runs, a report when it is done."""

from __future__ import annotations

import json
import time
from datetime import datetime
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.live import Live
from rich.table import Table
from rich.text import Text

from api.demo.replay import Progress, Report


class Display:
    """A display shows a replay's live counts on the console; nothing at all if `quiet`."""

    def __init__(self, console: Console, progress: Progress, *, quiet: bool) -> None:
        self._console = console
        self._progress = progress
        self._quiet = quiet
        self._live: Live | None = None
        self._began_at: float | None = None

    def tell(self, text: str) -> None:
        """Print a line about what is happening."""
        if not self._quiet:
            self._console.print(Text(text, "dim"), soft_wrap=True)

    def update(self) -> None:
        """Show the counts as they are now."""
        if self._quiet:
            return
        if self._live is None:
            self._live = Live(console=self._console, refresh_per_second=8, transient=True)
            self._live.start()
        if self._began_at is None and self._progress.sent:
            self._began_at = time.monotonic()
        self._live.update(self._table())

    def stop(self) -> None:
        """Take the live counts off the console."""
        if self._live is not None:
            self._live.stop()
            self._live = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def _table(self) -> Table:
        progress = self._progress
        table = Table.grid(padding=(0, 3))
        table.add_row(progress.stage, f"sent {progress.sent:,}", f"acknowledged {progress.acknowledged:,}")
        rate = progress.decided / (time.monotonic() - self._began_at) if self._began_at else 0.0
        table.add_row("in ClickHouse", f"billed {progress.billed:,}", f"refused {progress.refused:,}")
        table.add_row(
            f"{rate:,.0f} events/s", f"duplicate {progress.duplicate:,}", f"dead-lettered {progress.dead_lettered:,}"
        )
        return table


def print_report(console: Console, report: Report, url: str) -> None:
    """Print a replay's report for a person to read."""
    console.print(Text(f"\n{report.events_sent:,} events of {report.projects} projects", "bold"))
    counts = Table.grid(padding=(0, 2))
    counts.add_column(justify="right")
    for number, meaning in (
        (f"{report.events_billed:,}", "billed"),
        (f"{report.events_refused:,}", "refused: out of credits"),
        (f"{report.events_duplicate:,}", "duplicates, billed before"),
        (f"{report.events_dead_lettered:,}", "dead-lettered, with the reason"),
        (f"{report.ledger_entries_in_clickhouse:,}", "ledger entries in ClickHouse"),
        (f"{report.balance_drift_microcredits:,}", "microcredits of drift between balances and ledger"),
        (f"{report.events_per_second:,.0f}", "events a second, from the producer into ClickHouse"),
    ):
        counts.add_row(number, meaning)
    console.print(counts)
    console.print(Text("\nBalances of three projects, in credits", "bold"))
    budgets = _plain_table("project", "plan", "available", "allowance", "renews")
    for balance in report.balances:
        allowance = balance["allowance"] or {"granted": "0", "renews_at": ""}
        budgets.add_row(
            balance["project"],
            balance["plan"],
            balance["available"],
            allowance["granted"],
            allowance["renews_at"][:10],
        )
    console.print(budgets)
    console.print(Text(f"\nUsage of {report.usage_project} by customer", "bold"))
    customers = _plain_table("customer", "uses", "credits")
    for row in report.usage_by_customer:
        customers.add_row(row["group"]["customer_id"] or "(none)", f"{row['uses']:,}", row["credits"])
    console.print(customers)
    if report.first_refusal is not None:
        console.print(Text("\nWhat the first project that ran out of credits is answered", "bold"))
        console.print_json(json.dumps(report.first_refusal))
    if report.notices:
        console.print(Text(f"\nWhat a webhook of {report.usage_project} heard, each verified", "bold"))
        notices = _plain_table("notice", "available", "at", "seconds to arrive")
        for told in report.notices:
            at = datetime.fromisoformat(told["timestamp"])
            seconds = f"{told['heard_at'] - at.timestamp():.1f}"
            notices.add_row(told["type"], str(told["data"].get("available", "")), f"{at:%H:%M:%S}", seconds)
        console.print(notices)
    console.print(
        f"\nFirst charge {report.seconds_to_first_charge:.1f} s after the start. The API was at {url}, its documents "
        f"at {url}/docs; `meterline demo --stay` keeps them up.",
        soft_wrap=True,
    )


def _plain_table(*headings: str) -> Table:
    table = Table(box=None, padding=(0, 3, 0, 0), header_style="dim")
    for heading in headings:
        table.add_column(heading)
    return table
