"""`meterline bench dashboard` measures what it says, tried on a small history with few streams."""

from __future__ import annotations

from typing import Any

import pytest

from tests.benchmarks.dashboard.run import PAGE_BYTES_GOAL, QUICK, measure, passed, targets
from tests.dashboard.walked import WALKED


@pytest.mark.benchmark
@pytest.mark.timeout(600)
def test_pages_rows_and_streams_are_measured(chromium: str) -> None:
    result = measure(QUICK, lambda _text: None)
    assert passed(result), result
    assert result["rows"] == QUICK.rows
    for page in result["pages"]:
        paint = page["first_paint_with_data_ms"]
        assert 0 < page["first_byte_ms_p50"] < page["first_paint_ms_p50"]
        assert page["first_paint_ms_p50"] <= paint["p50"] <= paint["max"]
    assert "/dashboard" in {page["path"] for page in result["pages"]}
    assert list(result["page_bytes"]) == [page.name for page in WALKED[: QUICK.pages_weighed]]
    assert all(1000 < size < PAGE_BYTES_GOAL for size in result["page_bytes"].values())
    rows = result["decision_to_row"]
    assert (rows["decisions"], rows["missed"]) == (QUICK.decisions, 0)
    assert 0 < rows["ms"]["p50"] <= rows["ms"]["p95"] <= rows["ms"]["p100"]
    streams = result["streams"]
    assert streams["open"] == QUICK.streams
    assert list(streams["told"]) == list(streams["api_percent_of_a_core"]) == ["idle", "flowing", "flowing fast"]
    idle, flowing, _ = streams["told"].values()
    assert idle["entries"] == idle["events_per_second"] == 0 < flowing["entries"]
    assert flowing["events_per_second"] > 50 and 0 < flowing["p50_ms"] <= flowing["p95_ms"]
    for level in result["admissions"]["levels"].values():
        assert set(level["answers"]) == {"200"} and 0 < level["p50_ms"] <= level["p99_ms"]


def made_up(**changes: Any) -> dict[str, Any]:
    """A result that reaches every target, with changes."""
    page = {"status": 200, "faults": [], "first_paint_with_data_ms": {"p50": 499.9, "max": 900.0}}
    return {
        "pages": [page],
        "page_bytes": {"key:/": PAGE_BYTES_GOAL},
        "decision_to_row": {"missed": 0, "ms": {"p95": 999.9}},
        "streams": {
            "api_percent_of_a_core": {"idle": {"by_streams": 19.9}, "flowing": {"by_streams": 19.9}},
        },
        "admissions": {"p99 with/without": 1.1},
        **changes,
    }


def test_the_targets_are_those_of_the_result() -> None:
    assert all(targets(made_up()).values()) and passed(made_up())
    page = made_up()["pages"][0]
    for changes in (
        {"pages": [page, page | {"first_paint_with_data_ms": {"p50": 500.0, "max": 500.0}}]},
        {"page_bytes": {"key:/": PAGE_BYTES_GOAL + 1, "admin:/": 1}},
        {"decision_to_row": {"missed": 0, "ms": {"p95": 1000.0}}},
        {"decision_to_row": {"missed": 0, "ms": {"p95": None}}},
        {"admissions": {"p99 with/without": 1.11}},
    ):
        assert list(targets(made_up(**changes)).values()).count(False) == 1, changes
    assert not passed(made_up(pages=[page | {"status": 404}]))
    assert not passed(made_up(pages=[page | {"faults": ["console error: x"]}]))
    assert not passed(made_up(decision_to_row={"missed": 1, "ms": {"p95": 1.0}}))
