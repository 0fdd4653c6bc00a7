"""The conformance cases of prices hold by HTTP, on the whole stack."""

import json
from decimal import Decimal
from pathlib import Path

import pytest

from tests.calls import Operator, eventually

CASES = json.loads((Path(__file__).parent.parent / "conformance" / "pricing.json").read_text())["cases"]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case["name"])
def test_conformance_prices(operator: Operator, case: dict) -> None:
    project, client = operator.customer(case.get("plan", "scale"))
    answers = [client.post("/v1/admissions", json=data) for data in case["usage"]]
    if "error" in case:
        (answer,) = answers
        assert (answer.status_code, answer.json()["code"]) == (case["error"]["status"], case["error"]["code"])
        return
    assert sum(Decimal(answer.json()["credits"]) for answer in answers) == Decimal(case["total"])

    def charged() -> list[Decimal]:
        entries = client.get("/v1/ledger").json()["entries"]
        return [-Decimal(entry["amount"]) for entry in reversed(entries) if entry["kind"] == "charge"]

    eventually(lambda: sum(charged()) == Decimal(case["total"]))
    if "lines" in case:
        assert charged() == [Decimal(line) for line in case["lines"]]
