"""`meterline erase` on the whole stack: who is erased is nowhere named, and every figure is as it was."""

from __future__ import annotations

import asyncio
import json
import secrets
from typing import Any

import pytest

from api.stack import Stack
from streams.clickhouse.client import ClickHouse
from streams.reconcile.verify import verify
from tests.api.test_dead_letters import send
from tests.calls import Operator, event, eventually
from tests.command_line import Meterline


def test_a_customer_is_erased_from_a_live_history(
    stack: Stack, operator: Operator, meterline: Meterline, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("METERLINE_DATA_DIR", str(stack.settings.data_dir))
    project, client = operator.customer("hobby")
    ann, bob = (f'{name}\'s "{secrets.token_hex(4)}" ✓' for name in ("ann", "bob"))
    for number, name in enumerate([ann, bob, ann]):
        use = {"operation": "image", "source": "/t", "id": f"e{number}", "metadata": {"customer_id": name}}
        assert client.post("/v1/admissions", json=use).json()["allowed"]
    job = {"operation": "image", "source": "/t", "id": "job", "job_id": "j", "hold": True}
    held = client.post("/v1/admissions", json=job | {"metadata": {"customer_id": ann}}).json()["hold_id"]
    wrong = [
        json.dumps(event(project, name, "nothing", metadata={"customer_id": name})).encode() for name in (ann, bob)
    ]

    send(stack, *wrong)
    letters = f"SELECT count() FROM dead_letters WHERE project = '{project}'"
    eventually(lambda: operator.rows(stack.clickhouse_url, letters) == [["2"]])
    sums = f"SELECT operation, kind, sum(amount), sum(quantity), count() FROM facts WHERE project = '{project}' "
    sums += "AND kind != 'request' AND kind != 'erasure' GROUP BY ALL ORDER BY ALL"

    def erase(*options: str) -> Any:
        done = meterline("erase", "--project", project, *options, "--json")
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    told = erase("--customer", ann, "--dry-run")
    assert (told["entry_id"], told["facts_left"], told["dead_letters_left"], told["done"]) == (None, 3, 1, False)
    before = operator.rows(stack.clickhouse_url, sums)
    done = erase("--customer", ann, "--reason", "asked to", "--yes")
    assert (done["facts_left"], done["dead_letters_left"], done["done"]) == (0, 0, True) and done["entry_id"]
    assert erase("--customer", ann)["entry_id"] is None, "nothing is left to erase, so nobody is asked"

    assert operator.rows(stack.clickhouse_url, sums) == before
    assert client.post(f"/v1/holds/{held}/capture", json={}).status_code == 200
    everything = f"SELECT * FROM facts WHERE project = '{project}' FORMAT JSONEachRow"
    eventually(lambda: any("captured" in row[0] for row in operator.rows(stack.clickhouse_url, everything)))
    rows = str(operator.rows(stack.clickhouse_url, everything.replace("*", "metadata, customer_id, event_id, job_id")))
    assert ann.split('"')[1] not in rows and bob.split('"')[1] in rows
    rows = str(operator.rows(stack.clickhouse_url, f"SELECT event FROM dead_letters WHERE project = '{project}'"))
    # As event ids they stay: they name the event. A customer's name does not belong there.
    assert rows.count(ann.split('"')[1]) == 1 and rows.count(bob.split('"')[1]) == 2
    groups = client.get("/v1/usage", params={"group_by": "customer_id"}).json()
    assert {row["group"]["customer_id"]: row["uses"] for row in groups["rows"]} == {"": 3, bob: 1}
    receipt = client.get("/v1/receipts", params={"event_id": "e0"}).json()
    assert ann not in json.dumps(receipt)
    entries = operator.http.get("/v1/audit", params={"project": project, "kind": "projects"}).json()["entries"]
    (entry,) = [each for each in entries if each["action"].startswith("erasure")]
    assert (entry["action"], entry["entry_id"]) == ("erasure.customer", done["entry_id"])
    assert "asked to" in entry["detail"] and entry["actor"].startswith("admin:") and ann not in json.dumps(entry)
    clickhouse = ClickHouse(stack.settings.model_copy(update={"clickhouse_url": stack.clickhouse_url}))
    verdict = asyncio.run(verify(stack.settings, clickhouse))
    assert verdict.ok, verdict.differences

    for options, code, sentence in (
        (["--project", project, "--customer", "nobody", "--yes"], 1, "names this customer"),
        (["--project", "prj_nowhere", "--yes"], 1, "prj_nowhere"),
        (["--project", project, "--customer", "", "--yes"], 2, "name a customer"),
        (["--project", project], 2, "--yes"),
    ):
        failed = meterline("erase", *options)
        assert failed.returncode == code and sentence in failed.stderr, failed
    assert erase("--yes")["done"]
    rows = str(operator.rows(stack.clickhouse_url, f"SELECT metadata FROM facts WHERE project = '{project}'"))
    assert "customer_id" not in rows
    url = f"/v1/admin/projects/{project}/erasures/"
    for wrong_id in ("0-1-1", "x", f"recharge-{done['entry_id']}", "0-1-99999999999"):
        assert operator.http.get(url + wrong_id).json()["code"] == "unknown_receipt"
