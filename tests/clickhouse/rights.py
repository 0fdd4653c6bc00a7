"""A program that asks an engine of its own as an analyst would: `python -m tests.clickhouse.rights CONFIG DIRECTORY`.

The embedded engine keeps no users that SQL makes. So its one user is given, by its configuration, what an analyst is
given, and asks after it has dropped the role that may do all. Prints a JSON list: each answer's rows, or its error.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import msgspec

from streams.clickhouse import client
from streams.clickhouse.client import ClickHouse, Pack
from streams.clickhouse.delivery_sink import delivery_sink
from streams.clickhouse.historian import dead_letter_sink, journal_sink
from streams.clickhouse.migrations import migrate
from streams.kafka.clock import now_ms
from streams.settings import Settings

QUESTIONS = {
    "facts": "SELECT DISTINCT project FROM facts",
    "count": "SELECT count() FROM facts",
    "newest": "SELECT max(booked_at) < '2026-02-01' FROM facts",
    "usage": "SELECT project, sum(credits) FROM usage GROUP BY project",
    "charges": "SELECT project, count() FROM charges GROUP BY project",
    "ledger_entries": "SELECT project, sum(amount) FROM ledger_entries GROUP BY project",
    "backfilled": "SELECT project, count() FROM backfilled GROUP BY project",
    "erasures": "SELECT count() FROM erasures",
    "dead_letters": "SELECT project, count() FROM dead_letters GROUP BY project",
    "deliveries": "SELECT project, count() FROM deliveries GROUP BY project",
    # What projections have: one by project, one without it, and the marks.
    "by_project": "SELECT project, t, sum(amount) FROM facts GROUP BY project, t",
    "by_operation": "SELECT t, operation, sum(amount) FROM facts GROUP BY t, operation",
    "marks": "SELECT partition, max((offset, position)) FROM facts GROUP BY partition",
    "another's": "SELECT count() FROM facts WHERE project = 'beta' OR 1",
    "answers": "SELECT count() FROM answers",
    "schema_migrations": "SELECT count() FROM schema_migrations",
    "merge": "SELECT count() FROM merge('default', 'facts')",
    "projection": "SELECT * FROM mergeTreeProjection('default', 'facts', 'sums_by_project')",
    "insert": "INSERT INTO facts (project) VALUES ('beta')",
    "delete": "ALTER TABLE facts DELETE WHERE 1",
    "drop": "DROP TABLE facts",
    "user": "CREATE USER eve",
}


def main(config: Path, directory: Path) -> None:
    """Make a history of two projects, and ask."""
    client.EMBEDDED_CONFIG = config
    clickhouse = ClickHouse(Settings(data_dir=directory, clickhouse_url=None))
    migrate(clickhouse)
    # Of January, and of February.
    for number, (project, at_ms) in enumerate((("acme", 1_767_700_000_000), ("beta", 1_770_400_000_000))):
        fact = {"kind": "charge", "operation": "image", "amount": -32_000_000, "quantity": 1, "source": "/edge"}
        _insert(clickhouse, journal_sink, fact | {"project": project, "offset": number, "booked_at": at_ms}, number)
        letter = {"event": json.dumps({"subject": project}), "received_at": at_ms, "offset": number}
        _insert(clickhouse, dead_letter_sink, letter, number)
        attempt = {"id": f"whe_1.ntc-0-1-0.{number}", "project": project, "sent_at": now_ms() - number}
        _insert(clickhouse, delivery_sink, attempt, number)
        old = "INSERT INTO backfilled (project, quantity, amount, occurred_at) VALUES"
        clickhouse.command(f"{old} ('{project}', 1, -7000000, '2020-01-01')")
    connection = clickhouse.engine_connection()
    connection.query("SET ROLE NONE")
    answers: dict[str, object] = {}
    for name, question in QUESTIONS.items():
        try:
            text = connection.query(question, "JSONCompactEachRow").bytes().decode()
            answers[name] = [json.loads(line) for line in text.splitlines()]
        except Exception as error:
            answers[name] = str(error).partition("\n")[0]
    print(json.dumps(answers))


def _insert(clickhouse, sink_of, row, number) -> None:  # type: ignore[no-untyped-def]
    sink = sink_of(Settings())
    values = [row.get(name, "" if kind == "String" else 0) for name, kind in sink.columns.items()]
    pack = Pack((0, number), msgspec.msgpack.encode([values]), 1)
    clickhouse.insert_packs(sink.table, sink.shared, sink.columns, [pack])


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
