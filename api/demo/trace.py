"""Traces: recorded LLM requests, and the rule by which they become usage events.

A trace is a CSV with the columns TIMESTAMP, ContextTokens, GeneratedTokens (the shape of the Azure LLM inference
traces). A row becomes an event like this:

* operation, by the tokens that the model wrote: fewer than 20 is a `chat.message`, fewer than 50 a `page.edit`, 120 a
  `social_post` (with an image where the prompt has 4,000 tokens or more), 240 a `translation` (into one language for
  every 2,000 prompt tokens, at least one, at most eight), 480 a `content_plan`, 800 a `blog_post`, more a `website`;
* project: row number modulo the number of projects, by a fixed stride, so that neighbours go to different ones; the
  first tenth of the projects get half of the rows, as busy customers do;
* customer: one of seven per project, in `metadata.customer_id`; the prompt's size is in `metadata.context_tokens`;
* (source, id): the file's content hash and the row number, so that the same file sent twice bills once;
* time: the row's, shifted so that the last row is now.
"""

from __future__ import annotations

import csv
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from hashlib import sha256
from pathlib import Path
from typing import Any

from schemas.events import UsageEvent
from schemas.times import in_utc
from streams.client.producer import usage_event
from streams.core.foreign import why_unreadable
from streams.errors import OperatorError

BUNDLED_TRACE = Path(__file__).parent / "data" / "azure_llm_code_2023.csv"
COLUMNS = ("TIMESTAMP", "ContextTokens", "GeneratedTokens")
PLAN_CYCLE = ("free", "free", "free", "hobby", "hobby", "build", "free", "hobby", "scale", "enterprise")


class TraceError(OperatorError):
    """The file is not a trace; the message names the line and what is wrong with it."""


@dataclass(frozen=True, slots=True)
class TraceRow:
    """A recorded request: when it came, and how many tokens it read and wrote."""

    at: datetime
    context_tokens: int
    generated_tokens: int


@dataclass(frozen=True, slots=True)
class Trace:
    """A trace: the rows of a file, in order, and a name that follows from the file's content alone."""

    name: str
    rows: list[TraceRow]


def read_trace(path: Path) -> Trace:
    """Read a trace from a file. Raises TraceError."""
    try:
        content = path.read_bytes()
    except OSError as error:
        raise TraceError(f"{path} can't be read: {error.strerror}") from None
    try:
        text = content.decode("utf-8-sig")
    except ValueError:
        raise TraceError(f"{path} is not UTF-8 text") from None
    reader = csv.DictReader(text.splitlines())
    missing = [column for column in COLUMNS if column not in (reader.fieldnames or ())]
    if missing:
        raise TraceError(f"{path}: no column {', '.join(missing)}; a trace has {', '.join(COLUMNS)}")
    try:
        rows = [_row_of(record) for record in reader]
    except Exception as error:
        raise TraceError(f"{path}, line {reader.line_num}: {why_unreadable(error)}") from None
    if not rows:
        raise TraceError(f"{path} has no rows")
    return Trace(f"trace-{sha256(content).hexdigest()[:12]}", rows)


def _row_of(record: dict[str, str]) -> TraceRow:
    at = datetime.fromisoformat(record["TIMESTAMP"][:26])
    return TraceRow(in_utc(at), int(record["ContextTokens"]), int(record["GeneratedTokens"]))


def projects_of(trace_name: str, count: int) -> list[tuple[str, str]]:
    """The projects that a replay uses, as (id, plan): every plan occurs, free most often."""
    return [(f"demo_{trace_name[6:12]}_{number:04d}", PLAN_CYCLE[number % len(PLAN_CYCLE)]) for number in range(count)]


def events_of(trace: Trace, projects: list[str], now: datetime, rounds: int = 1) -> Iterator[UsageEvent]:
    """The usage events of a trace, `rounds` times over, in each round under new ids. All bear the time `now`: what is
    from before a project was opened is refused, and those of a replay were opened a moment ago."""
    busy = max(1, len(projects) // 10)
    for turn in range(rounds):
        for number, row in enumerate(trace.rows):
            place = number * 7919 + turn * 31
            project = projects[place % busy if number % 2 else place % len(projects)]
            operation, details = _operation(row)
            yield usage_event(
                project,
                operation,
                id=f"{turn}-{number}",
                source=f"/{trace.name}",
                time=_rfc3339(now),
                metadata={"customer_id": f"customer-{place % 7}", "context_tokens": row.context_tokens},
                **details,
            )


def _operation(row: TraceRow) -> tuple[str, dict[str, Any]]:
    written = row.generated_tokens
    if written < 20:
        return "chat.message", {}
    if written < 50:
        return "page.edit", {}
    if written < 120:
        return "social_post", {"media_type": "image"} if row.context_tokens >= 4000 else {}
    if written < 240:
        return "translation", {"target_languages": min(8, max(1, row.context_tokens // 2000))}
    if written < 480:
        return "content_plan", {}
    return ("blog_post" if written < 800 else "website"), {}


def _rfc3339(at: datetime) -> str:
    return at.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
